"""One job of a study: train a stack of seeds on one data file and evaluate it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dosing.runs.folder import RunFolder
from dosing.studies.evaluation import evaluate_run
from dosing.studies.launch import JobLostError, Launcher
from dosing.studies.settings import AgentSetup
from dosing.studies.training import train_run
from dosing.training.offline import TrainingDivergedError, TrainingSettings

JobResult = RunFolder | TrainingDivergedError | JobLostError
"""The run of a job, or why there is none."""


@dataclass(frozen=True)
class Job:
    """One stack of seeds to train on one data file and, where patients are given, to evaluate on new ones."""

    setup: AgentSetup
    data: Path
    study: Path
    seeds: tuple[int, ...]
    training: TrainingSettings
    device: str
    evaluation_patients: int | None = None
    milestones: tuple[int, ...] = ()


def run_jobs(jobs: Sequence[Job], launcher: Launcher) -> Iterator[JobResult]:
    """Train and evaluate every job; yields, in the order of the jobs, the run or why there is none.

    Args:
        jobs: what to do.
        launcher: where it is done.

    Raises:
        UserError: a job failed; the same call continues.
    """
    return launcher.map(_work, jobs)


def _work(job: Job, position: int) -> RunFolder | TrainingDivergedError:
    try:
        run = train_run(
            job.setup,
            job.data,
            job.study,
            job.seeds,
            job.training,
            job.device,
            milestones=job.milestones,
            position=position,
        )
    except TrainingDivergedError as error:  # one method's failure is a finding, not the end of the study
        return error
    if job.evaluation_patients is not None:
        for update in (*job.milestones, None):
            evaluate_run(run, job.evaluation_patients, update=update, position=position)
    return run
