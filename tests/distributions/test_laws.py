"""Every distribution but the q-Gaussian: one battery against scipy and quadrature, then what is special to
each."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import Independent

from dosing.distributions.bounded import TanhNormal, TruncatedNormal
from dosing.distributions.q_gaussian import QGaussian
from dosing.distributions.scaled_beta import ScaledBeta
from dosing.distributions.student_t import StudentT
from dosing.distributions.univariate import Univariate, central_interval
from dosing.errors import UserError
from tests.oracles import distributions as oracle


def tensor(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


@dataclass
class Case:
    build: Callable[..., Univariate]
    parameters: tuple[float, ...]
    low: float
    high: float
    reference: Any
    """The same distribution in scipy, or None."""

    def distribution(self, dtype: torch.dtype = torch.float64, **options: Any) -> Univariate:
        return self.build(*(torch.tensor([p], dtype=dtype) for p in self.parameters), **options)


def truncated(loc: float, scale: float) -> Any:
    return stats.truncnorm((-1.0 - loc) / scale, (1.0 - loc) / scale, loc, scale)


def on_half_scale(alpha: torch.Tensor, beta: torch.Tensor, **options: Any) -> ScaledBeta:
    return ScaledBeta(alpha, beta, low=0.5, high=2.5, **options)


CASES = {
    "tanh": Case(TanhNormal, (0.4, 0.6), -1.0, 1.0, None),
    "tanh, two maxima": Case(TanhNormal, (-0.1, 1.7), -1.0, 1.0, None),
    "truncated": Case(TruncatedNormal, (0.3, 0.5), -1.0, 1.0, truncated(0.3, 0.5)),
    "truncated, peak at the limit": Case(TruncatedNormal, (-1.0, 0.2), -1.0, 1.0, truncated(-1.0, 0.2)),
    "truncated, narrow": Case(TruncatedNormal, (0.9, 0.03), -1.0, 1.0, truncated(0.9, 0.03)),
    "truncated, flat": Case(TruncatedNormal, (0.2, 300.0), -1.0, 1.0, truncated(0.2, 300.0)),
    "beta": Case(ScaledBeta, (2.5, 4.0), -1.0, 1.0, stats.beta(2.5, 4.0, -1.0, 2.0)),
    "beta, own limits": Case(on_half_scale, (40.0, 1.5), 0.5, 2.5, stats.beta(40.0, 1.5, 0.5, 2.0)),
    "t": Case(StudentT, (3.7, 0.2, 0.5), -math.inf, math.inf, stats.t(3.7, 0.2, 0.5)),
    "t, very heavy": Case(StudentT, (0.9, -0.3, 0.1), -math.inf, math.inf, stats.t(0.9, -0.3, 0.1)),
}
BOUNDED = [name for name, case in CASES.items() if math.isfinite(case.low)]
PROBABILITIES = [1e-9, 1e-4, 0.02, 0.3, 0.5, 0.8, 0.999]

every_distribution = pytest.mark.parametrize("name", CASES)


# --- battery


@every_distribution
def test_agrees_with_scipy(name):
    case = CASES[name]
    if (
        case.reference is None
    ):  # tanh of a normal distribution: carried over from the normal distribution by hand
        loc, scale = case.parameters
        x = np.tanh(stats.norm.ppf(PROBABILITIES, loc, scale))
        latent = np.arctanh(x)
        log_density = stats.norm.logpdf(latent, loc, scale) + 2.0 * np.log(np.cosh(latent))
        below, above = stats.norm.cdf(latent, loc, scale), stats.norm.sf(latent, loc, scale)
    else:
        x = case.reference.ppf(PROBABILITIES)
        log_density, below, above = case.reference.logpdf(x), case.reference.cdf(x), case.reference.sf(x)
    ours, at = case.distribution(), torch.from_numpy(x)
    np.testing.assert_allclose(ours.log_prob(at), log_density, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours.cdf(at), below, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(ours.sf(at), above, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.icdf(tensor(*PROBABILITIES)), x, rtol=1e-8, atol=1e-9)


@every_distribution
def test_density_integrates_to_the_distribution_function(name):
    case = CASES[name]
    ours = case.distribution()

    def density(x: float) -> float:
        return ours.log_prob(tensor(x)).exp().item()

    points = [case.low, *ours.icdf(tensor(0.001, 0.2, 0.6, 0.98)).tolist(), case.high]
    pieces = [oracle.integral(density, a, b) for a, b in pairwise(points)]
    np.testing.assert_allclose(np.diff([0.0, 0.001, 0.2, 0.6, 0.98, 1.0]), pieces, rtol=1e-6)


@every_distribution
def test_cdf_sf_and_icdf_belong_together(name):
    ours, p = CASES[name].distribution(), tensor(*np.linspace(0.001, 0.999, 101))
    x = ours.icdf(p)
    assert (x.diff() > 0.0).all()
    torch.testing.assert_close(ours.cdf(x), p, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.sf(x), 1.0 - p, rtol=1e-9, atol=1e-12)


@every_distribution
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_follow_the_distribution(name, dtype):
    ours, exact = CASES[name].distribution(dtype), CASES[name].distribution()
    u = torch.rand(20_000, 1, ours.n_uniforms, dtype=dtype, generator=torch.Generator().manual_seed(11))
    draws = ours.rsample_from(u)
    assert draws.shape == (20_000, 1)
    assert draws.dtype == dtype
    assert oracle.ks_p_value(draws, lambda x: exact.cdf(torch.from_numpy(x)).numpy()) > 1e-3
    with torch.random.fork_rng():
        torch.manual_seed(5)
        draws = ours.rsample((20_000,))
    assert oracle.ks_p_value(draws, lambda x: exact.cdf(torch.from_numpy(x)).numpy()) > 1e-3


@every_distribution
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_finite_inside_and_possible_for_every_noise(name, dtype):
    case = CASES[name]
    ours = case.distribution(dtype)
    eps = torch.finfo(dtype).eps
    extremes = torch.tensor([0.0, eps / 2, 0.5, 1.0 - eps / 2, 1.0], dtype=dtype)
    u = torch.cartesian_prod(*[extremes] * ours.n_uniforms).reshape(-1, 1, ours.n_uniforms)
    value, log_prob = ours.rsample_with_log_prob(u)
    assert ((value >= case.low) & (value <= case.high)).all()
    assert value.isfinite().all()
    assert log_prob.isfinite().all()
    assert (ours.log_prob(value) > -math.inf).all()


@every_distribution
def test_log_density_of_own_draws(name):
    ours = CASES[name].distribution()
    u = torch.rand(200, 1, ours.n_uniforms, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    value, log_prob = ours.rsample_with_log_prob(u)
    torch.testing.assert_close(value, ours.rsample_from(u))
    torch.testing.assert_close(log_prob, ours.log_prob(value), rtol=1e-7, atol=1e-7)


@every_distribution
def test_gradients_by_finite_differences(name):
    case = CASES[name]
    parameters = [tensor(p, grad=True) for p in case.parameters]
    if name == "truncated, peak at the limit":
        parameters[0] = tensor(-0.98, grad=True)  # differences must not leave the limits
    p = tensor(0.2, 0.45, 0.9, grad=True)
    x = case.distribution().icdf(p).detach().requires_grad_()
    u = torch.rand(
        3, 1, case.distribution().n_uniforms, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )

    def check(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> bool:
        return torch.autograd.gradcheck(function, inputs, atol=1e-4, rtol=1e-3)

    assert check(lambda x, *a: case.build(*a).log_prob(x), x, *parameters)
    assert check(lambda *a: case.build(*a).rsample_from(u), *parameters)
    assert check(lambda *a: case.build(*a).rsample_with_log_prob(u)[1], *parameters)
    if case.build is StudentT:
        parameters[0] = parameters[0].detach()  # refused, see below
    assert check(lambda x, *a: case.build(*a).cdf(x), x, *parameters)
    assert check(lambda x, *a: case.build(*a).sf(x), x, *parameters)
    assert check(lambda p, *a: case.build(*a).icdf(p), p, *parameters)


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outside_the_support_everything_is_exact_and_flat(name, dtype):
    case = CASES[name]
    parameters = [torch.tensor([p], dtype=dtype, requires_grad=True) for p in case.parameters]
    ours = case.build(*parameters)
    x = torch.tensor([case.low - 1e-3, -1e20, case.high + 1e-3, 1e20], dtype=dtype, requires_grad=True)
    assert (ours.log_prob(x) == -math.inf).all()
    assert ours.cdf(x).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert ours.sf(x).tolist() == [1.0, 1.0, 0.0, 0.0]
    for value in (ours.log_prob(x), ours.cdf(x), ours.sf(x)):
        for slope in torch.autograd.grad(value.sum(), [x, *parameters]):
            assert (slope.abs() < 1e-6).all()
    box = ours.support
    assert box.lower_bound.tolist() == [case.low]
    assert box.upper_bound.tolist() == [case.high]


@pytest.mark.parametrize("name", BOUNDED)
def test_gradients_at_the_limits_are_not_nan(name):
    case = CASES[name]
    parameters = [tensor(p, grad=True) for p in case.parameters]
    ours = case.build(*parameters)
    x = tensor(case.low, case.high, grad=True)
    for value in (ours.log_prob(x).exp(), ours.cdf(x), ours.sf(x)):
        for slope in torch.autograd.grad(value.sum(), [x, *parameters]):
            assert not slope.isnan().any()
    p = tensor(0.0, 1.0, grad=True)
    ends = ours.icdf(p)
    assert ends.tolist() == pytest.approx([case.low, case.high])
    for slope in torch.autograd.grad(ends.sum(), [p, *parameters]):
        assert not slope.isnan().any()


@every_distribution
def test_float32_agrees_with_float64(name):
    single, double = CASES[name].distribution(torch.float32), CASES[name].distribution()
    p = torch.tensor([0.001, 0.1, 0.5, 0.9])
    x = double.icdf(p.double()).float()
    close = {"rtol": 2e-4, "atol": 2e-5}
    torch.testing.assert_close(single.log_prob(x).double(), double.log_prob(x.double()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(single.cdf(x).double(), double.cdf(x.double()), **close)
    torch.testing.assert_close(single.sf(x).double(), double.sf(x.double()), **close)
    torch.testing.assert_close(single.icdf(p).double(), x.double(), **close)
    for value in (single.log_prob(x), single.cdf(x), single.icdf(p), single.mode):
        assert value.dtype == torch.float32


@every_distribution
def test_nan_is_refused_or_passed_on_but_never_hidden(name):
    x = tensor(math.nan)
    unchecked = CASES[name].distribution(validate_args=False)
    for method in ("log_prob", "cdf", "sf"):
        with pytest.raises(UserError, match="the value must not contain NaN"):
            getattr(CASES[name].distribution(), method)(x)
        assert getattr(unchecked, method)(x).isnan().all()
    for p in (-0.1, 1.1, math.nan):
        assert unchecked.icdf(tensor(p)).isnan().all()


@every_distribution
def test_expands_and_joins_dimensions(name):
    ours = CASES[name].distribution()
    wide = ours.expand((4, 3))
    assert type(wide) is type(ours)
    x = ours.icdf(tensor(0.3, 0.5, 0.6)).expand(4, 3)
    joint = Independent(wide, 1)
    torch.testing.assert_close(joint.log_prob(x), ours.log_prob(x).sum(-1))
    assert joint.rsample((2,)).shape == (2, 4, 3)
    assert joint.mode.shape == (4, 3)
    torch.testing.assert_close(wide.cdf(x), ours.cdf(x))


@every_distribution
def test_mode_is_where_it_says(name):
    case = CASES[name]
    ours = case.distribution()
    if case.build is TanhNormal:
        torch.testing.assert_close(ours.mode, ours.icdf(tensor(0.5)))
        return
    step = 1e-3 * (ours.icdf(tensor(0.9)) - ours.icdf(tensor(0.1)))
    peak = ours.log_prob(ours.mode)
    assert (ours.log_prob(ours.mode + step) < peak).all()
    assert (ours.log_prob(ours.mode - step) < peak).all()


@every_distribution
def test_moments_and_entropy(name):
    case = CASES[name]
    if case.reference is None:
        return
    ours, (mean, variance) = case.distribution(), case.reference.stats("mv")
    if name == "t, very heavy":
        assert ours.mean.isnan().all()
        assert ours.variance.isnan().all()
    else:
        assert ours.mean.item() == pytest.approx(mean, rel=1e-8, abs=1e-10)
        assert ours.variance.item() == pytest.approx(variance, rel=1e-6)
        assert ours.stddev.item() == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert ours.entropy().item() == pytest.approx(float(case.reference.entropy()), abs=1e-8)


@every_distribution
def test_bad_parameters_are_refused(name):
    case = CASES[name]
    for k, symbol in enumerate(case.distribution().arg_constraints):
        for bad in (math.nan, math.inf, *(() if symbol == "loc" else (0.0, -1.0))):
            parameters = [tensor(p, p) for p in case.parameters]
            parameters[k][1] = bad
            with pytest.raises(
                UserError, match=rf"{type(case.distribution()).__name__}: {symbol} must be .*, got"
            ):
                case.build(*parameters)
            case.build(*parameters, validate_args=False)


# --- what is special


def test_tanh_normal_keeps_the_density_of_saturated_draws():
    u = torch.tensor([[1.0 - 2.0**-24]])
    ours = TanhNormal(torch.tensor([8.0], requires_grad=True), torch.tensor([3.0]))
    value, log_prob = ours.rsample_with_log_prob(u)
    x = 8.0 + 3.0 * stats.norm.ppf(1.0 - 2.0**-25)  # far beyond what tanh can tell from 1
    wanted = stats.norm.logpdf(x, 8.0, 3.0) - 2.0 * (math.log(2.0) - x)
    assert value.item() == 1.0 - 2.0**-24
    assert log_prob.item() == pytest.approx(wanted, rel=1e-5)
    (slope,) = torch.autograd.grad(log_prob.sum(), ours.loc)
    assert slope.item() == pytest.approx(2.0, rel=1e-5)  # d/dx of -ln(1 - tanh^2 x) tends to 2


@pytest.mark.parametrize(("loc", "scale"), [(0.4, 0.6), (-0.1, 1.7), (9.0, 7.0), (2.0, 0.02)])
def test_the_entropy_of_a_tanh_normal_is_an_integral_over_the_normal(loc, scale):
    """H(tanh X) = H(X) + E ln(1 - tanh^2 X), the average by scipy; finite where draws round to the limits."""

    def integrand(z):
        x = loc + scale * z
        return stats.norm.pdf(z) * 2.0 * (math.log(2.0) - abs(x) - math.log1p(math.exp(-2.0 * abs(x))))

    kink = -loc / scale
    parts = [-12.0, *([kink] if abs(kink) < 12.0 else []), 12.0]
    average = sum(integrate.quad(integrand, a, b, epsabs=1e-12)[0] for a, b in pairwise(parts))
    ours = TanhNormal(tensor(loc), tensor(scale)).entropy().item()
    assert ours == pytest.approx(stats.norm.entropy(loc, scale) + average, abs=1e-9)


def test_tanh_normal_has_no_mean():
    with pytest.raises(NotImplementedError):
        _ = TanhNormal(0.0, torch.tensor(1.0)).mean


def test_truncated_normal_wants_its_peak_inside():
    with pytest.raises(UserError, match=r"loc must be between the limits -1 and 1, got 1\.5"):
        TruncatedNormal(torch.tensor([0.0, 1.5]), 1.0)
    TruncatedNormal(torch.tensor([0.0, 1.5]), 1.0, high=2.0)


def test_truncated_normal_is_the_normal_distribution_when_limits_are_far():
    ours, free = TruncatedNormal(tensor(0.1), tensor(0.01)), QGaussian(tensor(0.1), tensor(0.01), 1.0)
    x = tensor(0.05, 0.1, 0.13)
    torch.testing.assert_close(ours.log_prob(x), free.log_prob(x))
    torch.testing.assert_close(ours.cdf(x), free.cdf(x))
    torch.testing.assert_close(ours.entropy(), free.entropy())
    torch.testing.assert_close(ours.variance, free.variance)


def test_truncated_normal_float32_tail_is_accurate():
    ours = TruncatedNormal(torch.tensor(0.0), torch.tensor(0.1))
    x = torch.tensor([-0.95, -0.8, 0.8, 0.95])
    reference = truncated(0.0, 0.1)
    exact = x.double().numpy()
    np.testing.assert_allclose(ours.log_prob(x), reference.logpdf(exact), rtol=1e-6)
    np.testing.assert_allclose(ours.cdf(x)[:2], reference.cdf(exact)[:2], rtol=1e-3)
    np.testing.assert_allclose(ours.sf(x)[2:], reference.sf(exact)[2:], rtol=1e-3)


def test_uniform_is_a_beta_distribution_with_its_jacobian():
    ours = ScaledBeta(1.0, tensor(1.0), low=0.0, high=4.0)
    assert ours.log_prob(tensor(1.7)).item() == pytest.approx(-math.log(4.0))
    assert ours.entropy().item() == pytest.approx(math.log(4.0))
    assert ours.mode.item() == ours.mean.item() == 2.0


@pytest.mark.parametrize("limits", [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_bad_limits_are_refused(limits):
    for build in (TruncatedNormal, ScaledBeta):
        with pytest.raises(
            UserError, match="limits of a distribution must be finite, the lower below the upper"
        ):
            build(1.0, 1.0, *limits)


@pytest.mark.parametrize("df", [0.2, 1.0, 3.0, 1e6])
def test_t_and_q_gaussian_are_one_distribution(df):
    q = (df + 3.0) / (df + 1.0)
    t, q_gaussian = StudentT(tensor(df), tensor(0.2), tensor(0.7)), QGaussian(tensor(0.2), tensor(0.7), q)
    x, p = tensor(-9.0, -0.3, 0.2, 1.4, 50.0), tensor(1e-6, 0.2, 0.9)
    torch.testing.assert_close(t.log_prob(x), q_gaussian.log_prob(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(t.cdf(x), q_gaussian.cdf(x), rtol=1e-7, atol=0.0)
    torch.testing.assert_close(t.icdf(p), q_gaussian.icdf(p), rtol=1e-7, atol=0.0)
    torch.testing.assert_close(t.entropy(), q_gaussian.entropy(), rtol=1e-8, atol=0.0)


def test_t_keeps_its_digits_for_many_degrees_of_freedom():
    t = StudentT(torch.tensor(1e5), torch.tensor(0.0), torch.tensor(1.0))
    assert t.log_prob(torch.tensor(0.5)).item() == pytest.approx(stats.t(1e5).logpdf(0.5), abs=2e-6)


def test_t_moments_by_degrees_of_freedom():
    t = StudentT(tensor(1.0, 1.5, 2.0, 4.0), 0.0, 1.0)
    assert t.mean.isnan().tolist() == [True, False, False, False]
    assert t.variance.isnan().tolist() == [True, False, False, False]
    assert t.variance[1:].tolist() == [math.inf, math.inf, 2.0]


def test_t_refuses_the_gradient_it_does_not_have():
    df = tensor(3.0, grad=True)
    t = StudentT(df, 0.0, 1.0)
    for value in (t.cdf(tensor(0.5)), t.sf(tensor(0.5)), t.icdf(tensor(0.5))):
        with pytest.raises(NotImplementedError, match="no gradient with respect to df"):
            value.sum().backward()


# --- central intervals


@every_distribution
@pytest.mark.parametrize("mass", [0.5, 0.99])
def test_central_interval_leaves_equal_tails(name, mass):
    ours = CASES[name].distribution()
    low, high = central_interval(ours, mass)
    assert ours.cdf(low).item() == pytest.approx((1.0 - mass) / 2.0, rel=1e-6)
    assert ours.sf(high).item() == pytest.approx((1.0 - mass) / 2.0, rel=1e-6)


@given(st.floats(0.01, 0.999))
def test_central_interval_goes_through_independent(mass):
    base = QGaussian(torch.zeros(2, 3), torch.ones(2, 3), 2.0)
    low, high = central_interval(Independent(base, 1), mass)
    assert low.shape == high.shape == (2, 3)
    torch.testing.assert_close(low, -high, rtol=1e-3, atol=1e-6)
    assert high[0, 0].item() == pytest.approx(math.tan(math.pi * mass / 2.0), rel=1e-3)


@pytest.mark.parametrize("mass", [0.0, 1.0, -0.5, math.nan])
def test_central_interval_of_no_mass_is_refused(mass):
    with pytest.raises(UserError, match="must lie strictly between 0 and 1"):
        central_interval(QGaussian(0.0, 1.0, 1.0), mass)
