"""Row groups of a data set in parts, read one at a time in any order."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from dosing.data.formats import guarded
from dosing.data.manifest import read_manifest
from dosing.data.sinks import need
from dosing.data.store import COLUMNS, Episodes
from dosing.data.tables import arrays_of
from dosing.errors import UserError

OPEN = 32
"""Most files that are held open: a footer takes about 25 kB of memory per row group."""


class RowGroups:
    """The row groups of a folder, numbered in order of patient; each holds whole patients.

    Attributes:
        folder: the data set.
        manifest: what it says about itself.
        rows: ``[N]`` visits of each group.
        part: ``[N]`` number of the part that holds it.

    Raises:
        UserError: the folder is no complete data set in parts.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        groups = [part.groups for part in self.manifest.parts]
        self.rows = np.concatenate([np.asarray(own, dtype=np.int64) for own in groups])
        self.part = np.repeat(np.arange(len(groups)), [len(own) for own in groups])
        self._within = np.concatenate([np.arange(len(own)) for own in groups])
        self._metadata = self.manifest.metadata.to_json()
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        """Number of groups N."""
        return len(self.rows)

    def read(self, number: int) -> Episodes:
        """The visits of one group.

        Raises:
            UserError: the file was removed or damaged since the manifest was read.
        """
        part, within = int(self.part[number]), int(self._within[number])
        file = self.folder / self.manifest.parts[part].name
        return guarded(file, lambda: self._read(file, part, within))

    def _read(self, file: Path, part: int, within: int) -> Episodes:
        opened = self._open.pop(part, None) or need("pyarrow.parquet", "parquet").ParquetFile(file)
        arrays = arrays_of(opened.read_row_group(within, use_threads=False), self._metadata)
        self._open[part] = opened  # only now: while it is read, it is nobody else's
        if len(self._open) > OPEN:
            self._open.popitem(last=False)[1].close()
        try:
            typed = {name: np.ascontiguousarray(arrays[name], dtype=kind) for name, kind in COLUMNS.items()}
        except KeyError as error:
            raise UserError(f"{file} lacks the column {error.args[0]!r}.") from None
        return Episodes(**typed, metadata=self.manifest.metadata)

    def close(self) -> None:
        """Let the files go."""
        while self._open:
            self._open.popitem()[1].close()
