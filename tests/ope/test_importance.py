"""Importance sampling: slow loops over products, exact values of a two-state problem, refusals by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.evaluation.rules import constant, uniform
from dosing.ope import importance
from dosing.ope.fqe import PolicyFeatures, Regression, fit, value
from dosing.ope.importance import WeightDiagnostics, density_ratios
from dosing.ope.targets import RecommendedDose, SampledDose, dose_moments, target
from dosing.ope.trajectories import (
    ESTIMATED,
    Trajectories,
    fold_of,
    patient_counts,
    split_patients,
    standardise,
)
from dosing.policy import DosePolicy
from dosing.safety import DoseLimits
from tests.ope.ope_problems import BetaLaw, TwoStates, episodes, two_states
from tests.oracles import ope as oracle
from tests.support.samples import cohort, stack

UNIT = Transform((0.0,), (1.0,), (-1.0,), (1.0,))


def trajectories(patients: int = 12, visits: int = 4, seed: int = 0) -> Trajectories:
    return Trajectories.from_episodes(two_states(patients, visits, seed))


def repeated(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Patients as often as they count."""
    return np.repeat(values, count.astype(int), axis=0)


# Against slow loops

COUNTS = np.stack([np.ones(12), patient_counts(12, 1, 4)[1], 2.0 * (np.arange(12) % 2)])


def test_ratios_are_densities_over_the_recorded_density() -> None:
    data = trajectories()
    distribution = BetaLaw()
    ratios = density_ratios(data, distribution)
    assert ratios.shape == (1, 12, 4)
    for i, t in ((0, 0), (5, 3)):
        here = distribution.density(data.obs[i, t][None], data.act[i, t][None])[0, 0]
        assert ratios[0, i, t] == pytest.approx(here / 0.5, rel=1e-6)


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_weighted_importance_against_loops(discount: float) -> None:
    data = trajectories()
    ratios = density_ratios(data, BetaLaw())
    result = importance.weighted_importance(data, ratios.cumprod(-1), COUNTS, discount)
    windowed = importance.windowed_weights(ratios, 2)
    short = importance.windowed_importance(data, windowed, COUNTS, discount, 4)
    assert result.shape == short.shape == (3, 1)
    for r, count in enumerate(COUNTS):
        pairs = repeated(np.stack((ratios[0], data.reward), axis=-1), count).tolist()
        assert result[r, 0] == pytest.approx(oracle.weighted_importance(pairs, discount))
        assert short[r, 0] == pytest.approx(oracle.windowed_importance(pairs, discount, 2))


def test_weighted_doubly_robust_against_loops() -> None:
    data, discount = trajectories(), 0.8
    regression = Regression(data, 0.05)
    policy = BetaLaw()
    features = PolicyFeatures.of(regression, policy)
    ratios = density_ratios(data, policy)
    folds = fold_of(12, 3)
    result = importance.weighted_doubly_robust(
        regression, features, ratios.cumprod(-1), COUNTS, folds, discount
    )
    z = standardise(data.transform, data.obs)
    doses, weights = policy.nodes(data.obs.reshape(-1, 1))
    doses = doses[:, 0].reshape(len(weights), 12, 4, 1)
    for r, count in enumerate(COUNTS):
        table = np.zeros((12, 4, 4))
        for i in range(12):
            others = np.array([float(c) if folds[j] != folds[i] else 0.0 for j, c in enumerate(count)])
            theta = fit(regression, features, others[None], discount=discount, horizon=4)[:, 0, 0]
            for t in range(4):
                distribution = [(p, doses[k, i, t]) for k, p in enumerate(weights)]
                q = oracle.features(z[i, t], data.act[i, t], "linear") @ theta[3 - t]
                v = oracle.expected_features(z[i, t], distribution, "linear") @ theta[3 - t]
                table[i, t] = ratios[0, i, t], data.reward[i, t], q, v
        expected = oracle.weighted_doubly_robust(repeated(table, count).tolist(), discount)
        assert result[r, 0] == pytest.approx(expected)


