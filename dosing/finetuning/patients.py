"""The patients of a trial: S x P episodes side by side, and a new one where one ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from dosing.errors import UserError
from dosing.policy import Observations
from dosing.safety import DoseLimits
from dosing.types import Array

Flags = npt.NDArray[np.bool_]

SPAN = 1 << 32
"""Numbers of patients that belong to one seed; data sets use those below."""


@dataclass(frozen=True)
class TreatedVisit:
    """One visit of S x P patients, in the world's units.

    Attributes:
        obs: before the dose ``[S, P, O]``.
        requested: what the agent asked for ``[S, P, A]``.
        dose: delivered ``[S, P, A]``.
        limited: whether a limit held the dose ``[S, P]``.
        reward: ``[S, P]``.
        cost: safety cost ``[S, P]``.
        next_obs: after the dose, also where the episode ended ``[S, P, O]``.
        terminated: the episode ended for good ``[S, P]``.
        truncated: the time limit ended it ``[S, P]``.
        following: what the next dose is given at: ``next_obs``, or a new patient's first ``[S, P, O]``.
    """

    obs: Observations
    requested: Array
    dose: npt.NDArray[np.float32]
    limited: Flags
    reward: Array
    cost: Array
    next_obs: Observations
    terminated: Flags
    truncated: Flags
    following: Observations

    @property
    def ended(self) -> Flags:
        """Where the episode ended ``[S, P]``."""
        return self.terminated | self.truncated


@dataclass(frozen=True)
class VisitOutcome:
    """What came of one visit; fields as of :class:`TreatedVisit`."""

    reward: Array
    cost: Array
    next_obs: Observations
    terminated: Flags
    truncated: Flags
    following: Observations
    dose: npt.NDArray[np.float32] | None = None
    """Delivered ``[S, P, A]``; None where it is what was given. A step limit may hold it further."""


class PatientsUnderTreatment(Protocol):
    """S x P patients in treatment; where one's episode ends, a new one begins at the same place."""

    @property
    def num_envs(self) -> int:
        """P, patients of a seed side by side."""

    @property
    def n_obs(self) -> int:
        """O, numbers that a patient shows at a visit."""

    @property
    def limits(self) -> DoseLimits:
        """Hard dose limits."""

    def begin(self) -> Observations:
        """Bring the first patients to their first visit; ``[S, P, O]``."""

    def treat(self, dose: npt.NDArray[np.float32]) -> VisitOutcome:
        """Give doses ``[S, P, A]`` within the limits."""

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed trial needs, as named tensors."""

    def load(self, state: Mapping[str, Tensor]) -> Observations:
        """Restore :meth:`state`; returns what the next dose is given at ``[S, P, O]``."""


class Waves:
    """Patients who come in waves: all of a wave begin together, make as many visits, and end together.

    Patient p in wave w of seed s is patient (s + 1) 2^32 + w P + p of the environment: new for every wave and
    seed, and, since data sets are made of patients below 2^32 and evaluations of another cohort, never one of
    theirs. Any gymnasium vector environment will do that starts patient k and those after it by
    ``reset(seed=..., options={"patient_id": k})``, with ``info["cost"]`` per patient.

    Args:
        make: makes an environment of so many patients side by side, of the cohort that data come from.
        seeds: the S seeds.
        patients: P per seed.
        limits: hard dose limits.
        env_seed: seed of the environment; which replication of the population they are of.
    """

    def __init__(
        self,
        make: Callable[[int], VectorEnv[Any, Any, Any]],
        seeds: Sequence[int],
        patients: int,
        limits: DoseLimits,
        env_seed: int = 0,
    ) -> None:
        self.num_envs, self.limits = patients, limits
        self._seeds, self._env_seed = tuple(seeds), env_seed
        self._envs = [make(patients) for _ in self._seeds]
        self.n_obs = _width(self._envs[0].single_observation_space)
        self.wave = 0
        self._given: list[npt.NDArray[np.float32]] = []

    def first_patient(self, seed: int) -> int:
        """Number of the first patient of the present wave of a seed."""
        return (seed + 1) * SPAN + self.wave * self.num_envs

    def begin(self) -> Observations:
        """Begin the first wave."""
        self.wave = 0
        return self._begin()

    def _begin(self) -> Observations:
        self._given = []
        started = [
            env.reset(seed=self._env_seed, options={"patient_id": self.first_patient(seed)})[0]
            for env, seed in zip(self._envs, self._seeds, strict=True)
        ]
        return np.stack(started)

    def treat(self, dose: npt.NDArray[np.float32]) -> VisitOutcome:
        """Give doses ``[S, P, A]``; at the end of a wave the next one begins.

        Raises:
            UserError: the episodes of a wave do not end together.
        """
        results = [env.step(given) for env, given in zip(self._envs, dose, strict=True)]
        columns = [np.stack(column) for column in zip(*(result[:4] for result in results), strict=True)]
        next_obs, reward, terminated, truncated = columns
        cost = np.stack([result[4]["cost"] for result in results]).astype(np.float64)
        over = terminated | truncated
        if over.any() != over.all():
            raise UserError("patients who come in waves need episodes of one length in this environment.")
        self._given.append(dose.copy())
        following = next_obs
        if over.all():
            self.wave += 1
            following = self._begin()
        delivered = np.stack(
            [result[4].get("dose_delivered", given) for result, given in zip(results, dose, strict=True)]
        )
        return VisitOutcome(
            reward.astype(np.float64), cost, next_obs, terminated, truncated, following, delivered
        )

    def state(self) -> dict[str, Tensor]:
        """The wave, and the doses given in it ``[t, S, P, A]``."""
        shape = (0, len(self._seeds), self.num_envs, self.limits.n_act)
        given = np.stack(self._given) if self._given else np.zeros(shape, dtype=np.float32)
        return {
            "treated.wave": torch.tensor(self.wave),
            "treated.given": torch.from_numpy(given),
        }

    def load(self, state: Mapping[str, Tensor]) -> Observations:
        """Begin the wave and give its patients the same doses once more."""
        self.wave = int(state["treated.wave"])
        obs = self._begin()
        for dose in state["treated.given"].numpy():
            obs = self.treat(dose).following
        return obs


def _width(space: Any) -> int:
    """Numbers in an observation."""
    (width,) = space.shape
    return int(width)
