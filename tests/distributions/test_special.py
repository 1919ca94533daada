"""Special functions against scipy, at both ends of their range and across the switch to a series."""

import math

import numpy as np
import pytest
import torch
from scipy import special as scipy_special
from scipy import stats

from dosing.distributions import special


@pytest.mark.parametrize("b", [1e-6, 0.25, 1.0, 7.3, 49.999, 50.0, 50.001, 300.0, 1e5])
def test_half_steps_match_scipy(b):
    ratio = math.log(scipy_special.poch(b, 0.5))
    assert special.log_gamma_half_step(b) == pytest.approx(ratio, rel=1e-11, abs=1e-13)
    step = scipy_special.psi(b + 0.5) - scipy_special.psi(b)
    assert special.digamma_half_step(b) == pytest.approx(step, rel=1e-9)


@pytest.mark.parametrize("b", [50.0, 80.0, 1e3])
def test_series_agree_with_the_duplication_formula(b):
    # Gamma(b) Gamma(b + 1/2) = 2^(1 - 2b) sqrt(pi) Gamma(2b), applied at b and at b + 1/2
    both = special.log_gamma_half_step(b) + special.log_gamma_half_step(b + 0.5)
    assert both == pytest.approx(math.log(b), rel=1e-15)
    both = special.digamma_half_step(b) + special.digamma_half_step(b + 0.5)
    assert both == pytest.approx(1.0 / b, rel=1e-14)


def test_half_steps_keep_all_digits_at_the_normal_limit():
    b = 1e15
    assert special.log_gamma_half_step(b) == pytest.approx(0.5 * math.log(b), rel=1e-15)
    assert b * special.digamma_half_step(b) == pytest.approx(0.5, rel=1e-14)


@pytest.mark.parametrize("df", [0.3, 1.0, 3.0, 40.0, 1e8])
def test_t_tails_and_quantiles_keep_relative_accuracy(df):
    p = torch.tensor([1e-30, 1e-9, 0.1, 0.24, 0.26, 0.5, 0.6, 0.9], dtype=torch.float64)
    z = special.t_icdf(p, df)
    np.testing.assert_allclose(special.t_cdf(z, df), p, rtol=2e-12)
    reference = stats.t.ppf(p.numpy(), df) if df < 1e6 else stats.norm.ppf(p.numpy())
    np.testing.assert_allclose(z, reference, rtol=1e-9 if df < 1e6 else 2e-6, atol=1e-12)


@pytest.mark.parametrize("power", [0.1, 1.0, 2.0, 30.0, 1e8])
def test_arch_tails_and_quantiles_keep_relative_accuracy(power):
    p = torch.tensor([1e-9, 0.1, 0.24, 0.26, 0.5, 0.6, 0.9], dtype=torch.float64)
    w = special.arch_icdf(p, power)
    np.testing.assert_allclose(special.arch_cdf(w, power)[1:], p[1:], rtol=1e-12)
    distribution = stats.beta(power + 1.0, power + 1.0, loc=-1.0, scale=2.0)
    np.testing.assert_allclose(
        w, distribution.ppf(p.numpy()), rtol=1e-10 if power < 1e6 else 1e-7, atol=1e-12
    )


def test_beta_distribution_function_is_accurate_at_both_ends():
    x = torch.tensor([1e-12, 0.2, 0.5, 0.8, 1.0 - 1e-12], dtype=torch.float64)
    alpha, beta = torch.full_like(x, 2.5), torch.full_like(x, 1.5)
    distribution = stats.beta(2.5, 1.5)
    np.testing.assert_allclose(
        special.beta_cdf(x, 1 - x, alpha, beta), distribution.cdf(x.numpy()), rtol=1e-12
    )
    np.testing.assert_allclose(
        special.beta_cdf(1 - x, x, beta, alpha), distribution.sf(x.numpy()), rtol=1e-12
    )


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_quantiles_of_no_probability_are_nan(p):
    p = torch.tensor([p], dtype=torch.float64)
    assert special.t_icdf(p, 3.0).isnan().all()
    assert special.arch_icdf(p, 2.0).isnan().all()
    assert special.beta_icdf(p, torch.tensor([2.0]), torch.tensor([2.0])).isnan().all()


def test_precision_and_shape_follow_the_first_argument():
    value = special.t_cdf(torch.zeros(3, 1, dtype=torch.float32), torch.ones(3, 4, dtype=torch.float64))
    assert value.shape == (3, 4)
    assert value.dtype == torch.float32
    assert special.arch_cdf(torch.tensor(0.0), 1.0).item() == 0.5
