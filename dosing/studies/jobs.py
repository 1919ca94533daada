"""Jobs of a study: train a stack of seeds on one data file and evaluate it, or treat patients by rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dosing.runs.folder import RunFolder
from dosing.studies.evaluation import evaluate_run, references_for
from dosing.studies.launch import JobLostError, Launcher, none_lost
from dosing.studies.scenarios import evaluable
from dosing.studies.settings import AgentSetup
from dosing.studies.training import train_run
from dosing.studies.visits import survey_of, visits_of
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


@dataclass(frozen=True)
class RulesJob:
    """The reference rules beside one data set, on the patients that its runs are evaluated on."""

    data: Path
    study: Path
    seeds: tuple[int, ...]
    patients: int
    stream: bool | None


@dataclass(frozen=True)
class SurveyJob:
    """One pass over a data set that is streamed."""

    data: Path
    study: Path


def run_jobs(jobs: Sequence[Job], launcher: Launcher, rules: Sequence[RulesJob] = ()) -> Iterator[JobResult]:
    """Train and evaluate every job; yields, in the order of the jobs, the run or why there is none.

    Args:
        jobs: what to do.
        launcher: where it is done.
        rules: to do besides; one that is lost is done where the table is made.

    Raises:
        UserError: a job failed; the same call continues.
    """
    everything: list[Job | RulesJob] = [*rules, *jobs]
    results = launcher.map(_work, everything)
    for _ in rules:
        next(results)
    for result in results:
        assert result is not None
        yield result


def survey_data(jobs: Sequence[SurveyJob], launcher: Launcher) -> None:
    """Pass over data sets before anything is trained on them; what was found is kept in the study.

    Raises:
        UserError: visits are missing, damaged, or not finite.
    """
    for _ in none_lost(launcher.map(_survey, jobs)):
        pass


def _survey(job: SurveyJob, position: int) -> None:
    del position
    survey_of(job.data, job.study)


def _work(job: Job | RulesJob, position: int) -> RunFolder | TrainingDivergedError | None:
    if isinstance(job, RulesJob):
        episodes = visits_of(job.data, job.study, job.stream).sample
        references_for(job.study, evaluable(job.data), episodes, job.seeds, job.patients)
        return None
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
