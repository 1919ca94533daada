"""Environments in which the policies of a study can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dosing.data.store import read_episodes
from dosing.errors import UserError
from dosing.runs.folder import RunFolder
from simulator.envs.tasks import is_registered
from simulator.scenarios import EvaluationFactory, evaluation_factory


def factory_for(metadata: Mapping[str, Any]) -> EvaluationFactory | None:
    """The environment that a data set came from, None where it cannot be played here."""
    env_id = metadata.get("env_id")
    if not env_id or not is_registered(str(env_id)):
        return None
    options = {
        k: v for k, v in metadata.get("env_options", {}).items() if k not in ("cohort", "first_patient")
    }
    return evaluation_factory(str(env_id), options)


def evaluable(data: Path) -> EvaluationFactory:
    """The environment that recorded visits came from, before anything is trained on them.

    Raises:
        UserError: the file cannot be read, or comes from no environment that is known here.
    """
    factory = factory_for(read_episodes(data).metadata)
    if factory is None:
        raise UserError(
            f"{data} comes from no simulator here: agents trained on it meet no new patients. If it was "
            "recorded in an environment that is known here, name it with --env."
        )
    return factory


def factory_of(run: RunFolder) -> EvaluationFactory:
    """The environment of a run.

    Raises:
        UserError: its data came from no environment that is known here.
    """
    env = run.config()["env"]
    result = factory_for({"env_id": env["id"], "env_options": env["options"]}) if env else None
    if result is None:
        raise UserError(
            f"{run.path} was trained on data without a simulator, so it cannot be evaluated here."
        )
    return result
