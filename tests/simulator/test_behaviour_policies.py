import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dosing.errors import UserError
from dosing.safety import DoseLimits
from simulator.behaviour_policies import (
    BehaviourPolicy,
    Clinic,
    Constant,
    EpsilonGreedy,
    Titration,
    Uniform,
    View,
    parse_policy,
    truncated_normal,
    truncated_normal_log_prob,
)

CLINIC = Clinic(
    DoseLimits((-1.0,), (3.0,)), marker_target=0.8, marker_gain=0.5, first_dose=0.2, confounding=0.0
)
N = 40_000


def view(n: int, marker: float = 0.8, covariate: float = 0.0) -> View:
    dice = np.random.default_rng(0).random((n, 2))
    obs = np.zeros((n, 8), dtype=np.float32)
    hidden = np.full(n, covariate, dtype=np.float32)
    low, high = np.asarray(CLINIC.limits.low), np.asarray(CLINIC.limits.high)
    return View(obs, np.full(n, marker), hidden, None, dice, low, high)


def agent(obs: np.ndarray) -> np.ndarray:
    return np.full((len(obs), 1), 2.9)


@pytest.mark.parametrize(
    "policy",
    [Uniform(), Titration(0.05), Titration(1.0), EpsilonGreedy(agent, 0.3, 0.05), EpsilonGreedy(agent, 1.0)],
)
def test_logged_densities_are_the_densities_of_the_doses(policy: BehaviourPolicy) -> None:
    """E[1{dose in B}/density] is the length of B, for the true density and every bin B that is reached."""
    dose, log_prob = policy.begin(CLINIC, N)(view(N))
    assert dose.shape == (N, 1)
    assert CLINIC.limits.contains(dose).all()
    inverse = np.exp(-log_prob)
    edges = np.linspace(-1, 3, 11)
    for low, high in itertools.pairwise(edges):
        weight = inverse * ((dose[:, 0] >= low) & (dose[:, 0] < high))
        if (weight > 0).sum() > 200:
            assert abs(weight.mean() - (high - low)) < 5 * weight.std() / np.sqrt(N), (low, high)


def test_truncated_normal_agrees_with_scipy() -> None:
    low, high, sd = np.array([-1.0]), np.array([3.0]), np.array([0.7])
    for centre in (-1.0, 0.4, 3.0):
        scenario = stats.truncnorm((low - centre) / sd, (high - centre) / sd, loc=centre, scale=sd)
        mean = np.full((5, 1), centre)
        dice = np.array([[0.0], [0.1], [0.5], [0.9], [1 - 1e-12]])
        dose = truncated_normal(mean, sd, low, high, dice)
        np.testing.assert_allclose(dose, scenario.ppf(dice), atol=1e-6)
        np.testing.assert_allclose(
            truncated_normal_log_prob(dose, mean, sd, low, high), scenario.logpdf(dose), rtol=1e-9, atol=1e-9
        )


def test_titration_raises_below_the_target_lowers_above_and_waits_unmeasured() -> None:
    def means(marker: float) -> list[float]:
        act = Titration(0.01).begin(CLINIC, 500)
        return [float(act(view(500, marker))[0].mean()) for _ in range(3)]

    assert means(0.8) == pytest.approx([0.2, 0.2, 0.2], abs=0.01)
    assert means(float("nan")) == pytest.approx([0.2, 0.2, 0.2], abs=0.01)
    assert means(0.4) == pytest.approx([0.4, 0.6, 0.8], abs=0.01)
    assert means(1.2) == pytest.approx([0.0, -0.2, -0.4], abs=0.01)
    assert means(-9.0) == pytest.approx([3.0, 3.0, 3.0], abs=0.05)


def test_titration_gives_sensitive_patients_less_when_it_sees_the_covariate() -> None:
    seeing = replace(CLINIC, confounding=0.5)
    low = Titration(0.01).begin(seeing, 500)(view(500, covariate=1.0))[0].mean()
    high = Titration(0.01).begin(seeing, 500)(view(500, covariate=-1.0))[0].mean()
    assert low == pytest.approx(0.2 * np.exp(-0.5), abs=0.01)
    assert high == pytest.approx(0.2 * np.exp(0.5), abs=0.01)


def test_epsilon_greedy_explores_with_probability_epsilon() -> None:
    dose, _ = EpsilonGreedy(agent, 0.25, 0.01).begin(CLINIC, N)(view(N))
    away = (dose[:, 0] < 2.7).mean()
    assert away == pytest.approx(0.25 * 3.7 / 4, abs=0.01)


def test_epsilon_greedy_refuses_an_agent_that_gives_no_doses() -> None:
    for bad in (lambda obs: np.full((len(obs), 1), np.nan), lambda obs: np.zeros((len(obs), 2))):
        with pytest.raises(UserError, match="agent must give"):
            EpsilonGreedy(bad).begin(CLINIC, 3)(view(3))


def test_constant_has_no_density() -> None:
    dose, log_prob = Constant(0.45).begin(CLINIC, 3)(view(3))
    assert dose.tolist() == [[0.45]] * 3
    assert np.isnan(log_prob).all()


@pytest.mark.parametrize("policy", [Uniform(), Constant(-0.25), Titration(0.2)])
def test_names_parse_back(policy: BehaviourPolicy) -> None:
    assert parse_policy(policy.name) == policy
    assert parse_policy(policy) is policy


@pytest.mark.parametrize(
    "text", ["", "random", "uniform:1", "constant", "constant:", "constant:x", "constant:nan", "titration:0"]
)
def test_unknown_policies_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_policy(text)


@pytest.mark.parametrize(("epsilon", "spread"), [(0.0, 0.1), (1.1, 0.1), (0.1, 0.0)])
def test_epsilon_greedy_needs_a_density_everywhere(epsilon: float, spread: float) -> None:
    with pytest.raises(UserError):
        EpsilonGreedy(agent, epsilon, spread)
