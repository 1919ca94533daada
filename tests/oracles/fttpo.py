"""Losses of fat-to-thin policy optimisation (Zhu, Wang, Nagai 2025, arXiv 2501.14373), row by row.

The actor is a product of one-dimensional q-Gaussians, and so is the proposal, for z = (x - mu) / sigma

    p(x) = exp_q(-z^2 / (3 - q)) / (sigma Z_q),     exp_q(u) = [1 + (1 - q) u]_+^(1 / (1 - q))

(Tsallis' exponential; Z_q makes the density integrate to 1), unless it is a squashed Gaussian (tanh of
N(loc, sigma^2)) or Student's t with df = 1.000001 + softplus. The heavy-tailed proposal pi_phi is fitted to
the data, the actor pi_theta to the proposal. With a~ = m + sigma z drawn from the actor, Qmin the smaller
critic and a bar for targets:

    L_V    = mean 1/2 (V(s) - Qbar_min(s, a~))^2
    L_Q    = 1/2 sum_i mean 1/2 (r + gamma (1 - d) Qbar_min(s', a') - Q_i(s, a))^2
    L_phi  = -mean  min([1 + (Q_min(s, a) - V(s)) / tau]_+, clip) ln pi_phi(a|s)
    L_actor = mean  -H(pi_theta) - ln pi_phi(a~|s)                      (reverse KL; H in closed form)
           or mean  KL(pi_theta || pi_phi) as an integral               (quadrature)
           or mean  min(exp(l), 1e4) - 1 - l,  l = ln pi_phi(a~|s) - ln pi_theta(a~|s), ln pi_phi a constant
           or mean  -ln pi_phi(a~|s)                                    (maximum likelihood, copied mean)
           or mean  -Q_min(s, a~) / mean |Q_min(s, a~)| - tau ln pi_phi(a~|s)                        (SPOT)
           or mean  -mean over the best floor(rho K) of K draws of ln pi_theta - tau ln pi_phi(a~|s)  (GAC)
           or mean  -weight ln pi_theta(a|s), ln pi_theta = -30 where a is no inner point            (TAWAC)

Doses beyond [-1, 1] reach a critic as the nearer end. ``frozen`` holds the parameters wherever an equation
takes no gradient, so that finite differences in ``params`` see the same path as automatic differentiation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import psi

from tests.oracles import mlp as nets
from tests.oracles.policies import Normal, executed, softplus

MEAN_LIMIT = 0.999
NARROWEST = 1e-3  # the smallest half-width, as a fraction of the room up to the box; 1 - this is the largest
MAX_LOG_VARIANCE = math.log(1000.0)
MAX_RATIO = 1e4
INNER = 0.999
OUTSIDE = -30.0

LogDensity = Callable[[float], float]


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


def proposal_distributions(params: nets.Arrays, obs: np.ndarray, config: dict[str, Any]) -> list[LogDensity]:
    """``ln pi_phi(.|s)`` of every dimension as a function of the dose."""
    family = config.get("proposal", "q_gaussian")
    if family == "q_gaussian":
        q = config["q_proposal"]
        return [
            lambda x, m=m, s=s: math.log(density(x, m, s, q))
            for m, s in zip(*proposal(params, obs), strict=True)
        ]
    features = nets.mlp(params, "proposal.trunk", [float(x) for x in obs], trunk=True)
    raw, log_std = (nets.head(params, f"proposal.{name}", features) for name in ("mean", "log_std"))
    if family == "squashed_gaussian":
        normals = [Normal(m, math.exp(min(max(s, -20.0), 2.0))) for m, s in zip(raw, log_std, strict=True)]
        return [lambda x, n=n: n.logpdf(math.atanh(x)) - math.log(1.0 - x * x) for n in normals]
    distributions = [
        (1.000001 + softplus(df), MEAN_LIMIT * math.tanh(m), math.exp(min(max(s, -14.0), 0.0)))
        for df, m, s in zip(nets.head(params, "proposal.df", features), raw, log_std, strict=True)
    ]
    return [
        lambda x, distribution=distribution: log_student(x, *distribution) for distribution in distributions
    ]


def log_student(x: float, df: float, loc: float, scale: float) -> float:
    """Log density of Student's t, fifty times faster than scipy's."""
    log_norm = math.lgamma(0.5 * (df + 1.0)) - math.lgamma(0.5 * df) - 0.5 * math.log(df * math.pi)
    z = (x - loc) / scale
    return log_norm - math.log(scale) - 0.5 * (df + 1.0) * math.log1p(z * z / df)


def log_proposal(params: nets.Arrays, obs: np.ndarray, act: list[float], config: dict[str, Any]) -> float:
    """``ln pi_phi(a|s)``, summed over dimensions."""
    distributions = proposal_distributions(params, obs, config)
    return sum(distribution(a) for distribution, a in zip(distributions, act, strict=True))


def density_of_spot(params: nets.Arrays, config: dict[str, Any]) -> nets.Arrays:
    """The parameters in which spot's density is called the proposal."""
    if config.get("spot_density", "proposal") == "proposal":
        return params
    return {
        name.replace("behaviour.", "proposal."): x for name, x in params.items() if "proposal." not in name
    }


