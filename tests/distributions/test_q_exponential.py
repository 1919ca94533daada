"""The q-exponential and its inverse: values, limits, exact zeros, gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dosing.distributions.q_exponential import exp_q, log_q
from dosing.errors import UserError

INDICES = [-2.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.5]


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("q", INDICES)
def test_exp_q_is_its_definition(q):
    x = tensor(-4.0, -1.0, -0.5, -0.1, 0.0, 0.1, 0.15)
    if q == 1.0:
        wanted = np.exp(x.numpy())
    else:
        base = 1.0 + (1.0 - q) * x.numpy()
        wanted = np.where(base > 0.0, np.maximum(base, 1e-300) ** (1.0 / (1.0 - q)), 0.0)
    np.testing.assert_allclose(exp_q(x, q).numpy(), wanted, rtol=1e-13)


def test_exp_0_is_a_ramp_and_log_0_a_shift():
    x = tensor(-3.0, -1.0, -0.25, 0.0, 2.0)
    assert exp_q(x, 0.0).tolist() == pytest.approx([0.0, 0.0, 0.75, 1.0, 3.0])
    assert log_q(tensor(0.0, 0.5, 4.0), 0.0).tolist() == pytest.approx([-1.0, -0.5, 3.0])


@pytest.mark.parametrize("q", [-2.0, 0.0, 0.5])
def test_exp_q_is_exactly_zero_from_its_threshold_down(q):
    edge = -1.0 / (1.0 - q)
    x = tensor(edge, edge - 1e-9, -1e30, edge + 1e-9)
    value = exp_q(x, q)
    assert value[:3].tolist() == [0.0, 0.0, 0.0]
    assert value[3] > 0.0


def test_exp_q_is_infinite_from_its_pole_up():
    assert exp_q(tensor(1.0, 1.5), 2.0).tolist() == [math.inf, math.inf]
    assert exp_q(tensor(0.5), 2.0).item() == pytest.approx(2.0)


@given(st.floats(-2.0, 3.0), st.floats(0.1, 10.0))
def test_exp_q_inverts_log_q(q, x):
    assert exp_q(log_q(tensor(x), q), q).item() == pytest.approx(x, rel=1e-11)


@pytest.mark.parametrize("delta", [1e-4, -1e-4, 1e-8, -1e-8, 1e-13, -1e-13])
def test_both_pass_smoothly_through_the_ordinary_functions(delta):
    x, y = tensor(-3.0, -0.2, 0.4, 3.0), tensor(0.01, 0.9, 1.1, 40.0)
    torch.testing.assert_close(exp_q(x, 1.0 + delta), x.exp(), rtol=10 * abs(delta) + 1e-14, atol=0.0)
    torch.testing.assert_close(log_q(y, 1.0 + delta), y.log(), rtol=10 * abs(delta) + 1e-14, atol=0.0)


@pytest.mark.parametrize("q", INDICES)
def test_gradients_are_the_stated_powers(q):
    x = tensor(-0.6, -0.3, -0.1, 0.1).mul(min(1.0, 1.0 / abs(1.0 - q) if q != 1.0 else 1.0)).requires_grad_()
    (slope,) = torch.autograd.grad(exp_q(x, q).sum(), x)
    torch.testing.assert_close(slope, exp_q(x.detach(), q) ** q, rtol=1e-12, atol=0.0)
    y = tensor(0.1, 1.0, 7.0).requires_grad_()
    (slope,) = torch.autograd.grad(log_q(y, q).sum(), y)
    torch.testing.assert_close(slope, y.detach() ** -q, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("q", INDICES)
def test_gradients_are_never_nan_at_or_over_the_edge(q):
    edge = math.inf if q == 1.0 else -1.0 / (1.0 - q)
    x = tensor(edge if math.isfinite(edge) else 0.0, edge - 1.0 if q < 1.0 else 5.0).requires_grad_()
    (slope,) = torch.autograd.grad(exp_q(x, q).sum(), x)
    assert torch.isfinite(slope).all()
    y = tensor(0.0, 1e-3).requires_grad_()
    (slope,) = torch.autograd.grad(log_q(y, q)[0], y)
    assert slope.tolist() == [0.0, 0.0]


def test_log_q_at_and_below_zero():
    assert log_q(tensor(0.0), 0.5).item() == -2.0
    assert log_q(tensor(0.0), 1.0).item() == -math.inf
    assert log_q(tensor(0.0), 2.0).item() == -math.inf
    assert math.isnan(log_q(tensor(-1.0), 0.5).item())


@pytest.mark.parametrize("q", [math.nan, math.inf, "1", None, True])
def test_a_bad_index_is_refused(q):
    for function in (exp_q, log_q):
        with pytest.raises(UserError, match="index q must be a finite number"):
            function(tensor(0.5), q)


def test_nan_is_passed_on():
    for q in INDICES:
        assert exp_q(tensor(math.nan), q).isnan().all()
        assert log_q(tensor(math.nan), q).isnan().all()
