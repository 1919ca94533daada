"""Run folders: one trained stack of seeds on disk, written atomically, verified when read.

``<study>/<agent>/<data>/<key>/`` holds

* ``config.json``: agent, settings, seeds, data, transform, dose limits, environment, versions;
* ``checkpoint.safetensors``: the training state at the last checkpoint (weights, targets, optimiser moments);
* ``weights.safetensors``: the finished agent; ``metrics.parquet``: step, seed, name, value, seconds;
* ``episodes.parquet``: one row per evaluated patient; ``evaluation.json``: what was measured on them;
* ``card.json``: the scenario card of the training data, where they have one; ``familiarity.json`` and
  ``familiarity.safetensors``: the monitor of unfamiliar states (``dosing.familiarity``);
* ``milestones/<update>/``: weights, episodes and evaluation after that many updates, where asked for;
* ``DONE``: SHA-256 of config, metrics, weights, card and monitor. A folder without it is resumed or ignored,
  never shown.

Milestones are no part of the key: keeping weights on the way changes no result. A run that lacks a milestone
which is asked for later is trained again from its start, to the same bits.

Checkpoints are data (safetensors and JSON), never code.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from dosing.errors import UserError

SCHEMA = 1
CONFIG, CHECKPOINT, WEIGHTS = "config.json", "checkpoint.safetensors", "weights.safetensors"
METRICS, EPISODES, EVALUATION, DONE = "metrics.parquet", "episodes.parquet", "evaluation.json", "DONE"
CARD, FAMILIARITY, FAMILIARITY_VISITS = "card.json", "familiarity.json", "familiarity.safetensors"
MILESTONES = "milestones"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name in the same folder, fsync, rename, fsync folder.

    Raises:
        UserError: the folder cannot be written or the disk is full; the previous file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity are refused."""
    write_atomic(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing, unreadable or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); the file is damaged.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, found a {type(content).__name__}.")
    return content


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write named tensors as safetensors, atomically."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomic(path, save_tensors(plain, metadata))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file and its metadata.

    Raises:
        UserError: the file is missing, truncated or of another format.
    """
    try:
        tensors = load_tensors(path.read_bytes())
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error}).") from error
    return tensors, dict(metadata)


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns as parquet, atomically."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(columns)), buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())


def read_table(path: Path) -> pa.Table:
    """Read a parquet table.

    Raises:
        UserError: the file is missing, truncated or of another format.
    """
    try:
        with pq.ParquetFile(path) as file:  # this one file; pq.read_table would also take a folder of them
            return file.read()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is truncated or not a parquet file ({error}).") from error


def run_key(config: Mapping[str, Any]) -> str:
    """Short name of a run: a hash of everything that decides its result."""
    decisive = {k: v for k, v in config.items() if k not in ("versions", "created", "device", "data_file")}
    canonical = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class RunFolder:
    """A run folder by its path; see the module for what it holds."""

    path: Path

    @property
    def done(self) -> bool:
        """Whether the run finished."""
        return (self.path / DONE).is_file()

    def at(self, update: int | None) -> Path:
        """Folder of weights and outcomes after so many updates; None is the end, the run's own folder."""
        return self.path if update is None else self.path / MILESTONES / str(update)

    def lacking(self, updates: Iterable[int]) -> list[int]:
        """Which of these milestones have no weights."""
        return [update for update in updates if not (self.at(update) / WEIGHTS).is_file()]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing; the lock goes with the process, also after kill -9.

        Raises:
            UserError: another process is writing this run, or the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(f"cannot write the run folder {self.path}: {error.strerror or error}.") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"another process is writing the run {self.path}.") from error
            yield

    def config(self) -> dict[str, Any]:
        """Read and check ``config.json``.

        Raises:
            UserError: this is not a run folder, or one of another schema.
        """
        if not self.path.is_dir():
            raise UserError(f"there is no run folder {self.path}; train one with: python -m dosing train.")
        if not (self.path / CONFIG).is_file():
            raise UserError(f"{self.path} is not a run folder: it has no {CONFIG}.")
        config = read_json(self.path / CONFIG)
        if config.get("schema") != SCHEMA:
            raise UserError(f"{self.path} has schema {config.get('schema')}, this version reads {SCHEMA}.")
        return config

    def finish(self, also: Iterable[str] = ()) -> None:
        """Record the hashes of the result, and of what ``also`` belongs to it, and mark the run as done."""
        kept = sorted(self.path.glob(f"{MILESTONES}/*/{WEIGHTS}"))
        files = [self.path / name for name in (CONFIG, WEIGHTS, METRICS)] + kept
        further = [self.path / name for name in (CARD, FAMILIARITY, FAMILIARITY_VISITS, *also)]
        files += [file for file in further if file.is_file()]
        write_json(self.path / DONE, {str(file.relative_to(self.path)): sha256(file) for file in files})

    def verify(self) -> None:
        """Check the finished run against its recorded hashes.

        Raises:
            UserError: the run is unfinished, or a file was changed, truncated or removed since.
        """
        if not self.done:
            raise UserError(f"the run {self.path} is not finished; the same train command continues it.")
        hashes = read_json(self.path / DONE)
        for name in dict.fromkeys((CONFIG, WEIGHTS, METRICS, *hashes)):
            file = self.path / name
            recorded = hashes.get(name)
            if recorded is None:
                raise UserError(f"{self.path / DONE} does not vouch for {name}; the run is not used.")
            if not file.is_file():
                raise UserError(f"{file} is missing from a finished run.")
            if sha256(file) != recorded:
                raise UserError(f"{file} was changed or truncated since the run finished; it is not used.")


def find_runs(study: Path) -> list[RunFolder]:
    """Finished runs under a study folder, in a fixed order."""
    return [RunFolder(done.parent) for done in sorted(study.glob(f"*/*/*/{DONE}"))]
