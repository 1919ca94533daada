"""The guarded recommender: the only way from a trained policy to a dose that a person sees.

A recommendation is an object, never a bare number. Its status follows from what was checked on the way:

* ``refused``: bad input, a policy whose numbers are not finite, or any failure inside. There is no dose.
* ``deferred``: the state is unlike the training visits, or no dose near this one was recorded at states like
  it (``dosing.recommendation.novelty``), or there is no monitor that could tell; or the seeds disagree: their
  doses spread too much beside the recorded ones, or their mean lies where no seed would dose; or no dose of
  the support is predicted to keep the cost budget that the agent was trained within. The dose is
  shown as what the policy says, not as advice.
* ``limited``: a hard limit, a step limit or a baseline limit changed the dose.
* ``ok``: none of these.

One state and a table of states pass through the same arithmetic: :func:`recommend`, :func:`recommend_all`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from dosing.data.earlier_visits import EarlierVisits
from dosing.errors import UserError
from dosing.recommendation.batch import as_observations, read_current_doses, recommend_all
from dosing.recommendation.explanations import failure_sentence, faults_inside, notes_on, reasons_in_words
from dosing.recommendation.inputs import as_tuple, echo, echoes, read_current, read_earlier, read_state
from dosing.recommendation.novelty import Monitor
from dosing.recommendation.reasons import REFUSES, STATUSES, Reason, reason_names
from dosing.recommendation.records import (
    MASS,
    Answers,
    EarlierVisit,
    NearVisit,
    Recommendation,
    Recommender,
    SeedSet,
)


def recommend(
    recommender: Recommender,
    state: Sequence[Any],
    current: Sequence[Any] | None = None,
    earlier: Sequence[EarlierVisit] | None = None,
) -> Recommendation:
    """Recommend a dose for one patient state, or refuse.

    Never raises for bad input or bad weights: the answer is then ``refused`` and carries the reasons.

    Args:
        recommender: policy, rules and monitor.
        state: as many numbers as the scenario observes.
        current: the dose given now, as many numbers as the dose has; needed where the scenario has a step
            limit and does not observe the current dose. After earlier visits it is the last dose of these.
        earlier: the visits of this patient before the one at hand, the first visit first; empty at a first
            visit. None if nothing is known of them: a policy that looks back then answers as at a first
            visit, and a note says so.
    """
    try:
        numbers, faults = read_state(recommender, state)
        before, wrong = read_earlier(recommender, earlier or ())
        faults += wrong
        if earlier and current is not None:
            sentence = "the current dose is the last dose of the earlier visits; it is not told once more."
            faults.append((Reason.CURRENT_DOSE, sentence))
        given, wrong = (None, []) if earlier else read_current(recommender.rules, current)
        faults += wrong
        if faults:
            return _refusal(recommender, state, current, earlier, faults)
        return _one(recommender, numbers, given, earlier, before)
    except Exception as error:  # the recommender fails closed, whatever failed behind it
        return _refusal(recommender, state, current, earlier, [(Reason.FAILED, failure_sentence(error))])


def _one(
    recommender: Recommender,
    state: tuple[float, ...],
    current: tuple[float, ...] | None,
    earlier: Sequence[EarlierVisit] | None,
    before: EarlierVisits,
) -> Recommendation:
    """The answer to one sound state, with everything that a page shows; ``before`` is ``earlier`` as read."""
    states = np.asarray(state, dtype=np.float64)[None]
    told = None if current is None else np.asarray(current)[None]
    visits = None if earlier is None else before
    result = recommend_all(recommender, states, told, visits)
    code = int(result.codes[0])
    if code & REFUSES:
        return _refusal(recommender, state, current, earlier, faults_inside(recommender, result))
    rules, monitor = recommender.rules, recommender.monitor
    (kind, bounded), proposed = result.kinds[0], result.proposed[0]
    policy = recommender.policy if visits is None else recommender.policy.after(visits.past())
    low, high = policy.central(as_observations(policy, states), MASS)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UserError("the policy's central interval is not finite; no dose is shown.")
    now = read_current_doses(rules, states, told, visits)
    around = rules.step.around(now[0]) if rules.step is not None and now is not None else None
    return Recommendation(
        status=STATUSES[int(result.status[0])],
        dose=as_tuple(result.dose[0]),
        proposed=as_tuple(proposed),
        unit=rules.limits.unit,
        limits=(rules.limits.low, rules.limits.high),
        kind=kind,
        bounded=bounded,
        support=(as_tuple(result.low[0]), as_tuple(result.high[0])),
        mass_outside=float(result.mass_outside[0]),
        seeds=_seed_sets(policy.seeds, result),
        reasons=reasons_in_words(recommender, result, code),
        state=state,
        provenance=dict(recommender.provenance),
        time=_now(),
        codes=reason_names(code),
        notes=notes_on(recommender, None if earlier is None else len(earlier)),
        current=None if now is None else as_tuple(now[0]),
        step=None if around is None else (as_tuple(around[0]), as_tuple(around[1])),
        central=(as_tuple(low[:, 0].min(0)), as_tuple(high[:, 0].max(0))),
        spread=as_tuple(result.spread[0]) if len(recommender.policy.seeds) > 1 else None,
        distance=float(result.distance[0, -1]) if monitor else None,
        threshold=monitor.threshold if monitor else None,
        recorded_near=(as_tuple(result.recorded_low[0]), as_tuple(result.recorded_high[0]))
        if monitor
        else None,
        dose_distance=float(result.dose_distance[0]) if monitor else None,
        dose_threshold=monitor.doses.threshold if monitor else None,
        nearest=_visits(monitor, result) if monitor else (),
        safe_default=rules.safe_default,
        earlier=tuple(earlier) if policy.looks_back and earlier is not None else None,
    )


def _seed_sets(seeds: Sequence[int], result: Answers) -> tuple[SeedSet, ...]:
    """What each seed says about the one row."""
    said = (column[:, 0] for column in (result.seed_dose, result.seed_low, result.seed_high))
    return tuple(SeedSet(seed, *map(as_tuple, one)) for seed, *one in zip(seeds, *said, strict=True))


def _refusal(
    recommender: Recommender,
    state: Any,
    current: Any,
    earlier: Sequence[EarlierVisit] | None,
    faults: Sequence[tuple[Reason, str]],
) -> Recommendation:
    limits, monitor = recommender.rules.limits, recommender.monitor
    return Recommendation(
        status="refused",
        dose=None,
        proposed=None,
        unit=limits.unit,
        limits=(limits.low, limits.high),
        kind=None,
        bounded=None,
        support=None,
        mass_outside=None,
        seeds=(),
        reasons=tuple(sentence for _, sentence in faults),
        state=echoes(state),
        provenance=dict(recommender.provenance),
        time=_now(),
        codes=tuple(str(reason.name).lower() for reason, _ in faults),
        current=None if current is None else echoes(current),
        threshold=monitor.threshold if monitor else None,
        dose_threshold=monitor.doses.threshold if monitor else None,
        safe_default=recommender.rules.safe_default,
        earlier=None if earlier is None else tuple(map(_echo, earlier)),
    )


def _echo(visit: EarlierVisit) -> EarlierVisit:
    """An earlier visit as JSON can carry it, whatever stands in it."""
    reward = None if visit.reward is None else echo(visit.reward)
    return EarlierVisit(echoes(visit.state), echoes(visit.dose), reward)


def _visits(monitor: Monitor, result: Answers) -> tuple[NearVisit, ...]:
    return tuple(
        NearVisit(
            int(monitor.episode[row]),
            int(monitor.step[row]),
            float(distance),
            as_tuple(monitor.obs[row]),
            as_tuple(monitor.act[row]),
            float(monitor.reward[row]),
        )
        for row, distance in zip(result.nearest[0], result.distance[0], strict=True)
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
