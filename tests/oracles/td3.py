"""Losses of TD3 (Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477), row by row.

    L_Q  = sum_i mean (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2
    L_pi = - mean Q_1(s, pi(s))

``frozen`` holds the parameters wherever an equation takes no gradient.
"""

from __future__ import annotations

from typing import Any

from tests.oracles import deterministic
from tests.oracles import mlp as nets


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The two losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; standard normal noise
            u_target [B, A].
        config: discount, target_noise, noise_clip.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    value = 0.0
    for b in range(n):
        obs = batch["obs"][b]
        proposed = deterministic.act(params, "actor", obs)
        value += nets.action_values(frozen, "critic.net", obs, proposed)[0] / n
    return {"critic": deterministic.critic_loss(params, frozen, batch, config), "actor": -value}
