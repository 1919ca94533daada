"""Losses of C51 over candidates of a flow (Bellemare, Dabney, Munos 2017, arXiv 1707.06887), row by row.

The target's probability is moved atom by atom: what lands between two atoms is shared between them by
nearness, what lands beyond the ends stays at the end. The loss is the cross-entropy - sum_i m_i ln p_i, mean
over rows and members; a' is the candidate with the largest mean of sum_i z_i p_i over members.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import flow_nets
from tests.oracles import mlp as nets
from tests.oracles.iqn import MEMBERS, chosen


def logits(params: nets.Arrays, name: str, obs: np.ndarray, act: list[float], member: int) -> list[float]:
    """The network's output for one visit."""
    return flow_nets.network(params, name, flow_nets.joined(obs, act), member)


def log_softmax(row: list[float]) -> list[float]:
    """Logarithms of probabilities proportional to the exponentials of the row."""
    largest = max(row)
    total = largest + math.log(sum(math.exp(x - largest) for x in row))
    return [x - total for x in row]


def probability(params: nets.Arrays, name: str, obs: np.ndarray, act: list[float]) -> list[float]:
    """Mean over members of the probabilities of the atoms."""
    members = [log_softmax(logits(params, name, obs, act, e)) for e in range(MEMBERS)]
    return [sum(math.exp(x) for x in column) / MEMBERS for column in zip(*members, strict=True)]


def atoms(params: nets.Arrays, count: int) -> list[float]:
    """Evenly from the lowest to the highest return."""
    low, high = float(params["range.low"][0]), float(params["range.high"][0])
    return [low + (high - low) * i / (count - 1) for i in range(count)]


def projected(z: list[float], reward: float, discount: float, mass: list[float]) -> list[float]:
    """The distribution of ``reward + discount z``, on the atoms."""
    result = [0.0] * len(z)
    for value, p in zip(z, mass, strict=True):
        at = min(max(reward + discount * value, z[0]), z[-1])
        place = (at - z[0]) / (z[1] - z[0])
        below = min(math.floor(place), len(z) - 2)
        result[below] += p * (below + 1 - place)
        result[below + 1] += p * (place - below)
    return result


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The two losses of one seed.

    Args:
        params: The seed's parameters, and ``range.low`` and ``range.high`` [1].
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; uniform u_time [B, 1];
            standard normal u_candidates [B, N, A], u_start [B, A].
        config: discount, n_atoms, flow_steps.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    rows, z = len(batch["reward"]), atoms(params, config["n_atoms"])
    total = 0.0
    for b in range(rows):
        next_obs, act = batch["next_obs"][b], flow_nets.joined(batch["act"][b])

        def value(act: list[float], obs: np.ndarray = next_obs) -> float:
            return sum(x * p for x, p in zip(z, probability(frozen, "critic", obs, act), strict=True))

        next_act = chosen(frozen, next_obs, batch["u_candidates"][b], config["flow_steps"], value)
        mass = probability(frozen, "critic_target", next_obs, next_act)
        discount = config["discount"] * (1.0 - float(batch["terminated"][b]))
        wanted = projected(z, float(batch["reward"][b]), discount, mass)
        for e in range(MEMBERS):
            log_p = log_softmax(logits(params, "critic", batch["obs"][b], act, e))
            total -= sum(m * x for m, x in zip(wanted, log_p, strict=True)) / (rows * MEMBERS)
    return {"critic": total, "flow": flow_nets.matching(params, batch)}
