"""The scenario of insulin pump rates: what is seen, what limits a rate, what an episode is worth."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.stats import truncnorm

import simulator  # noqa: F401  registers the environments
from dosing.errors import UserError
from dosing.safety import LIMITED_BY, BaselineLimit
from simulator.behaviour_policies import View, parse_policy
from simulator.card import scenario_card
from simulator.cohorts.generate import simulate
from simulator.environment import CohortEnv
from simulator.envs import insulin as scenario_module
from simulator.insulin import patients as patients_module
from simulator.insulin.adults import published_adults
from simulator.insulin.glucose import GlucoseModel
from simulator.insulin.on_board import insulin_left
from simulator.insulin.policies import POLICIES, protocol

ENV = "dosing/Insulin-v0"
ADULTS = published_adults()
BASAL = ADULTS.basal_U_per_h.astype(np.float32)


def cohort(n: int = 10, **options: Any) -> CohortEnv:
    """The first ``n`` patients of seed 0, by default the published adults, at their first visit."""
    env = CohortEnv(ENV, num_envs=n, **({"variant": "published"} | options))
    env.reset(seed=0)
    return env


def column(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)[:, None]


def test_the_card_states_units_target_budget_limits_and_sources() -> None:
    card = scenario_card(ENV)
    units = ["mg/dL", "mg/dL/min", "U", "g", "U/h", "U/h", "1", "1"]
    assert [entry["unit"] for entry in card["observations"]] == units
    assert (card["dose"]["unit"], card["dose"]["hard_low"], card["dose"]["hard_high"]) == (
        "U/h",
        [0.0],
        [12.0],
    )
    assert (card["target"]["low"], card["target"]["high"], card["target"]["unit"]) == (70.0, 180.0, "mg/dL")
    assert card["budget"] == pytest.approx(96 * 0.04 + 4 * 96 * 0.01)  # 4 % of steps below 70, 1 % below 54
    assert (card["visits"], card["decision_interval"], card["terminates"]) == (96, "15 min", True)
    assert any("simglucose" in source and "MIT" in source for source in card["sources"])
    rule = BaselineLimit.of(card)
    assert rule is not None
    assert (rule.baseline, rule.load) == ("scheduled basal", "insulin on board")
    assert (rule.multiple, rule.most_load) == (4.0, 3.4)  # oref0; about 0.05 U/kg
    assert rule.most_load == pytest.approx(np.mean(0.05 * ADULTS.BW / ADULTS.basal_U_per_h), abs=0.2)


def test_the_first_visit_is_six_in_the_morning_at_steady_state() -> None:
    obs, _ = CohortEnv(ENV, num_envs=10, variant="published", sensor="perfect").reset(seed=0)
    np.testing.assert_allclose(obs[:, 0], ADULTS.Gb, rtol=1e-6)
    np.testing.assert_array_equal(obs[:, [4, 5]], np.stack([BASAL, BASAL], axis=1))
    np.testing.assert_allclose(obs[:, [1, 2, 3, 6, 7]], np.tile([0.0, 0, 0, 1, 0], (10, 1)), atol=1e-7)


@pytest.mark.long
def test_a_fixed_day_is_that_of_the_physiology_with_the_boluses_of_the_meals() -> None:
    env = cohort(meals="fixed", sensor="perfect")
    model, meals = GlucoseModel(ADULTS), {60: 45.0, 360: 70.0, 720: 80.0}
    shown = model.sensor_site_mg_dL
    for step in range(96):
        obs, reward, _, truncated, info = env.step(column(1.5 * BASAL))
        bolus = np.zeros(10)
        for minute in range(15 * step, 15 * step + 15):
            grams = meals.get(minute, 0.0)
            correction = np.where(shown > 150, (shown - 140) / ADULTS.CF, 0.0)
            given = grams / ADULTS.CR + correction if grams else np.zeros(10)
            bolus += given
            model.minute(grams, info["dose_delivered"][:, 0].astype(float) / 60 + given)
        shown = model.sensor_site_mg_dL
        np.testing.assert_allclose(obs[:, 0], np.clip(shown, 39, 400), rtol=1e-6)
        np.testing.assert_allclose(info["truth"]["glucose_mg_dL"], model.plasma_mg_dL, rtol=1e-9)
        np.testing.assert_allclose(info["truth"]["bolus_U"], bolus, atol=1e-12)
        assert (truncated == (step == 95)).all()
        log = np.log(model.plasma_mg_dL)
        worth = 1 - 10 * (1.509 * (log**1.084 - 5.381)) ** 2 / 7.755
        np.testing.assert_allclose(reward, np.clip(worth, -10, 1), atol=1e-5)


def test_slope_and_carbohydrate_on_board_after_a_meal() -> None:
    env = cohort(meals="fixed", sensor="perfect")
    seen = [env.step(column(BASAL))[0] for _ in range(8)]
    for before, after in itertools.pairwise(seen):
        np.testing.assert_allclose(after[:, 1], (after[:, 0] - before[:, 0]) / 15, atol=1e-4)
    assert (seen[3][:, 3] == 0).all()
    # The 45 g of 07:00 are 14 minutes old at 07:15, the end of the minute in which they came being 07:01.
    np.testing.assert_allclose(seen[4][:, 3], 45 * (1 - 14 / 180), rtol=1e-6)
    bolus = 45 / ADULTS.CR + np.where(ADULTS.Gb > 150, (ADULTS.Gb - 140) / ADULTS.CF, 0)
    np.testing.assert_allclose(seen[4][:, 2], bolus * insulin_left(np.array([14.0])), rtol=1e-3)


def test_a_rate_is_held_by_the_hard_limits_four_times_basal_and_what_is_on_board() -> None:
    env = cohort(meals="unannounced")
    wanted = column([-1.0, 13.0, 12.0, 4 * BASAL[3], 4 * BASAL[4] + 0.1, 0, *BASAL[6:]])
    *_, info = env.step(wanted)
    held = [LIMITED_BY[code] for code in info["limited_by"]]
    assert held == ["low limit", "baseline limit", "baseline limit", "", "baseline limit", "", "", "", "", ""]
    np.testing.assert_array_equal(info["dose_requested"], wanted)
    expected = [0.0, 4 * BASAL[1], 4 * BASAL[2], 4 * BASAL[3], 4 * BASAL[4], 0.0, *BASAL[6:]]
    np.testing.assert_allclose(info["dose_delivered"][:, 0], expected, rtol=1e-6)


def test_rates_above_basal_bring_no_more_than_the_limit_on_board_and_basal_is_always_allowed() -> None:
    env = cohort(meals="unannounced")
    limit, bound = 3.4 * BASAL, np.zeros(10, dtype=bool)
    for _ in range(20):
        obs, _, _, _, info = env.step(column([12.0] * 10))
        stacked = info["limited_by"] == LIMITED_BY.index("cumulative limit")
        assert (obs[:, 2] <= limit + 1e-4).all()
        assert (obs[stacked, 2] > 0.85 * limit[stacked]).all()
        assert (info["dose_delivered"][:, 0] >= BASAL).all()
        bound |= stacked
    assert bound.all()
    after_a_meal = cohort(meals="fixed")
    for _ in range(6):
        *_, info = after_a_meal.step(column(BASAL))
        assert not info["limited_by"].any()


def test_too_low_glucose_ends_the_episode_and_is_charged_for_what_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scenario_module, "HOURS_ON_BOARD", 1e6)
    env = cohort()
    returns, cost, ended = np.zeros(10), np.zeros(10), np.zeros(10, dtype=bool)
    for step in range(96):
        _, reward, terminated, truncated, info = env.step(column([12.0] * 10))
        for k in np.flatnonzero(terminated):
            glucose = info["truth"]["glucose_mg_dL"][k]
            assert glucose < 20
            assert reward[k] == -10 * (96 - step)
            assert info["cost"][k] == 5 * (96 - step)
            assert info["events"]["below_54"][k]
        ended |= terminated
        assert not (terminated & truncated).any()
        returns, cost = returns + reward, cost + info["cost"]
        if ended.all():
            break
    assert ended.sum() > 5


@pytest.mark.long
def test_every_event_of_the_card_is_reported_by_true_glucose() -> None:
    env = cohort(40, variant="adults", meals="unannounced")
    card = scenario_card(ENV)
    seen, live = dict.fromkeys(card["events"], 0), np.ones(40, dtype=bool)
    for step in range(96):
        _, _, terminated, _, info = env.step(column([12.0 if step < 20 else 0.0] * 40))
        assert set(info["events"]) == set(card["events"])
        glucose = info["truth"]["glucose_mg_dL"]
        assert not any(flags[~live].any() for flags in info["events"].values())
        for name, threshold, low in (
            ("below_70", 70, True),
            ("below_54", 54, True),
            ("above_180", 180, False),
        ):
            beyond = glucose < threshold if low else glucose > threshold
            np.testing.assert_array_equal(info["events"][name], beyond & live)
        for name, flags in info["events"].items():
            seen[name] += int(flags.sum())
        live &= ~terminated
    assert all(seen.values())


@pytest.mark.long
def test_a_patient_alone_and_in_a_cohort_and_a_longer_day_begin_alike() -> None:
    among = simulate(ENV, patients=270, steps=12, policy="protocol", seed=4)
    alone = simulate(ENV, patients=2, steps=12, policy="protocol", seed=4, first_patient=258)
    rows = among.episode >= 258
    for name in ("obs", "act", "reward", "cost", "behaviour_log_prob"):
        np.testing.assert_array_equal(getattr(among, name)[rows][:24], getattr(alone, name))
    longer = simulate(ENV, patients=2, steps=100, policy="basal", seed=4)
    day = simulate(ENV, patients=2, policy="basal", seed=4)
    np.testing.assert_array_equal(longer.obs[longer.step < 96], day.obs)


def test_meals_and_errors_never_depend_on_the_rates() -> None:
    low, high = cohort(), cohort()
    for _ in range(40):
        eaten = [env.step(column([rate] * 10))[4]["truth"]["eaten_g"] for env, rate in ((low, 0), (high, 2))]
        np.testing.assert_array_equal(*eaten)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"meals": "late"}, "meals must be random, unannounced or fixed, got 'late'"),
        ({"sensor": 3}, "sensor must be cgm or perfect, got 3"),
        ({"variant": "children"}, "has no variant 'children', it has adults, published"),
        ({"realism": 3}, "has no option 'realism'"),
    ],
)
def test_options_that_are_none_are_refused_in_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        gymnasium.make(ENV, **options)


@pytest.mark.parametrize("text", ["protocol:-1", "protocol:x", "uniform-allowed:2", "sliding"])
def test_policies_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_policy(text, POLICIES)


def view(glucose: list[float], slope: list[float]) -> View:
    """What a policy sees of patients with a basal rate of 1 U/h, up to 4 U/h allowed."""
    obs = np.zeros((len(glucose), 8), dtype=np.float32)
    obs[:, 0], obs[:, 1], obs[:, 5] = glucose, slope, 1.0
    dice = np.random.default_rng(0).random((len(glucose), 2))
    low, high = np.zeros((len(glucose), 1)), np.full((len(glucose), 1), 4.0)
    return View(obs, obs[:, 0].astype(float), obs[:, 0], None, dice, low, high)


def test_the_protocol_looks_thirty_minutes_ahead() -> None:
    seen = view([79, 85, 85, 120, 150, 181, 200, 251], [1, -0.4, -0.6, 0, 1.1, 0, 1.7, 0])
    assert protocol(seen).tolist() == [0.0, 1.0, 0.0, 1.0, 1.5, 1.5, 2.0, 2.0]


def test_logged_densities_are_those_of_the_truncated_log_normal() -> None:
    n = 20_000
    policy = parse_policy("protocol:0.5", POLICIES)
    seen = view([120.0] * (n // 2) + [300.0] * (n // 2), [0.0] * n)
    dose, log_prob = policy.begin(cohort(1).visits.treated.clinic(), n)(seen)
    for rows, centre in ((slice(0, n // 2), 1.0), (slice(n // 2, n), 2.0)):
        law = truncnorm(-np.inf, np.log(4.0 / centre) / 0.5, np.log(centre), 0.5)
        log = np.log(dose[rows, 0])
        np.testing.assert_allclose(log_prob[rows], law.logpdf(log) - log, atol=1e-9)
        assert log.mean() == pytest.approx(law.mean(), abs=0.02)
        assert log.std() == pytest.approx(law.std(), abs=0.01)
        assert dose[rows].max() <= 4.0
    stopped, none = policy.begin(cohort(1).visits.treated.clinic(), 1)(view([60.0], [0.0]))
    assert (stopped[0, 0], np.isnan(none[0])) == (0.0, True)  # the pump stops with certainty: no density


def shares(policy: str, **options: Any) -> np.ndarray:
    """Per cent of true glucose in 70-180, below 70 and 54, above 180 and 250, and its mean [6, 10].

    One column for each cohort of the ten published adults, over five days after one day.
    """
    cohorts, steps = 10, 576
    n = 10 * cohorts
    env = cohort(n, steps=steps, **options)
    act = parse_policy(policy, POLICIES).begin(env.visits.treated.clinic(), n)
    rng, seen, glucose = np.random.default_rng(0), env.reset(seed=0)[0], []
    for _ in range(steps):
        dose, _ = act(env.visits.treated.view(seen, None, rng.random((n, 2))))
        seen, _, _, _, info = env.step(dose.astype(np.float32))
        glucose.append(info["truth"]["glucose_mg_dL"])
    g = np.array(glucose)[96:].reshape(-1, cohorts, 10)
    parts = ((g >= 70) & (g <= 180), g < 70, g < 54, g > 180, g > 250, g / 100)
    return np.array([100 * part.mean(axis=(0, 2)) for part in parts])


@pytest.mark.long
@pytest.mark.parametrize(
    ("policy", "options", "expected"),
    [
        ("basal", {}, (92.4, 2.3, 0.9, 5.3, 1.6, 126.5)),
        ("protocol:0", {}, (93.3, 2.2, 0.6, 4.4, 0.1, 124.7)),
        ("protocol", {}, (90.0, 4.0, 1.1, 6.0, 0.3, 123.8)),
        ("protocol:0", {"meals": "unannounced"}, (50.5, 0.0, 0.0, 49.5, 10.7, 182.1)),
        ("constant:0", {}, (43.9, 1.8, 0.8, 54.3, 26.4, 235.5)),
        ("uniform-allowed", {}, (27.4, 71.8, 54.2, 0.8, 0.1, 52.5)),
        ("constant:12", {}, (3.9, 96.1, 93.8, 0.0, 0.0, 8.4)),
    ],
)
def test_policies_reproduce_the_reference_table(
    policy: str, options: dict[str, Any], expected: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reference knows no limit of insulin on board and no early end.
    monkeypatch.setattr(scenario_module, "HOURS_ON_BOARD", 1e6)
    monkeypatch.setattr(patients_module, "ALIVE", (-1.0, 1e9))
    result = shares(policy, **options)
    # Tolerance: 3 points, and twice the spread between cohorts of ten, of which the reference is one.
    tolerance = 3.0 + 2 * result[:5].std(axis=1)
    assert (np.abs(result[:5].mean(axis=1) - expected[:5]) <= tolerance).all(), result.mean(axis=1)
    assert tolerance.max() < 9
    assert result[5].mean() == pytest.approx(expected[5], rel=0.1)
