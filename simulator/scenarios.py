"""Where policies are evaluated: our scenarios, MuJoCo's tasks, and any environment that a user registers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from dosing.errors import UserError
from dosing.safety import DoseLimits
from simulator.card import scenario_card
from simulator.cohorts.clinic_rules import ClinicRule, clinic_rules
from simulator.engine.scenario import OwnDraws
from simulator.environment import EnvOptions, observed_range
from simulator.envs import PACKAGED, SCENARIOS, mazes
from simulator.envs.mujoco import Reference, task_ids
from simulator.envs.registered import is_registered, load_trusted_files
from simulator.envs.tasks import TaskFactory


@dataclass(frozen=True)
class CohortFactory:
    """Vector environments of evaluation patients of one of our scenarios.

    Attributes:
        env_id: such as ``dosing/Treatment-v0``.
        options: of the environment, see ``simulator.environment.EnvOptions``.
        limits: hard dose limits.
        horizon: visits of one episode.
        n_obs: width of an observation.
        obs_range: lowest and highest possible observation.
        reference: scores are not normalised here.
        patients: per seed unless another number is asked for.
        searched: most patients on whom the best constant dose is looked for.
        terminates: whether an episode can end before its last visit.
    """

    env_id: str
    options: dict[str, Any]
    limits: DoseLimits = field(init=False)
    horizon: int = field(init=False)
    n_obs: int = field(init=False)
    obs_range: tuple[tuple[float, ...], tuple[float, ...]] = field(init=False)
    reference: Reference | None = None
    patients: int = 1000
    searched: int = field(init=False)
    terminates: bool = field(init=False)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: unknown environment or option.
        """
        checked = EnvOptions.of(self.env_id, self.options)
        object.__setattr__(self, "limits", checked.scenario.limits)
        object.__setattr__(self, "horizon", checked.steps)
        object.__setattr__(self, "searched", checked.scenario.searched)
        object.__setattr__(self, "terminates", checked.scenario.terminates)
        low, high = observed_range(checked.patients(1))
        object.__setattr__(self, "n_obs", len(low))
        object.__setattr__(self, "obs_range", (tuple(low.tolist()), tuple(high.tolist())))

    @property
    def clinic_rules(self) -> dict[str, ClinicRule]:
        """How clinics dose these patients, by name."""
        scenario = EnvOptions.of(self.env_id, self.options).scenario
        return clinic_rules(scenario)

    def __call__(self, patients: int, first_patient: int) -> VectorEnv[Any, Any, Any]:
        """Environment of evaluation patients ``first_patient`` and on."""
        return self.cohort(patients, cohort="evaluation", first_patient=first_patient)

    def repeated(self, patients: int, copies: int) -> VectorEnv[Any, Any, Any] | None:
        """Environment of the first evaluation patients, each held ``copies`` times: all, then all again.

        None where the scenario cannot hold a patient more than once.
        """
        if not isinstance(EnvOptions.of(self.env_id, self.options).patients(1), OwnDraws):
            return None
        return self.cohort(patients * copies, cohort="evaluation", copies=copies)

    def cohort(self, patients: int, **options: Any) -> VectorEnv[Any, Any, Any]:
        """Environment of ``patients`` patients, with further options of the environment."""
        return gymnasium.make_vec(
            self.env_id,
            num_envs=patients,
            vectorization_mode="vector_entry_point",
            **options,
            **self.options,
        )


EvaluationFactory = CohortFactory | TaskFactory
"""Builds environments of evaluation patients; see ``dosing.evaluation.rollout.EnvFactory``."""


def known_ids() -> tuple[str, ...]:
    """Ids that can be evaluated in: our scenarios, MuJoCo's tasks, and what others registered."""
    load_trusted_files()
    others = [
        env_id
        for env_id, spec in gymnasium.registry.items()
        if not str(spec.entry_point).startswith(("gymnasium.", "simulator.")) and spec.entry_point
        if "/" in env_id
    ]
    return tuple(dict.fromkeys([*SCENARIOS, *task_ids(), *others, *PACKAGED]))


def card_of(env_id: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The card of an environment; empty where it states none.

    Raises:
        UserError: as :func:`evaluation_factory`.
    """
    factory = evaluation_factory(env_id, options)
    return dict(factory.card or {}) if isinstance(factory, TaskFactory) else scenario_card(env_id, **options)


def evaluation_factory(env_id: str, options: Mapping[str, Any]) -> EvaluationFactory:
    """The factory of evaluation patients of an environment.

    Raises:
        UserError: no such environment or option, or spaces that a dosing policy cannot work with.
    """
    if not is_registered(env_id):
        if sentence := mazes.missing(env_id):
            raise UserError(sentence)
        raise UserError(f"there is no environment {env_id!r}; there are: {', '.join(known_ids())}.")
    if env_id in SCENARIOS:
        return CohortFactory(env_id, dict(options))
    return TaskFactory(env_id, dict(options))