def recorded(act: list[float], config: dict[str, Any]) -> list[float]:
    """A recorded dose as the proposal's likelihood sees it: inside the limits for a squashed Gaussian."""
    if config.get("proposal") != "squashed_gaussian":
        return act
    return [min(max(a, -1.0 + 1e-6), 1.0 - 1e-6) for a in act]


def proposal_draw(
    params: nets.Arrays, obs: np.ndarray, uniform: np.ndarray, z: np.ndarray, config: dict[str, Any]
) -> list[float]:
    """One dose of the proposal, from uniform numbers (Student's t, squashed Gaussian) or standard draws."""
    family = config.get("proposal", "q_gaussian")
    if family == "q_gaussian":
        return sample(*proposal(params, obs), z)
    features = nets.mlp(params, "proposal.trunk", [float(x) for x in obs], trunk=True)
    raw, log_std = (nets.head(params, f"proposal.{name}", features) for name in ("mean", "log_std"))
    drawn = []
    for i, u in enumerate(uniform):
        if family == "squashed_gaussian":
            scale = math.exp(min(max(log_std[i], -20.0), 2.0))
            drawn.append(math.tanh(raw[i] + scale * float(stats.norm.ppf(u[0]))))
        else:
            df = 1.000001 + softplus(nets.head(params, "proposal.df", features)[i])
            t = math.sqrt(df * (float(u[0]) ** (-2.0 / df) - 1.0)) * math.cos(2.0 * math.pi * float(u[1]))
            scale = math.exp(min(max(log_std[i], -14.0), 0.0))
            drawn.append(MEAN_LIMIT * math.tanh(raw[i]) + scale * t)
    return drawn


def index_of_actor(config: dict[str, Any]) -> float:
    """The actor's index; the Gaussian counterpart is the q-Gaussian with q = 1."""
    return 1.0 if config.get("actor") == "gaussian" else float(config["q_actor"])


