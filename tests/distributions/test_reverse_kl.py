"""Where a bounded actor settles under a heavy or normal proposal: constants of fat-to-thin optimisation.

One dimension, actor q = 0 with half-width h, shared mean, proposal of scale s. The reverse KL is
E_actor[ln actor - ln proposal]; the "k3" estimate of it, r - 1 - ln r with r = proposal/actor, has another
minimum, because E_actor[r] is the proposal's mass on the actor's support and not 1.
"""

import math

import pytest
import torch
from oracles import distributions as oracle
from scipy import optimize

from dosing.distributions import QGaussian, support_radius


def tensor(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def actor(half_width: float) -> QGaussian:
    return QGaussian(tensor(0.0), tensor(half_width / support_radius(0.0)), 0.0)


def proposal(q: float, scale: float = 1.0) -> QGaussian:
    return QGaussian(tensor(0.0), tensor(scale), q)


def reverse_kl(half_width: float, fat: QGaussian) -> float:
    """-H(actor) - E_actor[ln proposal], the expectation by quadrature over the actor's support."""
    thin = actor(half_width)

    def integrand(x: float) -> float:
        return (thin.log_prob(tensor(x)).exp() * fat.log_prob(tensor(x))).item()

    return -thin.entropy().item() - 2.0 * oracle.integral(integrand, 0.0, half_width)


def mass_inside(half_width: float, fat: QGaussian) -> float:
    edge = tensor(half_width)
    return (fat.cdf(edge) - fat.cdf(-edge)).item()


def minimum(objective, scale: float = 1.0) -> tuple[float, float]:
    found = optimize.minimize_scalar(objective, bounds=(0.5 * scale, 8.0 * scale), options={"xatol": 1e-7})
    return found.x, found.fun


@pytest.mark.parametrize(
    ("q", "width", "value", "inside"),
    [(2.0, 3.2579, 0.29594, 0.8104), (1.0, math.sqrt(5.0), 0.04617, 0.9747)],
    ids=["Cauchy proposal", "normal proposal"],
)
@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_reverse_kl_optimum(q, width, value, inside, scale):
    fat = proposal(q, scale)
    at, least = minimum(lambda h: reverse_kl(h, fat), scale)
    assert at / scale == pytest.approx(width, abs=5e-5)
    assert least == pytest.approx(value, abs=5e-6)
    assert mass_inside(at, fat) == pytest.approx(inside, abs=5e-5)


def test_k3_estimate_has_another_optimum():
    fat = proposal(2.0)
    at, least = minimum(lambda h: mass_inside(h, fat) - 1.0 + reverse_kl(h, fat))
    assert at == pytest.approx(2.3009, abs=5e-5)
    assert least == pytest.approx(0.07524, abs=5e-6)
    assert mass_inside(at, fat) == pytest.approx(0.7390, abs=5e-5)


def test_detached_unnormalised_objective_settles_where_its_ratio_averages_one():
    # the released code: Cauchy of scale sqrt(2) sigma, its density too large by the factor sqrt(2)
    fat = proposal(2.0, math.sqrt(2.0))
    at = optimize.brentq(lambda h: math.sqrt(2.0) * mass_inside(h, fat) - 1.0, 0.5, 8.0)
    assert at == pytest.approx(2.8539, abs=5e-5)


def test_reverse_kl_from_draws_agrees_with_quadrature():
    fat, thin = proposal(2.0), actor(3.0)
    u = (torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) / 20_000
    draws, log_thin = thin.rsample_with_log_prob(u)
    assert (log_thin - fat.log_prob(draws)).mean().item() == pytest.approx(reverse_kl(3.0, fat), abs=5e-5)


def test_gradient_through_the_draws_is_the_slope_of_the_reverse_kl():
    fat = proposal(2.0)
    u = (torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) / 20_000
    half_width = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    thin = QGaussian(tensor(0.0), half_width / support_radius(0.0), 0.0)
    draws, log_thin = thin.rsample_with_log_prob(u)
    (slope,) = torch.autograd.grad((log_thin - fat.log_prob(draws)).mean(), half_width)
    wanted = oracle.numerical_slope(lambda h: reverse_kl(h, fat), 2.0, 1e-4)
    assert slope.item() == pytest.approx(wanted, abs=1e-5)
