"""Comparing an agent's losses with equations written out in loops, in value and in gradient.

The comparison is per seed of a stack of two, in double precision, at random weights, with all biases and the
target networks moved away from their initial values. An oracle is a function of one seed's parameters, its
transitions with the uniform noise, and the configuration; see ``losses`` in any module of ``oracles``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.agent import Agent
from dosing.models.batch import Batch
from dosing.rng import draw
from dosing.types import Problem
from tests.oracles import mlp as nets

SEEDS = (3, 11)
N_OBS = 4
N_ROWS = 7
HIDDEN = (8, 6)
RTOL = 1e-9

Config = Mapping[str, Any]


def build(name: str, config: Config, n_act: int = 2) -> Agent:
    """A stack of two seeds whose every parameter, targets included, is shifted by its own random amount."""
    agent = agents.build(name, config, Problem(N_OBS, n_act), SEEDS, dtype=torch.float64)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter += torch.from_numpy(0.25 * rng.standard_normal(parameter.shape))
    return agent


def make_batch(agent: Agent, step: int = 0) -> Batch:
    """Random transitions: two of seven terminal, one action on each edge of the box, no next action in two.

    For an agent that learns from whole episodes they are one; for a sequence agent they are whole windows of
    which the first begins with padding, filled with numbers that may not matter.
    """
    rng = np.random.default_rng(6)
    n_rows = N_ROWS - N_ROWS % agent.context
    shape = (len(SEEDS), n_rows)
    n_act = agent.problem.n_act
    act = rng.uniform(-1.0, 1.0, (*shape, n_act))
    act[:, 0], act[:, 1] = 1.0, -1.0
    terminated = np.zeros(shape)
    terminated[:, 2:4] = 1.0
    noise = {
        name: draw(
            SEEDS, distribution, (1, *rest), (0, number), device=torch.device("cpu"), dtype=torch.float64
        ).squeeze(0)
        for number, (name, (distribution, rest)) in enumerate(agent.noise(n_rows).items())
    }
    obs, reward = rng.standard_normal((*shape, N_OBS)), 2.0 * rng.standard_normal(shape)
    next_obs = rng.standard_normal((*shape, N_OBS))
    has_next = np.ones((*shape, 1))
    has_next[:, 3:5] = 0.0
    extra = {"next_act": rng.uniform(-1.0, 1.0, act.shape) * has_next, "has_next": has_next}
    extra["discounted_return"] = rng.standard_normal((*shape, 1))
    extra["return_to_go"] = rng.standard_normal((*shape, 1))
    extra["time_step"] = np.broadcast_to(2.0 + np.arange(n_rows) % agent.context, shape)[..., None].copy()
    extra["mask"] = np.ones((*shape, 1))
    extra["mask"][:, 0] = 0.0
    return Batch(
        obs=torch.from_numpy(obs),
        act=torch.from_numpy(act),
        reward=torch.from_numpy(reward),
        next_obs=torch.from_numpy(next_obs),
        terminated=torch.from_numpy(terminated),
        noise=noise,
        extra={name: torch.from_numpy(extra[name]) for name in agent.needs},
        step=step,
        length=agent.context if agent.episodes is None else n_rows,
    )


def seed_params(agent: Agent, seed: int) -> nets.Arrays:
    """The parameters of one seed of the stack."""
    return {name: value[seed].numpy().copy() for name, value in agent.state_dict().items()}


def seed_rows(batch: Batch, seed: int, config: Config) -> nets.Arrays:
    """The batch of one seed; the noise called ``x`` is ``u_x``."""
    rows = {
        name: getattr(batch, name)[seed].numpy()
        for name in ("obs", "act", "reward", "next_obs", "terminated")
    }
    rows |= {name: values[seed].numpy() for name, values in batch.extra.items()}
    rows["length"] = np.array(batch.length)
    return rows | {f"u_{name}": values[seed].numpy() for name, values in batch.noise.items()}


@dataclass(frozen=True)
class Oracle:
    """Equations of one agent, and which parameters (by the start of their names) each loss may reach.

    ``step`` is the number of the update whose losses these are, ``n_act`` the dose dimensions of the cases.
    """

    losses: Callable[..., dict[str, float]]
    own: Mapping[str, tuple[str, ...]]
    rows: Callable[[Batch, int, Config], nets.Arrays] = seed_rows
    step: int = 0
    n_act: int = 2

    def expected(self, agent: Agent, batch: Batch, config: Config) -> dict[str, np.ndarray]:
        """The oracle's losses, ``[S]`` each."""
        per_seed = [
            self.losses(seed_params(agent, k), self.rows(batch, k, config), config) for k in range(len(SEEDS))
        ]
        return {key: np.array([losses[key] for losses in per_seed]) for key in per_seed[0]}


