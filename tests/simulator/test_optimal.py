import itertools
from dataclasses import replace

import numpy as np
import pytest

from dosing.errors import UserError
from simulator.bounds.expected_reward import Patients, expected_return, known_patients, value_and_gradient
from simulator.bounds.optimal import TOLERANCE, best_constant_dose, best_next_dose, clairvoyant, myopic_doses
from simulator.bounds.table import ceilings
from simulator.cohorts.generate import simulate
from simulator.environment import CohortEnv

ENV_ID = "dosing/Treatment-v0"
CASES = [
    (ENV_ID, {"variant": "corrected"}),
    (ENV_ID, {"variant": "simenv3"}),
    (ENV_ID, {"variant": "li-data", "realism": 2}),
    (ENV_ID, {"variant": "li-evaluation", "steps": 12}),
    ("dosing/LiIV-v0", {"variant": "li-data", "steps": 8}),
    ("dosing/LiIV-v0", {"variant": "li-evaluation", "steps": 12}),
]


def random_doses(patients: Patients, seed: int = 0) -> np.ndarray:
    shape = (patients.visits, patients.n)
    return np.random.default_rng(seed).uniform(patients.low, patients.high, shape)


@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_expected_return_agrees_with_the_mean_of_the_simulation(env_id: str, options: dict) -> None:
    """One dose sequence for all: the mean simulated return of 20,000 patients against the formula, paired."""
    n = 20_000
    known = known_patients(env_id, n, 1, **options)
    doses = np.repeat(random_doses(known)[:, :1], n, axis=1).astype(np.float32)
    env = CohortEnv(env_id, num_envs=n, **options)
    env.reset(seed=1)
    total = sum(env.step(dose[:, None])[1].astype(np.float64) for dose in doses)
    difference = total - expected_return(known, doses.astype(np.float64))
    assert difference.std() > 0.5
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(n)


