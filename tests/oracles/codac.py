"""Losses of CODAC (Ma, Jayaraman, Bastani 2021, arXiv 2107.06106), row by row.

With fractions tau_0 = 0 to tau_K = 1, their midpoints c_k and widths w_k:

    L_F     = sum_e mean_b [ mean_k sum_l w'_l |c_k - 1{u < 0}| huber_h(u) / h + a' (omega gap_e - D) ],
              u = r + gamma (1 - d) (min_e Fbar_e(c'_l | s', a') - alpha ln pi_bar(a' | s')) - F_e(c_k | s, a)
    gap_e   = ln sum over 3 N doses of exp(F_e(c_k | s, .)) / density - mean_k F_e(c_k | s, a)
    L_pi    = mean [ alpha ln pi(a | s) - min_e sum_k (g(tau_k) - g(tau_(k-1))) F_e(c_k | s, a) ]
    L_alpha = - ln alpha mean [ ln pi(a | s) - n ],       L_a' = - a' mean_e (omega gap_e - D)

a' is 1 and D is 0 without a ``lagrange_gap``. F_e multiplies features of (s, a), all hidden layers but the
last, by a sigmoid of normalised linear features of cos(pi m tau), m = 1 ... 64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from tests.oracles import flow_nets, policies
from tests.oracles import mlp as nets
from tests.oracles.iqn import MEMBERS, huber, waves


def normalised(params: nets.Arrays, name: str, row: list[float], member: int) -> list[float]:
    """Layer normalisation with one member's weight and bias."""
    return nets.normalised(params[f"{name}.weight"][member], params[f"{name}.bias"][member], row)


def network(
    params: nets.Arrays, name: str, row: list[float], member: int, *, trunk: bool = False
) -> list[float]:
    """A member's network, units normalised before their ReLU; a trunk activates its last layer as well."""
    depth = sum(f"{name}.layers.{layer}.weight" in params for layer in range(9))
    for layer in range(depth):
        weight, bias = (params[f"{name}.layers.{layer}.{key}"][member] for key in ("weight", "bias"))
        row = nets.affine(weight, bias, row)
        if trunk or layer < depth - 1:
            row = nets.relu(normalised(params, f"{name}.norms.{layer}", row, member))
    return row


def quantile(
    params: nets.Arrays, name: str, obs: np.ndarray, act: list[float], tau: float, member: int
) -> float:
    """``F_e^-1(tau | s, a)`` of the critic ``name``."""
    features = network(params, f"{name}.features", flow_nets.joined(obs, act), member, trunk=True)
    weight, bias = (params[f"{name}.fraction.{key}"][member] for key in ("weight", "bias"))
    gate = normalised(params, f"{name}.gate", (waves(tau) @ weight + bias[0]).tolist(), member)
    product = [x / (1.0 + math.exp(-g)) for x, g in zip(features, gate, strict=True)]
    (value,) = network(params, f"{name}.head", product, member)
    return value


def fractions(uniform: np.ndarray) -> list[float]:
    """0 and the sums of widths proportional to u + 0.1, up to 1."""
    widths = [float(u) + 0.1 for u in uniform]
    return [sum(widths[:k]) / sum(widths) for k in range(len(widths) + 1)]


def midpoints(tau: list[float]) -> list[float]:
    """Between neighbouring fractions."""
    return [0.5 * (tau[k] + tau[k + 1]) for k in range(len(tau) - 1)]


def widths(tau: list[float]) -> list[float]:
    """Distances of neighbouring fractions."""
    return [tau[k + 1] - tau[k] for k in range(len(tau) - 1)]


def distortion(tau: float, risk: str, p: float) -> float:
    """g(tau) of the risk measure."""
    if risk == "cvar":
        return min(tau / p, 1.0)
    if risk == "wang":
        return float(stats.norm.cdf(stats.norm.ppf(tau) + p))
    if risk == "cpw":
        return float(tau**p / (tau**p + (1.0 - tau) ** p) ** (1.0 / p))
    return tau


