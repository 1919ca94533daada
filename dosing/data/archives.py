"""Episodes as arrays: HDF5 in the D4RL layout, through h5py, and Minari data sets, through minari."""

import errno
import importlib
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dosing.data.metadata import unchanged
from dosing.data.sinks import D4RL, NOTHING, Arrays, FileSink, Sink, load_json, need
from dosing.errors import UserError

_MARK = "metadata/dosing"
_ID = r"([\w-]+/)+[\w-]+-v\d+"
Found = TypeVar("Found")


class Hdf5Sink(FileSink):
    """The D4RL layout: one flat array per key, ours under ``infos/`` and ``metadata/dosing``."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        """Open the file."""
        h5py = need("h5py", "HDF5")
        super().__init__(path)
        self._chunk: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        if shutil.disk_usage(path.parent).free < MARGIN:
            super().discard()
            raise UserError(f"{path} cannot be written: {os.strerror(errno.ENOSPC)}")
        self._file = h5py.File(self.partial, "w", locking=False)

    def append(self, arrays: Arrays) -> None:
        """Lengthen every array."""
        self._reserve(arrays)
        for name, array in arrays.items():
            key = D4RL[name]
            if key not in self._file:
                chunk = (self._chunk[name], *array.shape[1:])
                shape, grow = (0, *array.shape[1:]), (None, *array.shape[1:])
                self._file.create_dataset(key, shape=shape, maxshape=grow, chunks=chunk, dtype=array.dtype)
            data = self._file[key]
            data.resize(len(data) + len(array), axis=0)
            data[len(data) - len(array) :] = array

    def _reserve(self, arrays: Arrays, extra: int = 0) -> None:
        """Take the disk's space for everything so far and these rows: HDF5 does not survive a full disk."""
        for name, array in arrays.items():
            chunk = self._chunk.setdefault(name, min(max(len(array), 1), 65536))
            self._rows[name] = self._rows.get(name, 0) + len(array)
            self._bytes[name] = (
                -(-self._rows[name] // chunk) * chunk * array.itemsize * math.prod(array.shape[1:])
            )
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.handle, 0, MARGIN + extra + sum(self._bytes.values()) * 21 // 20)

    def finish(self, metadata: dict[str, Any]) -> None:
        """Store the metadata and move the file into place."""
        text = json.dumps(metadata)
        self._reserve({}, len(text))
        self._file[_MARK] = text
        self._file.flush()
        size = self._file.id.get_filesize()
        self._file.close()
        os.ftruncate(self.handle, size)  # without what was reserved and not needed
        self.replace()

    def discard(self) -> None:
        """Close and remove the temporary file."""
        self._file.close()
        super().discard()


LARGE = 1 << 28
"""Bytes that a file may declare whatever its size."""
DENSEST = 1100
"""More than deflate can press into one byte of a file (1,032)."""


MARGIN = 1 << 20
"""Bytes of an HDF5 file beside its numbers, at most."""


def check_storable(source: str, arrays: Iterable[Any]) -> None:
    """Refuse arrays of an HDF5 file that declare far more numbers than their stored bytes can hold.

    Args:
        source: the file, for the message.
        arrays: datasets of h5py.

    Raises:
        UserError: reading them would ask for memory that nothing in the file fills.
    """
    arrays = list(arrays)
    declared = sum(array.nbytes for array in arrays)
    stored = sum(array.id.get_storage_size() for array in arrays)
    if declared > LARGE and declared > DENSEST * stored:
        raise UserError(
            f"{source} declares {declared / 2**30:,.1f} GiB of numbers and stores {stored:,} bytes of them; "
            "it is damaged or was never written."
        )


def own_hdf5(path: Path) -> bool:
    """Whether a file was made by this program."""
    with need("h5py", "HDF5").File(path, "r") as file:
        return _MARK in file


def read_hdf5(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Return all arrays and the metadata of one file."""
    h5py = need("h5py", "HDF5")
    with h5py.File(path, "r") as file:
        if _MARK not in file:
            raise UserError(f"{path} is an HDF5 file of another program: it has no {_MARK}")
        metadata = load_json(file[_MARK][()], path)
        arrays = {name: file[key] for name, key in D4RL.items()}
        check_storable(str(path), arrays.values())
        return {name: array[()] for name, array in arrays.items()}, metadata


class MinariSink(Sink):
    """A Minari data set: one group per episode, what Minari has no place for in ``infos``."""

    def __init__(self, dataset_id: str, metadata: dict[str, Any]) -> None:
        """Check the id; the data set is created with its first rows."""
        self._minari = need("minari", "a Minari data set")
        self.id, self._metadata, self._set = dataset_id, metadata, NOTHING
        if not re.fullmatch(_ID, dataset_id):
            raise UserError(f"{dataset_id!r} is not a Minari id; it needs the form namespace/name-v0")
        folder = Path(importlib.import_module("minari.storage").get_dataset_path())
        self._folder = next(f for f in (folder, *folder.parents) if f.is_dir())
        if dataset_id in self._minari.list_local_datasets():
            raise UserError(
                f"the Minari data set {dataset_id} already exists; delete it or choose another version"
            )

    def append(self, arrays: Arrays) -> None:
        """Add whole episodes, one at a time."""
        need = 2 * MARGIN + sum(array.nbytes for array in arrays.values())
        if shutil.disk_usage(self._folder).free < need:  # HDF5 does not survive a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._set is NOTHING:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # minari warns about every field that an author leaves out
                self._set = self._minari.create_dataset_from_buffers(
                    self.id, [], algorithm_name=str(self._metadata.get("policy")), **self._environment(arrays)
                )
        self._set.storage.update_episodes(self._buffers(arrays))

    def _environment(self, arrays: Arrays) -> dict[str, Any]:
        """Name the environment where gymnasium has a name of it to store, and always its spaces."""
        import gymnasium
        from gymnasium.envs import registration

        box, meta = gymnasium.spaces.Box, self._metadata
        o, a = arrays["obs"].shape[1], arrays["act"].shape[1]
        low, high = (
            np.asarray(meta.get(f"obs_{end}") or [np.inf * sign] * o, dtype=np.float32) for end, sign in _ENDS
        )
        dose_low, dose_high = (
            np.asarray(meta.get(f"action_{end}") or [np.inf * sign] * a, dtype=np.float32)
            for end, sign in _ENDS
        )
        out: dict[str, Any] = {
            "observation_space": box(low, high),
            "action_space": box(dose_low, dose_high),
            "env": None,
        }
        spec = gymnasium.registry.get(meta.get("env_id") or "")
        if spec is not None and isinstance(spec.entry_point, str):
            options = {**spec.kwargs, **meta["env_options"]}
            wrappers = [
                registration.WrapperSpec(w["name"], f"gymnasium.wrappers:{w['name']}", w["kwargs"])
                for w in options.pop("wrappers", ())
            ]
            limit = options.pop("max_episode_steps", spec.max_episode_steps or options.get("steps"))
            changed = {"kwargs": options, "max_episode_steps": limit, "additional_wrappers": tuple(wrappers)}
            out["env"] = spec.__class__(**{**_spec_fields(spec), **changed})
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
        if self._set is not NOTHING:
            self._minari.delete_dataset(self.id)


_ENDS = (("low", -1), ("high", 1))
_MINARI_INFOS = ("episode", "step", "act_requested", "limited_by", "cost", "behaviour_log_prob")


def _spec_fields(spec: Any) -> dict[str, Any]:
    return {f.name: getattr(spec, f.name) for f in fields(spec) if f.init}


def guarded_minari(dataset_id: str, read: Callable[[Any], Found]) -> Found:
    """Return what ``read`` finds in a local Minari data set; whatever is wrong with it becomes one sentence.

    Raises:
        UserError: minari is not installed, there is no such set, or it is damaged.
    """
    minari = need("minari", "a Minari data set")
    storage = importlib.import_module("minari.storage")
    if not re.fullmatch(_ID, dataset_id) or not Path(storage.get_dataset_path(dataset_id), "data").is_dir():
        raise UserError(
            f"there is no local Minari data set {dataset_id!r}; MINARI_DATASETS_PATH names their folder"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # minari warns of what it then raises
            return read(minari.load_dataset(dataset_id))
    except UserError:
        raise
    except DAMAGE as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(
            f"the Minari data set {dataset_id} is damaged, or another version of Minari wrote it ({reason})"
        ) from error


DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError, MemoryError, EOFError),
    *(AttributeError, AssertionError, ImportError),
)
"""What minari, h5py and gymnasium raise on sets that are not whole."""


def own_minari(dataset_id: str) -> bool:
    """Whether a local Minari data set was made by this program."""
    return guarded_minari(dataset_id, lambda data: "dosing" in data.storage.metadata)


def read_minari(dataset_id: str) -> tuple[Arrays, dict[str, Any]]:
    """Return all arrays and our metadata of one local Minari data set."""
    return guarded_minari(dataset_id, lambda data: _read_minari(dataset_id, data))


def _read_minari(dataset_id: str, data: Any) -> tuple[Arrays, dict[str, Any]]:
    metadata = data.storage.metadata.get("dosing")
    if metadata is None:
        raise UserError(f"the Minari data set {dataset_id} was made by another program")
    metadata = unchanged(metadata, f"the Minari data set {dataset_id}")
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
