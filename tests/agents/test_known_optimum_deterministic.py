"""BC, TD3+BC, ReBRAC, SPOT and quasi-optimal learning reach the solution of the bandit.

A deterministic policy's loss on it is a function of one number, the dose; quasi-optimal learning's residual
has a root, because the reward is a parabola.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.models.batch import Batch
from dosing.types import Problem
from tests.agents.bandit import BEST, OBS, SEEDS, bandit, reward, trained
from tests.oracles import spot

pytestmark = pytest.mark.long


def doses(agent: Agent) -> np.ndarray:
    """The dose at each of the observations, ``[S, B]``."""
    with torch.no_grad():
        return agent.policy(OBS).mode.squeeze(-1).numpy()


# Behaviour cloning


@pytest.mark.parametrize("low", [-1.0, -0.6])
def test_bc_reaches_the_behaviour(low: float) -> None:
    """Mean and deviation of doses uniform on [low, 1]."""
    agent = trained("bc", {"learning_rate": 1e-2}, bandit(low), 400)
    with torch.no_grad():
        scale = agent.policy(OBS).base_dist.scale.mean((1, 2))  # type: ignore[attr-defined]
    np.testing.assert_allclose(doses(agent).mean(1), (1.0 + low) / 2.0, atol=0.03)
    np.testing.assert_allclose(scale, (1.0 - low) / math.sqrt(12.0), rtol=0.05)


@pytest.mark.parametrize("family", ["point", "clipped_gaussian", "student_t"])
def test_bc_follows_the_observation(family: str) -> None:
    """Recorded doses of a half of the observation, with noise."""
    data = bandit()
    noise = 0.2 * (torch.rand(len(data), 1, generator=torch.Generator().manual_seed(0)) - 0.5)
    data = replace(data, act=(0.5 * data.obs + noise).clamp(-1.0, 1.0))
    agent = trained("bc", {"learning_rate": 3e-3, "policy_family": family}, data, 600)
    np.testing.assert_allclose(doses(agent), 0.5 * OBS[..., 0].numpy(), atol=0.06)


def test_percent_bc_reaches_the_best_doses() -> None:
    """The best tenth of one-visit episodes: doses uniform on [0.2, 0.4]."""
    agent = trained("pct_bc", {"learning_rate": 1e-2, "best_share": 0.1}, bandit(), 400)
    with torch.no_grad():
        scale = agent.policy(OBS).base_dist.scale.mean((1, 2))  # type: ignore[attr-defined]
    np.testing.assert_allclose(doses(agent).mean(1), BEST, atol=0.03)
    assert doses(agent).mean() == pytest.approx(BEST, abs=0.01)
    np.testing.assert_allclose(scale, 0.2 / math.sqrt(12.0), rtol=0.08)


# TD3+BC and ReBRAC


def balance(value_weight: float, distance_weight: float) -> float:
    """The dose p where distance times its weight and the slope of the reward times its own are in balance.

    Both losses, differentiated by p, with the critic equal to the reward and a mean recorded dose of 0.
    """

    def slope(p: float) -> float:
        return distance_weight * p + value_weight / abs(reward(p)) * (p - BEST)

    return float(brentq(slope, 0.0, BEST))


def assert_near(result: np.ndarray, wanted: float) -> None:
    """Seeds err by the slope of a critic that was fitted to values, not slopes; less so on average."""
    np.testing.assert_allclose(result, wanted, atol=0.06)
    assert result.mean() == pytest.approx(wanted, abs=0.025)


def test_td3_bc_reaches_its_fixed_point() -> None:
    """Between imitation (0) and the best dose (0.3), where alpha says: 0.15."""
    agent = trained("td3_bc", {"alpha": 1.0, "learning_rate": 3e-3}, bandit(), 700)
    assert_near(doses(agent).mean(1), balance(1.0, 1.0))


def test_rebrac_reaches_its_fixed_point() -> None:
    """Between imitation (0) and the best dose (0.3), where beta_1 says: 0.20."""
    agent = trained("rebrac", {"actor_penalty": 0.5, "learning_rate": 3e-3}, bandit(), 700)
    assert_near(doses(agent).mean(1), balance(1.0, 0.5))


def two_visits() -> Dataset:
    """Episodes of two visits told apart by the observation; only the second pays, whatever the dose."""
    data = bandit()
    m = len(data)
    second = torch.arange(m) % 2 == 1
    obs = torch.where(second, 1.0, -1.0)[:, None]
    return replace(
        data,
        obs=obs,
        next_obs=torch.ones_like(obs),
        act=data.act[torch.randperm(m, generator=torch.Generator().manual_seed(0))],
        reward=second.float(),
        terminated=second.float(),
        starts=torch.arange(0, m + 1, 2),
    )


def test_rebrac_charges_the_distance_from_the_recorded_next_dose() -> None:
    """The first visit is worth gamma (1 - beta_2 E|pi(s') - a'|^2), a second progress of recorded doses."""
    config = {"critic_penalty": 0.3, "actor_penalty": 5.0, "target_noise": 0.0, "learning_rate": 3e-3}
    agent: Any = trained("rebrac", config, two_visits(), 600)
    with torch.no_grad():
        at = torch.tensor([-1.0, 1.0]).view(1, 2, 1).expand(len(SEEDS), 2, 1)
        first, second = agent.critic(at, torch.zeros_like(at)).mean(1).unbind(1)
        dose = agent.actor_target.action(at)[:, 1, 0].numpy()
    np.testing.assert_allclose(second, 1.0, atol=0.05)
    away = 1.0 / 3.0 + dose**2  # variance of the recorded doses and distance of their mean, 0
    np.testing.assert_allclose(first, 0.9 * (1.0 - 0.3 * away), atol=0.05)


# SPOT

SPOT: dict[str, Any] = {
    "learning_rate": 3e-3,
    "dropout": 0.0,
    "vae_hidden": (32, 32),
    "vae_steps": 300,
    "vae_beta": 0.5,
    "density": "elbo",
}


def test_spot_reaches_its_fixed_point() -> None:
    """Least -r(p)/|r(p)| + lambda D(p) with the density that was fitted, by the oracle's D.

    The critic is quadratic in the dose, as the reward is: the slope of a wholly free one misses the optimum
    by more than 0.05 in one seed of four.
    """
    config = SPOT | {"penalty": 1.0, "n_samples": 4, "learning_rate": 1e-2}
    agent = trained("spot", config, bandit(0.2), 1200, dose_quadratic=True)
    result = doses(agent).mean(1)
    draws = stats.norm.ppf(stats.qmc.Sobol(2, scramble=False).random_base2(5) + 2.0**-6)
    grid = np.linspace(0.2, 0.8, 6)
    for seed in range(len(SEEDS)):
        params = {name: value[seed].numpy() for name, value in agent.state_dict().items()}
        states = OBS[seed, ::10].numpy()
        penalty = [
            np.mean([spot.distance(params, obs, [float(p)], draws, config) for obs in states]) for p in grid
        ]
        # A smooth curve through the penalties; the critic is the reward, divided by its size at the policy.
        value = np.polynomial.Polynomial([BEST**2, -2.0 * BEST, 1.0]) / reward(result[seed])
        loss = value + config["penalty"] * np.polynomial.Polynomial.fit(grid, penalty, 4).convert()
        wanted = brentq(loss.deriv(), 0.2, 0.8)
        assert result[seed] == pytest.approx(wanted, abs=0.04)
        assert wanted > BEST + 0.1, "the penalty moves the optimum"


def test_spot_stays_where_the_data_are() -> None:
    """Recorded doses above 0.5 alone; towards the best dose, 0.3, the critic rises and the density falls."""
    free = trained("spot", SPOT | {"penalty": 0.0, "vae_steps": 1}, bandit(0.5), 400)
    held = trained("spot", SPOT | {"penalty": 20.0}, bandit(0.5), 700)
    assert doses(free).mean() < 0.45
    assert (doses(held) > 0.5).all()


# Quasi-optimal learning

REGULARISATION = 0.05
HALF_WIDTH = 2.0 * (3.0 * REGULARISATION / (2.0 * 4.0)) ** (1.0 / 3.0)
"""h of the equations: on [0, 1] the reward's curvature is 4; twice that on [-1, 1]."""


def episodes_of_visits(visits: int) -> Dataset:
    """The bandit, its doses in random order, in episodes of visits at one state."""
    data = bandit()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    obs = torch.zeros_like(data.obs)
    starts = torch.arange(0, len(data) + 1, visits)
    act = data.act[order]
    return replace(data, obs=obs, next_obs=obs, act=act, reward=reward(act[:, 0]), starts=starts)


def interval(agent: Agent) -> tuple[np.ndarray, np.ndarray]:
    """Mode and half-width at that state, ``[S]`` each."""
    with torch.no_grad():
        distribution: Any = agent.policy(torch.zeros(len(SEEDS), 1, 1, dtype=next(agent.parameters()).dtype))
    support = distribution.base_dist.support
    half = 0.5 * (support.upper_bound - support.lower_bound)
    return distribution.mode[:, 0, 0].numpy(), half[:, 0, 0].numpy()


def minimised(config: dict[str, Any]) -> Agent:
    """The agent at the least of its own loss on sixteen episodes, found by a quasi-Newton method."""
    data = episodes_of_visits(64)
    columns = ("obs", "act", "reward", "next_obs", "terminated")
    data = replace(data, **{name: getattr(data, name).double() for name in columns})
    settings = {"dose_bandwidth": 0.2, "regularisation": REGULARISATION} | config
    agent = agents.build("quasi_optimal", settings, Problem(1, 1), SEEDS, dtype=torch.float64)
    agent.prepare(data)
    first = {name: getattr(data, name)[:1024] for name in columns}
    rows = {name: column.expand(len(SEEDS), *column.shape) for name, column in first.items()}
    batch = Batch(**rows, length=64)
    optimizer = torch.optim.LBFGS(agent.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = agent.losses(batch)["residual"].sum()
        total.backward()
        return total.detach()

    optimizer.step(loss)  # type: ignore[arg-type, no-untyped-call]
    return agent


@pytest.mark.parametrize("value_multiplier", ["learned", "exact"])
def test_the_residual_vanishes_at_the_best_interval(value_multiplier: str) -> None:
    """Q is a parabola and so is the reward: the interval is [m - h, m + h] in closed form."""
    mode, half = interval(minimised({"value_multiplier": value_multiplier}))
    np.testing.assert_allclose(mode, BEST, atol=1e-3)
    np.testing.assert_allclose(half, HALF_WIDTH, rtol=2e-3)


def test_the_released_multiplier_misses_the_best_interval() -> None:
    """psi / (2 lambda) in place of psi leaves a residual at the doses outside the interval."""
    mode, half = interval(minimised({"support_multiplier": "released"}))
    assert (np.abs(mode - BEST) > 0.05).all() or (np.abs(half / HALF_WIDTH - 1.0) > 0.1).all()


@pytest.mark.slow
def test_quasi_optimal_learning_reaches_the_best_interval() -> None:
    config = {"learning_rate": 1.0, "dose_bandwidth": 0.2, "regularisation": REGULARISATION}
    mode, half = interval(trained("quasi_optimal", config, episodes_of_visits(16), 4000))
    np.testing.assert_allclose(mode, BEST, atol=0.05)
    np.testing.assert_allclose(half, HALF_WIDTH, rtol=0.06)
