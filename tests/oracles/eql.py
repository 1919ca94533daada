"""Losses of exponential Q-learning (Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv 2303.15810), by row.

With Qbar_min the smaller of the two *target* critics at the logged action and x = (Qbar_min - V(s)) / alpha:

    L_V  = mean  e^(-M) (E(x) + V(s) / alpha),         M = max(-1, max_b min(x_b, c)), a constant
           E(x) = e^x up to the clip c, beyond it e^c (1 + x - c)  (line)  or  e^c  (flat)
    L_Q  = sum_i mean  (r + gamma (1 - d) V(s') - Q_i(s, a))^2
    L_pi = -mean  min(e^(k x), clip) ln pi(a|s),       k = 1  (derived)  or  10  (released)

``frozen`` holds the parameters wherever an equation takes no gradient, so that finite differences in
``params`` see the same path as automatic differentiation does.
"""

from __future__ import annotations

import math
from typing import Any

from tests.oracles import mlp as nets
from tests.oracles import policies


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The three losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B] (0 or 1).
        config: discount, alpha, max_clip, beyond_clip ('line' or 'flat'), actor_weight ('derived' or
            'released'), weight_clip, log_std_min, log_std_max, policy_family.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    alpha, clip = config["alpha"], config["max_clip"]
    n = len(batch["reward"])
    q_targets = [
        nets.pessimistic(nets.action_values(frozen, "critic_target.net", batch["obs"][b], batch["act"][b]))
        for b in range(n)
    ]
    fixed = [(q_targets[b] - nets.state_value(frozen, batch["obs"][b])) / alpha for b in range(n)]
    largest = max([-1.0] + [min(x, clip) for x in fixed])

    value = critic = actor = 0.0
    for b in range(n):
        obs, act, next_obs = batch["obs"][b], batch["act"][b], batch["next_obs"][b]
        reward, ended = float(batch["reward"][b]), float(batch["terminated"][b])

        v = nets.state_value(params, obs)
        x = (q_targets[b] - v) / alpha
        if x <= clip:
            exponential = math.exp(x)
        elif config["beyond_clip"] == "line":
            exponential = math.exp(clip) * (1.0 + x - clip)
        elif config["beyond_clip"] == "flat":
            exponential = math.exp(clip)
        else:
            raise ValueError(config["beyond_clip"])
        value += math.exp(-largest) * (exponential + v / alpha) / n

        target = reward + config["discount"] * (1.0 - ended) * nets.state_value(frozen, next_obs)
        for q in nets.action_values(params, "critic.net", obs, act):
            critic += (target - q) ** 2 / n

        factor = {"derived": 1.0, "released": 10.0}[config["actor_weight"]]
        weight = min(math.exp(factor * fixed[b]), config["weight_clip"])
        actor -= weight * policies.log_policy(params, "actor", obs, act, config) / n
    return {"value": value, "critic": critic, "actor": actor}
