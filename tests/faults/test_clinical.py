"""Faults and behaviours of a scenario with real units: units, stale readings, subgroups, verification."""

from __future__ import annotations

import numpy as np
import pytest

from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Recommender
from dosing.recommendation.units import factor
from dosing.safety import DoseLimits
from dosing.studies import AgentSetup, Cohort, DataSource, TrainingSettings, evaluate, load, train
from simulator.card import scenario_card
from simulator.environment import CohortEnv
from simulator.envs import SCENARIOS
from simulator.envs.warfarin_model import Physiology, clearance, steady_dose

ENV = "dosing/Warfarin-v0"
STATE = [2.3, 2.1, 3.0, 5.0, 5.0, 70.0, 1.0, 0.0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """IQL on 40 patients of a clinic, barely trained."""
    source = DataSource(ENV, Cohort(40, "nomogram"))
    settings = TrainingSettings(steps=40)
    study = tmp_path_factory.mktemp("clinical")
    return train(study, AgentSetup("iql"), source, seeds=(0, 1), training=settings, device="cpu")


@pytest.fixture(scope="module")
def recommender(run) -> Recommender:
    return load(run)


def asked(recommender: Recommender, **change: float):
    state = list(STATE)
    for name, value in change.items():
        state[["inr", "before", "since", "yesterday", "week", "age"].index(name)] = value
    return recommend(recommender, state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"yesterday": 5000.0}, "5000 ug/day would be 5 mg/day"),
        ({"week": 35.0}, "35 mg/week would be 5 mg/day"),
        ({"age": 840.0}, "840 month would be 70 year"),
    ],
)
def test_fault_06_a_number_in_another_unit_is_refused_with_the_unit_that_was_meant(
    recommender: Recommender, change: dict[str, float], words: str
) -> None:
    answer = asked(recommender, **change)
    assert (answer.status, answer.dose) == ("refused", None)
    assert any(words in reason for reason in answer.reasons)
    assert answer.safe_default == "hold: no dose (0 mg), measure the INR"


def test_fault_06_every_unit_is_stated_and_conversions_are_exact() -> None:
    for env_id in SCENARIOS:
        card = scenario_card(env_id)
        assert card["dose"]["unit"]
        assert all(entry["unit"] for entry in card["observations"])
    assert (factor("g", "mg"), factor("U/min", "U/h"), factor("U/h", "mg/h")) == (1000.0, 60.0, None)


@pytest.mark.parametrize(("since", "status"), [(32.0, "refused"), (-1.0, "refused"), (31.0, None)])
def test_fault_13_a_stale_or_future_inr_is_refused(
    recommender: Recommender, since: float, status: str | None
) -> None:
    answer = asked(recommender, since=since)
    assert (answer.status == "refused") == (status == "refused")
    if status:
        (reason,) = answer.reasons
        assert reason.startswith("days since INR (entry 3) of the state must be 0 to 31 day")
        assert answer.dose is None


@pytest.mark.long
def test_a_recommended_dose_keeps_the_step_limit_of_the_environment(recommender: Recommender) -> None:
    """What the recommender lets through, the environment delivers as it is."""
    env = CohortEnv(ENV, 30, first_patient=900)
    obs, _ = env.reset(seed=0)
    for _ in range(12):
        answers = [recommend(recommender, row.tolist()) for row in obs.astype(float)]
        doses = np.array([[0.0 if one.dose is None else one.dose[0]] for one in answers])
        obs, _, _, _, info = env.step(doses)
        np.testing.assert_allclose(info["dose_delivered"], doses, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_behaviour_15_outcomes_are_told_by_event_subgroup_and_worst_patients(run) -> None:
    result = evaluate(run, 30)
    notes = "\n".join(result.notes)
    for event in scenario_card(ENV)["events"]:
        assert f"patients with the event {event} at any visit" in notes
    assert result.rows[0].lower_tail is not None
    assert result.rows[0].cost is not None
    env = CohortEnv(ENV, 5)
    env.reset(seed=0)
    assert {"age (year)", "VKORC1 A alleles", "CYP2C9 *2 or *3 alleles"} <= set(env.visits.treated.traits())


def steady_inr(dose: float, cl: float, ec50: float) -> float:
    body = Physiology.untreated(np.array([14.3]))
    for _ in range(60):
        body.day(np.array([dose]), np.array([cl]), np.array([ec50]))
    return float(body.inr[0])


def test_behaviour_17_a_sweep_over_covariates_is_plausible() -> None:
    """Constants, published figures and a second solver: tests/simulator/test_warfarin_model.py."""
    wild = [0.348, 0.2619, 0.2162, 0.1758, 0.1301, 0.0844]  # *1/*1 to *3/*3
    gg, ag, aa = 4.10, 3.01, 1.92
    by_dose = [steady_inr(d, wild[0], gg) for d in (0.0, 2.5, 5.0, 10.0, 15.0)]
    by_cyp2c9 = [steady_inr(5.0, cl, gg) for cl in wild]
    by_vkorc1 = [steady_inr(5.0, wild[0], ec50) for ec50 in (gg, ag, aa)]
    by_age = [steady_inr(5.0, float(clearance(wild[0], age)), gg) for age in (30, 50, 70, 90)]
    for values in (by_dose, by_cyp2c9, by_vkorc1, by_age):
        assert (np.diff(values) > 0).all()
        assert all(1.0 - 1e-9 < value < 21.0 for value in values)
    assert by_dose[0] == pytest.approx(1.0)
    hard = DoseLimits((0.0,), (15.0,))
    needed = [float(steady_dose(2.5, cl, ec50)) for cl in wild for ec50 in (gg, ag, aa)]
    assert hard.contains(np.array(needed)[:, None]).all()
