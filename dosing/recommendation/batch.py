"""Many states at once: the arithmetic behind every recommendation, in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dosing.agent import needs_rewards
from dosing.data.earlier_visits import EarlierVisits
from dosing.errors import UserError
from dosing.policy import DosePolicy, Observations
from dosing.recommendation.explanations import failure_sentence
from dosing.recommendation.inputs import LARGEST
from dosing.recommendation.novelty import Monitor
from dosing.recommendation.reasons import DISAGREEMENT, REFUSES, Reason
from dosing.recommendation.records import Answers, Recommender, Rules
from dosing.safety import BASELINE_LIMIT, CUMULATIVE_LIMIT
from dosing.types import Array

KEPT = 10
"""Rows of a table whose failure is kept as a sentence."""


SEEDS_OVER = 0.5
"""Share of the seeds without a dose within the cost budget from which a dose is deferred for it."""
ROWS = 1024
"""States that a policy is asked about at once: their activations stay in the processor's cache."""


def recommend_all(
    recommender: Recommender,
    states: Array,
    current: Array | None = None,
    earlier: EarlierVisits | None = None,
    *,
    workers: int = 1,
) -> Answers:
    """Answer M states at once; each row is what :func:`recommend` would say, up to rounding.

    A row that is refused refuses no other.

    Args:
        recommender: policy, rules and monitor.
        states: ``[M, O]``; a missing number is NaN and refuses its row.
        current: ``[M, A]`` the doses given now, likewise; see :func:`read_current_doses`.
        earlier: the visits before each state; None to treat every state as a first visit. A policy that looks
            back refuses a row with a bad number before it; a policy of the state alone does not see them.
        workers: processor cores for the search of near visits.

    Raises:
        UserError: the table has another width than the scenario observes, or earlier visits are told for
            another number of states.
    """
    rules, n_obs = recommender.rules, recommender.policy.agent.problem.n_obs
    states = np.asarray(states, dtype=np.float64)
    if states.ndim != 2 or states.shape[1] != n_obs:
        raise UserError(f"states must have {n_obs} numbers each, got shape {states.shape}.")
    if earlier is not None:
        _check_widths(recommender, earlier, len(states))
    result = Answers.blank(recommender, len(states))
    for reason, bad in zip(
        (Reason.NOT_FINITE, Reason.OUT_OF_RANGE), _bad_entries(rules, states), strict=True
    ):
        result.codes[bad.any(1)] |= reason
    given = read_current_doses(rules, states, current, earlier)
    if given is not None:
        result.codes[~rules.limits.contains(given)] |= Reason.CURRENT_DOSE
    elif rules.step is not None:
        result.codes[:] |= Reason.CURRENT_DOSE
    if not recommender.policy.looks_back:
        earlier = None
    good = np.flatnonzero(result.codes == 0)
    groups = [good]
    if earlier is not None:
        result.codes[unusable(recommender, earlier)] |= Reason.EARLIER_VISITS
        groups = list(earlier.alike(np.flatnonzero(result.codes == 0)))
    asked = _Asked(recommender, states, given, earlier, workers)
    for group in groups:
        for start in range(0, len(group), ROWS):
            _fill(asked, result, group[start : start + ROWS])
    result.forget((result.codes & int(REFUSES)) != 0)
    return result


@dataclass(frozen=True)
class _Asked:
    """Everything that one table asks, see :func:`recommend_all`."""

    recommender: Recommender
    states: Array
    current: Array | None
    earlier: EarlierVisits | None
    workers: int


def _check_widths(recommender: Recommender, earlier: EarlierVisits, states: int) -> None:
    """Refuse earlier visits of another task or another table.

    Raises:
        UserError: their columns or rows are not as many as they must be.
    """
    problem = recommender.policy.agent.problem
    told = (len(earlier), *earlier.obs.shape[1:], *earlier.dose.shape[1:])
    if told != (states, problem.n_obs, problem.n_act):
        raise UserError(
            f"earlier visits must be told for {states} state(s), with {problem.n_obs} observation(s) and "
            f"{problem.n_act} dose(s) each; got {told[0]}, with {earlier.obs.shape[1:]} and "
            f"{earlier.dose.shape[1:]}."
        )


