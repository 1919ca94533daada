"""The guarded recommender: for all weights and all states, a dose within hard limits or a refusal with a
reason."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import agents
from dosing import NOT_FOR_PATIENTS
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.policy import DosePolicy, DoseSet, in_double
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.inputs import read_state
from dosing.recommendation.novelty import Monitor
from dosing.recommendation.reasons import DISAGREEMENT, LIMITS, STATUSES, Reason, reason_names, status_of
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Recommendation, Recommender, Rules, StateEntry
from dosing.safety import DoseLimits, StepLimit
from tests.support.samples import cohort, long_for_most, stack

every_agent = pytest.mark.parametrize("name", list(agents.AGENTS))
FIRST = next(iter(agents.AGENTS))

UNIT = DoseLimits((-1.0,), (1.0,))
STATE = [0.1, -0.2, 0.3, 0.0, 1.0, -1.0, 0.5, 0.25]
ENTRIES = tuple(StateEntry(f"s{i + 1}") for i in range(8))
RULES = Rules(UNIT, ENTRIES, safe_default="no dose (0)")
TRANSFORM = Transform.fit(cohort())


def policy(name: str, transform: Transform = TRANSFORM, seeds: Sequence[int] = (0, 1, 2)) -> DosePolicy:
    return DosePolicy(stack(name, seeds), transform)


@functools.cache
def monitor() -> Monitor:
    return Monitor.fit(cohort(16))


@functools.cache
def lenient() -> Monitor:
    """A monitor to which every state is familiar and every dose recorded, for tests of other things."""
    known = monitor()
    return replace(known, threshold=1e9, doses=replace(known.doses, threshold=1e9), dose_spread=(1e9,))


def recommender(**fields: Any) -> Recommender:
    return replace(Recommender(policy(FIRST), RULES, lenient()), **fields)


class Told(DosePolicy):
    """A policy that says the same at every state: modes, lower and upper edges of S seeds, ``[S, A]``."""

    def __init__(self, dose: Any, low: Any, high: Any, kind: str = "interval", mass: float = 0.0) -> None:
        super().__init__(stack("bc", range(len(dose))), TRANSFORM)
        self.told = [np.asarray(x, dtype=np.float64)[:, None] for x in (dose, low, high)]
        self.kind, self.mass = kind, mass

    def consult(self, obs: Any, low: Any, high: Any) -> tuple[Any, DoseSet]:
        dose, lo, hi = (np.broadcast_to(x, (*obs.shape[:2], x.shape[-1])) for x in self.told)
        return dose, DoseSet(self.kind, self.kind == "interval", lo, hi, np.full_like(dose, self.mass))

    def central(self, obs: Any, mass: float) -> tuple[Any, Any]:
        return self.told[1], self.told[2]


def check(result: Recommendation, limits: DoseLimits) -> None:
    """What holds for every answer."""
    json.dumps(result.to_json(), allow_nan=False)
    assert len(result.codes) == len(result.reasons)
    codes = sum(Reason[code.upper()] for code in set(result.codes))
    assert result.status == STATUSES[int(status_of(np.array([codes]))[0])]
    assert result.threshold is None or result.threshold > 0.0
    assert result.notice == NOT_FOR_PATIENTS
    assert result.limits == (limits.low, limits.high)
    assert result.unit == limits.unit
    assert result.time
    if result.status == "refused":
        nothing = (result.dose, result.proposed, result.support, result.mass_outside, result.bounded)
        assert nothing == (None,) * 5
        assert (result.central, result.spread, result.distance, result.step) == (None,) * 4
        assert (result.seeds, result.nearest) == ((), ())
        assert result.reasons
        assert all(reason and "\n" not in reason for reason in result.reasons)
        return
    assert result.dose is not None
    assert result.proposed is not None
    assert result.support is not None
    assert result.mass_outside is not None
    assert result.central is not None
    numbers = [*result.dose, *result.proposed, *result.support[0], *result.support[1], result.mass_outside]
    numbers += [*result.central[0], *result.central[1], *(result.spread or ()), result.distance or 0.0]
    assert all(math.isfinite(x) for x in numbers)
    for dose, low, high in zip(result.dose, *result.limits, strict=True):
        assert low <= dose <= high
    assert 0.0 <= result.mass_outside <= 1.0
    assert (result.dose != result.proposed) == any(Reason[code.upper()] in LIMITS for code in result.codes)
    assert (result.distance is None) == (result.threshold is None) == ("no_monitor" in result.codes)
    if result.distance is not None and result.threshold is not None:
        assert ("unfamiliar" in result.codes) == (result.distance > result.threshold)
        assert result.dose_distance is not None
        assert result.dose_threshold is not None
        assert result.recorded_near is not None
        assert ("unrecorded_dose" in result.codes) == (result.dose_distance > result.dose_threshold)
        assert all(low <= high for low, high in zip(*result.recorded_near, strict=True))
        assert [near.distance for near in result.nearest] == sorted(near.distance for near in result.nearest)
        assert result.nearest[-1].distance == result.distance


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
@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
def test_every_answer_is_within_limits_or_refused(
    name: str, state: Any, spoilt: tuple[str, int, float]
) -> None:
    transform = Transform(TRANSFORM.obs_mean, TRANSFORM.obs_scale, (0.2,), (5.7,))
    asked = policy(name, transform)
    spoil(asked.agent, *spoilt)
    for limits, watch in (
        (DoseLimits((0.2,), (5.7,), "mg"), None),
        (DoseLimits((1.0,), (1.5,), "mg"), monitor()),
    ):
        step = StepLimit((0.1,), 0.2) if watch else None
        recommender = Recommender(asked, Rules(limits, ENTRIES, step), watch, provenance={"run": "x"})
        result = recommend(recommender, state, [1.2] if step else None)
        check(result, limits)
        if spoilt[0] in ("nan", "one nan") and result.status != "refused":
            assert spoilt[0] == "one nan"  # a weight that no dose depends on, such as a critic's


@every_agent
def test_a_sound_policy_answers_a_usual_state(name: str) -> None:
    """The property above is not met by refusing everything; untrained, it may give doses nobody recorded."""
    recommender = Recommender(policy(name, seeds=(0,)), RULES, monitor())
    for row in cohort(16).obs[:20]:
        result = recommend(recommender, row.tolist())
        check(result, UNIT)
        assert result.codes in ((), ("unrecorded_dose",))
        assert len(result.notes) == recommender.policy.looks_back


# What an answer says


@every_agent
def test_an_answer_is_that_of_the_policy(name: str) -> None:
    asked = policy(name)
    result = recommend(Recommender(asked, RULES, note="none", provenance={"run": "here"}), STATE)
    obs = np.broadcast_to(np.asarray(STATE, dtype=np.float32), (3, 1, 8))
    doses, sets = asked.recommended(obs)[:, 0], asked.dose_set(obs)
    assert result.proposed == tuple(doses.mean(0))
    assert [s.dose for s in result.seeds] == [tuple(d) for d in doses]
    assert [s.seed for s in result.seeds] == [0, 1, 2]
    assert [s.low for s in result.seeds] == [tuple(x) for x in sets.low[:, 0]]
    assert [s.high for s in result.seeds] == [tuple(x) for x in sets.high[:, 0]]
    assert result.support == (tuple(sets.low[:, 0].min(0)), tuple(sets.high[:, 0].max(0)))
    assert result.bounded == sets.bounded
    assert result.mass_outside == sets.mass_outside.mean()
    assert result.spread == tuple(doses.std(0, ddof=1))
    assert result.central is not None
    base: Any = asked.distribution(obs)
    for ends, p in zip(result.central, (0.05, 0.95), strict=True):
        at = torch.full((3, 1, 1), p, dtype=torch.float64)
        quantile = asked.transform.to_dose(in_double(base).icdf(at).numpy())
        assert ends == pytest.approx(quantile[:, 0].min(0) if p < 0.5 else quantile[:, 0].max(0))
    assert (result.distance, result.threshold, result.nearest) == (None, None, ())
    assert (result.dose_distance, result.dose_threshold, result.recorded_near) == (None, None, None)
    assert result.status == "deferred"
    assert result.codes[0] == "no_monitor"
    assert result.reasons[0].endswith("is not known: none")
    assert result.state == tuple(STATE)
    assert result.provenance == {"run": "here"}
    assert ("exact" in result.support_words) == sets.bounded
    assert ("not a support" in result.support_words) == (not sets.bounded)
    support = agents.AGENTS[name].about.support
    if support not in ("samples", "point_set") and name != "fttpo_released":  # any number may lie within
        assert (result.mass_outside == 0.0) == (support != "infinite_clipped")


@every_agent
def test_a_limit_that_binds_is_shown(name: str) -> None:
    """Limits narrower than those the agent learned within: both doses are told, and the mass outside them."""
    asked = policy(name, seeds=(0,))
    free = recommend(Recommender(asked, RULES, lenient()), STATE)
    assert free.dose is not None
    tight = DoseLimits((free.dose[0] + 0.05,), (free.dose[0] + 0.06,))
    result = recommend(Recommender(asked, Rules(tight), lenient()), STATE)
    check(result, tight)
    assert result.status == "limited"
    assert result.codes == ("hard_limit",)
    assert result.dose == tight.low
    assert result.proposed == free.dose
    assert "held at a hard limit" in result.reasons[0]
    obs = np.asarray(STATE, dtype=np.float32)[None, None]
    mass = asked.mass_outside(obs, np.asarray(tight.low), np.asarray(tight.high))
    assert result.mass_outside == mass.mean()
    assert result.mass_outside > 0.5  # most of every distribution lies outside an interval this narrow


@every_agent
def test_one_seed_of_nan_refuses_by_its_number(name: str) -> None:
    asked = policy(name, seeds=(4, 7, 9))
    with torch.no_grad():
        for parameter in asked.agent.parameters():
            parameter[1] = math.nan
    result = recommend(Recommender(asked, RULES), STATE)
    check(result, UNIT)
    assert result.status == "refused"
    assert result.safe_default == "no dose (0)"
    assert "seed(s) [7]" in result.reasons[0]


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
    result = recommend(recommender(), state)
    check(result, UNIT)
    assert result.status == "refused"
    (reason,) = result.reasons
    assert told in reason
    assert len(reason) < 200


@pytest.mark.parametrize("kind", [float, int, str, Decimal, Fraction, np.float32, np.int64, torch.tensor])
def test_whatever_reads_as_a_number_is_one(kind: Any) -> None:
    for state in ([kind(3)] * 8, np.full(8, 3), tuple([kind(3)] * 8)):
        assert read_state(recommender(), state) == ((3.0,) * 8, [])


def test_entries_without_names_are_told_by_number() -> None:
    result = recommend(Recommender(policy(FIRST), Rules(UNIT)), ["x", *STATE[1:]])
    assert result.reasons[0].startswith("entry 1 of the state must be a number")


def test_the_refused_input_is_echoed() -> None:
    state = ["high", math.nan, 10**5000, 1.5, None, True, "x" * 1000, Odd()]
    result = recommend(recommender(), state)
    assert result.state[:2] == ("high", "nan")
    assert result.state[3:6] == (1.5, "None", True)
    assert len(json.dumps(result.to_json(), allow_nan=False)) < 2000


def test_whatever_breaks_behind_the_recommender_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any error of the policy; a dose set that lies about its shape; a dose that is no number."""
    asked = policy(FIRST)

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(asked, "consult", broken)
    result = recommend(Recommender(asked, RULES), STATE)
    check(result, UNIT)
    assert result.reasons == (
        "the recommendation failed inside (RuntimeError: out of memory); no dose is shown.",
    )
    for wrong in (np.full((3, 1, 1), math.nan), np.zeros((3, 1, 2)), np.zeros((3, 1, 0)), None, "dose"):
        sets = policy(FIRST).consult(np.zeros((3, 1, 8), np.float32), *np.array([[-1.0], [1.0]]))[1]
        monkeypatch.setattr(asked, "consult", lambda *_, wrong=wrong, sets=sets: (wrong, sets))
        result = recommend(Recommender(asked, RULES), STATE)
        check(result, UNIT)
        assert result.status == "refused"


