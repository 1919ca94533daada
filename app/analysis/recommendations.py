"""What every chosen policy says about one state, through the guarded recommender and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from app.theme import OTHER, Mark
from dosing.policy import DosePolicy
from dosing.recommendation.audit_log import batch_content
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.dose_context import Evidence
from dosing.recommendation.inputs import visits_before
from dosing.recommendation.reasons import STATUSES
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import EarlierVisit, Recommendation, Recommender
from dosing.safety import DoseLimits
from dosing.studies.comparison_table import Row
from dosing.studies.evidence import evidence_of
from dosing.types import Array

POINTS = 401
"""Grid points over the whole dose axis; each seed's own interval gets further ones."""


@dataclass(frozen=True)
class Source:
    """A policy to ask: its name on screen, the recommender it is asked through and what it is worth.

    A reference is no trained policy but a clinic's own rule, to compare with. ``spelled`` is what the name
    stands for, with the distribution; ``family`` the distribution alone.
    """

    name: str
    family: str
    recommender: Recommender
    measured: Row | None = None
    reference: bool = False
    mark: Mark = OTHER
    spelled: str = ""

    @property
    def policy(self) -> DosePolicy:
        """The policy behind the recommender."""
        return self.recommender.policy

    @property
    def evidence(self) -> Evidence:
        """What following the policy was worth."""
        return evidence_of(self.measured, self.limits.unit)

    @property
    def limits(self) -> DoseLimits:
        """Hard dose limits."""
        return self.recommender.rules.limits

    @property
    def obs_names(self) -> tuple[str, ...]:
        """Names of the observed entries."""
        return tuple(entry.name for entry in self.recommender.rules.entries)


Piece = tuple[float, float]
"""One interval of doses."""


@dataclass(frozen=True)
class Answer:
    """One policy's recommendation.

    Attributes:
        source: the policy that was asked.
        result: dose or refusal.
        outside: probability below and above the hard limits per dose dimension, before any clipping, mean
            over seeds; None after a refusal, and for a rule.
        outside_sparse: probability outside the set of the sparse policy on screen, mean over seeds, largest
            over dose dimensions; None without one or after a refusal.
    """

    source: Source
    result: Recommendation
    outside: tuple[tuple[float, float], ...] | None = None
    outside_sparse: float | None = None

    @property
    def mark(self) -> Mark:
        """Colour, dash and marker of its policy."""
        return self.source.mark

    @property
    def policy(self) -> DosePolicy:
        """The policy as it was asked: after the visits that it looked back at."""
        policy, earlier = self.source.policy, self.result.earlier
        if self.result.dose is None or earlier is None:
            return policy
        return policy.after(visits_before(earlier, policy.agent.problem).past())

    def pieces(self, dimension: int) -> list[Piece]:
        """The doses that some seed could give: one interval, or several where the seeds are apart.

        Without a bounded support it is the one interval that holds every seed's central 99 %.
        """
        if self.result.support is None:
            return []
        if not self.result.bounded:
            return [(self.result.support[0][dimension], self.result.support[1][dimension])]
        merged: list[Piece] = []
        for low, high in sorted((s.low[dimension], s.high[dimension]) for s in self.result.seeds):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        return merged

    @property
    def point(self) -> bool:
        """Whether every seed gives one dose and no other: a deterministic policy."""
        return all(s.low == s.high for s in self.result.seeds)


@dataclass(frozen=True)
class DensityCurve:
    """Densities of one policy over one dose dimension: the policy's own, and others by name."""

    dose: Array
    density: Array
    extra: dict[str, Array]


@dataclass(frozen=True)
class Landmarks:
    """Doses of one dimension that policies' doses are compared with; None where one is not known.

    Attributes:
        given: delivered at this visit, as recorded.
        previous: delivered at the visit before.
        constant: for everyone, estimated from the recorded patients.
        near: lowest and highest recorded at the training visits nearest to this state.
    """

    given: float | None = None
    previous: float | None = None
    constant: float | None = None
    near: tuple[float, float] | None = None


def landmarks(
    answers: Sequence[Answer],
    dimension: int,
    given: Sequence[float] | None = None,
    previous: Sequence[float] | None = None,
) -> Landmarks:
    """What is known beside the answers to one state.

    Args:
        answers: what the policies say.
        dimension: of the dose.
        given: dose delivered at this visit ``[A]``; None for typed numbers.
        previous: likewise at the visit before; None at a first one.
    """
    near = next((a.result.recorded_near for a in answers if a.result.recorded_near is not None), None)
    single = answers[0].source.limits.n_act == 1  # a constant dose is estimated of one number alone
    constants = (a.source.evidence.constant for a in answers if single)
    return Landmarks(
        None if given is None else given[dimension],
        None if previous is None else previous[dimension],
        next((dose for dose in constants if dose is not None), None),
        None if near is None else (near[0][dimension], near[1][dimension]),
    )


def sparse_of(answers: Sequence[Answer]) -> Answer | None:
    """The first answer with a bounded interval: the one the others are measured against."""
    return next((a for a in answers if a.result.bounded and not a.point), None)


