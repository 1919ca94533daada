"""The guarded door: for all weights and all states, a dose within hard limits or a refusal with a reason."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import cohort, is_bounded, stack

import agents
from dosing import NOT_FOR_PATIENTS
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.policy import DosePolicy
from dosing.recommendation import Recommendation, check_state, recommend
from dosing.safety import DoseLimits

every_agent = pytest.mark.parametrize("name", list(agents.AGENTS))

UNIT = DoseLimits((-1.0,), (1.0,))
STATE = [0.1, -0.2, 0.3, 0.0, 1.0, -1.0, 0.5, 0.25]
NAMES = [f"s{i + 1}" for i in range(8)]
TRANSFORM = Transform.fit(cohort())


def policy(name: str, transform: Transform = TRANSFORM, seeds: Sequence[int] = (0, 1, 2)) -> DosePolicy:
    return DosePolicy(stack(name, seeds), transform)


def check(found: Recommendation, limits: DoseLimits) -> None:
    """What holds for every answer."""
    json.dumps(found.to_json(), allow_nan=False)
    assert found.notice == NOT_FOR_PATIENTS
    assert found.limits == (limits.low, limits.high)
    assert found.unit == limits.unit
    assert found.time
    if found.status == "refused":
        nothing = (found.dose, found.proposed, found.support, found.mass_outside, found.bounded)
        assert nothing == (None,) * 5
        assert found.seeds == ()
        assert found.reasons
        assert all(reason and "\n" not in reason for reason in found.reasons)
        return
    assert found.dose is not None
    assert found.proposed is not None
    assert found.support is not None
    assert found.mass_outside is not None
    numbers = [*found.dose, *found.proposed, *found.support[0], *found.support[1], found.mass_outside]
    assert all(math.isfinite(x) for x in numbers)
    for dose, low, high in zip(found.dose, *found.limits, strict=True):
        assert low <= dose <= high
    assert 0.0 <= found.mass_outside <= 1.0
    assert (found.status == "limited") == (found.dose != found.proposed) == bool(found.reasons)


# The property


def weights() -> st.SearchStrategy[tuple[str, int, float]]:
    kinds = st.sampled_from(("random", "nan", "inf", "-inf", "huge", "zero", "one nan", "one inf"))
    return st.tuples(kinds, st.integers(0, 2**31), st.sampled_from((0.1, 1.0, 10.0, 1e3)))


def spoil(agent: torch.nn.Module, kind: str, seed: int, factor: float) -> None:
    """Random weights, and what damage can make of them."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(agent.parameters())
    values = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "huge": 3e38, "zero": 0.0}
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(factor * torch.randn(parameter.shape, generator=generator))
            if kind in values:
                parameter.fill_(values[kind])
        if kind.startswith("one"):
            chosen = parameters[seed % len(parameters)].view(-1)
            chosen[seed % len(chosen)] = math.nan if kind == "one nan" else math.inf


class Odd:
    """Something that is no number and says so in the rudest way."""

    def __float__(self) -> float:
        raise RuntimeError("no")

    def __str__(self) -> str:
        raise RuntimeError("no")


entries = st.one_of(
    st.floats(width=32),
    st.floats(),
    st.integers(),
    st.sampled_from([10**400, math.nan, math.inf, True, None, "0.5", "nan", "1e999", "2,5", "", "\u0661"]),
    st.sampled_from([np.float32(1.5), np.bool_(True), np.array([1.0]), b"1", [1.0], {}, 1j, Odd()]),
    st.text(max_size=5),
)
anything = st.one_of(
    st.lists(entries, min_size=8, max_size=8),
    st.lists(st.floats(-1e3, 1e3), min_size=8, max_size=8),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8),
    st.lists(entries, max_size=12),
    st.sampled_from([None, 3, "12345678", b"12345678", dict.fromkeys(range(8), 1.0), set(range(8)), Odd()]),
    st.sampled_from([np.ones((8, 1)), np.ones((2, 8)), np.array(1.0), np.ones(8), range(8)]),
)