def unusable(recommender: Recommender, earlier: EarlierVisits) -> NDArray[np.bool_]:
    """Which states ``[M]`` have a bad number before them, or more visits than the policy knows episodes of.

    Bad is what refuses a state, a dose that is missing or outside the hard limits, and a missing reward where
    the policy needs rewards.
    """
    rules, agent = recommender.rules, recommender.policy.agent
    wild, outside = _bad_entries(rules, earlier.obs)
    bad = (wild | outside).any(1) | ~rules.limits.contains(earlier.dose)
    if needs_rewards(agent):
        bad |= ~np.isfinite(earlier.reward)
    result = earlier.any_before(bad)
    horizon = agent.problem.horizon
    return result if horizon is None else result | (earlier.count >= horizon)


def _fill(asked: _Asked, result: Answers, rows: NDArray[np.int64]) -> None:
    """Answer these rows; where that fails, in halves, until the rows that fail stand alone."""
    try:
        _answer(asked, result, rows)
    except Exception as error:  # the recommender fails closed, whatever failed behind it
        if len(rows) > 1:
            for half in np.array_split(rows, 2):
                _fill(asked, result, half)
            return
        result.codes[rows] = Reason.FAILED
        if len(result.failures) < KEPT:
            result.failures[int(rows[0])] = failure_sentence(error)


def _answer(asked: _Asked, result: Answers, rows: NDArray[np.int64]) -> None:
    """Ask the policy about these rows, which are sound, and write what it says, within limits, into them."""
    recommender, states = asked.recommender, asked.states[rows]
    policy, rules, limits = recommender.policy, recommender.rules, recommender.rules.limits
    if asked.earlier is not None:
        policy = policy.after(asked.earlier[rows].past())
    doses, sets = policy.consult(
        as_observations(policy, states), np.asarray(limits.low), np.asarray(limits.high)
    )
    shape = (len(policy.seeds), len(rows), limits.n_act)
    said = {"dose": doses, "low": sets.low, "high": sets.high, "mass": sets.mass_outside}
    for what, values in said.items():
        if np.shape(values) != shape:
            raise UserError(
                f"the policy's {what} has shape {np.shape(values)}, not {shape}; no dose is shown."
            )
    finite = np.isfinite(np.stack(list(said.values()))).all((0, 1, 3))  # [M]
    with np.errstate(all="ignore"):
        proposed = doses.mean(0)
        spread = doses.std(0, ddof=1) if len(doses) > 1 else np.full_like(proposed, np.nan)
    finite &= np.isfinite(spread).all(1) | (len(doses) == 1)  # finite doses may be too large for a mean
    codes = np.where(finite, 0, int(Reason.POLICY_NOT_FINITE))
    _tell_what_is_not_finite(result, policy.seeds, said, finite, rows)
    dose, held = limits.deliver(np.where(finite[:, None], proposed, limits.low))
    codes |= np.where(held > 0, int(Reason.HARD_LIMIT), 0)
    if rules.step is not None:
        dose, held_back = rules.step.deliver(dose, None if asked.current is None else asked.current[rows])
        codes |= np.where(held_back, int(Reason.STEP_LIMIT), 0)
    if rules.baseline is not None:
        observed = _observed(rules, states, (rules.baseline.baseline, rules.baseline.load), "baseline limit")
        dose, by = rules.baseline.deliver(dose, observed)
        codes |= np.where(by == BASELINE_LIMIT, int(Reason.BASELINE_LIMIT), 0)
        codes |= np.where(by == CUMULATIVE_LIMIT, int(Reason.CUMULATIVE_LIMIT), 0)
    codes |= np.where(limits.contains(dose), 0, int(Reason.LEFT_LIMITS))

    if (monitor := recommender.monitor) is None:
        codes |= int(Reason.NO_MONITOR)
    else:
        codes |= _compare_with_records(monitor, result, states, dose.astype(np.float64), rows, asked.workers)
        if len(doses) > 1:
            usual = np.asarray(monitor.dose_spread)
            apart = (spread > DISAGREEMENT * usual) & (usual > 0.0)
            codes |= np.where(apart.any(1), int(Reason.SEEDS_APART), 0)
    codes |= np.where(_between(sets.low, sets.high, proposed), int(Reason.BETWEEN_SEEDS), 0)
    if (over := policy.over_budget(as_observations(policy, states))) is not None:
        codes |= np.where(over.mean(0) >= SEEDS_OVER, int(Reason.OVER_BUDGET), 0)

    result.codes[rows] = codes
    result.dose[rows], result.proposed[rows], result.spread[rows] = dose, proposed, spread
    result.low[rows], result.high[rows] = sets.low.min(0), sets.high.max(0)
    with np.errstate(all="ignore"):  # a mass that is not finite was refused above
        result.mass_outside[rows] = sets.mass_outside.mean(0).max(-1)
    result.seed_dose[:, rows], result.seed_low[:, rows], result.seed_high[:, rows] = (
        doses,
        sets.low,
        sets.high,
    )
    result.kinds[:] = [(sets.kind, sets.bounded)]


