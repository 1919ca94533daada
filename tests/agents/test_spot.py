"""SPOT: dropout where it belongs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import agents
from benchmarks.experiments.density import log_densities, truth
from dosing.errors import UserError
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


@pytest.mark.long
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


@pytest.mark.parametrize(
    "more",
    [
        {"density": "gaussian", "target_dropout": True},
        {"actor": "squashed_gaussian", "density": "importance"},
        {"actor_learning_rate": 1e-4, "actor_last_bound": 1e-3, "critic_last_bound": 3e-3},
    ],
    ids=str,
)
def test_a_seed_of_a_stack_is_the_seed_alone_whatever_the_options(more: Config) -> None:
    """Weights after updates of every phase, bit by bit but for the products' rounding."""
    config = SPOT | more
    kind: Any = {"dtype": torch.float64}
    stack: Any = agents.build("spot", config, Problem(N_OBS, 2), SEEDS, **kind)
    alone: Any = agents.build("spot", config, Problem(N_OBS, 2), SEEDS[1:], **kind)
    columns = ("obs", "act", "reward", "next_obs", "terminated")
    for step in range(8):
        batch = make_batch(stack, step)
        noise = {name: x[1:] for name, x in batch.noise.items()}
        own = Batch(*(getattr(batch, name)[1:] for name in columns), noise, step=step)
        stack.update(batch)
        alone.update(own)
    state = alone.state_dict()
    for name, x in stack.state_dict().items():
        torch.testing.assert_close(x[1:], state[name], rtol=1e-12, atol=1e-12)


def test_last_layers_of_mazes_start_near_zero() -> None:
    config = SPOT | {"actor_last_bound": 1e-3, "critic_last_bound": 3e-3}
    agent: Any = agents.build("spot", config, Problem(N_OBS, 2), SEEDS)
    for net, bound in ((agent.actor.net, 1e-3), (agent.critic.net, 3e-3)):
        last, hidden = net.layers[-1], net.layers[0]
        for parameter in (last.weight, last.bias):
            assert 0.5 * bound < float(parameter.detach().abs().max()) <= bound
        assert float(hidden.weight.detach().abs().max()) > 0.1
    step = agents.build("spot", SPOT | {"actor_learning_rate": 1e-4}, Problem(N_OBS, 2), SEEDS)
    assert step.optimizers["actor"].param_groups[0]["lr"] == 1e-4
    assert step.optimizers["critic"].param_groups[0]["lr"] == 1e-3


def test_a_bound_of_a_deterministic_policy_is_refused_for_another() -> None:
    with pytest.raises(UserError, match="actor_last_bound is of the deterministic policy"):
        agents.build(
            "spot", SPOT | {"actor": "squashed_gaussian", "actor_last_bound": 1e-3}, Problem(2, 1), (0,)
        )


@pytest.mark.slow
def test_a_wide_decoder_fills_the_gap_between_two_modes() -> None:
    """With beta = 0.5 the empty middle passes for denser than the modes; with 0.05 it does not."""
    dense = log_densities({"density": "elbo", "vae_beta": 0.5}, 300, (0,)).mean(0)
    assert dense[1] > max(dense[0], dense[2])
    sharp = log_densities({"density": "elbo", "vae_beta": 0.05}, 300, (0,)).mean(0)
    assert sharp[1] < min(sharp[0], sharp[2]) - 0.5
    assert truth(0.0) < -11.0
