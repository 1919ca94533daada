"""Losses of sparse Q-learning (Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv 2303.15810), by row.

With Qbar_min the smaller of the two *target* critics at the logged action:

    L_V  = mean  1{u > 0} u^2 + V(s) / alpha,        u = 1 + (Qbar_min(s, a) - V(s)) / (2 alpha)
    L_Q  = sum_i mean  (r + gamma (1 - d) V(s') - Q_i(s, a))^2
    L_pi = -mean  min(w, clip) ln pi(a|s),           w = [u]_+  (derived)  or  [Qbar_min - V]_+  (released)

``frozen`` holds the parameters wherever an equation takes no gradient, so that finite differences in
``params`` see the same path as automatic differentiation does.
"""

from __future__ import annotations

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
        config: discount, alpha, actor_weight ('derived' or 'released'), weight_clip, log_std_min,
            log_std_max, policy_family.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    alpha = config["alpha"]
    n = len(batch["reward"])
    value = critic = actor = 0.0
    for b in range(n):
        obs, act, next_obs = batch["obs"][b], batch["act"][b], batch["next_obs"][b]
        reward, ended = float(batch["reward"][b]), float(batch["terminated"][b])
        q_target = nets.pessimistic(nets.action_values(frozen, "critic_target.net", obs, act))

        v = nets.state_value(params, obs)
        u = 1.0 + (q_target - v) / (2.0 * alpha)
        value += ((u**2 if u > 0.0 else 0.0) + v / alpha) / n

        target = reward + config["discount"] * (1.0 - ended) * nets.state_value(frozen, next_obs)
        for q in nets.action_values(params, "critic.net", obs, act):
            critic += (target - q) ** 2 / n

        advantage = q_target - nets.state_value(frozen, obs)
        if config["actor_weight"] == "derived":
            weight = 1.0 + advantage / (2.0 * alpha)
        elif config["actor_weight"] == "released":
            weight = advantage
        else:
            raise ValueError(config["actor_weight"])
        weight = min(max(weight, 0.0), config["weight_clip"])
        actor -= weight * policies.log_policy(params, "actor", obs, act, config) / n
    return {"value": value, "critic": critic, "actor": actor}
