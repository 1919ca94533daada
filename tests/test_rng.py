"""Every stream is a function of its address alone, addresses do not collide, distributions have their
moments."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import stats

from dosing.errors import UserError
from dosing.rng import check_seeds, draw, draw_indices, generator
from dosing.types import NoiseKind

CPU = torch.device("cpu")
DISTRIBUTIONS: tuple[NoiseKind, ...] = get_args(NoiseKind)
DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_seed_draws_the_same_in_any_stack_at_any_time(distribution: NoiseKind, dtype: torch.dtype) -> None:
    shape = (5, 4, 3)
    stacked = draw((7, 3, 11), distribution, shape, (2, 0), device=CPU, dtype=dtype)
    assert stacked.shape == (5, 3, 4, 3)
    assert stacked.dtype == dtype
    draw((3,), distribution, shape, (0, 0), device=CPU, dtype=dtype)  # an earlier block is no prerequisite
    alone = draw((3,), distribution, shape, (2, 0), device=CPU, dtype=dtype)
    assert torch.equal(stacked[:, 1], alone[:, 0])
    for other in ((2, 1), (1, 0), (0, 2)):  # another block, another name, both swapped
        assert not bool((draw((3,), distribution, shape, other, device=CPU, dtype=dtype) == alone).any())


def test_indices_of_a_seed_are_the_same_in_any_stack() -> None:
    stacked = draw_indices((7, 3), 100, (6, 50), 4, device=CPU)
    assert stacked.shape == (6, 2, 50)
    assert torch.equal(stacked[:, 1], draw_indices((3,), 100, (6, 50), 4, device=CPU)[:, 0])
    assert set(stacked.flatten().tolist()) == set(range(100))


def test_no_two_addresses_share_a_stream() -> None:
    """Addresses that are prefixes of each other, or permutations, are different streams as well."""
    purposes = ("weights", "indices", "noise", "evaluation", "split")
    tails: list[tuple[int, ...]] = [(), (0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (2, 3), (3, 2)]
    first = {
        (seed, purpose, *tail): generator(seed, purpose, *tail).integers(2**63)
        for seed, purpose, tail in itertools.product((0, 1, 2, 3, 2**32), purposes, tails)
    }
    assert len(set(first.values())) == len(first)


def test_streams_are_uncorrelated() -> None:
    """Correlations between 12 streams of 20,000 numbers stay within what chance allows."""
    rows = [
        generator(seed, "noise", block, number).standard_normal(20_000)
        for seed, block, number in itertools.product((0, 1, 2), (0, 1), (0, 1))
    ]
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() * np.sqrt(20_000) < 4.5  # 66 pairs, largest of them beyond 4.5: 5e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_draws_follow_their_distribution(distribution: NoiseKind, dtype: torch.dtype) -> None:
    values = (
        draw((5, 6), distribution, (64, 200), (3, 1), device=CPU, dtype=dtype)[:, 1]
        .double()
        .flatten()
        .numpy()
    )
    target = stats.norm() if distribution == "normal" else stats.uniform()
    assert stats.kstest(values, target.cdf).pvalue > 1e-4
    if distribution == "uniform":
        assert values.min() >= 0.0
        assert values.max() < 1.0


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (0, -2)])
def test_seeds_are_checked(seeds: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="seeds must be"):
        check_seeds(seeds)


def test_seeds_may_come_as_any_sequence() -> None:
    assert check_seeds(range(3)) == (0, 1, 2)
    assert check_seeds(np.array([4, 2])) == (4, 2)  # type: ignore[arg-type]