def test_blocks_of_replicates_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = trajectories()
    regression = Regression(data, 0.05)
    policy = BetaLaw()
    weights = density_ratios(data, policy).cumprod(-1)
    arguments = regression, PolicyFeatures.of(regression, policy), weights, COUNTS, fold_of(12, 3), 0.9
    whole = importance.weighted_doubly_robust(*arguments)
    monkeypatch.setattr(importance, "_blocks", lambda counts, weights: [slice(0, 1), slice(1, 3)])
    np.testing.assert_allclose(importance.weighted_doubly_robust(*arguments), whole, rtol=1e-12)


# Exact values


@pytest.fixture(scope="module")
def many() -> tuple[Trajectories, float]:
    return trajectories(40_000, 3, seed=3), TwoStates(BetaLaw.moments()).value(3, 0.9)


def test_weighted_importance_converges_to_the_exact_value(many: tuple[Trajectories, float]) -> None:
    data, exact = many
    weights = density_ratios(data, BetaLaw()).cumprod(-1)
    result = importance.weighted_importance(data, weights, np.ones((1, data.patients)), 0.9)
    assert result[0, 0] == pytest.approx(exact, abs=0.05)


def test_doubly_robust_is_right_where_the_fitted_values_are_wrong(many: tuple[Trajectories, float]) -> None:
    data, exact = many
    regression = Regression(data, ridge=100.0)  # as good as blind to the state
    policy = BetaLaw()
    features = PolicyFeatures.of(regression, policy)
    counts = np.ones((1, data.patients))
    weights = density_ratios(data, policy).cumprod(-1)
    result = importance.weighted_doubly_robust(regression, features, weights, counts, fold_of(40_000, 2), 0.9)
    theta = fit(regression, features, counts, discount=0.9, horizon=3)[-1, 0, 0]
    model = float((features.here[0, :, 0] @ theta).mean())
    assert abs(model - exact) > 0.15
    assert result[0, 0] == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize(
    ("patients", "visits", "discount", "seed", "snpdis", "sndr"),
    [
        (50, 4, 0.9, 1, 0.6107306671834027, 0.5785028724034518),
        (400, 6, 1.0, 2, 0.9378103496658214, 0.5704358843157974),
        (2000, 3, 0.95, 3, 0.13288464160128288, 0.13355425302411092),
    ],
)
def test_weights_and_doubly_robust_are_those_of_scope_rl(
    patients: int, visits: int, discount: float, seed: int, snpdis: float, sndr: float
) -> None:
    """scope-rl 0.2.1, ``SelfNormalizedPDIS`` and ``SelfNormalizedDR``, on the same weights and fitted values;
    it adds 1e-10 to what it divides by."""
    data, policy = Trajectories.from_episodes(two_states(patients, visits, seed=seed)), BetaLaw()
    weights, counts = density_ratios(data, policy).cumprod(-1), np.ones((1, patients))
    wis = importance.weighted_importance(data, weights, counts, discount)
    assert wis[0, 0] == pytest.approx(snpdis, rel=1e-8)
    regression, folds = Regression(data, 1e-3), np.arange(patients) % 2
    features = PolicyFeatures.of(regression, policy)
    wdr = importance.weighted_doubly_robust(regression, features, weights, counts, folds, discount)
    assert wdr[0, 0] == pytest.approx(sndr, rel=1e-8)


