"""Losses of FAN, FAQL, NBRAC and NFQL (Lee et al. 2026, arXiv 2605.01663), row by row.

With a' = clip(f(s', eps')), x_u = (1 - u) eps' + u a' and means over the two members:

    y     = r + gamma (1 - d) (agg_j Z_j(s', a') - alpha_2 |a' - eps' - v(s', x_u, u)|^2)
    L_Q   = mean_i mean (y - Q_i(s, eps', a))^2
    L_Z   = mean_j mean |kappa - 1{w < 0}| w^2,        w = mean_i Qbar_i(s, xi', a) - Z_j(s, a)
    L_pi  = alpha_1 mean over rows and dims of (f - eps - v(s, (1 - u) eps + u f, u))^2
            - mean_i mean Q_i(s, xi, clip(f)) - mean_j mean Z_j(s, clip(f))

FAQL has Q(s, a) alone and Qbar in y. NBRAC has |a' - a'_D|^2 in y, where there is a recorded next dose, and
in L_pi alpha_1 mean over rows of |clip(f) - a|^2. NFQL has nothing more in y, and in L_pi alpha_1 mean over
rows and dims of (f - F(s, eps))^2. With ``normalise_q`` each value of L_pi is divided by its mean size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.oracles import flow_nets as flows
from tests.oracles import mlp as nets


def off_flow(params: nets.Arrays, obs: np.ndarray, dose: flows.Row, eps: np.ndarray, u: float) -> flows.Row:
    """``dose - eps - v(s, (1 - u) eps + u dose, u)``."""
    v = flows.velocity(params, obs, flows.between(eps, dose, u), u)
    return [dose[i] - float(eps[i]) - v[i] for i in range(len(dose))]


def apart(dose: flows.Row, act: np.ndarray) -> float:
    """Squared Euclidean distance."""
    return sum((x - float(y)) ** 2 for x, y in zip(dose, act, strict=True))


def charge(method: str, params: nets.Arrays, batch: nets.Arrays, row: int, next_act: flows.Row) -> float:
    """What alpha_2 weighs in y."""
    if method in ("fan", "faql"):
        u = float(batch["u_next_time"][row, 0])
        away = off_flow(params, batch["next_obs"][row], next_act, batch["u_next"][row], u)
        return sum(x**2 for x in away)
    if method == "nbrac":
        return float(batch["has_next"][row, 0]) * apart(next_act, batch["next_act"][row])
    return 0.0


def distance(
    method: str, params: nets.Arrays, batch: nets.Arrays, row: int, free: flows.Row, config: dict[str, Any]
) -> float:
    """What alpha_1 weighs in L_pi."""
    obs, eps = batch["obs"][row], batch["u_dose"][row]
    if method in ("fan", "faql"):
        return flows.mean_square(off_flow(params, obs, free, eps, float(batch["u_dose_time"][row, 0])))
    if method == "nbrac":
        return apart(flows.clipped(free), batch["act"][row])
    end = flows.flow_end(params, obs, eps, config["flow_steps"])
    return flows.mean_square([x - y for x, y in zip(free, end, strict=True)])


def values(params: nets.Arrays, name: str, batch: nets.Arrays, row: int, dose: flows.Row) -> flows.Row:
    """The members' values in L_pi: of the critic told its noise, of an ordinary one, or of Z."""
    noise = batch["u_value"][row] if name == "critic" and "u_value" in batch else []
    return flows.critics(params, name, batch["obs"][row], noise, dose)


def losses(
    method: str,
    params: nets.Arrays,
    batch: nets.Arrays,
    config: dict[str, Any],
    frozen: nets.Arrays | None = None,
) -> dict[str, float]:
    """The losses of one seed.

    Args:
        method: fan, faql, nbrac or nfql.
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; for NBRAC next_act [B, A]
            and has_next [B, 1]; standard normal noise u_next, u_dose, u_upper, u_value, u_start [B, A];
            uniform u_next_time, u_dose_time, u_time [B, 1].
        config: discount, aggregate, actor_penalty (alpha_1), critic_penalty (alpha_2), expectile,
            normalise_q, flow_steps.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    told = method != "faql"
    climbed = ("critic", "upper") if told else ("critic",)
    result = dict.fromkeys((*climbed, "actor"), 0.0)
    worth, size = dict.fromkeys(climbed, 0.0), dict.fromkeys(climbed, 0.0)
    for b in range(n):
        obs, act, eps = batch["obs"][b], batch["act"][b], batch["u_next"][b]
        next_act = flows.clipped(flows.one_step(frozen, batch["next_obs"][b], eps))
        following = flows.critics(
            frozen, "upper" if told else "critic_target", batch["next_obs"][b], next_act
        )
        future = flows.aggregated(following, config["aggregate"])
        if method != "nfql":
            future -= config["critic_penalty"] * charge(method, frozen, batch, b, next_act)
        y = flows.target(batch, b, future, config["discount"])
        for q in flows.critics(params, "critic", obs, eps if told else [], act):
            result["critic"] += (y - q) ** 2 / (2 * n)
        if told:
            drawn = sum(flows.critics(frozen, "critic_target", obs, batch["u_upper"][b], act)) / 2
            for z in flows.critics(params, "upper", obs, act):
                result["upper"] += (
                    abs(config["expectile"] - float(drawn - z < 0.0)) * (drawn - z) ** 2 / (2 * n)
                )

        free = flows.one_step(params, obs, batch["u_dose"][b])
        now = flows.one_step(frozen, obs, batch["u_dose"][b])
        result["actor"] += config["actor_penalty"] * distance(method, frozen, batch, b, free, config) / n
        for name in climbed:
            worth[name] += sum(values(frozen, name, batch, b, flows.clipped(free))) / (2 * n)
            size[name] += abs(sum(values(frozen, name, batch, b, flows.clipped(now))) / 2) / n
    for name in climbed:
        result["actor"] -= worth[name] / (size[name] if config["normalise_q"] else 1.0)
    return result if method == "nbrac" else result | {"flow": flows.matching(params, batch)}
