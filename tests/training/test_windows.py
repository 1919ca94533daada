"""Windows of consecutive visits: which rows, in which order, how often, and what pads them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.training.sampler import BLOCK, Lookahead, Sampler
from dosing.types import Noise, Problem

LENGTHS = (6, 2, 3, 9)
CONTEXT = 4
COLUMNS = ("return_to_go", "time_step", "mask", "next_act", "has_next")


class Probe(Agent):
    """An agent that only says what it needs."""

    def __init__(self, seeds: tuple[int, ...] = (3, 7), **attributes: Any) -> None:
        super().__init__(Problem(2, 1), seeds)
        for name, value in {"context": CONTEXT, "needs": frozenset(COLUMNS), **attributes}.items():
            setattr(self, name, value)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        return {"each": Noise("uniform", (batch_size // self.context, 3))}

    def losses_and_metrics(self, batch: Batch) -> Any:
        raise NotImplementedError

    def policy(self, obs: torch.Tensor) -> Any:
        raise NotImplementedError


def dataset(lengths: tuple[int, ...] = LENGTHS, shift: float = 0.0) -> Dataset:
    """Episodes whose observation is (episode + 1, visit + 1): no row of it is zero."""
    rng = np.random.default_rng(5)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    visit = np.concatenate([np.arange(n) for n in lengths])
    obs = torch.from_numpy(np.stack((episode + 1.0, visit + 1.0), 1)) + shift
    m = len(obs)
    return Dataset(
        obs=obs,
        act=torch.from_numpy(rng.uniform(0.1, 1.0, (m, 1))),
        reward=torch.from_numpy(rng.standard_normal(m)),
        next_obs=obs + torch.tensor([0.0, 1.0]),
        terminated=torch.ones(m, dtype=torch.float64),
        starts=torch.tensor([0, *np.cumsum(lengths)]),
        transform=Transform((0.0,) * 2, (1.0,) * 2, (-1.0,), (1.0,)),
    )


def window(data: Dataset, first: int) -> dict[str, np.ndarray]:
    """The window from row ``first`` on, put together visit by visit."""
    starts = data.starts.tolist()
    episode = max(k for k, start in enumerate(starts[:-1]) if start <= first)
    begin, end = starts[episode], starts[episode + 1]
    reward = data.reward.tolist()
    result: dict[str, list[Any]] = {name: [] for name in ("obs", "act", "reward", *COLUMNS[:3])}
    for row in range(first, min(first + CONTEXT, end)):
        result["obs"].append(data.obs[row].tolist())
        result["act"].append(data.act[row].tolist())
        result["reward"].append(reward[row])
        result["return_to_go"].append([sum(reward[row:end])])
        result["time_step"].append([row - begin])
        result["mask"].append([1.0])
    missing = CONTEXT - len(result["mask"])
    arrays = {name: np.array(rows) for name, rows in result.items()}
    return {
        name: np.concatenate((np.zeros((missing, *rows.shape[1:])), rows)) for name, rows in arrays.items()
    }


def drawn(batch: Batch) -> dict[str, np.ndarray]:
    """Columns as windows, ``[S, N, K, ...]``."""
    columns = {name: getattr(batch, name) for name in ("obs", "act", "reward")} | dict(batch.extra)
    return {name: x.reshape(len(x), -1, CONTEXT, *x.shape[2:]).numpy() for name, x in columns.items()}


def first_rows(data: Dataset, result: dict[str, np.ndarray]) -> np.ndarray:
    """Row in the data of each window's first visit, ``[S, N]``."""
    number = {tuple(row): i for i, row in enumerate(data.obs.tolist())}
    real = result["mask"][..., 0]
    begin = real.argmax(-1)
    obs = np.take_along_axis(result["obs"], begin[..., None, None], 2)[:, :, 0]
    return np.array([[number[tuple(row)] for row in seed] for seed in obs.tolist()])


