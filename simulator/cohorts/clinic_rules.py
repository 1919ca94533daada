"""The rules by which clinics dose a scenario, followed on evaluation patients beside trained policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dosing.errors import UserError
from dosing.types import Array, Observations
from simulator.behaviour_policies import Act, BehaviourPolicy, parse_policy
from simulator.engine.scenario import Scenario
from simulator.environment import CohortEnv


class ClinicRule:
    """A behaviour policy as a dosing rule (``dosing.types.Act``), which knows what the clinic knows.

    It has to be deterministic: its dice all fall on one half.

    Args:
        policy: such as a nomogram without noise.
    """

    def __init__(self, policy: BehaviourPolicy) -> None:
        self._policy = policy
        self._treated: list[tuple[CohortEnv, Act]] = []

    def attend(self, envs: Sequence[Any]) -> None:
        """Begin with the patients of these environments; see ``dosing.types.Attending``.

        Raises:
            UserError: they are no cohorts of one of our scenarios.
        """
        self._treated = []
        for env in envs:
            cohort = env.unwrapped
            if not isinstance(cohort, CohortEnv):
                raise UserError(f"{self._policy.name} is a rule for cohorts of our own scenarios.")
            begun = self._policy.begin(cohort.visits.treated.clinic(), cohort.num_envs)
            self._treated.append((cohort, begun))

    def __call__(self, obs: Observations, visit: int) -> Array:
        """Doses ``[S, P, A]`` at ``obs [S, P, O]``."""
        rows = obs.reshape(-1, obs.shape[-1])
        doses, at = [], 0
        for cohort, act in self._treated:
            n, treated = cohort.num_envs, cohort.visits.treated
            dice = np.full((n, treated.scenario.limits.n_act + 1), 0.5)
            doses.append(act(treated.view(rows[at : at + n], None, dice))[0])
            at += n
        return np.concatenate(doses).reshape(*obs.shape[:2], -1)


def clinic_rules(scenario: Scenario) -> dict[str, ClinicRule]:
    """How clinics dose the patients of a scenario, by name."""
    return {name: ClinicRule(parse_policy(name, scenario.policies)) for name in scenario.clinic_rules}
