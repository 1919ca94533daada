"""What a table tells of a policy's doses at recorded visits, kept in the folder of its run.

It is measured where the run is evaluated, on the worker; so a table of a thousand runs loads none of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from dosing.errors import UserError
from dosing.evaluation.statistics import lower_tail
from dosing.policy import CENTRAL, DosePolicy, Observations
from dosing.runs.files import read_json, sha256, write_json
from dosing.runs.folder import WEIGHTS, RunFolder
from dosing.studies.data import STATES, episodes_of, recorded_states
from dosing.studies.launch import Launcher, none_lost
from dosing.studies.loading import policy_of
from dosing.typed_json import typed
from dosing.types import Array

DOSES = "doses.json"
TAIL = 0.05
"""Share of the patients, or of the foreseen returns, that makes the lower tail."""
EXACT = "exact support"
"""The ``width_kind`` of a bounded distribution."""
HALF_WIDTH, OUTSIDE_LIMITS = "half_width", "mass_outside_limits"
"""Names within ``DoseSets.by_seed``."""
TOGETHER = 64
"""Runs that one job sets beside another run."""


@dataclass(frozen=True)
class DoseSets:
    """Doses of a policy at recorded visits, means over visits and seeds; see the fields of ``Row``.

    Attributes:
        kind: what the dose set is, see ``DoseSet``.
        by_seed: half-width and mass outside the limits of every seed, means over visits.
        entropy: of every seed, mean over visits, see ``DosePolicy.entropy``; None where there is none.
        visits: recorded visits at which it was measured.
        outside: probability outside the intervals of another run, of every seed, mean over visits; by the
            hash of that one's weights.
    """

    half_width: float
    width_kind: str
    mass_outside_limits: float
    kind: str
    by_seed: Mapping[str, tuple[float, ...]]
    entropy: tuple[float, ...] | None
    visits: int
    foreseen: tuple[float, float] | None = None
    budget: float | None = None
    predicted_cost: float | None = None
    outside: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def interval(self) -> bool:
        """Whether the dose set is an exact interval: neither all doses nor a finite set of them."""
        return self.kind == "interval"


@dataclass(frozen=True)
class Kept:
    """What ``doses.json`` holds: the doses, and of which weights at how many visits they are."""

    weights: str
    states: int
    doses: DoseSets


def doses_at(policy: DosePolicy, states: Observations) -> DoseSets:
    """Measure the doses of a stack at recorded visits ``[B, O]``."""
    obs = _for_all(policy, states)
    sets, entropy = policy.dose_set(obs), policy.entropy(obs)
    return DoseSets(
        half_width=float(sets.half_width.mean()),
        width_kind=EXACT if sets.bounded else f"central {CENTRAL:.0%}",
        mass_outside_limits=float(sets.mass_outside.mean()),
        kind=sets.kind,
        by_seed={HALF_WIDTH: _over_visits(sets.half_width), OUTSIDE_LIMITS: _over_visits(sets.mass_outside)},
        entropy=None if entropy is None else _over_visits(entropy),
        visits=len(states),
        foreseen=_foreseen(policy, obs),
        budget=policy.cost_budget,
        predicted_cost=_predicted_cost(policy, obs),
    )


def mass_outside(policy: DosePolicy, interval: DosePolicy, states: Observations) -> tuple[float, ...]:
    """Mean probability ``[S]`` that a policy leaves outside the intervals of another with the same seeds."""
    sets = interval.dose_set(_for_all(interval, states))
    return _over_visits(policy.mass_outside(_for_all(policy, states), sets.low, sets.high))


def doses_of(run: RunFolder, policy: DosePolicy | None = None) -> DoseSets:
    """The doses of a finished run as its folder keeps them, measured where it keeps none of these weights.

    Args:
        run: the run.
        policy: its policy, where it is loaded already.

    Raises:
        UserError: the run is damaged, or its data have gone.
    """
    weights = sha256(run.path / WEIGHTS)
    if (kept := _kept(run)) is not None and (kept.weights, kept.states) == (weights, STATES):
        return kept.doses
    doses = doses_at(policy or policy_of(run), recorded_states(episodes_of(run)))
    write_json(run.path / DOSES, asdict(Kept(weights, STATES, doses)))
    return doses


@dataclass(frozen=True)
class BesideJob:
    """Runs to set beside the intervals of another one, all as paths from their study."""

    study: Path
    runs: tuple[str, ...]
    interval: str


def beside_interval(
    runs: Sequence[RunFolder], interval: RunFolder, launcher: Launcher | None = None
) -> list[tuple[float, ...]]:
    """Probability that each run leaves outside the intervals of one of them, kept in the runs' folders.

    Of every seed, mean over recorded visits.

    Args:
        runs: of one study and data set, with the same seeds.
        interval: the run whose dose sets are intervals.
        launcher: where many are measured; None is here.

    Raises:
        UserError: a run is damaged, or the data have gone.
    """
    return beside_intervals([(runs, interval)], launcher)[0]


def beside_intervals(
    groups: Sequence[tuple[Sequence[RunFolder], RunFolder]], launcher: Launcher | None = None
) -> list[list[tuple[float, ...]]]:
    """:func:`beside_interval` of several groups at once; no run is in two of them."""
    jobs = []
    for runs, interval in groups:
        weights, study = sha256(interval.path / WEIGHTS), interval.path.resolve().parents[2]
        missing = [run for run in runs if weights not in doses_of(run).outside]
        names = [os.path.relpath(run.path.resolve(), study) for run in (interval, *missing)]
        jobs += [
            BesideJob(study, tuple(names[start : start + TOGETHER]), names[0])
            for start in range(1, len(names), TOGETHER)
        ]
    if launcher is None or len(jobs) < 2:
        for job in jobs:
            measure_beside(job, 0)
    else:
        for _ in none_lost(launcher.map(measure_beside, jobs)):
            pass
    return [
        [doses_of(run).outside[sha256(interval.path / WEIGHTS)] for run in runs] for runs, interval in groups
    ]


def measure_beside(job: BesideJob, position: int) -> None:
    """Measure the runs of a job and keep what was found in their folders."""
    del position
    beside = RunFolder(job.study / job.interval)
    interval, states = policy_of(beside), recorded_states(episodes_of(beside))
    weights = sha256(beside.path / WEIGHTS)
    for run in (RunFolder(job.study / name) for name in job.runs):
        policy = policy_of(run)
        doses, mass = doses_of(run, policy), mass_outside(policy, interval, states)
        doses = replace(doses, outside={**doses.outside, weights: mass})
        write_json(run.path / DOSES, asdict(Kept(sha256(run.path / WEIGHTS), STATES, doses)))


def _kept(run: RunFolder) -> Kept | None:
    """What the folder keeps; None where there is nothing, or nothing that this version reads."""
    file = run.path / DOSES
    if not file.is_file():
        return None
    try:
        return typed(Kept, read_json(file), str(file))
    except UserError:
        return None


def _over_visits(values: Array) -> tuple[float, ...]:
    """Means ``[S]`` over visits and dose dimensions of ``[S, B, ...]``."""
    return tuple(values.reshape(len(values), -1).mean(1).tolist())


def _for_all(policy: DosePolicy, states: Observations) -> Observations:
    result: Observations = np.broadcast_to(states, (len(policy.seeds), *states.shape))
    return result


def _predicted_cost(policy: DosePolicy, obs: Observations) -> float | None:
    if policy.cost_budget is None:
        return None
    predicted = policy.predicted_cost(obs, policy.recommended(obs))
    return None if predicted is None else float(predicted.mean())


def _foreseen(policy: DosePolicy, obs: Observations) -> tuple[float, float] | None:
    returns = policy.returns(obs, policy.recommended(obs))
    if returns is None:
        return None
    return float(returns.mean()), float(lower_tail(returns, TAIL).mean())
