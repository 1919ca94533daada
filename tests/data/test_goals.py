"""Files of goal-reaching tasks in three layouts: one vector per observation, and no value through success."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from dosing.data.external import External
from dosing.data.goals import flat, is_goal_observation, repeated
from dosing.data.sources import read_source
from dosing.data.store import read_episodes, write_episodes
from dosing.errors import UserError
from dosing.safety import DoseLimits

UNIT = DoseLimits((-1.0, -1.0), (1.0, 1.0))
Arrays = dict[str, np.ndarray[Any, Any]]


def parts(rows: int, inside: bool) -> Arrays:
    """Recorded parts of observations; the achieved goal is the observation's first two numbers, or apart."""
    rng = np.random.default_rng(3)
    observation = rng.standard_normal((rows, 4))
    achieved = observation[:, :2].copy() if inside else rng.standard_normal((rows, 2))
    goal = np.repeat(rng.standard_normal((2, 2)), (3, rows - 3), axis=0)
    return {"observation": observation, "achieved_goal": achieved, "desired_goal": goal}


def test_position_observation_goal_in_this_order_and_no_number_twice() -> None:
    apart = {"observation": np.array([3.0, 4.0]), "achieved_goal": np.array([1.0, 2.0])}
    apart["desired_goal"] = np.array([5.0])
    assert not repeated(apart)
    assert flat(apart, False).tolist() == [1, 2, 3, 4, 5]
    inside = apart | {"observation": np.array([1.0, 2.0, 3.0])}
    assert repeated(inside)
    assert flat(inside, True).tolist() == [1, 2, 3, 5]
    assert is_goal_observation(apart)
    assert not is_goal_observation({"observation": 1})
    assert not is_goal_observation(np.zeros(3))


@pytest.fixture
def d4rl(tmp_path: Path) -> Any:
    """Write a file of two episodes of four visits to a goal that is the last position; returns its arrays."""

    def make(**changed: Any) -> tuple[Path, Arrays]:
        obs = np.linspace(0.0, 1.4, 8 * 4).reshape(8, 4).astype(np.float32)
        arrays: Arrays = {
            "observations": obs,
            "actions": np.random.default_rng(0).uniform(-1, 1, (8, 2)).astype(np.float32),
            "rewards": np.array([0, 0, 0, 1, 0, 0, 0, 1], dtype=np.float32),
            "terminals": np.array([0, 0, 0, 1, 0, 0, 0, 1], dtype=bool),
            "timeouts": np.zeros(8, dtype=bool),
            "infos/goal": np.repeat(obs[[3, 7], :2], 4, axis=0),
        }
        arrays |= changed
        path = tmp_path / "maze.hdf5"
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
        return path, arrays

    return make


def test_a_goal_that_the_environment_observes_is_put_behind(d4rl: Any) -> None:
    path, arrays = d4rl()
    result = read_source(path, External(limits=UNIT, n_obs=6))
    np.testing.assert_array_equal(result.obs[:, :4], arrays["observations"])
    np.testing.assert_array_equal(result.obs[:, 4:], arrays["infos/goal"])
    np.testing.assert_array_equal(result.next_obs[:3, 4:], arrays["infos/goal"][:3])
    np.testing.assert_array_equal(np.flatnonzero(result.terminated), [3, 7])
    alone = read_source(path, External(limits=UNIT, n_obs=4))
    np.testing.assert_array_equal(alone.obs, arrays["observations"])
    with pytest.raises(UserError, match="4 numbers per observation"):
        read_source(path, External(limits=UNIT, n_obs=5, env_id="Other-v0"))


def test_a_goal_that_rewards_are_not_of_is_refused(d4rl: Any) -> None:
    path, _ = d4rl(**{"infos/goal": np.full((8, 2), 9.0, dtype=np.float32)})
    with pytest.raises(UserError, match=r"row 4 earns the reward of success far from its infos/goal, as 2"):
        read_source(path, External(limits=UNIT, n_obs=6))
    assert read_source(path, External(limits=UNIT, n_obs=4)).obs.shape == (8, 4)


def solved_from(states: Any) -> Any:
    """Rewards of a task that is solved from 3 on."""
    there = states["qpos"][:, 0] >= 3.0
    return there - 1.0, there


@pytest.fixture
def ogbench(tmp_path: Path) -> Any:
    """Write a file of two trajectories of five and three rows."""

    def make(leave_out: str = "") -> tuple[Path, Arrays]:
        position = np.array([0, 1, 2, 3, 4, 10, 11, 12], dtype=np.float32)
        position[5:] -= 10
        arrays: Arrays = {
            "observations": np.stack((position, np.arange(8)), 1).astype(np.float32),
            "actions": np.random.default_rng(0).uniform(-1, 1, (8, 2)).astype(np.float32),
            "terminals": np.array([0, 0, 0, 0, 1, 0, 0, 1], dtype=bool),
            "qpos": position[:, None].astype(np.float64),
        }
        path = tmp_path / "maze-v0.npz"
        np.savez(path, **{name: values for name, values in arrays.items() if name != leave_out})
        return path, arrays

    return make


