"""Batches of whole episodes: rows in time order, every episode as often as any other, by the step alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import agents
from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.training.sampler import BLOCK, Sampler
from dosing.types import Noise, Problem

VISITS, EPISODES = 4, 6


def dataset(lengths: tuple[int, ...] = (VISITS,) * EPISODES) -> Dataset:
    """Episodes whose observation is (episode, visit)."""
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    visit = torch.cat([torch.arange(n) for n in lengths])
    obs = torch.stack((episode, visit), 1).float()
    m = len(obs)
    return Dataset(
        obs=obs,
        act=torch.linspace(-1.0, 1.0, m)[:, None],
        reward=torch.arange(m).float(),
        next_obs=obs + torch.tensor([0.0, 1.0]),
        terminated=torch.zeros(m),
        starts=torch.tensor([0, *np.cumsum(lengths)]),
        transform=Transform((0.0,) * 2, (1.0,) * 2, (-1.0,), (1.0,)),
    )


def agent(seeds: tuple[int, ...] = (0, 5), episodes: int | None = 3, **attributes: Any) -> Any:
    result = agents.build("iql", {"hidden": (4,)}, Problem(2, 1), seeds)
    for name, value in {"episodes": episodes, **attributes}.items():
        setattr(result, name, value)
    return result


@pytest.mark.parametrize("in_place", [False, True])
def test_a_batch_is_whole_episodes_in_time_order(in_place: bool) -> None:
    data, sampler = dataset(), Sampler(dataset(), agent(), 100, in_place=in_place)
    for step in (0, 1, BLOCK):
        batch = sampler(step)
        assert batch.length == VISITS
        assert batch.obs.shape == (2, 3 * VISITS, 2)
        episode, visit = batch.obs.view(2, 3, VISITS, 2).unbind(-1)
        assert torch.equal(visit, torch.arange(4.0).expand(2, 3, 4))
        assert torch.equal(episode, episode[..., :1].expand_as(episode))
        row = (episode * VISITS + visit).view(2, -1).long()
        assert torch.equal(batch.reward, data.reward[row])
        assert torch.equal(batch.act, data.act[row])
        assert torch.equal(batch.next_obs, data.next_obs[row])


def test_transitions_are_drawn_one_by_one_unless_asked_otherwise() -> None:
    batch = Sampler(dataset(), agent(episodes=None), 5)(0)
    assert batch.length == 1
    assert batch.obs.shape == (2, 5, 2)
    assert Batch(*[torch.zeros(1)] * 5).length == 1


def test_noise_is_planned_for_the_rows_there_are() -> None:
    asked = []

    def noise(rows: int) -> dict[str, Noise]:
        asked.append(rows)
        return {"x": Noise("normal", (rows,))}

    batch = Sampler(dataset(), agent(noise=noise), 100)(0)
    assert asked == [3 * VISITS]
    assert batch.noise["x"].shape == (2, 3 * VISITS)


def test_every_episode_is_drawn_equally_often_and_seeds_are_independent() -> None:
    sampler = Sampler(dataset(), agent((3, 7, 1)), 1)
    drawn = np.stack([sampler(step).obs[:, ::VISITS, 0].numpy() for step in range(600)]).astype(int)
    for seed in range(3):
        counts = np.bincount(drawn[:, seed].ravel(), minlength=EPISODES)
        assert stats.chisquare(counts).pvalue > 1e-4
    agree = int((drawn[:, 0] == drawn[:, 1]).sum())
    assert stats.binomtest(agree, drawn[:, 0].size, 1 / EPISODES).pvalue > 1e-4
    alone = Sampler(dataset(), agent((7,)), 1)
    assert all((alone(step).obs[0, ::VISITS, 0].numpy() == drawn[step, 1]).all() for step in (0, BLOCK, 99))


def test_episodes_of_several_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="3 to 5 visits"):
        Sampler(dataset((4, 3, 5)), agent(), 10)
    Sampler(dataset((4, 3, 5)), agent(episodes=None), 10)


def test_shorter_episodes_are_padded_after_their_last_visit() -> None:
    data = dataset((4, 3, 5))
    batch = Sampler(data, agent(needs=frozenset({"mask"})), 10)(0)
    assert batch.length == 5
    blocks = batch.obs[0, :, 0].view(-1, 5)
    mask = batch.extra["mask"][0, :, 0].view(-1, 5).bool()
    episodes = [data.obs[a:b, 0].tolist() for a, b in zip(data.starts, data.starts[1:], strict=False)]
    for block, filled in zip(blocks, mask, strict=True):
        assert block[filled].tolist() in episodes
        assert not bool(block[~filled].any())


def test_chosen_rows_of_whole_episodes_are_refused() -> None:
    with pytest.raises(UserError, match="whole episodes"):
        Sampler(dataset(), agent(rows=lambda data: torch.tensor([1])), 10)


def test_the_agent_is_shown_the_data_before_it_is_asked_for_noise() -> None:
    seen: list[Any] = []
    data = dataset()
    shown = agent(prepare=lambda result: seen.append(result), noise=lambda rows: seen.append(rows) or {})
    Sampler(data, shown, 10)
    assert seen == [data, 12]
