"""The four losses of FtTPO's released code (github.com/lingweizhu/fat2thin) as it computes them, row by row.

With Sigma the diagonal squared scale, d^2 = sum (a - mu)^2 / Sigma and n dimensions; every dose is clamped to
+-(1 - 1e-6) and every mean is that number times tanh:

    proposal  ln p = ln exp_q(-d^2 / (2 (3 - q))) - ln Z,
              Z = Gamma(b) (pi (3 - q) / (q - 1))^(n/2) / Gamma(b + n/2) |Sigma|^(1/2),
              b = (3 - q) / (2 (q - 1)),
              drawn as mu + sqrt(Sigma) sqrt(-2 ln_k U1) cos(2 pi U2),  k = (q - 1) / (3 - q)
    actor     p = [(alpha - 1) (t - d^2 / 2)]_+^(1 / (alpha - 1)),  alpha = 2 - q,
              t = R^2 |Sigma|^(-1 / (n + 2 / (alpha - 1))) / 2, its half-width on axis i sqrt(2 t Sigma_i)
              drawn as mu + half-width sqrt(B) (direction), B ~ Beta(n/2, alpha / (alpha - 1))
    V, Q      as in the method, the next dose from the proposal
    L_phi     weight clip([1 + advantage / tau]_+, 1e-8, 1e4)
    L_actor   min(exp(l), 1e4) - 1 - l,  l = ln pi_phi - ln pi_theta, ln pi_phi a constant
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special, stats

from tests.oracles import mlp as nets

EDGE = 1.0 - 1e-6


def clamped(act: list[float]) -> list[float]:
    """Every dose within +-(1 - 1e-6)."""
    return [min(max(a, -EDGE), EDGE) for a in act]


def heads(params: nets.Arrays, name: str, scale: str, obs: np.ndarray) -> tuple[list[float], list[float]]:
    """Raw mean and raw scale of a policy."""
    features = nets.mlp(params, f"{name}.trunk", [float(x) for x in obs], trunk=True)
    return nets.head(params, f"{name}.mean", features), nets.head(params, f"{name}.{scale}", features)


class Fat:
    """The proposal at one state."""

    def __init__(self, params: nets.Arrays, obs: np.ndarray, config: dict[str, Any]) -> None:
        self.squashed = config["proposal"] == "squashed_gaussian"
        raw, log_scale = heads(params, "proposal", "log_std" if self.squashed else "log_variance", obs)
        if self.squashed:
            self.mean = raw
            self.scale = [math.exp(min(max(x, -20.0), 2.0)) for x in log_scale]
        else:
            bound = math.log(1000.0)
            self.mean = [EDGE * math.tanh(x) for x in raw]
            self.sigma = [math.exp(min(max(x, -bound), bound)) for x in log_scale]
        self.q = config["q_proposal"]

    def draw(self, uniform: np.ndarray) -> list[float]:
        """A clamped dose from ``uniform [A, 2]``, or ``[A, 1]`` if squashed."""
        if self.squashed:
            normal = [float(stats.norm.ppf(u[0])) for u in uniform]
            return [math.tanh(m + s * z) for m, s, z in zip(self.mean, self.scale, normal, strict=True)]
        k = (self.q - 1.0) / (3.0 - self.q)
        drawn = []
        for mean, sigma, (u1, u2) in zip(self.mean, self.sigma, uniform, strict=True):
            log_k = math.log(u1) if k == 1.0 else (u1 ** (1.0 - k) - 1.0) / (1.0 - k)
            drawn.append(mean + math.sqrt(sigma) * math.sqrt(-2.0 * log_k) * math.cos(2.0 * math.pi * u2))
        return clamped(drawn)

    def log_prob(self, act: list[float]) -> float:
        """What the released code calls the log-density."""
        if self.squashed:
            total = 0.0
            for a, inner, m, s in zip(act, clamped(act), self.mean, self.scale, strict=True):
                total += float(stats.norm.logpdf(math.atanh(inner), m, s)) - math.log(1.0 - a * a + 1e-6)
            return total
        q, n = self.q, len(act)
        d2 = sum((a - m) ** 2 / s for a, m, s in zip(clamped(act), self.mean, self.sigma, strict=True))
        base = 1.0 + (1.0 - q) * (-0.5 * d2 / (3.0 - q))
        b = (3.0 - q) / (2.0 * (q - 1.0))
        z = math.gamma(b) * (math.pi * (3.0 - q) / (q - 1.0)) ** (0.5 * n) / math.gamma(b + 0.5 * n)
        z *= math.sqrt(math.prod(self.sigma))
        return math.log(base ** (1.0 / (1.0 - q)) / z)


class Thin:
    """The actor at one state."""

    def __init__(self, params: nets.Arrays, obs: np.ndarray, config: dict[str, Any]) -> None:
        raw, log_sigma = heads(params, "actor", "width", obs)
        self.mean = [EDGE * min(max(math.tanh(x), -EDGE), EDGE) for x in raw]
        self.sigma = [math.exp(min(max(x, -14.0), math.log(EDGE))) for x in log_sigma]
        self.alpha = 2.0 - config["q_actor"]
        n, m = len(raw), self.alpha - 1.0
        ratio = self.alpha / m
        radius = special.gamma(0.5 * n + ratio) / (special.gamma(ratio) * math.pi ** (0.5 * n))
        radius = (radius * (2.0 / m) ** (1.0 / m)) ** (m / (2.0 + m * n))
        self.threshold = 0.5 * radius**2 * math.prod(self.sigma) ** (-1.0 / (n + 2.0 / m))

    def half_widths(self) -> list[float]:
        """Half the extent of the support along each axis."""
        return [math.sqrt(2.0 * self.threshold * sigma) for sigma in self.sigma]

    def draw(self, uniform: np.ndarray) -> list[float]:
        """A clamped dose from ``uniform [A + 1]``: radius, then direction by normal draws."""
        n = len(self.mean)
        radius = math.sqrt(special.betaincinv(0.5 * n, self.alpha / (self.alpha - 1.0), uniform[0]))
        normal = [float(stats.norm.ppf(u)) for u in uniform[1:]]
        length = math.sqrt(sum(z * z for z in normal))
        return clamped(
            [
                m + h * radius * z / length
                for m, h, z in zip(self.mean, self.half_widths(), normal, strict=True)
            ]
        )

    def log_prob(self, act: list[float]) -> float:
        """Log-density at a dose inside the support."""
        d2 = sum((a - m) ** 2 / s for a, m, s in zip(act, self.mean, self.sigma, strict=True))
        return math.log((self.alpha - 1.0) * (self.threshold - 0.5 * d2)) / (self.alpha - 1.0)


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The four losses of one seed at one set of parameters; arguments as in :func:`oracles.fttpo.losses`.

    The noise is u_value_act and u_act [B, A + 1] of the actor, u_next_act [B, A, n] of the proposal.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    total = {"value": 0.0, "critic": 0.0, "proposal": 0.0, "actor": 0.0}
    for b in range(n):
        obs, next_obs = batch["obs"][b], batch["next_obs"][b]
        act = [float(x) for x in batch["act"][b]]
        drawn = Thin(frozen, obs, config).draw(batch["u_value_act"][b])
        baseline = nets.pessimistic(nets.action_values(frozen, "critic_target.net", obs, drawn))
        total["value"] += 0.5 * (nets.state_value(params, obs) - baseline) ** 2 / n

        next_act = Fat(frozen, next_obs, config).draw(batch["u_next_act"][b])
        next_value = nets.pessimistic(nets.action_values(frozen, "critic_target.net", next_obs, next_act))
        target = float(batch["reward"][b])
        target += config["discount"] * (1.0 - float(batch["terminated"][b])) * next_value
        for q in nets.action_values(params, "critic.net", obs, act):
            total["critic"] += 0.25 * (target - q) ** 2 / n

        advantage = nets.pessimistic(nets.action_values(frozen, "critic.net", obs, act))
        advantage -= nets.state_value(frozen, obs)
        weight = min(max(1.0 + advantage / config["temperature"], 1e-8), config["weight_clip"])
        total["proposal"] -= weight * Fat(params, obs, config).log_prob(act) / n

        thin = Thin(params, obs, config)
        drawn = thin.draw(batch["u_act"][b])
        constant = Thin(frozen, obs, config).draw(batch["u_act"][b])
        log_ratio = Fat(frozen, obs, config).log_prob(constant) - thin.log_prob(drawn)
        total["actor"] += (min(math.exp(log_ratio), 1e4) - 1.0 - log_ratio) / n
    return total
