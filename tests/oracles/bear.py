"""Losses of BEAR (Kumar, Fu, Tucker, Levine 2019, arXiv 1906.00949), row by row.

    L_vae = mean D(s, a)                                        D as in ``oracles.spot``
    L_Q   = sum_i mean (r + gamma (1 - d) max_k V(s', tanh y'_k) - Q_i(s, a))^2,  V as in ``oracles.bcq``
    L_pi  = mean [ exp(l) MMD(s) - min_i mean_j Q_i(s, tanh y_j) ]
    L_l   = -exp(l) mean [ MMD(s) - threshold ]

y = mean(s) + sigma(s) eps before tanh, ln sigma within its bounds; MMD(s) is that of the n decoded doses and
the n draws, both before tanh and from noise clipped to +-c. y' has noise that is not clipped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import bcq, spot
from tests.oracles import mlp as nets


def kernel(x: list[float], y: list[float], config: dict[str, Any]) -> float:
    """k(x, y)."""
    power = {"laplacian": 1, "gaussian": 2}[config["kernel"]]
    return math.exp(
        -sum(abs(a - b) ** power for a, b in zip(x, y, strict=True)) / (2.0 * config["kernel_width"])
    )


def discrepancy(left: list[list[float]], right: list[list[float]], config: dict[str, Any]) -> float:
    """MMD of two sets of draws."""

    def between(one: list[list[float]], two: list[list[float]]) -> float:
        return sum(kernel(x, y, config) for x in one for y in two) / (len(one) * len(two))

    return math.sqrt(between(left, left) + between(right, right) - 2.0 * between(left, right) + 1e-6)


def draw(
    params: nets.Arrays, name: str, obs: np.ndarray, noise: list[float], config: dict[str, Any]
) -> list[float]:
    """One draw of the policy ``name`` before tanh."""
    features = nets.mlp(params, f"{name}.trunk", [float(x) for x in obs], trunk=True)
    mean, raw = nets.head(params, f"{name}.loc", features), nets.head(params, f"{name}.scale", features)
    drawn = []
    for m, s, eps in zip(mean, raw, noise, strict=True):
        drawn.append(m + math.exp(min(max(s, config["log_std_min"]), config["log_std_max"])) * eps)
    return drawn


def squashed(raw: list[float]) -> list[float]:
    """tanh of every number."""
    return [math.tanh(x) for x in raw]


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The four losses of one seed, and ``imitation``: the policy's in the updates that leave Q out.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; standard normal noise
            u_vae [B, 1, 2A], u_target [B, N, A], u_latent [B, n, 2A], u_act [B, n, A].
        config: discount, kernel, kernel_width, threshold, noise_clip (c), log_std_min, log_std_max,
            least_weight, vae_beta.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen

    def future(b: int) -> float:
        obs, best = batch["next_obs"][b], -math.inf
        for eps in batch["u_target"][b]:
            act = squashed(draw(frozen, "actor_target", obs, [float(x) for x in eps], config))
            values = bcq.members(frozen, "critic_target.net", obs, act)
            best = max(best, bcq.soft(values, config["least_weight"]))
        return best

    n, most = len(batch["reward"]), config["noise_clip"]
    vae = value = live = held = 0.0
    for b in range(n):
        obs, act = batch["obs"][b], [float(x) for x in batch["act"][b]]
        vae += spot.distance(params, obs, act, batch["u_vae"][b], config) / n
        recorded = []
        for eps in batch["u_latent"][b]:
            row = [float(x) for x in obs] + bcq.clipped(eps, most)
            recorded.append(nets.mlp(frozen, "vae.decoder", row))
        drawn = [draw(params, "actor", obs, bcq.clipped(eps, most), config) for eps in batch["u_act"][b]]
        still = [draw(frozen, "actor", obs, bcq.clipped(eps, most), config) for eps in batch["u_act"][b]]
        live += discrepancy(recorded, drawn, config) / n
        held += discrepancy(recorded, still, config) / n
        each = [bcq.members(frozen, "critic.net", obs, squashed(y)) for y in drawn]
        value += nets.pessimistic([sum(column) / len(each) for column in zip(*each, strict=True)]) / n
    imitation = math.exp(float(frozen["log_multiplier"][0])) * live
    return {
        "vae": vae,
        "critic": bcq.critic_loss(params, batch, config, future),
        "actor": imitation - value,
        "multiplier": -math.exp(float(params["log_multiplier"][0])) * (held - config["threshold"]),
        "imitation": imitation,
    }
