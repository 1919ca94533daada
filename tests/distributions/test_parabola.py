"""The parabola on a bounded interval: mass 1, exact edges, the optimum it is meant to be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize

from dosing.distributions.parabola import Parabola, solve
from dosing.errors import UserError
from tests.oracles.distributions import integral, ks_p_value, q_gaussian

CASES = [
    # loc, curvature, low, high
    (0.2, 3.0, -1.0, 1.0),  # free
    (0.9, 3.0, -1.0, 1.0),  # cut above
    (-0.9, 3.0, -1.0, 1.0),  # cut below
    (0.1, 0.2, -1.0, 1.0),  # cut on both sides
    (1.7, 3.0, -1.0, 1.0),  # beyond the upper limit
    (-4.0, 0.5, -1.0, 1.0),  # beyond the lower limit, over the whole interval
    (1e6, 3.0, -1.0, 1.0),  # far beyond
    (0.5, 1e6, 0.0, 2.0),  # narrow
    (2.0, 10.0, 0.0, 2.0),  # on the limit
    (3.0, 1e-8, 0.0, 2.0),  # flat
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def distribution(case: tuple[float, float, float, float], dtype: torch.dtype = torch.float64) -> Any:
    loc, curvature, low, high = case
    one = torch.ones(1, dtype=dtype)
    return Parabola(loc * one, curvature * one, low, high)


def edges(p: Any) -> tuple[float, float]:
    return float(p.support.lower_bound), float(p.support.upper_bound)


def at(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=torch.float64)


def peak_and_edges(case: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """By bisection of the mass in h, on the squares written out; only where m is not far away."""
    m, c, low, high = case

    def ends(h: float) -> tuple[float, float]:
        return max(m - h, low), min(m + h, high)

    def missing(h: float) -> float:
        a, b = ends(h)
        return c * (h * h * (b - a) - ((b - m) ** 3 - (a - m) ** 3) / 3.0) - 1.0 if b > a else -1.0

    h = brentq(missing, 0.0, 1e5, xtol=1e-14, rtol=1e-15, maxiter=500)
    peak = c * (h * h - (min(max(m, low), high) - m) ** 2)
    return peak, *ends(h)


@every_case
def test_it_integrates_to_one_over_its_exact_support(case: Any) -> None:
    p = distribution(case)
    low, high = edges(p)
    assert case[2] <= low < high <= case[3]
    assert integral(lambda x: float(p.log_prob(at(x)).exp()), low, high) == pytest.approx(1.0, abs=1e-9)
    for outside in (low - 1e-9, high + 1e-9, low - 5.0, high + 5.0, math.inf):
        assert float(p.log_prob(at(outside))) == -math.inf
    if case[0] != 1e6:
        peak, left, right = peak_and_edges(case)
        assert float(p.log_prob(p.mode).exp()) == pytest.approx(peak, rel=1e-8)
        assert (low, high) == pytest.approx((left, right), rel=1e-8, abs=1e-8)


@every_case
def test_tails_quantiles_and_moments(case: Any) -> None:
    p = distribution(case)
    low, high = edges(p)

    def density(x: float) -> float:
        return float(p.log_prob(at(x)).exp())

    for share in (0.01, 0.3, 0.5, 0.9, 0.999):
        x = low + share * (high - low)
        below = integral(density, low, x)
        assert float(p.cdf(at(x))) == pytest.approx(below, abs=1e-9)
        assert float(p.sf(at(x))) == pytest.approx(1.0 - below, abs=1e-9)
        back = float(p.icdf(p.cdf(at(x))))
        assert back == pytest.approx(x, abs=1e-8 * (high - low) + 1e-14)
    assert [float(f(at(x))) for f in (p.cdf, p.sf) for x in (low, high)] == [0.0, 1.0, 1.0, 0.0]
    assert [float(p.icdf(at(x))) for x in (0.0, 1.0)] == [low, high]
    assert bool(p.icdf(torch.tensor([-0.1, 1.1], dtype=torch.float64)).isnan().all())
    mean = integral(lambda x: x * density(x), low, high)
    variance = integral(lambda x: (x - mean) ** 2 * density(x), low, high)
    assert float(p.mean) == pytest.approx(mean, rel=1e-9)
    assert float(p.variance) == pytest.approx(variance, rel=1e-4 if case[0] == 1e6 else 1e-7)


def test_tails_keep_their_digits() -> None:
    """Next to a free edge the mass is quadratic in the distance, next to a cut one linear."""
    free, cut = distribution(CASES[0]), distribution(CASES[1])
    low, high = edges(free)
    h = 0.5 * (high - low)
    for t in (1e-4, 1e-6):
        assert float(free.cdf(at(low + t))) == pytest.approx(3.0 * h * t * t, rel=1e-3)
        assert float(cut.sf(at(1.0 - t))) == pytest.approx(float(cut.log_prob(at(1.0)).exp()) * t, rel=1e-3)
    assert float(free.cdf(free.icdf(at(1e-12)))) == pytest.approx(1e-12, rel=1e-6)


def test_away_from_the_limits_it_is_the_q_gaussian_of_index_zero() -> None:
    p, scale = distribution(CASES[0]), (3.0 / (4.0 * 3.0)) ** (1.0 / 3.0) / math.sqrt(3.0)
    reference = q_gaussian(0.0, 0.2, scale)
    x = np.linspace(-0.5, 0.9, 29)
    grid = torch.from_numpy(x)
    np.testing.assert_allclose(p.log_prob(grid).exp().numpy(), reference.pdf(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(p.cdf(grid).numpy(), reference.cdf(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(edges(p), reference.support(), rtol=1e-12)


@pytest.mark.parametrize("case", CASES[:6], ids=str)
def test_it_is_the_best_density_on_the_interval(case: Any) -> None:
    """Against the best of all densities on a grid, found without any knowledge of its form."""
    m, c, low, high = case
    sparsity, n = 0.3, 120
    x = low + (high - low) * (np.arange(n) + 0.5) / n
    dx = (high - low) / n
    q = -2.0 * sparsity * c * (x - m) ** 2

    def loss(w: np.ndarray) -> float:
        return float(-((q * w).sum() * dx + sparsity * (1.0 - (w**2).sum() * dx)))

    def gradient(w: np.ndarray) -> np.ndarray:
        return -dx * (q - 2.0 * sparsity * w)

    result = minimize(
        loss,
        np.full(n, 1.0 / (high - low)),
        jac=gradient,
        bounds=[(0.0, None)] * n,
        constraints={
            "type": "eq",
            "fun": lambda w: w.sum() * dx - 1.0,
            "jac": lambda w: np.full(n, dx),
        },
        options={"maxiter": 500, "ftol": 1e-12},
        method="SLSQP",
    )
    ours = distribution(case).log_prob(torch.from_numpy(x)).exp().numpy()
    np.testing.assert_allclose(result.x, ours, atol=5e-3 * ours.max())


@every_case
def test_the_integral_of_the_square(case: Any) -> None:
    p = distribution(case)
    loc, curvature, low, high = (torch.tensor([x], dtype=torch.float64) for x in case)
    result = float(solve(loc, curvature, low, high).square())
    wanted = integral(lambda x: float(p.log_prob(at(x)).exp()) ** 2, *edges(p))
    assert result == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("case", [*CASES[:6], CASES[8]], ids=str)
def test_draws_follow_the_distribution_and_never_leave_the_support(case: Any) -> None:
    p = distribution(case)
    low, high = edges(p)
    u = torch.from_numpy(np.random.default_rng(0).random((4000, 1, 1)))
    draws = p.rsample_from(u)
    assert bool(((draws >= low) & (draws <= high)).all())
    assert ks_p_value(draws, lambda x: p.cdf(torch.from_numpy(x)).numpy()) > 1e-3
    single = distribution(case, torch.float32)
    for value in (0.0, 2.0**-25, 0.5, 1.0 - 2.0**-24, 1.0):
        x = single.rsample_from(torch.full((1, 1), value))
        assert x.dtype == torch.float32
        assert bool((x >= single.support.lower_bound) & (x <= single.support.upper_bound))


@pytest.mark.parametrize("case", CASES[:6], ids=str)
def test_gradients_are_those_of_differences(case: Any) -> None:
    """Of the peak, the squared integral, a density, a probability and a draw, in loc and curvature."""
    _, _, low, high = case
    u = torch.tensor([[0.37]], dtype=torch.float64)

    def values(loc: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
        p = Parabola(loc, curvature, low, high)
        s = solve(loc, curvature, at(low), at(high))
        x = at(0.3 * low + 0.7 * high if case[0] > 0.0 else 0.7 * low + 0.3 * high)
        return torch.cat((s.peak, s.square(), p.log_prob(x).exp(), p.cdf(x), p.rsample_from(u), p.mean))

    theta = [at(case[0]).requires_grad_(), at(case[1]).requires_grad_()]
    for k in range(6):
        result = torch.autograd.grad(values(*theta)[k], theta)
        for i, step in ((0, 1e-6), (1, 1e-6 * case[1])):
            ends = []
            for sign in (1.0, -1.0):
                moved = [t.detach().clone() for t in theta]
                moved[i] += sign * step
                ends.append(float(values(*moved)[k]))
            slope = (ends[0] - ends[1]) / (2.0 * step)
            assert float(result[i]) == pytest.approx(slope, rel=2e-5, abs=1e-7)


def test_arguments_are_checked() -> None:
    with pytest.raises(UserError, match="curvature"):
        Parabola(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(UserError, match="limits"):
        Parabola(torch.zeros(2), torch.ones(2), 1.0, -1.0)
    with pytest.raises(UserError, match="NaN"):
        Parabola(torch.zeros(1), torch.ones(1)).log_prob(torch.tensor([math.nan]))


@every_case
def test_the_entropy_is_that_of_the_density(case: tuple[float, float, float, float]) -> None:
    ours = distribution(case)
    low, high = edges(ours)

    def integrand(x: float) -> float:
        log_density = float(ours.log_prob(at(x)))
        return -math.exp(log_density) * log_density if math.isfinite(log_density) else 0.0

    assert float(ours.entropy()) == pytest.approx(integral(integrand, low, high), abs=1e-5)
