"""Run folders: one trained stack of seeds on disk, written atomically, verified when read.

``<study>/<agent>/<data>/<key>/`` holds

* ``config.json``: agent, settings, seeds, data, transform, dose limits, environment, versions;
* ``checkpoint.safetensors``: the training state at the last checkpoint (weights, targets, optimiser moments);
* ``weights.safetensors``: the finished agent; ``metrics.parquet``: step, seed, name, value, seconds;
* ``episodes.parquet``: one row per evaluated patient; ``evaluation.json``: what was measured on them;
  ``doses.json``: dose sets at recorded visits (``dosing.studies.dose_sets``);
* ``card.json``: the scenario card of the training data, where they have one; ``novelty.json`` and
  ``novelty.safetensors``: the monitor of unfamiliar states (``dosing.recommendation.novelty``);
* ``scenario.py``: where the environment is one of a Python file, a copy of it, which is never run by itself;
* ``milestones/<update>/``: weights, episodes and evaluation after that many updates, where asked for;
* ``DONE``: SHA-256 of config, metrics, weights, card, monitor and scenario. A folder without it is resumed
  or ignored, never shown.

Milestones are no part of the key: keeping weights on the way changes no result. A run that lacks a milestone
which is asked for later is trained again from its start, to the same bits.

Checkpoints are data (safetensors and JSON), never code.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dosing.data.partial import clear_partials
from dosing.errors import UserError
from dosing.runs.config import RunConfig
from dosing.runs.files import json_of, read_bytes, read_json, sha256, write_json

CONFIG, CHECKPOINT, WEIGHTS = "config.json", "checkpoint.safetensors", "weights.safetensors"
METRICS, EPISODES, EVALUATION, DONE = "metrics.parquet", "episodes.parquet", "evaluation.json", "DONE"
CARD, NOVELTY, NOVELTY_VISITS = "card.json", "novelty.json", "novelty.safetensors"
SCENARIO = "scenario.py"
MILESTONES = "milestones"


class RunBusyError(UserError):
    """Another process is writing the run."""


@dataclass(frozen=True)
class VerifiedRun:
    """A finished run of which every file was checked against its hash; configuration and hashes read once."""

    path: Path
    config: RunConfig
    hashes: Mapping[str, str]
    """SHA-256 by file name, as recorded when the run finished."""

    def at(self, update: int | None) -> Path:
        """Folder of weights and outcomes after so many updates; None is the end."""
        return RunFolder(self.path).at(update)


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
            RunBusyError: another process is writing this run.
            UserError: the folder cannot be made, or its file system has no working lock.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(f"cannot write the run folder {self.path}: {error.strerror or error}.") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunBusyError(f"another process is writing the run {self.path}.") from error
            except OSError as error:
                raise UserError(
                    f"the file system of {self.path} has no working lock ({error.strerror or error}), which "
                    "keeps a run from being written twice: put the study on one that has."
                ) from error
            for folder in (self.path, *self.path.glob(f"{MILESTONES}/*")):
                clear_partials(folder)
            yield

    def config(self) -> RunConfig:
        """Read and check ``config.json``.

        Raises:
            UserError: this is not a run folder, one of another schema, or one that was edited.
        """
        return self._parsed(self._config_bytes())

    def _config_bytes(self) -> bytes:
        if not self.path.is_dir():
            raise UserError(f"there is no run folder {self.path}; train one with: python -m dosing train.")
        if not (self.path / CONFIG).is_file():
            raise UserError(f"{self.path} is not a run folder: it has no {CONFIG}.")
        return read_bytes(self.path / CONFIG)

    def _parsed(self, content: bytes) -> RunConfig:
        return RunConfig.from_json(json_of(content, self.path / CONFIG), str(self.path / CONFIG))

    def finish(self, also: Iterable[str] = ()) -> None:
        """Record the hashes of the result, and of what ``also`` belongs to it, and mark the run as done."""
        kept = sorted(self.path.glob(f"{MILESTONES}/*/{WEIGHTS}"))
        files = [self.path / name for name in (CONFIG, WEIGHTS, METRICS)] + kept
        further = [self.path / name for name in (CARD, NOVELTY, NOVELTY_VISITS, SCENARIO, *also)]
        files += [file for file in further if file.is_file()]
        write_json(self.path / DONE, {str(file.relative_to(self.path)): sha256(file) for file in files})

    def verify(self) -> VerifiedRun:
        """Check the finished run against its recorded hashes and read its configuration.

        Raises:
            UserError: the run is unfinished or of another schema, or a file was changed, truncated or removed
                since.
        """
        if not self.done:
            self._config_bytes()  # says so where this is no run folder at all
            raise UserError(f"the run {self.path} is not finished; the same train command continues it.")
        hashes = read_json(self.path / DONE)
        config = b""
        for name in dict.fromkeys((CONFIG, WEIGHTS, METRICS, *hashes)):
            file = self.path / name
            recorded = hashes.get(name)
            if recorded is None:
                raise UserError(f"{self.path / DONE} does not vouch for {name}; the run is not used.")
            if not file.is_file():
                raise UserError(f"{file} is missing from a finished run.")
            if name == CONFIG:  # what is parsed below is what was hashed
                config = self._config_bytes()
            if (hashlib.sha256(config).hexdigest() if name == CONFIG else sha256(file)) != recorded:
                raise UserError(f"{file} was changed or truncated since the run finished; it is not used.")
        return VerifiedRun(self.path, self._parsed(config), hashes)


def find_runs(study: Path) -> list[RunFolder]:
    """Finished runs under a study folder, in a fixed order."""
    return [RunFolder(done.parent) for done in sorted(study.glob(f"*/*/*/{DONE}"))]
