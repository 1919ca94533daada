"""Special functions behind the distributions: normalisers, and incomplete beta functions by scipy.

The Python functions take one float, the shape of a whole batch, and are exact to rounding for every argument,
large ones included (that is the limit q -> 1). The scipy functions run on the CPU in double precision
whatever the device and precision of their arguments, and carry no gradient: the distributions attach the
density.

Source: Abramowitz and Stegun 1964, 6.1.47 (ratio of gamma functions), 6.3.5 (digamma recurrence), 26.5.27 and
26.7.1 (Student's t and the incomplete beta function).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor

from dosing.types import Array


def log_gamma_half_step(b: float) -> float:
    """Return ln Gamma(b + 1/2) - ln Gamma(b) for b > 0, without cancellation at large b."""
    if b < 50.0:
        return math.lgamma(b + 0.5) - math.lgamma(b)
    return 0.5 * math.log(b) - (1 / 8 - (1 / 192 - (1 / 640 - 17 / 14336 / b**2) / b**2) / b**2) / b


def digamma_half_step(b: float) -> float:
    """Return psi(b + 1/2) - psi(b) for b > 0, without cancellation at large b."""
    total = 0.0
    while b < 50.0:
        total += 0.5 / (b * (b + 0.5))
        b += 1.0
    return total + (0.5 + (1 / 8 - (1 / 64 - (1 / 128 - 17 / 2048 / b**2) / b**2) / b**2) / b) / b


def arch_cdf(w: Tensor, power: float) -> Tensor:
    """Return the distribution function at w of the density proportional to (1 - w^2)^power on (-1, 1).

    Args:
        w: any shape; 0 below -1, 1 above +1.
        power: above -1.
    """

    def tail(w: Array) -> Array:
        size = np.minimum(np.abs(w), 1.0)
        square, rest = size * size, (1.0 - size) * (1.0 + size)
        centre = special.betaincc(0.5, power + 1.0, square)
        edge = special.betainc(power + 1.0, 0.5, rest)
        return 0.5 * np.where(square < 0.5, centre, edge)

    return _on_cpu(lambda w: _from_tail(w, tail(w)), w)


def arch_icdf(p: Tensor, power: float) -> Tensor:
    """Return the quantile at p, the inverse of :func:`arch_cdf`, in [-1, 1]; NaN for p outside [0, 1]."""

    def quantile(p: Array) -> Array:
        x, _ = _square_and_rest(p, power + 1.0)
        return np.copysign(np.sqrt(x), p - 0.5)

    return _on_cpu(quantile, p)


def t_cdf(z: Tensor, df: Tensor | float) -> Tensor:
    """Return the distribution function at z of Student's t with ``df`` degrees of freedom.

    Args:
        z: any shape.
        df: above 0, broadcasts against z.
    """

    def cdf(z: Array, df: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            ratio = z * (z / df)
            rest = 1.0 / (1.0 + ratio)
            centre = special.betaincc(0.5, df / 2.0, np.where(ratio < 1.0, ratio * rest, 0.5))
        return _from_tail(z, 0.5 * np.where(ratio < 1.0, centre, special.betainc(df / 2.0, 0.5, rest)))

    return _on_cpu(cdf, z, df)


def t_icdf(p: Tensor, df: Tensor | float) -> Tensor:
    """Return the quantile at p, the inverse of :func:`t_cdf`; NaN for p outside [0, 1]."""

    def quantile(p: Array, df: Array) -> Array:
        x, rest = _square_and_rest(p, df / 2.0)
        with np.errstate(divide="ignore", over="ignore"):
            return np.copysign(np.sqrt(df * (x / rest)), p - 0.5)

    return _on_cpu(quantile, p, df)


def beta_cdf(x: Tensor, rest: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the distribution function at x of Beta(alpha, beta).

    Args:
        x: in [0, 1].
        rest: 1 - x, passed separately so that neither end loses digits.
        alpha: above 0.
        beta: above 0.
    """

    def cdf(x: Array, rest: Array, alpha: Array, beta: Array) -> Array:
        upper = special.betaincc(beta, alpha, np.minimum(rest, 0.5))
        return np.where(x < 0.5, special.betainc(alpha, beta, np.minimum(x, 0.5)), upper)

    return _on_cpu(cdf, x, rest, alpha, beta)


def beta_icdf(p: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the quantile at p of Beta(alpha, beta), in [0, 1]; NaN for p outside [0, 1]."""
    return _on_cpu(lambda p, alpha, beta: special.betaincinv(alpha, beta, p), p, alpha, beta)


def _from_tail(z: Array, tail: Array) -> Array:
    """Return the cdf at z of a symmetric distribution, given its mass beyond |z| on one side."""
    return np.where(z < 0.0, tail, 1.0 - tail)


def _square_and_rest(p: Array, b: Array | float) -> tuple[Array, Array]:
    """Solve I_x(1/2, b) = |2p - 1| for x; return x and 1 - x, the smaller of the two to full precision."""
    offset, tail = np.abs(p - 0.5), np.minimum(p, 1.0 - p)
    valid = (p >= 0.0) & (p <= 1.0)
    near_centre = offset < 0.25
    by_offset = special.betaincinv(0.5, b, np.where(near_centre, 2.0 * offset, 0.5))
    by_tail = special.betainccinv(0.5, b, np.where(near_centre | ~valid, 0.5, 2.0 * tail))
    x = np.where(near_centre, by_offset, by_tail)
    far = valid & (x > 0.5)
    rest = np.where(far, special.betaincinv(b, 0.5, np.where(far, 2.0 * tail, 0.5)), 1.0 - x)
    x = np.where(far, 1.0 - rest, x)
    return np.where(valid, x, np.nan).astype(np.float64), rest.astype(np.float64)


def _on_cpu(function: Callable[..., Any], first: Tensor, *others: Tensor | float) -> Tensor:
    """Apply a numpy function in double precision; return the precision and device of the first tensor."""
    arrays = [
        value.detach().to("cpu", torch.float64).numpy() if isinstance(value, Tensor) else np.float64(value)
        for value in (first, *others)
    ]
    return torch.from_numpy(np.asarray(function(*arrays), dtype=np.float64)).to(first)
