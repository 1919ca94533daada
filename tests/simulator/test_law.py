"""The distributions of motion and rewards against slow scalar forms written from the papers."""

from math import exp, tanh

import numpy as np
import pytest

from simulator.engine.batch import Core
from simulator.engine.latent import LatentScenario
from simulator.environment import CohortEnv
from simulator.envs import SCENARIOS, scenario_class
from simulator.envs.treatment import Treatment

N, STEPS = 5, 6


def reward_iii(s: np.ndarray, a: float) -> float:
    return -exp(s[0] / 2 + s[4] / 2) * a**2 + 2 * (s[1] + s[2] + s[5] + s[6] + 0.5) * a + s[3] + s[7]


def reward_iv(s: np.ndarray, a: float) -> float:
    first = (s[0] / 2) ** 3 + (s[1] / 2) ** 3
    return first + 2 * ((s[4] / 2) ** 3 + (s[5] / 2) ** 3) + s[2] + s[3] + 0.5 * (s[6] + s[7])


def roll(env_id: str, variant: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return observations with the latent mean, doses and rewards of a short random episode."""
    env = CohortEnv(env_id, num_envs=N, variant=variant, latent=True)
    low, high = env.visits.limits.low[0], env.visits.limits.high[0]
    doses = np.random.default_rng(1).uniform(low, high, size=(STEPS, N)).astype(np.float32)
    seen, rewards = [env.reset(seed=3)[0]], []
    for dose in doses:
        obs, reward, *_ = env.step(dose[:, None])
        seen.append(obs)
        rewards.append(reward)
    return seen, doses, np.array(rewards)


@pytest.mark.parametrize(
    ("env_id", "variant", "reward"),
    [
        ("dosing/Treatment-v0", "corrected", reward_iii),
        ("dosing/Treatment-v0", "simenv3", reward_iii),
        ("dosing/Treatment-v0", "li-data", reward_iii),
        ("dosing/Treatment-v0", "li-evaluation", reward_iii),
        ("dosing/LiIV-v0", "li-data", reward_iv),
        ("dosing/LiIV-v0", "li-evaluation", reward_iv),
    ],
)
def test_eight_state_scenario(env_id: str, variant: str, reward: object) -> None:
    seen, doses, rewards = roll(env_id, variant)
    for t in range(STEPS):
        for i in range(N):
            mean, after = seen[t][i, 8:], seen[t + 1][i, 8:]
            a = float(doses[t, i])
            expected = [tanh(mean[j] + a) for j in range(4)] + [tanh(mean[j] - a) for j in range(4, 8)]
            np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)
            assert rewards[t, i] == pytest.approx(reward(seen[t + 1][i, :8].astype(float), a), abs=2e-5)


@pytest.mark.parametrize("variant", ["li-data", "li-evaluation"])
def test_the_published_lag_centres_the_state_on_the_old_mean(variant: str) -> None:
    n = 20_000
    env = CohortEnv("dosing/Treatment-v0", num_envs=n, variant=variant, latent=True)
    before, _ = env.reset(seed=0)
    if variant == "li-evaluation":
        assert np.all(before[:, 8:] == 0)
    after, *_ = env.step(np.full((n, 1), 0.9, dtype=np.float32))
    centre = before[:, 8:] if variant == "li-evaluation" else after[:, 8:]
    error = (after[:, :8] - centre).mean(axis=0)
    assert np.abs(error).max() < 4 * np.sqrt(0.5 / n)
    assert np.abs(after[:, 8:] - before[:, 8:]).mean(axis=0).min() > 0.1  # the two centres do differ


def test_scenario_i() -> None:
    seen, doses, rewards = roll("dosing/LiI-v0", "published")
    for t in range(STEPS):
        for i in range(N):
            (s1, s2), a = seen[t][i, :2].astype(float), float(doses[t, i])
            k = 2 / (1 + exp(-a)) - 1
            centre = [k * s1 + 0.25 * s1 * s2, -k * s2 + 0.25 * s1 * s2]
            np.testing.assert_allclose(seen[t + 1][i, 2:], centre, rtol=1e-5, atol=1e-6)
            n1, n2 = seen[t + 1][i, :2].astype(float)
            value = -3 * exp(n1 - n2) * a**2 + 3 * (n1 + n2 + 0.5) * a + 3 * n1 + 3 * n2
            assert rewards[t, i] == pytest.approx(value, abs=2e-5)


def test_scenario_ii() -> None:
    seen, doses, rewards = roll("dosing/LiII-v0", "published")
    for t in range(STEPS):
        for i in range(N):
            (s1, s2), a = seen[t][i, :2].astype(float), float(doses[t, i])
            centre = [
                0.75 * (2 * a - 1) * s1 + 0.25 * s1 * s2,
                0.75 * (1 - 2 * a) * s2 + 0.25 * s1 * s2,
            ]
            np.testing.assert_allclose(seen[t + 1][i, 2:], centre, rtol=1e-5, atol=1e-6)
            n1, n2 = seen[t + 1][i, :2].astype(float)
            value = 0.25 * n1**3 + 2 * n1 + 0.5 * n2**3 + n2 + 0.25 * (2 * a - 1)
            assert rewards[t, i] == pytest.approx(value, abs=2e-5)


def test_scenario_ii_cuts_the_states_at_two() -> None:
    env = CohortEnv("dosing/LiII-v0", num_envs=20_000)
    env.reset(seed=0)
    for _ in range(10):
        obs, *_ = env.step(np.ones((20_000, 1), dtype=np.float32))
    assert obs.max() == 2.0
    assert obs.min() == -2.0


@pytest.mark.parametrize(
    ("env_id", "variant"),
    [
        (e, v)
        for e in SCENARIOS
        if issubclass(scenario_class(e), LatentScenario)
        for v in scenario_class(e).variants
    ],
)
def test_noise_has_its_covariance_and_never_depends_on_the_doses(env_id: str, variant: str) -> None:
    """The state minus its centre is L z: covariance as the factor says, independent over visits."""
    n = 256 * 30
    scenario = scenario_class(env_id)(variant)
    assert isinstance(scenario, LatentScenario)
    core, other = Core(scenario, n, "train"), Core(scenario, n, "train")
    k, zero = scenario.n_state, np.zeros(n, dtype=np.float32)
    core.start(5, 0)
    other.start(5, 0)
    factors = core.factors().astype(np.float64)
    start = core.states()
    np.testing.assert_array_equal(start, other.states())
    noise = []
    for _ in range(2):
        lag = getattr(scenario, "lag", False)
        centres = [core.means(), other.means()]
        core.step(zero)
        other.step(zero + np.float32(scenario.limits.high[0]))
        if not lag:
            centres = [core.means(), other.means()]
        noise.append(core.states() - centres[0])
        if env_id != "dosing/LiII-v0":  # there the cut hides part of the noise
            np.testing.assert_allclose(noise[-1], other.states() - centres[1], atol=2e-6)
    if env_id == "dosing/LiII-v0":
        return
    if len(factors) == 1:  # one covariance: whitening gives independent standard normals
        sample = np.cov(noise[0].T)
        np.testing.assert_allclose(sample, factors[0] @ factors[0].T, atol=5 * 0.5 / np.sqrt(n) * 1.5)
    else:  # one each: whiten each patient's own noise
        white = np.einsum("nij,nj->ni", np.linalg.pinv(factors), noise[0])
        entries = factors.shape[2]
        np.testing.assert_allclose(np.cov(white.T), np.eye(entries), atol=5 * 1.5 / np.sqrt(n))
    across = (noise[0][:, :k] * noise[1][:, :k]).mean(axis=0)
    assert np.abs(across).max() < 5 * 0.5 / np.sqrt(n)


@pytest.mark.parametrize(
    ("variant", "scenario"),
    [("corrected", "uniform"), ("simenv3", "uniform"), ("li-data", "normal"), ("li-evaluation", "zero")],
)
def test_first_means(variant: str, scenario: str) -> None:
    env = CohortEnv("dosing/Treatment-v0", num_envs=20_000, variant=variant, latent=True)
    mean = env.reset(seed=0)[0][:, 8:]
    sd = {"uniform": 1 / np.sqrt(3), "normal": 0.5, "zero": 0.0}[scenario]
    np.testing.assert_allclose(mean.std(axis=0), sd, atol=0.012)
    assert np.abs(mean.mean(axis=0)).max() <= 4 * sd / np.sqrt(20_000)
    if scenario == "uniform":
        assert np.abs(mean).max() <= 1


def test_li_covariance_is_one_per_seed_shared_by_both_cohorts() -> None:
    def factor(seed: int, cohort: str) -> np.ndarray:
        core = Core(Treatment("li-data"), 3, cohort)
        core.start(seed, 0)
        return core.factors()

    np.testing.assert_array_equal(factor(0, "train"), factor(0, "evaluation"))
    assert np.abs(factor(0, "train") - factor(1, "train")).max() > 0.1
