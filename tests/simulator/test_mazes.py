"""Mazes and hands of other packages: the recorded vector; success ends an episode and is reported."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from dosing.data.external import External, Rows, assemble
from dosing.data.goals import flat, repeated
from dosing.data.metadata import DatasetMetadata
from dosing.errors import UserError
from simulator.envs import mazes
from simulator.envs.relabelling import relabelling
from simulator.envs.tasks import TaskCohort, TaskFactory, make_task
from simulator.envs.waypoints import Grid, Walker
from simulator.scenarios import evaluation_factory

pytestmark = pytest.mark.mazes

POINT, OGPOINT = "PointMaze_UMaze-v3", "pointmaze-medium-singletask-v0"


@pytest.mark.parametrize(("env_id", "width"), [(POINT, 6), ("AntMaze_UMaze-v4", 31)])
def test_the_environment_flattens_as_the_data_do(env_id: str, width: int) -> None:
    with make_task(env_id, {}) as task:  # registers the id
        mine, _ = task.reset(seed=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium calls every version but its newest out of date
            raw: Any = gymnasium.make(env_id, disable_env_checker=True)
        start, _ = raw.reset(seed=4)
        rows, vectors = [start], [mine]
        for k in range(5):
            act = np.sin(k + np.arange(raw.action_space.shape[0])).astype(np.float32)
            rows.append(raw.step(act)[0])
            vectors.append(task.step(act)[0])
        raw.close()
    recorded = {name: np.stack([row[name] for row in rows]) for name in start}
    want = flat(recorded, repeated(recorded))
    assert want.shape == (6, width)
    np.testing.assert_array_equal(np.stack(vectors), want)


def walk_to_the_end(task: Any, seed: int = 0) -> list[Any]:
    """Results of steps of the controller without noise, until the episode ends."""
    walker = Walker(Grid(task), 0.0, np.random.default_rng(1))
    obs, _ = task.reset(seed=seed)
    results: list[Any] = []
    while not results or not (results[-1][2] or results[-1][3]):
        act = walker.act(np.asarray(obs[:2]), np.asarray(obs[2:4]))
        results.append(task.step(act.astype(np.float32)))
        obs = results[-1][0]
    return results


def test_the_goal_ends_an_episode_and_costs_nothing() -> None:
    with make_task(POINT, {"max_episode_steps": 5000}) as task:
        results = walk_to_the_end(task)
    *before, (obs, reward, terminated, truncated, info) = results
    assert terminated
    assert not truncated
    assert reward == 1.0
    assert np.linalg.norm(obs[:2] - obs[4:]) <= 0.45
    assert all(r[1] == 0.0 and np.linalg.norm(r[0][:2] - r[0][4:]) > 0.45 for r in before)
    assert mazes.success_of(info) == 1.0
    assert mazes.cost_of(info, terminated) == 0.0
    assert mazes.cost_of({}, True) == 1.0
    assert mazes.cost_of({"success": False}, True) == 1.0
    assert mazes.cost_of({"is_success": 0.0, "cost": 0.5}, False) == 0.5
    assert np.isnan(mazes.success_of({}))


def test_a_cohort_reports_success_where_the_task_does() -> None:
    env = TaskCohort("AdroitHandPen-v1", 2, options={"max_episode_steps": 3}, workers=1)
    env.reset(seed=0)
    info = env.step(np.zeros((2, 24)))[4]
    assert info["success"].shape == (2,)
    assert np.isin(info["success"], (0.0, 1.0)).all()
    env.close()
    plain = TaskCohort("InvertedPendulum-v5", 1, options={"max_episode_steps": 3}, workers=1)
    plain.reset(seed=0)
    assert "success" not in plain.step(np.zeros((1, 1)))[4]
    plain.close()


def test_the_seed_decides_an_episode_of_ogbench_and_nothing_else_is_drawn_from() -> None:
    def follow() -> np.ndarray[Any, Any]:
        with make_task(OGPOINT, {}) as task:
            rows = [task.reset(seed=5)[0]]
            rows += [task.step(np.array([0.5, -0.25], dtype=np.float32))[0] for _ in range(4)]
        return np.stack(rows)

    def global_state() -> list[int]:
        return np.random.get_state()[1].tolist()  # type: ignore[index, union-attr, return-value]  # noqa: NPY002

    before, first = global_state(), follow()
    assert global_state() == before
    np.random.set_state(np.random.RandomState(1).get_state())  # noqa: NPY002
    np.testing.assert_array_equal(follow(), first)
    with make_task(OGPOINT, {}) as task:
        assert not np.array_equal(task.reset(seed=6)[0], first[0])


def test_rewards_of_recorded_states_are_the_environments_own() -> None:
    relabel = relabelling(OGPOINT, {})
    assert relabel is not None
    assert relabelling(POINT, {}) is None
    with make_task(OGPOINT, {}) as task:
        env: Any = task.unwrapped
        task.reset(seed=0)
        goal = np.array(env.cur_goal_xy)
        positions, rewards, ends = [], [], []
        for start in (goal + 5.0, goal + np.array((0.0, 1.3)), goal):
            task.reset(seed=0)
            env.set_xy(start)
            for _ in range(3):
                positions.append(env.get_xy().copy())
                _, reward, terminated, _, _ = task.step(np.array([0.0, -1.0], dtype=np.float32))
                rewards.append(reward)
                ends.append(terminated)
    reward, solved = relabel({"qpos": np.array(positions)})
    np.testing.assert_array_equal(reward, rewards)
    np.testing.assert_array_equal(solved, ends)
    assert {-1.0, 0.0} == set(rewards)


def test_a_goal_that_is_not_observed_is_refused() -> None:
    with pytest.raises(UserError, match=r"does not observe its goal.*pointmaze-medium-singletask-v0\.$"):
        evaluation_factory("pointmaze-medium-v0", {})


@pytest.mark.parametrize("env_id", ["PointMaze_Nowhere-v3", "antmaze-nowhere-singletask-v0"])
def test_a_task_that_no_package_has_is_no_environment(env_id: str) -> None:
    with pytest.raises(UserError, match=f"there is no environment '{env_id}'"):
        evaluation_factory(env_id, {})


def test_the_extra_is_named_where_a_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(gymnasium.registry, "AntMaze_UMaze-v4", raising=False)
    for call in (
        lambda: evaluation_factory("AntMaze_UMaze-v4", {}),
        lambda: make_task("AntMaze_UMaze-v4", {}),
    ):
        with pytest.raises(UserError, match=r"needs the package gymnasium_robotics.*dosing\[mazes\]"):
            call()


def test_a_file_with_another_origin_is_refused() -> None:
    """D4RL's own mazes begin at the start's cell, those of Gymnasium-Robotics in the middle."""
    factory = TaskFactory(POINT)
    obs = np.array([[3.0, 1.0, 0.0, 0.0, 3.0, 3.0], [3.0, 2.0, 0.1, 0.1, 3.0, 3.0]])
    rows = Rows(
        obs=obs,
        act=np.array([[0.1, 0.2], [0.3, 0.4]]),
        reward=np.zeros(2),
        terminated=np.zeros(2),
        ends=np.array([False, True]),
        next_obs=obs + np.array((0, 1, 0.1, 0.1, 0, 0)),
    )
    said = External(limits=factory.limits, env_id=POINT, n_obs=6, obs_range=factory.obs_range)
    with pytest.raises(UserError, match=r"observation 1 of row 1 is 3, possible are -1.75 to 1.75"):
        assemble("the file", rows, DatasetMetadata(), said)


def test_no_model_file_is_left_behind() -> None:
    folder = Path(tempfile.gettempdir())
    before = set(folder.glob("ant_maze*.xml"))
    make_task(POINT, {}).close()
    assert set(folder.glob("ant_maze*.xml")) == before


@pytest.mark.parametrize("env_id", ["PointMaze_Large-v3", OGPOINT])
def test_paths_are_the_shortest_and_cells_are_where_they_say(env_id: str) -> None:
    with make_task(env_id, {}) as task:
        grid = Grid(task)
    place = {cell: k for k, cell in enumerate(grid.free)}
    edges = [(place[i, j], place[n]) for i, j in grid.free for n in ((i + 1, j), (i, j + 1)) if n in place]
    graph = csr_array((np.ones(len(edges)), np.array(edges).T), shape=(len(place), len(place)))
    want = shortest_path(graph, directed=False)
    for cell, k in place.items():
        assert grid.cell(grid.middle(cell)) == cell
        assert {place[c]: n for c, n in grid.steps_to(cell).items()} == dict(enumerate(want[k]))


def test_a_walk_gets_about() -> None:
    with make_task("PointMaze_UMaze-v3", {"max_episode_steps": 2000}) as task:
        grid = Grid(task)
        walker = Walker(grid, 0.3, np.random.default_rng(0))
        obs, _ = task.reset(seed=0)
        visited = set()
        for _ in range(700):
            visited.add(grid.cell(obs[:2]))
            obs, *_ = task.unwrapped.step(walker.act(obs[:2], obs[2:4]).astype(np.float32))
            obs = flat(obs, True)
    assert visited == set(grid.free)


def test_an_ant_needs_a_policy_that_walks() -> None:
    with (
        make_task("AntMaze_UMaze-v4", {}) as task,
        pytest.raises(UserError, match="no maze through which a point"),
    ):
        Grid(task)
