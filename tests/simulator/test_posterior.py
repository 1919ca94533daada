"""Matched patients against brute force, a closed form, and patients whose truth the simulator knows."""

from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.random import Generator
from scipy.stats import kstest

from dosing.errors import UserError
from dosing.types import Act, Float32Array, Observations
from simulator.cohorts.posterior import QUANTILES, Candidates, bands
from simulator.engine.covariance import lkj_rows
from simulator.engine.latent import PatientDraws
from simulator.engine.scenario import normal_blocks, uniform_blocks
from simulator.environment import CohortEnv
from simulator.envs import SCENARIOS
from simulator.envs.treatment import Treatment

STATE = (0.5, -0.25, 0.0, 1.0, 0.0, 0.0, 0.125, -1.0)
DOSE, VISITS = 0.4, 3


def constant(dose: float) -> Act:
    """The rule that gives everyone the same dose, in an environment without torch."""

    def act(obs: Observations, visit: int) -> Float32Array:
        return np.full((*obs.shape[:2], 1), dose)

    return act


class Pair(Treatment):
    """Two states round two latent means: small enough to wait for a state by chance."""

    env_id = "test/Pair"
    n_state = 2
    state_names = ("s1", "s2")
    variants: ClassVar[tuple[str, ...]] = ("corrected",)

    def draw(self, generators: list[Generator]) -> PatientDraws:
        rows = lkj_rows(normal_blocks(generators, 2, 3))
        return PatientDraws(mean=2 * uniform_blocks(generators, 2) - 1, rows=rows)

    def advance(
        self, mean: Float32Array, state: Float32Array, dose: Float32Array, noise: Float32Array
    ) -> None:
        mean += np.stack([dose, -dose])
        np.tanh(mean, out=mean)
        np.add(mean, noise, out=state)

    def reward(self, state: Float32Array, dose: Float32Array) -> Float32Array:
        paid: Float32Array = state[0] * dose - state[1] ** 2
        return paid


def by_chance(state: tuple[float, float], error: float, near: float) -> dict[str, np.ndarray]:
    """Simulate patients until some show a state within ``near`` of the given one; keep only those."""
    rng, n = np.random.default_rng(7), 3_000_000
    mean, rho = rng.uniform(-1, 1, (2, n)), rng.uniform(-1, 1, n)  # LKJ(1) of two states: uniform

    def noise(rho: np.ndarray) -> np.ndarray:
        z = rng.standard_normal((2, len(rho)))
        drawn: np.ndarray = np.sqrt(0.5) * np.stack([z[0], rho * z[0] + np.sqrt(1 - rho**2) * z[1]])
        return drawn

    first = mean + noise(rho)
    seen = first + error * rng.standard_normal((2, n))
    kept = (np.abs(seen - np.asarray(state)[:, None]) < near).all(0)
    mean, rho, first = mean[:, kept], rho[kept], first[:, kept]
    result = {"mean 1": mean[0], "mean 2": mean[1], "rho": rho, "first": first[0]}
    m, total = mean.copy(), np.zeros(len(rho))
    for _ in range(VISITS):
        m = np.tanh(m + np.array([[DOSE], [-DOSE]]))
        s = m + noise(rho)
        total += s[0] * DOSE - s[1] ** 2
    return result | {"return": total}


@pytest.mark.parametrize("error", [0.0, 0.3])
def test_matched_patients_are_those_who_show_the_state_by_chance(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    monkeypatch.setitem(SCENARIOS, Pair.env_id, f"{__name__}:Pair")
    state = (1.1, -0.6)
    near = 0.05
    brute = by_chance(state, error, near)
    result = Candidates(Pair.env_id, steps=VISITS, noise=error).match(state, 8000)
    low = result.rows[1]
    mine = {
        "mean 1": result.mean[0],
        "mean 2": result.mean[1],
        "rho": low[0] / np.sqrt(np.square(low).sum(0)),
        "first": result.state[0],
        "return": result.roll_out(constant(DOSE)).returns[0],
    }
    n = len(brute["rho"])
    assert n > 2000
    for name, expected in brute.items():
        scale = expected.std() + near
        margin = 4 * scale * np.sqrt(1 / n + 1 / result.n)
        assert abs(mine[name].mean() - expected.mean()) < margin, name
        for q in (0.1, 0.5, 0.9):  # four standard errors of a quantile where the density is moderate
            assert abs(np.quantile(mine[name], q) - np.quantile(expected, q)) < 3 * margin + near, (name, q)
    prior = np.random.default_rng(0).uniform(-1, 1, 8000)
    assert abs(prior.mean() - brute["mean 1"].mean()) > 0.1  # a patient who was not matched would be seen


def test_a_gaussian_start_has_the_closed_form() -> None:
    """Prior N(0, I/4), covariance C + error: posterior mean (4 I + S^-1)^-1 S^-1 s, covariance its factor."""
    for error in (0.0, 0.4):
        pool = Candidates("dosing/Treatment-v0", seed=3, variant="li-data", noise=error)
        result = pool.match(STATE, 5000)
        assert pool.shared is not None
        spread = pool.shared.astype(float) @ pool.shared.T + error**2 * np.eye(8)
        covariance = np.linalg.inv(4 * np.eye(8) + np.linalg.inv(spread))
        expected = covariance @ np.linalg.inv(spread) @ np.asarray(STATE)
        margin = 4.5 * np.sqrt(np.diag(covariance) / result.n)
        assert (np.abs(result.mean.mean(1) - expected) < margin).all()
        assert result.n > 300
        assert np.allclose(np.cov(result.mean), covariance, atol=4.5 * 0.25 / np.sqrt(result.n))


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"variant": "simenv3"}, {"noise": 0.3, "variation": 0.25}])
def test_the_truth_of_known_patients_ranks_evenly_among_their_matches(options: dict[str, Any]) -> None:
    """Talts et al. 2018 (arXiv 1804.06788): what is drawn from the right distribution ranks uniformly."""
    env = CohortEnv("dosing/Treatment-v0", num_envs=160, **options)
    seen, _ = env.reset(seed=11)
    truth = {"mean": env.visits.core.means()[:, 0], "other": env.visits.core.means()[:, 6]}
    total = np.zeros(env.num_envs)
    for _ in range(4):
        _, reward, *_ = env.step(np.full((env.num_envs, 1), DOSE, dtype=np.float32))
        total += reward
    pool = Candidates("dosing/Treatment-v0", steps=4, **options)
    ranks: dict[str, list[float]] = {name: [] for name in (*truth, "return")}
    for patient, state in enumerate(seen):
        try:
            result = pool.match(state, 99)
        except UserError:  # decided by the state alone, so nobody's rank depends on it
            continue
        mine = {"mean": result.mean[0], "other": result.mean[6]}
        for name, value in truth.items():
            ranks[name].append(float((mine[name] < value[patient]).mean()))
        ranks["return"].append(float((result.roll_out(constant(DOSE)).returns[0] < total[patient]).mean()))
    assert len(ranks["mean"]) > 120
    for name, found_ranks in ranks.items():
        jittered = np.asarray(found_ranks) + np.random.default_rng(0).uniform(0, 0.01, len(found_ranks))
        assert kstest(jittered / 1.01, "uniform").pvalue > 0.005, name


