"""How far a study is, read from its folder alone: of runs here and on a cluster, while they run and after."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from dosing.errors import UserError
from dosing.runs.files import read_metadata
from dosing.runs.folder import CHECKPOINT, CONFIG, DONE, METRICS, RunFolder
from dosing.studies.ledger import JOBS, Ledger

RECENT = 50
"""Finished runs that the rate rests on, the last ones."""
SHOWN = 200
"""Most unfinished runs that are read, those written last."""


@dataclass(frozen=True)
class UnfinishedRun:
    """A run with a configuration and no ``DONE``.

    Attributes:
        path: from the study.
        agent: registry key; empty for one that only the method of a trial makes.
        data: name of its data set.
        seeds: number of seeds.
        update: of its last checkpoint, 0 before the first.
        updates: that it is to have.
        silent: seconds since the run last wrote anything.
    """

    path: Path
    agent: str
    data: str
    seeds: int
    update: int
    updates: int
    silent: float


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is.

    Attributes:
        finished: when runs finished, in seconds since 1970, ascending.
        begun: number of runs that have begun and not finished.
        unfinished: those of them that were written last.
        waiting: jobs that a cluster has and that have begun no run; None where the study has no such jobs.
        lost: how often a job left the cluster's queue without a result.
        problems: what could not be read.
    """

    finished: tuple[float, ...]
    begun: int
    unfinished: tuple[UnfinishedRun, ...]
    waiting: int | None
    lost: int
    problems: tuple[str, ...]

    @property
    def rate(self) -> float | None:
        """Runs finished per second among the last ones; None where fewer than three have finished."""
        last = self.finished[-RECENT:]
        return (len(last) - 1) / (last[-1] - last[0]) if len(last) > 2 and last[-1] > last[0] else None

    @property
    def remaining(self) -> float | None:
        """Seconds until all known runs are finished, at that rate."""
        return None if self.rate is None else (self.begun + (self.waiting or 0)) / self.rate


def progress_of(study: Path) -> StudyProgress:
    """Read how far a study is; what is being written meanwhile is passed over."""
    finished = sorted(written for done in study.glob(f"*/*/*/{DONE}") if (written := _written(done)))
    begun = [c.parent for c in study.glob(f"*/*/*/{CONFIG}") if not (c.parent / DONE).is_file()]
    touched = {run: max(_written(run / name) for name in (CONFIG, CHECKPOINT, METRICS)) for run in begun}
    unfinished: list[UnfinishedRun] = []
    problems: list[str] = []
    for run in sorted(begun, key=lambda one: -touched[one])[:SHOWN]:
        try:
            config = RunFolder(run).config()
        except UserError as error:
            problems.append(str(error))
            continue
        unfinished.append(
            UnfinishedRun(
                run.relative_to(study), config.agent, config.data.name, len(config.seeds),
                _update(run / CHECKPOINT), config.updates, max(time.time() - touched[run], 0.0),
            )
        )  # fmt: skip
    waiting, lost = None, 0
    if (study / JOBS).is_dir():
        try:
            entries = Ledger(study / JOBS).entries.values()
        except UserError as error:
            problems.append(str(error))
        else:
            open_jobs = sum(not entry.run and not entry.over for entry in entries)
            waiting, lost = max(open_jobs - len(begun), 0), sum(entry.lost for entry in entries)
    return StudyProgress(tuple(finished), len(begun), tuple(unfinished), waiting, lost, tuple(problems))


def _written(file: Path) -> float:
    """When a file was last written; 0 where it is not there, or no longer."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _update(checkpoint: Path) -> int:
    """Number of updates behind a checkpoint; 0 where there is none or it says nothing of updates."""
    try:
        return int(read_metadata(checkpoint)["step"])
    except (UserError, KeyError, ValueError):
        return 0