def test_the_last_row_of_a_trajectory_is_no_visit(ogbench: Any, tmp_path: Path) -> None:
    path, arrays = ogbench()
    result = read_source(path, External(limits=UNIT, relabel=solved_from))
    np.testing.assert_array_equal(result.obs, arrays["observations"][[0, 1, 2, 3, 5, 6]])
    np.testing.assert_array_equal(result.next_obs, arrays["observations"][[1, 2, 3, 4, 6, 7]])
    np.testing.assert_array_equal(result.act, arrays["actions"][[0, 1, 2, 3, 5, 6]])
    assert result.reward.tolist() == [-1, -1, -1, 0, -1, -1]
    assert result.terminated.tolist() == [False, False, False, True, False, False]
    assert result.truncated.tolist() == [False, False, False, False, False, True]
    assert result.episode.tolist() == [0, 0, 0, 0, 1, 1]
    assert result.metadata.source == {"layout": "OGBench", "file": "maze-v0.npz", "rows": 8}
    write_episodes(result, tmp_path / "own.hdf5")
    np.testing.assert_array_equal(read_episodes(tmp_path / "own.hdf5").obs, result.obs)


def test_nothing_is_bootstrapped_from_where_the_task_is_solved_though_the_trajectory_goes_on(
    ogbench: Any,
) -> None:
    path, _ = ogbench()

    def early(states: Any) -> Any:
        there = states["qpos"][:, 0] == 1.0
        return there - 1.0, there

    result = read_source(path, External(limits=UNIT, relabel=early))
    assert np.flatnonzero(result.terminated).tolist() == [1, 5]
    assert result.episode.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", ["observations", "actions", "terminals", "qpos"])
def test_an_array_that_is_missing_is_named(ogbench: Any, name: str) -> None:
    path, _ = ogbench(name)
    with pytest.raises(UserError, match=f"lacks {name}"):
        read_source(path, External(limits=UNIT, relabel=solved_from))


def test_rewards_need_a_task(ogbench: Any) -> None:
    path, _ = ogbench()
    with pytest.raises(UserError, match=r"no rewards, they are those of a task: name its environment"):
        read_source(path, External(limits=UNIT))


def test_a_file_that_is_none_of_ogbenchs_is_refused(tmp_path: Path, ogbench: Any) -> None:
    whole, _ = ogbench()
    for content in (b"", b"PK\x03\x04 no archive", whole.read_bytes()[:200]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.npz is truncated or not an episode file"):
            read_source(tmp_path / "bad.npz", External(limits=UNIT, relabel=solved_from))
    with pytest.raises(UserError, match=r"episodes are kept in"):
        write_episodes(read_source(whole, External(limits=UNIT, relabel=solved_from)), tmp_path / "x.npz")


def minari_set(
    name: str, inside: bool = True, said: bool = True, rewards: tuple[float, ...] = (0.0, 1.0, 0.0)
) -> Arrays:
    """Create a set of one episode of six visits, at the second and fifth of which the goal is reached."""
    import minari
    from minari.data_collector import EpisodeBuffer

    observed = parts(7, inside)
    spaces = {k: Box(-np.inf, np.inf, v.shape[1:], np.float64) for k, v in observed.items()}
    flags = np.zeros(6, dtype=bool)
    episode = {
        "observations": observed,
        "actions": np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype(np.float32),
        "rewards": np.array([*rewards, *rewards]),
        "terminations": flags,
        "truncations": np.array([*flags[:-1], True]),
    }
    infos = {"success": np.array([False, False, True, False, False, True, False])} if said else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            name,
            [EpisodeBuffer(id=0, infos=infos, **episode)],
            observation_space=Dict(spaces),
            action_space=Box(-1.0, 1.0, (2,), np.float32),
        )
    return observed


@pytest.mark.minari
@pytest.mark.parametrize("inside", [True, False])
def test_a_goal_set_becomes_vectors_that_end_at_success(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    observed = minari_set("other/maze-v0", inside)
    result = read_source("minari:other/maze-v0")
    names = ("observation", "desired_goal") if inside else ("achieved_goal", "observation", "desired_goal")
    want = np.concatenate([observed[name] for name in names], axis=1).astype(np.float32)
    np.testing.assert_array_equal(result.obs, want[:-1])
    np.testing.assert_array_equal(result.next_obs, want[1:])
    assert np.flatnonzero(result.terminated).tolist() == [1, 4]
    assert result.truncated.tolist() == [False] * 5 + [True]
    assert result.episode.tolist() == [0, 0, 1, 1, 1, 2]


@pytest.mark.minari
def test_success_without_a_word_is_the_sparse_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari_set("other/sparse-v0", said=False)
    assert np.flatnonzero(read_source("minari:other/sparse-v0").terminated).tolist() == [1, 4]
    minari_set("other/dense-v0", said=False, rewards=(0.5, 1.0, 0.2))
    assert not read_source("minari:other/dense-v0").terminated.any()


@pytest.mark.minari
def test_agents_are_evaluated_where_the_set_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari_set("other/maze-v0")
    recorded, evaluated = (gymnasium.make("Pendulum-v1", max_episode_steps=n).spec for n in (1000, 30))
    assert recorded is not None
    assert evaluated is not None
    (file,) = tmp_path.glob("other/maze-v0/data/metadata.json")
    specs = {"env_spec": recorded.to_json(), "eval_env_spec": evaluated.to_json()}
    file.write_text(json.dumps(json.loads(file.read_text()) | specs))
    metadata = read_source("minari:other/maze-v0").metadata
    assert metadata.env_id == "Pendulum-v1"
    assert metadata.env_options == {"max_episode_steps": 30}
