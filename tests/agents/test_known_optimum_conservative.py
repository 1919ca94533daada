"""CQL, Cal-QL and Onestep RL reach the solution of the bandit.

The conservative critics' fixed point is an equation for a function of the dose. Of Onestep RL both
improvements end at a truncated normal distribution in closed form, because the reward is a parabola.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from tests.agents.bandit import BEST, N_ROWS, OBS, SEEDS, average, bandit, reward, trained

pytestmark = pytest.mark.long


def scaled(factor: float, low: float = -1.0) -> Dataset:
    """The bandit with larger rewards."""
    data = bandit(low)
    return replace(data, reward=factor * data.reward)


def doses(agent: Agent) -> np.ndarray:
    """The dose at each of the observations, ``[S, B]``."""
    with torch.no_grad():
        return agent.policy(OBS).mode.squeeze(-1).numpy()


def values(agent: Any, grid: np.ndarray, obs: float = 0.0) -> np.ndarray:
    """Mean of the critics at one observation and these doses, ``[S, K]``."""
    act = torch.tensor(grid, dtype=torch.float32).view(1, -1, 1).expand(len(SEEDS), -1, 1)
    with torch.no_grad():
        return agent.critic(torch.full_like(act, obs), act).mean(1).numpy()


# CQL and Cal-QL

GRID = np.linspace(-1.0, 1.0, 101)
MIDDLE = slice(25, 76, 5)
"""Doses from -0.5 to 0.5: towards the limits a small network bends too little."""
WEIGHT, FACTOR = 4.0, 5.0


def fixed_point(bounded: bool) -> np.ndarray:
    """Q on the grid with 2 (Q - r) + w (push / p - 1) = 0 at doses of density p = 1/2.

    The push is the derivative by Q of the expected logarithm of the integral of exp Q; for Cal-QL, two thirds
    of exp Q are bounded below by exp r of the recorded dose.
    """
    weight = np.full(len(GRID), GRID[1] - GRID[0])
    weight[[0, -1]] /= 2.0
    r = FACTOR * reward(GRID)
    bound = r[:, None] if bounded else np.full((len(GRID), 1), -np.inf)  # by recorded dose
    q = r.copy()
    for _ in range(400):
        integral = (np.exp(q) / 3.0 + 2.0 / 3.0 * np.exp(np.maximum(q, bound))) @ weight
        slope = np.exp(q) * (1.0 / 3.0 + 2.0 / 3.0 * (q > bound)) / integral[:, None]
        push = (0.5 * weight) @ slope
        q += 0.1 * (r + WEIGHT / 2.0 * (1.0 - push / 0.5) - q)
    return q


@pytest.mark.parametrize("name", ["cql", "cal_ql"])
def test_the_critics_reach_the_conservative_fixed_point(name: str) -> None:
    """Below the reward at good doses, Cal-QL less so; the policy is held where it starts, wide."""
    config = {
        "conservative_weight": WEIGHT,
        "learning_rate": 1e-2,
        "actor_learning_rate": 1e-9,
        "n_samples": 5,
    }
    result = values(trained(name, config, scaled(FACTOR), 300, 32), GRID[MIDDLE]).mean(0)
    wanted = {key: fixed_point(key == "cal_ql")[MIDDLE] for key in ("cql", "cal_ql")}
    wanted["reward"] = FACTOR * reward(GRID[MIDDLE])
    for key, curve in wanted.items():
        if key == name:
            np.testing.assert_allclose(result, curve, atol=0.2)
        else:
            assert np.abs(result - curve).max() > 0.5, key


def test_without_conservatism_it_is_a_soft_actor_critic() -> None:
    """A narrow distribution of entropy -1 at the best dose: sigma^2 = e^-3 / 2 pi, alpha = |r''| sigma^2."""
    config = {
        "conservative_weight": 0.0,
        "learning_rate": 3e-3,
        "actor_learning_rate": 1e-2,
        "n_samples": 1,
    }
    agent: Any = trained("cql", config, scaled(10.0), 600, 64)
    np.testing.assert_allclose(doses(agent).mean(), BEST, atol=0.08)
    distribution = agent.policy(OBS)
    with torch.no_grad():
        entropy = -distribution.log_prob(distribution.rsample((500,))).mean().item()
    assert entropy == pytest.approx(-1.0, abs=0.15)
    variance = math.exp(-3.0) / (2.0 * math.pi)
    np.testing.assert_allclose(agent.log_temperature.exp().mean().item(), 20.0 * variance, rtol=0.3)


ABOVE = {"learning_rate": 3e-3, "actor_learning_rate": 3e-3, "n_samples": 1}


@pytest.mark.parametrize("name", ["cql", "cal_ql"])
def test_the_policy_stays_where_the_data_are(name: str) -> None:
    """Recorded doses above 0.5 alone, although the critics' slope points below, towards 0.3."""
    agent = trained(name, ABOVE | {"conservative_weight": 5.0}, scaled(5.0, 0.5), 400, 64)
    assert (doses(agent) > 0.5).all()


def test_without_conservatism_the_policy_leaves_the_data() -> None:
    agent = trained("cql", ABOVE | {"conservative_weight": 0.0}, scaled(5.0, 0.5), 600, 32)
    assert doses(agent).mean() < 0.45


