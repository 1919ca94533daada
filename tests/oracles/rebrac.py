"""Losses of ReBRAC (Tarasov, Kurenkov, Nikulin, Kolesnikov 2023, arXiv 2305.09836), row by row.

    L_Q  = sum_i mean (r + gamma (1 - d) [min_j Qbar_j(s', a') - beta_2 h |a' - a'_D|^2] - Q_i(s, a))^2
    L_pi = mean [ beta_1 |pi(s) - a|^2 - lambda Q_min(s, pi(s)) ],   lambda = 1 / mean |Q_min(s, pi(s))|

a'_D is the recorded next action and h is 1 where there is one. Squared norms are sums over dose dimensions.
The critics normalise the units of every hidden layer after its ReLU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.oracles import deterministic
from tests.oracles import mlp as nets


def action_values(params: nets.Arrays, name: str, obs: np.ndarray, act: list[float]) -> list[float]:
    """``[Q_1(s, a), Q_2(s, a)]`` of twin critics with layer normalisation behind every ReLU."""
    values = []
    for member in range(2):
        row = [float(x) for x in obs] + [float(x) for x in act]
        layer = 0
        while f"{name}.layers.{layer + 1}.weight" in params:
            weight, bias = params[f"{name}.layers.{layer}.weight"], params[f"{name}.layers.{layer}.bias"]
            row = nets.relu(nets.affine(weight[member], bias[member], row))
            if f"{name}.norms.{layer}.weight" in params:
                row = nets.normalised(
                    params[f"{name}.norms.{layer}.weight"][member],
                    params[f"{name}.norms.{layer}.bias"][member],
                    row,
                )
            layer += 1
        weight, bias = params[f"{name}.layers.{layer}.weight"], params[f"{name}.layers.{layer}.bias"]
        (q,) = nets.affine(weight[member], bias[member], row)
        values.append(q)
    return values


def distance(a: list[float], b: np.ndarray) -> float:
    """Squared Euclidean distance."""
    return sum((x - float(y)) ** 2 for x, y in zip(a, b, strict=True))


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The two losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; next_act [B, A] and
            has_next [B, 1]; standard normal noise u_target [B, A].
        config: discount, target_noise, noise_clip, actor_penalty (beta_1), critic_penalty (beta_2),
            normalise_q.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])

    def penalty(row: int, next_act: list[float]) -> float:
        known = float(batch["has_next"][row, 0])
        return float(config["critic_penalty"]) * known * distance(next_act, batch["next_act"][row])

    size = total = value = 0.0
    for b in range(n):
        obs = batch["obs"][b]
        current = deterministic.act(frozen, "actor", obs)
        size += abs(nets.pessimistic(action_values(frozen, "critic.net", obs, current)))
        proposed = deterministic.act(params, "actor", obs)
        value += nets.pessimistic(action_values(frozen, "critic.net", obs, proposed)) / n
        total += config["actor_penalty"] * distance(proposed, batch["act"][b]) / n
    scale = 1.0 / (size / n) if config["normalise_q"] else 1.0
    return {
        "critic": deterministic.critic_loss(params, frozen, batch, config, penalty, action_values),
        "actor": total - scale * value,
    }
