"""Recorded episodes and the files that keep them: parquet, CSV, HDF5 (D4RL layout) and Minari data sets.

One flat table of M visits in episode-major, time-ordered rows. Every format gives back exactly the arrays
that went in; a SHA-256 over the arrays, the same for every format, is stored with them and checked on
reading. Files are written to a temporary name in the same folder and moved into place when complete.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dosing.data.formats import open_sink, read_arrays
from dosing.data.manifest import changed, is_parts, read_manifest
from dosing.data.metadata import DatasetMetadata
from dosing.errors import UserError

COLUMNS: dict[str, str] = {
    "episode": "<i8",
    "step": "<i4",
    "obs": "<f4",
    "act_requested": "<f4",
    "act": "<f4",
    "limited_by": "|i1",
    "reward": "<f4",
    "cost": "<f4",
    "behaviour_log_prob": "<f4",
    "next_obs": "<f4",
    "terminated": "|b1",
    "truncated": "|b1",
}
"""Every array and its type; obs and next_obs are [M, O], act and act_requested [M, A], the others [M]."""

WIDE = ("obs", "next_obs", "act", "act_requested")


@dataclass(frozen=True)
class Episodes:
    """M visits of one or more episodes, rows in order of episode and time."""

    obs: NDArray[np.float32]
    """Observation before the dose [M, O]."""
    act: NDArray[np.float32]
    """Dose delivered [M, A]."""
    act_requested: NDArray[np.float32]
    """Dose asked for [M, A]."""
    limited_by: NDArray[np.int8]
    """Code into ``dosing.safety.LIMITED_BY`` of the rule that changed the dose, 0 where none did [M]."""
    reward: NDArray[np.float32]
    """Reward of the visit [M]."""
    next_obs: NDArray[np.float32]
    """Observation after the dose [M, O]."""
    terminated: NDArray[np.bool_]
    """The process ended here: nothing follows [M]."""
    truncated: NDArray[np.bool_]
    """Recording ended here: the process would have gone on [M]."""
    cost: NDArray[np.float32]
    """Safety cost of the visit, never part of the reward [M]."""
    behaviour_log_prob: NDArray[np.float32]
    """Log density of the requested dose under the policy that gave it, NaN where unknown [M]."""
    episode: NDArray[np.int64]
    """Patient number [M]."""
    step: NDArray[np.int32]
    """Visit within the episode, from 0 [M]."""
    metadata: DatasetMetadata = field(default_factory=DatasetMetadata)
    """Where the visits come from, names, units and limits."""

    def __post_init__(self) -> None:
        """Refuse arrays of other types or shapes than documented."""
        m = len(self.reward)
        for name, kind in COLUMNS.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != np.dtype(kind):
                raise UserError(
                    f"{name} must be a {np.dtype(kind)} array, got {getattr(array, 'dtype', array)!r}"
                )
            if array.ndim != (2 if name in WIDE else 1) or len(array) != m:
                raise UserError(f"{name} must have {m} rows, got shape {array.shape}")
        if self.obs.shape != self.next_obs.shape or self.act.shape != self.act_requested.shape:
            raise UserError("obs and next_obs, act and act_requested must have the same shapes")

    def __len__(self) -> int:
        """Number of visits M."""
        return len(self.reward)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by name, in the fixed order of ``COLUMNS``."""
        return {name: getattr(self, name) for name in COLUMNS}

    def content_hash(self) -> str:
        """SHA-256 over all arrays, independent of file format and metadata."""
        digest = ContentHash()
        digest.update(self.arrays())
        return digest.hexdigest()


