"""Who the evaluated patients are: what an evaluation kept the returns of, and never showed to an agent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dosing.types import Float32Array
from simulator.environment import CohortEnv


@dataclass(frozen=True)
class Evaluated:
    """P evaluation patients for each of S training seeds, at their first visit.

    Attributes:
        number: number of each patient in the evaluation cohort ``[S, P]``.
        seen: first observation ``[S, P, O]``.
        traits: how they differ ``[S, P]`` each, by name; much of it no agent sees.
    """

    number: Any
    seen: Float32Array
    traits: dict[str, Any]


def evaluated(env_id: str, seeds: Sequence[int], patients: int, env_seed: int, **options: Any) -> Evaluated:
    """Bring back the patients on whom ``dosing.evaluation.rollout.rollout`` followed a rule.

    Args:
        env_id: a registered id.
        seeds: the S training seeds; seed s met patients s * P to s * P + P - 1.
        patients: P.
        env_seed: seed of the evaluation cohort.
        **options: of the environment.

    Raises:
        UserError: unknown id or option.
    """
    numbers, seen, traits = [], [], []
    for seed in seeds:
        env = CohortEnv(env_id, patients, cohort="evaluation", first_patient=seed * patients, **options)
        first, info = env.reset(seed=env_seed)
        numbers.append(info["patient"])
        seen.append(first)
        traits.append(env.visits.treated.traits())
    joined = {name: np.stack([part[name] for part in traits]) for name in traits[0]}
    return Evaluated(np.stack(numbers), np.stack(seen), joined)
