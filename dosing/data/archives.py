"""Episodes as arrays: HDF5 in the D4RL layout, through h5py, and Minari data sets, through minari."""

import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.data.metadata import unchanged
from dosing.data.sinks import D4RL, NOTHING, Arrays, FileSink, Sink, load_json, need
from dosing.errors import UserError

_MARK = "metadata/dosing"


class Hdf5Sink(FileSink):
    """The D4RL layout: one flat array per key, ours under ``infos/`` and ``metadata/dosing``."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        """Open the file."""
        h5py = need("h5py", "HDF5")
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
        self._file[_MARK] = json.dumps(metadata)
        self._file.close()
        self.replace()

    def discard(self) -> None:
        """Close and remove the temporary file."""
        self._file.close()
        super().discard()


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
        return {name: file[key][()] for name, key in D4RL.items()}, metadata


class MinariSink(Sink):
    """A Minari data set: one group per episode, what Minari has no place for in ``infos``."""

    def __init__(self, dataset_id: str, metadata: dict[str, Any]) -> None:
        """Check the id; the data set is created with its first rows."""
        self._minari = need("minari", "a Minari data set")
        self.id, self._metadata, self._set = dataset_id, metadata, NOTHING
        pattern = r"([\w-]+/)+[\w-]+-v\d+"
        if not re.fullmatch(pattern, dataset_id):
            raise UserError(f"{dataset_id!r} is not a Minari id; it needs the form namespace/name-v0")
        if dataset_id in self._minari.list_local_datasets():
            raise UserError(
                f"the Minari data set {dataset_id} already exists; delete it or choose another version"
            )

    def append(self, arrays: Arrays) -> None:
        """Add whole episodes, one at a time."""
        if self._set is NOTHING:
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
        if meta.get("env_id") in gymnasium.registry:
            spec = gymnasium.spec(meta["env_id"])
            options = {**spec.kwargs, **meta["env_options"]}
            limit = options.pop("max_episode_steps", spec.max_episode_steps)
            changed = {"kwargs": options, "max_episode_steps": limit}
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


def open_minari(dataset_id: str) -> Any:
    """Open a local Minari data set.

    Raises:
        UserError: minari is not installed, or there is no such set.
    """
    minari = need("minari", "a Minari data set")
    if dataset_id not in minari.list_local_datasets():
        raise UserError(
            f"there is no local Minari data set {dataset_id!r}; MINARI_DATASETS_PATH names their folder"
        )
    return minari.load_dataset(dataset_id)


def own_minari(dataset_id: str) -> bool:
    """Whether a local Minari data set was made by this program."""
    return "dosing" in open_minari(dataset_id).storage.metadata


def read_minari(dataset_id: str) -> tuple[Arrays, dict[str, Any]]:
    """Return all arrays and our metadata of one local Minari data set."""
    data = open_minari(dataset_id)
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
