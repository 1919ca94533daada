"""Losses of IFQL, the flow variant of IDQL (Hansen-Estruch et al. 2023, arXiv 2304.10573), row by row.

L_V    = mean |kappa - 1{u < 0}| u^2,          u = min_i Qbar_i(s, a) - V(s)
L_Q    = sum_i mean (r + gamma (1 - d) V(s') - Q_i(s, a))^2
L_flow = mean over rows and dimensions of (v(s, x_t, t) - (a - x_0))^2
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.oracles import flow_nets as flows
from tests.oracles import mlp as nets


def state_value(params: nets.Arrays, obs: np.ndarray) -> float:
    """``V(s)`` of the network ``value``."""
    return flows.network(params, "value.net", flows.joined(obs))[0]


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The three losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; standard normal noise
            u_start [B, A]; uniform u_time [B, 1].
        config: discount, expectile.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    critic = value = 0.0
    for b in range(n):
        obs, act = batch["obs"][b], batch["act"][b]
        y = flows.target(batch, b, state_value(frozen, batch["next_obs"][b]), config["discount"])
        critic += sum((y - q) ** 2 for q in flows.critics(params, "critic", obs, act)) / n
        u = nets.pessimistic(flows.critics(frozen, "critic_target", obs, act)) - state_value(params, obs)
        value += abs(config["expectile"] - float(u < 0.0)) * u**2 / n
    return {"critic": critic, "value": value, "flow": flows.matching(params, batch)}


def chosen(params: nets.Arrays, obs: np.ndarray, starts: np.ndarray, steps: int) -> list[float]:
    """The end of the flow from that of the starts whose end both critics value most."""
    ends = [flows.flow_end(params, obs, start, steps) for start in starts]
    return max(ends, key=lambda act: min(flows.critics(params, "critic", obs, act)))