@settings(max_examples=30)
@given(state=anything, spoilt=weights())
@every_agent
def test_every_answer_is_within_limits_or_refused(
    name: str, state: Any, spoilt: tuple[str, int, float]
) -> None:
    transform = Transform(TRANSFORM.obs_mean, TRANSFORM.obs_scale, (0.2,), (5.7,))
    door = policy(name, transform)
    spoil(door.agent, *spoilt)
    for limits in (DoseLimits((0.2,), (5.7,), "mg"), DoseLimits((1.0,), (1.5,), "mg")):
        found = recommend(door, limits, state, obs_names=NAMES, provenance={"run": "x"})
        check(found, limits)
        if spoilt[0] in ("nan", "one nan") and found.status != "refused":
            assert spoilt[0] == "one nan"  # a weight that no dose depends on, such as a critic's


@every_agent
def test_a_sound_policy_answers_a_usual_state(name: str) -> None:
    """The property above is not met by refusing everything."""
    for row in cohort().obs[:20]:
        found = recommend(policy(name), UNIT, row.tolist())
        check(found, UNIT)
        assert found.status == "ok"


# What an answer says


@every_agent
def test_an_answer_is_that_of_the_policy(name: str) -> None:
    door = policy(name)
    found = recommend(door, UNIT, STATE, provenance={"run": "here"})
    obs = np.broadcast_to(np.asarray(STATE, dtype=np.float32), (3, 1, 8))
    doses, sets = door.recommended(obs)[:, 0], door.dose_set(obs)
    assert found.proposed == tuple(doses.mean(0))
    assert [s.dose for s in found.seeds] == [tuple(d) for d in doses]
    assert [s.seed for s in found.seeds] == [0, 1, 2]
    assert [s.low for s in found.seeds] == [tuple(x) for x in sets.low[:, 0]]
    assert [s.high for s in found.seeds] == [tuple(x) for x in sets.high[:, 0]]
    assert found.support == (tuple(sets.low[:, 0].min(0)), tuple(sets.high[:, 0].max(0)))
    assert found.bounded == sets.bounded
    assert found.mass_outside == sets.mass_outside.mean()
    assert found.state == tuple(STATE)
    assert found.provenance == {"run": "here"}
    assert ("exact" in found.support_words) == sets.bounded
    assert ("not a support" in found.support_words) == (not sets.bounded)
    assert (found.mass_outside == 0.0) == is_bounded(name)


@every_agent
def test_a_limit_that_binds_is_shown(name: str) -> None:
    """Limits narrower than those the agent learned within: both doses are told, and the mass outside them."""
    door = policy(name)
    free = recommend(door, UNIT, STATE)
    assert free.dose is not None
    tight = DoseLimits((free.dose[0] + 0.05,), (free.dose[0] + 0.06,))
    found = recommend(door, tight, STATE)
    check(found, tight)
    assert found.status == "limited"
    assert found.dose == tight.low
    assert found.proposed == free.dose
    assert "held at a hard limit" in found.reasons[0]
    assert found.mass_outside is not None
    assert found.mass_outside > 0.5  # most of every law lies outside an interval this narrow


@every_agent
def test_one_seed_of_nan_refuses_by_its_number(name: str) -> None:
    door = policy(name, seeds=(4, 7, 9))
    with torch.no_grad():
        for parameter in door.agent.parameters():
            parameter[1] = math.nan
    found = recommend(door, UNIT, STATE)
    check(found, UNIT)
    assert found.status == "refused"
    assert "seed(s) [7]" in found.reasons[0]


