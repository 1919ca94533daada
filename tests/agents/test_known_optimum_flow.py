"""FQL, IFQL, FAN and its ablations reach solutions that follow from their equations.

Most tests put known functions in the place of some networks, so that the optimum of the others is a formula;
the last train whole agents.
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
from torch import Tensor, nn

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.models.batch import Batch
from dosing.models.flows import DRAWS, euler, points
from dosing.types import Problem
from tests.agents.bandit import BEST, OBS, SEEDS, bandit, reward, trained

# Known functions

MEAN, WIDTH = -0.1, 0.2
"""The behaviour: doses from N(MEAN, WIDTH^2)."""


def slope(time: Tensor) -> Tensor:
    """g(t): how the velocity of the flow from N(0, 1) to N(MEAN, WIDTH^2) changes with x."""
    return (time * WIDTH**2 - (1.0 - time)) / ((1.0 - time).square() + (time * WIDTH).square())


class Behaviour(nn.Module):
    """The exact velocity E[a - x_0 | x_t = x] of that flow, in every dimension."""

    def forward(self, obs: Tensor, x: Tensor, time: Tensor) -> Tensor:
        velocity: Tensor = MEAN + slope(time) * (x - time * MEAN)
        return velocity


class Worth(nn.Module):
    """Two critics that know the reward, summed over dimensions, whatever the state and the noise."""

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        worth: Tensor = -(act - BEST).square().sum(-1)
        return worth.unsqueeze(1).expand(-1, 2, -1)

    def pessimistic(self, obs: Tensor, act: Tensor) -> Tensor:
        values: Tensor = self(obs, act)
        return values.amin(1)


def rows(agent: Agent, noise: dict[str, Tensor], **columns: Any) -> Batch:
    """A batch of the same rows for both seeds; ``noise [B, width]`` where it matters, else 0."""
    count = len(next(iter(noise.values())))
    zeros = {name: torch.zeros(*plan.shape).double() for name, plan in agent.noise(count).items()}
    both = {name: x.double().expand(2, *x.shape) for name, x in (zeros | noise).items()}
    obs, act = torch.zeros(count, 1), torch.zeros(count, agent.problem.n_act)
    result = {"obs": obs, "act": act, "reward": obs[:, 0], "next_obs": obs, "terminated": obs[:, 0]} | columns
    extra = {"next_act": torch.zeros(2, *act.shape).double(), "has_next": torch.ones(2, count, 1).double()}
    return Batch(
        **{name: x.double().expand(2, *x.shape) for name, x in result.items()}, noise=both, extra=extra
    )


def minimised(agent: Agent, network: str, batch: Batch, loss: str) -> None:
    """Bring one network to the least of one loss on the batch, by a quasi-Newton method."""
    parameters = list(getattr(agent, network).parameters())
    optimizer = torch.optim.LBFGS(parameters, max_iter=300, line_search_fn="strong_wolfe")

    def total() -> Tensor:
        optimizer.zero_grad()
        value = agent.losses(batch)[loss].sum()
        value.backward(inputs=parameters)
        return value.detach()

    optimizer.step(total)


def built(name: str, config: dict[str, Any], n_act: int = 1) -> Any:
    """A small agent of two seeds in double precision."""
    settings: dict[str, Any] = {"hidden": (8, 8), "layer_norm": False} | config
    return agents.build(name, settings, Problem(1, n_act), (0, 1), dtype=torch.float64)


def grid(doses: int, times: int, n_act: int = 1) -> tuple[Tensor, Tensor]:
    """Noise at the middle of equal parts of N(0, 1), each with every time: ``[B, n_act]``, ``[B, 1]``."""
    noise = torch.from_numpy(stats.norm.ppf((np.arange(doses) + 0.5) / doses))
    time = (torch.arange(times).double() + 0.5) / times
    eps = torch.stack([noise, *[noise.flip(0)] * (n_act - 1)], -1)
    return eps.repeat_interleave(times, 0), time.repeat(doses).unsqueeze(-1)


# The policy, where flow and critics are known


@pytest.mark.long
@pytest.mark.parametrize("n_act", [1, 2])
@pytest.mark.parametrize(
    ("name", "values"), [("fql", 1.0), ("nfql", 2.0), ("fan", 2.0), ("faql", 1.0), ("nbrac", 2.0)]
)
def test_the_policy_reaches_the_balance_of_imitation_and_value(name: str, values: float, n_act: int) -> None:
    """Every loss is a parabola in the dose at each noise; ``values`` is how often the reward counts.

    FAN: with x = (1 - u) eps + u f, f - eps - v(x, u) = (f - m) (1 - g u) - eps (1 + g (1 - u)).
    """
    alpha = 0.8
    agent = built(name, {"alpha" if name == "fql" else "actor_penalty": alpha}, n_act)
    agent.flow = Behaviour()
    agent.critic = agent.critic_target = agent.upper = Worth()
    eps, time = grid(12, 8, n_act)
    recorded = torch.full_like(eps, MEAN)
    batch = rows(agent, {"dose": eps, "dose_time": time} if "fa" in name else {"dose": eps}, act=recorded)
    minimised(agent, "actor", batch, "actor")
    result = agent.actor(batch.obs, batch.noise["dose"])[1].detach()

    a, b = 1.0 - slope(time) * time, 1.0 + slope(time) * (1.0 - time)
    weight, aim = {
        "fql": (1.0, euler(Behaviour(), eps, eps, 10)),
        "nfql": (1.0, euler(Behaviour(), eps, eps, 10)),
        "fan": (float(a.square().mean()), MEAN + eps * (a * b).mean() / a.square().mean()),
        "faql": (float(a.square().mean()), MEAN + eps * (a * b).mean() / a.square().mean()),
        "nbrac": (float(n_act), recorded),  # a sum over dimensions
    }[name]
    pull = alpha * weight / n_act
    wanted = (pull * aim + values * BEST) / (pull + values)
    np.testing.assert_allclose(result, wanted, atol=2e-3)
    assert float(wanted.abs().max()) < 1.0


@pytest.mark.long
@pytest.mark.parametrize("name", ["fql", "nfql"])
def test_a_large_alpha_reproduces_the_behaviour_and_a_small_one_the_best_dose(name: str) -> None:
    key = "alpha" if name == "fql" else "actor_penalty"
    eps, _ = grid(32, 1)
    flow = euler(Behaviour(), eps, eps, 10)
    assert float(flow.mean()) == pytest.approx(MEAN, abs=0.01)
    assert 0.75 * WIDTH < float(flow.std()) < 0.8 * WIDTH  # ten steps narrow the distribution, by themselves
    for alpha, mean, width in ((1e3, float(flow.mean()), float(flow.std())), (1e-3, BEST, 0.0)):
        agent = built(name, {key: alpha})
        agent.flow = Behaviour()
        agent.critic = agent.critic_target = agent.upper = Worth()
        minimised(agent, "actor", rows(agent, {"dose": eps}), "actor")
        distribution: Any = agent.policy(torch.zeros(2, 1, 1).double()).base_dist
        np.testing.assert_allclose(distribution.mean.detach(), mean, atol=5e-3)
        np.testing.assert_allclose(distribution.variance.detach().sqrt(), width, atol=5e-3)


# The critics, where the policy is known


class Wide(nn.Module):
    """A policy that gives a part of its noise."""

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        return 0.4 * noise


@pytest.mark.long
@pytest.mark.parametrize(("name", "charged"), [("fan", 0.0), ("fan", 0.5), ("nbrac", 0.5), ("nfql", 0.0)])
def test_the_critic_learns_what_the_next_visit_is_worth_given_its_noise(name: str, charged: float) -> None:
    """Q(s, a, eps) is gamma (worth of the dose at eps - alpha_2 b); noise of the reward leaves no trace."""
    agent = built(name, {"hidden": (16, 16)} | ({} if name == "nfql" else {"critic_penalty": charged}))
    agent.actor, agent.flow, agent.upper = Wide(), Behaviour(), Worth()
    eps, _ = grid(32, 1)
    eps = eps.repeat(2, 1)
    luck = torch.tensor([1.0, -1.0]).repeat_interleave(32)
    half = torch.full_like(eps, 0.5)
    noise = {"next": eps, "next_time": half} if name == "fan" else {"next": eps}
    minimised(agent, "critic", rows(agent, noise, reward=luck), "critic")

    dose = 0.4 * eps  # inside the box
    away = {
        "fan": dose - eps - Behaviour()(eps, 0.5 * eps + 0.5 * dose, half),
        "nbrac": dose,  # from a recorded next dose of 0
        "nfql": torch.zeros_like(dose),
    }[name]
    wanted = 0.9 * (-(dose - BEST).square() - charged * away.square()).squeeze(-1)
    state = torch.cat((torch.zeros_like(eps), eps), -1).expand(2, -1, -1)
    result = agent.critic(state, torch.zeros_like(eps).expand(2, -1, -1)).detach()
    np.testing.assert_allclose(result, wanted.expand_as(result), atol=0.03)


class Told(nn.Module):
    """Two critics, of which one gives twice the noise and the other nothing."""

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        return torch.stack((2.0 * obs[..., -1], torch.zeros_like(obs[..., -1])), 1)


@pytest.mark.parametrize("expectile", [0.9, 0.5, 0.2])
def test_z_is_the_expectile_over_the_noise(expectile: float) -> None:
    """Of the critics' mean, here N(0, 1); below one half it is less than the mean."""
    agent = built("fan", {"expectile": expectile})
    agent.critic_target = Told()
    eps, _ = grid(400, 1)
    batch = rows(agent, {"upper": eps})
    minimised(agent, "upper", batch, "upper")
    result = agent.upper(batch.obs[:, :1], batch.act[:, :1]).detach().numpy()

    def balance(z: float) -> float:
        above = np.clip(eps.numpy() - z, 0.0, None).mean()
        below = np.clip(z - eps.numpy(), 0.0, None).mean()
        return float(expectile * above - (1.0 - expectile) * below)

    np.testing.assert_allclose(result, brentq(balance, -3.0, 3.0), atol=1e-4)


