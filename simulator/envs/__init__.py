"""Scenarios by id: each a class named by an entry-point string, which is loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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


def scenario_class(env_id: str) -> type[Scenario]:
    """The class of a scenario of ours.

    Raises:
        UserError: there is no scenario of that id.
    """
    from dosing.errors import UserError  # importing the simulator imports nothing else

    if env_id not in SCENARIOS:
        raise UserError(f"unknown environment {env_id!r}, known are {', '.join(SCENARIOS)}")
    module, name = SCENARIOS[env_id].split(":")
    scenario: type[Scenario] = getattr(importlib.import_module(module), name)
    return scenario
