"""Losses of implicit Q-learning (Kostrikov, Nair, Levine 2022, arXiv 2110.06169), transition by transition.

With Qmin the smaller of the two *target* critics at the logged action:

    L_V  = mean  |kappa - 1{u < 0}| u^2,                       u = Qmin(s, a) - V(s)
    L_Q  = sum_i mean  (r + gamma (1 - d) V(s') - Q_i(s, a))^2
    L_pi = -mean  min(exp(beta u), clip) ln pi(a|s)

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
        config: discount, expectile, inverse_temperature, weight_clip, log_std_min, log_std_max,
            policy_family.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    value = critic = actor = 0.0
    for b in range(n):
        obs, act, next_obs = batch["obs"][b], batch["act"][b], batch["next_obs"][b]
        reward, ended = float(batch["reward"][b]), float(batch["terminated"][b])
        q_target = nets.pessimistic(nets.action_values(frozen, "critic_target.net", obs, act))

        gap = q_target - nets.state_value(params, obs)
        value += abs(config["expectile"] - (1.0 if gap < 0.0 else 0.0)) * gap**2 / n

        target = reward + config["discount"] * (1.0 - ended) * nets.state_value(frozen, next_obs)
        for q in nets.action_values(params, "critic.net", obs, act):
            critic += (target - q) ** 2 / n

        advantage = q_target - nets.state_value(frozen, obs)
        weight = min(math.exp(config["inverse_temperature"] * advantage), config["weight_clip"])
        actor -= weight * policies.log_policy(params, "actor", obs, act, config) / n
    return {"value": value, "critic": critic, "actor": actor}