# The flow and IFQL


def flow_of(recorded: np.ndarray) -> Any:
    """IFQL with the flow of these doses, fitted at the noise and the times at which its distribution looks
    it up."""
    agent = built("ifql", {"hidden": (16, 16)})
    agent.critic = agent.critic_target = Worth()
    noise, times = points(DRAWS, 1, torch.zeros(0).double()).flatten(), torch.arange(10).double() / 10.0
    every = torch.cartesian_prod(noise, torch.from_numpy(recorded), times)
    start, act, time = every.split(1, -1)
    minimised(agent, "flow", rows(agent, {"start": start, "time": time}, act=act), "flow")
    return agent.policy(torch.zeros(2, 1, 1).double()).base_dist


@pytest.mark.long
def test_a_flow_ends_where_every_recorded_dose_is() -> None:
    np.testing.assert_allclose(flow_of(np.array([0.4])).values.detach(), 0.4, atol=0.02)


@pytest.mark.long
def test_a_flow_finds_both_modes_and_ifql_chooses_the_better() -> None:
    """Two recorded doses, of which one is the best: half of the draws lie on each side of the middle.

    A smooth flow ends between them for some noise; the reward falls off on both sides of the best, so that no
    such draw is better than the mode itself. Before it is fitted, a flow ends near one of them in 15 of 100.
    """
    distribution = flow_of(np.array([-0.5, BEST]))
    low, high = (distribution.values + 0.5).abs() < 0.1, (distribution.values - BEST).abs() < 0.1
    above = distribution.values > 0.5 * (BEST - 0.5)
    np.testing.assert_allclose(above.double().mean((1, 2, 3)), 0.5, atol=0.1)
    assert float((low | high).double().mean((1, 2, 3)).min()) > 0.7
    assert float(torch.stack((low, high)).double().mean((2, 3, 4)).min()) > 0.3
    assert bool(((distribution.mode - BEST).abs() < 0.1).all())
    assert float((distribution.weights * high).sum(-1).detach().min()) > 0.99


