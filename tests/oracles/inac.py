"""Losses of InAC (Xiao, Wang, Pan, White, White 2023, arXiv 2302.14372), transition by transition.

With Qmin the smaller of the two critics and a bar for targets. Actions a~, a' are drawn from pi; the critics
see them as executed, moved into the box, while ln pi is taken where they were drawn:

    L_b  = -mean  ln pi_b(a|s)
    L_V  = mean  1/2 (V(s) - (Qbar_min(s, a~) - tau ln pi(a~|s)))^2,                      a~ ~ pi(.|s)
    L_Q  = 1/2 sum_i mean  1/2 (y - Q_i(s, a))^2,
           y = r + gamma (1 - d) (Qbar_min(s', a') - tau ln pi(a'|s')),                   a' ~ pi(.|s')
    L_pi = -mean  min(exp((Q_min(s, a) - V(s)) / tau - ln pi_b(a|s)), clip) ln pi(a|s)

``frozen`` holds the parameters wherever an equation takes no gradient, so that finite differences in
``params`` see the same path as automatic differentiation does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import mlp as nets
from tests.oracles import policies


def soft_value(params: nets.Arrays, obs: np.ndarray, uniform: np.ndarray, config: dict[str, Any]) -> float:
    """``Qbar_min(s, a) - tau ln pi(a|s)`` at the action that the noise draws."""
    drawn = policies.sample(params, "actor", obs, uniform, config)
    q = nets.pessimistic(nets.action_values(params, "critic_target.net", obs, policies.executed(drawn)))
    return q - float(config["temperature"]) * policies.log_policy(params, "actor", obs, drawn, config)


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The four losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B] (0 or 1); uniform noise
            u_act of the action at s, u_next_act of the action at s', both [B, A, U].
        config: discount, temperature, weight_clip, log_std_min, log_std_max, policy_family.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    behaviour = value = critic = actor = 0.0
    for b in range(n):
        obs, act, next_obs = batch["obs"][b], batch["act"][b], batch["next_obs"][b]
        reward, ended = float(batch["reward"][b]), float(batch["terminated"][b])
        behaviour -= policies.log_policy(params, "behaviour", obs, act, config) / n

        gap = nets.state_value(params, obs) - soft_value(frozen, obs, batch["u_act"][b], config)
        value += 0.5 * gap**2 / n

        ahead = soft_value(frozen, next_obs, batch["u_next_act"][b], config)
        target = reward + config["discount"] * (1.0 - ended) * ahead
        for q in nets.action_values(params, "critic.net", obs, act):
            critic += 0.5 * 0.5 * (target - q) ** 2 / n

        online = nets.pessimistic(nets.action_values(frozen, "critic.net", obs, act))
        advantage = online - nets.state_value(frozen, obs)
        log_behaviour = policies.log_policy(frozen, "behaviour", obs, act, config)
        weight = min(math.exp(advantage / config["temperature"] - log_behaviour), config["weight_clip"])
        actor -= weight * policies.log_policy(params, "actor", obs, act, config) / n
    return {"behaviour": behaviour, "value": value, "critic": critic, "actor": actor}
