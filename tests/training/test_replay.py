"""Episodes side by side in a ring: what is known when, against lists by hand; shares of recorded rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import agents
from dosing.errors import UserError
from dosing.runs.files import read_tensors, write_tensors
from dosing.training.replay import ReplayBuffer, ReplaySampler
from dosing.training.sampler import BLOCK, columns_for
from dosing.types import Problem
from tests.support.samples import PROBLEM, dataset, small, stack

NEEDS = ("discounted_return", "has_next", "mask", "next_act", "return_to_go", "time_step")
SEEDS = (0, 4)
DISCOUNT = 0.9


def visits(count: int, num_envs: int = 2, seeds: int = 2) -> list[tuple[Tensor, ...]]:
    """Random visits whose observation is their own number; episodes end at random."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        base = torch.tensor(rng.normal(size=(seeds, num_envs)))
        obs = torch.full((seeds, num_envs, 1), float(number))
        act = torch.tensor(rng.uniform(-1, 1, (seeds, num_envs, 2)))
        ended = torch.tensor(rng.random((seeds, num_envs)) < 0.25)
        terminated = ended & torch.tensor(rng.random((seeds, num_envs)) < 0.5)
        made.append((obs, act, base, obs + 0.5, terminated.double(), ended))
    return made


def by_hand(made: list[tuple[Tensor, ...]], k: int, p: int) -> list[dict[str, Any]]:
    """Every column of the episodes at one place, None where it is not known yet."""
    rows: list[dict[str, Any]] = []
    episode: list[dict[str, Any]] = []
    for number, (_, act, reward, _, _, ended) in enumerate(made):
        if episode:
            episode[-1] |= {"has_next": 1.0, "next_act": act[k, p]}
        row = {"number": number, "reward": float(reward[k, p]), "time_step": len(episode), "mask": 1.0}
        row |= {"has_next": None, "next_act": None, "return_to_go": None, "discounted_return": None}
        episode.append(row)
        rows.append(row)
        if bool(ended[k, p]):
            row |= {"has_next": 0.0, "next_act": torch.zeros(2)}
            for i, early in enumerate(episode):
                later = [r["reward"] for r in episode[i:]]
                early["return_to_go"] = sum(later)
                early["discounted_return"] = sum(DISCOUNT**j * r for j, r in enumerate(later))
            episode = []
    return rows


def filled(needs: tuple[str, ...], made: list[tuple[Tensor, ...]], capacity: int) -> ReplayBuffer:
    buffer = ReplayBuffer(
        SEEDS, capacity, 1, 2, num_envs=2, needs=needs, discount=DISCOUNT, dtype=torch.float64
    )
    for visit in made:
        buffer.remember(*visit)
    return buffer


@pytest.mark.parametrize("needs", [(), ("time_step",), ("has_next", "next_act"), NEEDS], ids=len)
@pytest.mark.parametrize("count", [0, 1, 2, 9, 30])
def test_rows_are_drawn_once_all_their_columns_are_known_and_those_are_right(
    needs: tuple[str, ...], count: int
) -> None:
    made, capacity = visits(count), 15  # 7 visits of two rows
    buffer = filled(needs, made, capacity)
    oldest = max(count - 7, 0)
    for k in range(2):
        rows = [by_hand(made, k, p) for p in range(2)]
        known = count
        for number in range(count):
            if any(rows[p][number][name] is None for p in range(2) for name in needs):
                known = number
                break
        assert int(buffer.count[k]) == 2 * max(known - oldest, 0)
        for i in range(int(buffer.count[k])):
            number, p = oldest + i // 2, i % 2
            at = (oldest * 2 + i) % 14
            result = dict(
                zip(
                    ("obs", "act", "next_obs", "reward", "terminated", *sorted(needs)),
                    buffer.rows[k, at].split(buffer.widths),
                    strict=True,
                )
            )
            assert float(result["obs"]) == number
            assert torch.equal(result["act"], made[number][1][k, p])
            for name in needs:
                want = torch.as_tensor(rows[p][number][name], dtype=torch.float64).reshape(-1)
                torch.testing.assert_close(result[name], want)


def test_it_is_saved_and_resumed_bit_by_bit(tmp_path: Path) -> None:
    made = visits(40)
    whole = filled(NEEDS, made, 20)
    first = filled(NEEDS, made[:23], 20)
    write_tensors(tmp_path / "x.safetensors", first.state(), {})
    resumed = filled(NEEDS, [], 20)
    resumed.load(read_tensors(tmp_path / "x.safetensors")[0])
    for visit in made[23:]:
        resumed.remember(*visit)
    assert torch.equal(resumed.rows, whole.rows)
    assert torch.equal(resumed.count, whole.count)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 episode\(s\) needs room"):
        ReplayBuffer(SEEDS, 1, 1, 2, num_envs=2)
    with pytest.raises(UserError, match="no replay buffer"):
        filled((), [], 20).load({})
    with pytest.raises(UserError, match=r"is \[2, 5, 2, 6\], not \[2, 5, 2, 7\]"):
        filled(("mask",), [], 20).load(filled((), visits(5), 20).state())


