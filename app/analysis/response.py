"""What agents believe every allowed dose to be worth at one state. No Streamlit here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.analysis.recommendations import Answer
from dosing.evaluation.statistics import lower_tail
from dosing.recommendation.records import Recommender
from dosing.studies.dose_sets import TAIL
from dosing.types import Array

POINTS = 81
"""Doses from one hard limit to the other, at which a critic is asked."""
BAND = (0.1, 0.9)
"""Probabilities between which the band of a learned distribution of returns lies."""
NEAR = 30
"""Training visits nearest to the state whose doses are shown."""
CHUNK = 16
"""Doses that a distribution of returns is asked about at once."""


@dataclass(frozen=True)
class ReturnsAtDoses:
    """A learned distribution of the discounted return over K doses.

    Attributes:
        low: its 10 % quantile ``[K]``, the seeds' distributions mixed.
        high: its 90 % quantile ``[K]``.
        worst: mean of its worst 5 % for each seed ``[S, K]``.
    """

    low: Array
    high: Array
    worst: Array


@dataclass(frozen=True)
class DoseResponse:
    """What one agent believes of K doses in one dimension; in the others it gives its recommended dose.

    Attributes:
        answer: the agent and its recommendation.
        dose: ``[K]`` in dose units, ascending, from hard limit to hard limit.
        value: believed discounted return ``[S, K]``, in the world's reward unit.
        recommended: its recommended dose in this dimension, one of ``dose``.
        near: doses recorded at the training visits nearest to the state ``[M]``.
        distribution: its distribution of returns; None for an agent that learns no more than a mean.
    """

    answer: Answer
    dose: Array
    value: Array
    recommended: float
    near: Array
    distribution: ReturnsAtDoses | None

    @property
    def discount(self) -> float:
        """Discount of the believed return."""
        return self.answer.source.policy.agent.discount

    @property
    def mean(self) -> Array:
        """Value ``[K]``, mean over seeds."""
        return np.asarray(self.value.mean(0))

    @property
    def at_recommended(self) -> Array:
        """Value of the recommended dose ``[S]``."""
        return np.asarray(self.value[:, np.searchsorted(self.dose, self.recommended)])

    @property
    def best(self) -> Array:
        """The dose that each seed believes in most ``[S]``."""
        return np.asarray(self.dose[self.value.argmax(1)])


def respond(answer: Answer, dimension: int) -> DoseResponse | None:
    """Ask an agent's critic about the whole range of one dose dimension.

    Returns:
        None after a refusal, and for an agent without a critic of state and dose.
    """
    result, policy, limits = answer.result, answer.source.policy, answer.source.limits
    if result.dose is None:
        return None
    grid = np.linspace(limits.low[dimension], limits.high[dimension], POINTS)
    grid = np.union1d(grid, result.dose[dimension])
    dose = np.tile(np.asarray(result.dose), (len(grid), 1))
    dose[:, dimension] = grid
    seeds = len(policy.seeds)
    obs = np.broadcast_to(np.asarray(result.state, dtype=np.float32), (seeds, len(grid), len(result.state)))
    act = np.broadcast_to(dose, (seeds, *dose.shape))
    near = near_doses(answer.source.recommender, result.state)[:, dimension]
    distribution = None
    if policy.returns(obs[:, :1], act[:, :1]) is None:
        value = policy.values(obs, act)
    else:
        value, distribution = _distribution(answer, obs, act)
    if value is None:
        return None
    return DoseResponse(answer, grid, value, result.dose[dimension], near, distribution)


def near_doses(recommender: Recommender, state: Sequence[float]) -> Array:
    """Doses ``[M, A]`` recorded at the training visits nearest to a state; none without a monitor."""
    monitor = recommender.monitor
    if monitor is None:
        return np.empty((0, recommender.rules.limits.n_act))
    distance = np.linalg.norm((monitor.obs - np.asarray(state)) / monitor.scale, axis=1)
    doses: Array = monitor.act[np.argsort(distance, kind="stable")[:NEAR]].astype(np.float64)
    return doses


def _distribution(answer: Answer, obs: npt.NDArray[np.float32], act: Array) -> tuple[Array, ReturnsAtDoses]:
    """Mean ``[S, K]`` and distribution of the returns of ``act [S, K, A]``."""
    policy = answer.source.policy
    means, lows, highs, tails = [], [], [], []
    for start in range(0, act.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        returns = policy.returns(obs[:, part], act[:, part])
        assert returns is not None, "an agent learns a distribution at every dose or at none"
        means.append(returns.mean(-1))
        tails.append(lower_tail(returns, TAIL))
        low, high = np.quantile(returns, BAND, axis=(0, 2))
        lows.append(low)
        highs.append(high)
    distribution = ReturnsAtDoses(np.concatenate(lows), np.concatenate(highs), np.concatenate(tails, 1))
    return np.concatenate(means, 1), distribution


def without_critic(answers: Sequence[Answer], responses: Sequence[DoseResponse]) -> list[str]:
    """Names of the agents that gave a dose but value none."""
    valued = {id(response.answer) for response in responses}
    return [a.source.name for a in answers if a.result.dose is not None and id(a) not in valued]