def actor(
    params: nets.Arrays, frozen: nets.Arrays, obs: np.ndarray, config: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """Mean and scale of pi_theta(.|s) per dimension; what it shares with the proposal is ``frozen``'s."""
    row = [float(x) for x in obs]
    if config["share_mean"] and config["actor_loss"] != "max_likelihood":
        features = nets.mlp(frozen, "proposal.trunk", row, trunk=True)
        raw_means = nets.head(frozen, "proposal.mean", features)
    else:
        features = nets.mlp(params, "actor.trunk", row, trunk=True)
        raw_means = nets.head(params, "actor.mean", features)
    means = [MEAN_LIMIT * math.tanh(x) for x in raw_means]
    q = index_of_actor(config)
    if config["actor_loss"] == "closed_form_width":
        scales = [width_ratio(q, config["q_proposal"]) * spread for spread in proposal(frozen, obs)[1]]
        if q < 1.0:
            rooms = [(1.0 - abs(mean)) / radius(q) for mean in means]
            scales = [
                min(max(scale, NARROWEST * room), (1.0 - NARROWEST) * room)
                for scale, room in zip(scales, rooms, strict=True)
            ]
        return means, scales
    scales = []
    for mean, raw_width in zip(means, nets.head(params, "actor.width", features), strict=True):
        if q == 1.0:
            scales.append(math.exp(min(max(raw_width, -5.0), 2.0)))
            continue
        fraction = NARROWEST + (1.0 - 2.0 * NARROWEST) / (1.0 + math.exp(-raw_width))
        scales.append(fraction * (1.0 - abs(mean)) / radius(q))
    return means, scales


@functools.cache
def width_ratio(q: float, q_other: float) -> float:
    """Scale of the actor over that of a proposal of the same centre where their divergence has no slope.

    The slope in ln(scale) is -1 - E[x (ln other)'(x)], with (ln p)'(x) = -2x / (3 - q + (q - 1) x^2).
    """

    def slope(scale: float) -> float:
        reach = 12.0 * scale if q == 1.0 else radius(q) * scale

        def integrand(x: float) -> float:
            return density(x, 0.0, scale, q) * 2.0 * x * x / (3.0 - q_other + (q_other - 1.0) * x * x)

        return 2.0 * float(quad(integrand, 0.0, reach, epsabs=1e-13, epsrel=1e-13, limit=200)[0]) - 1.0

    return float(brentq(slope, 0.1, 20.0, xtol=1e-13))


def sample(means: list[float], scales: list[float], z: np.ndarray) -> list[float]:
    """``m + sigma z`` per dimension."""
    return [means[i] + scales[i] * float(z[i]) for i in range(len(means))]


def divergence(means: list[float], scales: list[float], q: float, distributions: list[LogDensity]) -> float:
    """KL(pi_theta || pi_phi), by Gauss-Legendre sums: over w = sin(t), |w| < 1, or over |z| < 12 if q = 1."""
    nodes, weights = np.polynomial.legendre.leggauss(120)
    reach = 12.0 if q == 1.0 else 0.5 * math.pi
    total = -entropy(scales, q)
    for mean, scale, log_other in zip(means, scales, distributions, strict=True):
        for t, weight in zip(reach * nodes, reach * weights, strict=True):
            z, stretch = (t, 1.0) if q == 1.0 else (radius(q) * math.sin(t), radius(q) * math.cos(t))
            x = mean + scale * z
            total -= weight * stretch * scale * density(x, mean, scale, q) * log_other(x)
    return total


def actor_loss(
    params: nets.Arrays,
    frozen: nets.Arrays,
    batch: nets.Arrays,
    b: int,
    config: dict[str, Any],
    size: float,
    weight: float,
) -> float:
    """The actor's loss of row ``b``, with SPOT's mean |Q_min| and the recorded dose's weight."""
    kind, tau, q = config["actor_loss"], config["temperature"], index_of_actor(config)
    obs = batch["obs"][b]
    means, scales = actor(params, frozen, obs, config)
    fixed_means, fixed_scales = actor(frozen, frozen, obs, config)
    drawn = sample(means, scales, batch["z_act"][b])
    if kind == "reverse_kl":
        return -entropy(scales, q) - log_proposal(frozen, obs, drawn, config)
    if kind == "quadrature_kl":
        return divergence(means, scales, q, proposal_distributions(frozen, obs, config))
    if kind == "detached_k3":
        # A constant to the gradient: the action in it is the frozen actor's.
        constant = sample(fixed_means, fixed_scales, batch["z_act"][b])
        log_ratio = log_proposal(frozen, obs, constant, config) - log_density(drawn, means, scales, q)
        return min(math.exp(log_ratio), MAX_RATIO) - 1.0 - log_ratio
    if kind in ("max_likelihood", "copy_mu"):
        return -log_proposal(frozen, obs, drawn, config)
    if kind == "spot":
        value = nets.pessimistic(nets.action_values(frozen, "critic.net", obs, executed(drawn)))
        return -value / size - tau * log_proposal(density_of_spot(frozen, config), obs, drawn, config)
    if kind == "gac":
        doses = [sample(fixed_means, fixed_scales, z) for z in batch["z_candidates"][b]]
        values = [
            nets.pessimistic(nets.action_values(frozen, "critic.net", obs, executed(dose))) for dose in doses
        ]
        best = sorted(range(len(doses)), key=lambda k: -values[k])[: int(config["rho"] * len(doses))]
        likelihood = 0.0
        for k in best:
            for i, a in enumerate(doses[k]):
                reach = math.inf if q == 1.0 else INNER * radius(q) * scales[i]
                inner = means[i] + min(max(a - means[i], -reach), reach)
                likelihood += math.log(density(inner, means[i], scales[i], q)) / len(best)
        return -likelihood - tau * log_proposal(frozen, obs, drawn, config)
    if kind == "tawac":
        act = [float(x) for x in batch["act"][b]]
        reach = math.inf if q == 1.0 else INNER * radius(q)
        inside = all(abs(a - m) < reach * s for a, m, s in zip(act, means, scales, strict=True))
        return -weight * (log_density(act, means, scales, q) if inside else OUTSIDE)
    raise ValueError(kind)


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The losses of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B] (0 or 1); standard
            q-Gaussian noise z_act [B, A] of the actor, z_next_act [B, A] of the q-Gaussian that bootstraps
            (u_next_act [B, A, n] for another proposal), z_candidates [B, K, A] for GAC.
        config: discount, temperature, q_proposal, q_actor, weight_clip, bootstrap ('actor' or 'proposal'),
            actor_loss, share_mean; proposal, actor and rho where they are not the defaults.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    total = {"value": 0.0, "critic": 0.0, "proposal": 0.0, "actor": 0.0}
    size = 0.0
    for b in range(n):
        drawn = executed(sample(*actor(frozen, frozen, batch["obs"][b], config), batch["z_act"][b]))
        values = nets.action_values(frozen, "critic.net", batch["obs"][b], drawn)
        size += abs(nets.pessimistic(values)) / n
    for b in range(n):
        obs, next_obs = batch["obs"][b], batch["next_obs"][b]
        act = [float(x) for x in batch["act"][b]]

        drawn = executed(sample(*actor(frozen, frozen, obs, config), batch["z_act"][b]))
        baseline = nets.pessimistic(nets.action_values(frozen, "critic_target.net", obs, drawn))
        total["value"] += 0.5 * (nets.state_value(params, obs) - baseline) ** 2 / n

        if config["bootstrap"] == "actor":
            next_act = sample(*actor(frozen, frozen, next_obs, config), batch["z_next_act"][b])
        elif config["bootstrap"] == "proposal":
            uniform, z = (batch.get(f"{kind}_next_act", [None] * n)[b] for kind in "uz")
            next_act = proposal_draw(frozen, next_obs, uniform, z, config)
        else:
            raise ValueError(config["bootstrap"])
        next_values = nets.action_values(frozen, "critic_target.net", next_obs, executed(next_act))
        still_running = 1.0 - float(batch["terminated"][b])
        target = float(batch["reward"][b])
        target += config["discount"] * still_running * nets.pessimistic(next_values)
        for q in nets.action_values(params, "critic.net", obs, act):
            total["critic"] += 0.5 * 0.5 * (target - q) ** 2 / n

        online = nets.pessimistic(nets.action_values(frozen, "critic.net", obs, act))
        advantage = online - nets.state_value(frozen, obs)
        weight = min(max(1.0 + advantage / config["temperature"], 0.0), config["weight_clip"])
        total["proposal"] -= weight * log_proposal(params, obs, recorded(act, config), config) / n
        if config.get("spot_density") == "behaviour":
            likelihood = log_proposal(density_of_spot(params, config), obs, recorded(act, config), config)
            total["behaviour"] = total.get("behaviour", 0.0) - likelihood / n
        if config["actor_loss"] != "closed_form_width":
            total["actor"] += actor_loss(params, frozen, batch, b, config, size, weight) / n
    if config["actor_loss"] == "closed_form_width":
        del total["actor"]
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
