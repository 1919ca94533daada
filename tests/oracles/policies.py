"""Distributions of a policy network at one state, one dose dimension at a time, from the parameters of one
seed.

A network ``name`` has a trunk ``name.trunk`` and linear heads ``name.loc``, ``name.scale`` (or one free
number per dimension) and ``name.df``. With sigma = exp(clip(scale)):

    clipped_gaussian    N(tanh(loc), sigma^2)
    squashed_gaussian   tanh of N(loc, sigma^2):  ln N(atanh a) - ln(1 - a^2)
    truncated_normal    N(tanh(loc), sigma^2) restricted to [-1, 1], with
                        sigma = exp(low + (high - low) (1 + tanh(scale)) / 2)
    student_t           location tanh(loc), scale sigma, df = 1 + softplus(df)
    beta                a = 2x - 1, x ~ Beta(1 + softplus(loc), 1 + softplus(scale)):  ln Beta(x) - ln 2
    heavy_q_gaussian    q-Gaussian(q), location tanh(loc), scale sigma
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from tests.oracles import mlp as nets

EDGE = 1e-6


@dataclass(frozen=True)
class Normal:
    """The normal distribution, fifty times faster than scipy's."""

    mean: float
    sigma: float

    def logpdf(self, x: float) -> float:
        """Log density."""
        z = (x - self.mean) / self.sigma
        return -0.5 * z * z - math.log(self.sigma) - 0.5 * math.log(2.0 * math.pi)

    def ppf(self, p: float) -> float:
        """Quantile."""
        return self.mean + self.sigma * float(special.ndtri(p))


class TruncatedNormal(Normal):
    """The normal distribution restricted to [-1, 1]."""

    def below(self, x: float) -> float:
        """Normal mass below x."""
        return float(special.ndtr((x - self.mean) / self.sigma))

    def logpdf(self, x: float) -> float:
        """Log density."""
        return super().logpdf(x) - math.log(self.below(1.0) - self.below(-1.0))

    def ppf(self, p: float) -> float:
        """Quantile."""
        return super().ppf(self.below(-1.0) + p * (self.below(1.0) - self.below(-1.0)))


def softplus(x: float) -> float:
    """``ln(1 + e^x)``."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def heads(params: nets.Arrays, name: str, obs: np.ndarray) -> list[dict[str, float]]:
    """Raw head outputs of every dose dimension."""
    features = nets.mlp(params, f"{name}.trunk", [float(x) for x in obs], trunk=True)
    raw = {"loc": nets.head(params, f"{name}.loc", features)}
    if f"{name}.scale" in params:
        raw["scale"] = [float(x) for x in params[f"{name}.scale"][0]]
    else:
        raw["scale"] = nets.head(params, f"{name}.scale", features)
    if f"{name}.df.weight" in params:
        raw["df"] = nets.head(params, f"{name}.df", features)
    return [{key: values[i] for key, values in raw.items()} for i in range(len(raw["loc"]))]


def distribution_of(family: str, raw: dict[str, float], config: dict[str, Any]) -> Any:
    """The distribution on its own axis: before tanh for the squashed Gaussian, on [0, 1] for Beta."""
    if family == "beta":
        return stats.beta(1.0 + softplus(raw["loc"]), 1.0 + softplus(raw["scale"]))
    sigma = math.exp(min(max(raw["scale"], config["log_std_min"]), config["log_std_max"]))
    if family == "squashed_gaussian":
        return Normal(raw["loc"], sigma)
    mean = math.tanh(raw["loc"])
    if family == "clipped_gaussian":
        return Normal(mean, sigma)
    if family == "truncated_normal":
        reach = config["log_std_max"] - config["log_std_min"]
        log_sigma = config["log_std_min"] + reach * 0.5 * (1.0 + math.tanh(raw["scale"]))
        return TruncatedNormal(mean, math.exp(log_sigma))
    if family == "student_t":
        return stats.t(1.0 + softplus(raw["df"]), mean, sigma)
    assert family == "heavy_q_gaussian"
    q = config.get("policy_q", 2.0)
    return stats.t((3.0 - q) / (q - 1.0), mean, sigma)


def log_policy(
    params: nets.Arrays, name: str, obs: np.ndarray, act: list[float], config: dict[str, Any]
) -> float:
    """``ln pi(a|s)``, summed over independent dose dimensions."""
    family = config.get("policy_family", "clipped_gaussian")
    total = 0.0
    for raw, a in zip(heads(params, name, obs), act, strict=True):
        distribution = distribution_of(family, raw, config)
        if family in ("squashed_gaussian", "beta"):
            a = min(max(float(a), -1.0 + EDGE), 1.0 - EDGE)
        if family == "squashed_gaussian":
            total += float(distribution.logpdf(math.atanh(a))) - math.log(1.0 - a * a)
        elif family == "beta":
            total += float(distribution.logpdf(0.5 * (a + 1.0))) - math.log(2.0)
        else:
            total += float(distribution.logpdf(float(a)))
    return total


def sample(
    params: nets.Arrays, name: str, obs: np.ndarray, uniform: np.ndarray, config: dict[str, Any]
) -> list[float]:
    """One action per dose dimension by the inverse distribution function at ``uniform [A, 1]``.

    Student's t takes ``uniform [A, 2]``: t = sqrt(df (U1^(-2/df) - 1)) cos(2 pi U2) (Bailey 1994, Math. Comp.
    62:779).
    """
    family = config.get("policy_family", "clipped_gaussian")
    assert uniform.shape[1] == (2 if family == "student_t" else 1)
    drawn = []
    for raw, u in zip(heads(params, name, obs), uniform, strict=True):
        distribution = distribution_of(family, raw, config)
        if family == "student_t":
            df, mean, sigma = distribution.args
            t = math.sqrt(df * (float(u[0]) ** (-2.0 / df) - 1.0)) * math.cos(2.0 * math.pi * float(u[1]))
            drawn.append(mean + sigma * t)
            continue
        value = float(distribution.ppf(float(u[0])))
        drawn.append({"squashed_gaussian": math.tanh(value), "beta": 2.0 * value - 1.0}.get(family, value))
    return drawn


def executed(act: list[float]) -> list[float]:
    """The action as it is carried out: every dose dimension moved to the nearer end of [-1, 1] if outside."""
    return [min(max(a, -1.0), 1.0) for a in act]
