"""The replay buffer: a ring of the last rows, drawn by seed and step, saved and resumed bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dosing.errors import UserError
from dosing.runs.files import read_tensors, write_tensors
from dosing.training.replay import BLOCK, ReplayBuffer, ReplaySampler
from dosing.types import Problem
from tests.support.samples import stack

PROBLEM = Problem(3, 2)
SEEDS = (0, 4)


def rows(count: int, first: int = 0, seeds: tuple[int, ...] = SEEDS) -> tuple[Tensor, ...]:
    """Rows whose every number tells seed and age: 1000 seed + number, plus the column in hundredths."""
    base = torch.arange(first, first + count).float() + 1000.0 * torch.tensor(seeds).float()[:, None]
    obs = base[..., None] + 0.01 * torch.arange(3)
    act, next_obs = base[..., None] + 0.1 + 0.01 * torch.arange(2), obs + 0.2
    return obs, act, base + 0.3, next_obs, (base % 2 == 0).float()


def buffer(capacity: int, seeds: tuple[int, ...] = SEEDS) -> ReplayBuffer:
    return ReplayBuffer(seeds, capacity, 3, 2)


def held(result: ReplayBuffer) -> tuple[Tensor, ...]:
    """Every row of every seed, oldest first."""
    columns = result.gather(torch.arange(len(result)).expand(len(result.seeds), -1))
    order = columns[2].argsort(dim=1)  # rewards rise with the number of the row
    return tuple(torch.stack([c[o] for c, o in zip(column, order, strict=True)]) for column in columns)


@pytest.mark.parametrize("pieces", [[3], [7], [5, 1, 1, 4], [20], [6, 15], [1] * 9], ids=str)
def test_it_holds_the_last_rows_however_they_came(pieces: list[int]) -> None:
    result, total = buffer(7), 0
    for count in pieces:
        result.add(*rows(count, total))
        total += count
    kept = min(total, 7)
    assert len(result) == kept
    assert result.added == total
    for have, want in zip(held(result), rows(kept, total - kept), strict=True):
        torch.testing.assert_close(have, want, rtol=0, atol=0)


def test_a_batch_is_rows_of_its_own_seed() -> None:
    result = buffer(50)
    result.add(*rows(30))
    batch = ReplaySampler(result, stack("td3", SEEDS, problem=PROBLEM), 500)(0)
    number = batch.reward - 0.3 - 1000.0 * torch.tensor(SEEDS)[:, None]
    assert sorted({round(x) for x in number[1].tolist()}) == list(range(30))  # all, and nothing unwritten
    for k in range(2):
        for have, want in zip(
            (batch.obs, batch.act, batch.next_obs, batch.terminated),
            (rows(30)[0], rows(30)[1], rows(30)[3], rows(30)[4]),
            strict=True,
        ):
            index = number[k].round().long()
            torch.testing.assert_close(have[k], want[k, index], rtol=0, atol=0)


def test_rows_are_drawn_uniformly() -> None:
    result = buffer(40)
    result.add(*rows(40))
    sampler = ReplaySampler(result, stack("td3", SEEDS, problem=PROBLEM), 1000)
    drawn = torch.cat([sampler(step).reward[0] for step in range(40)]) - 0.3
    counts = np.bincount(drawn.round().long().numpy(), minlength=40)
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 75.0  # chi-square, 39 degrees of freedom, p = 5e-4


def test_a_batch_depends_on_seed_step_and_rows_alone() -> None:
    """Not on the stack, on earlier batches, or on when within a block the buffer grew."""
    both, alone = buffer(50), buffer(50, (4,))
    both.add(*rows(10))
    alone.add(*rows(10, seeds=(4,)))
    first = ReplaySampler(both, stack("td3", SEEDS, problem=PROBLEM), 8)
    second = ReplaySampler(alone, stack("td3", (4,), problem=PROBLEM), 8)
    first(0)
    both.add(*rows(5, 10))
    alone.add(*rows(5, 10, seeds=(4,)))
    for step in (1, BLOCK, BLOCK + 3, 2):
        a, b = first(step), second(step)
        assert torch.equal(a.reward[1], b.reward[0])
        assert torch.equal(a.noise["target"][1], b.noise["target"][0])
        assert a.step == step
    assert not torch.equal(first(3).reward, first(4).reward)


@pytest.mark.parametrize("count", [4, 7, 18])
def test_it_is_saved_and_resumed_bit_by_bit(tmp_path: Path, count: int) -> None:
    agent = stack("td3", SEEDS, problem=PROBLEM)
    result = buffer(7)
    result.add(*rows(count))
    write_tensors(tmp_path / "x.safetensors", result.state(), {})
    resumed = buffer(7)
    resumed.load(read_tensors(tmp_path / "x.safetensors")[0])
    for number in range(3):
        for each in (result, resumed):
            each.add(*rows(2, count + 2 * number))
        one, other = (ReplaySampler(each, agent, 5)(number) for each in (result, resumed))
        assert torch.equal(one.obs, other.obs)
        assert torch.equal(one.reward, other.reward)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="at least one row"):
        buffer(0)
    result = buffer(7)
    with pytest.raises(UserError, match="is empty"):
        ReplaySampler(result, stack("td3", SEEDS, problem=PROBLEM), 5)(0)
    with pytest.raises(UserError, match="batch size"):
        ReplaySampler(result, stack("td3", SEEDS, problem=PROBLEM), 0)
    with pytest.raises(UserError, match=r"of the seeds \[0, 4\], not \[1\]"):
        ReplaySampler(result, stack("td3", (1,), problem=PROBLEM), 5)
    with pytest.raises(UserError, match="single visits"):
        ReplaySampler(result, stack("rebrac", SEEDS, problem=PROBLEM), 5)
    result.add(*rows(3))
    with pytest.raises(UserError, match=r"buffer is \[2, 3, 10\], not \[1, 3, 10\]"):
        buffer(7, (1,)).load(result.state())
    with pytest.raises(UserError, match="no replay buffer"):
        buffer(7).load({})
