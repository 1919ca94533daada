"""One job of a study: train a stack of seeds on one data file and evaluate it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dosing.models.regularisation import PLAIN, Regularisation
from dosing.runs.folder import RunFolder
from dosing.studies.evaluate import evaluate_run
from dosing.studies.launch import in_processes
from dosing.studies.train import train_run
from dosing.training.offline import TrainingDivergedError, TrainingSettings


@dataclass(frozen=True)
class Job:
    """One stack of seeds to train on one data file and, where patients are given, to evaluate on new ones."""

    agent: str
    config: Any
    data: Path
    study: Path
    seeds: tuple[int, ...]
    settings: TrainingSettings
    device: str
    evaluation_patients: int | None
    milestones: tuple[int, ...] = ()
    data_options: Mapping[str, Any] = field(default_factory=dict)
    regularisation: Regularisation = PLAIN


def run_jobs(jobs: Sequence[Job], workers: int | None = None) -> list[RunFolder | TrainingDivergedError]:
    """Train and evaluate every job; returns, in the order of the jobs, the run or how its training diverged.

    Args:
        jobs: what to do.
        workers: processes; None is one per core on the CPU and one on a GPU.

    Raises:
        UserError: a job failed, or a worker was killed; the same call continues.
    """
    return in_processes(_work, jobs, jobs[0].device, workers)


def _work(job: Job, position: int) -> RunFolder | TrainingDivergedError:
    try:
        run = train_run(
            job.agent,
            job.config,
            job.data,
            job.study,
            job.seeds,
            job.settings,
            job.device,
            data_options=job.data_options,
            regularisation=job.regularisation,
            milestones=job.milestones,
            position=position,
        )
    except TrainingDivergedError as error:  # one method's failure is a finding, not the end of the study
        return error
    if job.evaluation_patients is not None:
        for update in (*job.milestones, None):
            evaluate_run(run, job.evaluation_patients, update=update, position=position)
    return run
