"""Environments in which the policies of a study can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dosing.data.metadata import DatasetMetadata
from dosing.data.store import read_metadata
from dosing.errors import UserError
from dosing.runs.files import read_json, write_atomic
from dosing.runs.folder import CARD, SCENARIO, RunFolder
from dosing.safety import DoseLimits
from simulator.envs import SCENARIOS, scenario_class
from simulator.envs.registered import TRUSTED, file_of, is_registered
from simulator.scenarios import EvaluationFactory, card_of, evaluation_factory


def variant_options(env_id: str, variant: str | None) -> dict[str, str]:
    """Options that choose a variant: the one that was asked for, else the first of a scenario of ours."""
    if variant is None and env_id in SCENARIOS:
        variant = scenario_class(env_id).variants[0]
    return {} if variant is None else {"variant": variant}


def environment_of(env_id: str | None, options: Mapping[str, Any]) -> EvaluationFactory | None:
    """The environment that visits came from, None where it cannot be played here."""
    if not env_id or not is_registered(env_id):
        return None
    own = {name: value for name, value in options.items() if name not in ("cohort", "first_patient")}
    return evaluation_factory(env_id, own)


def factory_for(metadata: DatasetMetadata) -> EvaluationFactory | None:
    """The environment that a data set came from, None where it cannot be played here.

    Raises:
        UserError: the visits were simulated by another version of the scenario, or their dose limits are not
            the scenario's.
    """
    factory = environment_of(metadata.env_id, metadata.env_options)
    if factory is not None and metadata.card:
        _check_scenario("the recorded visits", factory, metadata.scenario_version, metadata.limits)
    return factory


def _check_scenario(
    what: str, factory: EvaluationFactory, version: str | None, limits: DoseLimits | None
) -> None:
    """Refuse what another version of a scenario made, or this version between other limits."""
    here = version_of(factory.env_id, factory.options)
    if version != here:
        if file := file_of(factory.env_id):
            raise UserError(
                f"the scenario file {file.path} has changed: {what} are of version {version}, it is version "
                f"{here}. Simulate and train again, or name the copy that a run keeps: --scenario "
                f"RUN/{SCENARIO}."
            )
        raise UserError(
            f"{what} are of version {version} of {factory.env_id}, here is version {here}: simulate and "
            "train again."
        )
    if limits is not None and (limits.low, limits.high) != (factory.limits.low, factory.limits.high):
        raise UserError(
            f"{what} state dose limits of {list(limits.low)} to {list(limits.high)}, {factory.env_id} has "
            f"{list(factory.limits.low)} to {list(factory.limits.high)}; they are not used."
        )


def version_of(env_id: str, options: Mapping[str, Any]) -> str | None:
    """Version of an environment as its card states it; None where it states none.

    Raises:
        UserError: no such environment or option.
    """
    version = card_of(env_id, options).get("version")
    return None if version is None else str(version)


def evaluable(data: Path) -> EvaluationFactory:
    """The environment that recorded visits came from, before anything is trained on them.

    Raises:
        UserError: the file cannot be read, or comes from no environment that is known here.
    """
    metadata = read_metadata(data)
    factory = factory_for(metadata)
    if factory is None:
        raise UserError(
            f"{data} comes from no simulator here: agents trained on it meet no new patients. If it was "
            f"recorded in an environment that is known here, name it with --scenario."
            f"{_hint(metadata.env_id, metadata.card)}"
        )
    return factory


def factory_of(run: RunFolder) -> EvaluationFactory:
    """The environment of a run.

    Raises:
        UserError: its data came from no environment that is known here, or from another version of it.
    """
    config = run.config()
    env, version = config.env, config.versions.get("scenario")
    result = environment_of(env.id, env.options) if env else None
    if result is not None and version is not None:
        _check_scenario(f"the visits of {run.path}", result, version, None)
    if result is None:
        card = read_json(run.path / CARD) if (run.path / CARD).is_file() else {}
        hint = _hint(env.id if env else None, card, run.path)
        why = "without a simulator" if not hint else "of a simulator that is not loaded"
        raise UserError(f"{run.path} was trained on data {why}, so it cannot be evaluated here.{hint}")
    return result


def unloaded(metadata: DatasetMetadata) -> str | None:
    """What loads the file or module that visits come from; None where it is loaded or they name none."""
    if is_registered(metadata.env_id or ""):
        return None
    return _hint(metadata.env_id, metadata.card).strip() or None


def _hint(env_id: str | None, card: Mapping[str, Any], run: Path | None = None) -> str:
    """What lets an environment be looked up whose module or file something names."""
    if module := (env_id or "").rpartition(":")[0]:
        return f" It names the module {module}: if you trust it, set {TRUSTED}={module}."
    if not isinstance(file := card.get("file"), Mapping):
        return ""
    copy = f" (or {run / SCENARIO}, its copy)" if run and (run / SCENARIO).is_file() else ""
    return (
        f" {card.get('id')} is the scenario of the file {file.get('path')}, run only if you name it: "
        f"if you trust it, add --scenario {file.get('path')}{copy}."
    )


def keep_scenario(run: RunFolder, env_id: str) -> None:
    """Keep a copy of a scenario's file in the folder of a run that came of it.

    Raises:
        UserError: the folder cannot be written.
    """
    if file := file_of(env_id):
        write_atomic(run.path / SCENARIO, file.content)
