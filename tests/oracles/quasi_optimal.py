"""The loss of quasi-optimal learning (Li, Zhou, Zhu 2023, arXiv 2301.08940), pair of visits by pair.

States and doses are scaled to [0, 1] by recorded extremes, x = (a - low) / (high - low). Per coordinate s of
the state the features are s, s^2, s^3 and (s - k/7)_+^3 for k = 1..6, after an intercept. Then

    Q(s, x) = alpha_1 x^2 + alpha_2 x + alpha_3,   alpha_1 = -exp(theta_1 . phi), alpha_2 = theta_2 . phi, ...
    V(s)    = max over densities p on the legal doses of  int p Q + lambda (1 - int p^2)
    pi(s)   = the maximiser, [Q - nu]_+ / (2 lambda) with nu such that it integrates to 1
    delta   = r + gamma (1 - d) V(s') + lambda - 2 lambda pi(a|s) - Psi(s) + psi(s, a) - V(s)
    loss    = mean over episodes of  sum_{j != k} Omega_jk delta_j delta_k / (T (T - 1))
    Omega_jk = exp(-|s_j - s_k|^2 / sigma^2 - (x_j - x_k)^2 / sigma_a^2)

Psi(s) = -5 lambda / (1 + exp(-(w . s) / 2 - 1/2)), or its exact value -lambda int pi^2; psi is nu - Q where
pi is zero (that over 2 lambda as released) and 0 elsewhere. Here nu is found by root finding on the mass,
the integrals by Gauss quadrature, which is exact for polynomials.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import brentq

from tests.oracles import mlp as nets

EDGE = 1e-4  # legal doses are [-1 + EDGE, 1 - EDGE]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(6)


def scaled_obs(params: nets.Arrays, obs: np.ndarray) -> list[float]:
    """Coordinates on [0, 1]; beyond the recorded extremes they count as these."""
    out = []
    for x, low, high in zip(obs, params["obs_low"], params["obs_high"], strict=True):
        out.append(min(max((float(x) - float(low)) / (float(high) - float(low)), 0.0), 1.0))
    return out


def scaled_dose(params: nets.Arrays, act: float) -> float:
    """The dose on the recorded range's [0, 1]."""
    low, high = float(params["act_low"][0]), float(params["act_high"][0])
    return (act - low) / (high - low)


def features(state: list[float]) -> list[float]:
    """Cubic splines of every coordinate, and an intercept."""
    out = [1.0]
    for s in state:
        out += [s, s**2, s**3]
        for k in range(1, 7):
            out.append(max(s - k / 7.0, 0.0) ** 3)
    return out


def coefficients(
    params: nets.Arrays, state: list[float], config: dict[str, Any]
) -> tuple[float, float, float]:
    """alpha_1, alpha_2, alpha_3; the first within the bounds that keep an interval's width reasonable."""
    phi = features(state)
    dot = [sum(f * float(params["theta"][i, j]) for i, f in enumerate(phi)) for j in range(3)]
    narrowest = math.log(3.0 * config["regularisation"] / (2.0 * 1e-3**3))
    return -math.exp(min(max(dot[0], -10.0), narrowest)), dot[1], dot[2]


def legal(params: nets.Arrays) -> tuple[float, float]:
    """Ends of the legal doses in scaled units."""
    return scaled_dose(params, -1.0 + EDGE), scaled_dose(params, 1.0 - EDGE)


def integral(f: Any, low: float, high: float) -> float:
    """Gauss quadrature, exact for polynomials of degree 11."""
    x = 0.5 * (low + high) + 0.5 * (high - low) * NODES
    return 0.5 * (high - low) * float(sum(w * f(float(t)) for w, t in zip(WEIGHTS, x, strict=True)))


class Best:
    """The maximiser pi at one state: nu, its interval, V and int pi^2."""

    def __init__(self, params: nets.Arrays, state: list[float], config: dict[str, Any]) -> None:
        self.alpha = coefficients(params, state, config)
        self.weight = config["regularisation"]
        box = legal(params)
        a1, a2, _ = self.alpha
        middle = -a2 / (2.0 * a1)
        peak = min(max(middle, box[0]), box[1])

        def interval(nu: float) -> tuple[float, float]:
            """Where Q exceeds nu."""
            reach = math.sqrt(max(self.value(middle) - nu, 0.0) / -a1)
            return min(max(middle - reach, box[0]), peak), max(min(middle + reach, box[1]), peak)

        def missing(nu: float) -> float:
            return integral(lambda x: (self.value(x) - nu) / (2.0 * self.weight), *interval(nu)) - 1.0

        top, drop = self.value(peak), 1e-3
        while missing(top - drop) < 0.0:
            drop *= 2.0
        self.nu = float(brentq(missing, top - drop, top, xtol=1e-14, rtol=1e-15, maxiter=500))
        self.low, self.high = interval(self.nu)
        self.square = integral(lambda x: self.density(x) ** 2, self.low, self.high)
        gain = integral(lambda x: self.density(x) * self.value(x), self.low, self.high)
        self.best = gain + self.weight * (1.0 - self.square)

    def value(self, x: float) -> float:
        """Q."""
        a1, a2, a3 = self.alpha
        return a1 * x**2 + a2 * x + a3

    def density(self, x: float) -> float:
        """pi."""
        return max(self.value(x) - self.nu, 0.0) / (2.0 * self.weight)


def residual(
    params: nets.Arrays, batch: nets.Arrays, b: int, config: dict[str, Any]
) -> tuple[list[float], float, float]:
    """Scaled state and dose of one visit, and its delta."""
    weight = config["regularisation"]
    state = scaled_obs(params, batch["obs"][b])
    x = scaled_dose(params, float(batch["act"][b, 0]))
    here = Best(params, state, config)
    following = Best(params, scaled_obs(params, batch["next_obs"][b]), config)
    if config["value_multiplier"] == "exact":
        big = -weight * here.square
    else:
        product = sum(float(w) * s for w, s in zip(params["w"], state, strict=True))
        big = -5.0 * weight / (1.0 + math.exp(-0.5 * product - 0.5))
    small = max(here.nu - here.value(x), 0.0)
    if config["support_multiplier"] == "released":
        small /= 2.0 * weight
    future = config["discount"] * (1.0 - float(batch["terminated"][b])) * following.best
    delta = float(batch["reward"][b]) + future + weight
    delta += -2.0 * weight * here.density(x) - big + small - here.best
    return state, x, delta


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The one loss of one seed.

    Args:
        params: theta [9 O + 1, 3], w [O]; recorded extremes obs_low, obs_high [O], act_low, act_high [1].
        batch: obs [B, O], act [B, 1], reward [B], next_obs [B, O], terminated [B]: episodes of ``length``.
        config: discount, regularisation (lambda), state_bandwidth, dose_bandwidth, value_multiplier,
            support_multiplier, pairs.
        frozen: Unused: everything takes gradient.
    """
    length = int(batch["length"])
    rows = [residual(params, batch, b, config) for b in range(len(batch["reward"]))]
    products = []
    for j, (state_j, dose_j, delta_j) in enumerate(rows):
        for k, (state_k, dose_k, delta_k) in enumerate(rows):
            same = j // length == k // length
            if j == k or same != (config["pairs"] == "episode"):
                continue
            near = sum((s - t) ** 2 for s, t in zip(state_j, state_k, strict=True))
            apart = (dose_j - dose_k) ** 2
            weight = math.exp(-near / config["state_bandwidth"] ** 2 - apart / config["dose_bandwidth"] ** 2)
            products.append(weight * delta_j * delta_k)
    return {"residual": math.fsum(products) / len(products)}
