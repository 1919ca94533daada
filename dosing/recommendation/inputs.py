"""Reading a patient's state and the current dose, entry by entry, with every fault named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from dosing.agent import needs_rewards
from dosing.data.earlier_visits import EarlierVisits
from dosing.errors import UserError
from dosing.recommendation.reasons import Reason
from dosing.recommendation.records import EarlierVisit, Recommender, Rules, StateEntry
from dosing.recommendation.units import meant
from dosing.types import Problem

LARGEST = float(np.finfo(np.float32).max)
"""Largest number that a policy can be shown."""


Fault = tuple[Reason, str]
"""Why the recommender refuses, with its sentence."""


def read_state(recommender: Recommender, state: Any) -> tuple[tuple[float, ...], list[Fault]]:
    """Read a state as numbers; returns them with one fault per bad entry: what, value, allowed range, unit.

    Args:
        recommender: says how many numbers there have to be, and which are possible.
        state: a list, tuple or array of numbers or of texts that read as numbers.
    """
    return _read(state, _state_entries(recommender), "the state")


def _state_entries(recommender: Recommender) -> tuple[StateEntry, ...]:
    n_obs = recommender.policy.agent.problem.n_obs
    entries = recommender.rules.entries or tuple(StateEntry("") for _ in range(n_obs))
    if len(entries) != n_obs:
        raise UserError(f"the scenario card names {len(entries)} observations, the policy sees {n_obs}.")
    return entries


def read_earlier(
    recommender: Recommender, earlier: Sequence[EarlierVisit]
) -> tuple[EarlierVisits, list[Fault]]:
    """Read the visits before a state, oldest first; returns them with one fault per bad number.

    A policy of the state alone is told nothing but the last dose, so that nothing else can be wrong there.

    Args:
        recommender: policy, rules and monitor.
        earlier: what was seen, delivered and received; a reward is needed only where the policy needs it.
    """
    agent = recommender.policy.agent
    problem, states = agent.problem, _state_entries(recommender)
    doses = _dose_entries(recommender.rules)
    faults: list[Fault] = []
    if recommender.policy.looks_back and problem.horizon is not None and len(earlier) >= problem.horizon:
        sentence = f"this is visit {len(earlier) + 1}; the policy knows episodes of {problem.horizon} visits."
        faults.append((Reason.EARLIER_VISITS, sentence))
    for visit, one in enumerate(earlier, 1):
        found = _read(one.dose, doses, f"the dose of visit {visit}")[1]
        if recommender.policy.looks_back:
            found += _read(one.state, states, f"visit {visit}")[1]
            if needs_rewards(agent) and (one.reward is None or not math.isfinite(one.reward)):
                sentence = (
                    f"the reward of visit {visit} is missing: this policy aims at a return, and needs to "
                    "know what of it was received."
                )
                found.append((Reason.EARLIER_VISITS, sentence))
        faults += [(Reason.EARLIER_VISITS, sentence) for _, sentence in found]
    if faults:
        return EarlierVisits.none(1, problem.n_obs, problem.n_act), faults
    return visits_before(earlier, problem), []


def visits_before(earlier: Sequence[EarlierVisit], problem: Problem) -> EarlierVisits:
    """The sound visits before one state as columns, for a task of these sizes."""
    rewards = [math.nan if one.reward is None else one.reward for one in earlier]
    columns = ([one.state for one in earlier], [one.dose for one in earlier], rewards)
    obs, dose, reward = (np.asarray(column, dtype=np.float64) for column in columns)
    shaped = obs.reshape(-1, problem.n_obs), dose.reshape(-1, problem.n_act), reward
    return EarlierVisits(*shaped, np.zeros(1, np.int64), np.full(1, len(earlier)))


def read_current(rules: Rules, current: Any) -> tuple[tuple[float, ...] | None, list[Fault]]:
    """Read the current dose, as :func:`read_state`; None where it is not told."""
    entries = _dose_entries(rules)
    allowed = "; ".join(entry.allowed for entry in entries)
    if current is None:
        if rules.step is None or rules.step.current:
            return None, []
        return None, [
            (
                Reason.CURRENT_DOSE,
                f"the current dose is needed, because this scenario limits its change; allowed: {allowed}.",
            )
        ]
    numbers, faults = _read(current, entries, "the current dose")
    return numbers, [(Reason.CURRENT_DOSE, sentence) for _, sentence in faults]


def _dose_entries(rules: Rules) -> tuple[StateEntry, ...]:
    limits = rules.limits
    return tuple(
        StateEntry("", limits.unit, low, high) for low, high in zip(limits.low, limits.high, strict=True)
    )


def _read(given: Any, entries: Sequence[StateEntry], whole: str) -> tuple[tuple[float, ...], list[Fault]]:
    """Read as many finite numbers within their ranges as there are entries."""
    count = f"{len(entries)} number{'s' if len(entries) != 1 else ''}"
    table = isinstance(given, np.ndarray) and given.ndim != 1
    if table or not isinstance(given, Sequence | np.ndarray) or isinstance(given, str | bytes):
        sentence = f"{whole} must be a list of {count}, got a {type(given).__name__}."
        return (), [(Reason.WRONG_LENGTH, sentence)]
    if len(given) != len(entries):
        return (), [(Reason.WRONG_LENGTH, f"{whole} needs {count}, got {len(given)}.")]
    numbers, faults = [], []
    for place, (entry, value) in enumerate(zip(entries, given, strict=True), 1):
        name = f"{entry.name} (entry {place})" if entry.name else f"entry {place}"
        allowed = f"; allowed: {entry.allowed}" if entry.allowed else ""
        try:
            if isinstance(value, bool | np.bool_ | bytes) or (isinstance(value, str) and "_" in value):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError):
            sentence = f"{name} of {whole} must be a number, got {echo(value)!r}{allowed}."
            faults.append((Reason.NOT_A_NUMBER, sentence))
            continue
        except OverflowError:  # a whole number of more than 308 digits
            number = math.inf
        if not math.isfinite(number) or abs(number) > LARGEST:
            sentence = f"{name} of {whole} must be a finite number, got {echo(value)}{allowed}."
            faults.append((Reason.NOT_FINITE, sentence))
        elif not entry.low <= number <= entry.high:
            unit = meant(number, entry.unit, entry.low, entry.high)
            hint = f"; {unit}" if unit else ""
            sentence = f"{name} of {whole} must be {entry.allowed}, got {echo(value)}{hint}."
            faults.append((Reason.OUT_OF_RANGE, sentence))
        numbers.append(number)
    return tuple(numbers), faults


def as_tuple(values: Any) -> tuple[float, ...]:
    """Plain floats, for JSON."""
    return tuple(float(v) for v in values)


def echoes(state: Any) -> tuple[Any, ...]:
    """Whatever came in place of a state, as JSON can carry it; no more than the first 100 entries."""
    try:
        return (echo(state),) if isinstance(state, str) else tuple(echo(x) for x in islice(state, 100))
    except Exception:  # the recommender answers, whatever stands before it
        return (echo(state),)


def echo(value: Any) -> Any:
    """A value as JSON can carry it: usual numbers stay, all else becomes a short text."""
    if isinstance(value, int | float) and abs(value) < 1e300:
        return value
    try:
        return str(value)[:80]
    except Exception:
        return f"an unreadable {type(value).__name__}"
