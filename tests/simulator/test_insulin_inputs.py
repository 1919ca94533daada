"""Meals, boluses, the sensor, what is on board, and what glucose is worth, against published numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import truncnorm

from simulator.insulin.meals import MINUTES_PER_DAY, bolus_U, fixed_meals, random_meals
from simulator.insulin.on_board import OnBoard, carbohydrate_left, insulin_left
from simulator.insulin.outcomes import Hypoglycaemia, cost, reward, risk
from simulator.insulin.sensor import error_mg_dL, next_error, reading

DAYS, PATIENTS = 2, 20_000


@pytest.fixture(scope="module")
def meals() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minute, eaten and counted grams [days, 6, patients] of random days."""
    rng = np.random.default_rng(0)
    drawn = random_meals(rng.random((DAYS, 6, 3, PATIENTS)), rng.standard_normal((DAYS, 6, 2, PATIENTS)))
    shape = (DAYS, 6, PATIENTS)
    return drawn.minute.reshape(shape), drawn.eaten_g.reshape(shape), drawn.counted_g.reshape(shape)


def test_insulin_on_board_follows_the_exponential_curve_of_loop_and_oref0() -> None:
    left = insulin_left(np.array([0.0, 60, 120, 180, 240, 300]))
    np.testing.assert_allclose(left, [1, 0.7640, 0.4106, 0.1588, 0.0329, 0], atol=5e-5)
    # Its derivative is the activity S t (1 - t/td) exp(-t/tau) / tau^2.
    tau, td, scale = 112.5, 300, 2.6911
    gone, _ = quad(lambda t: scale / tau**2 * t * (1 - t / td) * np.exp(-t / tau), 0, 150)
    assert insulin_left(np.array([150.0]))[0] == pytest.approx(1 - gone, abs=1e-4)


def test_what_is_on_board_adds_up_and_wears_off() -> None:
    board = OnBoard(insulin_left(np.arange(300)), 2)
    first, second = np.zeros((15, 2)), np.zeros((15, 2))
    first[4, 0], second[14, 0], second[14, 1] = 3.0, 1.0, 2.0
    board.give(first)
    board.give(second)
    expected = 3.0 * insulin_left(np.array([25.0])) + insulin_left(np.array([0.0]))
    np.testing.assert_allclose(board.total(), [expected[0], 2.0], rtol=1e-12)
    np.testing.assert_allclose(board.total(45)[1], 2 * insulin_left(np.array([45.0]))[0], rtol=1e-12)
    for _ in range(20):
        board.give(np.zeros((15, 2)))
    np.testing.assert_array_equal(board.total(), [0.0, 0.0])


def test_one_patient_has_the_same_on_board_as_in_a_cohort() -> None:
    rng = np.random.default_rng(1)
    given = rng.random((300, 40))
    many, one = OnBoard(insulin_left(np.arange(300)), 40), OnBoard(insulin_left(np.arange(300)), 1)
    many.give(given)
    one.give(given[:, 5:6])
    np.testing.assert_array_equal(one.total(), many.total()[5:6])


def test_carbohydrate_wears_off_linearly_in_three_hours() -> None:
    np.testing.assert_allclose(carbohydrate_left(np.array([0.0, 45, 90, 180, 200])), [1, 0.75, 0.5, 0, 0])


