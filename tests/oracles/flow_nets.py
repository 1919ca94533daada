"""Networks of the flow methods, one row at a time: GELU units, critics normalised behind every one of them.

A network ``net`` has the arrays of ``oracles.mlp``. A velocity sees (s, x, t), a one-step map (s, eps), a
critic (s, a) or, told the noise, (s, eps, a).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.oracles import mlp as nets

Row = list[float]


def gelu(x: float) -> float:
    """``x Phi(x)`` with the normal distribution function in its tanh form (arXiv 1606.08415)."""
    return 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def network(params: nets.Arrays, name: str, row: Row, member: int | None = None) -> Row:
    """The output for one row; where there are ``norms``, units are normalised after their GELU."""

    def array(key: str) -> np.ndarray:
        values = params[f"{name}.{key}"]
        return values if member is None else values[member]

    layer = 0
    while f"{name}.layers.{layer + 1}.weight" in params:
        row = nets.affine(array(f"layers.{layer}.weight"), array(f"layers.{layer}.bias"), row)
        row = [gelu(x) for x in row]
        if f"{name}.norms.{layer}.weight" in params:
            row = nets.normalised(array(f"norms.{layer}.weight"), array(f"norms.{layer}.bias"), row)
        layer += 1
    return nets.affine(array(f"layers.{layer}.weight"), array(f"layers.{layer}.bias"), row)


def joined(*parts: Sequence[float] | np.ndarray) -> Row:
    """One row of all the parts' numbers."""
    return [float(x) for part in parts for x in part]


def critics(params: nets.Arrays, name: str, *parts: Sequence[float] | np.ndarray) -> Row:
    """The two members' values."""
    return [network(params, f"{name}.net", joined(*parts), member)[0] for member in range(2)]


def velocity(params: nets.Arrays, obs: np.ndarray, x: Row, time: float) -> Row:
    """``v(s, x, t)`` of the network ``flow``."""
    return network(params, "flow.net", joined(obs, x, [time]))


def one_step(params: nets.Arrays, obs: np.ndarray, noise: np.ndarray) -> Row:
    """``f(s, eps)`` of the network ``actor``, not clipped."""
    return network(params, "actor.net", joined(obs, noise))


def clipped(row: Row) -> Row:
    """Every number moved into [-1, 1]."""
    return [min(1.0, max(-1.0, x)) for x in row]


def between(start: Sequence[float] | np.ndarray, end: Sequence[float] | np.ndarray, time: float) -> Row:
    """``(1 - t) start + t end``."""
    return [(1.0 - time) * float(x) + time * float(y) for x, y in zip(start, end, strict=True)]


def flow_end(params: nets.Arrays, obs: np.ndarray, noise: np.ndarray, steps: int) -> Row:
    """Where the flow ends that starts at the noise, by Euler steps of equal length; clipped."""
    x = joined(noise)
    for step in range(steps):
        x = [a + v / steps for a, v in zip(x, velocity(params, obs, x, step / steps), strict=True)]
    return clipped(x)


def mean_square(row: Row) -> float:
    """Mean of the squares."""
    return sum(x**2 for x in row) / len(row)


def matching(params: nets.Arrays, batch: nets.Arrays) -> float:
    """``mean (v(s, x_t, t) - (a - x_0))^2`` over rows and dimensions; noise ``u_start``, times ``u_time``."""
    n, total = len(batch["reward"]), 0.0
    for b in range(n):
        start, act, time = batch["u_start"][b], batch["act"][b], float(batch["u_time"][b, 0])
        v = velocity(params, batch["obs"][b], between(start, act, time), time)
        total += mean_square([v[i] - (float(act[i]) - float(start[i])) for i in range(len(v))]) / n
    return total


def aggregated(values: Row, rule: str) -> float:
    """The least or the mean of the members' values."""
    if rule == "min":
        return nets.pessimistic(values)
    if rule == "mean":
        return sum(values) / len(values)
    raise ValueError(rule)


def target(batch: nets.Arrays, row: int, future: float, discount: float) -> float:
    """``r + gamma (1 - d) future``."""
    return float(batch["reward"][row]) + discount * (1.0 - float(batch["terminated"][row])) * future
