"""What a study computes is computed in jobs: the submitting command trains, treats and loads nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dosing.data.store import read_episodes, write_episodes
from dosing.evaluation import rollout as rollouts
from dosing.ope.costs import charged
from dosing.ope.folds import Fold, PooledValue, evaluate_folds
from dosing.ope.selection import Settings
from dosing.ope.trajectories import fold_patients
from dosing.runs.files import read_json, write_json
from dosing.runs.folder import RunFolder
from dosing.studies import (
    Folds,
    Grid,
    Resources,
    TrainingSettings,
    compare,
    dose_sets,
    evaluation,
    jobs,
    references,
    select,
    validation,
)
from dosing.studies.cluster import Outcome, Task
from dosing.studies.data import episodes_of, recorded_states
from dosing.studies.dose_sets import DOSES, BesideJob, beside_interval, doses_at, doses_of
from dosing.studies.jobs import Job, RulesJob, SurveyJob
from dosing.studies.launch import LocalProcesses
from dosing.studies.ledger import JOBS, Ledger
from dosing.studies.loading import policy_of
from dosing.studies.naming import TABLE
from dosing.studies.progress import progress_of
from dosing.studies.selected import SELECTION
from dosing.studies.validation import ValueJob
from tests.support.samples import cohort


class Here:
    """A launcher that does every job in this process and remembers it."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []
        self.working = False

    def map(self, work: Callable[[Any, int], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        for job in jobs:
            self.jobs.append(job)
            self.working = True
            result = work(job, 0)
            self.working = False
            yield result


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "visits.parquet"
    write_episodes(cohort(), path)
    return path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """In place of processes; refuses roll-outs and policies outside a job."""
    launcher = Here()

    def in_jobs(module: Any, name: str) -> None:
        real = getattr(module, name)

        def guarded(*arguments: Any, **options: Any) -> Any:
            assert launcher.working, f"{name} outside a job"
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, guarded)

    in_jobs(references, "rollout")
    in_jobs(references, "best_constant")
    in_jobs(rollouts, "evaluate")
    in_jobs(evaluation, "policy_of")
    in_jobs(dose_sets, "policy_of")
    in_jobs(validation, "policy_of")
    in_jobs(jobs, "survey_of")
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 20)
    monkeypatch.setattr(dose_sets, "TOGETHER", 1)
    monkeypatch.setattr(validation, "TOGETHER", 2)
    monkeypatch.setattr(Resources, "launcher", lambda *_: launcher)
    return launcher


def study(folder: Path, source: Path | str, **training: Any) -> list[RunFolder]:
    """Three runs, two of them with intervals, in a table."""
    grid = Grid(
        ("fttpo", "iql"), {"hidden": [[16, 16]], "fttpo.temperature": [0.1, 0.2]}, preset="clinical-small"
    )
    settings = TrainingSettings(steps=3, **training)
    compare(folder, grid, source, seeds=(0, 1), training=settings, evaluation_patients=20)
    return [RunFolder(folder / run) for run in read_json(folder / TABLE)["runs"]]


@pytest.mark.long
def test_the_command_that_submits_only_reads(here: Here, visits: Path, tmp_path: Path) -> None:
    runs = study(tmp_path, visits)
    assert [type(job) for job in here.jobs] == [RulesJob, Job, Job, Job, BesideJob, BesideJob, BesideJob]
    first = read_json(tmp_path / TABLE)
    states = recorded_states(cohort())
    policies = [policy_of(run) for run in runs]
    sets = policies[0].dose_set(np.broadcast_to(states, (2, *states.shape)))
    for row, policy in zip(first["rows"], policies, strict=False):
        own = np.broadcast_to(states, (2, *states.shape))
        assert row["half_width"] == pytest.approx(policy.dose_set(own).half_width.mean())
        expected = policy.mass_outside(own, sets.low, sets.high).mean()
        assert row["mass_outside_sparse"] == pytest.approx(expected, abs=1e-12)
    assert {row["mass_outside_sparse"] > 0 for row in first["rows"][2:3]} == {True}

    here.jobs.clear()
    study(tmp_path, visits)
    assert not [job for job in here.jobs if isinstance(job, BesideJob)]  # nothing is measured again
    assert read_json(tmp_path / TABLE) == first


@pytest.mark.long
def test_a_stream_is_passed_over_in_a_job(here: Here, tmp_path: Path) -> None:
    from dosing.studies.partition import Request, simulate_parts

    simulate_parts(tmp_path / "visits", Request("dosing/Treatment-v0", 8), 2, LocalProcesses("cpu", 1))
    study(tmp_path / "study", tmp_path / "visits", stream=True)
    assert [type(job) for job in here.jobs[:2]] == [SurveyJob, RulesJob]


