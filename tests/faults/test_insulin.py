"""Faults and behaviours of insulin: units, absurd carbohydrate, cumulative limits, verification."""

from __future__ import annotations

import numpy as np
import pytest

from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Recommendation, Recommender
from dosing.studies import AgentSetup, Cohort, DataSource, TrainingSettings, load, train
from simulator.environment import CohortEnv
from simulator.insulin.adults import published_adults
from simulator.insulin.glucose import GlucoseModel
from tests.recommendation.test_recommender import Told

ENV = "dosing/Insulin-v0"
NAMES = ("glucose", "slope", "on_board", "carbohydrate", "rate", "basal", "sine", "cosine")
STATE = (182.0, 1.2, 1.5, 30.0, 1.3, 1.25, 0.5, -0.866)


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """FtTPO on 40 patients, barely trained."""
    source = DataSource(ENV, Cohort(40, "protocol"))
    settings = TrainingSettings(steps=20)
    folder = tmp_path_factory.mktemp("insulin")
    return load(train(folder, AgentSetup("fttpo"), source, seeds=(0,), training=settings, device="cpu"))


def asked(recommender: Recommender, **change: float) -> Recommendation:
    return recommend(recommender, [change.get(name, value) for name, value in zip(NAMES, STATE, strict=True)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"glucose": 5.5}, "5.5 mmol/L would be 99.09 mg/dL"),
        ({"basal": 0.0217}, "0.0217 U/min would be 1.302 U/h"),
        ({"rate": 30.0}, "30 U/day would be 1.25 U/h"),
    ],
)
def test_fault_06_glucose_in_mmol_and_rates_per_minute_or_day_are_refused_with_the_unit_that_was_meant(
    recommender: Recommender, change: dict[str, float], words: str
) -> None:
    answer = asked(recommender, **change)
    assert (answer.status, answer.dose) == ("refused", None)
    assert any(words in reason for reason in answer.reasons)
    assert answer.safe_default == "the scheduled basal rate"


def test_fault_08_an_absurd_carbohydrate_entry_is_refused(recommender: Recommender) -> None:
    answer = asked(recommender, carbohydrate=5523.0)
    assert (answer.status, answer.dose) == ("refused", None)
    (reason,) = answer.reasons
    assert reason.startswith("carbohydrate on board (entry 4) of the state must be 0 to 750 g, got 5523")


def greedy(recommender: Recommender) -> Recommender:
    """The same scenario with a policy that wants 6 U/h whatever it sees."""
    return Recommender(Told([[6.0]], [[5.0]], [[7.0]]), recommender.rules)


def test_behaviour_04_insulin_on_board_holds_the_rate_and_both_rates_are_shown(
    recommender: Recommender,
) -> None:
    stacked = asked(greedy(recommender), on_board=6.0, basal=1.5)
    assert (stacked.proposed, stacked.dose) == ((6.0,), (1.5,))
    assert "cumulative_limit" in stacked.codes
    assert "with this insulin on board, no more may be given" in stacked.reasons[-1]
    some = asked(greedy(recommender), on_board=5.0, basal=1.5)
    assert some.dose is not None
    assert 1.5 < some.dose[0] < 6.0  # room for 0.1 U
    free = asked(greedy(recommender), on_board=0.0, basal=1.5)
    assert free.dose == (6.0,)
    assert not {"cumulative_limit", "baseline_limit"} & set(free.codes)


def test_behaviour_04_no_current_dose_that_is_told_loosens_the_limit(recommender: Recommender) -> None:
    state = [{"basal": 1.0, "on_board": 0.0}.get(name, x) for name, x in zip(NAMES, STATE, strict=True)]
    told = recommend(greedy(recommender), state, [12.0])
    assert told.dose == (4.0,)
    assert "it may be no more than 4 times the scheduled basal" in told.reasons[-1]


@pytest.mark.long
def test_behaviour_04_what_the_recommender_lets_through_the_environment_delivers(
    recommender: Recommender,
) -> None:
    env = CohortEnv(ENV, 20, first_patient=900)
    obs, _ = env.reset(seed=0)
    held = set[str]()
    for _ in range(16):
        answers = [recommend(greedy(recommender), row.tolist()) for row in obs.astype(float)]
        doses = np.array([one.dose for one in answers])
        obs, _, _, _, info = env.step(doses)
        np.testing.assert_allclose(info["dose_delivered"], doses, rtol=1e-6)
        assert not info["limited_by"].any()
        held |= {code for one in answers for code in one.codes}
    assert {"baseline_limit", "cumulative_limit"} <= held


def test_behaviour_17_a_sweep_over_insulin_meals_and_weight_is_plausible() -> None:
    """Constants, published figures and a second solver: tests/simulator/test_insulin_physiology.py."""

    def glucose(bolus: float, grams: float, minutes: int = 240) -> np.ndarray:
        model = GlucoseModel(published_adults())
        for minute in range(minutes):
            rate = model.adults.basal_U_per_h / 60 + (bolus if minute == 0 else 0.0)
            model.minute(grams if minute == 0 else 0.0, rate)
        return model.sensor_site_mg_dL

    by_insulin = np.array([glucose(units, 0.0) for units in (0.0, 1.0, 2.0, 4.0)])
    by_meal = np.array([glucose(0.0, grams) for grams in (0.0, 20.0, 40.0, 80.0)])
    assert (np.diff(by_insulin, axis=0) < 0).all()
    assert (np.diff(by_meal, axis=0) > 0).all()
    assert ((by_insulin > 20) & (by_insulin < 200)).all()
    assert ((by_meal > 100) & (by_meal < 450)).all()
