"""Online learning on a task of one visit whose best dose is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.runs.files import read_tensors, write_tensors
from dosing.training.online import OnlineSettings, OnlineStep, OnlineTraining
from dosing.types import Problem

BEST = 6.0
TRANSFORM = Transform((0.0,), (1.0,), (0.0,), (10.0,))
"""Doses from 0 to 10."""


class Bandits:
    """Pays 1 - (dose - 6)^2 / 25; every third visit terminates, every fifth is cut by time."""

    def __init__(self, seeds: int) -> None:
        self.doses: list[Any] = []
        self.resets, self.visit, self.n = 0, 0, seeds

    def reset(self) -> Any:
        self.resets += 1
        return np.full((self.n, 1), 0.5, dtype=np.float32)

    def step(self, dose: Any) -> OnlineStep:
        self.doses.append(dose.copy())
        self.visit += 1
        obs = np.full((self.n, 1), 0.5, dtype=np.float32)
        terminated = np.full(self.n, self.visit % 3 == 0)
        truncated = np.full(self.n, self.visit % 5 == 0) & ~terminated
        return OnlineStep(
            obs, dose, 1.0 - (dose[:, 0] - BEST) ** 2 / 25.0, obs + 1, terminated, truncated, obs
        )


def training(seeds: tuple[int, ...], **settings: Any) -> OnlineTraining:
    config = {"hidden": (32, 32), "learning_rate": 3e-3, "discount": 0.0}
    agent = agents.build("td3", config, Problem(1, 1), seeds)
    chosen = OnlineSettings(**{"batch_size": 32, "start": 100, "capacity": 500} | settings)
    return OnlineTraining(agent, Bandits(len(seeds)), TRANSFORM, chosen)


def kept(made: OnlineTraining) -> tuple[torch.Tensor, ...]:
    """Observations, actions, next observations, rewards, terminations of every row of every seed."""
    return made.buffer.rows[:, : made.buffer.made].split(made.buffer.widths, -1)


@pytest.mark.long
def test_it_finds_the_best_dose() -> None:
    result = training((0, 1), exploration=0.3)
    for _ in result.steps(600):
        pass
    doses = result.policy.recommended(np.full((2, 1, 1), 0.5, dtype=np.float32)).ravel()
    np.testing.assert_allclose(doses, BEST, atol=0.5)
    assert result.updates == 501  # from the hundredth visit on, one each
    assert result.taken == 600


def test_what_is_remembered_bootstraps_at_time_limits_only() -> None:
    result = training((0,), start=50)
    made = list(result.steps(30))
    obs, act, next_obs, reward, terminated = kept(result)
    np.testing.assert_array_equal(terminated[0, :, 0].numpy(), [(k + 1) % 3 == 0 for k in range(30)])
    doses = np.concatenate([m.dose[:, 0] for m in made])
    np.testing.assert_allclose(act[0, :, 0].numpy(), doses / 5.0 - 1.0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        reward[0, :, 0].numpy(), 1.0 - (doses - BEST) ** 2 / 25.0, rtol=1e-5, atol=1e-6
    )
    assert bool((next_obs == obs + 1.0).all())
    assert result.updates == 0


def test_random_doses_cover_the_limits_and_noise_stays_within_them() -> None:
    result = training((0,), start=200, exploration=2.0)
    list(result.steps(230))
    actors: Any = result.actors
    doses = np.array(actors.doses)[:, 0, 0]
    assert doses.min() >= 0.0
    assert doses.max() <= 10.0
    assert abs(doses[:200].mean() - 5.0) < 4.0 * 10.0 / np.sqrt(12.0 * 200.0)
    assert np.isin([0.0, 10.0], doses[200:]).any()  # such wide noise reaches a limit


def test_a_stacked_seed_is_the_seed_alone_and_steps_may_come_in_pieces() -> None:
    both, alone = training((0, 3), start=20), training((3,), start=20)
    list(both.steps(60))
    list(alone.steps(25))
    list(alone.steps(35))
    stacked, single = kept(both)[1], kept(alone)[1]
    torch.testing.assert_close(stacked[1], single[0], rtol=0, atol=1e-4)
    assert alone.actors.resets == 2  # type: ignore[attr-defined]


def test_it_is_saved_and_goes_on_as_it_would_have(tmp_path: Path) -> None:
    whole, first, second = (training((0, 3), start=20) for _ in range(3))
    for each in (whole, first):
        list(each.steps(40))
    write_tensors(tmp_path / "x.safetensors", first.state(), {})
    second.load(read_tensors(tmp_path / "x.safetensors")[0])
    second.actors.visit = 40  # type: ignore[attr-defined]  # environments are their owner's to restore
    for each in (whole, second):
        list(each.steps(30))
    assert (second.taken, second.updates) == (whole.taken, whole.updates) == (70, 51)
    for name, value in whole.state().items():
        assert torch.equal(second.state()[name], value), name
    with pytest.raises(UserError, match="no online training"):
        second.load({})


@pytest.mark.parametrize(
    ("name", "value"), [("start", 0), ("batch_size", 0), ("capacity", 0), ("exploration", -1.0)]
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name):
        training((0,), **{name: value})
