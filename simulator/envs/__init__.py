"""Scenarios by id: each a class named by an entry-point string, which is loaded when it is asked for."""

from __future__ import annotations

import importlib
from collections import ChainMap
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.engine.scenario import Scenario

SCENARIOS = {
    "dosing/Treatment-v0": "simulator.envs.treatment:Treatment",
    "dosing/LiI-v0": "simulator.envs.li:LiI",
    "dosing/LiII-v0": "simulator.envs.li:LiII",
    "dosing/LiIV-v0": "simulator.envs.treatment:LiIV",
    "dosing/Warfarin-v0": "simulator.envs.warfarin:Warfarin",
    "dosing/Insulin-v0": "simulator.envs.insulin:Insulin",
}
"""Environment id to ``module:Class`` of its scenario."""

PACKAGED: dict[str, EntryPoint] = {}
"""Environments of installed packages, by id: the module registers the id with gymnasium, or holds a scenario,
which is then one of :data:`SCENARIOS` too."""


def add_scenario(env_id: str, target: str) -> None:
    """Let gymnasium make the patients of a scenario.

    Args:
        env_id: its id.
        target: ``module:Class`` of the scenario; it is imported when it is asked for.
    """
    from gymnasium.envs.registration import register

    SCENARIOS[env_id] = target
    register(
        id=env_id,
        entry_point="simulator.environment:patient_env",
        vector_entry_point="simulator.environment:CohortEnv",
        kwargs={"env_id": env_id},
    )


def add_packaged() -> None:
    """Take the scenarios of installed packages in, from the entry points ``dosing.scenarios``; see there."""
    import gymnasium

    from dosing.entry_points import SCENARIOS as GROUP
    from dosing.entry_points import leave_out, usable

    taken: ChainMap[str, Any] = ChainMap(SCENARIOS, PACKAGED, gymnasium.registry)
    for entry in usable(GROUP, taken):
        try:
            if entry.attr:
                add_scenario(entry.name, entry.value)
        except gymnasium.error.Error as error:
            SCENARIOS.pop(entry.name, None)
            leave_out(entry, str(error))
            continue
        PACKAGED[entry.name] = entry


def scenario_class(env_id: str) -> type[Scenario]:
    """The class of a scenario of ours, of a file or of an installed package.

    Raises:
        UserError: there is no scenario of that id, or the package that brings it cannot be loaded.
    """
    from dosing.errors import UserError  # importing the simulator imports nothing else

    if env_id not in SCENARIOS:
        raise UserError(f"unknown environment {env_id!r}, known are {', '.join(SCENARIOS)}")
    module, name = SCENARIOS[env_id].split(":")
    try:
        scenario: type[Scenario] = getattr(importlib.import_module(module), name)
    except Exception as error:
        if env_id not in PACKAGED:
            raise
        from dosing.entry_points import told

        raise UserError(
            f"{told(PACKAGED[env_id])} cannot be loaded: {type(error).__name__}: {error}."
        ) from error
    return scenario
