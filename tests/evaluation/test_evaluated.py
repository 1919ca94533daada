"""The evaluated patients, brought back, are those whom the evaluation met."""

import numpy as np

from dosing.evaluation.rollout import REFERENCE_SEED, rollout
from dosing.evaluation.rules import constant
from simulator.cohorts.evaluated import evaluated
from simulator.environment import CohortEnv
from simulator.scenarios import CohortFactory


def test_the_patients_are_those_of_the_evaluation() -> None:
    options = {"variant": "corrected", "steps": 2, "variation": 0.5}
    factory = CohortFactory("dosing/Treatment-v0", options)
    met: list[np.ndarray] = []

    def act(obs: np.ndarray, visit: int) -> np.ndarray:
        met.append(obs)
        return constant(0.3)(obs, visit)

    rollout(factory, act, (1, 4), 7)
    result = evaluated("dosing/Treatment-v0", (1, 4), 7, REFERENCE_SEED, **options)
    np.testing.assert_array_equal(result.seen, met[0])
    assert result.number.tolist() == [list(range(7, 14)), list(range(28, 35))]
    alone = CohortEnv("dosing/Treatment-v0", 1, cohort="evaluation", first_patient=30, **options)
    alone.reset(seed=REFERENCE_SEED)
    means = [result.traits[f"latent mean of s{k}"][1, 2] for k in range(1, 9)]
    np.testing.assert_array_equal(means, alone.visits.core.means()[0])
    assert result.traits["sensitivity to the dose"][1, 2] == alone.visits.core.sensitivities()[0] != 1.0
