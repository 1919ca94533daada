"""Summed rewards against slow loops over the record."""

import math

import numpy as np
import pytest
import torch

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.training.sampler import Lookahead, Sampler
from dosing.types import Problem
from tests.support.samples import dataset

SEEDS = (0, 3)


def records() -> Dataset:
    """Three patients of 5, 1 and 7 visits; the second and third end for good."""
    rng = np.random.default_rng(0)
    rows, starts = 13, torch.tensor([0, 5, 6, 13])
    terminated = torch.zeros(rows, dtype=torch.float64)
    terminated[[5, 12]] = 1.0
    sample = dataset()
    return Dataset(
        obs=torch.arange(rows, dtype=torch.float64)[:, None],  # a row is known by its observation
        act=torch.from_numpy(rng.uniform(-1, 1, (rows, 1))),
        reward=torch.from_numpy(rng.standard_normal(rows)),
        next_obs=torch.arange(rows, dtype=torch.float64)[:, None] + 100.0,
        terminated=terminated,
        starts=starts,
        transform=sample.transform,
    )


def stack(name: str = "rebrac", **config: object) -> Agent:
    return agents.build(
        name, {"hidden": (4,), "discount": 0.8} | config, Problem(1, 1), SEEDS, dtype=torch.float64
    )


def target(data: Dataset, row: int, visits: int, discount: float) -> tuple[float, float, int]:
    """Rewards summed from ``row``, the factor of the value that follows them, and the last row of the sum."""
    episode = int(torch.searchsorted(data.starts, row, right=True)) - 1
    end = int(data.starts[episode + 1])
    total, factor = 0.0, 1.0
    for h in range(visits):
        if row + h == end:
            h -= 1
            break
        total += factor * float(data.reward[row + h])
        factor *= discount
    return total, factor * (1.0 - float(data.terminated[row + h])), row + h


@pytest.mark.parametrize("n_step", [2, 3, 24])
@pytest.mark.parametrize("in_place", [False, True])
def test_n_step_targets_stay_within_the_record(n_step: int, in_place: bool) -> None:
    data, agent = records(), stack()
    sampler = Sampler(data, agent, 64, in_place=in_place, lookahead=Lookahead(n_step))
    plain = Sampler(data, agent, 64)
    for step in (0, 1, 70):
        batch, one = sampler(step), plain(step)
        torch.testing.assert_close(batch.obs, one.obs)  # the same rows are drawn
        torch.testing.assert_close(batch.act, one.act)
        for k in range(len(SEEDS)):
            for b in range(64):
                row = int(batch.obs[k, b])
                total, factor, last = target(data, row, n_step, 0.8)
                assert float(batch.reward[k, b]) == pytest.approx(total, abs=1e-12)
                assert 0.8 * (1.0 - float(batch.terminated[k, b])) == pytest.approx(factor, abs=1e-12)
                assert float(batch.next_obs[k, b]) == 100.0 + last
                has_next = last + 1 not in data.starts.tolist()
                assert float(batch.extra["has_next"][k, b]) == has_next
                following = float(data.act[last + 1]) if has_next else 0.0
                assert float(batch.extra["next_act"][k, b]) == following


def test_the_mean_target_is_the_lambda_return() -> None:
    """With values V(row that follows) = row^2 / 100, against the recursion of the lambda-return."""
    data, trace, discount = records(), 0.6, 0.8
    sampler = Sampler(data, stack(), 256, lookahead=Lookahead(24, trace))
    drawn: dict[int, list[float]] = {row: [] for row in range(13)}
    for step in range(200):
        batch = sampler(step)
        value = (batch.next_obs - 100.0).square().squeeze(-1) / 100.0
        targets = batch.reward + discount * (1.0 - batch.terminated) * value
        for row, result in zip(batch.obs.flatten().tolist(), targets.flatten().tolist(), strict=True):
            drawn[int(row)].append(result)
    exact: dict[int, float] = {}
    for row in reversed(range(13)):
        value = float(data.reward[row])
        boot = discount * (1.0 - float(data.terminated[row])) * row**2 / 100.0
        if row + 1 in data.starts.tolist():
            exact[row] = value + boot
        else:
            exact[row] = value + (1.0 - trace) * boot + discount * trace * exact[row + 1]
    for row, result in drawn.items():
        error = np.std(result) / math.sqrt(len(result))
        assert abs(np.mean(result) - exact[row]) < 4.5 * error + 1e-9, row


def test_one_visit_is_the_usual_batch() -> None:
    data, agent = records(), stack()
    plain = Sampler(data, agent, 8)(3)
    for lookahead in (Lookahead(1), Lookahead(1, 0.5), Lookahead(24, 0.0)):
        batch = Sampler(data, agent, 8, lookahead=lookahead)(3)
        for field in ("obs", "act", "reward", "next_obs", "terminated"):
            torch.testing.assert_close(getattr(batch, field), getattr(plain, field), rtol=0, atol=1e-15)


def test_a_seed_of_a_stack_looks_as_far_as_alone() -> None:
    data = records()
    both = Sampler(data, stack(), 16, lookahead=Lookahead(24, 0.7))(5)
    alone = agents.build("iql", {"hidden": (4,), "discount": 0.8}, Problem(1, 1), (3,), dtype=torch.float64)
    one = Sampler(data, alone, 16, lookahead=Lookahead(24, 0.7))(5)
    torch.testing.assert_close(both.reward[1:], one.reward, rtol=0, atol=0)


def test_an_agent_of_chosen_rows_still_sees_what_follows_them() -> None:
    data = records()
    agent = agents.build("pct_bc", {"hidden": (4,)}, Problem(1, 1), SEEDS, dtype=torch.float64)
    chosen = agent.rows(data)
    assert chosen is not None
    batch = Sampler(data, agent, 64, lookahead=Lookahead(3))(0)
    assert set(batch.obs.flatten().int().tolist()) <= set(chosen.tolist())
    row = int(batch.obs[0, 0])
    assert float(batch.next_obs[0, 0]) == 100.0 + target(data, row, 3, 1.0)[2]


@pytest.mark.parametrize(
    ("n_step", "trace", "named"), [(0, 1.0, "n-step"), (2, -0.1, "trace"), (2, 1.5, "trace")]
)
def test_impossible_numbers_are_refused(n_step: int, trace: float, named: str) -> None:
    with pytest.raises(UserError, match=named):
        Lookahead(n_step, trace)
