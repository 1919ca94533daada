"""Golden numbers: whoever moves one must raise the scenario's version and say so in CHANGELOG.md."""

import numpy as np
import pytest

from simulator.cohorts.generate import simulate
from simulator.envs import SCENARIOS, scenario_class

# (version, mean observation, mean dose, mean reward) of 300 patients, 6 visits, titration, seed 0; of a
# scenario round a latent mean realism 5
GOLDEN = {
    ("dosing/Treatment-v0", "corrected"): ("1.0", 0.399687, 0.538204, 0.116493),
    ("dosing/Treatment-v0", "simenv3"): ("1.0", 0.399647, 0.555500, 0.128755),
    ("dosing/Treatment-v0", "li-data"): ("1.0", 0.396044, 0.537327, 0.102837),
    ("dosing/Treatment-v0", "li-evaluation"): ("1.0", 0.398618, 0.820337, -0.670276),
    ("dosing/LiI-v0", "published"): ("1.0", 0.413620, 0.321989, -0.084576),
    ("dosing/LiII-v0", "published"): ("1.0", 0.407712, 0.786979, 0.070633),
    ("dosing/LiIV-v0", "li-data"): ("1.0", 0.396044, 0.537327, 0.316638),
    ("dosing/LiIV-v0", "li-evaluation"): ("1.0", 0.398618, 0.768960, 0.287162),
    ("dosing/Warfarin-v0", "hamberg2010"): ("1.0", 9.978459, 4.843052, -2.515008),
    ("dosing/Insulin-v0", "adults"): ("1.0", 19.667779, 1.466375, 0.645606),
    ("dosing/Insulin-v0", "published"): ("1.0", 19.588593, 1.459389, 0.659616),
}


def test_every_variant_has_golden_numbers() -> None:
    assert set(GOLDEN) == {(env_id, v) for env_id in SCENARIOS for v in scenario_class(env_id).variants}


@pytest.mark.parametrize(("env_id", "variant"), GOLDEN)
def test_golden_numbers_belong_to_the_version(env_id: str, variant: str) -> None:
    version, *expected = GOLDEN[env_id, variant]
    options = {"realism": 5} if "realism" in scenario_class(env_id).option_names else {}
    data = simulate(env_id, patients=300, steps=6, variant=variant, policy="titration", **options)
    result = [array.astype(np.float64).mean() for array in (data.obs, data.act, data.reward)]
    assert data.metadata.scenario_version == version
    np.testing.assert_allclose(result, expected, atol=1e-5)
