"""Target networks and shared losses against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

from dosing.models.losses import expectile_loss, polyak, target_copy, td_target


def nets() -> tuple[nn.Module, nn.Module]:
    online = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    return online, target_copy(online)


def test_a_target_is_a_copy_without_gradient() -> None:
    online, target = nets()
    for a, b in zip(online.parameters(), target.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()
        assert a.requires_grad
        assert not b.requires_grad


@pytest.mark.parametrize("rate", [0.0, 0.005, 0.3, 1.0])
def test_polyak_moves_by_the_rate(rate: float) -> None:
    online, target = nets()
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = [p.clone() for p in target.parameters()]
    fixed = [p.clone() for p in online.parameters()]
    polyak(target, online, rate)
    for old, new, live, was in zip(before, target.parameters(), online.parameters(), fixed, strict=True):
        torch.testing.assert_close(new, rate * live + (1.0 - rate) * old)
        assert torch.equal(live, was)  # the online network is not touched


def test_expectile_loss_is_the_asymmetric_square() -> None:
    error = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    assert expectile_loss(error, 0.9).tolist() == pytest.approx([0.4, 0.025, 0.0, 0.225, 3.6])
    torch.testing.assert_close(expectile_loss(error, 0.5), 0.5 * error.square())


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.95])
def test_its_minimiser_is_the_expectile(expectile: float) -> None:
    """v minimises E|kappa - 1{x<v}|(x-v)^2 iff kappa E(x-v)+ = (1-kappa) E(v-x)+; at 1/2 that is the mean."""
    sample = np.random.default_rng(1).gamma(2.0, size=400)

    def balance(v: float) -> float:
        return float(
            expectile * np.maximum(sample - v, 0).mean() - (1 - expectile) * np.maximum(v - sample, 0).mean()
        )

    exact = brentq(balance, sample.min(), sample.max(), xtol=1e-12)
    v = torch.tensor(exact, dtype=torch.float64, requires_grad=True)
    expectile_loss(torch.from_numpy(sample) - v, expectile).mean().backward()
    assert v.grad is not None
    assert abs(float(v.grad)) < 1e-9
    if expectile == 0.5:
        assert exact == pytest.approx(sample.mean())


def test_bootstrapping_stops_at_termination() -> None:
    reward = torch.tensor([1.0, 2.0])
    target = td_target(reward, torch.tensor([0.0, 1.0]), 0.9, torch.tensor([10.0, 10.0]))
    assert target.tolist() == pytest.approx([10.0, 2.0])