def test_limits_of_another_dose_are_refused() -> None:
    two = DoseLimits((0.0, 0.0), (1.0, 1.0))
    result = recommend(Recommender(policy(FIRST), Rules(two)), STATE)
    check(result, two)
    assert result.status == "refused"


# What the scenario card says


def test_every_bad_entry_gets_its_own_sentence_with_range_and_unit() -> None:
    entries = (StateEntry("INR", "1", 0.5, 25.0), StateEntry("age", "year", 18.0, 100.0), *ENTRIES[2:])
    result = recommend(recommender(rules=Rules(UNIT, entries)), [0.3, 240, "x", math.nan, *STATE[4:]])
    check(result, UNIT)
    assert result.reasons == (
        "INR (entry 1) of the state must be 0.5 to 25, got 0.3.",
        "age (entry 2) of the state must be 18 to 100 year, got 240; probably another unit: 240 month "
        "would be 20 year.",
        "s3 (entry 3) of the state must be a number, got 'x'.",
        "s4 (entry 4) of the state must be a finite number, got nan.",
    )
    assert result.codes == ("out_of_range", "out_of_range", "not_a_number", "not_finite")
    result = recommend(recommender(rules=Rules(UNIT, entries)), [math.nan, "old", *STATE[2:]])
    assert "got nan; allowed: 0.5 to 25." in result.reasons[0]
    assert "got 'old'; allowed: 18 to 100 year." in result.reasons[1]
    for edge in (0.5, 25.0):
        assert (
            recommend(recommender(rules=Rules(UNIT, entries)), [edge, 18.0, *STATE[2:]]).status != "refused"
        )


