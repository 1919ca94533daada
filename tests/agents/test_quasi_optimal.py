"""Quasi-optimal learning: where its interval lies, what its residual is, how it scales states and doses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.types import Problem
from tests.agents.oracle_cases import (
    SEEDS,
    Config,
    Oracle,
    assert_same,
    build,
    make_batch,
    result,
    seed_params,
)
from tests.oracles import quasi_optimal

QUASI: Config = {
    "discount": 0.9,
    "regularisation": 0.05,
    "state_bandwidth": 0.5,
    "dose_bandwidth": 0.7,
    "value_multiplier": "learned",
    "support_multiplier": "derived",
    "pairs": "episode",
}
ORACLE = Oracle(quasi_optimal.losses, {"residual": ("theta", "w")}, n_act=1)


def scaled(agent: Agent, **ends: float) -> Agent:
    """The agent with recorded extremes of its own; some observations lie beyond them."""
    with torch.no_grad():
        for name, value in ends.items():
            agent.state_dict()[name].fill_(value)
    return agent


@pytest.mark.parametrize(
    ("theta", "kinds"),
    [
        ((4.0, 50.0), {"free"}),
        ((1.0, 8.0), {"beyond"}),
        ((0.0, 0.4), {"cut"}),
        ((-30.0, 0.01), {"beyond"}),
        ((30.0, 0.0), {"free"}),
    ],
)
def test_quasi_optimal_losses_wherever_the_interval_lies(theta: tuple[float, float], kinds: set[str]) -> None:
    """Intervals inside the limits, cut off by them, with their centre beyond them; both bounds of alpha_1."""
    config = QUASI
    ends = {"obs_low": -0.8, "obs_high": 1.2, "act_low": -0.9, "act_high": 0.6}
    agent = scaled(build("quasi_optimal", config, 1), **ends)
    with torch.no_grad():
        for column, shift in enumerate(theta):
            agent.state_dict()["theta"][:, 0, column] += shift
    batch = make_batch(agent)
    assert_same(ORACLE, agent, batch, config)
    seen = set()
    for seed in range(len(SEEDS)):
        params = seed_params(agent, seed)
        low, high = quasi_optimal.legal(params)
        for obs in batch.obs[seed].numpy():
            best = quasi_optimal.Best(params, quasi_optimal.scaled_obs(params, obs), config)
            top = -best.alpha[1] / (2.0 * best.alpha[0])
            inside = low < best.low and best.high < high
            seen.add("free" if inside else "cut" if low < top < high else "beyond")
    assert kinds <= seen


def test_quasi_optimal_pairs_visits_of_the_same_episode_only() -> None:
    """Three episodes of two visits: the mean of three losses, and nothing across."""
    agent = build("quasi_optimal", QUASI, 1)
    whole = make_batch(agent)
    first = {name: getattr(whole, name)[:, :6] for name in ("obs", "act", "reward", "next_obs", "terminated")}
    batch = replace(whole, length=2, **first)
    assert_same(ORACLE, agent, batch, QUASI)
    parts = [
        replace(whole, length=2, **{name: value[:, k : k + 2] for name, value in first.items()})
        for k in (0, 2, 4)
    ]
    mean = np.mean([result(agent, part)["residual"] for part in parts], 0)
    np.testing.assert_allclose(result(agent, batch)["residual"], mean, rtol=1e-12)


def test_quasi_optimal_pairs_visits_of_different_episodes_only() -> None:
    """Three episodes of two visits; the residuals of one of them never meet each other."""
    config = QUASI | {"pairs": "across"}
    agent = build("quasi_optimal", config, 1)
    whole = make_batch(agent)
    first = {name: getattr(whole, name)[:, :6] for name in ("obs", "act", "reward", "next_obs", "terminated")}
    batch = replace(whole, length=2, **first)
    assert_same(ORACLE, agent, batch, config)
    rewards = [first["reward"] + shift * torch.tensor([1.0, 1.0, 0, 0, 0, 0]) for shift in (0.0, 1.0, 2.0)]
    zero, one, two = (np.array(result(agent, replace(batch, reward=r))["residual"]) for r in rewards)
    np.testing.assert_allclose(two - one, one - zero, rtol=1e-9)  # linear: no square of the first episode


def test_pairs_across_episodes_need_two() -> None:
    with pytest.raises(UserError, match="at least 2 episodes"):
        build("quasi_optimal", QUASI | {"pairs": "across", "episodes": 1}, 1)


def test_with_exact_multipliers_the_residual_is_the_temporal_difference() -> None:
    """r + gamma (1 - d) V(s') - Q(s, x), whatever the weights: the conditions hold by themselves."""
    agent: Any = build("quasi_optimal", QUASI | {"value_multiplier": "exact"}, 1)
    batch = make_batch(agent)
    delta, _, dose, here = agent.residual(batch)
    future = agent._solution(agent._scaled_state(batch.next_obs)).value
    difference = batch.reward + 0.9 * (1.0 - batch.terminated) * future - here.q(dose)
    torch.testing.assert_close(delta, difference, rtol=1e-12, atol=1e-12)
    assert bool((here.q(dose) < here.nu).any())
    assert bool((here.q(dose) > here.nu).any())


def visits(obs: list[float], act: list[float], length: int) -> Dataset:
    m = len(obs)
    column = torch.tensor(obs, dtype=torch.float64)[:, None]
    return Dataset(
        obs=torch.cat((column, torch.full_like(column, 7.0)), 1),
        act=torch.tensor(act, dtype=torch.float64)[:, None],
        reward=torch.zeros(m, dtype=torch.float64),
        next_obs=torch.cat((column + 1.0, torch.full_like(column, 7.0)), 1),
        terminated=torch.zeros(m, dtype=torch.float64),
        starts=torch.arange(0, m + 1, length),
        transform=Transform((0.0,) * 2, (1.0,) * 2, (-1.0,), (1.0,)),
    )


def fresh() -> Any:
    return agents.build("quasi_optimal", {}, Problem(2, 1), SEEDS, dtype=torch.float64)


def test_the_scaling_is_taken_from_the_first_data_and_kept() -> None:
    agent = fresh()
    agent.prepare(visits([3.0, -1.0, 2.0, 0.0], [0.5, -0.25, 0.0, 0.1], 2))
    assert agent.obs_low.tolist() == [[-1.0, 7.0]] * 2
    assert agent.obs_high.tolist() == [[4.0, 8.0]] * 2  # the last next state; a constant gets width 1
    assert agent.act_low.tolist() == [[-0.25]] * 2
    assert agent.act_high.tolist() == [[0.5]] * 2
    agent.prepare(visits([30.0, -10.0], [0.9, -0.9], 2))
    assert agent.obs_low.tolist() == [[-1.0, 7.0]] * 2
    loaded = fresh()
    loaded.load_state_dict(agent.state_dict())
    loaded.prepare(visits([30.0, -10.0], [0.9, -0.9], 2))
    assert loaded.act_high.tolist() == [[0.5]] * 2


def test_data_that_cannot_serve_are_refused() -> None:
    with pytest.raises(UserError, match="at least 2"):
        fresh().prepare(visits([0.0, 1.0], [0.0, 0.5], 1))
    with pytest.raises(UserError, match="dose is the same"):
        fresh().prepare(visits([0.0, 1.0], [0.3, 0.3], 2))
    with pytest.raises(UserError, match="one dose dimension"):
        build("quasi_optimal", QUASI, 2)


@pytest.mark.long
def test_the_policy_is_the_density_of_the_equations() -> None:
    """In the agents' unit, at every kind of interval, by the oracle's root finding."""
    agent: Any = scaled(build("quasi_optimal", QUASI, 1), act_low=-0.6, act_high=0.9)
    agent.theta.data[:, 0, 0] += torch.tensor([0.5, 3.0])
    batch = make_batch(agent)
    distribution = agent.requires_grad_(False).policy(batch.obs)
    for seed in range(len(SEEDS)):
        params = seed_params(agent, seed)
        for b, obs in enumerate(batch.obs[seed].numpy()):
            best = quasi_optimal.Best(params, quasi_optimal.scaled_obs(params, obs), QUASI)
            ends = [-0.6 + 1.5 * x for x in (best.low, best.high)]
            support = distribution.base_dist.support
            assert float(support.lower_bound[seed, b, 0]) == pytest.approx(ends[0], abs=1e-7)
            assert float(support.upper_bound[seed, b, 0]) == pytest.approx(ends[1], abs=1e-7)
            for a in np.linspace(ends[0] + 1e-3, ends[1] - 1e-3, 5):
                row = torch.full_like(distribution.mode, float(a))
                density = float(distribution.log_prob(row)[seed, b].exp())
                assert density == pytest.approx(best.density((a + 0.6) / 1.5) / 1.5, rel=1e-7)
