"""Episodes as tables with one named column per number: parquet and CSV, through pyarrow."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.data.sinks import D4RL, NOTHING, Arrays, FileSink, load_json, need, rows_of
from dosing.errors import UserError
from dosing.safety import LIMITED_BY

KEY = b"dosing"
"""Our metadata in the footer of a parquet file."""
_CSV_MARK = "# dosing "


class ParquetSink(FileSink):
    """One named column per number; metadata in the file footer."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        """Open the file."""
        self._parquet = need("pyarrow.parquet", "parquet")
        super().__init__(path)
        self._metadata, self._writer = metadata, NOTHING

    def append(self, arrays: Arrays) -> None:
        """Write one row group."""
        table = _table(arrays, self._metadata)
        if self._writer is NOTHING:
            self._writer = self._parquet.ParquetWriter(
                self.partial, table.schema, use_dictionary=["limited_by"], compression="snappy"
            )
        self._writer.write_table(table)

    def finish(self, metadata: dict[str, Any]) -> None:
        """Write the footer and move the file into place."""
        self._writer.add_key_value_metadata({KEY: json.dumps(metadata)})
        self._writer.close()
        self.replace()


def own_parquet(path: Path) -> bool:
    """Whether a file was made by this program."""
    return KEY in (need("pyarrow.parquet", "parquet").read_metadata(path).metadata or {})


def read_parquet(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Return all arrays and the metadata of one file."""
    parquet = need("pyarrow.parquet", "parquet")
    with parquet.ParquetFile(path) as file:  # this one file; read_table would also take a folder of them
        table, stored = file.read(), file.metadata.metadata or {}
    if KEY not in stored:
        raise UserError(f"{path} is a parquet file of another program: it has no {KEY.decode()!r} metadata")
    metadata = load_json(stored[KEY], path)
    return arrays_of(table, metadata), metadata


class CsvSink(FileSink):
    """A first line ``# dosing {metadata}``, a header, one line per visit, floats in shortest exact form."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        """Open the file; the metadata go in front when it is finished."""
        self._csv = need("pyarrow.csv", "CSV")
        super().__init__(path)
        self._metadata, self._writer = metadata, NOTHING
        self._rows = rows_of(self.partial)

    def append(self, arrays: Arrays) -> None:
        """Write the lines of these rows."""
        table = _table(arrays, self._metadata)
        index = table.column_names.index("limited_by")
        table = table.set_column(index, "limited_by", table.column("limited_by").cast("string"))
        if self._writer is NOTHING:
            self._writer = self._csv.CSVWriter(self._rows, table.schema)
        self._writer.write_table(table)

    def finish(self, metadata: dict[str, Any]) -> None:
        """Put the metadata in front of the rows and move the file into place."""
        self._writer.close()
        with self.partial.open("wb") as out, self._rows.open("rb") as rows:
            out.write(_CSV_MARK.encode() + json.dumps(metadata).encode() + b"\n")
            shutil.copyfileobj(rows, out, 1 << 20)
        self._rows.unlink()
        self.replace()


def own_csv(path: Path) -> bool:
    """Whether a file was made by this program."""
    with path.open("rb") as file:
        return file.read(len(_CSV_MARK)) == _CSV_MARK.encode()


def read_csv(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Return all arrays and the metadata of one file."""
    csv, pa = need("pyarrow.csv", "CSV"), need("pyarrow", "CSV")
    with path.open("rb") as file:
        line = file.readline()
    if not line.startswith(_CSV_MARK.encode()):
        raise UserError(
            f"{path} is a CSV file of another program: its first line does not begin {_CSV_MARK!r}"
        )
    metadata = load_json(line[len(_CSV_MARK) :], path)
    kinds = {"limited_by": pa.string(), "episode": pa.int64(), "step": pa.int32()}
    kinds |= {"terminated": pa.bool_(), "truncated": pa.bool_()}
    for name in D4RL:
        for label in _labels(name, _width(name, metadata) or 1, metadata):
            kinds.setdefault(label, pa.float32())
    table = csv.read_csv(
        path,
        read_options=csv.ReadOptions(skip_rows=1),
        convert_options=csv.ConvertOptions(column_types=kinds, null_values=[]),
    )
    return arrays_of(table, metadata), metadata


def _table(arrays: Arrays, metadata: dict[str, Any]) -> Any:
    """Return the rows as a pyarrow table with one named column per number."""
    pa = need("pyarrow", "this format")
    columns: dict[str, Any] = {}
    for name, array in arrays.items():
        labels = _labels(name, array.shape[1] if array.ndim == 2 else 1, metadata)
        for i, label in enumerate(labels):
            column = np.ascontiguousarray(array[:, i] if array.ndim == 2 else array)
            if name == "limited_by":
                columns[label] = pa.DictionaryArray.from_arrays(pa.array(column), pa.array(list(LIMITED_BY)))
            else:
                columns[label] = pa.array(column)
    if len(columns) != sum(a.shape[1] if a.ndim == 2 else 1 for a in arrays.values()):
        raise UserError("observation names must differ from each other")
    return pa.table(columns)


def _labels(name: str, width: int, metadata: dict[str, Any]) -> list[str]:
    """Return the column names of one array."""
    if name in ("obs", "next_obs"):
        entries = metadata.get("obs_names") or [str(i) for i in range(width)]
        return [f"{name}_{entry}" for entry in entries]
    if name in ("act", "act_requested"):
        label = "dose_delivered" if name == "act" else "dose_requested"
        return [label] if width == 1 else [f"{label}_{i}" for i in range(width)]
    return [name]


def arrays_of(table: Any, metadata: dict[str, Any]) -> Arrays:
    """The arrays of a pyarrow table of ours, all rows or some."""
    arrays: Arrays = {}
    for name in D4RL:
        width = _width(name, metadata)
        parts = []
        for label in _labels(name, width or 1, metadata):
            column = table.column(label).combine_chunks()
            if name == "limited_by":
                coded = column if hasattr(column, "dictionary") else column.dictionary_encode()
                codes = np.array(
                    [LIMITED_BY.index(text) for text in coded.dictionary.to_pylist()], dtype=np.int8
                )
                parts.append(codes[_numbers(coded.indices)])
            else:
                parts.append(_numbers(column))
        arrays[name] = np.stack(parts, axis=1) if width else parts[0]
    return arrays


def _numbers(column: Any) -> NDArray[Any]:
    """A pyarrow array without nulls as NumPy's; ``to_numpy`` would import pandas: half a second."""
    if str(column.type) == "bool":
        return np.from_dlpack(column.cast("uint8")).astype(np.bool_)
    return np.from_dlpack(column)


def _width(name: str, metadata: dict[str, Any]) -> int:
    """Return the second axis of an array, 0 if it has one axis only."""
    if name in ("obs", "next_obs"):
        return int(metadata["n_obs"])
    return int(metadata["n_act"]) if name in ("act", "act_requested") else 0