def result(agent: Agent, batch: Batch) -> dict[str, np.ndarray]:
    """The agent's losses, ``[S]`` each."""
    return {name: loss.detach().numpy() for name, loss in agent.losses(batch).items()}


def assert_same(oracle: Oracle, agent: Agent, batch: Batch, config: Config) -> None:
    have, want = result(agent, batch), oracle.expected(agent, batch, config)
    assert have.keys() == want.keys()
    for key, values in want.items():
        np.testing.assert_allclose(have[key], values, rtol=RTOL, err_msg=key)


def agrees(oracles: Mapping[str, Oracle], key: str, config: Config, n_act: int = 2) -> None:
    """The losses of both seeds are the oracle's; ``key`` is an agent's name, and a phase after a space."""
    agent = build(key.split()[0], config, n_act)
    assert_same(oracles[key], agent, make_batch(agent, oracles[key].step), config)


def only(
    losses: Callable[..., dict[str, float]], *names: str, **renamed: str
) -> Callable[..., dict[str, float]]:
    """Some of an oracle's losses, those of one phase: by their own names, or by others."""
    wanted = dict(zip(names, names, strict=True)) | renamed

    def chosen(*arguments: Any) -> dict[str, float]:
        every = losses(*arguments)
        return {name: every[source] for name, source in wanted.items()}

    return chosen


def each_case(cases: Sequence[tuple[str, Config]]) -> pytest.MarkDecorator:
    """Parameters ``key`` and ``config`` of a test."""
    ids = [f"{key}-{i}" for i, (key, _) in enumerate(cases)]
    return pytest.mark.parametrize(("key", "config"), cases, ids=ids)


# Mistakes that many equations can have. Each changes one seed's configuration, parameters or rows in place.

Mistake = Callable[[Any, Any, Any, pytest.MonkeyPatch], None]


def each_mistake(mistakes: Sequence[tuple[str, Config, Mistake, set[str]]]) -> pytest.MarkDecorator:
    """Parameters ``key``, ``config``, ``mistake`` and ``reached`` of a test."""
    ids = [f"{key}-{mistake.__name__}" for key, _, mistake, _ in mistakes]
    return pytest.mark.parametrize(("key", "config", "mistake", "reached"), mistakes, ids=ids)