@pytest.mark.slow
def test_intervals_of_200_patients_hold_the_exact_value_as_often_as_they_say() -> None:
    """1,000 data sets: fitted values, weighted importance and doubly robust; a standard error is 0.7 %."""
    exact, held = TwoStates(BetaLaw.moments()).value(4, 1.0), np.zeros(3)
    policy = BetaLaw()
    for seed in range(1000):
        data = Trajectories.from_episodes(two_states(200, 4, seed=seed + 1))
        counts = patient_counts(200, 400, seed)[1:]
        weights, regression = density_ratios(data, policy).cumprod(-1), Regression(data, 1e-3)
        features = PolicyFeatures.of(regression, policy)
        drawn = (
            value(features, fit(regression, features, counts, discount=1.0, horizon=4)[-1], counts)[:, 0],
            importance.weighted_importance(data, weights, counts, 1.0)[:, 0],
            importance.weighted_doubly_robust(regression, features, weights, counts, np.arange(200) % 2, 1.0)[
                :, 0
            ],
        )
        for k, draws in enumerate(drawn):
            low, high = np.quantile(draws, [0.025, 0.975])
            held[k] += low <= exact <= high
    assert ((held / 1000 > 0.925) & (held / 1000 < 0.97)).all(), held / 1000


# Diagnostics and refusals


