"""The scenario card: what a scenario is, in a form that machines and people read alike."""

from dataclasses import asdict
from typing import Any

from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from simulator.engine.scenario import Scenario
from simulator.environment import EnvOptions
from simulator.envs.registered import stamped


def scenario_card(env_id: str, **options: Any) -> dict[str, Any]:
    """Return the JSON-able card of ``env_id`` under ``options`` (as of ``gymnasium.make``).

    ``target`` and ``budget``, and in ``dose`` the step limit, are there where the scenario has them.

    Raises:
        UserError: If the id or an option is unknown, or if the scenario leaves out a unit.
    """
    chosen = EnvOptions.of(env_id, options)
    scenario = chosen.scenario
    observations = [asdict(entry) for entry in chosen.patients(1).entries]
    if not scenario.limits.unit or not all(entry["unit"] for entry in observations):
        raise UserError(f"the scenario {env_id} does not state all its units")
    said = {
        "id": env_id,
        "title": scenario.title,
        "version": scenario.version,
        "variant": scenario.variant,
        "variants": list(scenario.variants),
        "notice": NOT_FOR_PATIENTS,
        "sources": list(scenario.sources),
        "visits": chosen.steps,
        "decision_interval": scenario.decision_interval,
        "terminates": scenario.terminates,
        "observations": observations,
        "dose": _dose(scenario),
        "motion": scenario.motion_text,
        "start": scenario.start_text,
        "noise": scenario.noise_text,
        "reward": scenario.reward_text,
        "cost": scenario.cost_text,
        "events": dict(scenario.events),
        **({} if scenario.target is None else {"target": asdict(scenario.target)}),
        **({} if scenario.budget is None else {"budget": scenario.budget}),
        "behaviour_policies": scenario.policy_texts(),
        "options": {"cohort": chosen.cohort, **chosen.own.described()},
        "limits_of_the_model": scenario.model_limits_text,
    }
    return stamped(env_id, said)


def _dose(scenario: Scenario) -> dict[str, Any]:
    limits, step, baseline = scenario.limits, scenario.step_limit, scenario.baseline_limit
    return {
        "name": scenario.dose_name,
        "unit": limits.unit,
        "hard_low": list(limits.low),
        "hard_high": list(limits.high),
        **({} if step is None else {"step_limit": step.card()}),
        **({} if baseline is None else {"baseline_limit": asdict(baseline)}),
        "safe_default": scenario.safe_default,
    }
