"""The distribution of a delivered dose: two atoms and a density, never confused."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from dosing.distributions.clipped import Clipped
from dosing.distributions.q_gaussian import QGaussian
from dosing.distributions.univariate import central_interval
from dosing.errors import UserError
from tests.oracles import distributions as oracle

INDICES = [0.0, 0.5, 1.0, 1.5, 2.0]


def tensor(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def clipped(q: float, loc: float = 0.6, scale: float = 0.5) -> Clipped:
    return Clipped(QGaussian(tensor(loc), tensor(scale), q))


@pytest.mark.parametrize("q", INDICES)
def test_atoms_and_density_add_up_to_one(q):
    ours, reference = clipped(q), oracle.q_gaussian(q, 0.6, 0.5)
    assert ours.mass_low.item() == pytest.approx(reference.cdf(-1.0), rel=1e-12)
    assert ours.mass_high.item() == pytest.approx(reference.sf(1.0), rel=1e-12)
    between = sum(
        oracle.integral(lambda x: ours.density(tensor(x)).item(), a, b) for a, b in ((-1.0, 0.6), (0.6, 1.0))
    )
    assert between + ours.mass_low.item() + ours.mass_high.item() == pytest.approx(1.0, abs=1e-8)


def test_a_cauchy_distribution_at_distance_one_leaves_nine_percent_on_either_side():
    ours = clipped(2.0, 0.0, 0.3)
    assert ours.mass_low.item() == ours.mass_high.item() == pytest.approx(0.0928, abs=5e-5)


def test_an_atom_far_in_the_tail_is_not_rounded_away():
    single = Clipped(QGaussian(torch.tensor([0.0]), torch.tensor([0.1]), 1.0))
    assert single.mass_high.item() == pytest.approx(oracle.q_gaussian(1.0, 0.0, 0.1).sf(1.0), rel=1e-4)


def test_probability_and_density_each_stay_in_their_place():
    ours = clipped(1.0)
    x = tensor(-1.5, -1.0, 0.2, 1.0, 1.5)
    atoms, density = ours.prob_atom(x), ours.density(x)
    assert atoms.tolist() == [0.0, ours.mass_low.item(), 0.0, ours.mass_high.item(), 0.0]
    assert density.tolist() == [0.0, 0.0, ours.base.log_prob(tensor(0.2)).exp().item(), 0.0, 0.0]
    likelihood = ours.mixed_log_likelihood(x)
    assert likelihood[[0, 4]].tolist() == [-math.inf, -math.inf]
    torch.testing.assert_close(likelihood[1:4].exp(), (atoms + density)[1:4])
    with pytest.raises(UserError, match="use mixed_log_likelihood, or density and prob_atom"):
        ours.log_prob(x)


@pytest.mark.parametrize("q", INDICES)
def test_distribution_function_jumps_at_the_limits(q):
    ours = clipped(q)
    x = tensor(-1.0 - 1e-9, -1.0, 0.3, 1.0 - 1e-9, 1.0, 3.0)
    below = ours.cdf(x)
    wanted = oracle.q_gaussian(q, 0.6, 0.5).cdf(x.numpy())
    assert below[0].item() == 0.0
    assert below[4:].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(below[1:4], wanted[1:4], rtol=1e-12)
    torch.testing.assert_close(ours.sf(x), 1.0 - below)


@pytest.mark.parametrize("q", INDICES)
def test_draws_and_quantiles_are_those_of_the_base_held_in_the_box(q):
    ours = clipped(q)
    u = torch.rand(
        50_000, 1, ours.n_uniforms, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    draws = ours.rsample_from(u)
    assert ((draws >= -1.0) & (draws <= 1.0)).all()
    for share, mass in (((draws == -1.0), ours.mass_low), ((draws == 1.0), ours.mass_high)):
        error = 4.0 * math.sqrt(0.25 / len(draws))
        assert share.double().mean().item() == pytest.approx(mass.item(), abs=error)
    p = tensor(1e-9, 0.3, 1.0 - 1e-9)
    torch.testing.assert_close(ours.icdf(p), ours.base.icdf(p).clamp(-1.0, 1.0))
    low, high = central_interval(ours, 0.5)
    assert -1.0 <= low.item() < high.item() <= 1.0


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0])
def test_likelihood_gradients_by_finite_differences(q):
    x, loc, scale = tensor(-1.0, 0.3, 1.0), tensor(0.4, grad=True), tensor(0.5, grad=True)
    assert torch.autograd.gradcheck(
        lambda m, s: Clipped(QGaussian(m, s, q)).mixed_log_likelihood(x), (loc, scale)
    )


def test_an_impossible_atom_has_no_likelihood_and_no_gradient():
    loc, scale = tensor(0.0, grad=True), tensor(0.1, grad=True)
    value = Clipped(QGaussian(loc, scale, 0.0)).mixed_log_likelihood(tensor(-1.0, 1.0, -4.0))
    assert value.tolist() == [-math.inf] * 3
    for slope in torch.autograd.grad(value.sum(), (loc, scale)):
        assert slope.item() == 0.0


def test_mode_support_expand_and_independent():
    ours = Clipped(QGaussian(tensor(1.4, -0.2), tensor(1.0, 1.0), 1.0), low=-0.5, high=0.8)
    assert ours.mode.tolist() == [0.8, -0.2]
    assert ours.support.lower_bound.tolist() == [-0.5, -0.5]
    assert ours.support.upper_bound.tolist() == [0.8, 0.8]
    wide = ours.expand((3, 2))
    assert wide.mass_high.shape == (3, 2)
    assert Independent(wide, 1).sample((4,)).shape == (4, 3, 2)


def test_bad_arguments_are_refused():
    base = QGaussian(0.0, 1.0, 1.0)
    for low, high in ((1.0, -1.0), (0.0, 0.0), (-math.inf, 1.0), (0.0, math.nan)):
        with pytest.raises(UserError, match="must be finite, the lower below the upper"):
            Clipped(base, low, high)
    with pytest.raises(UserError, match="a distribution of this package, with both tails, got Normal"):
        Clipped(Normal(0.0, 1.0), -1.0, 1.0)
    with pytest.raises(UserError, match="must not contain NaN"):
        Clipped(base).prob_atom(torch.tensor(math.nan))
    unchecked = Clipped(QGaussian(0.0, 1.0, 1.0, validate_args=False))
    assert unchecked.mixed_log_likelihood(torch.tensor(math.nan)).isnan()
