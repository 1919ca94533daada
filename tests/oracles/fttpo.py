"""Losses of fat-to-thin policy optimisation (Zhu, Wang, Nagai 2025, arXiv 2501.14373), row by row.

Both policies are products of one-dimensional q-Gaussians, for z = (x - mu) / sigma

    p(x) = exp_q(-z^2 / (3 - q)) / (sigma Z_q),     exp_q(u) = [1 + (1 - q) u]_+^(1 / (1 - q))

(Tsallis' exponential; Z_q makes the density integrate to 1). The heavy-tailed proposal pi_phi is fitted to
the data, the bounded actor pi_theta to the proposal. With a~ = m + sigma z drawn from the actor, Qmin the
smaller critic and a bar for targets:

    L_V    = mean 1/2 (V(s) - Qbar_min(s, a~))^2
    L_Q    = 1/2 sum_i mean 1/2 (r + gamma (1 - d) Qbar_min(s', a') - Q_i(s, a))^2
    L_phi  = -mean  min([1 + (Q_min(s, a) - V(s)) / tau]_+, clip) ln pi_phi(a|s)
    L_actor = mean  -H(pi_theta) - ln pi_phi(a~|s)                      (reverse KL; H in closed form)
           or mean  min(exp(l), 1e4) - 1 - l,  l = ln pi_phi(a~|s) - ln pi_theta(a~|s), ln pi_phi a constant

``frozen`` holds the parameters wherever an equation takes no gradient, so that finite differences in
``params`` see the same path as automatic differentiation does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.special import psi

from oracles import mlp as nets

MEAN_LIMIT = 0.999
NARROWEST = 1e-3  # the smallest half-width, as a fraction of the room up to the box; 1 - this is the largest
MAX_LOG_VARIANCE = math.log(1000.0)
MAX_RATIO = 1e4


def exp_q(u: float, q: float) -> float:
    """Tsallis' exponential, 0 beyond its threshold for q < 1."""
    if q == 1.0:
        return math.exp(u)
    base = 1.0 + (1.0 - q) * u
    return base ** (1.0 / (1.0 - q)) if base > 0.0 else 0.0


def normaliser(q: float) -> float:
    """Z_q, the integral of ``exp_q(-z^2 / (3 - q))`` over its support."""
    if q == 1.0:
        return math.sqrt(2.0 * math.pi)
    if q < 1.0:
        p = 1.0 / (1.0 - q)
        return math.sqrt(math.pi * (3.0 - q) / (1.0 - q)) * math.gamma(p + 1.0) / math.gamma(p + 1.5)
    p = 1.0 / (q - 1.0)
    return math.sqrt(math.pi * (3.0 - q) / (q - 1.0)) * math.gamma(p - 0.5) / math.gamma(p)


def radius(q: float) -> float:
    """R_q: the support of the standard q-Gaussian is (-R_q, R_q) for q < 1."""
    return math.sqrt((3.0 - q) / (1.0 - q))


def density(x: float, mean: float, scale: float, q: float) -> float:
    """The one-dimensional q-Gaussian density."""
    z = (x - mean) / scale
    return exp_q(-(z**2) / (3.0 - q), q) / (scale * normaliser(q))


def log_density(x: list[float], means: list[float], scales: list[float], q: float) -> float:
    """Log density of the product over dimensions."""
    return sum(math.log(density(x[i], means[i], scales[i], q)) for i in range(len(means)))


def entropy(scales: list[float], q: float) -> float:
    """Differential entropy of the product over dimensions."""
    total = 0.0
    for scale in scales:
        total += math.log(scale * normaliser(q))
        if q == 1.0:
            total += 0.5
        elif q < 1.0:
            p = 1.0 / (1.0 - q)
            total += p * float(psi(p + 1.5) - psi(p + 1.0))
        else:
            p = 1.0 / (q - 1.0)
            total += p * float(psi(p) - psi(p - 0.5))
    return total


def proposal(params: nets.Arrays, obs: np.ndarray) -> tuple[list[float], list[float]]:
    """Location and scale of pi_phi(.|s), per dimension."""
    features = nets.mlp(params, "proposal.trunk", [float(x) for x in obs], trunk=True)
    locations = [MEAN_LIMIT * math.tanh(x) for x in nets.head(params, "proposal.mean", features)]
    scales = []
    for log_variance in nets.head(params, "proposal.log_variance", features):
        log_variance = min(max(log_variance, -MAX_LOG_VARIANCE), MAX_LOG_VARIANCE)
        scales.append(math.exp(0.5 * log_variance))
    return locations, scales


