"""The law of a deterministic policy."""

import pytest
import torch
from torch.distributions import Independent

from dosing.distributions.point import Point


def test_everything_is_at_the_point() -> None:
    loc = torch.tensor([[0.2, -0.7]], dtype=torch.float64, requires_grad=True)
    law = Point(loc)
    assert law.batch_shape == (1, 2)
    for value in (law.mode, law.mean, law.rsample(), law.icdf(torch.full((1, 2), 0.3))):
        assert torch.equal(value, loc)
    assert torch.equal(law.variance, torch.zeros(1, 2))
    below, above = loc.detach() - 1e-12, loc.detach() + 1e-12
    assert (law.cdf(below) == 0).all()
    assert (law.sf(below) == 1).all()
    assert (law.cdf(above) == 1).all()
    assert (law.sf(above) == 0).all()
    assert torch.equal(law.cdf(loc.detach()) + law.sf(loc.detach()), torch.ones(1, 2))


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
