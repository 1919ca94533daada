"""SPOT: dropout where it belongs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

import agents
from dosing.models.batch import Batch
from dosing.types import Problem
from tests.agents.oracle_cases import HIDDEN, N_OBS, SEEDS, Config, build, make_batch

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
    dropped = agent._proposed(replace(make_batch(agent), obs=obs, noise={"dropout": u}))[0]
    mean, error = dropped.mean((1, 2)), dropped.std((1, 2)) / math.sqrt(2000)
    assert bool((error > 0.0).all())
    assert bool(((mean - agent.actor.action(obs).mean((1, 2))).abs() < 4.0 * error).all())


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
    torch.testing.assert_close(agent._proposed(batch)[0], agent.actor.action(obs))
