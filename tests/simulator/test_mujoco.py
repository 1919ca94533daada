"""Whole MuJoCo episodes side by side: the same starts, counted once, stepped by any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from dosing.errors import UserError
from simulator.envs.mujoco import task_ids
from simulator.envs.tasks import TaskCohort, TaskFactory, episode_seed

pytestmark = pytest.mark.mujoco

CUT = {"max_episode_steps": 30}


def follow(env: TaskCohort, visits: int = 30) -> dict[str, np.ndarray[Any, Any]]:
    """Doses that differ from episode to episode and visit to visit, but belong to an episode's number."""
    obs, info = env.reset(seed=7)
    kept: dict[str, list[Any]] = {"obs": [obs], "reward": [], "terminated": [], "truncated": [], "cost": []}
    for visit in range(visits):
        dose = np.sin(info["patient"][:, None] + 0.3 * visit + np.arange(env.limits.n_act))
        obs, reward, terminated, truncated, rest = env.step(dose.astype(np.float32))
        for name, value in zip(kept, (obs, reward, terminated, truncated, rest["cost"]), strict=True):
            kept[name].append(value)
    env.close()
    return {name: np.array(values) for name, values in kept.items()}


@pytest.mark.long
def test_an_episode_is_the_same_in_every_company_and_on_every_process() -> None:
    factory = TaskFactory("Hopper-v5", CUT, workers=1)
    together = follow(factory(6, 2))
    alone = follow(factory(2, 4))
    spread = follow(TaskCohort("Hopper-v5", 6, 2, "evaluation", CUT, workers=2))
    for name, values in together.items():
        np.testing.assert_array_equal(values[:, 2:4], alone[name], err_msg=name)
        np.testing.assert_array_equal(values, spread[name], err_msg=name)
    starts = {row.tobytes() for row in together["obs"][0]}
    assert len(starts) == 6
    training = follow(TaskCohort("Hopper-v5", 6, 2, "train", CUT, workers=1))
    assert starts.isdisjoint(row.tobytes() for row in training["obs"][0])


def test_it_is_gymnasiums_own_task_step_by_step() -> None:
    result = follow(TaskCohort("Walker2d-v5", 2, 3, "evaluation", CUT, workers=1))
    for k, number in enumerate((3, 4)):
        task = gymnasium.make("Walker2d-v5", max_episode_steps=30)
        obs, _ = task.reset(seed=episode_seed(7, "evaluation", number))
        for visit in range(30):
            np.testing.assert_array_equal(result["obs"][visit, k], obs.astype(np.float32))
            dose = np.sin(number + 0.3 * visit + np.arange(6)).astype(np.float32)
            obs, reward, terminated, truncated, _ = task.step(dose)
            assert result["reward"][visit, k] == reward
            assert result["terminated"][visit, k] == terminated
            assert result["truncated"][visit, k] == (truncated and not terminated)
            if terminated or truncated:
                break


def test_an_episode_that_is_over_is_counted_once() -> None:
    env = TaskCohort("Hopper-v5", 4, workers=1)
    env.reset(seed=0)
    ended = np.zeros(4, dtype=int)
    total, after, cost = np.zeros(4), np.zeros(4), np.zeros(4)
    last: dict[int, np.ndarray[Any, Any]] = {}
    for visit in range(200):
        over = env.over.copy()
        obs, reward, terminated, truncated, info = env.step(np.ones((4, 3), dtype=np.float32))
        ended += terminated | truncated
        cost += info["cost"]
        total += reward
        after += reward * over
        for k in np.flatnonzero(terminated).tolist():
            last[k] = obs[k]
        if visit == 199:
            for k, row in last.items():
                np.testing.assert_array_equal(obs[k], row)
    np.testing.assert_array_equal(ended, 1)
    np.testing.assert_array_equal(cost, 1)
    np.testing.assert_array_equal(after, 0.0)
    assert (total > 0.0).all()


def test_a_time_limit_truncates_and_does_not_terminate() -> None:
    result = follow(TaskCohort("HalfCheetah-v5", 2, options={"max_episode_steps": 5}, workers=1), 8)
    np.testing.assert_array_equal(result["truncated"].sum(1), [0, 0, 0, 0, 2, 0, 0, 0])
    assert not result["terminated"].any()
    assert not result["reward"][5:].any()
    assert not result["cost"].any()


def test_doses_are_held_at_the_limits_and_said_so() -> None:
    env = TaskCohort("HalfCheetah-v5", 2, workers=1)
    env.reset(seed=0)
    dose = np.zeros((2, 6), dtype=np.float32)
    dose[1, 2] = 1.5
    _, reward, _, _, info = env.step(dose)
    np.testing.assert_array_equal(info["limited_by"], [0, 2])
    np.testing.assert_array_equal(info["dose_requested"][1, 2], 1.5)
    np.testing.assert_array_equal(info["dose_delivered"][1, 2], 1.0)
    env.reset(seed=0)
    dose[1, 2] = 1.0
    np.testing.assert_array_equal(env.step(dose)[1], reward)
    with pytest.raises(UserError, match="must be finite"):
        env.step(np.full((2, 6), np.nan))
    with pytest.raises(UserError, match="6 dimension"):
        env.step(np.zeros((2, 3)))


def test_the_task_says_its_limits_and_length() -> None:
    factory = TaskFactory("Hopper-v5")
    assert factory.limits.low == (-1.0, -1.0, -1.0)
    assert factory.limits.unit == "1"
    assert factory.horizon == 1000
    assert {"Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Hopper-v4"} <= set(task_ids())


def test_what_cannot_be_made_is_one_sentence() -> None:
    with pytest.raises(UserError, match="there is no environment 'Hopper-v9'"):
        TaskFactory("Hopper-v9")
    with pytest.raises(UserError, match=r"Hopper-v5 cannot be made with {'variant': 'x'}"):
        TaskFactory("Hopper-v5", {"variant": "x"})
    with pytest.raises(UserError, match="at least one"):
        TaskCohort("Hopper-v5", 0)
    with pytest.raises(UserError, match="cohort must be"):
        TaskCohort("Hopper-v5", 1, 0, "other")
    with pytest.raises(UserError, match=r"reset\(seed=...\)"):
        TaskCohort("Hopper-v5", 1, workers=1).reset()


def test_an_unstable_simulation_is_said_and_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = TaskCohort("HalfCheetah-v5", 1, workers=1)
    env.reset(seed=0)
    task: Any = env._groups[0].tasks[0].unwrapped  # type: ignore[union-attr]
    task.data.qvel[:] = 1e12
    with pytest.warns(RuntimeWarning, match="MuJoCo says: .*simulation is unstable"):
        env.step(np.zeros((1, 6), dtype=np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_killed_process_is_one_sentence() -> None:
    env = TaskCohort("Hopper-v5", 2, workers=2)
    env.reset(seed=0)
    env._groups[1]._process.kill()  # type: ignore[union-attr]
    env._groups[1]._process.join()  # type: ignore[union-attr]
    with pytest.raises(UserError, match="was killed"):
        env.step(np.zeros((2, 3), dtype=np.float32))
    env.close()
