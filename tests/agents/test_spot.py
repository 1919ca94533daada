"""SPOT: dropout where it belongs, and the density of the recorded doses that the dashboard draws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate

import agents
from dosing.models.batch import Batch
from dosing.types import Problem
from tests.agents.oracle_cases import HIDDEN, N_OBS, SEEDS, Config, build, make_batch, seed_params, seed_rows
from tests.oracles import spot

SPOT: Config = {
    "hidden": HIDDEN,
    "n_samples": 3,
    "dropout": 0.3,
    "vae_steps": 4,
    "vae_hidden": (7, 5),
    "vae_beta": 0.5,
    "actor_every": 2,
}
TURN = 5
"""Number of the first update in which the policy moves."""


def test_dropout_is_in_the_loss_of_the_policy_alone() -> None:
    """Neither training mode nor the batch changes the executed policy or the critics' target."""
    agent = build("spot", SPOT)
    batch = make_batch(agent, TURN)
    other = replace(batch, noise={**batch.noise, "dropout": 1.0 - batch.noise["dropout"]})
    first, second = agent.losses(batch), agent.losses(other)
    assert torch.equal(first["critic"], second["critic"])
    assert bool((first["actor"] != second["actor"]).all())
    assert torch.equal(agent.train().policy(batch.obs).mode, agent.eval().policy(batch.obs).mode)
    assert "dropout" not in build("spot", SPOT | {"dropout": 0.0}).noise(4)


def test_the_expected_dropped_unit_is_the_unit() -> None:
    """A policy that is linear in its last hidden units: dropout changes its output, not its mean."""
    agent: Any = build("spot", SPOT | {"hidden": (400,)}, 1)
    with torch.no_grad():
        for layer in agent.actor.net.layers:
            layer.weight.mul_(0.02)  # small enough for tanh to be linear
    obs = torch.randn(1, 1, N_OBS, dtype=torch.float64).expand(len(SEEDS), 2000, N_OBS)
    u = torch.rand(len(SEEDS), 2000, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dropped = agent._dropped_action(replace(make_batch(agent), obs=obs, noise={"dropout": u}))
    mean, error = dropped.mean((1, 2)), dropped.std((1, 2)) / math.sqrt(2000)
    assert bool((error > 0.0).all())
    assert bool(((mean - agent.actor.action(obs).mean((1, 2))).abs() < 4.0 * error).all())


@pytest.mark.parametrize("n_act", [1, 2])
def test_the_behaviour_density_is_that_of_the_equations(n_act: int) -> None:
    """By the oracle from the same draws; they serve every row, whatever stands beside it."""
    agent: Any = build("spot", SPOT, n_act)
    batch = make_batch(agent)
    density = agent.behaviour_log_density(batch.obs, batch.act, samples=40)
    draws: list[np.ndarray] = []

    def spy(obs: Any, act: Any, noise: torch.Tensor) -> Any:
        draws.append(noise.numpy())
        return forward(obs, act, noise)

    forward, agent.vae.forward = agent.vae.forward, spy
    agent.behaviour_log_density(batch.obs, batch.act, samples=40)
    assert bool((draws[0] == draws[0][:, :1]).all())
    assert draws[0].shape == (len(SEEDS), batch.obs.shape[1], 40, 2 * n_act)
    for seed in range(len(SEEDS)):
        params, rows = seed_params(agent, seed), seed_rows(batch, seed, SPOT)
        wanted = [
            spot.log_density(params, obs, [float(x) for x in act], draws[0][seed, 0], SPOT)
            for obs, act in zip(rows["obs"], rows["act"], strict=True)
        ]
        np.testing.assert_allclose(density[seed], wanted, rtol=1e-9)
    part = agent.behaviour_log_density(batch.obs[:, 2:3], batch.act[:, 2:3], samples=40)
    torch.testing.assert_close(part, density[:, 2:3], rtol=1e-12, atol=1e-12)


def test_the_behaviour_density_integrates_to_one_and_tightens() -> None:
    """Over the whole axis; and more draws raise the estimate on average, the bound being the lowest."""
    agent: Any = build("spot", SPOT, 1)
    with torch.no_grad():
        agent.state_dict()["vae.log_std.bias"].fill_(0.0)
    obs = make_batch(agent).obs[:, :1]
    grid = torch.linspace(-4.0, 4.0, 201, dtype=torch.float64)
    act = grid.view(1, -1, 1).expand(len(SEEDS), -1, -1)
    wide = obs.expand(-1, 201, -1)
    density = agent.behaviour_log_density(wide, act, samples=2000).exp().numpy()
    np.testing.assert_allclose(integrate.simpson(density, grid.numpy()), 1.0, atol=0.03)
    few, many = (agent.behaviour_log_density(wide, act, samples=n).mean(1) for n in (1, 2000))
    assert bool((many > few).all())


def test_the_loss_trains_the_network_that_is_deployed() -> None:
    """With normalised layers and hardly any dropout, the action in the loss is the deployed action."""
    options = {"layer_norm": True, "prior": "constant_dose"}
    config = {"hidden": (8, 8), "vae_hidden": (8, 8), "dropout": 1e-12}
    kind: Any = {"dtype": torch.float64, "regularisation": options}
    agent: Any = agents.build("spot", config, Problem(3, 2), (0, 5), **kind)
    obs = torch.randn(2, 6, 3, dtype=torch.float64)
    noise = {"dropout": torch.full((2, 6, 16), 0.5, dtype=torch.float64)}
    zero = torch.zeros(2, 6, dtype=torch.float64)
    batch = Batch(obs, torch.zeros(2, 6, 2, dtype=torch.float64), zero, obs, zero, noise)
    torch.testing.assert_close(agent._dropped_action(batch), agent.actor.action(obs))
