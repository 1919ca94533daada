"""The four file formats behind ``dosing.data.store``: a sink that takes rows and a reader for each.

pyarrow, h5py and minari are imported only when their format is used.
"""

import importlib
import json
import os
import re
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.errors import UserError
from dosing.safety import LIMITED_BY

_NOTHING: Any = None

MINARI = "minari:"
"""Prefix of a Minari data set id."""

SUFFIXES = (".parquet", ".csv", ".hdf5")

Arrays = dict[str, NDArray[Any]]

_KEY = b"dosing"
_CSV_MARK = "# dosing "

D4RL = {
    "obs": "observations",
    "act": "actions",
    "reward": "rewards",
    "next_obs": "next_observations",
    "terminated": "terminals",
    "truncated": "timeouts",
    "act_requested": "actions_requested",
    "cost": "costs",
    "behaviour_log_prob": "infos/action_log_probs",
    "episode": "infos/episode",
    "step": "infos/step",
    "limited_by": "infos/limited_by",
}
"""Name of each array in the D4RL layout."""


class Sink(ABC):
    """Takes rows and becomes a file or data set when finished."""

    @abstractmethod
    def append(self, arrays: Arrays) -> None:
        """Write the next rows."""

    @abstractmethod
    def finish(self, metadata: dict[str, Any]) -> None:
        """Store the metadata and make the result visible."""

    @abstractmethod
    def discard(self) -> None:
        """Remove what was written."""


def open_sink(path: str | Path, metadata: dict[str, Any]) -> Sink:
    """Open the sink that the suffix or prefix of ``path`` names."""
    if str(path).startswith(MINARI):
        return MinariSink(str(path)[len(MINARI) :], metadata)
    sinks: dict[str, Callable[[Path, dict[str, Any]], Sink]]
    sinks = {".parquet": ParquetSink, ".csv": CsvSink, ".hdf5": Hdf5Sink}
    return sinks[_suffix(path)](Path(path), metadata)


