"""What a policy of the study said, kept while the same can be asked again: a page is drawn again and again.

Everything is keyed by the hashes of the run and by all that was asked. What is kept has passed the guarded
recommender; it still has to be on record before it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import streamlit as st
import torch

from dosing.data.earlier_visits import Past
from dosing.policy import DosePolicy
from dosing.recommendation.inputs import visits_before
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import EarlierVisit, Recommendation, Recommender
from dosing.types import Observations


def recommendation(
    recommender: Recommender, state: Sequence[Any], earlier: Sequence[EarlierVisit] | None
) -> Recommendation:
    """What the guarded recommender says now; see ``dosing.recommendation.recommender.recommend``."""
    if not recommender.provenance:  # of no run: nothing tells it from another
        return recommend(recommender, state, earlier=earlier)
    asked = repr((list(state), None if earlier is None else list(earlier)))
    kept = _recommendation(str(recommender.provenance), asked, recommender, state, earlier)
    return replace(kept, time=datetime.now(UTC).isoformat(timespec="seconds"))


def policy_after(recommender: Recommender, earlier: Sequence[EarlierVisit]) -> DosePolicy:
    """The policy after a patient's earlier visits, which looks at each state once.

    Nobody trains it meanwhile: a run that changes has other hashes.
    """
    policy = recommender.policy
    if not policy.looks_back:
        return policy
    if not recommender.provenance:
        return policy.after(visits_before(earlier, policy.agent.problem).past())
    return _policy_after(str(recommender.provenance), repr(list(earlier)), recommender, earlier)


@st.cache_resource(show_spinner=False, max_entries=512)
def _recommendation(
    run: str,
    asked: str,
    _recommender: Recommender,
    _state: Sequence[Any],
    _earlier: Sequence[EarlierVisit] | None,
) -> Recommendation:
    if _earlier is not None and _recommender.policy.looks_back:
        told, one, earlier = repr(list(_earlier)), _recommender, _earlier
        policy = _Told(_recommender.policy, lambda: _policy_after(run, told, one, earlier))
        return recommend(replace(_recommender, policy=policy), _state, earlier=_earlier)
    return recommend(_recommender, _state, earlier=_earlier)


@st.cache_resource(show_spinner=False, max_entries=128)
def _policy_after(
    run: str, asked: str, _recommender: Recommender, _earlier: Sequence[EarlierVisit]
) -> DosePolicy:
    policy = _recommender.policy
    return _LooksOnce(policy.after(visits_before(_earlier, policy.agent.problem).past()))


class _Told(DosePolicy):
    """A policy that looks back: one look serves the dose and all that is said of it."""

    def __init__(self, policy: DosePolicy, look: Callable[[], DosePolicy]) -> None:
        vars(self).update(vars(policy))
        self._told = look

    def after(self, past: Past) -> DosePolicy:
        """As it was told before."""
        return self._told()


class _LooksOnce(DosePolicy):
    """A policy after earlier visits, which keeps its last distribution; sessions share it."""

    def __init__(self, policy: DosePolicy) -> None:
        vars(self).update(vars(policy))
        self._look = policy.distribution
        self._kept: tuple[tuple[Any, ...], torch.distributions.Distribution] | None = None

    def distribution(self, obs: Observations) -> torch.distributions.Distribution:
        """See :meth:`DosePolicy.distribution`."""
        key, kept = (obs.shape, obs.dtype.str, obs.tobytes()), self._kept
        if kept is not None and kept[0] == key:
            return kept[1]
        found = self._look(obs)
        self._kept = (key, found)  # at once
        return found
