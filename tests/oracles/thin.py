"""The thin law's losses from their equations, in loops over plain numbers and by adaptive quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import integrate, optimize

from tests.oracles.distributions import q_gaussian_density

LogDensity = Callable[[float], float]


def reverse_kl(q: float, mean: float, half_width: float, log_fat: LogDensity) -> float:
    """KL of the q-Gaussian on [mean - half_width, mean + half_width] from a law, by adaptive quadrature."""
    scale = half_width / math.sqrt((3.0 - q) / (1.0 - q))

    def integrand(x: float) -> float:
        p = q_gaussian_density(x, q, mean, scale)
        return p * (math.log(p) - log_fat(x)) if p > 0.0 else 0.0

    ends = (mean - half_width, mean + half_width)
    return float(integrate.quad(integrand, *ends, points=[mean], epsabs=1e-10, limit=400)[0])


def best_half_width(q: float, mean: float, log_fat: LogDensity) -> float:
    """Half-width inside [-1, 1] of least divergence."""
    bounds = (1e-3, 1.0 - abs(mean))
    found = optimize.minimize_scalar(lambda h: reverse_kl(q, mean, h, log_fat), bounds=bounds)
    return float(found.x)


def best_law(q: float, log_fat: LogDensity, start: tuple[float, float]) -> tuple[float, float]:
    """Mean and half-width of least divergence near a start."""

    def objective(x: list[float]) -> float:
        inside = 0.0 < x[1] <= 1.0 - abs(x[0])
        return reverse_kl(q, x[0], x[1], log_fat) if inside else math.inf

    found = optimize.minimize(objective, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7})
    return float(found.x[0]), float(found.x[1])


def normal(mean: float, sd: float) -> LogDensity:
    """Log-density of a normal distribution."""
    return lambda x: -0.5 * ((x - mean) / sd) ** 2 - math.log(sd * math.sqrt(2.0 * math.pi))


def cauchy(middle: float, scale: float) -> LogDensity:
    """Log-density of a Cauchy distribution."""
    return lambda x: -math.log(math.pi * scale * (1.0 + ((x - middle) / scale) ** 2))


def squashed(mean: float, sd: float) -> LogDensity:
    """Log-density of tanh of a normal quantity."""
    return lambda x: normal(mean, sd)(math.atanh(x)) - math.log(1.0 - x * x)


def truncated(mean: float, sd: float) -> LogDensity:
    """Log-density of a normal quantity, given that it lies in [-1, 1]."""
    inside = 0.5 * (math.erf((1.0 - mean) / (sd * 2.0**0.5)) - math.erf((-1.0 - mean) / (sd * 2.0**0.5)))
    return lambda x: normal(mean, sd)(x) - math.log(inside)


def beta(a: float, b: float) -> LogDensity:
    """Log-density of a Beta distribution stretched over [-1, 1]."""
    norm = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b) + (a + b - 1.0) * math.log(2.0)
    return lambda x: (a - 1.0) * math.log(1.0 + x) + (b - 1.0) * math.log(1.0 - x) - norm


def bandwidth(draws: Sequence[float], n_act: int = 1) -> float:
    """The rule for one dose dimension: every window of a quarter of the draws is looked at."""
    ordered, count = sorted(draws), len(draws)
    quarter = max(1, round(count / 4))
    shortest = min(ordered[i + quarter] - ordered[i] for i in range(count - quarter))
    mean = sum(draws) / count
    sd = math.sqrt(sum((x - mean) ** 2 for x in draws) / (count - 1))
    scale = min(sd, shortest / (2.0 * 0.31863936396437514))
    return max(1.06 * scale * count ** (-1.0 / (n_act + 4)), 0.01)


def kernel_log_density(dose: Sequence[float], draws: Sequence[Sequence[float]]) -> float:
    """Joint kernel estimate at a dose, from draws of all dose dimensions."""
    widths = [bandwidth([x[d] for x in draws], len(dose)) for d in range(len(dose))]
    total = 0.0
    for x in draws:
        total += math.exp(sum(normal(x[d], widths[d])(dose[d]) for d in range(len(dose))))
    return math.log(total / len(draws))


def disagreement(critics: Sequence[LogDensity], dose: float, reach: float) -> float:
    """Variance of the critics' best doses on a parabola through three of their values."""
    centre = min(max(dose, reach - 1.0), 1.0 - reach)
    best = []
    for critic in critics:
        doses = np.array([centre - reach, centre, centre + reach])
        a, b, _ = np.polyfit(doses - centre, [critic(x) for x in doses], 2)
        if a < 0.0:
            best.append(centre + min(max(-b / (2.0 * a), -reach), reach))
        else:
            best.append(centre + reach * float(np.sign(b)))
    return float(np.var(best))
