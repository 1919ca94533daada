"""Distributions as scipy knows them, and slow checks by quadrature; nothing here uses the code under test."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import integrate, special, stats


def q_gaussian(q: float, loc: float = 0.0, scale: float = 1.0) -> Any:
    """The q-Gaussian as a frozen scipy distribution: a Beta distribution (q < 1), normal (q = 1) or
    Student's t (q > 1)."""
    if q < 1.0:
        shape, reach = 1.0 / (1.0 - q) + 1.0, scale * math.sqrt((3.0 - q) / (1.0 - q))
        return stats.beta(shape, shape, loc=loc - reach, scale=2.0 * reach)
    if q == 1.0:
        return stats.norm(loc, scale)
    return stats.t((3.0 - q) / (q - 1.0), loc, scale)


def q_gaussian_density(x: float, q: float, loc: float = 0.0, scale: float = 1.0) -> float:
    """The density term by term: exp_q(-z^2/(3-q)) / (scale Z_q) with the normaliser by gamma functions."""
    z = (x - loc) / scale
    if q == 1.0:
        return math.exp(-0.5 * z * z) / (scale * math.sqrt(2.0 * math.pi))
    base = 1.0 - (1.0 - q) * z * z / (3.0 - q)
    power = 1.0 / abs(1.0 - q)
    if q < 1.0:
        ratio = special.gamma(power + 1.0) / special.gamma(power + 1.5)
    else:
        ratio = special.gamma(power - 0.5) / special.gamma(power)
    norm = math.sqrt(math.pi * (3.0 - q) * power) * ratio
    return float(max(base, 0.0) ** (1.0 / (1.0 - q)) / (scale * norm)) if base > 0.0 else 0.0


def integral(function: Callable[[float], float], low: float, high: float) -> float:
    """Integral by adaptive quadrature, to about ten digits; the ends may be infinite."""
    value, _ = integrate.quad(function, low, high, epsabs=1e-12, epsrel=1e-11, limit=500)
    return float(value)


def numerical_slope(function: Callable[[float], float], at: float, step: float = 1e-6) -> float:
    """Central difference of a function of one number."""
    return (function(at + step) - function(at - step)) / (2.0 * step)


def ks_p_value(draws: Any, cdf: Callable[..., Any]) -> float:
    """P-value of the Kolmogorov-Smirnov test of independent draws against a distribution function."""
    return float(stats.kstest(np.asarray(draws, dtype=np.float64).ravel(), cdf).pvalue)
