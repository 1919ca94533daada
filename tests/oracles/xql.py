"""Losses of extreme Q-learning (Garg, Hejna, Geist, Ermon 2023, arXiv 2301.02328), row by row.

With Qbar_min the smaller of the two *target* critics and z = (Qbar_min(s, a) - V(s)) / beta at the actions of
the value batch:

    L_V  = mean  e^(-M) (E(z) - z - 1),                M = max(-1, max_b min(z_b, c)), a constant   (rescaled)
           or  ln mean (E(z) - z)                                                                        (log)
           E(z) = e^z up to the clip c, beyond it e^c (1 + z - c)  (line);  flat: min(z, c) for every z above
    L_Q  = sum_i mean  H(r + gamma (1 - d) V(s') - Q_i(s, a)),   H(x) = x^2/2 up to delta, then a line (Huber)
    L_pi = -mean  min(exp(t (Qbar_min(s, a) - V(s))), clip) ln pi(a|s)

The value batch holds the logged actions, each moved by clip(sigma * normal, +-1/2) and kept in the box, and
beside every one of them k actions uniform in the box.

``frozen`` holds the parameters wherever an equation takes no gradient, so that finite differences in
``params`` see the same path as automatic differentiation does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import mlp as nets
from tests.oracles import policies


def huber(x: float, delta: float) -> float:
    """``x^2 / 2`` where |x| <= delta, ``delta (|x| - delta / 2)`` beyond."""
    return 0.5 * x**2 if abs(x) <= delta else delta * (abs(x) - 0.5 * delta)


def value_batch(batch: nets.Arrays, config: dict[str, Any]) -> list[tuple[np.ndarray, list[float]]]:
    """State and action of every term of the value loss."""
    rows = []
    for b in range(len(batch["reward"])):
        obs, act = batch["obs"][b], [float(a) for a in batch["act"][b]]
        if config["action_noise"] > 0.0:
            for i, normal in enumerate(batch["u_action_noise"][b]):
                act[i] += min(max(config["action_noise"] * float(normal), -0.5), 0.5)
        rows.append((obs, policies.executed(act)))
        for k in range(config["random_actions"]):
            rows.append((obs, [2.0 * float(u) - 1.0 for u in batch["u_random_act"][b][k]]))
    return rows


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The three losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B] (0 or 1); where the
            configuration asks for it, normal noise u_action_noise [B, A] and uniform u_random_act [B, k, A].
        config: discount, beta, max_clip, beyond_clip ('line' or 'flat'), value_loss ('rescaled' or 'log'),
            action_noise (sigma), random_actions (k), huber_delta, inverse_temperature (t), weight_clip,
            log_std_min, log_std_max, policy_family.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    clip = config["max_clip"]
    flat = {"line": False, "flat": True}[config["beyond_clip"]]

    exponents, fixed = [], []
    for obs, act in value_batch(batch, config):
        q_target = nets.pessimistic(nets.action_values(frozen, "critic_target.net", obs, act))
        exponents.append((q_target - nets.state_value(params, obs)) / config["beta"])
        fixed.append((q_target - nets.state_value(frozen, obs)) / config["beta"])
    if flat:
        exponents = [min(z, clip) for z in exponents]
    exponentials = [math.exp(z) if z <= clip else math.exp(clip) * (1.0 + z - clip) for z in exponents]
    m = len(exponents)
    if config["value_loss"] == "rescaled":
        largest = max([-1.0] + [min(z, clip) for z in fixed])
        gumbel = sum(e - z - 1.0 for e, z in zip(exponentials, exponents, strict=True)) / m
        value = math.exp(-largest) * gumbel
    elif config["value_loss"] == "log":
        value = math.log(sum(e - z for e, z in zip(exponentials, exponents, strict=True)) / m)
    else:
        raise ValueError(config["value_loss"])

    n = len(batch["reward"])
    critic = actor = 0.0
    for b in range(n):
        obs, act, next_obs = batch["obs"][b], batch["act"][b], batch["next_obs"][b]
        reward, ended = float(batch["reward"][b]), float(batch["terminated"][b])
        target = reward + config["discount"] * (1.0 - ended) * nets.state_value(frozen, next_obs)
        for q in nets.action_values(params, "critic.net", obs, act):
            critic += huber(target - q, config["huber_delta"]) / n

        q_target = nets.pessimistic(nets.action_values(frozen, "critic_target.net", obs, act))
        advantage = q_target - nets.state_value(frozen, obs)
        weight = min(math.exp(config["inverse_temperature"] * advantage), config["weight_clip"])
        actor -= weight * policies.log_policy(params, "actor", obs, act, config) / n
    return {"value": value, "critic": critic, "actor": actor}