def draw(
    params: nets.Arrays, name: str, obs: np.ndarray, uniform: np.ndarray, config: dict[str, Any]
) -> tuple[list[float], float]:
    """One dose of the squashed Gaussian by ``uniform [A, 1]``, and ln pi of it by the change of variables."""
    act, log_prob = [], 0.0
    for raw, u in zip(policies.heads(params, name, obs), uniform, strict=True):
        distribution = policies.distribution_of("squashed_gaussian", raw, config)
        x = distribution.ppf(float(u[0]))
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
    """Penalty of one visit: soft largest quantile over all doses, less the mean at the recorded one."""
    obs, next_obs, n_act = batch["obs"][row], batch["next_obs"][row], batch["act"].shape[1]
    centre = midpoints(fractions(batch["u_tau"][row]))
    tau = centre[int(float(batch["u_quantile"][0]) * len(centre))]
    total = 0.0
    for k in range(config["n_actions"]):
        anywhere = [2.0 * float(u) - 1.0 for u in batch["u_random"][row, k]]
        total += math.exp(quantile(params, "critic", obs, anywhere, tau, member)) / 0.5**n_act
        for state, noise in ((obs, batch["u_here"]), (next_obs, batch["u_there"])):
            act, log_prob = draw(frozen, "actor", state, noise[row, k], config)
            total += math.exp(quantile(params, "critic", obs, act, tau, member) - log_prob)
    recorded = flow_nets.joined(batch["act"][row])
    return math.log(total) - sum(quantile(params, "critic", obs, recorded, c, member) for c in centre) / len(
        centre
    )


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; uniform noise u_tau,
            u_next_tau, u_act_tau [B, K], u_act, u_next_act [B, A, 1], u_random [B, N, A], u_here, u_there
            [B, N, A, 1], u_quantile [1].
        config: discount, temperature, learn_temperature, huber_threshold, penalty, lagrange_gap, n_actions,
            risk, risk_parameter, log_std_min, log_std_max.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    rows, n_act = batch["act"].shape
    alpha, h = config["temperature"], config["huber_threshold"]
    if config["learn_temperature"]:
        alpha = math.exp(float(frozen["log_temperature"][0]))
    fit = actor = excess = 0.0
    gaps, still = [0.0] * MEMBERS, [0.0] * MEMBERS
    for b in range(rows):
        obs, next_obs, recorded = batch["obs"][b], batch["next_obs"][b], flow_nets.joined(batch["act"][b])
        next_tau = fractions(batch["u_next_tau"][b])
        next_act, next_log = draw(frozen, "actor_target", next_obs, batch["u_next_act"][b], config)
        targets = []
        for c in midpoints(next_tau):
            values = [quantile(frozen, "critic_target", next_obs, next_act, c, e) for e in range(MEMBERS)]
            future = nets.pessimistic(values) - alpha * next_log
            targets.append(flow_nets.target(batch, b, future, config["discount"]))
        centre = midpoints(fractions(batch["u_tau"][b]))
        for e in range(MEMBERS):
            for c in centre:
                here = quantile(params, "critic", obs, recorded, c, e)
                for w, target in zip(widths(next_tau), targets, strict=True):
                    size = abs(c - (1.0 if target < here else 0.0)) * huber(target - here, h) / h
                    fit += w * size / (rows * len(centre))
            gaps[e] += config["penalty"] * gap(params, frozen, batch, b, e, config) / rows
            if config["lagrange_gap"] is not None:
                still[e] += config["penalty"] * gap(frozen, frozen, batch, b, e, config) / rows
        act, log_prob = draw(params, "actor", obs, batch["u_act"][b], config)
        tau = fractions(batch["u_act_tau"][b])
        steps = widths([distortion(x, config["risk"], config["risk_parameter"]) for x in tau])
        worth = [
            sum(
                w * quantile(frozen, "critic", obs, act, c, e)
                for w, c in zip(steps, midpoints(tau), strict=True)
            )
            for e in range(MEMBERS)
        ]
        actor += (alpha * log_prob - nets.pessimistic(worth)) / rows
        excess += (draw(frozen, "actor", obs, batch["u_act"][b], config)[1] - n_act) / rows
    result = {"actor": actor, "critic": fit + sum(gaps)}
    if config["learn_temperature"]:
        result["temperature"] = -float(params["log_temperature"][0]) * excess
    if config["lagrange_gap"] is not None:
        rate = [math.exp(float(x["log_multiplier"][0])) for x in (params, frozen)]
        aim = config["lagrange_gap"]
        result["lagrange"] = -rate[0] * sum(x - aim for x in still) / MEMBERS
        result["critic"] = fit + rate[1] * sum(x - aim for x in gaps)
    return result