def actor(
    params: nets.Arrays, frozen: nets.Arrays, obs: np.ndarray, config: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """Mean and scale of pi_theta(.|s) per dimension; what it shares with the proposal is ``frozen``'s."""
    row = [float(x) for x in obs]
    if config["share_mean"]:
        features = nets.mlp(frozen, "proposal.trunk", row, trunk=True)
        raw_means = nets.head(frozen, "proposal.mean", features)
    else:
        features = nets.mlp(params, "actor.trunk", row, trunk=True)
        raw_means = nets.head(params, "actor.mean", features)
    means = [MEAN_LIMIT * math.tanh(x) for x in raw_means]
    scales = []
    for mean, raw_width in zip(means, nets.head(params, "actor.width", features), strict=True):
        fraction = NARROWEST + (1.0 - 2.0 * NARROWEST) / (1.0 + math.exp(-raw_width))
        half_width = fraction * (1.0 - abs(mean))
        scales.append(half_width / radius(config["q_actor"]))
    return means, scales


def sample(means: list[float], scales: list[float], z: np.ndarray) -> list[float]:
    """``m + sigma z`` per dimension."""
    return [means[i] + scales[i] * float(z[i]) for i in range(len(means))]


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The four losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B] (0 or 1); standard
            q-Gaussian noise z_act [B, A] of the actor, z_next_act [B, A] of the policy that bootstraps.
        config: discount, temperature, q_proposal, q_actor, weight_clip, bootstrap ('actor' or 'proposal'),
            actor_loss ('reverse_kl' or 'detached_k3'), share_mean.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    q_phi, q_theta = config["q_proposal"], config["q_actor"]
    n = len(batch["reward"])
    total = {"value": 0.0, "critic": 0.0, "proposal": 0.0, "actor": 0.0}
    for b in range(n):
        obs, next_obs = batch["obs"][b], batch["next_obs"][b]
        act = [float(x) for x in batch["act"][b]]

        drawn = sample(*actor(frozen, frozen, obs, config), batch["z_act"][b])
        baseline = nets.pessimistic(nets.action_values(frozen, "critic_target.net", obs, drawn))
        total["value"] += 0.5 * (nets.state_value(params, obs) - baseline) ** 2 / n

        if config["bootstrap"] == "actor":
            next_act = sample(*actor(frozen, frozen, next_obs, config), batch["z_next_act"][b])
        elif config["bootstrap"] == "proposal":
            next_act = sample(*proposal(frozen, next_obs), batch["z_next_act"][b])
            next_act = [min(max(x, -1.0), 1.0) for x in next_act]
        else:
            raise ValueError(config["bootstrap"])
        next_value = nets.pessimistic(nets.action_values(frozen, "critic_target.net", next_obs, next_act))
        still_running = 1.0 - float(batch["terminated"][b])
        target = float(batch["reward"][b]) + config["discount"] * still_running * next_value
        for q in nets.action_values(params, "critic.net", obs, act):
            total["critic"] += 0.5 * 0.5 * (target - q) ** 2 / n

        online = nets.pessimistic(nets.action_values(frozen, "critic.net", obs, act))
        advantage = online - nets.state_value(frozen, obs)
        weight = min(max(1.0 + advantage / config["temperature"], 0.0), config["weight_clip"])
        total["proposal"] -= weight * log_density(act, *proposal(params, obs), q_phi) / n

        means, scales = actor(params, frozen, obs, config)
        drawn = sample(means, scales, batch["z_act"][b])
        if config["actor_loss"] == "reverse_kl":
            expected_log_actor = -entropy(scales, q_theta)
            total["actor"] += (expected_log_actor - log_density(drawn, *proposal(frozen, obs), q_phi)) / n
        elif config["actor_loss"] == "detached_k3":
            # A constant to the gradient: the action in it is the frozen actor's.
            constant = sample(*actor(frozen, frozen, obs, config), batch["z_act"][b])
            log_ratio = log_density(constant, *proposal(frozen, obs), q_phi)
            log_ratio -= log_density(drawn, means, scales, q_theta)
            total["actor"] += (min(math.exp(log_ratio), MAX_RATIO) - 1.0 - log_ratio) / n
        else:
            raise ValueError(config["actor_loss"])
    return total


def reverse_kl(
    mean: float, scale: float, q_actor: float, location: float, spread: float, q_proposal: float
) -> float:
    """KL(pi_theta || pi_phi) in one dimension by adaptive quadrature over the actor's support."""
    half_width = radius(q_actor) * scale

    def integrand(x: float) -> float:
        p = density(x, mean, scale, q_actor)
        return p * math.log(p / density(x, location, spread, q_proposal)) if p > 0.0 else 0.0

    centre = sorted({mean, min(max(location, mean - 0.999 * half_width), mean + 0.999 * half_width)})
    result, _ = quad(
        integrand, mean - half_width, mean + half_width, points=centre, epsabs=1e-12, epsrel=1e-12, limit=400
    )
    return float(result)
