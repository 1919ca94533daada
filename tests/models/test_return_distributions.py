"""Quantile critics row by row, the quantile Huber loss at known distributions, distributions on atoms,
ranges, choices."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.networks import Initialiser
from dosing.models.regularisation import Regularisation
from dosing.models.return_distributions import (
    QuantileCritic,
    ReturnRange,
    best,
    equally_likely,
    midpoints,
    pooled,
    preferences,
    quantile_huber,
)
from tests.support.samples import dataset

SEEDS = (0, 4)


def initialiser(seeds: tuple[int, ...] = SEEDS, **options: Any) -> Initialiser:
    return Initialiser(seeds, dtype=torch.float64, regularisation=Regularisation(**options))


def normal(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(len(shape)).standard_normal(shape))


def uniform(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).random(shape))


# Critics


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5), (6, 5, 4)], ids=str)
def test_a_row_of_quantiles_depends_on_its_own_state_dose_and_fraction(
    gated: bool, hidden: tuple[int, ...]
) -> None:
    critic = QuantileCritic(initialiser(), 3, 2, hidden, gated=gated, members=3)
    obs, act, tau = normal(2, 5, 3), normal(2, 5, 2), uniform(2, 5, 4)
    whole = critic(obs, act, tau)
    assert whole.shape == (2, 3, 5, 4)
    part = critic(obs[:, 2:3], act[:, 2:3], tau[:, 2:3, 1:2])
    torch.testing.assert_close(whole[:, :, 2:3, 1:2], part)
    shared = critic(obs, act, tau[:, :1])
    torch.testing.assert_close(shared, critic(obs, act, tau[:, :1].expand(-1, 5, -1)))
    alone = QuantileCritic(initialiser(SEEDS[1:]), 3, 2, hidden, gated=gated, members=3)
    torch.testing.assert_close(alone(obs[1:], act[1:], tau[1:]), whole[1:])
    assert len({round(float(x), 12) for x in whole[0, :, 0, 0].detach()}) == 3, "members differ"


@pytest.mark.parametrize("gated", [False, True])
def test_a_dose_quadratic_critic_is_a_parabola_at_every_fraction(gated: bool) -> None:
    critic = QuantileCritic(initialiser(dose_quadratic=True, critics=3), 3, 1, (6, 5), gated=gated)
    obs, tau = normal(2, 1, 3), uniform(2, 1, 4)
    doses = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)
    values = torch.stack([critic(obs, a.expand(2, 1, 1), tau) for a in doses])
    assert values.shape == (5, 2, 3, 1, 4)
    torch.testing.assert_close(values.diff(n=3, dim=0), torch.zeros(2, 2, 3, 1, 4, dtype=torch.float64))
    assert bool((values.diff(n=2, dim=0).abs() > 1e-6).all())


def test_a_pool_of_members_is_their_mean_less_a_share_of_their_spread() -> None:
    values = torch.tensor([[[1.0, 5.0], [3.0, 2.0], [8.0, 2.0]]], dtype=torch.float64)  # [1, 3, 2]
    assert pooled(values, None).tolist() == [[4.0, 3.0]]
    spread = ((9.0 + 1.0 + 16.0) / 3) ** 0.5, 2.0**0.5
    expected = torch.tensor([[4.0 - 0.5 * spread[0], 3.0 - 0.5 * spread[1]]], dtype=torch.float64)
    torch.testing.assert_close(pooled(values, 0.5), expected)


# Losses


def test_the_loss_is_that_of_the_equations() -> None:
    quantiles, tau, target = normal(1, 2, 3, 4), uniform(1, 3, 4), 2.0 * normal(1, 3, 5)
    weight = uniform(1, 3, 5)
    plain, weighted = (quantile_huber(quantiles, tau, target, 0.7, w) for w in (None, weight))
    for e, b, k in np.ndindex(2, 3, 4):
        losses = []
        for y in target[0, b].tolist():
            u = y - float(quantiles[0, e, b, k])
            huber = 0.5 * u * u if abs(u) <= 0.7 else 0.7 * (abs(u) - 0.35)
            losses.append(abs(float(tau[0, b, k]) - (u < 0.0)) * huber / 0.7)
        assert float(plain[0, e, b, k]) == pytest.approx(np.mean(losses))
        assert float(weighted[0, e, b, k]) == pytest.approx(float(np.dot(losses, weight[0, b].numpy())))


def test_the_loss_is_least_at_the_quantile() -> None:
    levels = midpoints(10, torch.empty(0, dtype=torch.float64))
    draws = torch.from_numpy(stats.norm.ppf((np.arange(2000) + 0.5) / 2000))
    result = torch.zeros(1, 1, 1, 10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([result], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = quantile_huber(result, levels.view(1, 1, -1), draws.view(1, 1, -1), 0.01).sum()
        total.backward()
        return total.detach()

    optimizer.step(loss)  # type: ignore[arg-type, no-untyped-call]
    np.testing.assert_allclose(result.detach().numpy().ravel(), stats.norm.ppf(levels), atol=0.01)


# Distributions on atoms


def test_a_distribution_on_atoms_as_equally_likely_values() -> None:
    atoms = torch.tensor([-1.0, 0.0, 4.0])
    probability = torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])
    result = equally_likely(atoms, probability, 8)
    assert result.tolist() == [[-1.0] * 2 + [4.0] * 6, [0.0] * 8, [-1.0] * 4 + [0.0] * 2 + [4.0] * 2]


def test_rounded_probabilities_never_leave_the_atoms() -> None:
    probability = torch.full((1, 51), 1.0 / 51) * (1.0 - 1e-4)  # sums to less than the last midpoint
    result = equally_likely(torch.arange(51.0), probability, 100_000)
    assert float(result.max()) == 50.0
    assert result.mean() == pytest.approx(25.0, abs=0.01)


# Ranges


def with_rewards(*rewards: list[float]) -> Dataset:
    """A data set of these rewards for each of several replicates."""
    columns = {
        name: torch.zeros(sum(map(len, rewards)), 1, dtype=torch.float64)
        for name in ("obs", "act", "next_obs")
    }
    flat = torch.tensor([x for part in rewards for x in part], dtype=torch.float64)
    starts = torch.arange(len(flat) + 1)
    return replace(
        dataset(1), **columns, reward=flat, terminated=flat, starts=starts, replicates=len(rewards)
    )


@pytest.mark.parametrize(
    ("rewards", "low", "high"),
    [([-1.0, 3.0, 0.0], -10.0, 30.0), ([1.0, 2.0], 1.0, 20.0), ([-2.0, -0.5], -20.0, -0.5)],
)
def test_the_range_holds_every_return_that_the_rewards_allow(
    rewards: list[float], low: float, high: float
) -> None:
    """From one visit to endless episodes, of the least reward or of the largest."""
    result = ReturnRange(initialiser(), 0.9)
    result.take(with_rewards(rewards))
    for visits in (1, 2, 7, 500):
        for reward in rewards:
            value = torch.full((2, 1), sum(reward * 0.9**k for k in range(visits)), dtype=torch.float64)
            torch.testing.assert_close(result.clip(value), value)
    torch.testing.assert_close(result.low, torch.full((2, 1), low, dtype=torch.float64))
    torch.testing.assert_close(result.high, torch.full((2, 1), high, dtype=torch.float64))


def test_the_range_is_each_seeds_own_and_stays() -> None:
    result = ReturnRange(initialiser(), 0.5)
    result.take(with_rewards([-1.0, 1.0], [-3.0, 2.0]))
    assert result.low.tolist() == [[-2.0], [-6.0]]
    assert result.high.tolist() == [[2.0], [4.0]]
    result.take(with_rewards([-9.0, 9.0]))
    assert result.high.tolist() == [[2.0], [4.0]]
    loaded = ReturnRange(initialiser(), 0.5)
    loaded.load_state_dict(result.state_dict())
    loaded.take(with_rewards([-9.0, 9.0]))
    assert loaded.high.tolist() == [[2.0], [4.0]]
    value = torch.full((2, 3, 1), 3.0, dtype=torch.float64)
    assert result.clip(value).flatten(1).tolist() == [[2.0] * 3, [3.0] * 3]


def test_a_distribution_of_returns_needs_bounded_and_different_rewards() -> None:
    with pytest.raises(UserError, match="discount must be below 1"):
        ReturnRange(initialiser(), 1.0)
    with pytest.raises(UserError, match="every recorded reward is the same"):
        ReturnRange(initialiser(), 0.9).take(with_rewards([0.0, 1.0], [2.0, 2.0]))


# Choices


def test_doses_are_compared_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    obs, act = normal(2, 5, 3), normal(2, 5, 4, 2)

    def value(obs: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        return obs.sum(-1) * act[..., 0] - act[..., 1].square()

    wanted = obs.sum(-1, keepdim=True) * act[..., 0] - act[..., 1].square()
    torch.testing.assert_close(preferences(value, obs, act), wanted)
    monkeypatch.setattr("dosing.models.return_distributions.CHUNK", 40)
    seen: list[int] = []

    def counted(obs: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        seen.append(obs.shape[1])
        return value(obs, act)

    torch.testing.assert_close(preferences(counted, obs, act, 2), wanted)
    assert seen == [8, 8, 4]
    chosen = best(act, wanted)
    for s, b in np.ndindex(2, 5):
        assert torch.equal(chosen[s, b], act[s, b, int(wanted[s, b].argmax())])
    assert best(act, torch.zeros(2, 5, 4)).equal(act[:, :, 0])


def test_midpoints_are_those_of_equal_parts() -> None:
    result = midpoints(4, torch.empty(0, dtype=torch.float64))
    assert result.tolist() == [0.125, 0.375, 0.625, 0.875]
    assert math.isclose(float(midpoints(100, result).mean()), 0.5)
