"""Losses of BCQ (Fujimoto, Meger, Precup 2019, arXiv 1812.02900), row by row.

L_vae = mean D(s, a)                                        D as in ``oracles.spot``
L_Q   = sum_i mean (r + gamma (1 - d) max_k V(s', a'_k) - Q_i(s, a))^2,
        V = w min_j Qbar_j + (1 - w) max_j Qbar_j
L_xi  = -mean Q_1(s, a_1)
a_k   = clip(g_k + phi tanh(net(s, g_k)), -1, 1),  g_k = tanh(decoder(s, clip(eps_k, -c, c)))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles import mlp as nets
from tests.oracles import spot


def clipped(noise: np.ndarray, most: float) -> list[float]:
    """Every number kept within -most and most."""
    return [max(-most, min(most, float(x))) for x in noise]


def members(params: nets.Arrays, name: str, obs: np.ndarray, act: list[float]) -> list[float]:
    """The value of every critic of the ensemble ``name``."""
    row = [float(x) for x in obs] + act
    count = len(params[f"{name}.layers.0.weight"])
    return [nets.mlp(params, name, row, member=i)[0] for i in range(count)]


def soft(values: list[float], weight: float) -> float:
    """Between the least and the greatest value, by the weight of the least."""
    return weight * nets.pessimistic(values) + (1.0 - weight) * max(values)


def perturbed(params: nets.Arrays, name: str, obs: np.ndarray, act: list[float], reach: float) -> list[float]:
    """The dose moved by the network ``name``."""
    moves = nets.mlp(params, name, [float(x) for x in obs] + act)
    return [max(-1.0, min(1.0, a + reach * math.tanh(m))) for a, m in zip(act, moves, strict=True)]


def critic_loss(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], future: Callable[[int], float]
) -> float:
    """``sum_i mean (r + gamma (1 - d) future - Q_i(s, a))^2``, with ``future(row)``."""
    n = len(batch["reward"])
    total = 0.0
    for b in range(n):
        alive = 1.0 - float(batch["terminated"][b])
        target = float(batch["reward"][b]) + config["discount"] * alive * future(b)
        for q in members(params, "critic.net", batch["obs"][b], [float(x) for x in batch["act"][b]]):
            total += (target - q) ** 2 / n
    return total


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The three losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; standard normal noise
            u_vae [B, 1, 2A], u_target [B, N, 2A], u_latent [B, 2A].
        config: discount, reach (phi), least_weight (w), noise_clip (c), vae_beta.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen

    def future(b: int) -> float:
        obs, best = batch["next_obs"][b], -math.inf
        for eps in batch["u_target"][b]:
            act = spot.decoded(frozen, obs, clipped(eps, config["noise_clip"]))
            act = perturbed(frozen, "actor_target.net", obs, act, config["reach"])
            best = max(best, soft(members(frozen, "critic_target.net", obs, act), config["least_weight"]))
        return best

    n = len(batch["reward"])
    vae = value = 0.0
    for b in range(n):
        obs, act = batch["obs"][b], [float(x) for x in batch["act"][b]]
        vae += spot.distance(params, obs, act, batch["u_vae"][b], config) / n
        generated = spot.decoded(frozen, obs, clipped(batch["u_latent"][b], config["noise_clip"]))
        proposed = perturbed(params, "actor.net", obs, generated, config["reach"])
        value += members(frozen, "critic.net", obs, proposed)[0] / n
    return {"vae": vae, "critic": critic_loss(params, batch, config, future), "actor": -value}
