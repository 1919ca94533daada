"""Losses of AWAC (Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359), transition by transition.

With Qmin the smaller of the two critics, a bar for targets, and every drawn action moved into the box:

    L_Q  = sum_i mean  (r + gamma (1 - d) Qbar_min(s', a') - Q_i(s, a))^2,            a' ~ pi(.|s')
    L_pi = -mean  w ln pi(a|s),     A = Q_min(s, a) - Q_min(s, a~),                   a~ ~ pi(.|s)
    w = min(exp(A / lambda), clip)     or     w_b = B exp(A_b / lambda) / sum_j exp(A_j / lambda)

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
    """The two losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B] (0 or 1); uniform noise
            u_act of the action at s, u_next_act of the action at s', both [B, A, U].
        config: discount, temperature, weighting ('exp' or 'softmax'), weight_clip, log_std_min, log_std_max,
            policy_family.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    critic = 0.0
    advantages = []
    for b in range(n):
        obs, act, next_obs = batch["obs"][b], batch["act"][b], batch["next_obs"][b]
        reward, ended = float(batch["reward"][b]), float(batch["terminated"][b])

        next_act = policies.executed(
            policies.sample(frozen, "actor", next_obs, batch["u_next_act"][b], config)
        )
        ahead = nets.pessimistic(nets.action_values(frozen, "critic_target.net", next_obs, next_act))
        target = reward + config["discount"] * (1.0 - ended) * ahead
        for q in nets.action_values(params, "critic.net", obs, act):
            critic += (target - q) ** 2 / n

        drawn = policies.executed(policies.sample(frozen, "actor", obs, batch["u_act"][b], config))
        baseline = nets.pessimistic(nets.action_values(frozen, "critic.net", obs, drawn))
        advantages.append(nets.pessimistic(nets.action_values(frozen, "critic.net", obs, act)) - baseline)

    exponentials = [math.exp(a / config["temperature"]) for a in advantages]
    actor = 0.0
    for b in range(n):
        if config["weighting"] == "exp":
            weight = min(exponentials[b], config["weight_clip"])
        elif config["weighting"] == "softmax":
            weight = n * exponentials[b] / sum(exponentials)
        else:
            raise ValueError(config["weighting"])
        actor -= weight * policies.log_policy(params, "actor", batch["obs"][b], batch["act"][b], config) / n
    return {"critic": critic, "actor": actor}
