"""Online learning: S seeds each act in an environment of their own, remember, and update.

The loop of off-policy actor-critics (Fujimoto et al. 2018, arXiv 1802.09477, algorithm 1): random actions
first, then the policy with normal exploration noise, one update per step from a replay buffer. Environments
are handed in; this module knows none. Time limits do not terminate: a truncated episode is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.policy import DosePolicy
from dosing.rng import generator
from dosing.training.checkpoint import load_training_state, training_state
from dosing.training.compilation import updater
from dosing.training.replay import ReplaySampler
from dosing.types import Array

Observations = npt.NDArray[np.float32]


class Actors(Protocol):
    """S environments side by side, each of which begins a new episode by itself once one is over."""

    def reset(self) -> Observations:
        """Begin; returns ``[S, O]``."""

    def step(self, dose: Array) -> OnlineStep:
        """Give doses ``[S, A]``."""


@dataclass(frozen=True)
class OnlineStep:
    """One visit of each of S environments.

    Attributes:
        obs: before the dose ``[S, O]``.
        dose: delivered ``[S, A]``, in dose units.
        reward: ``[S]``.
        next_obs: after the dose, also where the episode ended ``[S, O]``.
        terminated: the process ended ``[S]``.
        truncated: the time limit ended the episode ``[S]``.
        following: what the next dose is given at: ``next_obs``, or a new episode's first ``[S, O]``.
    """

    obs: Observations
    dose: Array
    reward: Array
    next_obs: Observations
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    following: Observations


@dataclass(frozen=True)
class OnlineSettings:
    """How to learn online: as in TD3's paper on HalfCheetah, with the batches of its authors' code."""

    batch_size: int = 256
    """Transitions per update and seed."""
    start: int = 10_000
    """Steps of random actions before the first update."""
    exploration: float = 0.1
    """Standard deviation of the noise on the policy's action, on the [-1, 1] axis."""
    capacity: int = 1_000_000
    """Most transitions a seed remembers."""

    def check(self) -> None:
        """Refuse settings that cannot work."""
        for name in ("batch_size", "start", "capacity"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0.0 <= self.exploration < float("inf"):
            raise UserError(f"exploration must be at least 0, got {self.exploration}.")


class OnlineTraining:
    """An agent that learns while it acts; iterate over :meth:`steps` for as long as is wanted.

    Args:
        agent: a stack of S seeds, prepared where its method takes something from a data set.
        actors: S environments, the k-th of seed k.
        transform: between the world's units and the agent's.
        settings: see :class:`OnlineSettings`.
    """

    def __init__(
        self,
        agent: Agent,
        actors: Actors,
        transform: Transform,
        settings: OnlineSettings,
    ) -> None:
        settings.check()
        self.agent, self.actors, self.transform, self.settings = agent, actors, transform, settings
        self.sampler = ReplaySampler(agent, None, settings.batch_size, 0.0, capacity=settings.capacity)
        self.buffer = self.sampler.buffer
        self.policy = DosePolicy(agent, transform)
        self.taken = self.updates = 0
        self._take: Callable[..., Any] = updater(agent)

    def steps(self, count: int) -> Iterator[OnlineStep]:
        """Act and learn for ``count`` further steps from the start of an episode; yields each as it is made.

        Noise is addressed by seed and step, so a stack acts as its seeds would alone.
        """
        obs = self.actors.reset()
        for _ in range(count):
            random = self.taken < self.settings.start
            made = self.actors.step(self._uniform() if random else self.explored(obs, self.taken))
            self.remember(made)
            self.taken += 1
            if self.taken >= self.settings.start:
                self._take(self.sampler(self.updates))
                self.updates += 1
            obs = made.following
            yield made

    def _uniform(self) -> Array:
        """Doses ``[S, A]`` drawn uniformly within the limits."""
        shape = self.agent.problem.n_act
        draws = [generator(seed, "exploration", self.taken).random(shape) for seed in self.agent.seeds]
        return self.transform.to_dose(2.0 * np.stack(draws) - 1.0)

    def explored(self, obs: Observations, number: int) -> Array:
        """The policy's doses ``[S, A]`` at ``obs [S, O]`` with the noise of that number, held in the box."""
        unit = self.transform.to_unit(self.policy.recommended(obs[:, None])[:, 0])
        draws = [generator(s, "exploration", number).standard_normal(unit.shape[1]) for s in self.agent.seeds]
        noisy = unit + self.settings.exploration * np.stack(draws)
        return self.transform.to_dose(np.clip(noisy, -1.0, 1.0))

    def remember(self, made: OnlineStep) -> None:
        """Put one visit of each seed into the buffer."""
        rows = [made.obs, made.next_obs]
        obs, next_obs = (self.transform.obs(torch.from_numpy(x.astype(np.float64)))[:, None] for x in rows)
        act = torch.from_numpy(self.transform.to_unit(made.dose))[:, None]
        reward = torch.from_numpy(self.transform.scaled(made.reward))[:, None]
        terminated = torch.from_numpy(made.terminated)[:, None]
        ended = terminated | torch.from_numpy(made.truncated)[:, None]
        self.sampler.remember(obs, act, reward, next_obs, terminated, ended)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: agent, buffer and counts. Environments are their owner's to restore."""
        counts = {"online.taken": torch.tensor(self.taken), "online.updates": torch.tensor(self.updates)}
        return training_state(self.agent) | self.buffer.state() | counts

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state` exactly.

        Raises:
            UserError: it is of another training.
        """
        try:
            taken, updates = (int(state[f"online.{name}"]) for name in ("taken", "updates"))
        except KeyError as error:
            raise UserError(f"the checkpoint holds no online training: {error} is missing.") from error
        load_training_state(self.agent, state)
        self.buffer.load(state)
        self.taken, self.updates = taken, updates
