"""One call for all candidates: paired differences, refusals, ranking; and how good a ranking is, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.evaluation.rules import constant
from dosing.models.prior import constant_dose
from dosing.ope.baselines import estimated_constant, ridge_fitted_q
from dosing.ope.fqe import PolicyFeatures, Regression, fit, value
from dosing.ope.neural import NeuralSettings, neural_values
from dosing.ope.ranking import coverage, rank_correlation, regret_at_1
from dosing.ope.selection import BASELINE, Settings, evaluate_policies
from dosing.ope.targets import RecommendedDose
from dosing.ope.trajectories import Trajectories, patient_counts
from dosing.policy import DosePolicy
from tests.ope.ope_problems import BetaLaw, TwoStates, episodes, linear_return, linear_system, two_states
from tests.support.samples import cohort, stack

QUICK = Settings(replicates=200)


# Selection


def test_every_candidate_beside_the_estimated_constant() -> None:
    recorded = two_states(240, 3)
    data = Trajectories.from_episodes(recorded)
    best = estimated_constant(data)
    result = evaluate_policies(recorded, [("same", best), ("far", constant(-1.0))], QUICK)
    baseline, same, far = result.policies
    assert [p.name for p in result.policies] == [BASELINE, "same", "far"]
    assert (result.patients, result.horizon, result.baseline) == (240, 3, best)
    for name in QUICK.estimators:
        if baseline.values[name].refused is None:
            assert same.values[name].estimate == baseline.values[name].estimate
            difference = same.values[name].difference
            assert difference is not None
            assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
            assert same.values[name].verdict == "not distinguishable"
        assert baseline.values[name].difference is None
    assert far.values["fqe"].verdict == "worse"
    assert result.ranking()[-1].name == "far"
    assert [p.name for p in result.ranking("fqe")][:2] == [BASELINE, "same"]


def test_estimates_and_differences_are_those_of_the_replicates() -> None:
    recorded = linear_system(30, 3)
    settings = Settings(estimators=("fqe",), replicates=100, discount=0.9, ridge=0.02, seed=5, confidence=0.9)
    result = evaluate_policies(recorded, [("half", constant(0.5))], settings)
    data = Trajectories.from_episodes(recorded)
    counts = patient_counts(30, 100, 5)
    regression = Regression(data, 0.02)

    def drawn(dose: float) -> np.ndarray:
        features = PolicyFeatures.of(regression, RecommendedDose(constant(dose), data.transform))
        return value(features, fit(regression, features, counts, discount=0.9, horizon=3)[-1], counts)[:, 0]

    half, best = drawn(0.5), drawn(result.baseline.dose)
    estimate, difference = (getattr(result.policies[1].values["fqe"], k) for k in ("estimate", "difference"))
    assert estimate.value == pytest.approx(half[0])
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(half[1:], [0.05, 0.95]))
    assert difference.value == pytest.approx(half[0] - best[0])
    assert (difference.low, difference.high) == pytest.approx(np.quantile((half - best)[1:], [0.05, 0.95]))
    assert (estimate.n, estimate.n_seeds, estimate.level) == (30, 1, 0.9)


def test_too_few_weights_are_refused_with_a_reason_and_fitted_values_are_not() -> None:
    result = evaluate_policies(cohort(), [("half", constant(0.5))], QUICK)
    values = result.policies[1].values
    assert values["fqe"].estimate is not None
    for name in ("wis", "wdr"):
        assert values[name].estimate is None
        assert "effective sample size" in str(values[name].refused)
    assert result.policies[1].gap is None
    assert result.policies[1].weights is not None
    assert result.policies[1].weights.survival.shape == (1, 24)
    assert result.ranking("wis") == []


def test_short_episodes_of_many_patients_get_every_estimate() -> None:
    result = evaluate_policies(two_states(400, 2), [("zero", constant(0.0))], QUICK)
    values = result.policies[1].values
    exact = TwoStates({-1: (0.0, 0.0), 1: (0.0, 0.0)}).value(2, 1.0)
    for name in ("fqe", "wis", "wis_window", "wdr"):
        estimate = values[name].estimate
        assert estimate is not None, values[name].refused
        assert estimate.low - 0.2 < exact < estimate.high + 0.2
    fqe, wdr = values["fqe"].estimate, values["wdr"].estimate
    assert fqe is not None
    assert wdr is not None
    assert result.policies[1].gap == pytest.approx(fqe.value - wdr.value)


def test_a_horizon_shorter_than_the_recordings() -> None:
    whole = two_states(200, 4)
    first = whole.step < 2
    cut = replace(whole, **{name: array[first] for name, array in whole.arrays().items()})
    short = evaluate_policies(
        whole, [("zero", constant(0.0))], replace(QUICK, horizon=2, estimators=("wis",))
    )
    alone = evaluate_policies(cut, [("zero", constant(0.0))], replace(QUICK, estimators=("wis",)))
    assert short.policies[1].values["wis"].seeds == pytest.approx(alone.policies[1].values["wis"].seeds)


def test_densities_that_are_not_known_leave_the_fitted_values() -> None:
    unknown = replace(two_states(40, 3), behaviour_log_prob=np.full(120, np.nan, np.float32))
    result = evaluate_policies(unknown, [("zero", constant(0.0))], QUICK)
    assert result.policies[1].values["fqe"].estimate is not None
    assert "120 of 120 recorded doses" in str(result.policies[1].values["wis"].refused)
    assert result.policies[1].weights is None


@pytest.mark.parametrize("sampled", [False, True])
def test_trained_stacks_are_candidates(sampled: bool) -> None:
    transform = Transform.fit(cohort())
    candidates: Any = [(name, DosePolicy(stack(name), transform)) for name in ("iql", "fttpo", "td3_bc")]
    result = evaluate_policies(cohort(), candidates, replace(QUICK, sampled=sampled))
    iql, fttpo, td3_bc = result.policies[1:]
    assert len(iql.values["fqe"].seeds) == 2
    estimate = iql.values["fqe"].estimate
    assert estimate is not None
    assert estimate.value == pytest.approx(np.mean(iql.values["fqe"].seeds))
    assert iql.description.startswith("dose drawn" if sampled else "recommended dose")
    assert td3_bc.description.startswith("recommended dose")
    assert (iql.off_support > 0.1) == sampled
    assert fttpo.off_support == 0.0
    assert ("exactly at the limits" in str(iql.values["wis_window"].refused)) == sampled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimators": ("magic",)}, "estimators are"),
        ({"estimators": ()}, "estimators are"),
        ({"replicates": 30}, "cannot place limits"),
        ({"discount": -0.1}, "discount"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"window": 9}, "window"),
        ({"neural_replicates": 1}, "neural replicates"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    recorded = two_states(20, 3)
    with pytest.raises(UserError, match=message):
        evaluate_policies(recorded, [("zero", constant(0.0))], replace(QUICK, **change))


@pytest.mark.parametrize("names", [("a", "a"), (BASELINE, "b")])
def test_names_that_say_two_things_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="different names"):
        evaluate_policies(two_states(20, 3), [(name, constant(0.0)) for name in names], QUICK)


def test_one_patient_is_refused() -> None:
    with pytest.raises(UserError, match="one recorded patient"):
        evaluate_policies(two_states(1, 5), [], QUICK)


# Networks


@pytest.mark.slow
def test_networks_find_the_value_of_the_linear_system() -> None:
    data = Trajectories.from_episodes(linear_system(60, 4))
    policy = RecommendedDose(constant(0.3), data.transform)
    result = neural_values(data, policy, np.ones((2, 60)), discount=0.9, horizon=4)
    exact = np.mean([linear_return(s, 0.0, 0.3, 4, 0.9) for s in data.obs[:, 0, 0]])
    assert result.shape == (2, 1)
    np.testing.assert_allclose(result, exact, atol=0.1)


def test_networks_see_the_weighed_patients_and_every_seed() -> None:
    """The reward is the patient's own and the same at every visit: the value is its mean over the draws."""
    group = np.repeat([0, 1, 2], 10)
    reward = np.repeat(np.array([1.0, 3.0, 3.0])[group, None], 2, axis=1)
    obs = reward[..., None]
    act = np.random.default_rng(0).uniform(-1, 1, obs.shape)
    data = Trajectories.from_episodes(episodes(obs, act, reward, obs))
    policy = RecommendedDose(lambda o, v: np.stack((0.0 * o[0], 0.5 + 0.0 * o[0])), data.transform)
    counts = np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [2.0, 1.0, 0.0]])[:, group]
    quick = NeuralSettings(hidden=(16,), steps=400, batch_size=32, learning_rate=0.02, target_rate=0.2)
    result = neural_values(data, policy, counts, discount=0.5, horizon=2, settings=quick)
    assert result.shape == (3, 2)
    np.testing.assert_allclose(result, 1.5 * np.array([[7 / 3] * 2, [1.0] * 2, [5 / 3] * 2]), atol=0.15)


