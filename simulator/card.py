"""The scenario card: what a scenario is, in a form that machines and people read alike."""

from typing import Any

from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from simulator.engine.observation import Observation
from simulator.engine.scenario import Scenario
from simulator.environment import EXTREME, EnvOptions


def scenario_card(env_id: str, **options: Any) -> dict[str, Any]:
    """Return the JSON-able card of ``env_id`` under ``options`` (as of ``gymnasium.make``).

    Raises:
        UserError: If the id or an option is unknown, or if the scenario leaves out a unit.
    """
    chosen = EnvOptions.of(env_id, options)
    scenario = chosen.scenario
    seen = Observation(chosen.observation, scenario, 1)
    limits = scenario.limits
    observations = [
        {"name": name, "unit": unit, "low": float(low), "high": float(high)}
        for name, unit, low, high in zip(
            seen.names, ["1"] * len(seen.names), seen.low, seen.high, strict=True
        )
    ]
    if not limits.unit or not all(entry["unit"] for entry in observations):
        raise UserError(f"the scenario {env_id} does not state all its units")
    return {
        "id": env_id,
        "title": scenario.title,
        "version": scenario.version,
        "variant": scenario.variant,
        "variants": list(scenario.variants),
        "notice": NOT_FOR_PATIENTS,
        "sources": list(scenario.sources),
        "visits": chosen.steps,
        "decision_interval": "one visit (no unit of time)",
        "terminates": False,
        "observations": observations,
        "dose": {
            "name": "dose",
            "unit": limits.unit,
            "hard_low": list(limits.low),
            "hard_high": list(limits.high),
            "safe_default": "no dose (0)",
        },
        "motion": scenario.motion_text,
        "start": scenario.start_text,
        "noise": scenario.noise_text,
        "reward": scenario.reward_text,
        "cost": "number of events of the visit; never part of the reward",
        "events": {"extreme_dose": f"|delivered dose| > {EXTREME:g} of the largest allowed |dose|"},
        "behaviour_policies": _behaviour_policies(scenario),
        "options": {
            "cohort": chosen.cohort,
            "history": chosen.observation.history,
            "latent": chosen.observation.latent,
            "noise": chosen.observation.noise,
            "missing": chosen.observation.missing,
            "missing_visits": chosen.observation.missing_visits,
            "variation": chosen.observation.variation,
            "confounding": chosen.observation.confounding,
        },
        "limits_of_the_model": "Synthetic: no drug, no disease and no unit of dose or time is meant.",
    }


def _behaviour_policies(scenario: Scenario) -> dict[str, str]:
    weights = zip(scenario.marker.weights, scenario.state_names, strict=True)
    marker = " + ".join(f"{weight:g} {name}" for weight, name in weights)
    return {
        "uniform": "uniform over the hard limits",
        "constant:DOSE": "one dose for everyone",
        "titration:SPREAD": f"towards marker = {scenario.marker.target:g}, marker = {marker}",
    }
