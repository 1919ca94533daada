"""Tails of two distributions on one dose axis, and what their evaluated patients paid. No Streamlit here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import agents
from app.analysis.recommendations import POINTS, Answer, dose_range
from app.readers.study import Run
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.statistics import Estimate, cvar, mean_over_seeds, paired_difference
from dosing.studies import presets
from dosing.types import Array

CONTRAST = "sparse-vs-gaussian"
"""Preset that trains every agent with several distributions, which differ and nothing else."""
SHARES = (0.01, 0.05, 0.1)
"""Shares of the patients that are called the worst: the smallest that holds one patient of every seed."""


def is_sparse(run: Run) -> bool:
    """Whether the distribution of a run's policy has a bounded interval as support."""
    return "sparse" in run.family


def is_gaussian(run: Run) -> bool:
    """Whether the distribution of a run's policy is a Gaussian, clipped or squashed."""
    return "Gaussian" in run.family and not is_sparse(run)


def differ_in_distribution_only(one: Run, other: Run) -> bool:
    """Whether two runs differ in their policy's distribution only, as those of :data:`CONTRAST` do.

    A sparse law that is distilled from a policy leaves all else about the agent as it is.
    """
    contrast = presets.find(CONTRAST).contrast
    distribution = contrast.settings if contrast else set()

    def rest(run: Run) -> dict[str, object]:
        own = {name: value for name, value in run.config.agent_config.items() if name not in distribution}
        kept = ("agent", "seeds", "training", "transform")
        fat = replace(run.config.regularisation, thin=None)
        alike = {name: getattr(run.config, name) for name in kept}
        return alike | {"settings": own, "regularisation": fat, "data": run.data}

    return rest(one) == rest(other)


def beside(sparse: Run, others: Sequence[Run]) -> int | None:
    """Position of the run to set a sparse one beside; None where none differs in its distribution only.

    Of several it is the policy that the sparse law was distilled from.
    """
    alike = [k for k, run in enumerate(others) if differ_in_distribution_only(sparse, run)]
    source = [k for k in alike if others[k].config.agent_config == sparse.config.agent_config]
    return next(iter(source or alike), None)


def default_pair(sparse: Sequence[Run], others: Sequence[Run]) -> tuple[int, int]:
    """Positions of the two runs to begin with: a pair that differs in its distribution only, if any."""
    for i, one in enumerate(sparse):
        if (j := beside(one, others)) is not None:
            return i, j

    def place(runs: Sequence[Run], agent: str) -> int:
        return next((k for k, run in enumerate(runs) if run.config.agent == agent), 0)

    return place(sparse, agents.DEMO[0]), place(others, agents.DEMO[1])


@dataclass(frozen=True)
class Tails:
    """How probable doses as extreme as K given ones are under one agent's distribution.

    Attributes:
        answer: the agent and its recommendation.
        dose: ``[K]`` ascending, in dose units.
        mass: ``[S, K]``: probability of a dose at least as far out on the same side of the seed's own
            recommended dose, before any clipping; exactly 0 beyond a bounded support.
    """

    answer: Answer
    dose: Array
    mass: Array

    @property
    def mean(self) -> Array:
        """Mean over seeds ``[K]``."""
        return np.asarray(self.mass.mean(0))


def tails(answers: Sequence[Answer], dimension: int) -> list[Tails]:
    """Tails of every answer with a dose over the dose axis that they share."""
    left, right = dose_range(answers, dimension)
    result = []
    for answer in answers:
        if answer.result.dose is None:
            continue
        limits = [limit[dimension] for limit in answer.result.limits]
        fraction = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 121))  # densest at the ends of a support
        own = [
            seed.low[dimension] + (seed.high[dimension] - seed.low[dimension]) * fraction
            for seed in answer.result.seeds
        ]
        grid = np.unique(np.concatenate([np.linspace(left, right, POINTS), limits, *own]))
        grid = grid[(grid >= left) & (grid <= right)]
        result.append(Tails(answer, grid, _mass(answer, grid, dimension)))
    return result


def _mass(answer: Answer, grid: Array, dimension: int) -> Array:
    policy, state = answer.policy, np.asarray(answer.result.state, dtype=np.float32)
    width, seeds = answer.source.limits.n_act, len(policy.seeds)
    obs = np.broadcast_to(state, (seeds, len(grid), len(state)))
    edge, end = np.tile(grid[:, None], (1, width)), np.full((len(grid), width), np.inf)
    below = policy.mass_outside(obs, edge, end)[..., dimension]
    above = policy.mass_outside(obs, -end, edge)[..., dimension]
    own = np.array([[seed.dose[dimension]] for seed in answer.result.seeds])
    return np.where(grid < own, below, above)


def outside(answer: Answer, low: Sequence[float], high: Sequence[float]) -> Array:
    """Probability ``[S]`` outside an interval of doses at the answer's state, largest over dimensions."""
    policy, state = answer.policy, np.asarray(answer.result.state, dtype=np.float32)
    obs = np.broadcast_to(state, (len(policy.seeds), 1, len(state)))
    return np.asarray(policy.mass_outside(obs, np.asarray(low), np.asarray(high))[:, 0].max(-1))


@dataclass(frozen=True)
class Paid:
    """What giving doses by one rule cost an agent's evaluated patients.

    Attributes:
        cost: safety cost of a patient.
        worst: mean return of the worst :func:`worst_share` of the patients; None where that is nobody.
        limited: per cent of a patient's doses held at a hard limit.
    """

    cost: Estimate
    worst: Estimate | None
    limited: Estimate


def worst_share(patients: int) -> float | None:
    """The smallest of :data:`SHARES` that holds a whole patient."""
    return next((share for share in SHARES if share * patients >= 1.0), None)


def paid(outcome: Outcomes) -> Paid:
    """Measure one rule's outcomes.

    Raises:
        UserError: they have no interval, such as one patient of one seed.
    """
    share = worst_share(outcome.returns.shape[1])
    return Paid(
        mean_over_seeds(outcome.cost),
        cvar(outcome.returns, share) if share else None,
        mean_over_seeds(100.0 * outcome.limited),
    )


def differences(
    first: Mapping[str, Outcomes], second: Mapping[str, Outcomes], rule: str
) -> dict[str, Estimate]:
    """The first agent minus the second under one rule, paired by patient; by measure.

    Raises:
        UserError: they were evaluated on different patients.
    """
    one, other = first[rule], second[rule]
    if one.seeds != other.seeds or one.returns.shape != other.returns.shape:
        raise UserError("they were evaluated on different patients, so their difference is not paired.")
    return {
        "return": paired_difference(one.returns, other.returns),
        "cost": paired_difference(one.cost, other.cost),
    }