def ask(
    sources: Sequence[Source], state: Sequence[Any], earlier: Sequence[EarlierVisit] | None = None
) -> list[Answer]:
    """Ask every policy for a recommendation at one state.

    Args:
        sources: the policies.
        state: as many numbers as the scenario observes; anything else is refused by the recommender.
        earlier: the visits of the same patient before it; None if nothing is known of them.
    """
    answers = [
        one if one.result.dose is None else replace(one, outside=_outside_limits(one))
        for one in (Answer(s, recommend(s.recommender, state, earlier=earlier)) for s in sources)
    ]
    sparse = sparse_of(answers)
    if sparse is None:
        return answers
    return [replace(a, outside_sparse=_outside(a, sparse)) if a.result.dose else a for a in answers]


def by_target(answer: Answer, targets: Array) -> tuple[Array, dict[str, Any]]:
    """What the recommender says at an answer's state where the policy aims at other returns.

    Args:
        answer: of a policy that is conditioned on a return.
        targets: ``[K]`` returns to aim at.

    Returns:
        Doses ``[K, A]``, NaN where one was refused; and the content of their record in the audit log, without
        its provenance.
    """
    result, recommender = answer.result, answer.source.recommender
    states = np.tile(np.asarray(result.state, dtype=np.float64), (len(targets), 1))
    current = None if result.current is None else np.tile(np.asarray(result.current), (len(targets), 1))
    aimed = replace(recommender, policy=answer.source.policy.aimed_at(targets))
    asked, earlier = [states, targets], None
    if result.earlier is not None:
        before = visits_before(result.earlier, answer.source.policy.agent.problem)
        asked += before.past()
        earlier = before[np.zeros(len(targets), dtype=np.int64)]
    said = recommend_all(aimed, states, current, earlier)
    counts: dict[str, int] = {
        name: int((said.status == status).sum()) for status, name in enumerate(STATUSES)
    }
    return said.dose, batch_content(asked, said.dose, counts)


def _outside_limits(answer: Answer) -> tuple[tuple[float, float], ...]:
    """Mean over seeds of the probability below and above the hard limits, per dose dimension."""
    policy, limits = answer.policy, answer.source.limits
    obs = np.broadcast_to(_obs(answer.result), (len(policy.seeds), 1, len(answer.result.state)))
    far = np.full(limits.n_act, np.inf)
    below = policy.mass_outside(obs, np.asarray(limits.low), far)[:, 0].mean(0)
    above = policy.mass_outside(obs, -far, np.asarray(limits.high))[:, 0].mean(0)
    return tuple(zip(below.tolist(), above.tolist(), strict=True))


def _outside(answer: Answer, sparse: Answer) -> float:
    """Mean over seeds of the probability outside the sparse policy's set, largest over dose dimensions."""
    policy, width = answer.policy, answer.source.limits.n_act
    obs = np.broadcast_to(_obs(answer.result), (len(policy.seeds), 1, len(answer.result.state)))
    largest = 0.0
    for dimension in range(width):
        pieces = sparse.pieces(dimension)
        # Outside a union of k disjoint intervals: the sum of what is outside each, less k - 1.
        each = [policy.mass_outside(obs, np.full(width, lo), np.full(width, hi)) for lo, hi in pieces]
        outside = np.sum(each, axis=0)[:, 0, dimension] - (len(pieces) - 1)
        largest = max(largest, float(np.maximum(outside, 0.0).mean()))
    return largest


def _obs(result: Recommendation) -> npt.NDArray[np.float32]:
    return np.asarray(result.state, dtype=np.float32)


def dose_range(answers: Sequence[Answer], dimension: int) -> tuple[float, float]:
    """Ends of the dose axis: the hard limits with a margin, widened to the intervals on screen.

    It never reaches further than one width of the limits beyond each limit, so that a very wide distribution
    cannot shrink what lies between the limits to a sliver; numbers beside the chart stay complete.
    """
    limits = answers[0].source.limits
    low, high = limits.low[dimension], limits.high[dimension]
    width = high - low
    ends = [a.result.support for a in answers if a.result.support is not None]
    left = min([low - 0.1 * width, *(e[0][dimension] - 0.05 * width for e in ends)])
    right = max([high + 0.1 * width, *(e[1][dimension] + 0.05 * width for e in ends)])
    return max(left, low - width), min(right, high + width)


def curves(answers: Sequence[Answer], dimension: int) -> list[DensityCurve | None]:
    """Density of every answer over the dose axis of one dimension; None for a refusal and for a point."""
    if not answers:
        return []
    left, right = dose_range(answers, dimension)
    return [
        _curve(a, dimension, left, right) if a.result.dose and a.policy.has_density(_obs(a.result)) else None
        for a in answers
    ]


def _curve(answer: Answer, dimension: int, left: float, right: float) -> DensityCurve:
    # Each seed's own interval, densest at its ends: a bounded density leaves zero steeply there.
    fraction = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 61))
    own = [s.low[dimension] + (s.high[dimension] - s.low[dimension]) * fraction for s in answer.result.seeds]
    grid = np.unique(np.concatenate([np.linspace(left, right, POINTS), *own]))
    grid = grid[(grid >= left) & (grid <= right)]
    policy, obs = answer.policy, _obs(answer.result)
    middle = 0.5 * (np.asarray(answer.source.limits.low) + np.asarray(answer.source.limits.high))
    dose = np.tile(middle, (len(grid), 1))  # [K, A]
    dose[:, dimension] = grid
    extra = {name: y[:, dimension] for name, y in policy.extra_densities(obs, dose).items()}
    return DensityCurve(grid, policy.density(obs, dose)[:, dimension], extra)
