"""Losses of PLAS (Zhou, Bajracharya, Held 2020, arXiv 2011.07213), row by row.

L_vae = mean D(s, a)                                        D as in ``oracles.spot``
pi(s) = tanh(decoder(s, c tanh(h(s)))), moved as in ``oracles.bcq`` where phi is above 0
L_Q   = sum_i mean (r + gamma (1 - d) V(s', pi_bar(s')) - Q_i(s, a))^2,  V as in ``oracles.bcq``
L_pi  = -mean Q_1(s, pi(s))
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import bcq, spot
from tests.oracles import mlp as nets


def dose(
    params: nets.Arrays, frozen: nets.Arrays, name: str, obs: np.ndarray, config: dict[str, Any]
) -> list[float]:
    """The dose of the policy ``name``, with the decoder's parameters from ``frozen``."""
    latent = nets.mlp(params, f"{name}.net", [float(x) for x in obs])
    act = spot.decoded(frozen, obs, [config["largest_latent"] * math.tanh(x) for x in latent])
    return bcq.perturbed(params, f"{name}.move.net", obs, act, config["reach"]) if config["reach"] else act


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The three losses of one seed, of which an update takes those of its phase.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; standard normal noise
            u_vae [B, 1, 2A].
        config: discount, largest_latent (c), reach (phi), least_weight, vae_beta.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen

    def future(b: int) -> float:
        obs = batch["next_obs"][b]
        act = dose(frozen, frozen, "actor_target", obs, config)
        return bcq.soft(bcq.members(frozen, "critic_target.net", obs, act), config["least_weight"])

    n = len(batch["reward"])
    vae = value = 0.0
    for b in range(n):
        obs, act = batch["obs"][b], [float(x) for x in batch["act"][b]]
        vae += spot.distance(params, obs, act, batch["u_vae"][b], config) / n
        proposed = dose(params, frozen, "actor", obs, config)
        value += bcq.members(frozen, "critic.net", obs, proposed)[0] / n
    return {"vae": vae, "critic": bcq.critic_loss(params, batch, config, future), "actor": -value}