@pytest.mark.parametrize(("env_id", "options"), CASES)
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_gradient_is_that_of_the_expected_return(env_id: str, options: dict, gamma: float) -> None:
    known = known_patients(env_id, 6, 0, **options)
    doses = random_doses(known)
    value, gradient = value_and_gradient(known, doses, gamma)
    np.testing.assert_allclose(value, expected_return(known, doses, gamma), rtol=1e-12)
    for t in (0, known.visits // 2, known.visits - 1):
        step = np.zeros_like(doses)
        step[t] = 1e-6
        up, down = (expected_return(known, doses + sign * step, gamma) for sign in (1, -1))
        np.testing.assert_allclose(gradient[t], (up - down) / 2e-6, rtol=1e-5, atol=1e-7)


def test_discounting_weights_each_visit() -> None:
    known = known_patients(ENV_ID, 3, 0)
    doses = random_doses(known)
    one = replace(known, visits=1)
    assert np.all(expected_return(known, doses, 0.5) != expected_return(known, doses))
    np.testing.assert_allclose(
        expected_return(known, doses, 1e-12), expected_return(one, doses[:1]), atol=1e-9
    )


@pytest.mark.long
def test_clairvoyant_finds_the_best_of_a_fine_grid_of_two_visits() -> None:
    known = known_patients(ENV_ID, 12, 0, steps=2, variant="simenv3")
    best = clairvoyant(known)
    grid = np.linspace(-1, 1, 201)
    top = np.full(12, -np.inf)
    for first, second in itertools.product(grid, grid):
        top = np.maximum(top, expected_return(known, np.array([[first] * 12, [second] * 12])))
    assert np.all(best.value >= top - 1e-9)
    assert np.all(best.value <= top + 2e-3)  # the grid is 0.01 wide and the return has bounded curvature


@pytest.mark.long
@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_no_policy_exceeds_the_clairvoyant_return_on_the_same_patients(env_id: str, options: dict) -> None:
    n = 8
    known = known_patients(env_id, n, 0, **options)
    best = clairvoyant(known)
    assert best.projected_gradient.max() <= TOLERANCE
    assert np.all(best.agreement >= 1 / 16)
    assert np.all((best.doses >= known.low) & (best.doses <= known.high))
    np.testing.assert_allclose(best.value, expected_return(known, best.doses), rtol=1e-12)
    rivals = [myopic_doses(known), random_doses(known), random_doses(known, 1)]
    rivals += [np.full((known.visits, n), dose) for dose in np.linspace(known.low, known.high, 9)]
    for policy in ("uniform", "titration"):
        given = simulate(env_id, patients=n, policy=policy, **options).act
        rivals.append(given.reshape(n, -1).T.astype(np.float64))
    for doses in rivals:
        assert np.all(expected_return(known, doses) <= best.value + 1e-6)


@pytest.mark.long
def test_long_run_best_constant_dose_is_the_closed_form() -> None:
    # Stationary mean reward a - kappa a^2, kappa = exp((1 + rho_15)/8): best at 1/(2 kappa).
    known = known_patients(ENV_ID, 1, 0, steps=1500)
    rho = 8 * known.spread[0] - 1
    dose, value = best_constant_dose(known)
    kappa = np.exp((1 + rho) / 8)
    assert dose == pytest.approx(1 / (2 * kappa), abs=3e-3)
    assert value[0] / 1500 == pytest.approx(1 / (4 * kappa), abs=2e-3)


def test_myopic_dose_is_the_best_of_a_fine_grid() -> None:
    known = known_patients(ENV_ID, 20, 0)
    one = replace(known, visits=1)
    chosen = expected_return(one, best_next_dose(known, known.mean)[None])
    for dose in np.linspace(-1, 1, 401):
        assert np.all(expected_return(one, np.full((1, 20), dose)) <= chosen + 1e-9)


@pytest.mark.long
def test_ceilings_come_in_order_and_share_their_patients() -> None:
    table = ceilings(ENV_ID, patients=20, variant="simenv3", cohort="evaluation")
    assert table[0].policy == "clairvoyant"
    assert [row.value for row in table] == sorted((row.value for row in table), reverse=True)
    assert table[0].shortfall == 0
    for row in table:
        assert row.shortfall == pytest.approx(table[0].value - row.value, abs=1e-9)
        assert row.standard_error > 0


@pytest.mark.parametrize("options", [{"noise": 0.1}, {"history": 1}, {"realism": 4}, {"latent": True}])
def test_ceilings_refuse_what_they_do_not_describe(options: dict) -> None:
    with pytest.raises(UserError, match="plainly observed"):
        ceilings(ENV_ID, patients=4, **options)


def test_scenarios_with_feedback_from_the_noise_have_no_such_ceiling() -> None:
    with pytest.raises(UserError, match="no deterministic latent mean"):
        known_patients("dosing/LiI-v0", 3, 0)


@pytest.mark.slow
def test_ceilings_of_simenv3_agree_with_independent_measurements() -> None:
    """Independent figures, 24 visits, undiscounted: 7.4-8.0, 6.6, 5.7, 5.6, 5.2, -3.6, in this order."""
    table = {row.policy: row for row in ceilings(ENV_ID, patients=2000, variant="simenv3", trained=True)}
    expected = {
        "clairvoyant": (7.4, 8.0),
        "recurrent": (6.6, 6.6),
        "myopic, true mean": (5.7, 5.7),
        "memoryless": (5.6, 5.6),
        "best constant dose": (5.2, 5.2),
        "myopic, observed state": (-3.6, -3.6),
    }
    for name, (low, high) in expected.items():
        margin = 3 * table[name].standard_error + 0.1  # theirs is rounded to 0.1 and has an error of its own
        assert low - margin < table[name].value < high + margin, name
    values = [table[name].value for name in expected]
    assert values == sorted(values, reverse=True)
