"""Losses of Onestep RL (Brandfonbrener, Whitney, Ranganath, Bruna 2021, arXiv 2106.08909), row by row.

With beta and pi normal distributions truncated to [-1, 1] and Q the smaller of the online critics:

    L_beta     = - mean ln beta(a|s)
    L_Q        = sum_i mean (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2
    exp_weight = - mean min(exp(t (Q(s, a) - mean_k Q(s, b_k))), clip) ln pi(a|s),       b_k ~ beta(.|s)
    reverse_kl = mean [ kappa mean_k (ln pi(p_k|s) - ln beta(p_k|s)) - Q(s, a~) ],       p_k, a~ ~ pi(.|s)

a' is the recorded next dose or, where there is none, a draw of beta at s'.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import mlp as nets
from tests.oracles import policies


def distribution(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the distribution of both policies."""
    return config | {"policy_family": "truncated_normal"}


def worth(params: nets.Arrays, obs: np.ndarray, act: list[float]) -> float:
    """Q(s, a), by the online critics."""
    return nets.pessimistic(nets.action_values(params, "critic.net", obs, act))


def next_act(params: nets.Arrays, batch: nets.Arrays, row: int, config: dict[str, Any]) -> list[float]:
    """a' of one visit."""
    if batch["has_next"][row, 0] > 0.5:
        return [float(x) for x in batch["next_act"][row]]
    noise = batch["u_next_act"][row]
    return policies.sample(params, "behaviour", batch["next_obs"][row], noise, distribution(config))


def critic(params: nets.Arrays, frozen: nets.Arrays, batch: nets.Arrays, config: dict[str, Any]) -> float:
    """L_Q."""
    n = len(batch["reward"])
    total = 0.0
    for b in range(n):
        drawn = next_act(frozen, batch, b, config)
        future = nets.pessimistic(
            nets.action_values(frozen, "critic_target.net", batch["next_obs"][b], drawn)
        )
        target = float(batch["reward"][b])
        target += config["discount"] * (1.0 - float(batch["terminated"][b])) * future
        for q in nets.action_values(params, "critic.net", batch["obs"][b], list(batch["act"][b])):
            total += (target - q) ** 2 / n
    return total


def improvement(
    params: nets.Arrays, frozen: nets.Arrays, batch: nets.Arrays, config: dict[str, Any]
) -> float:
    """exp_weight or reverse_kl."""
    n = len(batch["reward"])
    own = distribution(config)
    total = 0.0
    for b in range(n):
        obs, act, draws = batch["obs"][b], [float(x) for x in batch["act"][b]], batch["u_draws"][b]
        if config["improvement"] == "exp_weight":
            value = 0.0
            for noise in draws:
                drawn = policies.sample(frozen, "behaviour", obs, noise, own)
                value += worth(frozen, obs, drawn) / len(draws)
            advantage = worth(frozen, obs, act) - value
            weight = min(math.exp(config["inverse_temperature"] * advantage), config["weight_clip"])
            total -= weight * policies.log_policy(params, "actor", obs, act, own) / n
            continue
        assert config["improvement"] == "reverse_kl"
        divergence = 0.0
        for noise in draws:
            drawn = policies.sample(params, "actor", obs, noise, own)
            ratio = policies.log_policy(params, "actor", obs, drawn, own)
            ratio -= policies.log_policy(frozen, "behaviour", obs, drawn, own)
            divergence += ratio / len(draws)
        judged = policies.sample(params, "actor", obs, batch["u_act"][b], own)
        total += (config["divergence_weight"] * divergence - worth(frozen, obs, judged)) / n
    return total


def loss(
    name: str,
    params: nets.Arrays,
    batch: nets.Arrays,
    config: dict[str, Any],
    frozen: nets.Arrays | None = None,
) -> dict[str, float]:
    """The loss of one phase of one seed, by its name.

    Args:
        name: behaviour, critic or actor.
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B], next_act [B, A], has_next
            [B, 1]; uniform noise u_next_act [B, A, 1], u_draws [B, N, A, 1] and, for reverse_kl, u_act
            [B, A, 1].
        config: discount, improvement, inverse_temperature (t), weight_clip, divergence_weight (kappa),
            log_std_min, log_std_max.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    if name == "critic":
        return {name: critic(params, frozen, batch, config)}
    if name == "actor":
        return {name: improvement(params, frozen, batch, config)}
    densities = [
        policies.log_policy(params, "behaviour", obs, list(act), distribution(config))
        for obs, act in zip(batch["obs"], batch["act"], strict=True)
    ]
    return {name: -sum(densities) / len(densities)}