def test_networks_are_an_estimator_of_the_selection() -> None:
    settings = replace(
        QUICK, estimators=("neural_fqe",), neural_replicates=3, neural=NeuralSettings(hidden=(8,), steps=5)
    )
    result = evaluate_policies(two_states(20, 3), [("zero", constant(0.0))], settings)
    estimate = result.policies[1].values["neural_fqe"].estimate
    assert estimate is not None
    assert estimate.method == "t, spread of 3 patient-bootstrap refits"
    assert estimate.high - estimate.value == pytest.approx(estimate.value - estimate.low)
    assert estimate.low < estimate.high


# Quality of a ranking


def test_rank_correlation_by_hand_and_with_ties() -> None:
    assert rank_correlation([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)
    assert rank_correlation([3, 2, 1], [10, 20, 30]) == pytest.approx(-1.0)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, size=(2, 5, 9)).astype(float)
    expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(rank_correlation(x, y), expected)


def test_regret_and_coverage_by_hand() -> None:
    assert regret_at_1([0.1, 0.9, 0.5], [4.0, 1.0, 5.0]) == pytest.approx(4.0)
    np.testing.assert_allclose(regret_at_1([[0, 1], [1, 0]], [[3.0, 5.0], [3.0, 5.0]]), [0.0, 2.0])
    assert coverage([0, 0, 0, 0], [1, 1, 1, 1], [0.5, 1.0, 1.1, -0.1]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (rank_correlation, ([1.0], [1.0]), "2 or more"),
        (rank_correlation, ([1.0, 1.0], [1.0, 2.0]), "differ"),
        (regret_at_1, ([1.0, np.nan], [1.0, 2.0]), "finite"),
        (regret_at_1, ([1.0], [1.0, 2.0]), "same"),
        (coverage, ([], [], []), "1 or more"),
    ],
)
def test_rankings_of_nothing_are_refused(function: Any, arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        function(*arguments)


def test_the_beta_distribution_is_what_the_exact_value_assumes() -> None:
    first, second = BetaLaw.moments()[1]
    doses, weights = BetaLaw().nodes(np.array([[1.0]]))
    assert weights @ doses[:, 0, 0, 0] == pytest.approx(first, abs=1e-4)
    assert weights @ doses[:, 0, 0, 0] ** 2 == pytest.approx(second, abs=1e-4)


# Reference policies


def test_best_constant_dose_is_the_top_of_the_parabola() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, size=(3, 200))
    patient = np.broadcast_to(np.arange(200) // 10, a.shape)
    best = np.array([0.3, -0.6, 2.5])[:, None]
    result = constant_dose(a, 4.0 - (a - best) ** 2, patient)
    highest = a[2].max()
    assert result.identified.all()
    np.testing.assert_allclose(result.dose, [0.3, -0.6, highest])
    np.testing.assert_allclose(result.reward, [4.0, 4.0, 4.0 - (2.5 - highest) ** 2])
    result = constant_dose(a, (a + 0.1) ** 2, patient)  # no maximum between the recorded doses
    np.testing.assert_allclose(result.dose, a.max(1))
    noisy = 1.0 + a - a**2 + rng.normal(size=a.shape)
    result = constant_dose(a, noisy, patient)
    for k in range(3):
        curve = np.polyfit(a[k], noisy[k], 2)
        assert result.dose[k] == pytest.approx(-curve[1] / (2 * curve[0]))
        assert result.reward[k] == pytest.approx(np.polyval(curve, result.dose[k]))
    with pytest.raises(UserError, match="three different"):
        constant_dose(np.array([0.0, 1.0, 1.0]), np.zeros(3), np.zeros(3, dtype=int))


def test_estimated_constant_is_in_dose_units_and_sees_recorded_visits_only() -> None:
    rng = np.random.default_rng(1)
    act = rng.uniform(0.0, 10.0, size=(6, 4, 1))
    reward = 2.0 - 0.1 * (act[..., 0] - 4.0) ** 2
    recorded = episodes(act, act, reward, act, lengths=np.array([4, 1, 2, 4, 3, 4]), limits=(0.0, 10.0))
    result = estimated_constant(Trajectories.from_episodes(recorded))
    assert result.dose == pytest.approx(4.0, abs=1e-5)
    assert result.reward == pytest.approx(2.0, abs=1e-5)
    assert result(np.zeros((2, 3, 1), np.float32), 5).tolist() == [[[result.dose]] * 3] * 2


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
def test_fitted_q_against_slow_least_squares(kind: Any) -> None:
    from dosing.ope.features import Features
    from tests.ope.test_fqe import awkward, rows_of
    from tests.oracles import ope as oracle

    recorded = awkward(seed=2)
    data = Trajectories.from_episodes(recorded)
    result = ridge_fitted_q(data, [0.01, 0.5], discount=0.6, iterations=3, state=kind)
    rows = rows_of(recorded, data, np.ones(7))
    free = np.flatnonzero(Features(3, 1, kind).penalised() == 0).tolist()
    for s, ridge in enumerate((0.01, 0.5)):
        theta = oracle.fitted_q(rows, kind=kind, ridge=ridge, discount=0.6, iterations=3, free=free)
        np.testing.assert_allclose(result.theta[s], theta, atol=1e-4)
        obs = recorded.obs[:5]
        given = result(obs[None], 0)[s, :, 0]
        lowest, highest = recorded.act.min() - 1e-6, recorded.act.max() + 1e-6
        assert ((given >= lowest) & (given <= highest)).all()
        grid = np.linspace(lowest, highest, 801)
        for z, dose in zip((obs - data.transform.obs_mean) / data.transform.obs_scale, given, strict=True):
            q = [oracle.features(z, data.transform.to_unit(np.array([a])), kind) @ theta for a in grid]
            assert grid[int(np.argmax(q))] == pytest.approx(dose, abs=6e-3)


def test_a_strong_penalty_leaves_a_constant_dose() -> None:
    data = Trajectories.from_episodes(cohort(50))
    policy = ridge_fitted_q(data, [1e6], discount=0.0)
    given = policy(data.obs[None, :, 0].astype(np.float32), 0)
    assert np.ptp(given) < 1e-3
    assert given.mean() == pytest.approx(estimated_constant(data).dose, abs=1e-3)


@pytest.mark.parametrize(("ridge", "discount"), [((0.0,), 0.9), ((), 0.9), ((1.0,), 1.0)])
def test_settings_of_fitted_q_that_cannot_work_are_refused(ridge: tuple[float, ...], discount: float) -> None:
    with pytest.raises(UserError, match=r"ridge strengths|discount"):
        ridge_fitted_q(Trajectories.from_episodes(cohort()), ridge, discount=discount)
