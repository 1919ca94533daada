"""Losses of IQN over candidates (Dabney, Ostrovski, Silver, Munos 2018, arXiv 1806.06923), row by row.

    rho(s, a) = mean_e mean_k F_e(level (k - 1/2) / K | s, a)
    a'        = the candidate of the flow with the largest rho at s'
    L_F       = mean_e mean_b sum_i mean_j |tau_i - 1{u < 0}| huber(u) / k,
                u = r + gamma (1 - d) mean_e Fbar_e(tau'_j | s', a') - F_e(tau_i | s, a)

with huber(u) = u^2 / 2 up to |u| = k, from there k (|u| - k / 2). F_e multiplies linear features of (s, a)
and of cos(pi m tau), m = 1 ... 64, and passes the product through a network; the features serve all members.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles import flow_nets
from tests.oracles import mlp as nets

MEMBERS = 2


def quantile(
    params: nets.Arrays, name: str, obs: np.ndarray, act: list[float], tau: float, member: int
) -> float:
    """``F_e^-1(tau | s, a)`` of the critic ``name``."""
    features = nets.head(params, f"{name}.features", flow_nets.joined(obs, act))
    fraction = waves(tau) @ params[f"{name}.fraction.weight"] + params[f"{name}.fraction.bias"][0]
    product = [x * float(y) for x, y in zip(features, fraction, strict=True)]
    (value,) = flow_nets.network(params, f"{name}.head", product, member)
    return value


def waves(tau: float) -> np.ndarray:
    """``cos(pi m tau)``, m = 1 ... 64."""
    return np.array([math.cos(math.pi * m * tau) for m in range(1, 65)])


def average(params: nets.Arrays, name: str, obs: np.ndarray, act: list[float], tau: float) -> float:
    """Mean of the members' quantiles."""
    return sum(quantile(params, name, obs, act, tau, e) for e in range(MEMBERS)) / MEMBERS


def rho(params: nets.Arrays, obs: np.ndarray, act: list[float], config: dict[str, Any]) -> float:
    """Mean over the midpoints of the worst share of the return's distribution."""
    count, level = config["choice_quantiles"], config["risk_level"]
    levels = [level * (k + 0.5) / count for k in range(count)]
    return sum(average(params, "critic", obs, act, tau) for tau in levels) / count


def chosen(
    params: nets.Arrays,
    obs: np.ndarray,
    starts: np.ndarray,
    steps: int,
    value: Callable[[list[float]], float],
) -> list[float]:
    """The flow's end, of those from the ``starts [N, A]``, with the largest value."""
    return max((flow_nets.flow_end(params, obs, start, steps) for start in starts), key=value)


def huber(error: float, threshold: float) -> float:
    """Square near 0, linear beyond the threshold."""
    if abs(error) <= threshold:
        return 0.5 * error**2
    return threshold * (abs(error) - 0.5 * threshold)


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The two losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; uniform u_tau, u_next_tau
            [B, K], u_time [B, 1]; standard normal u_candidates [B, N, A], u_start [B, A].
        config: discount, choice_quantiles, huber_threshold, risk_level, flow_steps.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    rows, k = len(batch["reward"]), config["huber_threshold"]
    total = 0.0
    for b in range(rows):
        next_obs, act = batch["next_obs"][b], flow_nets.joined(batch["act"][b])

        def value(act: list[float], obs: np.ndarray = next_obs) -> float:
            return rho(frozen, obs, act, config)

        next_act = chosen(frozen, next_obs, batch["u_candidates"][b], config["flow_steps"], value)
        targets = [
            flow_nets.target(
                batch, b, average(frozen, "critic_target", next_obs, next_act, float(tau)), config["discount"]
            )
            for tau in batch["u_next_tau"][b]
        ]
        for e in range(MEMBERS):
            for tau in (float(x) for x in batch["u_tau"][b]):
                here = quantile(params, "critic", batch["obs"][b], act, tau, e)
                for target in targets:
                    weight = abs(tau - (1.0 if target < here else 0.0)) / len(targets)
                    total += weight * huber(target - here, k) / k / (rows * MEMBERS)
    return {"critic": total, "flow": flow_nets.matching(params, batch)}
