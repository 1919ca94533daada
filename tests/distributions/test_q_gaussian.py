"""QGaussian against scipy's distributions, its own defining formula, quadrature and finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, constraints

from dosing.distributions.q_gaussian import QGaussian, from_uniform, n_uniforms, support_radius
from dosing.errors import UserError
from tests.oracles import distributions as oracle

INDICES = [-3.0, -1.0, 0.0, 0.5, 0.9, 1.0, 1.2, 1.5, 2.0, 2.5]
BOUNDED = [q for q in INDICES if q < 1.0]
PROBABILITIES = [1e-12, 1e-6, 0.01, 0.2, 0.3, 0.5, 0.7, 0.99, 1.0 - 1e-6]
LOC, SCALE = 0.3, 0.7


def tensor(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def distribution(q: float, loc: float = LOC, scale: float = SCALE) -> QGaussian:
    return QGaussian(tensor(loc), tensor(scale), q)


def noise(q: float, n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, n_uniforms(q), dtype=dtype, generator=torch.Generator().manual_seed(seed))


# --- constants


@pytest.mark.parametrize(
    ("q", "norm"),
    [
        (-1.0, 2.221441),
        (0.0, 4.0 / math.sqrt(3.0)),
        (0.5, 2.385139),
        (1.0, 2.506628),
        (1.5, 2.720699),
        (2.0, math.pi),
        (2.5, 4.206547),
    ],
)
def test_normaliser(q, norm):
    density = distribution(q, 0.0, 1.0).log_prob(tensor(0.0)).exp().item()
    assert 1.0 / density == pytest.approx(norm, abs=1e-6)


def test_radius():
    assert support_radius(-1.0) == pytest.approx(math.sqrt(2.0), rel=1e-15)
    assert support_radius(0.0) == pytest.approx(math.sqrt(3.0), rel=1e-15)
    assert distribution(0.5).radius == pytest.approx(math.sqrt(5.0), rel=1e-15)
    assert distribution(1.0).radius == distribution(2.0).radius == math.inf


@pytest.mark.parametrize(
    ("q", "nats"),
    [(0.0, 1.117361), (0.5, 1.230002), (1.0, 1.418939), (1.5, 1.773478), (2.0, math.log(4 * math.pi))],
)
def test_entropy_of_the_standard_distribution(q, nats):
    assert distribution(q, 0.0, 1.0).entropy().item() == pytest.approx(nats, abs=5e-7)


@pytest.mark.parametrize(("q", "quantile"), [(0.0, 1.0538), (1.5, 1.6377), (2.0, 3.0777)])
def test_upper_decile_by_quantile_and_by_draws(q, quantile):
    assert distribution(q, 0.0, 1.0).icdf(tensor(0.9)).item() == pytest.approx(quantile, abs=5e-5)
    draws = from_uniform(noise(q, 200_000), q)
    below = (draws < quantile).double().mean().item()
    assert below == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 200_000))


# --- values


@pytest.mark.parametrize("q", INDICES)
def test_agrees_with_scipy(q):
    ours, reference = distribution(q), oracle.q_gaussian(q, LOC, SCALE)
    x = reference.ppf(PROBABILITIES)
    np.testing.assert_allclose(ours.log_prob(torch.from_numpy(x)), reference.logpdf(x), rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(ours.cdf(torch.from_numpy(x)), reference.cdf(x), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(ours.sf(torch.from_numpy(x)), reference.sf(x), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(ours.icdf(tensor(*PROBABILITIES)), x, rtol=1e-11, atol=1e-14)
    assert ours.entropy().item() == pytest.approx(reference.entropy(), abs=1e-12)


@pytest.mark.parametrize("q", INDICES)
def test_density_is_the_defining_formula(q):
    for x in (-2.0, -1.1, 0.0, 0.3, 0.8, 1.3, 5.0):
        wanted = oracle.q_gaussian_density(x, q, LOC, SCALE)
        assert distribution(q).log_prob(tensor(x)).exp().item() == pytest.approx(
            wanted, rel=1e-12, abs=1e-300
        )


@pytest.mark.parametrize("q", INDICES)
def test_quadrature_gives_mass_and_entropy(q):
    ours = distribution(q)
    reach = SCALE * ours.radius

    def density(x: float) -> float:
        return ours.log_prob(tensor(x)).exp().item()

    def surprise(x: float) -> float:
        p = density(x)
        return -p * math.log(p) if p > 0.0 else 0.0

    # one half by symmetry; a heavy tail x^(-2/(q-1)) converges slowly
    tolerance = 1e-6 if q > 2.0 else 1e-8
    assert 2 * oracle.integral(density, LOC, LOC + reach) == pytest.approx(1.0, abs=tolerance)
    if q <= 2.0:
        nats = 2 * oracle.integral(surprise, LOC, LOC + reach)
        assert nats == pytest.approx(ours.entropy().item(), abs=1e-6)


@pytest.mark.parametrize("q", [q for q in INDICES if q < 5 / 3])
def test_quadrature_gives_the_variance(q):
    ours = distribution(q)

    def integrand(x: float) -> float:
        return (x - LOC) ** 2 * ours.log_prob(tensor(x)).exp().item()

    wanted = 2 * oracle.integral(integrand, LOC, LOC + SCALE * ours.radius)
    assert ours.variance.item() == pytest.approx(wanted, rel=1e-6)
    assert ours.stddev.item() == pytest.approx(math.sqrt(wanted), rel=1e-6)
    assert ours.mean.item() == ours.mode.item() == LOC


def test_moments_that_do_not_exist_say_so():
    assert distribution(5 / 3).variance.item() == distribution(1.8).variance.item() == math.inf
    assert math.isnan(distribution(2.0).variance.item())
    assert distribution(1.9).mean.item() == LOC
    assert math.isnan(distribution(2.0).mean.item())
    assert distribution(2.5).mode.item() == LOC


@given(
    q=st.floats(-5.0, 2.6),
    loc=st.floats(-2.0, 2.0),
    scale=st.floats(0.01, 10.0),
    p=st.floats(1e-6, 1.0 - 1e-6),
)
@settings(max_examples=150)
def test_tails_quantiles_and_symmetry_for_any_index(q, loc, scale, p):
    ours = distribution(q, loc, scale)
    x = ours.icdf(tensor(p))
    assert ours.cdf(x).item() == pytest.approx(p, rel=1e-5)
    assert ours.sf(x).item() == pytest.approx(1.0 - p, rel=1e-5)
    assert ours.sf(2 * loc - x).item() == pytest.approx(p, rel=1e-5)
    assert ours.log_prob(x).item() == pytest.approx(ours.log_prob(2 * loc - x).item(), rel=1e-5, abs=1e-5)
    assert ours.icdf(tensor(min(1.0, 1.01 * p))).item() > x.item()


@pytest.mark.parametrize("delta", [1e-3, 1e-4, 1e-6, 1e-9, 1e-12, 1e-15])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_passes_smoothly_through_the_normal_distribution(delta, side):
    near, normal = distribution(1.0 + side * delta, 0.0, 1.0), distribution(1.0, 0.0, 1.0)
    x, p, u = tensor(-4.0, -1.0, 0.0, 0.5, 3.0), tensor(1e-6, 0.2, 0.5, 0.6, 0.999), noise(0.5, 100)
    tolerance = {"rtol": 0.0, "atol": 100 * delta + 1e-13}
    torch.testing.assert_close(near.log_prob(x), normal.log_prob(x), **tolerance)
    torch.testing.assert_close(near.cdf(x), normal.cdf(x), **tolerance)
    torch.testing.assert_close(near.icdf(p), normal.icdf(p), rtol=0.0, atol=100 * delta + 1e-9)
    torch.testing.assert_close(near.entropy(), normal.entropy(), **tolerance)
    torch.testing.assert_close(near.variance, normal.variance, **tolerance)
    box_muller = (-2 * u[:, 0].log()).sqrt() * (2 * math.pi * u[:, 1]).cos()
    torch.testing.assert_close(from_uniform(u, near.q), box_muller, rtol=0.0, atol=100 * delta + 1e-12)


# --- edges and tails


@pytest.mark.parametrize("q", BOUNDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outside_the_support_everything_is_exact(q, dtype):
    ours = QGaussian(torch.tensor(LOC, dtype=dtype), torch.tensor(SCALE, dtype=dtype), q)
    reach = SCALE * ours.radius
    beyond = torch.tensor([1.001 * reach, 10.0, 1e6, math.inf], dtype=dtype)
    for x in (LOC + beyond, LOC - beyond):
        assert (ours.log_prob(x) == -math.inf).all()
    assert (ours.cdf(LOC - beyond) == 0.0).all()
    assert (ours.cdf(LOC + beyond) == 1.0).all()
    assert (ours.sf(LOC - beyond) == 1.0).all()
    assert (ours.sf(LOC + beyond) == 0.0).all()


@pytest.mark.parametrize("q", BOUNDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_and_over_the_edge_are_zero_and_inside_finite(q, dtype):
    loc = torch.zeros(6, dtype=dtype, requires_grad=True)
    scale = torch.ones(6, dtype=dtype, requires_grad=True)
    ours = QGaussian(loc, scale, q)
    eps = torch.finfo(dtype).eps
    in_radii = [1 + 4 * eps, -3.0, 1e20, 1 - 4 * eps, -0.999, 0.0]
    x = torch.tensor([ours.radius * r for r in in_radii], dtype=dtype, requires_grad=True)
    for value in (ours.log_prob(x), ours.cdf(x), ours.sf(x)):
        slopes = torch.autograd.grad(value, (loc, scale, x), torch.ones(6, dtype=dtype))
        for slope in slopes:
            assert slope.isfinite().all()
            assert (slope[:3] == 0.0).all()
    slope = torch.autograd.grad(ours.log_prob(x)[3], loc, retain_graph=True)[0]
    assert slope[3] > 100.0


@pytest.mark.parametrize("q", [*BOUNDED, 1.0 / 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_on_every_number_around_the_edge(q, dtype):
    steps = torch.arange(-8, 9, dtype=dtype) * torch.finfo(dtype).eps / 2
    x = (support_radius(q) * (1.0 + steps)).requires_grad_()
    loc, scale = (torch.tensor(v, dtype=dtype, requires_grad=True) for v in (0.0, 1.0))
    log_prob = QGaussian(loc, scale, q).log_prob(x)
    assert (log_prob == -math.inf).any()
    assert log_prob.isfinite().any()
    for slope in torch.autograd.grad(log_prob.sum(), (x, loc, scale)):
        assert slope.isfinite().all()


@pytest.mark.parametrize("q", INDICES)
def test_quantiles_at_the_ends(q):
    p = tensor(0.0, 1.0, -0.1, 1.1, grad=True)
    x = distribution(q).icdf(p)
    reach = SCALE * support_radius(q)
    assert x[:2].tolist() == pytest.approx([LOC - reach, LOC + reach], rel=1e-15)
    assert x[2:].isnan().all()
    (slope,) = torch.autograd.grad(x[:2].sum(), p)
    assert not slope[:2].isnan().any()


@pytest.mark.parametrize("q", BOUNDED)
def test_float32_density_near_the_edge_is_as_good_as_its_argument(q):
    z = (support_radius(q) * (1.0 - torch.logspace(-5, -0.1, 40, dtype=torch.float64))).float()
    exact = distribution(q, 0.0, 1.0).log_prob(z.double())
    single = QGaussian(torch.zeros(()), torch.ones(()), q).log_prob(z).double()
    distance = 1.0 - z.double() / support_radius(q)
    allowed = 4 * 2.0**-24 * (1.0 / (1.0 - q) / distance + 8.0)  # rounding of z moves ln p by that much
    assert ((single - exact).abs() <= allowed).all()


@pytest.mark.parametrize("q", [1.2, 1.5, 2.0, 2.5])
def test_float32_density_and_tail_are_accurate_far_out(q):
    x = torch.logspace(0, 15, 30, dtype=torch.float64).float()
    single, exact = QGaussian(torch.tensor(0.25), torch.tensor(0.5), q), distribution(q, 0.25, 0.5)
    torch.testing.assert_close(single.log_prob(x).double(), exact.log_prob(x.double()), rtol=1e-6, atol=0.0)
    tail = exact.sf(x.double())
    seen = tail > 1e-30
    torch.testing.assert_close(single.sf(x).double()[seen], tail[seen], rtol=1e-5, atol=0.0)


def test_normal_tail_does_not_cancel():
    for dtype, rtol in ((torch.float32, 1e-4), (torch.float64, 1e-12)):
        ours = QGaussian(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype), 1.0)
        x = torch.tensor([5.0, 8.0, 12.0], dtype=dtype)
        wanted = oracle.q_gaussian(1.0).sf(x.double().numpy())
        np.testing.assert_allclose(ours.sf(x).double(), wanted, rtol=rtol)
        np.testing.assert_allclose(ours.cdf(-x).double(), wanted, rtol=rtol)


# --- gradients


@pytest.mark.parametrize("q", INDICES)
def test_gradients_by_finite_differences(q):
    loc, scale = tensor(0.1, -0.4, 0.3, grad=True), tensor(0.5, 1.5, 0.8, grad=True)
    x, p, u = tensor(0.35, 0.4, -0.3, grad=True), tensor(0.1, 0.55, 0.9, grad=True), noise(q, 3)

    def build(*parameters: torch.Tensor) -> QGaussian:
        return QGaussian(*parameters, q)

    assert torch.autograd.gradcheck(lambda x, m, s: build(m, s).log_prob(x), (x, loc, scale))
    assert torch.autograd.gradcheck(lambda x, m, s: build(m, s).cdf(x), (x, loc, scale))
    assert torch.autograd.gradcheck(lambda x, m, s: build(m, s).sf(x), (x, loc, scale))
    assert torch.autograd.gradcheck(lambda p, m, s: build(m, s).icdf(p), (p, loc, scale))
    assert torch.autograd.gradcheck(lambda m, s: build(m, s).rsample_from(u), (loc, scale))
    assert torch.autograd.gradcheck(lambda m, s: build(m, s).rsample_with_log_prob(u)[1], (loc, scale))
    assert torch.autograd.gradcheck(lambda s: build(loc, s).entropy(), (scale,))


@pytest.mark.parametrize("q", [0.0, 1.0, 1.5, 2.0])
def test_second_derivatives_by_finite_differences(q):
    loc, scale, x = tensor(0.1, -0.4, grad=True), tensor(0.5, 1.5, grad=True), tensor(0.35, 0.4, grad=True)
    p = tensor(0.2, 0.6, grad=True)
    assert torch.autograd.gradgradcheck(lambda x, m, s: QGaussian(m, s, q).log_prob(x), (x, loc, scale))
    assert torch.autograd.gradgradcheck(lambda x, m, s: QGaussian(m, s, q).cdf(x), (x, loc, scale))
    assert torch.autograd.gradgradcheck(lambda p, m, s: QGaussian(m, s, q).icdf(p), (p, loc, scale))


# --- draws


@pytest.mark.parametrize("q", INDICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_from_noise_follow_the_distribution(q, dtype):
    draws = from_uniform(noise(q, 40_000, dtype, seed=7), q)
    assert draws.dtype == dtype
    assert oracle.ks_p_value(draws.double(), oracle.q_gaussian(q).cdf) > 1e-3


@pytest.mark.parametrize("q", [0.0, 0.7, 1.0, 1.8, 2.0])
def test_rsample_follows_the_distribution(q):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        draws = QGaussian(tensor(LOC, -1.0), tensor(SCALE, 2.0), q).rsample((20_000,))
    assert draws.shape == (20_000, 2)
    assert oracle.ks_p_value(draws[:, 0], oracle.q_gaussian(q, LOC, SCALE).cdf) > 1e-3
    assert oracle.ks_p_value(draws[:, 1], oracle.q_gaussian(q, -1.0, 2.0).cdf) > 1e-3


@pytest.mark.parametrize("q", [0.0, 1.0, 2.0])
def test_one_uniform_is_inverted_exactly(q):
    assert n_uniforms(q) == 1
    u = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)[:, None]
    np.testing.assert_allclose(
        from_uniform(u[1:-1], q), oracle.q_gaussian(q).ppf(u[1:-1, 0].numpy()), rtol=1e-12, atol=1e-14
    )
    cells = (torch.arange(1, 2**24, 2**24 // 999) * 2.0**-24).float()[:, None]
    middle = cells[:, 0].double() + 2.0**-25
    np.testing.assert_allclose(
        from_uniform(cells, q).double(), oracle.q_gaussian(q).ppf(middle.numpy()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("q", [*INDICES, 2.9, -50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_finite_and_inside_for_every_noise(q, dtype):
    eps = torch.finfo(dtype).eps
    extremes = torch.tensor([0.0, eps / 4, 0.25, 0.5 - eps / 4, 0.5, 0.75, 1.0 - eps / 2, 1.0], dtype=dtype)
    u = torch.cartesian_prod(*[extremes] * n_uniforms(q)).reshape(-1, n_uniforms(q))
    z = from_uniform(u, q)
    assert (z.abs() < support_radius(q)).all()
    assert z.isfinite().all()
    standard = QGaussian(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype), q)
    assert standard.log_prob(z).isfinite().all()


@pytest.mark.parametrize("q", [0.0, 1.0, 2.0])
def test_extreme_noise_gives_mirrored_draws_of_the_stated_resolution(q):
    least, most = from_uniform(torch.tensor([[0.0], [1.0 - 2.0**-24]]), q).tolist()
    assert least == -most
    assert most == pytest.approx({0.0: 1.73171, 1.0: 5.42, 2.0: 2.0**25 / math.pi}[q], rel=1e-4)


@pytest.mark.parametrize("q", INDICES)
def test_log_density_of_own_draws(q):
    loc, scale, u = tensor(*[0.3] * 50, grad=True), tensor(*[0.2] * 50, grad=True), noise(q, 50)
    ours = QGaussian(loc, scale, q)
    value, log_prob = ours.rsample_with_log_prob(u)
    torch.testing.assert_close(value, ours.rsample_from(u))
    torch.testing.assert_close(log_prob, ours.log_prob(value), rtol=1e-6, atol=1e-6)
    by_loc, by_scale = torch.autograd.grad(log_prob.sum(), (loc, scale), allow_unused=True)
    assert by_loc is None  # exactly no derivative
    torch.testing.assert_close(by_scale * scale, -torch.ones_like(scale))


def test_log_density_of_own_draws_survives_rounding_on_to_the_edge():
    u = torch.tensor([[0.0], [1.0 - 2.0**-24], [2.0**-20]])
    narrow = QGaussian(torch.tensor(0.9), torch.tensor(1e-7), 0.0)
    value, log_prob = narrow.rsample_with_log_prob(u)
    assert log_prob.isfinite().all()
    assert not narrow.log_prob(value).isfinite().all()  # what the separate call would have given


# --- interface


@pytest.mark.parametrize("q", [3.0, 7.0, math.nan, math.inf, -math.inf, "1", None, True])
def test_a_bad_index_is_refused(q):
    for use in (lambda: distribution(q), lambda: support_radius(q), lambda: n_uniforms(q)):
        with pytest.raises(UserError, match=r"The index q .*must be"):
            use()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_scale_is_refused(scale):
    with pytest.raises(UserError, match=r"QGaussian: scale must be (above 0|finite), got"):
        QGaussian(torch.zeros(2), torch.tensor([1.0, scale]), 0.0)
    QGaussian(torch.zeros(2), torch.tensor([1.0, scale]), 0.0, validate_args=False)


@pytest.mark.parametrize("loc", [math.nan, math.inf])
def test_a_bad_location_is_refused(loc):
    with pytest.raises(UserError, match="QGaussian: loc must be finite, got"):
        QGaussian(loc, 1.0, 0.0)


def test_a_nan_value_is_refused_or_passed_on_but_never_hidden():
    x = tensor(0.0, math.nan)
    for name in ("log_prob", "cdf", "sf"):
        with pytest.raises(UserError, match="QGaussian: the value must not contain NaN"):
            getattr(distribution(1.0), name)(x)
    for q in (0.0, 0.5, 1.0, 1.5, 2.0):
        unchecked = QGaussian(0.0, tensor(1.0), q, validate_args=False)
        assert unchecked.log_prob(x)[1].isnan()
        assert unchecked.cdf(x)[1].isnan()
        assert unchecked.sf(x)[1].isnan()


def test_noise_of_the_wrong_width_is_refused():
    with pytest.raises(UserError, match=r"q = 0.5 needs a last axis of length 2, got shape \(4, 1\)"):
        from_uniform(torch.rand(4, 1), 0.5)
    with pytest.raises(UserError, match="needs a last axis of length 1"):
        distribution(0.0).rsample_from(torch.tensor(0.5))


def test_shapes_broadcast_and_expand():
    ours = QGaussian(torch.zeros(3, 1), torch.ones(4), 0.0)
    assert ours.batch_shape == (3, 4)
    assert ours.log_prob(torch.zeros(2, 3, 4)).shape == (2, 3, 4)
    assert ours.rsample((5,)).shape == (5, 3, 4)
    wide = distribution(0.5).expand((2, 6))
    assert isinstance(wide, QGaussian)
    assert wide.batch_shape == wide.mode.shape == (2, 6)
    torch.testing.assert_close(
        wide.log_prob(tensor(0.4)), distribution(0.5).log_prob(tensor(0.4)).expand(2, 6)
    )
    assert wide.rsample().shape == (2, 6)
    assert distribution(0.5).batch_shape == (1,)


def test_plain_numbers_make_a_scalar_distribution():
    ours = QGaussian(0.0, 1.0, 2)
    assert ours.batch_shape == ()
    assert ours.sample().shape == ()
    assert ours.cdf(torch.tensor(0.0)).item() == 0.5


@pytest.mark.parametrize("q", [0.0, 1.0, 1.5])
def test_independent_adds_over_dimensions(q):
    base = QGaussian(torch.zeros(4, 3), torch.full((4, 3), 0.5), q)
    joint = Independent(base, 1)
    x = 0.1 * torch.arange(12.0).reshape(4, 3) - 0.5
    torch.testing.assert_close(joint.log_prob(x), base.log_prob(x).sum(-1))
    torch.testing.assert_close(joint.entropy(), base.entropy().sum(-1))
    assert joint.rsample((2,)).shape == (2, 4, 3)
    assert joint.mode.shape == (4, 3)
    assert joint.support.event_dim == 1


def test_independent_is_minus_infinity_if_one_dimension_is_outside():
    joint = Independent(QGaussian(torch.zeros(3), torch.ones(3), 0.0), 1)
    assert joint.log_prob(torch.tensor([0.0, 9.0, 0.0])).item() == -math.inf


def test_support():
    box = QGaussian(tensor(0.0, 1.0), tensor(1.0, 2.0), 0.0).support
    torch.testing.assert_close(box.lower_bound, tensor(-math.sqrt(3.0), 1.0 - 2.0 * math.sqrt(3.0)))
    torch.testing.assert_close(box.upper_bound, tensor(math.sqrt(3.0), 1.0 + 2.0 * math.sqrt(3.0)))
    for q in (1.0, 2.0):
        assert distribution(q).support is constraints.real


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # raised within torch
@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_traces_as_one_graph_without_breaks(q):
    def loss(loc: torch.Tensor, raw: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        ours = QGaussian(loc, raw.exp(), q, validate_args=False)
        value, log_prob = ours.rsample_with_log_prob(u)
        total = log_prob.sum() + ours.log_prob(0.5 * loc).sum() + value.sum() + ours.entropy().sum()
        if q in (0.0, 1.0, 2.0):  # the others go through scipy
            total = total + ours.cdf(loc + 0.1).sum() + ours.sf(value).sum() + ours.icdf(u[:, 0]).sum()
        return total

    loc, raw, u = tensor(*[0.2] * 9, grad=True), tensor(*[-0.3] * 9, grad=True), noise(q, 9)
    torch._dynamo.reset()
    traced = torch.compile(loss, fullgraph=True, backend="aot_eager")
    plain, compiled = loss(loc, raw, u), traced(loc, raw, u)
    torch.testing.assert_close(plain, compiled)
    wanted, slopes = (torch.autograd.grad(value, (loc, raw)) for value in (plain, compiled))
    torch.testing.assert_close(slopes, wanted)
