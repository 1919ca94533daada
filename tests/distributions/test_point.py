"""The distribution of a deterministic policy."""

import pytest
import torch
from torch.distributions import Independent

from dosing.distributions.point import Point


def test_everything_is_at_the_point() -> None:
    loc = torch.tensor([[0.2, -0.7]], dtype=torch.float64, requires_grad=True)
    distribution = Point(loc)
    assert distribution.batch_shape == (1, 2)
    for value in (
        distribution.mode,
        distribution.mean,
        distribution.rsample(),
        distribution.icdf(torch.full((1, 2), 0.3)),
    ):
        assert torch.equal(value, loc)
    assert torch.equal(distribution.variance, torch.zeros(1, 2))
    below, above = loc.detach() - 1e-12, loc.detach() + 1e-12
    assert (distribution.cdf(below) == 0).all()
    assert (distribution.sf(below) == 1).all()
    assert (distribution.cdf(above) == 1).all()
    assert (distribution.sf(above) == 0).all()
    assert torch.equal(distribution.cdf(loc.detach()) + distribution.sf(loc.detach()), torch.ones(1, 2))


def test_draws_carry_the_gradient_and_the_shape_of_the_noise() -> None:
    loc = torch.tensor([0.2, -0.7], requires_grad=True)
    draws = Point(loc).rsample_from(torch.rand(5, 2, 1))
    assert draws.shape == (5, 2)
    draws.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(loc.grad, torch.full((2,), 5.0))


def test_there_is_no_density() -> None:
    with pytest.raises(NotImplementedError, match="no density"):
        Point(torch.zeros(3)).log_prob(torch.zeros(3))
    assert Independent(Point(torch.zeros(4, 3)), 1).event_shape == (3,)
