"""What an agent believes about a patient: levels so far, and forecasts under two doses. No Streamlit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.analysis.course import Range
from app.analysis.recommendations import Answer
from app.analysis.regimens import DOSE, Strip
from app.theme import Mark
from dosing.errors import UserError
from dosing.recommendation.belief import ModelQuality, PatientBelief, belief_of, quality_of
from dosing.types import Array

WITHIN = 1.6448536269514722
"""Standard deviations on either side of the mean that hold 90 % of a normal distribution."""
AHEAD = 8
"""Most coming visits that are forecast: as far as forecasts of held-out patients were looked at."""


@dataclass(frozen=True)
class Band:
    """One quantity per marker over the visits: mean and 90 % interval, ``[V, O]`` each."""

    visits: Array
    mean: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, visits: Array, mean: Array, deviation: Array) -> Band:
        """The interval of normal distributions."""
        return cls(visits, mean, mean - WITHIN * deviation, mean + WITHIN * deviation)


@dataclass(frozen=True)
class Beliefs:
    """What one agent believes about one patient.

    Attributes:
        mark: of the agent.
        seen: ``[T, O]`` observed at the visits so far, the one on show last; NaN where it was not measured.
        level: behind each marker at these visits, from 1.
        recommended: coming observations if the dose that it proposes now were held.
        constant: the same under the constant dose.
    """

    mark: Mark
    seen: Array
    level: Band
    recommended: Band
    constant: Band


def beliefs(answer: Answer) -> Beliefs | None:
    """What the agent of an answer believes; None if it holds no belief, or its models are refused."""
    result, policy = answer.result, answer.policy
    if result.dose is None:
        return None
    seen = np.asarray([*(visit.state for visit in result.earlier or ()), result.state])
    now = len(seen)
    coming = _coming(policy.agent.problem.horizon, now)
    state = np.asarray(result.state)
    own = belief_of(policy, state, np.asarray(result.dose), coming)
    constant = belief_of(policy, state, None, coming)
    if own is None or constant is None:
        return None
    seen = np.where(own.recorded, seen, np.nan)
    after = np.arange(now + 1.0, now + coming + 1.0)

    def forecast(one: PatientBelief) -> Band:
        return Band.of(after, one.forecast, one.forecast_sd)

    level = Band.of(np.arange(1.0, now + 1.0), own.level, own.level_sd)
    return Beliefs(answer.mark, seen, level, forecast(own), forecast(constant))


def foreseen(
    answer: Answer, doses: Sequence[float], shown: Sequence[str], target: Range | None = None
) -> tuple[Strip, ...]:
    """What the agent of an answer forecasts under doses somebody chooses.

    Args:
        answer: on the visit at hand, after the visits before it.
        doses: visit by visit from the one at hand on, the last one kept.
        shown: names of the markers.
        target: range in which the marker of its name is to be kept.

    Raises:
        UserError: the agent holds no belief, its models are refused, or it was not asked with success.
    """
    result, policy, source = answer.result, answer.policy, answer.source
    now = 1 + len(result.earlier or ())
    coming = _coming(policy.agent.problem.horizon, now)
    given = np.asarray([*doses, *[doses[-1]] * coming], dtype=np.float64)[:coming, None]
    one = None if result.dose is None else belief_of(policy, np.asarray(result.state), given, coming)
    if one is None:
        raise UserError(f"{source.name} forecasts nothing here: it is refused, or holds no belief.")
    visits, entries = np.arange(coming + 1.0), source.recommender.rules.entries
    names, units = [entry.name for entry in entries], [entry.unit for entry in entries]
    band = Band.of(visits[1:], one.forecast, one.forecast_sd)
    rows = np.stack([band.low, band.mean, band.high])  # [3, K, O]
    start = np.broadcast_to(np.asarray(result.state, dtype=np.float64), (3, 1, rows.shape[2]))
    rows = np.concatenate([start, rows], axis=1)
    limits = (source.limits.low[0], source.limits.high[0])
    return (
        *(
            Strip(
                names[k],
                units[k],
                visits,
                rows[..., k],
                (5, 95),
                target=target.ends_of(names[k]) if target else None,
            )
            for k in (names.index(name) for name in shown)
        ),
        Strip(DOSE, source.limits.unit, visits[1:], given.T, None, limits, steps=True),
    )


def _coming(horizon: int | None, now: int) -> int:
    """How many visits after visit ``now`` are forecast."""
    return min(max((horizon or now + AHEAD) - now, 1), AHEAD)


def quality(answer: Answer) -> ModelQuality | None:
    """How good the agent's models are; None for one that holds no belief."""
    return quality_of(answer.source.policy)