def test_ifql_values_a_state_by_the_expectile_of_its_rewards() -> None:
    agent = built("ifql", {"expectile": 0.8})
    agent.critic_target = Worth()
    act = torch.linspace(-1.0, 1.0, 101).double().unsqueeze(-1)
    batch = rows(agent, {"start": act}, act=act)
    minimised(agent, "value", batch, "value")
    worth = -((act.numpy() - BEST) ** 2)

    def balance(v: float) -> float:
        above, below = np.clip(worth - v, 0.0, None), np.clip(v - worth, 0.0, None)
        return float(0.8 * above.mean() - 0.2 * below.mean())

    result = agent.value(batch.obs[:, :1]).detach()
    np.testing.assert_allclose(result, brentq(balance, -2.0, 0.0), atol=1e-4)


# Whole agents


def draws(agent: Agent, obs: Tensor) -> Any:
    """The draws of one dose at ``obs``, ``[S, B, M]``."""
    with torch.no_grad():
        distribution: Any = agent.policy(obs)
    return distribution.base_dist.values[..., 0, :].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "values"), [("fql", 1.0), ("nfql", 2.0), ("nbrac", 2.0)])
def test_a_trained_agent_reaches_the_balance(name: str, values: float) -> None:
    """Doses uniform on [-1, 1] drawn towards 0.3; NBRAC's all to one, since it imitates their mean."""
    config = {"alpha" if name == "fql" else "actor_penalty": values, "learning_rate": 3e-3}
    result = draws(trained(name, config, bandit(), 1500), OBS)
    np.testing.assert_allclose(result.mean((1, 2)), 0.5 * BEST, atol=0.05)
    spread = 0.0 if name == "nbrac" else 0.5 / math.sqrt(3.0)
    np.testing.assert_allclose(result.std(2).mean(1), spread, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("expectile", [0.9, 0.2])
def test_fan_values_a_visit_by_the_expectile_over_its_next_draw(expectile: float) -> None:
    """Two visits, of which the second alone pays: the first is worth an expectile of the policy's draws."""
    config = {"expectile": expectile, "actor_penalty": 20.0, "learning_rate": 3e-3}
    agent: Any = trained("fan", config, two_visits(), 1500)
    first, second = (torch.full((len(SEEDS), 1, 1), float(at)) for at in (-1, 1))
    worth = 0.9 * reward(draws(agent, second)[:, 0])  # [S, M]
    with torch.no_grad():
        z = agent.upper(first, torch.zeros_like(first))[..., 0].numpy()  # [S, E]
        told = agent.noise_values(first, torch.zeros_like(first))[:, 0].numpy()  # [S, M]

    def balance(v: float, seed: int) -> float:
        above, below = np.clip(worth[seed] - v, 0.0, None), np.clip(v - worth[seed], 0.0, None)
        return float(expectile * above.mean() - (1.0 - expectile) * below.mean())

    wanted = np.array([[brentq(balance, -2.0, 1.0, args=(seed,))] for seed in range(len(SEEDS))])
    np.testing.assert_allclose(z, wanted.repeat(2, 1), atol=0.1)
    assert z.mean() == pytest.approx(wanted.mean(), abs=0.05)
    for seed in range(len(SEEDS)):
        assert np.corrcoef(told[seed], worth[seed])[0, 1] > 0.9
        assert told[seed].std() < 1.5 * worth[seed].std()  # the luck of the second visit does not widen it


def two_visits() -> Dataset:
    """Episodes of two visits told apart by the observation; the second pays by its dose, with noise."""
    data = bandit()
    second = torch.arange(len(data)) % 2 == 1
    act = data.act[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))]
    luck = torch.from_numpy(np.random.default_rng(0).choice([-0.5, 0.5], len(data))).float()
    obs = torch.where(second, 1.0, -1.0)[:, None]
    return replace(
        data,
        obs=obs,
        next_obs=torch.ones_like(obs),
        act=act,
        reward=second * (reward(act[:, 0]) + luck),
        terminated=second.float(),
        starts=torch.arange(0, len(data) + 1, 2),
    )
