"""Simulated patients one by one as the patients of a trial, where episodes end at different visits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dosing.finetuning.patients import SPAN
from dosing.policy import Observations
from dosing.studies.mujoco_patients import Tasks
from simulator.environment import PatientEnv
from simulator.scenarios import CohortFactory


class SinglePatients(Tasks):
    """S x P patients of one of our scenarios; where one's episode ends, the next patient begins there.

    Patient n at place p of seed s is patient (s + 1) 2^32 + n P + p of the cohort that data come from, as in
    ``dosing.finetuning.patients.Waves``.

    Args:
        factory: the scenario.
        seeds: the S seeds.
        num_envs: P per seed.
        env_seed: seed of the environment; which replication of the population they are of.
    """

    def __init__(self, factory: CohortFactory, seeds: Sequence[int], num_envs: int, env_seed: int) -> None:
        self.num_envs, self._seeds, self._env_seed = num_envs, tuple(seeds), env_seed
        self.n_obs, self.limits = factory.n_obs, factory.limits
        options = {**factory.options, "cohort": "train"}
        self._tasks = [[PatientEnv(factory.env_id, **options) for _ in range(num_envs)] for _ in seeds]

    def _reset(self, k: int, p: int) -> Observations:
        number = (self._seeds[k] + 1) * SPAN + int(self._episode[k, p]) * self.num_envs + p
        self._given[k][p] = []
        obs, _ = self._tasks[k][p].reset(seed=self._env_seed, options={"patient_id": number})
        return np.asarray(obs, dtype=np.float32)

    def _cost(self, terminated: bool, info: dict[str, Any]) -> float:
        return float(info["cost"])
