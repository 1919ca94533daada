"""Averages over a bounded q-Gaussian or a normal distribution without draws, and widths they imply.

With density proportional to (1 - w^2)^p on (-1, 1), p = 1/(1-q), an average is a Gauss-Jacobi sum; over a
normal distribution it is a Gauss-Hermite sum. Source: Golub and Welsch 1969, Math. Comp. 23:221.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from dosing.distributions.q_gaussian import support_radius
from dosing.errors import UserError
from dosing.types import Array


def standard_nodes(q: float, n: int) -> tuple[Array, Array]:
    """Nodes and weights with E f(z) = sum of weight f(node), z a standard q-Gaussian.

    Exact for polynomials f of degree below 2n. For f = ln of a heavy-tailed distribution of scale s around
    the same centre, seen by a distribution of half-width h, the error falls like r^-2n with r = s/h + sqrt(1
    + (s/h)^2) for a Cauchy distribution: at the width of least divergence 20 nodes give 1e-6 for q = 0. For a
    normal distribution it falls like exp(-c sqrt(n)) only, and 128 nodes do.

    Args:
        q: index, at most 1.
        n: nodes, at least 1.

    Returns:
        ``[n]`` nodes, all strictly inside the support, and ``[n]`` weights of sum 1.

    Raises:
        UserError: q is above 1, or there is no node.
    """
    if q > 1.0 or n < 1:
        raise UserError(f"quadrature needs an index of at most 1 and at least one node, got {q:g} and {n}.")
    if q == 1.0:
        nodes, weights = special.roots_hermitenorm(n)
    else:
        power = 1.0 / (1.0 - q)
        nodes, weights = special.roots_jacobi(n, power, power)
        nodes = nodes * support_radius(q)
    return np.asarray(nodes, dtype=np.float64), np.asarray(weights / weights.sum(), dtype=np.float64)


def least_divergence_scale(q: float, q_other: float) -> float:
    """Scale of the q-Gaussian of least KL(it || other), the other having the same centre and scale 1.

    The divergence is stationary where E[-x (ln other)'(x)] = 1, and the left side grows with the scale. It is
    E[x^2] beside a normal distribution, else E[(nu + 1) x^2 / (nu + x^2)] with nu = (3 - q_other)/(q_other -
    1).

    Args:
        q: index of the distribution that is fitted, at most 1.
        q_other: index of the distribution it is fitted to, at least 1 and below 3.

    Raises:
        UserError: an index is out of range.
    """
    from scipy import integrate, optimize  # a third of a second, for one setting

    if not (q <= 1.0 <= q_other < 3.0):
        raise UserError(
            f"the width of least divergence needs q <= 1 and 1 <= q_other < 3, got {q:g} and {q_other:g}."
        )
    if q_other == 1.0:
        return math.sqrt(
            (5.0 - 3.0 * q) / (3.0 - q)
        )  # one over the standard deviation of the standard distribution
    nu = (3.0 - q_other) / (q_other - 1.0)
    power = math.inf if q == 1.0 else 1.0 / (1.0 - q)
    reach = 10.0 if q == 1.0 else support_radius(q)

    def density(z: float) -> float:
        return math.exp(-0.5 * z * z) if q == 1.0 else max(1.0 - (z / reach) ** 2, 0.0) ** power

    def excess(log_scale: float) -> float:
        """How far E[nu / (nu + x^2)] is above nu / (nu + 1), relatively; x = sqrt(nu) tan t."""
        unit = math.sqrt(nu) / math.exp(log_scale)
        total = integrate.quad(
            lambda t: density(unit * math.tan(t)), 0.0, math.atan(reach / unit), limit=200
        )[0]
        return unit * total / mass * (nu + 1.0) / nu - 1.0

    mass = integrate.quad(density, 0.0, reach)[0]
    return math.exp(optimize.brentq(excess, math.log(1e-3), math.log(1e6), xtol=1e-13))
