"""Deterministic policies, and the twin-delayed critic they share (Fujimoto et al. 2018, arXiv 1802.09477)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles import mlp as nets


def act(params: nets.Arrays, name: str, obs: np.ndarray) -> list[float]:
    """The network ``name.net``'s output through tanh, one number per dose dimension."""
    return [math.tanh(x) for x in nets.mlp(params, f"{name}.net", [float(x) for x in obs])]


def smoothed_act(
    params: nets.Arrays,
    obs: np.ndarray,
    noise: np.ndarray,
    config: dict[str, Any],
    next_act: list[float] | None = None,
) -> list[float]:
    """``clip(pi_bar(s') + clip(sigma eps, +-c), +-1)`` per dimension; ``next_act`` is another pi_bar(s')."""
    drawn = []
    for a, eps in zip(next_act or act(params, "actor_target", obs), noise, strict=True):
        shift = config["target_noise"] * float(eps)
        shift = max(-config["noise_clip"], min(config["noise_clip"], shift))
        drawn.append(max(-1.0, min(1.0, a + shift)))
    return drawn


def critic_loss(
    params: nets.Arrays,
    frozen: nets.Arrays,
    batch: nets.Arrays,
    config: dict[str, Any],
    penalty: Callable[[int, list[float]], float] = lambda row, next_act: 0.0,
    values: Callable[..., list[float]] = nets.action_values,
    policy: Callable[[int], list[float]] | None = None,
) -> float:
    """``sum_i mean (r + gamma (1 - d) [min_j Qbar_j(s', a') - penalty] - Q_i(s, a))^2``, a' smoothed."""
    n = len(batch["reward"])
    total = 0.0
    for b in range(n):
        other = None if policy is None else policy(b)
        next_act = smoothed_act(frozen, batch["next_obs"][b], batch["u_target"][b], config, other)
        future = nets.pessimistic(values(frozen, "critic_target.net", batch["next_obs"][b], next_act))
        future -= penalty(b, next_act)
        target = float(batch["reward"][b])
        target += config["discount"] * (1.0 - float(batch["terminated"][b])) * future
        for q in values(params, "critic.net", batch["obs"][b], [float(x) for x in batch["act"][b]]):
            total += (target - q) ** 2 / n
    return total
