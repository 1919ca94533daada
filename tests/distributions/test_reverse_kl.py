"""Where a bounded actor settles under a heavy or normal proposal: constants of fat-to-thin optimisation.

One dimension, actor q = 0 with half-width h, shared mean, proposal of scale s. The reverse KL is
E_actor[ln actor - ln proposal]; the "k3" estimate of it, r - 1 - ln r with r = proposal/actor, has another
minimum, because E_actor[r] is the proposal's mass on the actor's support and not 1.
"""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, special

from dosing.distributions.q_gaussian import QGaussian, support_radius
from dosing.distributions.quadrature import least_divergence_scale, standard_nodes
from dosing.errors import UserError
from tests.oracles import distributions as oracle


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
    result = optimize.minimize_scalar(objective, bounds=(0.5 * scale, 8.0 * scale), options={"xatol": 1e-7})
    return result.x, result.fun


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


@pytest.mark.parametrize(("q", "width"), [(2.0, 3.2579), (1.0, math.sqrt(5.0))])
def test_width_of_least_divergence_is_the_minimum_of_the_divergence(q, width):
    result = least_divergence_scale(0.0, q) * support_radius(0.0)
    assert result == pytest.approx(width, abs=5e-5)
    assert result == pytest.approx(minimum(lambda h: reverse_kl(h, proposal(q)))[0], abs=1e-5)


@pytest.mark.parametrize("q_other", [1.0, 1.000001, 1.5, 2.0, 2.5, 2.9, 2.999])
@pytest.mark.parametrize("q", [-20.0, -1.0, 0.0, 0.5, 0.9, 1.0])
def test_divergence_has_no_slope_at_the_width_of_least_divergence(q, q_other):
    """E[x (ln other)'(x)] = -1 by scipy's distributions, x drawn from the fitted one."""
    scale = least_divergence_scale(q, q_other)
    distribution = oracle.q_gaussian(q, 0.0, scale)

    def integrand(x):
        return distribution.pdf(x) * 2.0 * x * x / (3.0 - q_other + (q_other - 1.0) * x * x)

    reach = 9.0 * scale if q == 1.0 else support_radius(q) * scale
    near = min(math.sqrt((3.0 - q_other) / (q_other - 1.0)) if q_other > 1.0 else reach, 0.5 * reach)
    pull = 2.0 * (oracle.integral(integrand, 0.0, near) + oracle.integral(integrand, near, reach))
    assert pull == pytest.approx(1.0, rel=1e-7)


@pytest.mark.parametrize("wrong", [(1.5, 2.0), (0.0, 0.5), (0.0, 3.0)])
def test_indices_without_a_width_are_refused(wrong):
    with pytest.raises(UserError, match="least divergence"):
        least_divergence_scale(*wrong)


@pytest.mark.parametrize("q", [-50.0, -1.0, 0.0, 0.5, 0.9, 0.999, 1.0])
def test_nodes_average_polynomials_exactly(q):
    """Moments of order 0 to 2n - 1: the square of z / R is Beta(1/2, 1/(1-q) + 1), or z is normal."""
    n = 6
    nodes, weights = standard_nodes(q, n)
    assert (abs(nodes) < support_radius(q)).all()
    for k in range(n):
        if q == 1.0:
            even = float(special.factorial2(2 * k - 1)) if k else 1.0
        else:
            b = 1.0 / (1.0 - q) + 1.0
            even = support_radius(q) ** (2 * k) * math.exp(
                special.betaln(k + 0.5, b) - special.betaln(0.5, b)
            )
        assert (weights * nodes ** (2 * k)).sum() == pytest.approx(even, rel=1e-10)
        assert (weights * nodes ** (2 * k + 1)).sum() == pytest.approx(0.0, abs=1e-10 * even)


@pytest.mark.parametrize(("q", "n"), [(-1.0, 18), (0.0, 20), (0.5, 24), (1.0, 128)])
def test_nodes_that_the_cross_entropy_takes(q, n):
    """1e-6 beside a Cauchy distribution at the width of least divergence; three quarters of the nodes do not
    do."""
    scale = least_divergence_scale(q, 2.0)
    distribution = oracle.q_gaussian(q)
    reach = 12.0 if q == 1.0 else support_radius(q)
    wanted = 2.0 * oracle.integral(lambda z: distribution.pdf(z) * math.log1p((scale * z) ** 2), 0.0, reach)

    def error(nodes, weights):
        return abs(float((weights * np.log1p((scale * nodes) ** 2)).sum()) - wanted)

    assert error(*standard_nodes(q, n)) < 1e-6 < error(*standard_nodes(q, 3 * n // 4))


def test_nodes_that_are_none_are_refused():
    for wrong in ((1.5, 8), (0.0, 0)):
        with pytest.raises(UserError, match="quadrature"):
            standard_nodes(*wrong)
