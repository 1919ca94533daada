"""The estimated constant dose: within the recorded doses, and only where rewards tell one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import agents
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.prior import Centred, constant_dose, dose_effect, greedy
from dosing.training.sampler import Sampler
from dosing.types import Problem
from tests.ope.ope_problems import episodes
from tests.support.samples import small


def recorded(seed: int, patients: int, low: float, high: float, noise: float, slope: float) -> Any:
    """Doses between two numbers, and rewards with an effect of each patient's own."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 9, patients))
    act = rng.uniform(low, high, len(patient))
    own = rng.normal(size=patients)[patient]
    reward = slope * act + noise * (own + rng.normal(size=len(patient)))
    return act, reward, patient


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    patients=st.integers(3, 30),
    low=st.floats(-1.0, 0.8),
    width=st.floats(0.05, 0.2),
    noise=st.sampled_from((0.0, 1e-6, 1.0, 1e6)),
    slope=st.sampled_from((0.0, -1.0, 1.0, 100.0)),
)
def test_the_dose_never_leaves_the_recorded_ones(
    seed: int, patients: int, low: float, width: float, noise: float, slope: float
) -> None:
    act, reward, patient = recorded(seed, patients, low, low + width, noise, slope)
    result = constant_dose(act, reward, patient)
    assert act.min() <= result.dose <= act.max()
    assert (result.low, result.high) == (act.min(), act.max())
    if not result.identified:
        assert result.dose in act  # the median one, that somebody was given
        assert (act < result.dose).mean() <= 0.5
        assert (act > result.dose).mean() <= 0.5
    if np.ptp(reward) == 0.0:
        assert not result.identified


def test_rewards_without_a_dose_in_them_are_taken_for_some_in_one_of_twenty_data_sets() -> None:
    """Patients that differ, with several visits each: a test that took visits as independent says 1 of 4."""
    rng = np.random.default_rng(0)
    false = []
    for _ in range(600):
        patient = np.repeat(np.arange(20), 8)
        act = np.clip(0.5 * rng.normal(size=20)[patient] + 0.2 * rng.normal(size=160), -1, 1)
        reward = rng.normal(size=20)[patient] + 0.3 * rng.normal(size=160)
        false.append(dose_effect(act, reward, patient) < 0.05)
    assert 0.02 < np.mean(false) < 0.08


def test_the_estimate_does_not_depend_on_units_or_numbering() -> None:
    act, reward, patient = recorded(3, 20, -0.6, 0.4, 0.3, 1.0)
    p = dose_effect(act, reward, patient)
    assert dose_effect(2.0 + 7.0 * act, 3.0 - 5.0 * reward, patient) == pytest.approx(p, rel=1e-6)
    assert dose_effect(act, reward, 100 - 3 * patient) == pytest.approx(p, rel=1e-9)
    assert p < 0.01


def test_one_patient_alone_tells_nothing() -> None:
    """Two patients, or all of the parabola within one: whoever is left out takes the answer along."""
    rng = np.random.default_rng(0)
    act = rng.uniform(-1, 1, 40)
    reward = -((act - 0.2) ** 2)
    assert dose_effect(act, reward, np.arange(40) // 20) == 1.0
    patient = np.arange(40) // 4
    some = np.where(patient == 3, act, np.where(act > 0, 0.5, -0.5))
    assert dose_effect(some, -((some - 0.2) ** 2), patient) == 1.0


def test_several_data_sets_are_judged_one_by_one() -> None:
    act, reward, patient = recorded(0, 20, -1.0, 1.0, 0.1, 1.0)
    both = constant_dose(np.stack([act, act]), np.stack([reward, 0 * reward]), np.stack([patient] * 2))
    assert both.identified.tolist() == [True, False]
    assert both.dose[0] == act.max()
    assert both.dose[1] == np.sort(act)[(len(act) - 1) // 2]


def test_doses_that_make_no_parabola_are_refused() -> None:
    for act in ([0.2] * 9, [0.1, 0.2, 0.2] * 3):
        with pytest.raises(UserError, match="at least three different recorded doses"):
            constant_dose(np.array(act), np.arange(9.0), np.arange(9))


@given(c=st.tuples(st.floats(-5, 5), st.floats(-5, 5)), ends=st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_greedy_is_the_best_dose_of_a_fine_grid(c: tuple[float, float], ends: tuple[float, float]) -> None:
    low, high = sorted(ends)
    best = float(greedy(np.float64(c[0]), np.float64(c[1]), low, high))
    assert low <= best <= high
    grid = np.linspace(low, high, 301)
    value = c[0] * grid + c[1] * grid**2
    assert c[0] * best + c[1] * best**2 >= value.max() - 1e-9


@pytest.mark.parametrize("reward", [None, -1.0])
def test_a_policy_starts_within_the_recorded_doses(reward: float | None) -> None:
    """Doses of 2 to 3 in limits of 0 to 10, with rewards that rise to the end or say nothing."""
    rng = np.random.default_rng(0)
    obs, act = rng.normal(size=(12, 6, 2)), rng.uniform(2.0, 3.0, size=(12, 6, 1))
    told = act[..., 0] if reward is None else np.full((12, 6), reward)
    data = Dataset.from_episodes(episodes(obs, act, told, obs, limits=(0.0, 10.0)))
    problem = Problem(2, 1, 6)
    agent = agents.build("fttpo", small("fttpo"), problem, (0, 1), regularisation={"prior": "constant_dose"})
    Sampler(data, agent, 8)
    centred = [module for module in agent.modules() if isinstance(module, Centred)]
    assert centred
    recorded_doses = data.act.double().numpy()
    wanted = recorded_doses.max() if reward is None else np.sort(recorded_doses[:, 0])[35]
    for module in centred:
        unit = torch.tanh(module.offset) if module.squashed else module.offset
        assert unit.flatten().tolist() == pytest.approx([wanted] * 2, abs=1e-5)
