"""What a policy said is kept for as long as the very same is asked of the very same run, and no longer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import streamlit as st

import agents
from app.readers import asked
from dosing.data.dataset import Transform
from dosing.policy import DosePolicy
from dosing.recommendation.inputs import visits_before
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import EarlierVisit, Recommendation, Recommender, Rules
from dosing.safety import DoseLimits
from dosing.types import Problem

STATE = np.linspace(-1.0, 1.0, 8).tolist()
EARLIER = [EarlierVisit(tuple(0.1 * k for k in range(8)), (0.2,), 1.0), EarlierVisit((0.3,) * 8, (0.4,), 0.5)]


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


def recommender(run: str, seeds: tuple[int, ...] = (0, 1)) -> Recommender:
    agent = agents.build("decision_transformer", {"width": 16, "context": 5}, Problem(8, 1), seeds)
    policy = DosePolicy(agent, Transform((0.0,) * 8, (1.0,) * 8, (-1.0,), (1.0,)))
    return Recommender(policy, Rules(DoseLimits((-1.0,), (1.0,))), provenance={"weights": run} if run else {})


def same(one: Recommendation, other: Recommendation) -> bool:
    """Equal but for when they were made."""
    return replace(one, time="") == replace(other, time="")


def test_only_the_very_same_question_is_answered_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def counted(*words: Any, **more: Any) -> Any:
        calls.append(words)
        return recommend(*words, **more)

    monkeypatch.setattr(asked, "recommend", counted)
    first = recommender("a")
    before = datetime.now(UTC).isoformat(timespec="seconds")
    told = asked.recommendation(first, STATE, EARLIER)
    again = asked.recommendation(first, list(STATE), tuple(EARLIER))
    assert len(calls) == 1
    assert before <= told.time <= again.time <= datetime.now(UTC).isoformat(timespec="seconds")
    assert same(told, again)
    assert same(told, recommend(first, STATE, earlier=EARLIER))
    others: list[tuple[Recommender, Any, Any]] = [
        (first, [*STATE[:-1], 0.999], EARLIER),
        (first, STATE, EARLIER[:1]),
        (first, STATE, []),
        (first, STATE, None),
        (first, [str(x) for x in STATE], EARLIER),
        (recommender("b", (7, 8)), STATE, EARLIER),
    ]
    for number, (one, state, earlier) in enumerate(others, 2):
        assert same(asked.recommendation(one, state, earlier), recommend(one, state, earlier=earlier))
        assert len(calls) == number


def test_what_no_run_says_is_not_kept() -> None:
    one, other = recommender(""), recommender("", (7, 8))
    assert asked.recommendation(one, STATE, None).dose != asked.recommendation(other, STATE, None).dose
    assert asked.policy_after(one, EARLIER) is not asked.policy_after(one, EARLIER)


def test_a_policy_after_earlier_visits_looks_once_and_sees_what_it_would_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = recommender("a")
    agent, looks = one.policy.agent, []
    plain = agent.policy_after  # type: ignore[attr-defined]
    monkeypatch.setattr(agent, "policy_after", lambda history: looks.append(1) or plain(history))
    policy = asked.policy_after(one, EARLIER)
    assert asked.policy_after(one, tuple(EARLIER)) is policy
    fresh = one.policy.after(visits_before(EARLIER, agent.problem).past())
    for state in (STATE, STATE[::-1], STATE):
        obs = np.broadcast_to(np.asarray(state, dtype=np.float32), (2, 1, 8))
        before = len(looks)
        low, high = np.full(1, -0.5), np.full(1, 0.5)
        kept = (policy.recommended(obs), policy.mass_outside(obs, low, high), policy.dose_set(obs).low)
        assert len(looks) == before + 1
        for mine, its in zip(
            kept,
            (fresh.recommended(obs), fresh.mass_outside(obs, low, high), fresh.dose_set(obs).low),
            strict=True,
        ):
            np.testing.assert_array_equal(mine, its)
    assert not np.array_equal(policy.recommended(obs), asked.policy_after(one, EARLIER[:1]).recommended(obs))


def test_one_look_serves_a_dose_and_all_that_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one = recommender("a")
    agent, looks = one.policy.agent, []
    plain = agent.policy_after  # type: ignore[attr-defined]
    expected = recommend(one, STATE, earlier=EARLIER)
    monkeypatch.setattr(agent, "policy_after", lambda history: looks.append(1) or plain(history))
    assert same(asked.recommendation(one, STATE, EARLIER), expected)
    asked.policy_after(one, EARLIER).recommended(np.broadcast_to(np.float32(STATE), (2, 1, 8)))
    assert len(looks) == 1
    bad = [replace(EARLIER[0], dose=(2.0,)), replace(EARLIER[1], state=(0.3,) * 7)]
    refused = asked.recommendation(one, STATE, bad)
    assert refused.dose is None
    assert same(refused, recommend(one, STATE, earlier=bad))
    assert len(looks) == 1