def test_diagnostics_by_hand() -> None:
    weights = np.array([[[1.0, 4.0], [1.0, 0.0], [1.0, 0.0], [1.0, 4.0]]])  # [1, 4, 2]
    result = WeightDiagnostics.of(weights, np.array([[3.0, 1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(result.effective_sample, [[4.0, 2.0]])
    np.testing.assert_allclose(result.survival, [[1.0, 0.5]])
    np.testing.assert_allclose(result.largest_share, [[0.25, 0.5]])
    np.testing.assert_allclose(result.tenth_share, [[0.25, 0.5]])
    assert result.window_sample[0] == pytest.approx(16.0 / 10.0)
    assert result.window_survival[0] == pytest.approx(0.5)
    assert "at visit 1 is 4.0 patients" in str(result.refusal())
    assert "1.6 visits with 50.0%" in str(result.window_refusal())
    none = WeightDiagnostics.of(0.0 * weights, np.zeros((1, 4)))
    assert (none.effective_sample == 0).all()
    assert (none.largest_share == 1).all()


def test_enough_patients_are_not_refused() -> None:
    equal = np.ones((1, 20, 3))
    assert WeightDiagnostics.of(equal, equal[:, :, 0]).refusal() is None
    thin = equal.copy()
    thin[:, 9:, 1] = 0.0
    assert "at visit 2 is 9.0" in str(WeightDiagnostics.of(thin, equal[:, :, 0]).refusal())
    rare = np.zeros((1, 1000, 3))
    rare[:, :49] = 1.0
    assert "4.9% of the weights" in str(WeightDiagnostics.of(rare, equal[:, :, 0]).refusal())


def test_unknown_densities_are_refused_and_can_be_estimated() -> None:
    recorded = two_states(30, 3)
    unknown = replace(recorded, behaviour_log_prob=np.full(90, np.nan, np.float32))
    with pytest.raises(UserError, match="90 of 90 recorded doses"):
        density_ratios(Trajectories.from_episodes(unknown), BetaLaw())
    limited = replace(recorded, limited_by=np.eye(1, 90, 7, dtype=np.int8)[0])
    with pytest.raises(UserError, match="1 of 90 recorded doses"):
        density_ratios(Trajectories.from_episodes(limited), BetaLaw())
    data = Trajectories.from_episodes(unknown, behaviour="estimated")
    assert data.behaviour == ESTIMATED
    assert np.isfinite(density_ratios(data, BetaLaw())).all()


def test_estimated_behaviour_is_the_normal_distribution_that_gave_the_doses() -> None:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(400, 5, 2))
    mean, spread = 5.0 + 0.5 * obs[..., :1] - 0.2 * obs[..., 1:], 0.4
    act = mean + spread * rng.normal(size=mean.shape)
    recorded = episodes(obs, act, act[..., 0], obs, limits=(0.0, 10.0))
    data = Trajectories.from_episodes(recorded, behaviour="estimated")
    exact = norm(mean, spread).logpdf(act)[..., 0] + np.log(5.0)  # one unit of the axis is 5 dose units
    np.testing.assert_allclose(data.log_density, exact, atol=0.3)


def test_doses_that_follow_from_the_state_have_no_density() -> None:
    obs = np.random.default_rng(0).normal(size=(5, 4, 1))
    with pytest.raises(UserError, match="function of the state"):
        Trajectories.from_episodes(episodes(obs, 0.1 * obs, obs[..., 0], obs), behaviour="estimated")


def test_recordings_that_stop_early_are_refused_unless_the_process_ended() -> None:
    one = np.ones((2, 3, 1))
    act = np.random.default_rng(0).uniform(-1, 1, one.shape)
    lengths, ended = np.array([3, 2]), np.zeros((2, 3))
    stops = Trajectories.from_episodes(episodes(one, act, act[..., 0], one, lengths=lengths))
    with pytest.raises(UserError, match="some recordings stop earlier"):
        density_ratios(stops, BetaLaw())
    ended[1, 1] = 1.0
    ends = Trajectories.from_episodes(episodes(one, act, act[..., 0], one, lengths=lengths, terminated=ended))
    assert density_ratios(ends, BetaLaw())[0, 1, 2] == 1.0
    with pytest.raises(UserError, match="none has more than 3"):
        density_ratios(ends, BetaLaw(), 4)


@pytest.mark.parametrize("window", [0, 5])
def test_windows_that_do_not_fit_are_refused(window: int) -> None:
    with pytest.raises(UserError, match="window must be 1 to 4"):
        importance.windowed_weights(np.ones((1, 2, 4)), window)


# Target policies


@pytest.mark.parametrize("dose", [0.0, 0.85, -1.0])
def test_kernel_is_a_density_within_the_limits(dose: float) -> None:
    policy = RecommendedDose(constant(dose), UNIT, bandwidth=0.3)

    def density(a: float) -> float:
        return float(policy.density(np.zeros((1, 1)), np.array([[a]]))[0, 0])

    mass, _ = quad(density, -1.0, 1.0, points=[dose - 0.3, dose, dose + 0.3], limit=200)
    assert mass == pytest.approx(1.0, abs=1e-6)
    assert density(dose + (0.31 if dose < 0.5 else -0.31)) == 0.0
    if dose == 0.0:
        assert density(0.15) == pytest.approx(0.75 / 0.3 * 0.75)


def test_doses_beyond_the_limits_are_evaluated_as_delivered() -> None:
    policy = RecommendedDose(constant(7.0), Transform((0.0,), (1.0,), (2.0,), (6.0,)))
    assert policy.nodes(np.zeros((3, 1)))[0].tolist() == [[[[1.0]] * 3]]


def test_rules_that_draw_or_count_visits_are_refused() -> None:
    rule = uniform(DoseLimits((-1.0,), (1.0,)), (0,))
    with pytest.raises(UserError, match="same state at another visit"):
        RecommendedDose(rule, UNIT).nodes(np.zeros((2, 1)))


def sampled(name: str) -> tuple[SampledDose, np.ndarray]:
    data = Trajectories.from_episodes(cohort())
    policy = DosePolicy(stack(name), data.transform)
    result = target(policy, data.transform, sampled=True, bandwidth=0.2)
    assert isinstance(result, SampledDose)
    return result, data.obs[:, 0]


@pytest.mark.parametrize("name", ["iql", "fttpo"])
def test_moments_and_density_of_delivered_draws(name: str) -> None:
    policy, obs = sampled(name)
    distribution = policy._distribution(obs)
    noise = np.random.default_rng(0).random((20_000, *distribution.batch_shape, distribution.n_uniforms))
    draws = distribution.rsample_from(torch.from_numpy(noise)).clamp(-1.0, 1.0).numpy()
    first, second = dose_moments(policy, obs)
    np.testing.assert_allclose(first, draws.mean(0), atol=0.02)
    np.testing.assert_allclose(second, (draws**2).mean(0), atol=0.02)
    inside = (np.abs(draws) < 1.0).mean(0)[..., 0]
    np.testing.assert_allclose(policy.off_support(obs), 1.0 - inside, atol=0.015)
    grid = np.linspace(-1.0, 1.0, 101)[1:-1]
    density = np.stack([policy.density(obs, np.full((len(obs), 1), a)) for a in grid])
    np.testing.assert_allclose(density.sum(0) * 0.02, inside, atol=0.02)


def test_a_deterministic_stack_is_evaluated_by_its_recommended_dose() -> None:
    data = Trajectories.from_episodes(cohort())
    policy = DosePolicy(stack("td3_bc"), data.transform)
    result = target(policy, data.transform, sampled=True, bandwidth=0.2)
    assert isinstance(result, RecommendedDose)
    obs = data.obs[:, 0]
    unit = result.nodes(obs)[0][0]
    seen = np.broadcast_to(obs.astype(np.float32), (2, *obs.shape))
    np.testing.assert_allclose(data.transform.to_dose(unit), policy.recommended(seen))


def test_a_policy_with_other_limits_is_refused() -> None:
    data = Trajectories.from_episodes(cohort())
    policy = DosePolicy(stack("iql"), data.transform)
    other = replace(data.transform, act_high=(2.0,))
    with pytest.raises(UserError, match="was trained for doses"):
        target(policy, other, sampled=True, bandwidth=0.2)


def test_a_distribution_with_much_mass_at_the_limits_gets_no_weights() -> None:
    data = Trajectories.from_episodes(cohort())
    policy, _ = sampled("iql")  # fresh weights: standard deviation 1 on an axis from -1 to 1
    with pytest.raises(UserError, match="exactly at the limits"):
        density_ratios(data, policy)


# Patients


def test_folds_and_parts_are_made_of_whole_patients() -> None:
    folds = fold_of(13, 5)
    assert sorted(np.bincount(folds).tolist()) == [2, 2, 3, 3, 3]
    assert (folds == fold_of(13, 5)).all()
    assert (folds != fold_of(13, 5, seed=1)).any()
    training, validation = split_patients(cohort(), 0.25)
    kept, held_out = set(training.episode.tolist()), set(validation.episode.tolist())
    assert (len(kept), len(held_out)) == (6, 2)
    assert not kept & held_out
    assert len(training) + len(validation) == len(cohort())
    assert validation.metadata.content_hash == validation.content_hash()
    for bad in (0.0, 1.0):
        with pytest.raises(UserError, match="leaves a part without any"):
            split_patients(cohort(), bad)
    with pytest.raises(UserError, match="cut into 2 to 3 folds"):
        fold_of(3, 4)


def test_doses_outside_the_limits_of_the_card_are_refused() -> None:
    one = np.ones((2, 3, 1))
    with pytest.raises(UserError, match="outside the hard limits"):
        Trajectories.from_episodes(episodes(one, 1.01 * one, one[..., 0], one))


def test_recorded_densities_are_taken_to_the_axis_of_the_limits() -> None:
    one = np.ones((2, 3, 2))
    recorded = episodes(one, 4.0 * one, one[..., 0], one, limits=(0.0, 10.0), log_density=np.log(0.01))
    np.testing.assert_allclose(Trajectories.from_episodes(recorded).log_density, np.log(0.25), rtol=1e-6)


def test_padding_holds_no_visits() -> None:
    one = np.ones((2, 3, 1))
    act = np.random.default_rng(0).uniform(-1, 1, one.shape)
    recorded = episodes(one, act, act[..., 0], one, lengths=np.array([1, 3]))
    data = Trajectories.from_episodes(recorded)
    assert data.recorded.tolist() == [[1, 0, 0], [1, 1, 1]]
    np.testing.assert_allclose(data.act[1, :, 0], recorded.act[1:, 0])
    assert not data.complete
