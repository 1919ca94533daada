"""Fitted Q evaluation: exact on problems in its features, and against slow least squares on any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.evaluation.rules import constant
from dosing.ope.features import Features
from dosing.ope.fqe import PolicyFeatures, Regression, fit, value
from dosing.ope.targets import RecommendedDose
from dosing.ope.trajectories import Trajectories, patient_counts, standardise
from tests.ope.ope_problems import BetaLaw, TwoStates, episodes, linear_return, linear_system, two_states
from tests.oracles import ope as oracle


def evaluate(data: Trajectories, policy: Any, counts: Any = None, **options: Any) -> np.ndarray:
    """Value ``[R, S]``; the data themselves count once if ``counts`` is None."""
    counts = np.ones((1, data.patients)) if counts is None else counts
    criterion = {"discount": options.pop("discount", 1.0), "horizon": options.pop("horizon", data.visits)}
    regression = Regression(data, **({"ridge": 1e-10} | options))
    features = PolicyFeatures.of(regression, policy)
    return value(features, fit(regression, features, counts, **criterion)[-1], counts)


def gain(k: float) -> Any:
    """The rule a = k s - 0.1."""
    return lambda obs, visit: k * obs[..., :1].astype(np.float64) - 0.1


# Exact values


@pytest.mark.parametrize(("discount", "horizon"), [(1.0, 6), (0.9, 6), (0.9, 40), (1.0, 1)])
def test_value_of_a_constant_dose_is_exact_where_the_value_is_linear(discount: float, horizon: int) -> None:
    data = Trajectories.from_episodes(linear_system(30, 6))
    result = evaluate(
        data, RecommendedDose(constant(0.3), data.transform), discount=discount, horizon=horizon
    )
    exact = np.mean([linear_return(s, 0.0, 0.3, horizon, discount) for s in data.obs[:, 0, 0]])
    assert result.shape == (1, 1)
    assert result[0, 0] == pytest.approx(exact, abs=2e-5)


def test_value_of_a_linear_rule_is_exact_with_quadratic_features() -> None:
    data = Trajectories.from_episodes(linear_system(60, 6))
    policy = RecommendedDose(gain(0.2), data.transform)
    exact = np.mean([linear_return(s, 0.2, -0.1, 6, 0.95) for s in data.obs[:, 0, 0]])
    assert evaluate(data, policy, state="quadratic", discount=0.95)[0, 0] == pytest.approx(exact, abs=2e-5)
    assert abs(evaluate(data, policy, discount=0.95)[0, 0] - exact) > 1e-3  # not in the linear features


def test_without_a_horizon_the_value_is_the_limit_of_long_horizons() -> None:
    data = Trajectories.from_episodes(two_states(40, 5))
    policy = RecommendedDose(gain(0.3), data.transform)
    limit = evaluate(data, policy, discount=0.8, horizon=200, ridge=0.01)
    np.testing.assert_allclose(
        evaluate(data, policy, discount=0.8, horizon=None, ridge=0.01), limit, atol=1e-9
    )


# Slow least squares


def awkward(seed: int = 0, n_act: int = 1) -> Episodes:
    """Random numbers in odd units: unequal lengths, early ends, dose limits away from [-1, 1]."""
    rng = np.random.default_rng(seed)
    n, t, o = 7, 5, 3
    obs, next_obs = 5.0 + 3.0 * rng.normal(size=(2, n, t, o))
    lengths = np.array([5, 5, 3, 5, 2, 4, 5])
    terminated = np.zeros((n, t))
    terminated[[2, 4], [2, 1]] = 1.0
    act = rng.uniform(2.0, 6.0, size=(n, t, n_act))
    reward = rng.normal(size=(n, t))
    return episodes(
        obs,
        act,
        reward,
        next_obs,
        terminated=terminated,
        lengths=lengths,
        limits=(2.0, 6.0),
        log_density=-1.0,
    )


def dose_rules(obs: Any, visit: int) -> np.ndarray:
    """Two seeds with a rule of their own; also asks for more than the limit of 6."""
    x = np.asarray(obs, dtype=np.float64)
    return np.concatenate((3.0 + 0.2 * x[..., :1], 4.5 + 0.3 * x[..., 1:2]), axis=0)


def two_rules(obs: Any, visit: int) -> np.ndarray:
    """The same in two dose dimensions."""
    return np.concatenate((dose_rules(obs, visit), dose_rules(obs[..., ::-1], visit)), axis=-1)


def rows_of(recorded: Episodes, data: Trajectories, counts: np.ndarray) -> list[dict[str, Any]]:
    """Visits as the oracle takes them, each patient as often as counted."""
    result = []
    for i in range(len(recorded)):
        row = {
            "obs": recorded.obs[i],
            "next_obs": recorded.next_obs[i],
            "z": standardise(data.transform, recorded.obs[i]),
            "next_z": standardise(data.transform, recorded.next_obs[i]),
            "act": data.transform.to_unit(recorded.act[i].astype(np.float64)),
            "reward": float(recorded.reward[i]),
            "terminated": bool(recorded.terminated[i]),
        }
        result += [row] * int(counts[recorded.episode[i]])
    return result


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
@pytest.mark.parametrize("n_act", [1, 2])
def test_replicates_and_seeds_against_slow_least_squares(kind: Any, n_act: int) -> None:
    recorded = awkward(n_act=n_act)
    data = Trajectories.from_episodes(recorded)
    act = dose_rules if n_act == 1 else two_rules
    policy = RecommendedDose(act, data.transform)
    counts = np.array([[1.0, 1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 1, 0], [0, 1, 1, 0, 4, 1, 0]])
    result = evaluate(data, policy, counts, state=kind, ridge=0.03, discount=0.7, horizon=4)
    free = np.flatnonzero(Features(3, n_act, kind).penalised() == 0).tolist()
    assert len(free) == 1 + 2 * n_act
    for r, count in enumerate(counts):
        rows = rows_of(recorded, data, count)
        for s in range(2):

            def distribution(obs: np.ndarray, s: int = s) -> list[tuple[float, np.ndarray]]:
                dose = np.clip(act(obs[None, None], 0)[s, 0], 2.0, 6.0)
                return [(1.0, data.transform.to_unit(dose))]

            theta = oracle.fqe(rows, distribution, kind=kind, ridge=0.03, discount=0.7, horizon=4, free=free)[
                -1
            ]
            starts = [np.flatnonzero(recorded.episode == i)[0] for i in range(7)]
            values = [
                oracle.expected_features(
                    standardise(data.transform, recorded.obs[i]), distribution(recorded.obs[i]), kind
                )
                @ theta
                for i in starts
            ]
            assert result[r, s] == pytest.approx(np.average(values, weights=count), rel=1e-6)


def test_a_seed_in_a_stack_has_the_value_it_has_alone() -> None:
    data = Trajectories.from_episodes(awkward())
    stacked = evaluate(data, RecommendedDose(dose_rules, data.transform), ridge=0.1)
    for s in range(2):
        alone = RecommendedDose(lambda o, v, s=s: dose_rules(o, v)[s : s + 1], data.transform)
        np.testing.assert_allclose(evaluate(data, alone, ridge=0.1)[:, 0], stacked[:, s], rtol=1e-10)


def test_features_that_are_not_penalised_are_those_of_the_dose_alone() -> None:
    for kind in ("linear", "quadratic"):
        features = Features(2, 1, kind)
        rng = np.random.default_rng(0)
        a = rng.uniform(-1, 1, size=(5, 1))
        changed = [features.combine(features.of_state(z), a, a**2) for z in rng.normal(size=(2, 5, 2))]
        same = (changed[0] == changed[1]).all(0)
        np.testing.assert_array_equal(same, features.penalised() == 0)


# Consistency


def test_value_of_a_distribution_agrees_with_backward_induction_within_its_interval() -> None:
    data = Trajectories.from_episodes(two_states(4000, 4))
    counts = patient_counts(4000, 200)
    result = evaluate(data, BetaLaw(), counts, ridge=1e-6, discount=0.9)[:, 0]
    exact = TwoStates(BetaLaw.moments()).value(4, 0.9)
    assert result[1:].std() < 0.05
    assert abs(result[0] - exact) < 4.0 * result[1:].std()


@pytest.mark.slow
def test_value_of_a_distribution_converges() -> None:
    data = Trajectories.from_episodes(two_states(200_000, 4))
    exact = TwoStates(BetaLaw.moments()).value(4, 0.9)
    assert evaluate(data, BetaLaw(), ridge=1e-8, discount=0.9)[0, 0] == pytest.approx(exact, abs=0.01)


@pytest.mark.slow
def test_intervals_cover_where_the_features_are_right() -> None:
    exact = TwoStates(BetaLaw.moments()).value(6, 1.0)
    held = 0
    for seed in range(300):
        data = Trajectories.from_episodes(two_states(50, 6, seed=seed + 1))
        drawn = evaluate(data, BetaLaw(), patient_counts(50, 400, seed), ridge=1e-3)[1:, 0]
        low, high = np.quantile(drawn, [0.025, 0.975])
        held += bool(low <= exact <= high)
    assert 0.90 <= held / 300 <= 0.985


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discount": 1.1}, "discount"),
        ({"discount": 1.0, "horizon": None}, "below 1 without a horizon"),
        ({"horizon": 0}, "at least one visit"),
        ({"ridge": 0.0}, "ridge strength"),
        ({"state": "cubic"}, "linear or quadratic"),
    ],
)
def test_criteria_without_a_value_are_refused(options: dict[str, Any], message: str) -> None:
    data = Trajectories.from_episodes(two_states(5, 3))
    with pytest.raises(UserError, match=message):
        evaluate(data, RecommendedDose(constant(0.0), data.transform), **options)


def test_doses_that_never_vary_are_refused() -> None:
    one = np.ones((4, 3, 1))
    data = Trajectories.from_episodes(episodes(one, 0.3 * one, one[..., 0], one))
    with pytest.raises(UserError, match="three different recorded doses"):
        evaluate(data, RecommendedDose(constant(0.0), data.transform))