def setting(**changes: Any) -> Mistake:
    """Another value of a setting."""

    def change(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
        config.update(changes)

    change.__name__ = str(changes)
    return change


def discount_sign(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["discount"] *= -1.0


def no_terminal_mask(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["terminated"] = np.zeros_like(rows["terminated"])


def larger_critic(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nets, "pessimistic", max)


def targets_are_online(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for key in [k for k in params if k.startswith("critic.")]:
        params[key.replace("critic.", "critic_target.", 1)] = params[key]


def actor_target_is_online(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for key in [k for k in params if k.startswith("actor.")]:
        params[key.replace("actor.", "actor_target.", 1)] = params[key]


def noise_negated(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_target"] = -rows["u_target"]


def next_act_of_another_episode(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["has_next"] = np.ones_like(rows["has_next"])


def act_for_next_act(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["next_act"] = rows["act"]


def without_tanh(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(math, "tanh", float)


def without_tanh_slope(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(math, "cosh", lambda x: 1.0)


def no_divergence(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["vae_beta"] = 1e-9


def assert_seen(
    oracle: Oracle,
    name: str,
    config: Config,
    mistake: Callable[..., None],
    reached: set[str],
    patch: pytest.MonkeyPatch,
) -> None:
    """An oracle with one mistake disagrees with the agent, in exactly the losses that the mistake reaches."""
    config = dict(config)
    agent = build(name, config, oracle.n_act)
    batch = make_batch(agent, oracle.step)
    have = result(agent, batch)
    params, rows = seed_params(agent, 0), oracle.rows(batch, 0, config)
    mistake(config, params, rows, patch)
    wrong = oracle.losses(params, rows, config)
    differs = {key for key in have if wrong[key] != pytest.approx(have[key][0], rel=1e-4)}
    agrees = {key for key in have if wrong[key] == pytest.approx(have[key][0], rel=RTOL)}
    assert differs == reached
    assert agrees == set(have) - reached


def assert_gradients(oracle: Oracle, name: str, config: Config) -> None:
    """Central differences of the oracle in its live parameters, everything else frozen, against autograd.

    Two entries of every parameter, of the second seed; every loss, so zeros count as well.
    """
    seed, step = 1, 1e-6
    agent = build(name, config, oracle.n_act)
    batch = make_batch(agent, oracle.step)
    rows = oracle.rows(batch, seed, config)
    frozen = seed_params(agent, seed)
    losses = agent.losses(batch)
    named = {key: p for key, p in agent.named_parameters() if p.requires_grad}
    gradients = {
        loss: dict(
            zip(
                named,
                torch.autograd.grad(
                    value[seed], list(named.values()), retain_graph=True, materialize_grads=True
                ),
                strict=True,
            )
        )
        for loss, value in losses.items()
    }
    rng = np.random.default_rng(7)
    moved = dict.fromkeys(losses, 0)
    for key in named:
        size = frozen[key].size
        for index in rng.choice(size, min(2, size), replace=False):
            ends = []
            for sign in (1.0, -1.0):
                live = dict(frozen)
                live[key] = frozen[key].copy()
                live[key].flat[index] += sign * step
                ends.append(oracle.losses(live, rows, config, frozen))
            for loss in losses:
                difference = (ends[0][loss] - ends[1][loss]) / (2.0 * step)
                gradient = float(gradients[loss][key][seed].flatten()[int(index)])
                assert gradient == pytest.approx(difference, rel=1e-5, abs=2e-8), f"{loss} by {key}[{index}]"
                moved[loss] += gradient != 0.0
    for loss, count in moved.items():
        own = sum(p[0].numel() for key, p in named.items() if key.startswith(oracle.own[loss]))
        assert count >= min(4, own), f"too few gradients to compare: {moved}"


def assert_routed(oracle: Oracle, name: str, config: Config) -> None:
    """Each loss moves every parameter of its own network, no other network, and no other seed."""
    agent = build(name, config, oracle.n_act)
    batch = make_batch(agent, oracle.step)
    named = dict(agent.named_parameters())
    for key, parameter in named.items():
        assert parameter.requires_grad == ("_target." not in key), key
    trained = {key: p for key, p in named.items() if p.requires_grad}
    for loss, value in agent.losses(batch).items():
        gradients = torch.autograd.grad(
            value[0], list(trained.values()), allow_unused=True, retain_graph=True
        )
        for key, gradient in zip(trained, gradients, strict=True):
            if key.startswith(oracle.own[loss]):
                assert gradient is not None
                assert bool(gradient[0].any()), f"{loss} leaves {key} without gradient"
                assert not bool(gradient[1].any()), f"{loss} of seed 0 reaches {key} of seed 1"
            else:
                assert gradient is None or not bool(gradient.any()), f"{loss} reaches {key}"


def assert_targets_follow(agent: Agent, batch: Batch) -> None:
    """An update moves every target parameter to 0.3 of the new live one and 0.7 of its own old value.

    The agent's ``target_rate`` is 0.3.
    """
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    agent.update(batch)
    after = agent.state_dict()
    targets = [key for key in after if "_target." in key]
    assert targets
    for key in targets:
        wanted = 0.3 * after[key.replace("_target.", ".")] + 0.7 * before[key]
        torch.testing.assert_close(after[key], wanted, rtol=1e-12, atol=1e-12)