def read_arrays(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Return all arrays and the metadata of a file or Minari data set."""
    if str(path).startswith(MINARI):
        return _read_minari(str(path)[len(MINARI) :])
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".hdf5": _read_hdf5}
    reader = readers[_suffix(path)]
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist or is not a file")
    try:
        return reader(Path(path))
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        UnicodeDecodeError,
    ) as error:  # pyarrow errors are these too
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(f"{path} is truncated or not an episode file of this program ({reason})") from error


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: episodes are kept in {', '.join(SUFFIXES)} or {MINARI}namespace/name-v0")
    return suffix


def _need(module: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"{purpose} needs the package {module.split('.')[0]}, which is not installed"
        ) from None


def _load_json(text: str | bytes, path: Path) -> dict[str, Any]:
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise UserError(f"{path} is not an episode file of this program (its metadata are not a table)")
    return metadata


class FileSink(Sink, ABC):
    """A sink that writes to a temporary name beside its target and moves it into place."""

    def __init__(self, path: Path) -> None:
        """Check the folder and choose the temporary name."""
        if not path.parent.is_dir():
            raise UserError(f"{path} cannot be written: the folder {path.parent} does not exist")
        self.path = path
        self.partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            self.partial.touch()
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None

    def replace(self) -> None:
        """Flush the temporary file to the disk and give it its name, then flush the folder."""
        for target, flags in ((self.partial, os.O_RDWR), (self.path.parent, os.O_RDONLY)):
            handle = os.open(target, flags)
            os.fsync(handle)
            os.close(handle)
            if target is self.partial:
                os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Remove the temporary file."""
        self.partial.unlink(missing_ok=True)


def _table(arrays: Arrays, metadata: dict[str, Any]) -> Any:
    """Return the rows as a pyarrow table with one named column per number."""
    pa = _need("pyarrow", "this format")
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


def _from_table(table: Any, metadata: dict[str, Any]) -> Arrays:
    """Undo ``_table``."""
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
                parts.append(codes[coded.indices.to_numpy(zero_copy_only=False)])
            else:
                parts.append(column.to_numpy(zero_copy_only=False))
        arrays[name] = np.stack(parts, axis=1) if width else parts[0]
    return arrays


def _width(name: str, metadata: dict[str, Any]) -> int:
    """Return the second axis of an array, 0 if it has one axis only."""
    if name in ("obs", "next_obs"):
        return int(metadata["n_obs"])
    return int(metadata["n_act"]) if name in ("act", "act_requested") else 0


class ParquetSink(FileSink):
    """One named column per number; metadata in the file footer."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        """Open the file."""
        self._parquet = _need("pyarrow.parquet", "parquet")
        super().__init__(path)
        self._metadata, self._writer = metadata, _NOTHING

    def append(self, arrays: Arrays) -> None:
        """Write one row group."""
        table = _table(arrays, self._metadata)
        if self._writer is _NOTHING:
            self._writer = self._parquet.ParquetWriter(
                self.partial, table.schema, use_dictionary=["limited_by"], compression="snappy"
            )
        self._writer.write_table(table)

    def finish(self, metadata: dict[str, Any]) -> None:
        """Write the footer and move the file into place."""
        self._writer.add_key_value_metadata({_KEY: json.dumps(metadata)})
        self._writer.close()
        self.replace()


def _read_parquet(path: Path) -> tuple[Arrays, dict[str, Any]]:
    parquet = _need("pyarrow.parquet", "parquet")
    table = parquet.read_table(path)
    stored = parquet.read_metadata(path).metadata or {}
    if _KEY not in stored:
        raise UserError(f"{path} is a parquet file of another program: it has no {_KEY.decode()!r} metadata")
    metadata = _load_json(stored[_KEY], path)
    return _from_table(table, metadata), metadata


class CsvSink(FileSink):
    """A first line ``# dosing {metadata}``, a header, one line per visit, floats in shortest exact form."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        """Open the file; the metadata go in front when it is finished."""
        self._csv = _need("pyarrow.csv", "CSV")
        super().__init__(path)
        self._metadata, self._writer = metadata, _NOTHING
        self._rows = path.with_name(self.partial.name + ".rows")

    def append(self, arrays: Arrays) -> None:
        """Write the lines of these rows."""
        table = _table(arrays, self._metadata)
        index = table.column_names.index("limited_by")
        table = table.set_column(index, "limited_by", table.column("limited_by").cast("string"))
        if self._writer is _NOTHING:
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

    def discard(self) -> None:
        """Remove both temporary files."""
        self._rows.unlink(missing_ok=True)
        super().discard()


def _read_csv(path: Path) -> tuple[Arrays, dict[str, Any]]:
    csv, pa = _need("pyarrow.csv", "CSV"), _need("pyarrow", "CSV")
    with path.open("rb") as file:
        line = file.readline()
    if not line.startswith(_CSV_MARK.encode()):
        raise UserError(
            f"{path} is a CSV file of another program: its first line does not begin {_CSV_MARK!r}"
        )
    metadata = _load_json(line[len(_CSV_MARK) :], path)
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
    return _from_table(table, metadata), metadata


class Hdf5Sink(FileSink):
    """The D4RL layout: one flat array per key, ours under ``infos/`` and ``metadata/dosing``."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        """Open the file."""
        h5py = _need("h5py", "HDF5")
        super().__init__(path)
        self._file = h5py.File(self.partial, "w")

    def append(self, arrays: Arrays) -> None:
        """Lengthen every array."""
        for name, array in arrays.items():
            key = D4RL[name]
            if key not in self._file:
                chunk = (min(max(len(array), 1), 65536), *array.shape[1:])
                shape, grow = (0, *array.shape[1:]), (None, *array.shape[1:])
                self._file.create_dataset(key, shape=shape, maxshape=grow, chunks=chunk, dtype=array.dtype)
            data = self._file[key]
            data.resize(len(data) + len(array), axis=0)
            data[len(data) - len(array) :] = array

    def finish(self, metadata: dict[str, Any]) -> None:
        """Store the metadata and move the file into place."""
        self._file["metadata/dosing"] = json.dumps(metadata)
        self._file.close()
        self.replace()

    def discard(self) -> None:
        """Close and remove the temporary file."""
        self._file.close()
        super().discard()


def _read_hdf5(path: Path) -> tuple[Arrays, dict[str, Any]]:
    h5py = _need("h5py", "HDF5")
    with h5py.File(path, "r") as file:
        if "metadata/dosing" not in file:
            raise UserError(f"{path} is an HDF5 file of another program: it has no metadata/dosing")
        metadata = _load_json(file["metadata/dosing"][()], path)
        return {name: file[key][()] for name, key in D4RL.items()}, metadata


class MinariSink(Sink):
    """A Minari data set: one group per episode, what Minari has no place for in ``infos``."""

    def __init__(self, dataset_id: str, metadata: dict[str, Any]) -> None:
        """Check the id; the data set is created with its first rows."""
        self._minari = _need("minari", "a Minari data set")
        self.id, self._metadata, self._set = dataset_id, metadata, _NOTHING
        pattern = r"([\w-]+/)+[\w-]+-v\d+"
        if not re.fullmatch(pattern, dataset_id):
            raise UserError(f"{dataset_id!r} is not a Minari id; it needs the form namespace/name-v0")
        if dataset_id in self._minari.list_local_datasets():
            raise UserError(
                f"the Minari data set {dataset_id} already exists; delete it or choose another version"
            )

    def append(self, arrays: Arrays) -> None:
        """Add whole episodes, one at a time."""
        if self._set is _NOTHING:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # minari warns about every field that an author leaves out
                self._set = self._minari.create_dataset_from_buffers(
                    self.id, [], algorithm_name=str(self._metadata.get("policy")), **self._environment(arrays)
                )
        self._set.storage.update_episodes(self._buffers(arrays))

    def _environment(self, arrays: Arrays) -> dict[str, Any]:
        """Name the environment where gymnasium knows it, and always its spaces."""
        import gymnasium

        box, meta = gymnasium.spaces.Box, self._metadata
        o, a = arrays["obs"].shape[1], arrays["act"].shape[1]
        low, high = (
            np.asarray(meta.get(f"obs_{end}", [np.inf * sign] * o), dtype=np.float32) for end, sign in _ENDS
        )
        dose_low, dose_high = (
            np.asarray(meta.get(f"action_{end}", [np.inf * sign] * a), dtype=np.float32)
            for end, sign in _ENDS
        )
        out: dict[str, Any] = {
            "observation_space": box(low, high),
            "action_space": box(dose_low, dose_high),
            "env": None,
        }
        if meta.get("env_id") in gymnasium.registry:
            spec = gymnasium.spec(meta["env_id"])
            out["env"] = spec.__class__(
                **{**_spec_fields(spec), "kwargs": {**spec.kwargs, **meta["env_options"]}}
            )
        return out

    def _buffers(self, arrays: Arrays) -> Iterator[Any]:
        buffer = self._minari.data_collector.EpisodeBuffer
        starts = np.flatnonzero(np.r_[True, np.diff(arrays["episode"]) != 0])
        for low, high in zip(starts, [*starts[1:], len(arrays["episode"])], strict=True):
            rows = {name: array[low:high] for name, array in arrays.items()}
            if rows["obs"][1:].tobytes() != rows["next_obs"][:-1].tobytes():
                raise UserError(
                    f"Minari cannot keep episode {rows['episode'][0]}: its next_obs are not its next obs"
                )
            yield buffer(
                observations=np.concatenate([rows["obs"], rows["next_obs"][-1:]]),
                actions=rows["act"],
                rewards=rows["reward"],
                terminations=rows["terminated"],
                truncations=rows["truncated"],
                infos={name: rows[name] for name in _MINARI_INFOS},
            )

    def finish(self, metadata: dict[str, Any]) -> None:
        """Store our metadata beside Minari's own."""
        self._set.storage.update_metadata({"dosing": metadata})

    def discard(self) -> None:
        """Delete the unfinished data set."""
        if self._set is not _NOTHING:
            self._minari.delete_dataset(self.id)


_ENDS = (("low", -1), ("high", 1))
_MINARI_INFOS = ("episode", "step", "act_requested", "limited_by", "cost", "behaviour_log_prob")


def _spec_fields(spec: Any) -> dict[str, Any]:
    return {f.name: getattr(spec, f.name) for f in fields(spec) if f.init}


def _read_minari(dataset_id: str) -> tuple[Arrays, dict[str, Any]]:
    minari = _need("minari", "a Minari data set")
    if dataset_id not in minari.list_local_datasets():
        raise UserError(f"there is no local Minari data set {dataset_id!r}")
    data = minari.load_dataset(dataset_id)
    metadata = data.storage.metadata.get("dosing")
    if metadata is None:
        raise UserError(f"the Minari data set {dataset_id} was made by another program")
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in D4RL}
    for episode in data.iterate_episodes():
        own = {name: episode.infos[name] for name in _MINARI_INFOS}
        own |= {
            "obs": episode.observations[:-1],
            "next_obs": episode.observations[1:],
            "act": episode.actions,
        }
        own |= {
            "reward": episode.rewards,
            "terminated": episode.terminations,
            "truncated": episode.truncations,
        }
        for name, array in own.items():
            columns[name].append(array)
    return {name: np.concatenate(parts) for name, parts in columns.items()}, metadata
