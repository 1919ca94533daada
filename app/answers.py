"""What every chosen policy says about one state, through the guarded door and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.theme import Mark, mark
from dosing.policy import DosePolicy
from dosing.recommendation import Recommendation, recommend
from dosing.safety import DoseLimits

Array = npt.NDArray[np.float64]

POINTS = 401
"""Grid points over the whole dose axis; each seed's own interval gets further ones."""


@dataclass(frozen=True)
class Source:
    """A policy to ask: its name on screen, the policy, its limits and what it rests on."""

    name: str
    family: str
    policy: DosePolicy
    limits: DoseLimits
    obs_names: tuple[str, ...]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One policy's recommendation, with how it is drawn.

    Attributes:
        source: the policy that was asked.
        mark: colour, dash and marker.
        found: dose or refusal.
        outside_sparse: probability outside the interval of the sparse policy on screen, largest over dose
            dimensions; None without one or after a refusal.
    """

    source: Source
    mark: Mark
    found: Recommendation
    outside_sparse: float | None


@dataclass(frozen=True)
class Curve:
    """Densities of one policy over one dose dimension: the policy's own, and others by name."""

    dose: Array
    density: Array
    extra: dict[str, Array]


def sparse_of(answers: Sequence[Answer]) -> Answer | None:
    """The first answer with a bounded support: the interval the others are measured against."""
    return next((a for a in answers if a.found.bounded), None)


def ask(sources: Sequence[Source], state: Sequence[Any]) -> list[Answer]:
    """Ask every policy for a recommendation at one state.

    Args:
        sources: the policies, in the order of their marks.
        state: as many numbers as the scenario observes; anything else is refused by the door.
    """
    answers = [
        Answer(
            source,
            mark(index),
            recommend(
                source.policy,
                source.limits,
                state,
                obs_names=source.obs_names,
                provenance=source.provenance,
            ),
            None,
        )
        for index, source in enumerate(sources)
    ]
    sparse = sparse_of(answers)
    if sparse is None or sparse.found.support is None:
        return answers
    low, high = (np.asarray(edge) for edge in sparse.found.support)
    return [
        Answer(a.source, a.mark, a.found, _mass_outside(a, low, high) if a.found.dose else None)
        for a in answers
    ]


def _mass_outside(answer: Answer, low: Array, high: Array) -> float:
    """Mean over seeds of the probability outside the interval, largest over dose dimensions."""
    policy = answer.source.policy
    obs = np.broadcast_to(_obs(answer.found), (len(policy.seeds), 1, len(answer.found.state)))
    return float(policy.mass_outside(obs, low, high).mean((0, 1)).max())


def _obs(found: Recommendation) -> npt.NDArray[np.float32]:
    return np.asarray(found.state, dtype=np.float32)


def dose_range(answers: Sequence[Answer], dimension: int) -> tuple[float, float]:
    """Ends of the dose axis: the hard limits with a margin, widened to the intervals on screen.

    It never reaches further than one width of the limits beyond each limit, so that a very wide law cannot
    shrink what lies between the limits to a sliver; numbers beside the chart stay complete.
    """
    limits = answers[0].source.limits
    low, high = limits.low[dimension], limits.high[dimension]
    width = high - low
    ends = [a.found.support for a in answers if a.found.support is not None]
    left = min([low - 0.1 * width, *(e[0][dimension] - 0.05 * width for e in ends)])
    right = max([high + 0.1 * width, *(e[1][dimension] + 0.05 * width for e in ends)])
    return max(left, low - width), min(right, high + width)


def curves(answers: Sequence[Answer], dimension: int) -> list[Curve | None]:
    """Density of every answer over the dose axis of one dimension; None after a refusal."""
    if not answers:
        return []
    left, right = dose_range(answers, dimension)
    return [_curve(a, dimension, left, right) if a.found.dose else None for a in answers]


def _curve(answer: Answer, dimension: int, left: float, right: float) -> Curve:
    # Each seed's own interval, densest at its ends: a bounded density leaves zero steeply there.
    fraction = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 61))
    own = [s.low[dimension] + (s.high[dimension] - s.low[dimension]) * fraction for s in answer.found.seeds]
    grid = np.unique(np.concatenate([np.linspace(left, right, POINTS), *own]))
    grid = grid[(grid >= left) & (grid <= right)]
    policy, obs = answer.source.policy, _obs(answer.found)
    middle = 0.5 * (np.asarray(answer.source.limits.low) + np.asarray(answer.source.limits.high))
    dose = np.tile(middle, (len(grid), 1))  # [K, A]
    dose[:, dimension] = grid
    extra = {name: y[:, dimension] for name, y in policy.extra_densities(obs, dose).items()}
    return Curve(grid, policy.density(obs, dose)[:, dimension], extra)
