"""Data of our own making in mazes: a point walks from cell to cell with noise, whatever the task's goal."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from dosing import __version__
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes, concatenate
from dosing.errors import UserError
from dosing.rng import generator
from dosing.studies.mujoco_data import DISCOUNT
from dosing.studies.visit_log import VisitLog
from dosing.training.online import OnlineStep
from simulator.envs.tasks import episode_seed, make_task
from simulator.envs.waypoints import Grid, Walker

WAYPOINTS = "waypoints"
"""Name of the controller, as a quality of data."""


@dataclass(frozen=True)
class MazePlan:
    """What to collect."""

    env_id: str
    """A maze through which a point moves, such as ``PointMaze_UMaze-v3``."""
    transitions: int
    """Visits to record."""
    seed: int = 0
    """Of the episodes, the targets and the noise."""
    noise: float = 0.5
    """Standard deviation of the noise on an action, whose limits are -1 and 1."""
    env_options: dict[str, Any] = field(default_factory=dict)
    """Of ``gymnasium.make``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be collected.

        Raises:
            UserError: a number out of range.
        """
        for name, low in (("transitions", 1), ("seed", 0), ("noise", 0)):
            if not low <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be at least {low}, got {getattr(self, name)}.")


def collect_maze(plan: MazePlan) -> Episodes:
    """Walk and record; an episode ends at the task's goal or its time limit.

    Raises:
        UserError: no such task, or no maze through which a point moves.
    """
    with make_task(plan.env_id, plan.env_options) as task:
        walker = Walker(Grid(task), plan.noise, generator(plan.seed, "exploration"))
        space: Any = task.action_space
        (width,) = task.observation_space.shape or ()
        log = VisitLog(plan.transitions, width, 2)
        number, obs = 0, _begin(task, plan.seed, 0)
        bar = tqdm(total=plan.transitions, desc=plan.env_id, unit=" visits", disable=None, file=sys.stderr)
        with bar:
            for _ in range(plan.transitions):
                place = obs.astype(np.float64)
                velocity = place[2:4] if width >= 4 else np.zeros(2)  # OGBench's point has none
                act = walker.act(place[:2], velocity).astype(np.float32)
                result, reward, terminated, truncated, _ = task.step(act)
                ended = bool(terminated or truncated)
                next_obs = np.asarray(result, dtype=np.float32)
                step = [obs, act, np.float64(reward), next_obs, terminated, truncated and not terminated]
                number += ended
                obs = _begin(task, plan.seed, number) if ended else next_obs
                log.add(OnlineStep(*(np.asarray(x)[None] for x in (*step, obs))))
                if ended:
                    walker.begin()
                bar.update()
    content = log.episodes(0, falls=False)
    metadata = DatasetMetadata(
        env_id=plan.env_id,
        env_options=dict(plan.env_options),
        seed=plan.seed,
        policy=WAYPOINTS,
        patients=int(content.episode[-1]) + 1,
        action_low=tuple(space.low.tolist()),
        action_high=tuple(space.high.tolist()),
        dose_name="action",
        gamma=DISCOUNT,
        collected={"controller": WAYPOINTS, "noise": plan.noise, "reached": int(content.terminated.sum())},
        versions=_versions(),
    )
    return concatenate([content], metadata)


def describe_maze(metadata: DatasetMetadata) -> str:
    """A line about a collected data set."""
    collected = metadata.collected
    return (
        f"{WAYPOINTS}: {metadata.rows:,} visits in {metadata.patients:,} episodes, "
        f"{collected['reached']:,} of which reached the goal; noise {collected['noise']:g}"
    )


def _begin(task: gymnasium.Env[Any, Any], seed: int, number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(task.reset(seed=episode_seed(seed, "train", number))[0], dtype=np.float32)


def _versions() -> dict[str, str]:
    import mujoco

    return {
        "dosing": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
        "mujoco": mujoco.__version__,
    }