# What is refused, and how it is told


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (STATE[:7], "needs 8 numbers, got 7"),
        ([*STATE, 1.0], "needs 8 numbers, got 9"),
        ([], "needs 8 numbers, got 0"),
        ([*STATE[:2], math.nan, *STATE[3:]], "s3 (entry 3) of the state must be a finite number, got nan"),
        ([*STATE[:7], -math.inf], "s8 (entry 8) of the state must be a finite number, got -inf"),
        (["high", *STATE[1:]], "s1 (entry 1) of the state must be a number, got 'high'"),
        ([None, *STATE[1:]], "s1 (entry 1) of the state must be a number, got 'None'"),
        ([True, *STATE[1:]], "s1 (entry 1) of the state must be a number, got True"),
        ([np.bool_(True), *STATE[1:]], "s1 (entry 1) of the state must be a number"),
        (["2,5", *STATE[1:]], "s1 (entry 1) of the state must be a number, got '2,5'"),
        (["1_0", *STATE[1:]], "s1 (entry 1) of the state must be a number, got '1_0'"),
        ([b"1", *STATE[1:]], "s1 (entry 1) of the state must be a number"),
        ([1e39, *STATE[1:]], "s1 (entry 1) of the state must be a finite number"),
        ([10**400, *STATE[1:]], "s1 (entry 1) of the state must be a finite number"),
        ("12345678", "must be a list of 8 numbers, got a str"),
        (None, "must be a list of 8 numbers, got a NoneType"),
        (set(STATE), "must be a list of 8 numbers, got a set"),
        (np.ones((8, 1)), "must be a list of 8 numbers, got a ndarray"),
        (itertools.count(), "must be a list of 8 numbers, got a count"),
    ],
    ids=str,
)
def test_a_wrong_state_is_told_in_one_sentence(state: Any, told: str) -> None:
    found = recommend(policy(next(iter(agents.AGENTS))), UNIT, state, obs_names=NAMES)
    check(found, UNIT)
    assert found.status == "refused"
    (reason,) = found.reasons
    assert told in reason
    assert len(reason) < 200


@pytest.mark.parametrize("kind", [float, int, str, Decimal, Fraction, np.float32, np.int64, torch.tensor])
def test_whatever_reads_as_a_number_is_one(kind: Any) -> None:
    assert check_state([kind(3)] * 8, 8) == (3.0,) * 8
    assert check_state(np.full(8, 3), 8) == (3.0,) * 8  # type: ignore[arg-type]
    assert check_state(tuple([kind(3)] * 8), 8) == (3.0,) * 8


def test_entries_without_names_are_told_by_number() -> None:
    with pytest.raises(UserError, match=r"^entry 2 of the state must be a number"):
        check_state([1.0, "x"], 2)


def test_the_refused_input_is_echoed() -> None:
    state = ["high", math.nan, 10**5000, 1.5, None, True, "x" * 1000, Odd()]
    found = recommend(policy(next(iter(agents.AGENTS))), UNIT, state)
    assert found.state[:2] == ("high", "nan")
    assert found.state[3:6] == (1.5, "None", True)
    assert len(json.dumps(found.to_json(), allow_nan=False)) < 2000


def test_whatever_breaks_behind_the_door_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any error of the policy; a dose set that lies about its shape; a dose that is no number."""
    door = policy(next(iter(agents.AGENTS)))

    def broken(obs: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(door, "dose_set", broken)
    found = recommend(door, UNIT, STATE)
    check(found, UNIT)
    assert found.reasons == (
        "the recommendation failed inside (RuntimeError: out of memory); no dose is shown.",
    )
    for wrong in (np.full((3, 1, 1), math.nan), np.zeros((3, 1, 2)), np.zeros((3, 1, 0)), None, "dose"):
        monkeypatch.setattr(door, "recommended", lambda obs, wrong=wrong: wrong)
        found = recommend(door, UNIT, STATE)
        check(found, UNIT)
        assert found.status == "refused"


def test_limits_of_another_dose_are_refused() -> None:
    two = DoseLimits((0.0, 0.0), (1.0, 1.0))
    found = recommend(policy(next(iter(agents.AGENTS))), two, STATE)
    check(found, two)
    assert found.status == "refused"