def test_rules_are_read_from_a_card() -> None:
    card = {
        "observations": [
            {"name": "INR", "unit": "1", "low": 0.5, "high": 25},
            {"name": "dose now", "unit": "mg"},
        ],
        "dose": {
            "safe_default": "hold",
            "step_limit": {"absolute": [0.5], "relative": 0.2, "always": [0.0], "current": ["dose now"]},
        },
    }
    limits = DoseLimits((0.0,), (15.0,), "mg")
    assert Rules.of(limits, ("a", "b"), ("1", "1"), card) == Rules(
        limits,
        (StateEntry("INR", "1", 0.5, 25.0), StateEntry("dose now", "mg")),
        StepLimit((0.5,), 0.2, (0.0,), ("dose now",)),
        "hold",
    )
    assert Rules.of(limits, ("a",), ("mg",)) == Rules(limits, (StateEntry("a", "mg"),))
    assert Rules.of(limits) == Rules(limits)
    own = cohort().metadata.card
    result = Rules.of(UNIT, card=own)
    assert [entry.name for entry in result.entries] == [f"s{i + 1}" for i in range(8)]
    assert (np.abs(cohort().obs) <= result.entries[0].high).all()
    assert result.safe_default
    for broken in ({"observations": [{"unit": "mg"}]}, {"dose": "5 mg"}, {"dose": {"step_limit": {}}}):
        with pytest.raises(UserError, match="card"):
            Rules.of(limits, card=broken)


