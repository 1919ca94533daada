"""Values of a selection's candidates, as jobs: the patients of one fold value some of the candidates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.ope.costs import charged
from dosing.ope.folds import CrossValidation, Fold, FoldValues, PooledValue, evaluate_fold, pooled
from dosing.ope.selection import Settings
from dosing.ope.trajectories import fold_patients
from dosing.runs.folder import RunFolder
from dosing.studies.dose_sets import TOGETHER
from dosing.studies.jobs import JobResult
from dosing.studies.launch import Launcher, none_lost, progress_bar
from dosing.studies.loading import policy_of
from dosing.studies.visits import visits_of
from dosing.typed_json import typed


@dataclass(frozen=True)
class ValueJob:
    """Candidates to value on the patients of one fold.

    Attributes:
        data: file of the recorded visits, or folder of parts.
        study: study folder.
        content: hash of the visits.
        stream: see :func:`dosing.studies.visits.is_streamed`.
        cut: number and seed of the folds.
        criterion: how values are estimated, with the horizon of all folds.
        fold: which one, from 0.
        runs: trained on the other folds, by candidate; as paths from the study.
    """

    data: Path
    study: Path
    content: str
    stream: bool | None
    cut: tuple[int, int]
    criterion: Settings
    fold: int = 0
    runs: Mapping[str, str] = field(default_factory=dict)


def validate(
    asked: ValueJob,
    parts: Sequence[tuple[Episodes, Episodes]],
    results: Mapping[str, Sequence[JobResult]],
    launcher: Launcher,
) -> tuple[CrossValidation, CrossValidation | None]:
    """Values and costs of all candidates; one without a run in a fold has none and counts as tried.

    Args:
        asked: everything but fold and runs.
        parts: training and held-out visits of every fold.
        results: of every candidate, the run of every fold or why there is none.
        launcher: where candidates are valued.

    Raises:
        UserError: a run is damaged, or a fold values no policy.
    """
    criterion = asked.criterion
    without = {
        name: dict.fromkeys(criterion.estimators, PooledValue(refused=str(result)))
        for name, several in results.items()
        for result in several
        if isinstance(result, UserError)
    }
    runs = {
        name: [os.path.relpath(run.path, asked.study) for run in several if isinstance(run, RunFolder)]
        for name, several in results.items()
        if name not in without
    }
    names = list(runs)
    some = [names[start : start + TOGETHER] for start in range(0, max(1, len(names)), TOGETHER)]
    jobs = [
        replace(asked, fold=fold, runs={name: runs[name][fold] for name in together})
        for fold in range(len(parts))
        for together in some
    ]
    told = list(none_lost(launcher.map(value, jobs)))
    folds = [told[k : k + len(some)] for k in range(0, len(told), len(some))]

    def all_of(what: str, held_out: Sequence[Episodes], how: Settings) -> CrossValidation:
        return pooled([_joined(fold, what) for fold in folds], held_out, how, len(results))

    result = all_of("values", [part for _, part in parts], criterion)
    priced = charged([Fold(*part, {}) for part in parts], criterion)
    costs = all_of("costs", [fold.held_out for fold in priced[0]], priced[1]) if priced else None
    return replace(result, values=result.values | without), costs


def _joined(told: Sequence[dict[str, Any]], what: str) -> FoldValues:
    """What several jobs say of the patients of one fold; each says the same of the constant dose."""
    several = [typed(FoldValues, one[what], what) for one in told]
    values = {name: value for one in several for name, value in one.values.items()}
    return replace(several[0], values=values)


def value(job: ValueJob, position: int) -> dict[str, Any]:
    """Values and costs of a job's candidates as plain fields; no costs where a visit has none."""
    count, seed = job.cut
    episodes = visits_of(job.data, job.study, job.stream).sample
    policies = {name: policy_of(RunFolder(job.study / run)) for name, run in job.runs.items()}
    fold = Fold(*fold_patients(episodes, count, seed)[job.fold], policies)
    priced = charged([fold], job.criterion)
    asked = {"values": (fold, job.criterion)}
    if priced is not None:
        asked["costs"] = (priced[0][0], priced[1])
    total = len(asked) * (len(policies) + 1)
    with progress_bar(total, f"value candidates, fold {job.fold + 1}", "policy", position) as bar:
        return {
            what: asdict(evaluate_fold(whom, how, job.fold, count, bar))
            for what, (whom, how) in asked.items()
        }
