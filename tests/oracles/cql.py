"""Losses of CQL (Kumar et al. 2020, arXiv 2006.04779) and Cal-QL (Nakamoto et al. 2023, arXiv 2303.05479).

Row by row, with N doses of each kind: U uniform, P from pi at s, P' from pi at s', in n dose dimensions,

    C_i  = ln sum_k [ exp(Q_i(s, U_k)) 2^n + exp(V_i(P_k)) / pi(P_k|s) + exp(V_i(P'_k)) / pi(P'_k|s') ]
           - Q_i(s, a)
    L_Q  = sum_i mean [ (y - Q_i(s, a))^2 ] + weight sum_i (mean C_i - shift)
    y    = r + gamma (1 - d) max_k [ min_j Qbar_j(s', a'_k) ] (- alpha ln pi(a'_best|s') with backup_entropy)
    L_pi = mean [ alpha ln pi(a~|s) - min_i Q_i(s, a~) ]          or, while imitating, - ln pi(a|s) at its end
    L_alpha = - ln alpha mean [ ln pi(a~|s) - n ]
    L_theta = - w e^theta sum_i (mean C_i - target) / 2

V_i is Q_i(s, .) in CQL and max(Q_i(s, .), G) in Cal-QL. Without theta, weight is w and shift 0; with it,
weight is w e^theta and shift the target. ln pi is that of a normal distribution, less the logarithm of tanh's
slope, 1 / cosh^2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import mlp as nets
from tests.oracles import policies


def draw(
    params: nets.Arrays, obs: np.ndarray, uniform: np.ndarray, config: dict[str, Any]
) -> tuple[list[float], float]:
    """One dose by ``uniform [A]``, and ln pi of it by the change of variables."""
    act, log_prob = [], 0.0
    for raw, u in zip(policies.heads(params, "actor", obs), uniform, strict=True):
        sigma = math.exp(min(max(raw["scale"], config["log_std_min"]), config["log_std_max"]))
        distribution = policies.Normal(raw["loc"], sigma)
        x = distribution.ppf(float(u))
        act.append(math.tanh(x))
        log_prob += distribution.logpdf(x) + 2.0 * math.log(math.cosh(x))
    return act, log_prob


def gap(
    params: nets.Arrays,
    frozen: nets.Arrays,
    batch: nets.Arrays,
    row: int,
    member: int,
    config: dict[str, Any],
) -> float:
    """C_i of one visit."""
    obs, next_obs = batch["obs"][row], batch["next_obs"][row]
    n_act = batch["act"].shape[1]

    def value(act: list[float]) -> float:
        return nets.action_values(params, "critic.net", obs, act)[member]

    def bounded(act: list[float]) -> float:
        if "discounted_return" in batch:
            return max(value(act), float(batch["discounted_return"][row, 0]))
        return value(act)

    total = 0.0
    for k in range(config["n_samples"]):
        anywhere = [2.0 * float(u) - 1.0 for u in batch["u_anywhere"][row, k]]
        total += math.exp(value(anywhere)) * 2.0**n_act
        for state, noise in ((obs, batch["u_current"]), (next_obs, batch["u_ahead"])):
            act, log_prob = draw(frozen, state, noise[row, k], config)
            total += math.exp(bounded(act)) / math.exp(log_prob)
    result = math.log(total) - value([float(x) for x in batch["act"][row]])
    return result if config["gap_floor"] is None else max(result, config["gap_floor"])


def target(params: nets.Arrays, batch: nets.Arrays, row: int, config: dict[str, Any]) -> float:
    """What the critics regress on at one visit."""
    best = entropy = -math.inf
    for uniform in batch["u_next_act"][row]:
        act, log_prob = draw(params, batch["next_obs"][row], uniform, config)
        value = nets.pessimistic(nets.action_values(params, "critic_target.net", batch["next_obs"][row], act))
        if value > best:
            best, entropy = value, -math.exp(float(params["log_temperature"][0])) * log_prob
    if config["backup_entropy"]:
        best += entropy
    ended = float(batch["terminated"][row])
    return float(batch["reward"][row]) + config["discount"] * (1.0 - ended) * best


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B], for Cal-QL
            discounted_return [B, 1]; uniform noise u_act [B, 1, A], u_next_act [B, 1 or N, A], u_anywhere,
            u_current and u_ahead [B, N, A].
        config: discount, conservative_weight, n_samples, lagrange, target_gap, gap_floor, backup_entropy,
            imitates, log_std_min, log_std_max.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    rows, n_act = batch["act"].shape
    log_alpha, alpha = float(params["log_temperature"][0]), math.exp(float(frozen["log_temperature"][0]))
    error = actor = temperature = 0.0
    gaps = [0.0, 0.0]
    for b in range(rows):
        obs, recorded = batch["obs"][b], [float(x) for x in batch["act"][b]]
        wanted = target(frozen, batch, b, config)
        for i, q in enumerate(nets.action_values(params, "critic.net", obs, recorded)):
            error += (wanted - q) ** 2 / rows
            gaps[i] += gap(params, frozen, batch, b, i, config) / rows
        act, log_prob = draw(params, obs, batch["u_act"][b, 0], config)
        if config["imitates"]:
            own = config | {"policy_family": "squashed_gaussian"}
            worth = policies.log_policy(params, "actor", obs, recorded, own)
        else:
            worth = nets.pessimistic(nets.action_values(frozen, "critic.net", obs, act))
        actor += (alpha * log_prob - worth) / rows
        _, fixed = draw(frozen, obs, batch["u_act"][b, 0], config)
        temperature -= log_alpha * (fixed - n_act) / rows
    result = {"actor": actor, "temperature": temperature}
    weight, shift = config["conservative_weight"], 0.0
    if config["lagrange"]:
        shift = config["target_gap"]
        rate = math.exp(float(params["log_multiplier"][0]))
        fixed = sum(gap(frozen, frozen, batch, b, i, config) for b in range(rows) for i in range(2)) / rows
        result["multiplier"] = -0.5 * weight * rate * (fixed - 2.0 * shift)
        weight *= math.exp(float(frozen["log_multiplier"][0]))
    result["critic"] = error + weight * sum(c - shift for c in gaps)
    return result