@pytest.mark.parametrize("in_place", [False, True])
def test_a_window_is_the_visits_that_follow_its_first(in_place: bool) -> None:
    data, sampler = dataset(), Sampler(dataset(), Probe(), 60, in_place=in_place)
    padded = 0
    for step in (0, 1, BLOCK):
        batch = sampler(step)
        assert batch.length == CONTEXT
        assert batch.obs.shape == (2, 60, 2)
        assert batch.noise["each"].shape == (2, 15, 3)
        result = drawn(batch)
        for seed, rows in enumerate(first_rows(data, result)):
            for number, first in enumerate(rows):
                expected = window(data, int(first))
                padded += int((expected["mask"] == 0.0).any())
                for name, values in expected.items():
                    np.testing.assert_allclose(result[name][seed, number], values, rtol=1e-14, err_msg=name)
        pad = batch.extra["mask"][..., 0] == 0.0
        columns = [getattr(batch, f.name) for f in dataclasses.fields(Batch)[:5]]
        for column in (*columns, *batch.extra.values()):
            assert not bool(column[pad].any())
    assert 0 < padded < 90


def test_windows_start_at_every_visit_equally_often_and_seeds_are_independent() -> None:
    data, sampler = dataset(), Sampler(dataset(), Probe(), 16 * CONTEXT)
    rows = np.stack([first_rows(data, drawn(sampler(step))) for step in range(200)])
    for seed in range(2):
        counts = np.bincount(rows[:, seed].ravel(), minlength=len(data))
        assert stats.chisquare(counts).pvalue > 1e-4
    agree = int((rows[:, 0] == rows[:, 1]).sum())
    assert stats.binomtest(agree, rows[:, 0].size, 1 / len(data)).pvalue > 1e-4


def test_a_batch_is_a_function_of_its_step_and_a_seed_is_the_same_in_any_stack() -> None:
    stacked, again, alone = (Sampler(dataset(), Probe(s), 20) for s in ((7, 3), (7, 3), (3,)))
    for step in (3 * BLOCK + 5, 0, BLOCK - 1, BLOCK):
        whole, second, part = stacked(step), again(step), alone(step)
        for name in ("obs", "act", "reward", "next_obs", "terminated"):
            assert torch.equal(getattr(whole, name), getattr(second, name))
            assert torch.equal(getattr(whole, name)[1:], getattr(part, name))
        for name in COLUMNS:
            assert torch.equal(whole.extra[name][1:], part.extra[name])
        assert torch.equal(whole.noise["each"][1:], part.noise["each"])


@pytest.mark.parametrize(("asked", "rows"), [(1, 4), (4, 4), (11, 8), (256, 256)])
def test_a_batch_holds_whole_windows(asked: int, rows: int) -> None:
    assert Sampler(dataset(), Probe(), asked)(0).obs.shape[1] == rows


def test_every_seed_has_windows_of_its_own_replicate() -> None:
    own = [dataset(shift=0.0), dataset((4, 4, 4, 8), shift=100.0)]
    together = Sampler(Dataset.join(own), Probe((4, 5)), 40)
    for k, (data, seed) in enumerate(zip(own, (4, 5), strict=True)):
        alone = Sampler(data, Probe((seed,)), 40)
        for step in (0, BLOCK):
            a, b = drawn(together(step)), drawn(alone(step))
            for name, values in a.items():
                np.testing.assert_array_equal(values[k], b[name][0], err_msg=name)


def test_a_return_to_go_of_one_episode_knows_nothing_of_another() -> None:
    """Summed in double precision, so that a number of another size or NaN in one leaves the others alone."""
    data = dataset()
    data = dataclasses.replace(data, reward=data.reward.float())
    data.reward[0], data.reward[7] = float("nan"), 1e8
    result = drawn(Sampler(data, Probe(needs=frozenset(COLUMNS)), 400)(0))
    visits = result["obs"].reshape(-1, 2)
    to_go = result["return_to_go"].reshape(-1)
    for row in range(len(data)):
        seen = to_go[(visits == data.obs[row].numpy()).all(-1)]
        end = int(data.starts[1:][data.starts[1:] > row][0])
        expected = np.float32(data.reward[row:end].double().sum())
        np.testing.assert_allclose(seen, expected, rtol=1e-6)
        assert np.isnan(expected) == (row == 0)


def test_what_windows_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match="windows takes one step at a time"):
        Sampler(dataset(), Probe(), 8, lookahead=Lookahead(3))
    with pytest.raises(UserError, match="windows cannot choose among rows"):
        Sampler(dataset(), Probe(rows=lambda data: torch.tensor([1])), 8)