def test_every_rule_meets_the_same_patients_with_the_same_noise() -> None:
    pool = Candidates("dosing/Treatment-v0", count=2**15, variation=0.25)
    many, few = pool.match(STATE, 300), pool.match(STATE, 40)
    assert (few.n, many.n) == (40, 300)
    assert few.accepted == many.accepted > 300
    one = many.roll_out(constant(0.4))
    for name in ("seen", "dose", "reward", "cost", "limited"):
        again, part = getattr(many.roll_out(constant(0.4)), name), getattr(few.roll_out(constant(0.4)), name)
        np.testing.assert_array_equal(getattr(one, name), again)
        np.testing.assert_array_equal(getattr(one, name)[:, :40], part)  # however many are asked for
    seeds = many.roll_out(lambda obs, visit: np.broadcast_to([[[0.4]], [[0.5]]], (2, 300, 1)), seeds=2)
    np.testing.assert_array_equal(seeds.reward[:1], one.reward)
    other = many.roll_out(constant(0.5))
    np.testing.assert_array_equal(seeds.reward[1:], other.reward)
    paired, apart = (one.returns - other.returns).std(), np.hypot(one.returns.std(), other.returns.std())
    assert paired < 0.5 * apart
    np.testing.assert_allclose(one.seen[0, :, 0], np.tile(np.asarray(STATE, np.float32), (300, 1)))
    np.testing.assert_allclose(one.so_far[..., -1], one.returns)


def test_a_dose_beyond_the_limits_is_held_and_said_so() -> None:
    result = Candidates("dosing/Treatment-v0", count=2**14).match(STATE, 5)
    episode = result.roll_out(constant(7.0))
    assert (episode.dose == 1.0).all()
    assert episode.limited.all()
    assert (episode.cost == 1.0).all()
    assert not result.roll_out(constant(0.5)).cost.any()


def test_bands_are_quantiles_over_patients_and_seeds() -> None:
    values = np.random.default_rng(0).normal(size=(3, 50, 4))
    expected = [np.quantile(values[..., 2], q) for q in QUANTILES]
    np.testing.assert_allclose(bands(values)[:, 2], expected)


def test_where_all_start_from_one_mean_the_given_state_moves_the_patient() -> None:
    result = Candidates("dosing/LiI-v0", count=256, steps=1).match((0.7, -0.2), 256)
    assert result.accepted == result.candidates == 256
    after = result.roll_out(constant(0.6)).seen[0, :, 1]
    pull, product = np.tanh(0.3), 0.25 * 0.7 * -0.2
    expected = (pull * 0.7 + product, pull * 0.2 + product)
    assert np.allclose(after.mean(0), expected, atol=4 * 0.5 / 16)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"history": 2}, "history=2"),
        ({"latent": True}, "latent=True"),
        ({"realism": 4}, "missing_visits=0.2"),
        ({"variant": "li-evaluation", "noise": 0.3}, "starts every patient from one mean"),
        ({"variant": "nonsense"}, "no variant 'nonsense'"),
    ],
)
def test_what_cannot_be_matched_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Candidates("dosing/Treatment-v0", count=256, **options)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (STATE[:7], "8 finite numbers"),
        ((*STATE[:7], float("nan")), "8 finite numbers"),
        (("a",) * 8, "8 finite numbers"),
        ((9.0,) * 8, "none of 2,048 simulated patients could show this state"),
    ],
)
def test_no_state_gets_no_patients(state: tuple[float, ...], says: str) -> None:
    pool = Candidates("dosing/Treatment-v0", count=2048)
    with pytest.raises(UserError, match=says):
        pool.match(state, 10)