def test_the_multiplier_brings_the_gap_to_its_target() -> None:
    """Without a weight the gap would be larger, with the largest it would be ln 15 + ln 2 = 3.4."""
    config = {
        "lagrange": True,
        "target_gap": 3.8,
        "conservative_weight": 1.0,
        "learning_rate": 1e-2,
        "actor_learning_rate": 1e-9,
        "n_samples": 5,
    }
    agent: Any = trained("cql", config, scaled(6.0), 300, 32)
    r = 6.0 * reward(GRID)
    unweighted = math.log(15.0) + math.log(np.trapezoid(np.exp(r), GRID)) - 6.0 * average(reward)
    assert unweighted > 4.3
    q = values(agent, GRID).astype(np.float64)
    gap = np.log(np.trapezoid(np.exp(q), GRID)) - 0.5 * np.trapezoid(q, GRID) + math.log(15.0)
    np.testing.assert_allclose(gap, 3.8, atol=0.15)


# Onestep RL

FITTED: dict[str, Any] = {"learning_rate": 1e-2, "behaviour_steps": 100, "critic_steps": 250, "n_samples": 4}


def test_weighted_imitation_ends_at_the_tilted_distribution() -> None:
    """Uniform doses times exp(- t (a - 0.3)^2): normal, truncated, with variance 1 / 2t."""
    config = FITTED | {"improvement": "exp_weight", "inverse_temperature": 4.0}
    distribution: Any = trained("onestep", config, bandit(), 700).policy(OBS).base_dist  # type: ignore[attr-defined]
    np.testing.assert_allclose(distribution.loc.detach().mean((1, 2)), BEST, atol=0.05)
    np.testing.assert_allclose(distribution.scale.detach().mean((1, 2)), 8.0**-0.5, rtol=0.12)


def test_the_reverse_divergence_ends_at_the_tilted_distribution() -> None:
    """beta times exp((1 - (a - 0.3)^2) / kappa): the precisions add.

    Steps three times as large throw one policy in ten beyond a limit, where it stays.
    """
    kappa = 0.25
    config = FITTED | {"improvement": "reverse_kl", "divergence_weight": kappa, "learning_rate": 3e-3}
    agent: Any = trained("onestep", config, bandit(), 700)
    with torch.no_grad():
        distribution, behaviour = agent.policy(OBS).base_dist, agent.densities(OBS)["behaviour"].base_dist
    recorded = behaviour.scale**-2
    precision = recorded + 2.0 / kappa
    loc = (recorded * behaviour.loc + 2.0 / kappa * BEST) / precision
    np.testing.assert_allclose(distribution.loc.mean((1, 2)), loc.mean((1, 2)), atol=0.06)
    np.testing.assert_allclose(distribution.scale.mean((1, 2)), precision.mean((1, 2)) ** -0.5, rtol=0.1)


def two_visits() -> Dataset:
    """Episodes of two visits told apart by the observation; only the second pays, by its dose."""
    data = bandit()
    second = torch.arange(N_ROWS) % 2 == 1
    obs = torch.where(second, 1.0, -1.0)[:, None]
    act = data.act[torch.randperm(N_ROWS, generator=torch.Generator().manual_seed(0))]
    return replace(
        data,
        obs=obs,
        next_obs=torch.ones_like(obs),
        act=act,
        reward=second * reward(act[:, 0]),
        terminated=second.float(),
        starts=torch.arange(0, N_ROWS + 1, 2),
    )


def test_easy_bcq_takes_the_best_dose_by_the_recorded_policys_value() -> None:
    """The first visit is worth what the recorded second doses are worth on average, not the best of them."""
    config = FITTED | {"improvement": "easy_bcq", "n_samples": 64}
    agent: Any = trained("onestep", config, two_visits(), 500)
    grid = np.linspace(-0.8, 0.8, 9)
    np.testing.assert_allclose(values(agent, grid, -1.0).mean(), 0.9 * average(reward), atol=0.04)
    np.testing.assert_allclose(values(agent, grid, 1.0).mean(0), reward(grid), atol=0.06)
    with torch.no_grad():
        distribution: Any = agent.policy(torch.ones(len(SEEDS), 1, 1)).base_dist  # type: ignore[attr-defined]
    np.testing.assert_allclose(distribution.mode.mean(), BEST, atol=0.06)
    weights, candidates = distribution.weights[:, 0, 0], distribution.values[:, 0, 0]
    assert float((weights * (candidates - BEST).abs()).sum(-1).mean()) < 0.1


def test_a_record_that_was_cut_goes_on_with_a_draw_of_the_recorded_policy() -> None:
    """Visits at one state whose next dose is unknown: Q(a) = r(a) + gamma E r / (1 - gamma)."""
    data = replace(bandit(), terminated=torch.zeros(N_ROWS))
    config = FITTED | {"improvement": "easy_bcq", "discount": 0.5, "target_rate": 0.1}
    agent = trained("onestep", config, data, 500)
    grid = np.linspace(-0.8, 0.8, 9)
    np.testing.assert_allclose(values(agent, grid).mean(0), reward(grid) + average(reward), atol=0.07)