def test_a_card_of_another_width_refuses() -> None:
    result = recommend(recommender(rules=Rules(UNIT, ENTRIES[:7])), STATE)
    assert result.reasons == ("the scenario card names 7 observations, the policy sees 8.",)
    with pytest.raises(UserError, match="names 7 observations"):
        recommend_all(recommender(rules=Rules(UNIT, ENTRIES[:7])), np.zeros((2, 8)))


# The step limit

MG = DoseLimits((0.0,), (15.0,), "mg")


def stepping(dose: float, current: Any, **limit: Any) -> Recommendation:
    """A policy of two seeds that says ``dose``, under a step limit of 20 % and at least 0.5 mg."""
    rules = Rules(MG, ENTRIES, StepLimit((0.5,), **({"relative": 0.2} | limit)))
    asked = Told([[dose]] * 2, [[dose - 0.1]] * 2, [[dose + 0.1]] * 2)
    result = recommend(Recommender(asked, rules, lenient()), STATE, current)
    check(result, MG)
    return result


@pytest.mark.parametrize(
    ("dose", "current", "given", "codes"),
    [
        (5.5, 5.0, 5.5, ()),
        (6.0, 5.0, 6.0, ()),  # 20 % exactly
        (9.0, 5.0, 6.0, ("step_limit",)),
        (1.0, 5.0, 4.0, ("step_limit",)),
        (9.0, 0.0, 0.5, ("step_limit",)),  # 20 % of nothing: the least step
        (40.0, 5.0, 6.0, ("hard_limit", "step_limit")),
        (40.0, 14.0, 15.0, ("hard_limit",)),
        (-3.0, 5.0, 4.0, ("hard_limit", "step_limit")),
    ],
)
def test_a_dose_moves_no_faster_than_allowed(
    dose: float, current: float, given: float, codes: tuple[str, ...]
) -> None:
    result = stepping(dose, [current])
    assert result.dose == pytest.approx((given,))
    assert result.proposed == (dose,)
    assert result.codes == codes
    assert result.status == ("limited" if codes else "ok")
    assert result.current == (current,)
    change = max(0.5, 0.2 * current)
    assert result.step == ((current - change,), (current + change,))
    if "step_limit" in codes:
        assert f"the proposed dose {dose:.4g} mg was held at {given:.4g} mg" in result.reasons[-1]


