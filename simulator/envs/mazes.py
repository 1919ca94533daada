"""Mazes, hands and manipulation: tasks of Gymnasium-Robotics and OGBench, whose score is the success rate.

AntMaze, PointMaze and Adroit of Gymnasium-Robotics (after D4RL: Fu et al. 2020, arXiv 2004.07219); the
single-task versions of OGBench (Park, Frans, Eysenbach, Levine 2025, arXiv 2410.20092). A package is imported
when one of its tasks is made. What is the same for all of them here:

* An observation is one vector (``dosing.data.goals``).
* An episode of a maze ends when the goal is reached, also where the package would let it go on.
* The seed of a reset decides the whole episode; OGBench itself draws from numpy's global generator.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from dosing.data.goals import PARTS, flat, is_goal_observation, repeated
from dosing.errors import UserError

ROBOTICS, OGBENCH = "gymnasium_robotics", "ogbench"

FAMILIES = {
    ROBOTICS: ("PointMaze_", "AntMaze_", "AdroitHand"),
    OGBENCH: ("pointmaze-", "antmaze-", "humanoidmaze-", "antsoccer-", "cube-", "scene-", "puzzle-"),
}
"""How the ids of a package's tasks begin."""

OVER = 0.75
"""How far from the middle of a free cell a position can lie, in cells: a half, and a quarter for a body that
leans on a wall."""


def package_of(env_id: str) -> str | None:
    """The package that has a task of this id; None for any other environment."""
    return next((name for name, begins in FAMILIES.items() if env_id.startswith(begins)), None)


def register(env_id: str) -> None:
    """Import the package of a task, which registers it; nothing where there is none or no such task."""
    package = package_of(env_id)
    if package is None or env_id in gymnasium.registry or importlib.util.find_spec(package) is None:
        return
    with redirect_stderr(io.StringIO()):  # a notice about other tasks of the package
        gymnasium.register_envs(importlib.import_module(package))


def missing(env_id: str) -> str | None:
    """What is to be installed for a task, in a sentence; None where nothing is."""
    package = package_of(env_id)
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return f"{env_id} needs the package {package}, which the extra mazes installs: dosing[mazes]."


def as_task(env_id: str, made: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """A task of one of the packages as it is used here; see the module.

    Raises:
        UserError: it is one of OGBench's whose goal is in no observation.
    """
    task = made.unwrapped
    if package_of(env_id) == OGBENCH:
        if getattr(task, "_reward_task_id", None) is None:
            name, _, version = env_id.rpartition("-")
            raise UserError(
                f"{env_id} does not observe its goal; take a version with one task, such as "
                f"{name}-singletask-{version}."
            )
        return _Seeded(made)
    if (xml := getattr(task, "tmp_xml_file_path", None)) is not None:
        Path(xml).unlink(missing_ok=True)  # the maze's own model file, which the package leaves behind
        return _EndsAtSuccess(made)
    return made


def flattened(made: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The task with its observation as one vector; as it is where that is one already."""
    space = made.observation_space
    return _Flat(made) if isinstance(space, Dict) and is_goal_observation(space) else made


def success_of(info: Mapping[str, Any]) -> float:
    """Whether a visit's info reports success, 0 or 1; NaN where it does not say."""
    return float(info.get("success", info.get("is_success", math.nan)))


def cost_of(info: Mapping[str, Any], terminated: bool) -> float:
    """Safety cost of a visit: what the info says, else 1 for a termination without success."""
    return float(info.get("cost", terminated and not success_of(info) > 0.0))


class _EndsAtSuccess(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A maze whose episode terminates when its goal is reached."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, bool(terminated or info["success"]), truncated, info


class _Seeded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A task that draws from numpy's global generator, with a state of that generator of its own."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = env.action_space  # kept: some tasks make it anew at every call, with a warning

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
            self.action_space.seed(seed)
        with self._own_draws(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the precision of an action space
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        with self._own_draws():
            return self.env.step(action)

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        before = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._state)  # noqa: NPY002
        try:
            yield
        finally:
            self._state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(before)  # noqa: NPY002


class _Flat(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A goal-reaching task with one vector as observation."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._leave_out = repeated(env.reset(seed=0)[0])
        spaces = dict(env.observation_space.spaces)  # type: ignore[attr-defined]
        ends = {name: (space.low, space.high) for name, space in spaces.items()}
        if (maze := getattr(env.unwrapped, "maze", None)) is not None:
            ends |= dict.fromkeys(("achieved_goal", "desired_goal"), _reach(maze))
            if self._leave_out:  # its first numbers are the position
                low, high = (end.copy() for end in ends["observation"])
                low[:2], high[:2] = ends["achieved_goal"]
                ends["observation"] = low, high
        low, high = (flat({name: ends[name][k] for name in PARTS}, self._leave_out) for k in (0, 1))
        self.observation_space = Box(low, high, dtype=np.float64)

    def observation(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return flat(observation, self._leave_out)


def _reach(maze: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lowest and highest position ``[2]`` that is possible in a maze of Gymnasium-Robotics."""
    free = [(i, j) for i, row in enumerate(maze.maze_map) for j, cell in enumerate(row) if cell != 1]
    middles = np.array([maze.cell_rowcol_to_xy(np.array(cell)) for cell in free])
    slack = OVER * maze.maze_size_scaling
    return middles.min(0) - slack, middles.max(0) + slack
