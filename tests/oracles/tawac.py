"""Losses of Tsallis AWAC (Zhu, Shah, Wang, Nagai, White 2025, arXiv 2408.07245), transition by transition.

With Qmin the smaller of the two critics, a bar for targets, every drawn action moved into the box, and
Tsallis' exponential exp_q(x) = [1 + (1 - q) x]_+^(1 / (1 - q)), exp_1 = exp:

    L_V  = mean  1/2 (V(s) - Qbar_min(s, a~))^2,                                          a~ ~ pi(.|s)
    L_Q  = 1/2 sum_i mean  1/2 (r + gamma (1 - d) Qbar_min(s', a') - Q_i(s, a))^2,        a' ~ pi(.|s')
    L_pi = -mean  max(min(exp_q((Q_min(s, a) - V(s)) / tau), clip), floor) ln pi(a|s)

``frozen`` holds the parameters wherever an equation takes no gradient, so that finite differences in
``params`` see the same path as automatic differentiation does.
"""

from __future__ import annotations

import math
from typing import Any

from tests.oracles import mlp as nets
from tests.oracles import policies


def exp_q(x: float, q: float) -> float:
    """Tsallis' exponential: 0 below its threshold for q < 1, infinite beyond its pole for q > 1."""
    if q == 1.0:
        return math.exp(x)
    base = 1.0 + (1.0 - q) * x
    if base > 0.0:
        return float(base ** (1.0 / (1.0 - q)))
    return 0.0 if q < 1.0 else math.inf


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The three losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B] (0 or 1); uniform noise
            u_act of the action at s, u_next_act of the action at s', both [B, A, U].
        config: discount, temperature, q_weight, weight_clip, weight_floor, log_std_min, log_std_max,
            policy_family.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    value = critic = actor = 0.0
    for b in range(n):
        obs, act, next_obs = batch["obs"][b], batch["act"][b], batch["next_obs"][b]
        reward, ended = float(batch["reward"][b]), float(batch["terminated"][b])

        drawn = policies.executed(policies.sample(frozen, "actor", obs, batch["u_act"][b], config))
        baseline = nets.pessimistic(nets.action_values(frozen, "critic_target.net", obs, drawn))
        value += 0.5 * (nets.state_value(params, obs) - baseline) ** 2 / n

        next_act = policies.executed(
            policies.sample(frozen, "actor", next_obs, batch["u_next_act"][b], config)
        )
        ahead = nets.pessimistic(nets.action_values(frozen, "critic_target.net", next_obs, next_act))
        target = reward + config["discount"] * (1.0 - ended) * ahead
        for q in nets.action_values(params, "critic.net", obs, act):
            critic += 0.5 * 0.5 * (target - q) ** 2 / n

        online = nets.pessimistic(nets.action_values(frozen, "critic.net", obs, act))
        advantage = online - nets.state_value(frozen, obs)
        weight = min(exp_q(advantage / config["temperature"], config["q_weight"]), config["weight_clip"])
        weight = max(weight, config["weight_floor"])
        actor -= weight * policies.log_policy(params, "actor", obs, act, config) / n
    return {"value": value, "critic": critic, "actor": actor}