def test_a_dose_that_is_always_allowed_may_be_given_at_once() -> None:
    assert stepping(0.0, [10.0], always=(0.0,)).dose == (0.0,)
    assert stepping(0.1, [10.0], always=(0.0,)).dose == (8.0,)


def test_the_current_dose_may_be_observed() -> None:
    rules = Rules(MG, ENTRIES, StepLimit((0.5,), current=("s5",)))  # 1.0 in STATE
    result = recommend(Recommender(Told([[9.0]], [[8.0]], [[10.0]]), rules, lenient()), STATE)
    assert (result.dose, result.current) == ((1.5,), (1.0,))
    assert recommend(Recommender(Told([[9.0]], [[8.0]], [[10.0]]), rules), STATE, [3.0]).dose == (3.5,)
    result = recommend(Recommender(Told([[9.0]], [[8.0]], [[10.0]]), rules), [*STATE[:4], -1.0, *STATE[5:]])
    assert result.reasons == ("the current dose that the state holds lies outside the hard limits.",)
    lost = replace(rules, step=StepLimit((0.5,), current=("s9",)))
    assert (
        "does not observe" in recommend(Recommender(Told([[9.0]], [[8.0]], [[10.0]]), lost), STATE).reasons[0]
    )


@pytest.mark.parametrize(
    ("current", "told"),
    [
        (None, "the current dose is needed, because this scenario limits its change; allowed: 0 to 15 mg."),
        ([50.0], "entry 1 of the current dose must be 0 to 15 mg, got 50.0."),
        ([math.nan], "entry 1 of the current dose must be a finite number, got nan; allowed: 0 to 15 mg."),
        (["five"], "entry 1 of the current dose must be a number, got 'five'; allowed: 0 to 15 mg."),
        ([1.0, 2.0], "the current dose needs 1 number, got 2."),
        (5.0, "the current dose must be a list of 1 number, got a float."),
    ],
)
def test_a_wrong_current_dose_is_told(current: Any, told: str) -> None:
    result = stepping(5.0, current)
    assert (result.status, result.reasons, result.codes) == ("refused", (told,), ("current_dose",))


# What is deferred