def _tell_what_is_not_finite(
    result: Answers,
    seeds: tuple[int, ...],
    said: Mapping[str, Array],
    finite: NDArray[np.bool_],
    rows: NDArray[np.int64],
) -> None:
    """Name the seeds whose numbers are not finite, for the first few rows."""
    for row in np.flatnonzero(~finite)[: KEPT - len(result.failures)]:
        good = [np.isfinite(values[:, row]).all(-1) for values in said.values()]
        damaged = [seed for seed, fine in zip(seeds, np.all(good, axis=0), strict=True) if not fine]
        result.failures[int(rows[row])] = (
            f"the policy's dose is not finite for seed(s) {damaged}: its weights are damaged, or the state "
            "is beyond anything it can compute with."
        )


def _compare_with_records(
    monitor: Monitor, result: Answers, states: Array, dose: Array, rows: NDArray[np.int64], workers: int
) -> NDArray[np.int64]:
    """Write how far states and doses are from recorded ones; reasons ``[M]`` where they are too far."""
    look = monitor.look(states, dose, workers=workers)
    result.distance[rows], result.nearest[rows] = look.distance, look.nearest
    result.dose_distance[rows] = look.dose_distance
    result.recorded_low[rows], result.recorded_high[rows] = look.recorded_low, look.recorded_high
    unfamiliar = np.where(look.distance[:, -1] <= monitor.threshold, 0, int(Reason.UNFAMILIAR))
    unrecorded = np.where(look.dose_distance <= monitor.doses.threshold, 0, int(Reason.UNRECORDED_DOSE))
    return np.asarray(unfamiliar | unrecorded, dtype=np.int64)


def _between(low: Array, high: Array, proposed: Array) -> NDArray[np.bool_]:
    """Whether the mean ``[M, A]`` lies in no seed's own interval ``[S, M, A]``, in some dimension: ``[M]``.

    Never where no seed has an interval: deterministic seeds are apart by nature, their spread is judged.
    """
    if len(low) == 1:
        return np.zeros(len(proposed), dtype=np.bool_)
    inside = np.any((low <= proposed) & (proposed <= high), axis=0)
    between: NDArray[np.bool_] = np.any(~inside & np.any(low < high, axis=0), axis=1)
    return between


def _bad_entries(rules: Rules, states: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which entries ``[M, O]`` are not finite, and which of the others the scenario card calls impossible."""
    wild = ~(np.abs(states) <= LARGEST)
    if not rules.entries:
        return wild, np.zeros_like(wild)
    if len(rules.entries) != states.shape[1]:
        raise UserError(
            f"the scenario card names {len(rules.entries)} observations, the policy sees {states.shape[1]}."
        )
    low, high = np.array([(entry.low, entry.high) for entry in rules.entries]).T
    return wild, ~wild & ((states < low) | (states > high))


def read_current_doses(
    rules: Rules, states: Array, current: Array | None, earlier: EarlierVisits | None = None
) -> Array | None:
    """The doses given now ``[M, A]``: as told, else as observed, else the last one before; None if none."""
    if current is not None:
        told = np.asarray(current, dtype=np.float64)
        if told.shape != (len(states), rules.limits.n_act):
            raise UserError(
                f"there must be {rules.limits.n_act} current dose(s) per state, got shape {told.shape}."
            )
        return told
    observed = _observed_doses(rules, states)
    if observed is not None or rules.step is None or earlier is None:
        return observed
    return earlier.last_dose(np.full((len(states), rules.limits.n_act), np.nan))


def _observed_doses(rules: Rules, states: Array) -> Array | None:
    """The doses given now ``[M, A]`` where they are observed."""
    if rules.step is None or not rules.step.current:
        return None
    return rules.step.observed(_observed(rules, states, rules.step.current, "step limit"))


def _observed(rules: Rules, states: Array, wanted: Sequence[str], limit: str) -> Array:
    """The entries of states ``[M, O]`` that a limit reads, ``[M, len(wanted)]``."""
    names = [entry.name for entry in rules.entries]
    try:
        return states[:, [names.index(name) for name in wanted]]
    except ValueError:
        raise UserError(
            f"the {limit} reads {list(wanted)}, which the scenario card does not observe."
        ) from None


def as_observations(policy: DosePolicy, states: Array) -> Observations:
    """States ``[M, O]`` for every seed, ``[S, M, O]``."""
    return np.broadcast_to(states.astype(np.float32), (len(policy.seeds), *states.shape))
