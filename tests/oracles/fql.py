"""Losses of FQL (Park, Li, Levine 2025, arXiv 2502.02538), row by row.

    L_Q    = mean_i mean (r + gamma (1 - d) agg_j Qbar_j(s', clip(f(s', eps'))) - Q_i(s, a))^2
    L_flow = mean over rows and dimensions of (v(s, x_t, t) - (a - x_0))^2
    L_pi   = alpha mean over rows and dimensions of (f(s, eps) - F(s, eps))^2 - mean Qm(s, clip(f(s, eps)))

Qm is the mean of the critics; F the end of the flow from eps. With ``normalise_q`` the last term is divided
by mean |Qm|.
"""

from __future__ import annotations

from typing import Any

from tests.oracles import flow_nets as flows
from tests.oracles import mlp as nets


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The three losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; standard normal noise
            u_next, u_start, u_dose [B, A]; uniform u_time [B, 1].
        config: discount, aggregate, alpha, normalise_q, flow_steps.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    critic = distance = value = size = 0.0
    for b in range(n):
        obs, eps = batch["obs"][b], batch["u_dose"][b]
        next_act = flows.clipped(flows.one_step(frozen, batch["next_obs"][b], batch["u_next"][b]))
        values = flows.critics(frozen, "critic_target", batch["next_obs"][b], next_act)
        future = flows.aggregated(values, config["aggregate"])
        y = flows.target(batch, b, future, config["discount"])
        for q in flows.critics(params, "critic", obs, batch["act"][b]):
            critic += (y - q) ** 2 / (2 * n)
        free = flows.one_step(params, obs, eps)
        end = flows.flow_end(frozen, obs, eps, config["flow_steps"])
        distance += flows.mean_square([x - y for x, y in zip(free, end, strict=True)]) / n
        value += sum(flows.critics(frozen, "critic", obs, flows.clipped(free))) / (2 * n)
        now = flows.clipped(flows.one_step(frozen, obs, eps))
        size += abs(sum(flows.critics(frozen, "critic", obs, now)) / 2) / n
    return {
        "critic": critic,
        "flow": flows.matching(params, batch),
        "actor": config["alpha"] * distance - value / (size if config["normalise_q"] else 1.0),
    }