def test_an_unfamiliar_state_is_deferred_with_its_neighbours() -> None:
    known = recommender(policy=policy(FIRST, seeds=(0,)), monitor=monitor())
    near = recommend(known, cohort(16).obs[5].tolist())
    assert near.status == "ok"
    assert near.nearest[0].distance == 0.0
    assert near.nearest[0].dose == tuple(float(x) for x in cohort(16).act[5])
    assert near.nearest[0].state == tuple(float(x) for x in cohort(16).obs[5])
    assert (near.nearest[0].patient, near.nearest[0].visit) == (0, 5)
    assert near.nearest[0].reward == cohort(16).reward[5]
    far = recommend(known, [6.0] * 8)
    check(far, UNIT)
    assert (far.status, far.codes) == ("deferred", ("unfamiliar",))
    assert "the state is unlike the training visits: its distance from the nearest 5" in far.reasons[0]
    assert len(far.nearest) == monitor().neighbours
    without = recommend(replace(known, monitor=None), [6.0] * 8)
    assert (without.status, without.codes) == ("deferred", ("no_monitor",))


def test_one_odd_training_visit_makes_no_state_familiar() -> None:
    obs = monitor().obs.copy()
    obs[0] = 6.0
    known = recommender(policy=policy(FIRST, seeds=(0,)), monitor=replace(monitor(), obs=obs))
    result = recommend(known, [6.0] * 8)
    assert result.nearest[0].distance == 0.0
    assert result.codes == ("unfamiliar",)


def test_a_mean_that_one_seed_would_give_is_not_between_the_seeds() -> None:
    dose = np.array([[0.0], [0.2]])
    result = recommend(recommender(policy=Told(dose, dose - [[0.05], [0.15]], dose + 0.05)), STATE)
    assert (result.proposed, result.codes) == ((0.1,), ())


def test_a_dose_that_leaves_the_limits_on_its_way_is_not_shown() -> None:
    class Wrong(StepLimit):
        def deliver(self, requested: Any, current: Any) -> Any:
            return np.asarray(requested) + 100.0, np.ones(len(requested), dtype=bool)

    result = recommend(recommender(rules=replace(RULES, step=Wrong((0.1,)))), STATE, [0.0])
    check(result, UNIT)
    assert (result.status, result.codes) == ("refused", ("left_limits",))


def test_a_monitor_of_other_states_refuses() -> None:
    other = replace(
        monitor(), centre=monitor().centre[:7], scale=monitor().scale[:7], obs=monitor().obs[:, :7]
    )
    result = recommend(recommender(monitor=other), STATE)
    assert result.reasons == ("the monitor was fitted to states of 7 entries, got shape (1, 8).",)


@pytest.mark.parametrize(
    ("apart", "wide", "kind", "codes"),
    [
        (0.01, 0.1, "interval", ()),
        (0.3, 0.1, "interval", ("between_seeds",)),
        (0.3, 0.1, "infinite_clipped", ("between_seeds",)),
        (0.3, 0.0, "point", ()),  # deterministic seeds are apart by nature
        (0.9, 0.0, "point", ("seeds_apart",)),
        (0.9, 1.0, "interval", ("seeds_apart",)),
        (0.9, 0.1, "interval", ("seeds_apart", "between_seeds")),
    ],
)
def test_seeds_that_disagree_are_deferred(
    apart: float, wide: float, kind: str, codes: tuple[str, ...]
) -> None:
    dose = np.array([[-0.5], [0.5]]) * apart
    result = recommend(
        Recommender(Told(dose, dose - wide, dose + wide, kind), RULES, monitor()), cohort(16).obs[5].tolist()
    )
    check(result, UNIT)
    assert result.codes == codes
    assert result.status == ("deferred" if codes else "ok")
    assert result.spread == pytest.approx((apart / math.sqrt(2.0),))
    limit = DISAGREEMENT * monitor().dose_spread[0]
    assert (result.spread[0] > limit) == ("seeds_apart" in codes)