def test_random_days_have_the_published_meals(
    meals: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    minute, eaten, _ = meals
    means, low, high = (7, 9.5, 12, 15, 18, 21.5), (5, 9, 10, 14, 16, 20), (9, 10, 14, 16, 20, 23)
    for day in range(DAYS):
        clock = (minute[day] - MINUTES_PER_DAY * day) / 60 + 6
        clock = np.where(clock >= 24, clock - 24, clock)
        for meal in range(6):
            there, sd = eaten[day, meal] > 0, (1, 0.5)[meal % 2]
            hour, grams = clock[meal][there], eaten[day, meal][there]
            law = truncnorm((low[meal] - means[meal]) / sd, (high[meal] - means[meal]) / sd, means[meal], sd)
            assert (low[meal] <= hour).all()
            assert (hour <= high[meal]).all()
            assert hour.mean() == pytest.approx(law.mean(), abs=0.03)
            assert hour.std() == pytest.approx(law.std(), abs=0.03)
            if meal % 2 == 0:
                assert there.mean() == pytest.approx(0.95, abs=0.01)
                assert grams.mean() == pytest.approx((45, 70, 80)[meal // 2], abs=0.4)
                assert grams.std() == pytest.approx(10, abs=0.3)
            else:
                assert there.mean() == pytest.approx(0.3 * 0.977, abs=0.012)  # 2.3 % of snacks are of 0 g


def test_a_breakfast_before_six_is_the_last_meal_of_its_day() -> None:
    early = np.full((1, 6, 3, 1), 1e-4)
    drawn = random_meals(early, np.zeros((1, 6, 2, 1)))
    assert drawn.minute[0, 0] >= 23 * 60
    assert (drawn.minute[1:, 0] < 23 * 60).all()


def test_meals_are_miscounted_by_a_fifth_and_one_in_twenty_is_missed(
    meals: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    _, eaten, counted = meals
    there = eaten > 0
    assert (counted[~there] == 0).all()
    ratio = counted[there] / eaten[there]
    assert (ratio == 0).mean() == pytest.approx(0.05, abs=0.003)
    assert ratio[ratio > 0].mean() == pytest.approx(1.0, abs=0.005)
    assert ratio[ratio > 0].std() == pytest.approx(0.2, abs=0.005)


def test_meals_begin_in_their_minute() -> None:
    day = fixed_meals(2, 3)
    assert day.any_from(45, 15) is False
    assert day.any_from(60, 15) is True
    np.testing.assert_array_equal(day.at(60)[0], [45.0] * 3)
    np.testing.assert_array_equal(day.at(1440 + 12 * 60)[0], [80.0] * 3)
    np.testing.assert_array_equal(day.uncounted().at(360), [[70.0] * 3, [0.0] * 3])


def test_the_bolus_covers_the_count_and_corrects_high_glucose() -> None:
    counted, shown = np.array([60.0, 60.0, 60.0, 0.0, 250.0]), np.array([120.0, 150.0, 190.0, 300.0, 120.0])
    bolus = bolus_U(counted, shown, np.array([10.0, 10, 10, 10, 5]), np.array([25.0] * 5))
    np.testing.assert_allclose(bolus, [6.0, 6.0, 8.0, 0.0, 25.0])  # the pump gives no more than 25 U


def test_sensor_errors_have_the_published_size_and_correlation() -> None:
    rng = np.random.default_rng(2)
    e = rng.standard_normal(200_000)
    for _ in range(20):
        before, e = e, next_error(e, rng.standard_normal(len(e)))
    error = error_mg_dL(e)
    assert error.mean() == pytest.approx(0.7, abs=0.1)
    assert error.std() == pytest.approx(11.7, abs=0.1)
    assert np.corrcoef(before, e)[0, 1] == pytest.approx(0.7, abs=0.01)
    assert reading(np.array([20.0, 120.0, 900.0]), 0.0).tolist() == [39.0, 120.0, 400.0]


def test_risk_and_reward_of_glucose() -> None:
    values = [20, 40, 54, 70, 112.5, 140, 180, 250, 400]
    expected = [100.04, 36.42, 18.46, 7.755, 0.0, 1.665, 7.729, 22.44, 57.05]
    np.testing.assert_allclose(risk(np.array(values, dtype=float)), expected, atol=0.006)
    worth = reward(np.array([5.0, 20.0, 70.0, 112.5, 180.0]))
    np.testing.assert_allclose(worth, [-10.0, -10.0, 0.0, 1.0, 0.0034], atol=1e-3)


def test_cost_is_one_below_70_and_five_below_54() -> None:
    assert cost(np.array([70.0, 69.9, 54.0, 53.9, 300.0])).tolist() == [0, 1, 1, 5, 0]


def test_an_event_of_hypoglycaemia_takes_fifteen_minutes_and_ends_after_fifteen_above() -> None:
    glucose = [60.0] * 14 + [80.0] + [60.0] * 15 + [50.0] * 20 + [80.0] * 14 + [60.0] * 20 + [80.0] * 15
    glucose += [65.0] * 16
    meter = Hypoglycaemia(1)
    begun = {name: [] for name in Hypoglycaemia.NAMES}
    for minute, value in enumerate(glucose):
        for name, flags in meter.minute(np.array([value])).items():
            if flags[0]:
                begun[name].append(minute)
    # 14 low minutes are no event; 14 minutes above do not end one.
    assert begun["hypoglycaemia_level_1"] == [29, 113]
    assert begun["hypoglycaemia_level_2"] == [44]
