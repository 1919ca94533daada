"""Environments in which the policies of a study can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from dosing.data.store import read_episodes
from dosing.errors import UserError
from dosing.runs.folder import RunFolder
from dosing.safety import DoseLimits
from simulator.environment import EnvOptions
from simulator.envs.mujoco import TaskFactory, task_ids


@dataclass(frozen=True)
class Factory:
    """Vector environments of evaluation patients of one scenario."""

    env_id: str
    options: dict[str, Any]
    limits: DoseLimits
    horizon: int
    patients: int = 1000
    searched: bool = True

    @classmethod
    def of(cls, env_id: str, options: dict[str, Any]) -> Factory:
        """Check the scenario's options.

        Raises:
            UserError: unknown environment or option.
        """
        if env_id not in gymnasium.registry:
            known = ", ".join(i for i in gymnasium.registry if i.startswith("dosing/"))
            raise UserError(f"there is no environment {env_id!r}; there are: {known}.")
        checked = EnvOptions.of(env_id, options)
        return cls(env_id, options, checked.scenario.limits, checked.steps)

    def __call__(self, patients: int, first_patient: int) -> VectorEnv[Any, Any, Any]:
        """Environment of evaluation patients ``first_patient`` and on."""
        return gymnasium.make_vec(
            self.env_id,
            num_envs=patients,
            vectorization_mode="vector_entry_point",
            cohort="evaluation",
            first_patient=first_patient,
            **self.options,
        )


def factory_for(metadata: Mapping[str, Any]) -> Factory | TaskFactory | None:
    """The scenario or task that a data set came from, None where it cannot be played here."""
    env_id = metadata.get("env_id")
    options = {
        k: v for k, v in metadata.get("env_options", {}).items() if k not in ("cohort", "first_patient")
    }
    if env_id in task_ids():
        return TaskFactory(str(env_id), options)
    if not env_id or env_id not in gymnasium.registry or not str(env_id).startswith("dosing/"):
        return None
    return Factory.of(env_id, options)


def evaluable(data: Path) -> Factory | TaskFactory:
    """The scenario that recorded visits came from, before anything is trained on them.

    Raises:
        UserError: the file cannot be read, or comes from no simulator of ours.
    """
    factory = factory_for(read_episodes(data).metadata)
    if factory is None:
        raise UserError(
            f"{data} comes from no simulator here: agents trained on it meet no new patients. If it was "
            "recorded in an environment that is known here, name it with --env."
        )
    return factory


def factory_of(run: RunFolder) -> Factory | TaskFactory:
    """The scenario of a run.

    Raises:
        UserError: its data came from no simulator of ours.
    """
    env = run.config().env
    result = factory_for({"env_id": env.id, "env_options": env.options}) if env else None
    if result is None:
        raise UserError(
            f"{run.path} was trained on data without a simulator, so it cannot be evaluated here."
        )
    return result