def as_json(values: Mapping[Any, PooledValue]) -> Any:
    return json.loads(json.dumps({name: dataclasses.asdict(value) for name, value in values.items()}))


def selection(folder: Path, source: Path, resources: Resources | None = None, **settings: Any) -> Any:
    """Candidates of IQL on two folds; what the study keeps of their values."""
    grid = Grid(("iql",), {"hidden": [[16, 16]]} | settings, preset="clinical-small")
    select(
        folder, grid, source, folds=Folds(2), seeds=(0, 1), training=TrainingSettings(steps=3),
        criterion=Settings(estimators=("fqe", "wis")), resources=resources,
    )  # fmt: skip
    return read_json(folder / SELECTION)


@pytest.mark.long
def test_candidates_are_valued_in_jobs_as_all_at_once(here: Here, visits: Path, tmp_path: Path) -> None:
    kept = selection(tmp_path, visits, inverse_temperature=[1.0, 2.0, 3.0])
    values = [job for job in here.jobs if isinstance(job, ValueJob)]
    assert [(job.fold, len(job.runs)) for job in values] == [(0, 2), (0, 1), (1, 2), (1, 1)]

    parts = fold_patients(read_episodes(visits), 2, 0)
    folds = [
        Fold(
            *part,
            {
                name: policy_of(RunFolder(tmp_path / run))
                for job in values
                if job.fold == k
                for name, run in job.runs.items()
            },
        )
        for k, part in enumerate(parts)
    ]
    expected = evaluate_folds(folds, values[0].criterion, 3)
    priced = charged(folds, values[0].criterion)
    assert priced is not None
    costs = evaluate_folds(*priced, 3)
    fields = [(one["name"], one["values"], one["costs"]) for one in kept["candidates"]]
    assert len(fields) == 3
    for name, own, cost in fields:
        assert own == as_json(expected.values[name])
        assert cost == as_json(costs.values[name])


@pytest.mark.long
def test_a_cluster_selects_as_this_machine_does(visits: Path, tmp_path: Path) -> None:
    here = selection(tmp_path / "here", visits, Resources("cpu", workers=1))
    there = selection(tmp_path / "there", visits, Resources("cpu", cluster="local"))
    assert there == here
    ledger = Ledger(tmp_path / "there" / JOBS).entries
    assert sum(entry.over for entry in ledger.values()) == 2  # a fold is a job


@pytest.mark.long
def test_doses_are_measured_once_and_again_for_other_weights(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 20)
    monkeypatch.setattr(dose_sets, "TOGETHER", 2)
    grid = Grid(("fttpo",), {"hidden": [[16, 16]], "temperature": [0.1, 0.2]}, preset="clinical-small")
    compare(
        tmp_path, grid, visits, seeds=(0, 1), training=TrainingSettings(steps=3),
        evaluation_patients=20, resources=Resources("cpu", 1),
    )  # fmt: skip
    one, other = (RunFolder(tmp_path / run) for run in read_json(tmp_path / TABLE)["runs"])
    told = doses_of(one)
    assert dataclasses.replace(told, outside={}) == doses_at(
        policy_of(one), recorded_states(episodes_of(one))
    )
    assert told.interval
    assert list(told.outside.values()) == [(0.0, 0.0)]  # none outside its own interval
    beside = beside_interval([one, other], one)

    content = read_json(one.path / DOSES)
    write_json(one.path / DOSES, content | {"doses": content["doses"] | {"half_width": 7.0}})
    assert doses_of(one).half_width == 7.0  # taken as it is kept
    write_json(one.path / DOSES, read_json(one.path / DOSES) | {"weights": "others"})
    assert doses_of(one) == dataclasses.replace(told, outside={})
    (one.path / DOSES).write_text("{}")
    assert doses_of(one).half_width == told.half_width
    assert beside_interval([one, other], one) == beside


def test_reference_rules_in_a_job_travel_and_leave_no_job_waiting(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 20)
    job = RulesJob(visits, tmp_path, (0, 1), 5, None)
    task = Task.of(jobs._work, job, tmp_path)
    assert not task.job.data.is_absolute()
    batch = tmp_path / JOBS / "batch"
    batch.mkdir(parents=True)
    monkeypatch.setenv("SUBMITIT_FOLDER", str(batch))
    task()
    assert read_json(batch / f"{task.key}.json") == dataclasses.asdict(Outcome())
    assert list(tmp_path.glob(f"references/*/{references.REFERENCES}"))
    ledger = Ledger(tmp_path / JOBS)
    ledger.begin("batch", [task.key, "another"])
    assert progress_of(tmp_path).waiting == 2
    ledger.entries[task.key].over = True
    ledger.write()
    assert progress_of(tmp_path).waiting == 1
    ledger.begin("again", [task.key])
    assert progress_of(tmp_path).waiting == 2