@pytest.mark.parametrize(
    ("over", "deferred"), [([True, True], True), ([True, False], True), ([False] * 2, False)]
)
def test_without_a_dose_within_the_cost_budget_the_dose_is_deferred(over: list[bool], deferred: bool) -> None:
    class Budgeted(Told):
        cost_budget = 5.0

        def over_budget(self, obs: Any) -> Any:
            return np.broadcast_to(np.array(over)[:, None], obs.shape[:2])

    dose = np.array([[0.1], [0.1]])
    policy = Budgeted(dose, dose - 0.1, dose + 0.1)
    result = recommend(Recommender(policy, RULES, monitor()), cohort(16).obs[5].tolist())
    check(result, UNIT)
    assert result.codes == (("over_budget",) if deferred else ())
    assert result.status == ("deferred" if deferred else "ok")
    if deferred:
        assert "the cost budget of 5 per episode" in result.reasons[0]


def test_a_deferred_dose_is_held_at_the_limits_too() -> None:
    dose = np.array([[1.0], [1.9]])
    result = recommend(
        Recommender(Told(dose, dose - 0.1, dose + 0.1), RULES, monitor()), cohort(16).obs[5].tolist()
    )
    check(result, UNIT)
    assert (result.status, result.dose, result.proposed) == ("deferred", (1.0,), (1.45,))
    assert result.codes == ("seeds_apart", "between_seeds", "hard_limit")


@pytest.mark.long
def test_the_gravest_reason_decides_the_status() -> None:
    for codes in itertools.product((0, 1), repeat=len(Reason)):
        code = sum(int(reason) * on for reason, on in zip(Reason, codes, strict=True))
        names = reason_names(code)
        refuses = any(codes[: list(Reason).index(Reason.UNFAMILIAR)])
        defers = {"unfamiliar", "unrecorded_dose", "no_monitor", "seeds_apart", "between_seeds"}
        defers = (defers | {"over_budget"}) & set(names)
        limits = {"hard_limit", "step_limit", "baseline_limit", "cumulative_limit"} & set(names)
        expected = "refused" if refuses else "deferred" if defers else "limited" if limits else "ok"
        assert STATUSES[int(status_of(np.array([code]))[0])] == expected


# Tables


@every_agent
def test_a_table_says_what_each_state_alone_is_told(name: str) -> None:
    rules = replace(RULES, limits=DoseLimits((-0.2,), (0.3,)), step=StepLimit((0.25,)))
    rules = replace(rules, entries=tuple(StateEntry(f"s{i}", "1", -9.0, 9.0) for i in range(8)))
    known = Recommender(policy(name), rules, monitor())
    rng = np.random.default_rng(3)
    states = np.concatenate([cohort(16).obs[:8], rng.normal(0, 3, (8, 8)).astype(np.float32)]).astype(
        np.float64
    )
    states[3, 2], states[5, 1], states[7, 0] = math.nan, math.inf, 20.0
    current = rng.uniform(-0.2, 0.3, (16, 1))
    current[1], current[2] = 0.9, math.nan
    result = recommend_all(known, states, current)
    for row in range(16):
        alone = recommend(known, states[row].tolist(), current[row].tolist())
        assert STATUSES[int(result.status[row])] == alone.status
        assert set(reason_names(int(result.codes[row]))) >= set(alone.codes)
        if alone.dose is None:
            for column in (result.dose, result.proposed, result.low, result.high, result.distance):
                assert np.isnan(column[row]).all()
            assert np.isnan(result.mass_outside[row])
            continue
        assert set(reason_names(int(result.codes[row]))) == set(alone.codes)
        assert alone.support is not None
        pairs = [
            (result.dose[row], alone.dose),
            (result.proposed[row], alone.proposed),
            (result.low[row], alone.support[0]),
            (result.high[row], alone.support[1]),
            (result.spread[row], alone.spread),
            (result.mass_outside[row], alone.mass_outside),
        ]
        for column, single in pairs:
            np.testing.assert_allclose(column, single, rtol=1e-4, atol=1e-5)  # float32 products, other blocks
        assert result.distance[row].tolist() == [near.distance for near in alone.nearest]
        assert alone.recorded_near is not None
        assert result.recorded_low[row].tolist() == list(alone.recorded_near[0])
        assert result.recorded_high[row].tolist() == list(alone.recorded_near[1])
        assert result.dose_distance[row] == pytest.approx(alone.dose_distance, rel=1e-4, abs=1e-5)
    assert {3} < set(result.status)


