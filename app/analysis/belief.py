"""What an agent believes about a patient: levels so far, and forecasts under two doses. No Streamlit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.analysis.recommendations import Answer
from app.theme import Mark
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
        seen: ``[T, O]`` observed at the visits so far, the one on show last.
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
    horizon = policy.agent.problem.horizon or now + AHEAD
    coming = min(max(horizon - now, 1), AHEAD)
    state = np.asarray(result.state)
    own = belief_of(policy, state, np.asarray(result.dose), coming)
    constant = belief_of(policy, state, None, coming)
    if own is None or constant is None:
        return None
    after = np.arange(now + 1.0, now + coming + 1.0)

    def forecast(one: PatientBelief) -> Band:
        return Band.of(after, one.forecast, one.forecast_sd)

    level = Band.of(np.arange(1.0, now + 1.0), own.level, own.level_sd)
    return Beliefs(answer.mark, seen, level, forecast(own), forecast(constant))


def quality(answer: Answer) -> ModelQuality | None:
    """How good the agent's models are; None for one that holds no belief."""
    return quality_of(answer.source.policy)