def agent(name: str = "td3") -> Any:
    return stack(name, SEEDS, problem=Problem(8, 1, 24))


def replay(share: float | None, name: str = "td3", rows: int = 12, batch: int = 64) -> ReplaySampler:
    """Recorded visits of a data set, and new ones whose observations are all 1000 and more."""
    made = ReplaySampler(agent(name), None if share == 0.0 else dataset(), batch, share, num_envs=2)
    for number in range(rows // 2):
        new = torch.full((2, 2, 8), 1000.0 + number)
        flat = torch.zeros(2, 2)
        made.remember(new, torch.zeros(2, 2, 1), flat, new, flat, flat)
    return made


@pytest.mark.parametrize(("share", "recorded"), [(0.0, 0), (0.25, 16), (0.5, 32), (0.98, 63)])
def test_every_batch_has_its_exact_share_of_recorded_rows(share: float, recorded: int) -> None:
    made, data = replay(share), dataset()
    known = {tuple(row) for row in data.obs.tolist()}
    for step in (0, 1, BLOCK + 5):
        obs = made(step).obs
        new = obs[..., 0] >= 1000.0
        assert new.sum(1).tolist() == [64 - recorded] * 2
        assert not bool(new[:, :recorded].any())  # recorded rows come first
        assert all(tuple(row) in known for row in obs[:, :recorded].flatten(0, 1).tolist())


def test_without_a_share_all_rows_are_drawn_alike() -> None:
    made, data = replay(None, rows=100, batch=4000), dataset()
    new = torch.stack([(made(step).obs[..., 0] >= 1000.0).double().mean() for step in range(5)]).mean()
    expected = 100 / (100 + len(data))
    assert float(new) == pytest.approx(expected, abs=4.0 * np.sqrt(expected / 40_000))


def test_new_rows_are_drawn_uniformly_from_those_that_are_kept() -> None:
    made = ReplaySampler(agent(), None, 3000, 0.0, num_envs=2, capacity=20)
    flat = torch.zeros(2, 2)
    for number in range(17):
        new = torch.full((2, 2, 8), float(number))
        made.remember(new, torch.zeros(2, 2, 1), flat, new, flat, flat)
    drawn = torch.stack([made(step).obs[0, :, 0] for step in range(10)])
    counts = np.bincount(drawn.flatten().long().numpy(), minlength=17)
    assert not counts[:7].any()
    assert ((counts[7:] - 3000.0) ** 2 / 3000.0).sum() < 29.7  # chi-square, 9 degrees of freedom, p = 5e-4


def test_recorded_rows_have_the_columns_that_the_sampler_serves() -> None:
    made, data = ReplaySampler(agent("cal_ql"), dataset(), 64, 0.5, num_envs=2), dataset()
    want = columns_for(agent("cal_ql"))["discounted_return"](data)
    batch = made(3)  # nothing new is known yet: all rows are recorded
    index = (batch.obs[0][:, None] == data.obs[None]).all(-1).double().argmax(1)
    assert torch.equal(batch.extra["discounted_return"][0], want[index])
    assert torch.equal(batch.act[0], data.act[index])


def test_a_batch_of_a_stacked_seed_is_that_of_the_seed_alone() -> None:
    both = replay(0.5, rows=8)
    alone = ReplaySampler(stack("td3", (4,), problem=Problem(8, 1, 24)), dataset(), 64, 0.5, num_envs=2)
    for number in range(4):
        new, flat = torch.full((1, 2, 8), 1000.0 + number), torch.zeros(1, 2)
        alone.remember(new, torch.zeros(1, 2, 1), flat, new, flat, flat)
    for step in (2, BLOCK):
        a, b = both(step), alone(step)
        assert torch.equal(a.obs[1], b.obs[0])
        assert torch.equal(a.noise["target"][1], b.noise["target"][0])


def test_what_cannot_be_replayed_is_refused() -> None:
    with pytest.raises(UserError, match="share of recorded"):
        ReplaySampler(agent(), dataset(), 8, 1.0)
    with pytest.raises(UserError, match="without recorded visits"):
        ReplaySampler(agent(), None, 8, 0.5)
    with pytest.raises(UserError, match="batch size"):
        ReplaySampler(agent(), None, 0, 0.0)
    with pytest.raises(UserError, match="nothing to learn from"):
        ReplaySampler(agent(), None, 8, 0.0)(0)
    with pytest.raises(UserError, match="QuasiOptimal learns from whole episodes"):
        ReplaySampler(stack("quasi_optimal", SEEDS), dataset(), 8, 0.5)
    kept = agents.build("iql", small("iql"), PROBLEM, SEEDS, regularisation={"cost_budget": 1.0})
    with pytest.raises(UserError, match="IQL was built with a cost budget; a trial does not replay costs"):
        ReplaySampler(kept, dataset(), 8, 0.5)
