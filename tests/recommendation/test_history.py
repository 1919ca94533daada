"""Policies that look back: their dose rests on the visits before, one patient or a table, or is refused."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dosing.data.dataset import Transform
from dosing.data.earlier_visits import EarlierVisits, Past
from dosing.errors import UserError
from dosing.evaluation.history_policy import HistoryPolicy
from dosing.policy import DosePolicy
from dosing.recommendation.audit_log import FILE, AuditLog, shown, state_hash
from dosing.recommendation.batch import ROWS, recommend_all
from dosing.recommendation.decisions import concerns, decisions_on, record_decision
from dosing.recommendation.dose_context import DecidedStates
from dosing.recommendation.novelty import Monitor
from dosing.recommendation.reasons import Reason
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import EarlierVisit, Recommender, Rules, StateEntry
from dosing.recommendation.simulated import FollowRecommender
from dosing.safety import DoseLimits, StepLimit
from tests.support.samples import cohort, stack

LOOKING_BACK = ("response_model", "decision_transformer")
SEEDS = (3, 7)
UNIT = DoseLimits((-1.0,), (1.0,))
RULES = Rules(UNIT, tuple(StateEntry(f"s{i + 1}", low=-20.0, high=20.0) for i in range(8)))
VISITS = 24

every_one = pytest.mark.parametrize("name", LOOKING_BACK)


@functools.cache
def policy(name: str, seeds: tuple[int, ...] = SEEDS) -> DosePolicy:
    """A stack whose dose depends on all that it was told, though it was never trained.

    Every seed's tensors are drawn by that seed alone, so that seeds can be compared with their own stack.
    """
    agent = stack(name, seeds)
    with torch.no_grad():
        for k, seed in enumerate(seeds):
            rng = torch.Generator().manual_seed(seed)
            for part, value in [*agent.named_parameters(), *agent.named_buffers()]:
                fixed = ("numbers", "horizon", "spread", "low", "high", "count", "pooling")
                if value.is_floating_point() and part.split(".")[-1] not in fixed:
                    value[k] += 0.3 * torch.randn(value[k].shape, generator=rng)
        if name == "response_model":
            agent.patients.horizon.fill_(float(VISITS))
            agent.patients.reason.zero_()
            agent.patients._notice()
    return DosePolicy(agent, Transform.fit(cohort()))


@functools.cache
def monitor() -> Monitor:
    known = Monitor.fit(cohort(16))
    return replace(known, threshold=1e9, doses=replace(known.doses, threshold=1e9), dose_spread=(1e9,))


def recommender(name: str, **fields: Any) -> Recommender:
    return replace(Recommender(policy(name), RULES, monitor(), provenance={"weights": "w"}), **fields)


def table(patients: int = 3) -> tuple[np.ndarray, EarlierVisits]:
    """All visits of some recorded patients, with those before each."""
    visits = cohort(8)
    rows = visits.episode < patients
    starts = np.flatnonzero(visits.step[rows] == 0)
    earlier = EarlierVisits.of_episodes(visits.obs[rows], visits.act[rows], visits.reward[rows], starts)
    return visits.obs[rows].astype(np.float64), earlier


def before(earlier: EarlierVisits, row: int) -> tuple[EarlierVisit, ...]:
    """The visits before one row of a table, by slicing."""
    part = slice(int(earlier.first[row]), int(earlier.first[row] + earlier.count[row]))
    columns = (column[part].tolist() for column in (earlier.obs, earlier.dose, earlier.reward))
    return tuple(EarlierVisit(tuple(s), tuple(d), r) for s, d, r in zip(*columns, strict=True))


# What evaluation does


@pytest.mark.long
@every_one
def test_the_dose_after_a_history_is_what_evaluation_gives_at_that_visit(name: str) -> None:
    """``HistoryPolicy`` is told visit by visit, as in a roll-out; the recommender is told all at once."""
    states, earlier = table()
    asked = HistoryPolicy(policy(name))
    everyone = states.astype(np.float32).reshape(3, VISITS, 8)
    given, paid = earlier.dose.reshape(3, VISITS, 1), earlier.reward.reshape(3, VISITS)
    rollout = np.empty((2, 3, VISITS, 1))
    for visit in range(VISITS):
        rollout[:, :, visit] = asked(np.broadcast_to(everyone[:, visit], (2, 3, 8)), visit)
        asked.observe(np.tile(given[:, visit], (2, 1, 1)), np.tile(paid[:, visit], (2, 1)))
    for row in (0, 1, 8, VISITS - 1, VISITS + 5, 3 * VISITS - 1):
        result = recommend(recommender(name), states[row].tolist(), earlier=before(earlier, row))
        assert result.dose is not None, result.reasons
        expected = rollout[:, row // VISITS, row % VISITS, 0]
        np.testing.assert_allclose([s.dose[0] for s in result.seeds], expected, rtol=0, atol=2e-6)
        assert result.proposed == pytest.approx((expected.mean(),), abs=2e-6)
    many = recommend_all(recommender(name), states, earlier=earlier)
    np.testing.assert_allclose(many.seed_dose.reshape(rollout.shape), rollout, rtol=0, atol=2e-6)
    # and it is not what it would say at a first visit: the history has a say
    first = recommend_all(recommender(name), states)
    later = np.arange(len(states)) % VISITS > 0
    assert np.abs(first.seed_dose - many.seed_dose)[:, later].max() > 0.01
    np.testing.assert_allclose(first.seed_dose[:, ~later], many.seed_dose[:, ~later], rtol=0, atol=2e-6)


@pytest.mark.long
@every_one
def test_simulated_patients_get_what_evaluation_gives(name: str) -> None:
    rule, plain = FollowRecommender(recommender(name)), HistoryPolicy(policy(name))
    rng = np.random.default_rng(0)
    for _ in range(2):  # visit 0 begins anew
        for visit in range(4):
            obs = np.tile(rng.normal(size=(1, 5, 8)).astype(np.float32), (2, 1, 1))
            dose, own = rule(obs, visit), plain(obs, visit)
            np.testing.assert_allclose(dose, np.tile(own.mean(0), (2, 1, 1)), rtol=0, atol=2e-6)
            delivered, reward = rng.uniform(-1, 1, (1, 5, 1)), rng.normal(size=(1, 5))
            rule.observe(np.tile(delivered, (2, 1, 1)), np.tile(reward, (2, 1)))
            plain.observe(np.tile(delivered, (2, 1, 1)), np.tile(reward, (2, 1)))


# Tables


@pytest.mark.long
@every_one
def test_a_table_is_answered_as_its_rows_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosing.recommendation.batch.ROWS", 2)  # groups are cut, too
    states, earlier = table()
    order = np.random.default_rng(1).permutation(len(states))
    many = recommend_all(recommender(name), states[order], earlier=earlier[order])
    for place, row in enumerate(order.tolist()):
        one = recommend(recommender(name), states[row].tolist(), earlier=before(earlier, row))
        assert one.dose == pytest.approx(many.dose[place], abs=2e-6)
        assert one.support is not None
        assert one.support[0] == pytest.approx(many.low[place], abs=2e-6)
        assert one.support[1] == pytest.approx(many.high[place], abs=2e-6)
        assert one.central is not None
        for end in (one.central[0][0], one.central[1][0]):
            assert one.support[0][0] - 1e-6 <= end <= one.support[1][0] + 1e-6


@pytest.mark.long
@every_one
def test_a_row_sees_nothing_of_what_came_later(name: str) -> None:
    states, earlier = table(1)
    said = recommend_all(recommender(name), states, earlier=earlier)
    changed, other = states.copy(), replace(earlier, dose=-earlier.dose.copy(), reward=earlier.reward + 1.0)
    changed[10:] += 1.0
    other.dose[:9], other.reward[:9] = earlier.dose[:9], earlier.reward[:9]
    other = replace(other, obs=changed)
    again = recommend_all(recommender(name), changed, earlier=other)
    assert np.array_equal(said.dose[:10], again.dose[:10])
    assert np.abs(said.dose[11:] - again.dose[11:]).max() > 1e-3


@pytest.mark.long
@every_one
def test_a_seed_of_a_stack_says_what_it_says_alone(name: str) -> None:
    states, earlier = table()
    both = recommend_all(recommender(name), states, earlier=earlier)
    for k, seed in enumerate(SEEDS):
        alone = recommend_all(recommender(name, policy=policy(name, (seed,))), states, earlier=earlier)
        np.testing.assert_allclose(both.seed_dose[k], alone.seed_dose[0], rtol=0, atol=2e-6)
    assert not np.allclose(both.seed_dose[0], both.seed_dose[1], atol=1e-3)


def test_a_policy_of_the_state_alone_says_the_same_bit_for_bit() -> None:
    states, earlier = table()
    alone = recommender("iql", policy=DosePolicy(stack("iql", SEEDS), Transform.fit(cohort())))
    plain, told = recommend_all(alone, states), recommend_all(alone, states, earlier=earlier)
    for column in ("dose", "proposed", "low", "high", "spread", "seed_dose", "distance", "codes"):
        assert np.array_equal(getattr(plain, column), getattr(told, column), equal_nan=True)
    wild = replace(earlier, obs=np.full_like(earlier.obs, np.nan))  # it does not look
    assert np.array_equal(recommend_all(alone, states, earlier=wild).dose, plain.dose)
    past = earlier[np.array([5])].past()
    assert alone.policy.after(past) is alone.policy
    one = recommend(alone, states[5].tolist(), earlier=before(earlier, 5))
    assert one.earlier is None
    assert "one visit alone" in one.notes[0]


@pytest.mark.long
def test_more_rows_than_are_asked_about_at_once() -> None:
    states, earlier = table(1)
    copies = np.tile(np.arange(VISITS), ROWS // 10)
    many = recommend_all(recommender("response_model"), states[copies], earlier=earlier[copies])
    few = recommend_all(recommender("response_model"), states, earlier=earlier)
    np.testing.assert_allclose(many.dose, few.dose[copies], rtol=0, atol=2e-6)


# What is refused


@pytest.mark.long
@every_one
@pytest.mark.parametrize(
    ("column", "value"),
    [("obs", math.nan), ("obs", math.inf), ("obs", 25.0), ("dose", math.nan), ("dose", 1.5)],
)
def test_a_bad_number_refuses_later_visits_of_that_patient_alone(
    name: str, column: str, value: float
) -> None:
    states, earlier = table()
    spoiled = getattr(earlier, column).copy()
    spoiled[VISITS + 6, 0] = value
    result = recommend_all(recommender(name), states, earlier=replace(earlier, **{column: spoiled}))
    refused = np.flatnonzero(result.status == 3)
    assert refused.tolist() == list(range(VISITS + 7, 2 * VISITS))
    assert set(result.codes[refused].tolist()) == {int(Reason.EARLIER_VISITS)}
    assert np.isnan(result.dose[refused]).all()
    kept = np.setdiff1d(np.arange(len(states)), refused)
    whole = recommend_all(recommender(name), states, earlier=earlier)
    np.testing.assert_allclose(result.dose[kept], whole.dose[kept], rtol=0, atol=2e-6)
    one = before(replace(earlier, **{column: spoiled}), VISITS + 9)
    said = recommend(recommender(name), states[VISITS + 9].tolist(), earlier=one)
    assert said.status == "refused"
    assert said.codes == ("earlier_visits",)
    assert "visit 7" in said.reasons[0]
    json.dumps(said.to_json(), allow_nan=False)


@pytest.mark.long
def test_rewards_are_needed_by_a_policy_that_aims_at_a_return_and_by_no_other() -> None:
    states, earlier = table(1)
    missing = earlier.reward.copy()
    missing[4] = np.nan
    untold = replace(earlier, reward=missing)
    aiming = recommend_all(recommender("decision_transformer"), states, earlier=untold)
    assert np.flatnonzero(aiming.status == 3).tolist() == list(range(5, VISITS))
    assert set(aiming.codes[5:].tolist()) == {int(Reason.EARLIER_VISITS)}
    said = recommend(recommender("decision_transformer"), states[9].tolist(), earlier=before(untold, 9))
    assert said.reasons == (
        "the reward of visit 5 is missing: this policy aims at a return, and needs to know what of it was "
        "received.",
    )
    believing = recommend_all(recommender("response_model"), states, earlier=untold)
    whole = recommend_all(recommender("response_model"), states, earlier=earlier)
    assert np.array_equal(believing.dose, whole.dose)
    assert np.isfinite(believing.dose).all()
    nothing = tuple(replace(visit, reward=None) for visit in before(earlier, 9))
    assert recommend(recommender("response_model"), states[9].tolist(), earlier=nothing).dose is not None
    assert recommend(recommender("decision_transformer"), states[9].tolist(), earlier=nothing).dose is None


@every_one
def test_a_visit_beyond_the_episodes_that_it_knows_is_refused(name: str) -> None:
    states, earlier = table(1)
    far = (*before(earlier, VISITS - 1), EarlierVisit(tuple(states[-1]), (0.0,), 0.0))
    result = recommend(recommender(name), states[0].tolist(), earlier=far)
    assert result.reasons == ("this is visit 25; the policy knows episodes of 24 visits.",)
    count = earlier.count.copy()
    count[-1] = VISITS
    many = recommend_all(recommender(name), states, earlier=replace(earlier, count=count))
    assert np.flatnonzero(many.status == 3).tolist() == [VISITS - 1]


def test_whatever_breaks_behind_a_history_is_a_refusal() -> None:
    class Broken(DosePolicy):
        def after(self, past: Past) -> DosePolicy:
            raise RuntimeError("no memory")

    states, earlier = table(1)
    broken = Broken(policy("response_model").agent, Transform.fit(cohort()))
    result = recommend(
        recommender("response_model", policy=broken), states[3].tolist(), earlier=before(earlier, 3)
    )
    assert (result.status, result.codes) == ("refused", ("failed",))
    assert "no memory" in result.reasons[0]


def test_words_in_place_of_earlier_visits_are_refused_with_their_visit() -> None:
    visits = (EarlierVisit(("high",) * 8, (0.0,)), EarlierVisit((0.0,) * 7, ("much",)))
    result = recommend(recommender("response_model"), [0.0] * 8, earlier=visits)
    told = " ".join(result.reasons)
    assert "of visit 1 must be a number, got 'high'" in told
    assert "visit 2 needs 8 numbers, got 7" in told
    assert "of the dose of visit 2 must be a number, got 'much'; allowed: -1 to 1" in told
    assert result.earlier is not None
    json.dumps(result.to_json(), allow_nan=False)


def test_earlier_visits_of_another_table_are_refused() -> None:
    states, earlier = table(1)
    with pytest.raises(UserError, match="must be told for 3 state"):
        recommend_all(recommender("response_model"), states[:3], earlier=earlier)
    with pytest.raises(UserError, match="must lie within"):
        replace(earlier, first=earlier.first + 5)


# The dose given now


@pytest.mark.long
def test_the_current_dose_is_the_last_one_before() -> None:
    states, earlier = table()
    stepping = recommender("response_model", rules=replace(RULES, step=StepLimit((0.05,))))
    result = recommend_all(stepping, states, earlier=earlier)
    first = np.arange(len(states)) % VISITS == 0
    assert set(result.codes[first].tolist()) == {int(Reason.CURRENT_DOSE)}  # nothing tells it
    change = np.abs(result.dose[~first] - earlier.dose[np.flatnonzero(~first) - 1])
    assert change.max() <= 0.05 + 1e-12
    assert (result.codes[~first] & int(Reason.STEP_LIMIT) > 0).mean() > 0.5
    one = recommend(stepping, states[7].tolist(), earlier=before(earlier, 7))
    assert one.current == tuple(earlier.dose[6])
    assert one.dose == pytest.approx(result.dose[7], abs=2e-6)
    twice = recommend(stepping, states[7].tolist(), [0.1], before(earlier, 7))
    assert "is not told once more" in twice.reasons[0]
    memoryless = recommender("iql", policy=DosePolicy(stack("iql", SEEDS), Transform.fit(cohort())))
    memoryless = replace(memoryless, rules=stepping.rules)
    assert recommend(memoryless, states[7].tolist(), earlier=before(earlier, 7)).current == one.current


# What is on record


def test_the_record_carries_what_was_seen_or_its_hash() -> None:
    states, earlier = table(1)
    result = recommend(recommender("response_model"), states[5].tolist(), earlier=before(earlier, 5))
    assert result.notes == ("This policy looks back; it was told 5 earlier visits.",)
    plain = json.loads(json.dumps(result.to_json()))
    _, numbers = shown(plain)
    assert [visit["dose"] for visit in numbers["earlier"]] == earlier.dose[:5].tolist()
    assert [visit["state"] for visit in numbers["earlier"]] == earlier.obs[:5].tolist()
    assert [visit["reward"] for visit in numbers["earlier"]] == earlier.reward[:5].tolist()
    _, hashed = shown(plain, "hash")
    assert hashed["earlier_visits"] == numbers["earlier_visits"] == 5
    assert "earlier" not in hashed
    seen = [*states[5].tolist()]
    for visit in before(earlier, 5):
        seen += ["visit", *visit.state, *visit.dose, visit.reward]
    assert hashed["state_hash"] == state_hash(seen)
    other = recommend(recommender("response_model"), states[5].tolist(), earlier=before(earlier, 4))
    assert shown(other.to_json(), "hash")[1]["state_hash"] != hashed["state_hash"]
    first = recommend(recommender("response_model"), states[5].tolist(), earlier=())
    unknown = recommend(recommender("response_model"), states[5].tolist())
    assert first.dose == unknown.dose
    assert "this is a first visit" in first.notes[0]
    assert "as at a first visit" in unknown.notes[0]
    assert "earlier_visits" not in shown(unknown.to_json())[1]


@pytest.mark.long
def test_a_decision_holds_after_the_same_visits_and_after_no_others(tmp_path: Path) -> None:
    log, (states, earlier) = AuditLog(tmp_path / FILE), table(1)

    def ask(row: int, told: tuple[EarlierVisit, ...] | None, **how: Any) -> Any:
        result = recommend(recommender("response_model"), states[row].tolist(), earlier=told)
        return log.append(*shown(result.to_json(), **how))

    record = ask(5, before(earlier, 5))
    decided = record_decision(log, record.number, "reject")
    for same in (ask(5, before(earlier, 5)), ask(5, before(earlier, 5), states="hash")):
        assert [decision.number for decision in decisions_on(log, same.content)] == [decided.number]
    for other in (ask(5, before(earlier, 4)), ask(5, None), ask(6, before(earlier, 6))):
        assert decisions_on(log, other.content) == ()
    sentences = DecidedStates(decisions_on(log, record.content), "w").of(states, None, earlier)
    assert [row for row, words in enumerate(sentences) if words] == [5]
    by_visit = ask(7, before(earlier, 7), visit=("4", 8))
    record_decision(log, by_visit.number, "reject")
    assert concerns(by_visit.content, ask(7, (), visit=("4", 8)).content)  # the recorded visit names itself
