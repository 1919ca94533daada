"""Dosing rules that an evaluation compares: a constant dose, uniform doses, and following a policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dosing.evaluation.history_policy import HistoryPolicy
from dosing.policy import DosePolicy
from dosing.rng import generator
from dosing.safety import DoseLimits
from dosing.types import Act, Array, Observations


def consecutive(seeds: tuple[int, ...]) -> list[list[int]]:
    """Seeds in runs of consecutive numbers, which one environment can hold side by side."""
    groups: list[list[int]] = []
    for seed in seeds:
        if groups and seed == groups[-1][-1] + 1:
            groups[-1].append(seed)
        else:
            groups.append([seed])
    return groups


def following(policy: DosePolicy, *, sampled: bool = False, block: int = 0) -> Act:
    """The rule that gives the recommended dose, or draws one from the distribution.

    Args:
        policy: whose doses.
        sampled: draw them.
        block: which patients they are drawn for, where several stretches of them are treated in turn: each
            has draws of its own.
    """
    if policy.looks_back:
        return HistoryPolicy(policy, sampled=sampled, block=block)
    if sampled:
        return lambda obs, visit: policy.sampled(obs, visit, block=block)
    return lambda obs, visit: policy.recommended(obs)


def constant(dose: Sequence[float] | float) -> Act:
    """The rule that gives everyone the same dose."""
    value = np.atleast_1d(np.asarray(dose, dtype=np.float64))

    def act(obs: Observations, visit: int) -> Array:
        return np.broadcast_to(value, (*obs.shape[:2], len(value)))

    return act


def uniform(limits: DoseLimits, seeds: Sequence[int], block: int = 0) -> Act:
    """The rule that draws every dose uniformly within the limits; ``block`` as of :func:`following`."""
    low, high = np.asarray(limits.low), np.asarray(limits.high)

    def act(obs: Observations, visit: int) -> Array:
        address = (visit, block) if block else (visit,)
        draws = [generator(s, "evaluation", *address).random((obs.shape[1], len(low))) for s in seeds]
        return np.asarray(low + (high - low) * np.stack(draws))

    return act
