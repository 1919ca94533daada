"""Extra columns of a batch, and training on chosen rows."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.training.sampler import Lookahead, Sampler
from dosing.types import Problem


def dataset() -> Dataset:
    """Three episodes of 2, 1 and 4 visits; every action is unique."""
    lengths = [2, 1, 4]
    m = sum(lengths)
    act = torch.linspace(-0.9, 0.9, 2 * m).reshape(m, 2)
    obs = torch.arange(m, dtype=torch.float32)[:, None].repeat(1, 3)
    return Dataset(
        obs=obs,
        act=act,
        reward=torch.zeros(m),
        next_obs=obs + 1,
        terminated=torch.zeros(m),
        starts=torch.tensor([0, 2, 3, 7]),
        transform=Transform((0.0,) * 3, (1.0,) * 3, (-1.0,) * 2, (1.0,) * 2),
    )


def agent(**attributes: Any) -> Any:
    result = agents.build("iql", {"hidden": (4,)}, Problem(3, 2), (0, 5))
    for name, value in attributes.items():
        setattr(result, name, value)
    return result


@pytest.mark.parametrize("in_place", [False, True])
def test_next_action_is_the_next_visit_of_the_same_episode(in_place: bool) -> None:
    data = dataset()
    batch = Sampler(data, agent(needs=frozenset({"next_act", "has_next"})), 64, in_place=in_place)(0)
    row = batch.obs[..., 0].long()
    last = torch.isin(row, torch.tensor([1, 2, 6]))
    assert last.any()
    assert (~last).any()
    assert torch.equal(batch.extra["has_next"][..., 0], (~last).float())
    assert (batch.extra["next_act"][last] == 0).all()
    assert torch.equal(batch.extra["next_act"][~last], data.act[row[~last] + 1])


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_discounted_return_is_that_of_the_visit_to_the_end_of_its_episode(
    n_step: int, in_place: bool
) -> None:
    """Whatever is looked ahead for the target; with the agent's discount; the data stay as they are."""
    reward = torch.tensor([1.0, -2.0, 4.0, 0.5, 0.25, -1.0, 3.0], dtype=torch.float64)
    data = dataclasses.replace(dataset(), reward=reward.clone())
    needs = frozenset({"discounted_return", "has_next", "return_to_go"})
    sampler = Sampler(data, agent(needs=needs), 64, in_place=in_place, lookahead=Lookahead(n_step))
    batch = sampler(0)
    for key, discount in (("discounted_return", 0.9), ("return_to_go", 1.0)):
        wanted = []
        for row in range(7):
            end = 2 if row < 2 else 3 if row < 3 else 7
            wanted.append(sum(discount**k * float(reward[row + k]) for k in range(end - row)))
        rows = batch.obs[..., 0].long()
        torch.testing.assert_close(batch.extra[key][..., 0], torch.tensor(wanted)[rows].double())
    assert torch.equal(data.reward, reward)


def test_only_chosen_rows_are_drawn() -> None:
    chosen = torch.tensor([1, 4, 5])
    batch = Sampler(dataset(), agent(rows=lambda data: chosen), 200)(0)
    counts = np.bincount(batch.obs[..., 0].long().flatten().numpy(), minlength=7)
    assert set(np.flatnonzero(counts)) == {1, 4, 5}
    assert counts[chosen].min() > 80


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(UserError, match="mood"):
        Sampler(dataset(), agent(needs=frozenset({"mood"})), 4)


def test_extras_follow_the_type_of_the_data() -> None:
    double = dataclasses.replace(
        dataset(),
        **{
            name: getattr(dataset(), name).double()
            for name in ("obs", "act", "reward", "next_obs", "terminated")
        },
    )
    assert (
        Sampler(double, agent(needs=frozenset({"next_act"})), 4)(0).extra["next_act"].dtype == torch.float64
    )
