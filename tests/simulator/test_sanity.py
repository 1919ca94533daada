"""Returns of simple policies against the published figures, recomputed from the papers' distributions.

The figures are rounded as printed (the last term of each margin) and have a sampling error of their own.
"""

import numpy as np
import pytest

from simulator.bounds.expected_reward import expected_return, known_patients
from simulator.bounds.optimal import myopic_doses
from simulator.engine.batch import Core
from simulator.engine.rng import BLOCK
from simulator.environment import CohortEnv
from simulator.envs import scenario_class

TREATMENT = "dosing/Treatment-v0"

A1 = {"uniform": (-5.75, 8.3), 0.0: (0.06, 4.9), 0.25: (1.40, 6.2), 0.5: (-2.21, 7.6), 1.0: (-26.2, 10.8)}
A2 = {"uniform": (0.06, 3.5), 0.0: (-2.25, 6.4), 0.25: (-1.20, None), 0.5: (0.04, 3.0), 1.0: (2.89, 8.4)}
B2_SIMENV3 = {
    "uniform": (-9.0, 10.1),
    0.0: (-0.1, 10.8),
    0.25: (4.3, 6.5),
    0.5: (5.2, 8.7),
    1.0: (-3.3, 15.1),
    -0.5: (-18.9, 8.9),
    -1.0: (-51.3, 15.3),
}
B2_DATA = {
    "uniform": (-3.7, 5.2),
    0.0: (0.0, 4.5),
    0.25: (1.7, 3.6),
    0.5: (2.1, 4.7),
    1.0: (-1.5, 7.6),
    -0.5: (-7.7, 4.2),
    -1.0: (-21.0, 7.6),
}
B2_EVALUATION = {
    "uniform": (-3.8, 5.0),
    0.0: (0.0, 2.2),
    0.25: (1.7, 3.0),
    0.5: (2.1, 4.4),
    1.0: (-1.5, 7.6),
    -0.5: (-7.7, 4.0),
    -1.0: (-21.0, 7.6),
}


def returns(
    env_id: str, policy: float | str, n: int, gamma: float, seed: int = 0, **options: object
) -> np.ndarray:
    env = CohortEnv(env_id, num_envs=n, **options)
    env.reset(seed=seed)
    # The uniform policy of the published work on [-1, 1] also where doses may reach further.
    low, high = max(env.visits.limits.low[0], -1.0), 1.0
    rng = np.random.default_rng(1)
    total, weight = np.zeros(n), 1.0
    for _ in range(env.visits.options.steps):
        dose = rng.uniform(low, high, n) if policy == "uniform" else np.full(n, policy)
        total += weight * env.step(dose[:, None])[1]
        weight *= gamma
    return total


def check(value: np.ndarray, figure: tuple[float, float | None], of: int, rounding: float) -> None:
    """Compare means within three standard errors of their difference, and the spread within a tenth."""
    mean, sd = figure
    error = value.std() * np.sqrt(1 / len(value) + 1 / of)
    assert abs(value.mean() - mean) < 3 * error + rounding
    if sd is not None:
        assert abs(value.std() - sd) < 0.1 * sd


@pytest.mark.slow
@pytest.mark.parametrize("policy", A1)
def test_table_a1(policy: float | str) -> None:
    check(returns("dosing/LiI-v0", policy, 20_000, 0.9, steps=100), A1[policy], 20_000, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("policy", A2)
def test_table_a2(policy: float | str) -> None:
    check(returns("dosing/LiII-v0", policy, 20_000, 0.9, steps=100), A2[policy], 20_000, 0.005)


@pytest.mark.slow
@pytest.mark.parametrize("policy", B2_SIMENV3)
def test_table_b2_simenv3(policy: float | str) -> None:
    check(returns(TREATMENT, policy, 4000, 1.0, variant="simenv3"), B2_SIMENV3[policy], 4000, 0.05)


@pytest.mark.slow
def test_table_b2_simenv3_myopic() -> None:
    known = known_patients(TREATMENT, 4000, 0, variant="simenv3")
    value = expected_return(known, myopic_doses(known))
    assert abs(value.mean() - 5.7) < 3 * 8.2 / np.sqrt(4000) + 0.05


def replication_like_the_table() -> int:
    """The published columns come from one random covariance; pick the seed whose rho_15 fits their +-1 rows.

    The returns under +1 and -1 add up to -20 kappa, kappa = exp((1 + rho_15)/8): -1.5 - 21.0 says 1.125.
    """
    wanted = 8 * np.log(1.125) - 1

    def rho(seed: int) -> float:
        core = Core(scenario_class(TREATMENT)("li-data"), 1, "train")
        core.start(seed, 0)
        factor = core.factors()[0].astype(np.float64)
        return float(2 * factor[0] @ factor[4])

    return min(range(300), key=lambda seed: abs(rho(seed) - wanted))


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "table"), [("li-data", B2_DATA), ("li-evaluation", B2_EVALUATION)])
def test_table_b2_environment_iii(variant: str, table: dict[float | str, tuple[float, float]]) -> None:
    seed = replication_like_the_table()
    for policy, figure in table.items():
        value = returns(TREATMENT, policy, 4000, 0.9, seed, variant=variant, steps=100)
        # the rest of the covariance is another one: its effect on the spread is not part of the comparison
        check(value, (figure[0], None), 4000, 0.05)


def test_simenv3_quickly() -> None:
    """The table B.2 on 4,000 patients for three policies: uniform, no dose, one half."""
    for policy in ("uniform", 0.0, 0.5):
        check(returns(TREATMENT, policy, 4000, 1.0, variant="simenv3"), B2_SIMENV3[policy], 4000, 0.05)


@pytest.mark.slow
def test_environment_i_stays_far_inside_its_documented_bound() -> None:
    """Its motion is quadratic and has no exact bound; 10^8 visits of extreme doses stay below a quarter."""
    scenario = scenario_class("dosing/LiI-v0")("published")
    core = Core(scenario, 400 * BLOCK, "train")
    worst = 0.0
    for seed in range(10):
        core.start(seed, 0)
        for t in range(100):
            core.step(np.full(400 * BLOCK, float(t % 2), dtype=np.float32))
            worst = max(worst, float(np.abs(core.states()).max()))
    assert worst < scenario.state_bound / 4
