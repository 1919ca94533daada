"""What a comparison would run and could tell, stated before anything is trained.

The least difference it would find rests on an assumed spread of the paired difference from the constant dose
(``dosing.evaluation.power``): stated by the user, measured in a finished study, or, where neither is given,
that of the returns of the constant dose itself on the first evaluation patients. The last is no less than the
spread between patients wherever the returns of a policy spread as much and correlate with those of the
constant dose, on the same patients, by at least 0.5; it knows nothing of the spread between trainings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import agents as registry
from dosing.errors import UserError
from dosing.evaluation.outcomes import read_outcomes
from dosing.evaluation.power import minimum_detectable_difference, standard_error
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import constant
from dosing.runs.folder import EPISODES, RunFolder, find_runs
from dosing.studies.baseline import Baseline
from dosing.studies.comparison import Asked, Work, work_of
from dosing.studies.evaluation import references_of
from dosing.studies.naming import TABLE, family_of, run_names
from dosing.studies.scenarios import evaluable
from dosing.studies.selected import Candidate
from dosing.studies.settings import Resources
from dosing.studies.visits import visits_of
from dosing.types import Array

ALPHA, POWER = 0.05, 0.8
MOST_PATIENTS = 1000
"""Patients per seed on whom the spread of the constant dose is measured."""


@dataclass(frozen=True)
class Spread:
    """An assumed spread of the difference in return from the constant dose, paired by patient.

    Attributes:
        patients: standard deviation between the patients of one seed.
        seeds: standard deviation between trainings, of the expected difference.
        source: where the numbers come from, in words.
    """

    patients: float
    seeds: float
    source: str


@dataclass(frozen=True)
class Plan:
    """What a comparison would run, and the least difference it would find."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        """Return the lines as text."""
        return "\n".join(self.lines)


def plan(
    study: Path | str, asked: Asked, resources: Resources | None = None, spread: Spread | None = None
) -> Plan:
    """State what ``compare`` would do; obtains the data, trains nothing.

    Args:
        study: study folder, in which data that are simulated or copied are kept.
        asked: what ``compare`` is asked for, see :func:`dosing.studies.comparison.asked_of`.
        resources: where it would be computed.
        spread: assumed of every comparison; None measures that of the constant dose's returns.

    Raises:
        UserError: as ``compare`` does before it trains.
    """
    study, resources = Path(study), resources or Resources()
    resources.launcher(study)
    work = work_of(study, asked, resources.device)
    lines = [*_runs(study, asked, work), ""]
    for file, patients in work.patients.items():
        own = spread or _of_constant(file, study, asked, patients)
        lines.append(f"data {file.stem}: {patients:,} new patients for each seed, n = ")
        lines[-1] += f"{patients * len(asked.seeds):,} for each run; least detectable difference in return"
        if isinstance(own, str):
            lines.append(f"  none stated: {own}")
        else:
            lines += _detectable(own, len(asked.seeds), patients, len(work.jobs))
    return Plan((*lines, "Nothing was trained or evaluated; the same command without --plan does it."))


def spread_of(study: Path) -> Spread:
    """The spread of the paired differences from the constant dose in a finished comparison.

    Variances within the rows of seeds, and between their means less what patients put there, are averaged
    over the runs (one-way analysis of variance).

    Raises:
        UserError: no finished comparison, or one without estimated constant dose or with one seed.
    """
    if not (study / TABLE).is_file():
        raise UserError(f"{study} holds no finished comparison (no {TABLE}) to take a spread from.")
    rows = [d for run in find_runs(study) if (d := _difference(run)) is not None]
    if not rows:
        raise UserError(f"no run in {study} with two seeds and an estimated constant dose tells a spread.")
    within = np.array([float(d.var(1, ddof=1).mean()) for d in rows])
    between = np.array([float(d.mean(1).var(ddof=1)) for d in rows])
    between = np.maximum(between - within / np.array([d.shape[1] for d in rows]), 0.0)
    words = f"measured in {len(rows)} runs of {study.name}"
    return Spread(math.sqrt(within.mean()), math.sqrt(between.mean()), words)


def _difference(run: RunFolder) -> Array | None:
    """Returns of recommended doses less those of the constant dose ``[S, P]``; None where there are none."""
    kept = references_of(run)
    if kept is None or "estimated" not in kept or not (run.path / EPISODES).is_file():
        return None
    own, base = read_outcomes(run.path / EPISODES)["recommended"].returns, kept["estimated"].returns
    return own - base if own.shape == base.shape and len(own) > 1 and own.shape[1] > 1 else None


def _of_constant(file: Path, study: Path, asked: Asked, patients: int) -> Spread | str:
    """The spread of the returns of the constant dose; why there is none where rewards tell no dose."""
    baseline = Baseline.of(visits_of(file, study, asked.training.stream).sample)
    if baseline.dose is None:
        return f"no constant dose is estimated from these visits to compare with: {baseline.missing}"
    count = min(patients, MOST_PATIENTS)
    if count < 2:
        return "one patient tells no spread"
    outcome = rollout(evaluable(file), constant(baseline.dose), asked.seeds, count)
    sd = math.sqrt(float(outcome.returns.var(1, ddof=1).mean()))
    return Spread(
        sd,
        0.0,
        f"the returns of the constant dose {baseline.dose:.3g} on {count:,} evaluation patients of each seed "
        "(holds where a policy's returns correlate with them by 0.5 or more); the spread between trainings "
        "is not known before there are any and is taken as 0: with it the least difference is larger. State "
        "it by --plan-sd, or take it from a finished study by --plan-from",
    )


def _runs(study: Path, asked: Asked, work: Work) -> list[str]:
    """Number of runs, their names, and who is left out."""
    files, setups = list(work.patients), [job.setup for job in work.jobs]
    setups = setups[: len(setups) // len(files)]
    named = [Candidate("", s.agent, s.config, s.regularisation) for s in setups]
    training, seeds, done = asked.training, len(asked.seeds), len(find_runs(study))
    lines = [
        f"{len(work.jobs)} runs in {study}: {len(setups)} agents and settings on {len(files)} data set"
        f"{'s' if len(files) > 1 else ''}, {seeds} seed{'s' if seeds > 1 else ''} together in each, "
        f"{training.steps:,} updates of {training.batch_size}"
        + (f", evaluated after {', '.join(map(str, asked.milestones))} too" if asked.milestones else "")
    ]
    lines += [f"  {name} ({family_of(one)})" for name, one in zip(run_names(named), named, strict=True)]
    for what, whom in (("is left out", work.left_out), ("has no thin row", work.not_thin)):
        lines += [f"  {registry.find(name).title} {what}: {why}" for name, why in whom.items()]
    if done:
        lines.append(f"  {done} finished runs are in the folder; those among them are not done again")
    return lines


def _detectable(spread: Spread, seeds: int, patients: int, count: int) -> list[str]:
    """The least difference of one comparison and of all together, and what it rests on."""
    if seeds == 1 and patients == 1:
        return ["  none: one patient of one seed has no spread"]
    size = {"seeds": seeds, "patients": patients}
    between = spread.seeds if seeds > 1 else 0.0
    error = standard_error(spread.patients, between, **size)
    each, all_ = (
        minimum_detectable_difference(spread.patients, between, **size, alpha=ALPHA / m, power=POWER)
        for m in (1, count)
    )
    dof = (seeds if seeds > 1 else patients) - 1
    lines = [f"  {each:.3g} for one comparison with the constant dose"]
    if count > 1:
        lines.append(f"  {all_:.3g} for the first of {count} comparisons (Holm's correction)")
    return [
        *lines,
        f"  two-sided t test at {ALPHA:g}, power {POWER:g}, {dof} degrees of freedom: noncentral t times the "
        f"standard error {error:.3g} = sqrt(sd between seeds^2 / S + sd between patients^2 / (S P)), S = "
        f"{seeds}, P = {patients:,}",
        f"  assumed: sd between patients {spread.patients:.3g}, between seeds {between:.3g}, of the paired "
        f"difference; source: {spread.source}",
    ]
