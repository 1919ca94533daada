"""Episodes of MuJoCo tasks as the patients of a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dosing.finetuning.patients import VisitOutcome
from dosing.policy import Observations
from dosing.safety import DoseLimits
from simulator.envs.mazes import cost_of
from simulator.envs.tasks import episode_seed, make_task


class Tasks:
    """S x P tasks, each of which begins its next episode by itself; the cost is the number of falls.

    Episode n at place p of a seed is episode n P + p of the cohort that data come from. An interrupted
    episode is brought back by giving the same actions once more.

    Args:
        env_id: such as ``Hopper-v5``.
        options: of ``gymnasium.make``.
        seeds: the S seeds.
        num_envs: P per seed.
    """

    def __init__(self, env_id: str, options: Mapping[str, Any], seeds: Sequence[int], num_envs: int) -> None:
        self.num_envs, self._seeds = num_envs, tuple(seeds)
        self._tasks: list[list[gymnasium.Env[Any, Any]]] = [
            [make_task(env_id, options) for _ in range(num_envs)] for _ in seeds
        ]
        with make_task(env_id, options) as task:
            space: Any = task.action_space
            (self.n_obs,) = task.observation_space.shape or ()
        self.limits = DoseLimits(tuple(space.low.tolist()), tuple(space.high.tolist()))

    def begin(self) -> Observations:
        """Begin the first episode at every place; ``[S, P, O]``."""
        shape = (len(self._seeds), self.num_envs)
        self._episode = np.zeros(shape, dtype=np.int64)
        self._given: list[list[list[npt.NDArray[np.float32]]]] = [[[] for _ in row] for row in self._tasks]
        return np.stack([[self._reset(k, p) for p in range(self.num_envs)] for k in range(shape[0])])

    def _reset(self, k: int, p: int) -> Observations:
        number = int(self._episode[k, p]) * self.num_envs + p
        self._given[k][p] = []
        obs, _ = self._tasks[k][p].reset(seed=episode_seed(self._seeds[k], "train", number))
        return np.asarray(obs, dtype=np.float32)

    def treat(self, dose: npt.NDArray[np.float32]) -> VisitOutcome:
        """Give doses ``[S, P, A]``; where an episode ends, the next one begins."""
        results = [
            [self._tasks[k][p].step(dose[k, p]) for p in range(self.num_envs)] for k in range(len(dose))
        ]
        next_obs = np.array([[r[0] for r in row] for row in results], dtype=np.float32)
        reward = np.array([[r[1] for r in row] for row in results], dtype=np.float64)
        terminated = np.array([[r[2] for r in row] for row in results], dtype=np.bool_)
        truncated = np.array([[r[3] for r in row] for row in results], dtype=np.bool_) & ~terminated
        following = next_obs.copy()
        for k in range(len(dose)):
            for p in range(self.num_envs):
                self._given[k][p].append(dose[k, p].copy())
                if terminated[k, p] or truncated[k, p]:
                    self._episode[k, p] += 1
                    following[k, p] = self._reset(k, p)
        cost = np.array([[self._cost(bool(r[2]), r[4]) for r in row] for row in results], dtype=np.float64)
        delivered = [
            [r[4].get("dose_delivered", given) for r, given in zip(row, doses, strict=True)]
            for row, doses in zip(results, dose, strict=True)
        ]
        return VisitOutcome(
            reward, cost, next_obs, terminated, truncated, following, np.array(delivered, dtype=np.float32)
        )

    def _cost(self, terminated: bool, info: dict[str, Any]) -> float:
        """Safety cost of a visit."""
        return cost_of(info, terminated)

    def state(self) -> dict[str, Tensor]:
        """The episode at every place, and the actions in it, ``[S, P, t, A]`` with zeros behind the last."""
        lengths = np.array([[len(given) for given in row] for row in self._given])
        given = np.zeros((*lengths.shape, int(lengths.max()), self.limits.n_act), dtype=np.float32)
        for k, p in np.ndindex(*lengths.shape):
            if lengths[k, p]:
                given[k, p, : lengths[k, p]] = self._given[k][p]
        result = {"episode": self._episode, "lengths": lengths, "given": given}
        return {f"treated.{name}": torch.as_tensor(value) for name, value in result.items()}

    def load(self, state: Mapping[str, Tensor]) -> Observations:
        """Begin the episodes and give the same actions once more."""
        obs = self.begin()
        self._episode = state["treated.episode"].numpy().copy()
        lengths, given = (
            state["treated.lengths"].numpy(),
            state["treated.given"].numpy(),
        )
        for k, p in np.ndindex(*lengths.shape):
            obs[k, p] = self._reset(k, p)
            for act in given[k, p, : lengths[k, p]]:
                obs[k, p] = self._tasks[k][p].step(act)[0]
                self._given[k][p].append(act.copy())
        return obs
