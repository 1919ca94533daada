"""Patients of a trial whose episodes end at different visits: who they are, what they cost, coming back."""

import numpy as np

from dosing.finetuning.patients import SPAN
from dosing.studies.single_patients import SinglePatients
from simulator.environment import PatientEnv
from simulator.scenarios import CohortFactory

ENV = "dosing/Warfarin-v0"
FACTORY = CohortFactory(ENV, {"steps": 25})


def test_every_place_treats_one_patient_after_the_other() -> None:
    """Against single environments, with the doses that pass the step limit; some episodes end early."""
    treated = SinglePatients(FACTORY, (0, 3), 3, env_seed=7)
    obs = treated.begin()
    ends = set()
    for k, seed in enumerate((0, 3)):
        for p in range(3):
            alone = PatientEnv(ENV, steps=25)
            first, _ = alone.reset(seed=7, options={"patient_id": (seed + 1) * SPAN + p})
            np.testing.assert_array_equal(obs[k, p], first)
    twin = {}
    for k, seed in enumerate((0, 3)):
        for p in range(3):
            twin[k, p] = (PatientEnv(ENV, steps=25), 0, 0)
            twin[k, p][0].reset(seed=7, options={"patient_id": (seed + 1) * SPAN + p})
    for _ in range(60):
        result = treated.treat(np.full((2, 3, 1), 15.0, dtype=np.float32))
        for (k, p), (env, episode, length) in twin.items():
            seen, reward, terminated, truncated, info = env.step(np.array([15.0], dtype=np.float32))
            np.testing.assert_array_equal(result.next_obs[k, p], seen)
            assert result.dose is not None
            assert result.dose[k, p] == info["dose_delivered"]
            assert (result.reward[k, p], result.cost[k, p]) == (reward, info["cost"])
            assert (result.terminated[k, p], result.truncated[k, p]) == (terminated, truncated)
            length += 1
            if terminated or truncated:
                ends.add(length)
                episode, length = episode + 1, 0
                seed = (0, 3)[k]
                seen, _ = env.reset(seed=7, options={"patient_id": (seed + 1) * SPAN + 3 * episode + p})
            np.testing.assert_array_equal(result.following[k, p], seen)
            twin[k, p] = (env, episode, length)
    assert len(ends) > 1
    assert max(ends) == 25


def test_an_interrupted_trial_goes_on_with_the_same_patients() -> None:
    treated, other = (SinglePatients(FACTORY, (1,), 2, env_seed=0) for _ in range(2))
    treated.begin()
    doses = np.random.default_rng(0).uniform(0, 15, (40, 1, 2, 1)).astype(np.float32)
    for dose in doses[:33]:
        following = treated.treat(dose).following
    np.testing.assert_array_equal(other.load(treated.state()), following)
    for dose in doses[33:]:
        mine, theirs = treated.treat(dose), other.treat(dose)
        np.testing.assert_array_equal(mine.next_obs, theirs.next_obs)
        np.testing.assert_array_equal(mine.reward, theirs.reward)