def test_rows_are_answered_in_pieces_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    states = cohort(16).obs[:50].astype(np.float64)
    whole = recommend_all(recommender(monitor=monitor()), states)
    monkeypatch.setattr("dosing.recommendation.batch.ROWS", 7)
    pieces = recommend_all(recommender(monitor=monitor()), states)
    np.testing.assert_allclose(pieces.dose, whole.dose, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(pieces.nearest, whole.nearest)
    np.testing.assert_array_equal(pieces.codes, whole.codes)


def test_a_row_that_fails_inside_refuses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = policy(FIRST)
    consult = asked.consult

    def failing(obs: Any, low: Any, high: Any) -> Any:
        if (obs[0, :, 0] == 2.0).any():
            raise RuntimeError("no")
        return consult(obs, low, high)

    monkeypatch.setattr(asked, "consult", failing)
    states = np.tile(STATE, (40, 1))
    states[[3, 17, 39], 0] = 2.0
    result = recommend_all(Recommender(asked, RULES, lenient()), states)
    assert np.flatnonzero(result.codes == Reason.FAILED).tolist() == [3, 17, 39]
    assert set(result.failures) == {3, 17, 39}
    assert np.isfinite(result.dose[result.codes == 0]).all()
    assert (result.codes == 0).sum() == 37


@pytest.mark.parametrize("shape", [(4,), (4, 7), (4, 9), (2, 4, 8)])
def test_a_table_of_another_width_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="states must have 8 numbers each"):
        recommend_all(recommender(), np.zeros(shape))
    with pytest.raises(UserError, match="1 current dose"):
        recommend_all(recommender(), np.zeros((4, 8)), np.zeros((4, 2)))


def test_an_empty_table_has_no_answers() -> None:
    assert recommend_all(recommender(monitor=monitor()), np.zeros((0, 8))).dose.shape == (0, 1)


# The property by the thousand: no status but refused without a finite dose within the limits, no dose outside


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    seeds=st.integers(1, 4),
    scale=st.sampled_from((0.1, 3.0, 1e6, 1e38, 1e300)),
    step=st.booleans(),
)
def test_no_dose_of_thousands_leaves_the_limits(seed: int, seeds: int, scale: float, step: bool) -> None:
    """A policy that says anything: numbers of any size, NaN and infinity, at 500 states of any kind."""
    rng = np.random.default_rng(seed)
    n = 500
    limits = DoseLimits((float(rng.normal()),), (float(10 + rng.normal()),), "mg")

    def wild(*shape: int) -> Any:
        values = scale * rng.standard_normal(shape)
        odd = rng.random(shape)
        values[odd < 0.02], values[odd > 0.98], values[abs(odd - 0.5) < 0.01] = math.nan, math.inf, -math.inf
        return values

    class Wild(Told):
        def consult(self, obs: Any, low: Any, high: Any) -> tuple[Any, DoseSet]:
            lo, hi, dose, mass = (wild(*obs.shape[:2], 1) for _ in range(4))
            return dose, DoseSet("interval", True, lo, hi, mass)

    zeros = np.zeros((seeds, 1))
    rules = Rules(limits, ENTRIES, StepLimit((0.5,), 0.1) if step else None)
    asked = Recommender(Wild(zeros, zeros, zeros), rules, monitor())
    states = np.where(rng.random((n, 1)) < 0.3, wild(n, 8), cohort(16).obs[rng.integers(0, 384, n)])
    current = np.where(rng.random((n, 1)) < 0.2, wild(n, 1), rng.uniform(limits.low, limits.high, (n, 1)))
    result = recommend_all(asked, states, current)
    refused = result.status == STATUSES.index("refused")
    assert (limits.contains(result.dose) == ~refused).all()
    assert np.isnan(result.dose[refused]).all()
    assert (refused == ((result.codes & 0xFF) != 0)).all()
    if step:
        reach = np.maximum(0.5, 0.1 * np.abs(current[~refused]))
        assert (np.abs(result.dose[~refused] - current[~refused]) <= reach * (1 + 1e-12)).all()
