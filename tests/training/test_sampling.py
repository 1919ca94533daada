"""A batch is a function of (seeds, data, step) alone, and every recorded visit is drawn equally often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.training.sampler import BLOCK, Sampler
from dosing.types import Noise
from simulator.cohorts.generate import simulate
from tests.support.samples import ENV, PROBLEM, dataset


class Probe(Agent):
    """An agent that only says what it needs."""

    def __init__(self, seeds: tuple[int, ...], needs: frozenset[str] = frozenset()) -> None:
        super().__init__(PROBLEM, seeds)
        self.needs = needs  # type: ignore[misc]

    def noise(self, batch_size: int) -> dict[str, Noise]:
        shapes = {"act": (batch_size, 1, 1), "twin": (batch_size, 1, 1)}
        return {k: Noise("uniform", v) for k, v in shapes.items()} | {"extra": Noise("normal", (3,))}

    def losses_and_metrics(self, batch: Batch) -> Any:
        raise NotImplementedError

    def policy(self, obs: torch.Tensor) -> Any:
        raise NotImplementedError


def sampler(*seeds: int, batch_size: int = 16, in_place: bool = False) -> Sampler:
    return Sampler(dataset(), Probe(seeds), batch_size, in_place=in_place)


def copied(batch: Batch) -> dict[str, torch.Tensor]:
    columns = {k: getattr(batch, k).clone() for k in ("obs", "act", "reward", "next_obs", "terminated")}
    return columns | {f"noise.{k}": v.clone() for k, v in batch.noise.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


STEPS = (0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5)


def test_a_batch_is_addressed_by_its_step() -> None:
    forward, fresh = sampler(3, 7), sampler(3, 7)
    seen = {step: copied(forward(step)) for step in range(3 * BLOCK + 6)}
    for step in reversed(STEPS):  # in another order, by another object
        batch = fresh(step)
        assert batch.step == step
        assert same(copied(batch), seen[step])
    for earlier, later in ((0, 1), (0, BLOCK), (BLOCK - 1, 2 * BLOCK - 1)):
        for key in ("obs", "noise.act", "noise.extra"):
            assert not torch.equal(seen[earlier][key], seen[later][key])
    assert not bool((seen[0]["noise.act"] == seen[0]["noise.twin"]).any())


def test_batches_written_in_place_are_the_same_batches() -> None:
    usual, in_place = sampler(3, 7), sampler(3, 7, in_place=True)
    addresses = set()
    for step in STEPS:
        batch = in_place(step)
        assert same(copied(batch), copied(usual(step)))
        addresses.add((batch.obs.data_ptr(), batch.noise["act"].data_ptr()))
    assert len(addresses) == 1


def test_a_seed_sees_the_same_batches_in_any_stack() -> None:
    stacked, alone = sampler(7, 3, 1), sampler(3)
    for step in STEPS:
        whole, part = copied(stacked(step)), copied(alone(step))
        assert all(torch.equal(whole[k][1:2], part[k]) for k in part)


def test_a_row_of_a_batch_is_one_recorded_visit() -> None:
    data, batch = dataset(), sampler(3, 7)(0)
    assert batch.obs.shape == (2, 16, 8)
    assert batch.act.shape == (2, 16, 1)
    assert batch.reward.shape == batch.terminated.shape == (2, 16)
    assert batch.noise["act"].shape == (2, 16, 1, 1)
    assert batch.noise["extra"].shape == (2, 3)
    rows = torch.cat((data.obs, data.act, data.reward[:, None], data.next_obs, data.terminated[:, None]), 1)
    drawn = torch.cat(
        (batch.obs, batch.act, batch.reward[..., None], batch.next_obs, batch.terminated[..., None]), -1
    )
    table = {tuple(row) for row in rows.tolist()}
    assert len(table) == len(rows)
    assert all(tuple(row) in table for row in drawn.reshape(-1, rows.shape[1]).tolist())


def test_every_visit_is_drawn_equally_often() -> None:
    """Chi-square over all rows, over the places in a batch, and between seeds."""
    data = dataset()
    number = {float(r): i for i, r in enumerate(data.reward.tolist())}
    assert len(number) == len(data)
    draws = sampler(3, 7, batch_size=64)
    index = np.array(
        [[[number[x] for x in seed] for seed in draws(step).reward.tolist()] for step in range(300)]
    )
    for seed in range(2):
        counts = np.bincount(index[:, seed].ravel(), minlength=len(data))
        assert stats.chisquare(counts).pvalue > 1e-4
    agree = (index[:, 0] == index[:, 1]).mean()  # independent seeds meet once in len(data) draws
    assert stats.binomtest(round(agree * 300 * 64), 300 * 64, 1 / len(data)).pvalue > 1e-4


def test_an_unknown_column_and_an_empty_batch_are_refused() -> None:
    with pytest.raises(UserError, match="mood"):
        Sampler(dataset(), Probe((0,), frozenset({"mood"})), 16)
    with pytest.raises(UserError, match="batch size"):
        sampler(0, batch_size=0)


# Replicates: a data set of its own for every seed


def replicates(*patients: int) -> list[Dataset]:
    return [Dataset.from_episodes(simulate(ENV, patients=n, seed=k)) for k, n in enumerate(patients)]


def test_every_seed_draws_from_its_own_replicate_as_if_alone() -> None:
    own = replicates(3, 3, 3)
    joined = Dataset.join(own)
    assert joined.starts.diff().tolist() == [24] * 9
    together = Sampler(joined, Probe((4, 5, 6)), 16)
    for k, (data, seed) in enumerate(zip(own, (4, 5, 6), strict=True)):
        alone = Sampler(data, Probe((seed,)), 16)
        for step in STEPS:
            a, b = copied(together(step)), copied(alone(step))
            assert all(torch.equal(value[k], b[name][0]) for name, value in a.items())


def test_replicates_must_fit_the_stack_and_each_other() -> None:
    with pytest.raises(UserError, match="same number of visits"):
        Dataset.join(replicates(2, 3))
    with pytest.raises(UserError, match="same number of visits"):
        Dataset.join([])
    with pytest.raises(UserError, match="2 replicates need an agent of as many seeds"):
        Sampler(Dataset.join(replicates(2, 2)), Probe((1, 2, 3)), 8)