class ContentHash:
    """SHA-256 of the arrays, fed in pieces of rows: the same however the rows are cut."""

    def __init__(self) -> None:
        """Start with no rows."""
        self._columns = {name: hashlib.sha256() for name in COLUMNS}
        self._widths: dict[str, int] = {}

    def update(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Add the next rows."""
        for name, digest in self._columns.items():
            array = np.ascontiguousarray(arrays[name])
            self._widths[name] = array.shape[1] if array.ndim == 2 else 1
            digest.update(array.view(np.uint8).data if array.size else b"")

    def hexdigest(self) -> str:
        """Return the hash of all rows so far."""
        lines = [
            f"{name} {COLUMNS[name]} {self._widths.get(name)} {d.hexdigest()}"
            for name, d in self._columns.items()
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class EpisodeWriter:
    """Writes episodes piece by piece in constant memory; nothing appears under ``path`` before ``close``.

    Use as a context manager: leaving it normally closes the file, leaving it by an exception removes what was
    written. Parquet, CSV and HDF5 stream; Minari streams episode by episode.
    """

    def __init__(self, path: str | Path, metadata: DatasetMetadata) -> None:
        """Open ``path`` for writing; its suffix chooses the format.

        Args:
            path: File ending in .parquet, .csv or .hdf5, or ``minari:namespace/name-v0``.
            metadata: What the file says about itself.

        Raises:
            UserError: If the suffix is unknown, the folder missing or not writable, or a package missing.
        """
        self.metadata = metadata
        self._hash = ContentHash()
        self._rows = 0
        self._path = path
        self._sink = open_sink(path, metadata.to_json())

    def write(self, episodes: Episodes) -> None:
        """Append whole episodes."""
        arrays = episodes.arrays()
        self.metadata = replace(self.metadata, n_obs=episodes.obs.shape[1], n_act=episodes.act.shape[1])
        self._hash.update(arrays)
        self._rows += len(episodes)
        self._try(lambda: self._sink.append(arrays))

    def close(self) -> DatasetMetadata:
        """Complete the file, move it into place and return its final metadata."""
        if not self._rows:
            self._sink.discard()
            raise UserError(f"{self._path} would hold no rows and was not written")
        self.metadata = replace(self.metadata, rows=self._rows, content_hash=self._hash.hexdigest())
        self._try(lambda: self._sink.finish(self.metadata.to_json()))
        return self.metadata

    def _try(self, action: Callable[[], None]) -> None:
        """Turn a full disk and the like into one sentence, and leave nothing half written."""
        try:
            action()
        except OSError as error:
            self._sink.discard()
            raise UserError(f"{self._path} cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close after success, remove the partial file after an exception."""
        if kind is None:
            self.close()
        else:
            self._sink.discard()


def write_episodes(episodes: Episodes, path: str | Path) -> DatasetMetadata:
    """Write ``episodes`` to ``path`` as :class:`EpisodeWriter` does; returns the stored metadata."""
    with EpisodeWriter(path, episodes.metadata) as writer:
        writer.write(episodes)
    return writer.metadata


def read_episodes(path: str | Path) -> Episodes:
    """Read back exactly what was written, to one file or, as a folder, in parts.

    Raises:
        UserError: If the file or a part is missing, of another kind, truncated, of another schema version, or
            if its arrays or its metadata do not match their hashes.
    """
    return _read_parts(Path(path)) if is_parts(path) else _read_file(path)


def read_metadata(path: str | Path) -> DatasetMetadata:
    """What visits say about themselves: of a folder from its manifest, of a file as it is read and checked.

    Raises:
        UserError: as :func:`read_episodes`, but for visits of a part that are not those of its hash.
    """
    return read_manifest(path).metadata if is_parts(path) else _read_file(path).metadata


def _read_parts(folder: Path) -> Episodes:
    """All visits of a data set in parts."""
    manifest = read_manifest(folder)

    def pieces() -> Iterator[Episodes]:
        for part in manifest.parts:
            episodes = _read_file(folder / part.name)
            if episodes.metadata.content_hash != part.content_hash:
                raise changed(folder / part.name)
            yield episodes

    return replace(_joined(pieces()), metadata=manifest.metadata)


def _read_file(path: str | Path) -> Episodes:
    """All visits of one file or Minari data set."""
    arrays, content = read_arrays(path)
    metadata = DatasetMetadata.from_json(content, str(path))
    try:
        typed = {name: np.ascontiguousarray(arrays[name], dtype=kind) for name, kind in COLUMNS.items()}
    except KeyError as error:
        raise UserError(f"{path} lacks the column {error.args[0]!r}") from None
    episodes = Episodes(**typed, metadata=metadata)
    result = episodes.content_hash()
    if (result, len(episodes)) != (metadata.content_hash, metadata.rows):
        raise UserError(
            f"{path} is damaged or was edited: its arrays hash to {result[:12]}..., "
            f"its metadata say {metadata.content_hash[:12]}..."
        )
    return episodes


def concatenate(pieces: Iterable[Episodes], metadata: DatasetMetadata) -> Episodes:
    """Join pieces of rows into one, with ``metadata`` completed by rows, widths and content hash."""
    whole = _joined(pieces)
    complete = replace(
        metadata,
        rows=len(whole),
        content_hash=whole.content_hash(),
        n_obs=whole.obs.shape[1],
        n_act=whole.act.shape[1],
    )
    return replace(whole, metadata=complete)


def _joined(pieces: Iterable[Episodes]) -> Episodes:
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in COLUMNS}
    for piece in pieces:
        for name, array in piece.arrays().items():
            columns[name].append(array)
    joined: dict[str, Any] = {name: np.concatenate(columns.pop(name)) for name in COLUMNS}
    return Episodes(**joined)
