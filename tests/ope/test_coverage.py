"""A value needs recorded doses near the policy's, and lies between returns that recorded rewards allow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dosing.evaluation.rules import constant
from dosing.ope.coverage import MOST_UNRECORDED, Coverage
from dosing.ope.folds import Fold, evaluate_folds
from dosing.ope.selection import Settings, evaluate_policies
from dosing.ope.targets import RecommendedDose
from dosing.ope.trajectories import Trajectories, fold_patients
from tests.ope.ope_problems import BetaLaw, episodes, linear_system

FQE = Settings(estimators=("fqe", "wis", "wis_window", "wdr"), replicates=100)


def narrow(patients: int, seed: int = 0, low: float = -0.6, high: float = -0.4, reward: Any = None) -> Any:
    """Patients of four visits, dosed between two doses only; the limits are -1 and 1."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(patients, 5, 1))
    act = rng.uniform(low, high, size=(patients, 4, 1))
    told = obs[:, :-1, 0] + act[..., 0] + 0.1 * rng.normal(size=(patients, 4)) if reward is None else reward
    density = -np.log(high - low)
    return episodes(obs[:, :-1], act, told * np.ones((patients, 4)), obs[:, 1:], log_density=density)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), dose=st.floats(-1.0, 1.0), patients=st.integers(6, 20))
def test_no_estimator_values_a_dose_that_nobody_was_given(seed: int, dose: float, patients: int) -> None:
    recorded = narrow(patients, seed)
    result = evaluate_policies(recorded, [("dose", constant(dose))], FQE)
    (_, valued) = result.policies
    returns = recorded.reward.reshape(patients, 4)
    if not -0.7 <= dose <= -0.3:
        assert valued.unrecorded == 1.0
        for value in valued.values.values():
            assert (value.estimate, value.difference, value.verdict) == (None, None, None)
            assert "no dose near the policy's was recorded" in str(value.refused)
    for value in valued.values.values():
        if value.estimate is not None:
            assert 4 * returns.min() <= value.estimate.low <= value.estimate.high <= 4 * returns.max()


def test_a_dose_of_the_recorded_ones_has_a_value() -> None:
    result = evaluate_policies(narrow(40), [("middle", constant(-0.5))], FQE)
    value = result.policies[1].values["fqe"]
    assert value.refused is None
    assert result.policies[1].unrecorded <= MOST_UNRECORDED


@pytest.mark.parametrize("reward", [0.0, -1.0, 0.1])
def test_equal_rewards_judge_no_policy(reward: float) -> None:
    recorded = narrow(20, reward=reward)
    result = evaluate_policies(recorded, [("lower", constant(-0.55))], FQE)
    assert not result.baseline.identified
    assert "say nothing about doses" in result.baseline.missing
    assert result.baseline.dose in recorded.act
    for policy in result.policies:
        value = policy.values["fqe"]
        assert value.estimate is not None
        assert value.estimate.value == pytest.approx(4 * reward, abs=1e-6)
        assert (value.difference, value.verdict) == (None, None)
    parts = [Fold(*part, {"lower": constant(-0.55)}) for part in fold_patients(recorded, 2)]
    pooled = evaluate_folds(parts, replace(FQE, estimators=("fqe",)))
    assert "say nothing about doses" in pooled.missing
    assert pooled.values["lower"]["fqe"].verdict is None


def test_the_bounds_are_the_best_and_the_worst_reward_at_every_visit() -> None:
    data = Trajectories.from_episodes(narrow(10))
    coverage = Coverage.of(data, 0.9, 3)
    total = 1 + 0.9 + 0.81
    reward = data.reward[data.recorded > 0]
    assert (coverage.low, coverage.high) == pytest.approx((total * reward.min(), total * reward.max()))
    ended = replace(data, terminated=np.ones_like(data.terminated), reward=np.abs(data.reward) + 1.0)
    coverage = Coverage.of(ended, 0.9, 3)  # an episode may end after one visit
    assert coverage.low == pytest.approx(ended.reward[ended.recorded > 0].min())
    assert coverage.impossible(np.array([coverage.high * 1.01])) is not None
    assert coverage.impossible(np.array([coverage.high, coverage.low])) is None


def test_an_estimate_that_no_rewards_allow_is_refused() -> None:
    """Weights that no regression gives: the fit is replaced by a number far beyond every return."""
    recorded = narrow(20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dosing.ope.selection.value", lambda *_: np.full((101, 1), 22.3))
        result = evaluate_policies(recorded, [("middle", constant(-0.5))], FQE)
    value = result.policies[1].values["fqe"]
    assert value.estimate is None
    assert "22.3 is no return that the recorded rewards allow" in str(value.refused)


def test_unrecorded_doses_of_a_few_visits_widen_the_interval() -> None:
    """A rule that leaves the recorded doses at e of the states: by e of what rewards leave possible."""
    recorded = narrow(400)
    data = Trajectories.from_episodes(recorded)
    coverage = Coverage.of(data, 1.0, 4)
    edge = float(np.quantile(recorded.obs, 0.96))

    def leaving(obs: Any, visit: int) -> Any:
        return np.where(obs > edge, 0.9, -0.5).astype(np.float64)

    share = coverage.unrecorded(RecommendedDose(leaving, data.transform))
    assert share == pytest.approx(0.04, abs=0.01)
    excess = coverage.excess(share)
    assert excess == pytest.approx(share.mean() - coverage.support.rule.level)
    result = evaluate_policies(recorded, [("leaving", leaving)], replace(FQE, estimators=("wis",)))
    value = result.policies[1].values["wis"]
    assert value.estimate is not None
    assert value.drawn is not None
    inner = np.quantile(value.drawn[1:], [0.025, 0.975])
    below, above = coverage.unknown(value.estimate.value, excess)
    assert min(below, above) > 0.0
    assert (value.estimate.low, value.estimate.high) == pytest.approx((inner[0] - below, inner[1] + above))
    assert "widened for doses with none recorded near" in value.estimate.method


def test_a_drawn_dose_counts_by_its_probability() -> None:
    data = Trajectories.from_episodes(linear_system(200, 4))
    share = Coverage.of(data, 1.0, 4).unrecorded(BetaLaw())
    assert share.shape == (1,)
    assert share[0] < 0.03  # all of [-1, 1] was given
    held = Trajectories.from_episodes(narrow(200, low=-1.0, high=0.0))
    law = BetaLaw()
    expected = np.mean([law._distribution(obs[None]).sf(0.1)[0] for obs in held.obs[held.recorded > 0]])
    assert Coverage.of(held, 1.0, 4).unrecorded(law)[0] == pytest.approx(expected, abs=0.1)
