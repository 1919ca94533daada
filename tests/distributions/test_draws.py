"""The distribution of finitely many doses against counting, and the probability of being the best of several
draws."""

import itertools

import numpy as np
import pytest
import torch

from dosing.distributions.draws import Draws, best_of, densest
from dosing.errors import UserError


def distribution(**fields: object) -> Draws:
    values = torch.tensor([[[0.5, -0.5, 0.0, 0.5]]], dtype=torch.float64)  # [B, A, M]
    weights = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]], dtype=torch.float64)
    return Draws(values, weights, **fields)  # type: ignore[arg-type]


def one(value: float) -> torch.Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("dose", "below"), [(-0.6, 0.0), (-0.5, 0.2), (-0.1, 0.2), (0.0, 0.5), (0.5, 1.0), (2.0, 1.0)]
)
def test_tails_count_the_doses(dose: float, below: float) -> None:
    assert float(distribution().cdf(one(dose))) == pytest.approx(below)
    assert float(distribution().sf(one(dose))) == pytest.approx(1.0 - below)


@pytest.mark.parametrize(
    ("p", "dose"), [(0.0, -0.5), (0.2, -0.5), (0.21, 0.0), (0.5, 0.0), (0.51, 0.5), (1.0, 0.5)]
)
def test_quantiles_are_the_least_dose_that_reaches_the_probability(p: float, dose: float) -> None:
    assert float(distribution().icdf(one(p))) == dose
    assert np.isnan(float(distribution().icdf(one(1.5))))


def test_moments_and_draws_have_the_weights() -> None:
    assert float(distribution().mean) == pytest.approx(0.5 * 0.5 - 0.1)
    assert float(distribution().variance) == pytest.approx(0.5 * 0.25 + 0.2 * 0.25 - 0.15**2)
    u = (torch.arange(1000, dtype=torch.float64) / 1000.0).view(1000, 1, 1, 1)
    draws = distribution().rsample_from(u)
    assert draws.shape == (1000, 1, 1)
    shares = [float((draws == dose).double().mean()) for dose in (-0.5, 0.0, 0.5)]
    assert shares == pytest.approx([0.2, 0.3, 0.5], abs=2e-3)


def test_the_dimensions_of_a_draw_stay_together() -> None:
    values = torch.tensor([[0.1, 0.2, 0.3], [1.1, 1.2, 1.3]])  # [A, M]
    draws = Draws(values.expand(5, 2, 3)).rsample((200,))
    assert draws.shape == (200, 5, 2)
    torch.testing.assert_close(draws[..., 1], draws[..., 0] + 1.0)
    assert len(draws[..., 0].unique()) == 3


def test_expanding_copies_nothing_and_changes_nothing() -> None:
    wide = distribution(kind="point_set").expand((7, 1, 1))
    assert wide.batch_shape == (7, 1, 1)
    assert wide.kind == "point_set"
    assert wide.values.data_ptr() == wide.expand((2, 7, 1, 1)).values.data_ptr()
    assert torch.equal(wide.cdf(one(0.0)), torch.full((7, 1, 1), 0.5, dtype=torch.float64))
    assert wide.rsample().shape == (7, 1, 1)


def test_the_densest_dose_lies_in_the_larger_group() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(-0.6, 0.02, (40, 2)), rng.normal(0.5, 0.02, (24, 2))]
    values = torch.from_numpy(np.concatenate(groups)).T.expand(3, 2, 64)
    result = densest(values)
    assert result.shape == (3, 2)
    assert bool((result < -0.5).all())
    assert bool((result[0] == values[0].T).all(-1).any()), "it is one of the doses"
    assert torch.equal(densest(values[..., :1]), values[..., 0])
    assert float(densest(values[:1, :1])) < -0.5


@pytest.mark.parametrize("tries", [1, 2, 5])
def test_the_best_of_several_draws_by_enumeration(tries: int) -> None:
    preference = torch.tensor([0.3, 2.0, -1.0], dtype=torch.float64)
    counts = np.zeros(3)
    for drawn in itertools.product(range(3), repeat=tries):
        counts[max(drawn, key=lambda k: float(preference[k]))] += 1
    np.testing.assert_allclose(best_of(preference, tries).numpy(), counts / 3**tries)
    assert best_of(torch.zeros(2, 5, 4), tries).sum(-1).allclose(torch.ones(2, 5))


def test_wrong_distributions_are_refused() -> None:
    values = torch.zeros(1, 1, 2)
    with pytest.raises(UserError, match="sum to 1"):
        Draws(values, torch.tensor([[[0.5, 0.6]]]))
    with pytest.raises(UserError, match="at least 0"):
        Draws(values, torch.tensor([[[1.5, -0.5]]]))
    with pytest.raises(UserError, match="finite"):
        Draws(values * torch.nan)
    with pytest.raises(NotImplementedError, match="no density"):
        Draws(values).log_prob(torch.zeros(1, 1))
