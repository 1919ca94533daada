"""Losses of Value Flows (Dong, Zheng, Finn, Sadigh, Eysenbach 2025, arXiv 2510.07650), row by row.

With phi_t where Euler steps of the target flow bring eps at time t, mean over members, and phi_1 inside the
range of returns:

    y      = r + gamma (1 - d) phi_1(s', a')
    BCFM   = sum_e (u_e((1 - t) eps + t y, t | s, a) - (y - eps))^2
    DCFM   = sum_e (u_e(r + gamma (1 - d) phi_t, t | s, a) - gamma (1 - d) ubar(phi_t, t | s', a'))^2 if d < 1
    L_u    = mean w (lambda_b BCFM + lambda_d DCFM),   w = 1 - tanh(T / 2 |d phi_1 / d eps'|(s, a)) / 2

The slope is taken by differences. a' is the candidate with the largest mean over members of u_e(0, 0 | s',
a') inside the range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import flow_nets
from tests.oracles import mlp as nets
from tests.oracles.iqn import MEMBERS, chosen

STEP = 1e-3
"""Distance of the five points of the slope."""


def velocity(
    params: nets.Arrays, name: str, obs: np.ndarray, act: list[float], z: float, time: float, member: int
) -> float:
    """``u_e(z, t | s, a)`` of the flow ``name``."""
    (value,) = flow_nets.network(params, f"{name}.net", flow_nets.joined(obs, act, [time, z]), member)
    return value


def carried(
    params: nets.Arrays,
    name: str,
    obs: np.ndarray,
    act: list[float],
    start: float,
    until: float,
    steps: int,
    member: int,
) -> float:
    """Where one member of the flow ``name`` brings the start."""
    z, size = start, until / steps
    for step in range(steps):
        z += size * velocity(params, name, obs, act, z, step * size, member)
    return z


def mean(values: list[float]) -> float:
    """Mean over members."""
    return sum(values) / MEMBERS


def inside(params: nets.Arrays, value: float) -> float:
    """Moved into the range of returns."""
    return min(max(value, float(params["range.low"][0])), float(params["range.high"][0]))


def slope(params: nets.Arrays, obs: np.ndarray, act: list[float], start: float, steps: int) -> float:
    """Mean over members of |d phi_1 / d eps'|."""
    sizes = []
    for e in range(MEMBERS):
        two_below, below, above, two_above = (
            carried(params, "critic_target", obs, act, start + k * STEP, 1.0, steps, e)
            for k in (-2, -1, 1, 2)
        )
        sizes.append(abs(two_below - 8.0 * below + 8.0 * above - two_above) / (12.0 * STEP))
    return mean(sizes)


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The two losses of one seed.

    Args:
        params: The seed's parameters, and ``range.low`` and ``range.high`` [1].
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; uniform u_time [B, 1],
            u_return_time [B]; standard normal u_candidates [B, N, A], u_start [B, A], u_return and
            u_confidence [B].
        config: discount, bootstrapped, distributional, confidence_temperature, return_steps, flow_steps.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    rows, steps = len(batch["reward"]), config["return_steps"]
    total = 0.0
    for b in range(rows):
        obs, next_obs, act = batch["obs"][b], batch["next_obs"][b], flow_nets.joined(batch["act"][b])
        eps, time = float(batch["u_return"][b]), float(batch["u_return_time"][b])

        def value(act: list[float], obs: np.ndarray = next_obs) -> float:
            means = [velocity(frozen, "critic", obs, act, 0.0, 0.0, e) for e in range(MEMBERS)]
            return mean([inside(frozen, x) for x in means])

        next_act = chosen(frozen, next_obs, batch["u_candidates"][b], config["flow_steps"], value)
        ends = [
            carried(frozen, "critic_target", next_obs, next_act, eps, 1.0, steps, e) for e in range(MEMBERS)
        ]
        y = flow_nets.target(batch, b, mean([inside(frozen, x) for x in ends]), config["discount"])
        halfway = mean(
            [
                carried(frozen, "critic_target", next_obs, next_act, eps, time, steps, e)
                for e in range(MEMBERS)
            ]
        )
        speed = mean(
            [velocity(frozen, "critic_target", next_obs, next_act, halfway, time, e) for e in range(MEMBERS)]
        )
        share = config["discount"] * (1.0 - float(batch["terminated"][b]))
        deviation = slope(frozen, obs, act, float(batch["u_confidence"][b]), steps)
        weight = 1.0 - 0.5 * math.tanh(0.5 * config["confidence_temperature"] / deviation)
        for e in range(MEMBERS):
            at = (1.0 - time) * eps + time * y
            bcfm = (velocity(params, "critic", obs, act, at, time, e) - (y - eps)) ** 2
            at = float(batch["reward"][b]) + share * halfway
            dcfm = (velocity(params, "critic", obs, act, at, time, e) - share * speed) ** 2
            ended = float(batch["terminated"][b]) == 1.0
            row = config["bootstrapped"] * bcfm + (0.0 if ended else config["distributional"] * dcfm)
            total += weight * row / rows
    return {"critic": total, "flow": flow_nets.matching(params, batch)}
