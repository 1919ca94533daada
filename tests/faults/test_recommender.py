"""Faults of states that the recommender is asked about, and what a recommendation owes its reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dosing import NOT_FOR_PATIENTS
from dosing.data.columns import parse_columns
from dosing.data.dataset import Transform
from dosing.data.external import External
from dosing.data.sources import read_source
from dosing.errors import UserError
from dosing.ope.importance import density_ratios
from dosing.ope.targets import SampledDose
from dosing.ope.trajectories import Trajectories
from dosing.policy import DosePolicy
from dosing.recommendation.audit_log import FILE, AuditLog
from dosing.recommendation.novelty import Monitor
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Recommendation, Recommender, Rules, StateEntry
from dosing.safety import LIMITED_BY, DoseLimits, StepLimit
from tests.support.samples import cohort, stack

UNIT = DoseLimits((-1.0,), (1.0,))
ENTRIES = tuple(StateEntry(f"s{k + 1}", "mmol/L", -18.0, 18.0) for k in range(8))
RULES = Rules(UNIT, ENTRIES, safe_default="no dose (0)")
USUAL = cohort(16).obs[5].tolist()


def recommender(**changed: Any) -> Recommender:
    policy = DosePolicy(stack("fttpo"), Transform.fit(cohort(16)))
    return replace(Recommender(policy, RULES), **changed)


def refused(state: Any, **changed: Any) -> str:
    result = recommend(recommender(**changed), state)
    assert (result.status, result.dose) == ("refused", None)
    assert result.safe_default == "no dose (0)"
    return " ".join(result.reasons)


def test_fault_07_a_ten_fold_dose_meets_the_hard_limit_and_the_step_limit(tmp_path: Path) -> None:
    limits = DoseLimits((0.0,), (15.0,))
    delivered, rule = limits.deliver(np.array([[41.7]]))
    assert (delivered[0, 0], LIMITED_BY[rule[0]]) == (15.0, "high limit")
    frame = pd.DataFrame({"who": [1, 1], "level": [1.0, 2.0], "dose": [4.17, 41.7], "gain": [0.0, 1.0]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    roles = parse_columns(["obs=level", "act=dose", "reward=gain", "episode=who", "terminated="])
    with pytest.raises(
        UserError, match=r"action \[41.7\] of row 2 lies outside the limits \[0.0\] to \[15.0\]"
    ):
        read_source(tmp_path / "x.csv", External(limits=limits, columns=roles))
    slow = recommender(rules=replace(RULES, step=StepLimit((0.2,))))
    told = recommend(slow, USUAL, [-0.9])
    assert told.dose is not None
    assert -1.0 <= told.dose[0] <= -0.7 + 1e-12
    assert told.proposed is not None
    assert recommend(slow, USUAL, [9.0]).status == "refused"


@pytest.mark.parametrize("value", [np.nan, np.inf, None])
def test_fault_09_a_state_entry_that_is_no_number_is_refused_by_name(value: float | None) -> None:
    state: list[Any] = list(USUAL)
    state[3] = value
    assert "s4" in refused(state)


def test_fault_10_a_state_that_the_card_calls_impossible_is_refused_with_range_and_unit() -> None:
    state = list(USUAL)
    state[1] = 240.0
    said = refused(state)
    assert "s2" in said
    assert "240" in said
    assert "-18 to 18 mmol/L" in said


def test_fault_11_a_possible_state_far_from_all_training_is_deferred_with_its_distance() -> None:
    result = recommend(recommender(monitor=Monitor.fit(cohort(16))), [6.0, -6.0] * 4)
    assert result.status == "deferred"
    assert result.distance is not None
    assert result.threshold is not None
    assert result.distance > result.threshold
    assert result.nearest


@pytest.mark.parametrize("width", [0, 7, 9])
def test_fault_12_a_state_of_another_length_is_refused(width: int) -> None:
    assert "8" in refused([0.1] * width)


def test_fault_18_a_recorded_dose_of_density_zero_is_counted_and_never_nan() -> None:
    data = cohort(16)
    log_prob = data.behaviour_log_prob.copy()
    log_prob[:5] = -np.inf
    trajectories = Trajectories.from_episodes(replace(data, behaviour_log_prob=log_prob))
    with pytest.raises(UserError, match="the density of 5 of 384 recorded doses"):
        density_ratios(
            trajectories, SampledDose(DosePolicy(stack("bc"), Transform.fit(data)), Transform.fit(data))
        )


def test_fault_40_an_edited_or_cut_log_is_reported_with_its_first_bad_line(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / FILE)
    for number in range(5):
        log.append("run loaded", {"number": number})
    lines = log.path.read_bytes().splitlines(keepends=True)
    for damaged, bad in (([*lines[:2], lines[2].replace(b"2", b"7"), *lines[3:]], 3), (lines[:3], 4)):
        log.path.write_bytes(b"".join(damaged))
        assert log.verify().broken == bad


def test_behaviour_02_a_recommendation_is_an_object_with_all_it_rests_on() -> None:
    result = recommend(recommender(), USUAL)
    told = result.to_json()
    owed = {"dose", "unit", "limits", "support", "mass_outside", "central", "status", "reasons", "provenance"}
    assert owed | {"time", "state", "step", "notice"} <= set(told)
    assert told["state"] == pytest.approx(USUAL)
    assert json.loads(json.dumps(told, allow_nan=False)) == json.loads(json.dumps(told))


def within(result: Recommendation) -> None:
    assert result.status in ("ok", "limited", "deferred", "refused")
    if result.dose is not None:
        assert -1.0 <= result.dose[0] <= 1.0


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 30.0, 1e6, float("nan")]), st.data())
def test_behaviour_03_no_weights_and_no_state_lead_beyond_the_hard_limits(
    seed: int, scale: float, data: st.DataObject
) -> None:
    made = recommender()
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * scale if tensor.is_floating_point() else tensor
        for name, tensor in made.policy.agent.state_dict().items()
    }
    made.policy.agent.load_state_dict(state)
    within(recommend(made, data.draw(st.lists(st.floats(-18, 18, width=32), min_size=8, max_size=8))))


def test_behaviour_05_every_bad_entry_of_a_state_is_named_at_once() -> None:
    state: list[Any] = list(USUAL)
    state[0], state[2], state[7] = "HI", float("nan"), 99.0
    said = refused(state)
    for name in ("s1", "s3", "s8"):
        assert name in said
    assert "s2" not in said


def test_behaviour_06_usual_states_are_answered_and_others_deferred_with_neighbours() -> None:
    watched = recommender(monitor=Monitor.fit(cohort(16)))
    far = recommend(watched, [6.0, -6.0] * 4)
    assert far.status == "deferred"
    assert 0.0 in {near.distance for near in recommend(watched, USUAL).nearest}
    assert min(near.distance for near in far.nearest) > 0.0


def test_behaviour_07_whatever_breaks_inside_is_a_refusal_with_the_safe_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("out of order")

    made = recommender()
    monkeypatch.setattr(type(made.policy), "consult", broken)
    result = recommend(made, USUAL)
    assert (result.status, result.dose, result.safe_default) == ("refused", None, "no dose (0)")


def test_behaviour_08_the_basis_of_a_dose_is_told_with_it() -> None:
    result = recommend(recommender(monitor=Monitor.fit(cohort(16))), USUAL)
    assert result.state == pytest.approx(USUAL)
    assert [seed.seed for seed in result.seeds] == [0, 1]
    data = cohort(16)
    for near in result.nearest:
        row = int(np.flatnonzero((data.episode == near.patient) & (data.step == near.visit))[0])
        assert near.dose == pytest.approx(tuple(data.act[row].tolist()))
        assert near.reward == pytest.approx(float(data.reward[row]))
    assert result.recorded_near is not None
    assert result.recorded_near[0][0] <= min(near.dose[0] for near in result.nearest)


def test_behaviour_09_uncertainty_is_in_doses_and_seeds_that_disagree_are_deferred() -> None:
    result = recommend(recommender(), USUAL)
    assert result.support is not None
    assert result.central is not None
    assert result.spread is not None
    ends = [result.support[0][0], result.central[0][0], result.central[1][0], result.support[1][0]]
    assert ends == sorted(ends)
    apart = recommender(monitor=replace(Monitor.fit(cohort(16)), dose_spread=(1e-6,)))
    said = recommend(apart, USUAL)
    assert (said.status, "seeds_apart" in said.codes) == ("deferred", True)


def test_behaviour_11_the_log_is_chained_and_a_broken_one_is_never_continued(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / FILE)
    log.append("run loaded", {"number": 0})
    log.append("refused", {"reasons": ["none"], "notice": NOT_FOR_PATIENTS})
    assert log.verify().broken is None
    content = log.path.read_bytes()
    log.path.write_bytes(
        content.replace(b'"number": 0', b'"number": 1').replace(b'"number":0', b'"number":1')
    )
    assert log.verify().broken == 1
    with pytest.raises(UserError, match="line 1"):
        log.append("run loaded", {"number": 2})
