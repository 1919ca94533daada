"""The warfarin scenario: what is seen, given, paid and ended, and how clinics dose."""

import itertools
import math
from typing import Any

import gymnasium
import numpy as np
import pytest

from dosing.errors import UserError
from dosing.safety import LIMITED_BY
from simulator.behaviour_policies import parse_policy
from simulator.card import scenario_card
from simulator.cohorts.generate import simulate
from simulator.environment import CohortEnv, PatientEnv
from simulator.envs.warfarin import Warfarin, WarfarinOptions, WarfarinPatients
from simulator.envs.warfarin_policies import POLICIES, answer, recorded, starting_dose

ENV = "dosing/Warfarin-v0"
CLINIC_DAYS = (3, 5, 7, 9, 11, 14, 21, 28, 35, 42, 49, 56, 63, 70, 77, 84)


def follow(n: int, doses: np.ndarray, **options: Any) -> tuple[CohortEnv, list[tuple[Any, ...]]]:
    env = CohortEnv(ENV, n, steps=len(doses), **options)
    steps = [env.reset(seed=0)]
    for dose in doses:
        if env.visits.over:
            break
        steps.append(env.step(np.full((n, 1), dose, dtype=np.float32)))
    return env, steps


def test_observations_are_measurements_and_prescriptions() -> None:
    doses = np.array([5.0, 6.0, 0.0, 6.5, 7.0, 7.5, 7.5, 8.0, 8.0, 8.0])
    env, steps = follow(300, doses, variability="none")
    truth = [np.ones(300), *(info["truth"]["INR"] for *_, info in steps[1:])]
    for day in range(1, len(doses) + 1):
        seen, info = steps[day][0], steps[day][4]
        last = max([0, *(d for d in CLINIC_DAYS if d <= day)])
        before = max([0, *(d for d in CLINIC_DAYS if d < last)])
        np.testing.assert_allclose(seen[:, 0], truth[last], rtol=1e-6)
        np.testing.assert_allclose(seen[:, 1], truth[before], rtol=1e-6)
        assert (seen[:, 2] == day - last).all()
        given = [steps[d][4]["dose_delivered"][0, 0] for d in range(1, day + 1)]
        assert (seen[:, 3] == given[-1]).all()
        np.testing.assert_allclose(seen[:, 4], np.mean(given[-7:]), rtol=1e-6)
        np.testing.assert_array_equal(info["truth"]["dose taken"], np.float64(given[-1]))
    who = env.visits.treated
    assert isinstance(who, WarfarinPatients)
    np.testing.assert_allclose(seen[:, 5], who.who.age, rtol=1e-6)
    np.testing.assert_allclose(seen[:, 6], who.who.share, rtol=1e-6)
    np.testing.assert_array_equal(seen[:, 7], who.who.alleles["A alleles"])


def test_daily_monitoring_measures_the_same_patients_every_day() -> None:
    doses = np.full(10, 5.0)
    _, clinic = follow(50, doses)
    _, daily = follow(50, doses, monitoring="daily")
    for day in range(1, 11):
        np.testing.assert_array_equal(clinic[day][4]["truth"]["INR"], daily[day][4]["truth"]["INR"])
        assert (daily[day][0][:, 2] == 0).all()
        if day in CLINIC_DAYS:
            np.testing.assert_array_equal(clinic[day][0][:, 0], daily[day][0][:, 0])


def test_hidden_genotype_shows_the_day_and_the_slope_instead() -> None:
    doses = np.full(9, 5.0)
    _, open_ = follow(40, doses)
    _, hidden = follow(40, doses, hide_genotype=True)
    for day in range(1, 10):
        np.testing.assert_array_equal(open_[day][0][:, :6], hidden[day][0][:, :6])
        last = max([0, *(d for d in CLINIC_DAYS if d <= day)])
        before = max([0, *(d for d in CLINIC_DAYS if d < last)])
        seen = hidden[day][0]
        assert (seen[:, 6] == day).all()
        np.testing.assert_allclose(seen[:, 7], (seen[:, 0] - seen[:, 1]) / max(last - before, 1), atol=1e-6)


def test_doses_are_missed_and_doubled_and_inrs_measured_with_error() -> None:
    n, days = 4000, 20
    _, steps = follow(n, np.full(days, 4.0), monitoring="daily")
    taken = np.stack([info["truth"]["dose taken"] for *_, info in steps[1:]])
    assert (taken == 0).mean() == pytest.approx(0.08, abs=0.004)
    assert (taken == 8).mean() == pytest.approx(0.01, abs=0.0015)
    assert np.isin(taken, (0, 4, 8)).all()
    error = np.log(steps[5][0][:, 0] / steps[5][4]["truth"]["INR"])
    assert error.mean() == pytest.approx(0.0, abs=0.006)
    assert error.std() == pytest.approx(0.10, abs=0.005)


def test_drift_is_stationary_and_slow() -> None:
    """The sensitivity of one visit to the next: an autoregression of exp(-1/10) and SD 0.35."""
    env = CohortEnv(ENV, 5000)
    env.reset(seed=1)
    who = env.visits.treated
    assert isinstance(who, WarfarinPatients)
    drift = [who._drift.copy()]
    for _ in range(12):
        env.step(np.full((5000, 1), 3.0))
        drift.append(who._drift.copy())
    assert drift[0].std() == pytest.approx(0.35, abs=0.012)
    assert drift[-1].std() == pytest.approx(0.35, abs=0.012)
    assert np.corrcoef(drift[0], drift[10])[0, 1] == pytest.approx(math.exp(-1), abs=0.04)


def test_an_interacting_drug_slows_the_clearance_for_a_fortnight() -> None:
    _, steps = follow(3000, np.full(90, 0.5))
    on = np.stack([info["truth"]["interacting drug"] for *_, info in steps[1:]])  # [days, n]
    assert on.any(0).mean() == pytest.approx(0.15, abs=0.02)
    begun = on.argmax(0)[on.any(0)]
    assert begun.min() >= 20
    early = on[:, on.any(0)][:, begun <= 76]
    assert (early.sum(0) == 14).all()


def test_reward_cost_and_events_come_from_the_true_inr() -> None:
    _, steps = follow(2000, np.concatenate([np.full(5, 10.0), np.full(25, 6.0)]))
    gone = np.zeros(2000, dtype=bool)
    for day, (_, reward, terminated, _, info) in enumerate(steps[1:], 1):
        inr, here = info["truth"]["INR"], ~gone & ~terminated
        expected = np.clip(1 - ((inr - 2.5) / 0.5) ** 2, -4, 1)
        np.testing.assert_allclose(reward[here], expected[here], atol=1e-5)
        cost = (inr > 4).astype(float) + ((inr < 1.5) & (day > 14))
        np.testing.assert_array_equal(info["cost"][here], cost[here])
        events = info["events"]
        np.testing.assert_array_equal(events["over_anticoagulated"][here], (inr > 4)[here])
        np.testing.assert_array_equal(events["severe"][here], (inr >= 5)[here])
        np.testing.assert_array_equal(events["under_anticoagulated"][here], ((inr < 1.5) & (day > 14))[here])
        np.testing.assert_array_equal(events["critical"] & ~gone, terminated)
        np.testing.assert_array_equal(terminated, (inr > 10) & ~gone)
        gone |= terminated
    assert gone.any()
    assert not gone.all()
    assert set(events) == set(scenario_card(ENV)["events"])


def test_a_critical_inr_ends_the_episode_and_is_charged_for_every_day_that_remains() -> None:
    n = 400
    env, steps = follow(n, np.full(40, 15.0))
    ends = np.stack([terminated for _, _, terminated, _, _ in steps[1:]])
    cuts = np.stack([truncated for _, _, _, truncated, _ in steps[1:]])
    patient = int(np.flatnonzero(ends.any(0))[0])
    day = int(ends[:, patient].argmax()) + 1
    assert ends.sum(0).max() == 1
    np.testing.assert_array_equal(cuts.any(0), ~ends.any(0))
    _, reward, _, _, info = steps[day]
    assert reward[patient] == pytest.approx(-4.0 * (1 + 40 - day))
    assert info["cost"][patient] == 1 + 40 - day
    for later in range(day + 1, len(steps)):
        assert steps[later][1][patient] == 0
        assert steps[later][4]["cost"][patient] == 0
        assert not any(flags[patient] for flags in steps[later][4]["events"].values())
        np.testing.assert_array_equal(steps[later][0][patient], steps[day][0][patient])
    with pytest.raises(UserError, match="reset"):
        env.step(np.full((n, 1), 1.0))
    alone = PatientEnv(ENV, steps=40)
    alone.reset(seed=0, options={"patient_id": patient})
    for t in range(1, day + 1):
        seen, gain, terminated, truncated, told = alone.step(np.array([15.0]))
        np.testing.assert_array_equal(seen, steps[t][0][patient])
        assert gain == steps[t][1][patient]
        assert (terminated, truncated) == (t == day, False)
        assert told["truth"]["INR"] == steps[t][4]["truth"]["INR"][patient]
    with pytest.raises(UserError, match="reset"):
        alone.step(np.array([1.0]))


def test_recorded_visits_end_where_the_episode_does() -> None:
    data = simulate(ENV, patients=300, policy="constant:15")
    last = np.append(np.diff(data.episode) != 0, True)
    np.testing.assert_array_equal(data.terminated | data.truncated, last)
    assert data.terminated.any()
    assert (data.step[data.terminated] < 89).any()
    assert (data.step[data.truncated] == 89).all()
    part = simulate(ENV, patients=40, policy="constant:15", first_patient=130)
    chosen = (data.episode >= 130) & (data.episode < 170)
    for name in ("obs", "next_obs", "act", "reward", "cost", "terminated"):
        np.testing.assert_array_equal(getattr(part, name), getattr(data, name)[chosen])


@pytest.mark.parametrize("patient", [0, 299, 511])
def test_a_patient_is_the_same_in_every_company(patient: int) -> None:
    doses = np.linspace(2, 7, 15)
    _, many = follow(700, doses)
    _, alone = follow(1, doses, first_patient=patient)
    for whole, one in itertools.zip_longest(many, alone):
        np.testing.assert_array_equal(whole[0][patient], one[0][0])
    np.testing.assert_array_equal(many[-1][4]["truth"]["INR"][patient], alone[-1][4]["truth"]["INR"][0])


def test_the_step_limit_binds_on_the_way_up_only_and_a_hold_keeps_the_dose() -> None:
    env = CohortEnv(ENV, 1, variability="none")
    env.reset(seed=0)

    def given(dose: float) -> tuple[float, str]:
        info = env.step(np.array([[dose]]))[4]
        return float(info["dose_delivered"][0, 0]), LIMITED_BY[info["limited_by"][0]]

    assert given(14.0) == (10.0, "step limit")  # treatment begins
    assert given(4.0) == (4.0, "")
    mean = (10 + 4) / 2
    assert given(15.0) == (pytest.approx(1.2 * mean), "step limit")
    assert given(99.0)[1] == "step limit"
    for dose in (5.0,) * 7:
        assert given(dose) == (dose, "")
    for _ in range(3):
        assert given(0.0) == (0.0, "")
    assert given(5.0) == (pytest.approx(1.2 * 4 * 5 / 7), "step limit")  # the mean of seven days, three held
    for _ in range(7):
        assert given(0.0) == (0.0, "")
    assert given(9.0) == (9.0, "")  # after a week treatment begins anew


def test_what_is_observed_tells_the_current_dose_of_the_step_limit() -> None:
    """The recommender reads it from the observation; it must be what the environment goes by."""
    env = CohortEnv(ENV, 50)
    obs, _ = env.reset(seed=0)
    step = Warfarin("hamberg2010").step_limit
    assert step is not None
    names = [entry["name"] for entry in scenario_card(ENV)["observations"]]
    places = [names.index(name) for name in step.current]
    rng = np.random.default_rng(0)
    for _ in range(20):
        current = env.visits.treated.current_dose()
        assert current is not None
        np.testing.assert_allclose(step.observed(obs[:, places]), current, rtol=1e-6)
        obs = env.step(rng.uniform(0, 8, (50, 1)))[0]


# Policies of clinics.


def by_hand(inr: float, day: int) -> tuple[float, int]:
    """The nomogram as its table is written."""
    early = day < 7
    if inr < 1.5:
        return 1.15, 0
    if inr < 2.0:
        return (1.0 if early else 1.075), 0
    if inr <= 3.0:
        return ((0.75 if inr < 2.5 else 0.60) if early else 1.0), 0
    if inr <= 3.5:
        return (0.5 if early else 0.925), 0
    if inr <= 4.0:
        return (0.5 if early else 0.90), 1
    if inr <= 5.0:
        return (0.5 if early else 0.85), 2
    return (0.5 if early else 0.85), 3


@pytest.mark.parametrize("day", [3, 5, 7, 9, 63])
def test_the_nomogram_answers_as_its_table_says(day: int) -> None:
    inr = np.array([0.9, 1.49, 1.5, 1.99, 2.0, 2.49, 2.5, 3.0, 3.01, 3.5, 3.51, 4.0, 4.01, 5.0, 5.01, 12.0])
    factor, hold = answer(inr, day)
    assert list(zip(factor, hold, strict=True)) == [by_hand(x, day) for x in inr]


def test_the_starting_dose_of_gage() -> None:
    dose = starting_dose(*(np.array([x]) for x in (70.0, 1.9, 0, 0, 0)))
    assert dose[0] == pytest.approx(5.94, abs=0.005)
    each = np.zeros(4), np.array([0.0, 1, 2, 0])
    a = starting_dose(np.full(4, 70.0), np.full(4, 1.9), *each[:1] * 2, each[1])
    assert a[2] < a[1] < a[0]
    assert a[1] / a[0] == pytest.approx(1 - 0.28, abs=0.005)
    three = starting_dose(np.full(2, 70.0), np.full(2, 1.9), np.zeros(2), np.arange(2.0), np.zeros(2))
    two = starting_dose(np.full(2, 70.0), np.full(2, 1.9), np.arange(2.0), np.zeros(2), np.zeros(2))
    assert three[1] / three[0] == pytest.approx(1 - 0.33, abs=0.005)
    assert two[1] / two[0] == pytest.approx(1 - 0.19, abs=0.005)


@pytest.mark.parametrize("high", [15.0, 5.5, 2.0])
def test_recorded_densities_are_the_densities_of_the_doses(high: float) -> None:
    """E[1{dose in B}/density] is the length of B, for every bin that is reached."""
    n = 200_000
    dice = np.random.default_rng(0).random(n)
    dose, log_prob = recorded(np.full(n, 5.0), 0.15, np.full(n, high), dice)
    assert dose.max() <= high
    middle = min(5.0, high)
    for low, top in itertools.pairwise(np.linspace(0.7 * middle, min(1.3 * middle, high), 7)):
        weight = np.exp(-log_prob) * ((dose[:, 0] >= low) & (dose[:, 0] < top))
        assert abs(weight.mean() - (top - low)) < 5 * weight.std() / np.sqrt(n), (low, top)


def test_a_held_dose_is_none_and_has_no_density() -> None:
    dose, log_prob = recorded(np.array([0.0, 4.0]), 0.15, np.array([10.0, 10.0]), np.array([0.3, 0.3]))
    assert dose[0, 0] == 0
    assert np.isnan(log_prob[0])
    assert np.isfinite(log_prob[1])
    data = simulate(ENV, patients=300, policy="nomogram")
    np.testing.assert_array_equal(np.isnan(data.behaviour_log_prob), data.act[:, 0] == 0)
    assert not data.limited_by.any()


@pytest.mark.parametrize("name", list(POLICIES))
def test_policies_parse_back_from_their_names(name: str) -> None:
    policy = parse_policy(f"{name}:0.2", POLICIES)
    assert parse_policy(policy.name, POLICIES) == policy
    for bad in ("x", "-0.1", "3"):
        with pytest.raises(UserError, match="spread"):
            parse_policy(f"{name}:{bad}", POLICIES)
    with pytest.raises(UserError, match="unknown policy"):
        parse_policy(name)


REFERENCE = {  # % of 5,000 patients: in range days 1-30, days 31-90, < 1.5, > 4, >= 5, any INR >= 5
    "constant:5": (28.0, 30.4, 11.9, 19.7, 11.4, 26.4),
    "gage:0": (27.9, 32.3, 15.2, 10.9, 5.1, 16.2),
    "nomogram:0": (47.4, 62.8, 1.2, 0.9, 0.0, 2.4),
    "gage-nomogram:0": (45.1, 62.5, 1.3, 0.8, 0.0, 1.3),
    "uniform": (26.5, 26.9, 5.2, 34.7, 22.8, 49.9),
}


@pytest.mark.long
@pytest.mark.parametrize("policy", REFERENCE)
def test_clinics_keep_patients_in_range_as_an_independent_simulation_does(policy: str) -> None:
    """Every patient is followed to day 90, whatever the INR; doses meet the hard limits alone."""
    n, days = 5000, 90
    patients = WarfarinPatients(Warfarin("hamberg2010"), n, "train", WarfarinOptions(), days)
    seen = patients.start(0, 0)
    act = parse_policy(policy, POLICIES).begin(patients.clinic(), n)
    rng = np.random.default_rng(0)
    inr = np.empty((days, n))
    for day in range(days):
        dose, _ = act(patients.view(seen, None, rng.random((n, 2))))
        result = patients.step(dose.astype(np.float32))
        seen, inr[day] = result.seen, result.truth["INR"]
    first, later = inr[:30], inr[30:]
    reached = [
        ((first >= 2) & (first <= 3)).mean(),
        ((later >= 2) & (later <= 3)).mean(),
        (later < 1.5).mean(),
        (later > 4).mean(),
        (later >= 5).mean(),
        (inr >= 5).any(0).mean(),
    ]
    np.testing.assert_allclose(100 * np.array(reached), REFERENCE[policy], atol=2.0)


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitoring": "weekly"}, "monitoring must be clinic or daily, got 'weekly'"),
        ({"variability": "some"}, "variability must be full or none, got 'some'"),
        ({"hide_genotype": 1}, "hide_genotype must be False or True, got 1"),
        ({"realism": 3}, "no option 'realism'"),
        ({"history": 1}, "no option 'history'"),
        ({"variant": "2007"}, "no variant '2007'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gymnasium.make(ENV, **options)


def test_visits_are_recorded_by_a_clinic_unless_asked_otherwise() -> None:
    assert simulate("dosing/Warfarin-v0", patients=2, steps=3).metadata.policy == "nomogram:0.15"
    assert simulate("dosing/Insulin-v0", patients=2, steps=3).metadata.policy.startswith("protocol")
    assert simulate("dosing/Treatment-v0", patients=2, steps=3).metadata.policy == "uniform"


def test_the_card_states_what_a_clinical_scenario_has_to() -> None:
    card = scenario_card(ENV, hide_genotype=True)
    assert card["decision_interval"] == "1 day"
    assert card["terminates"] is True
    assert (card["target"]["low"], card["target"]["high"]) == (2.0, 3.0)
    assert card["budget"] == 5
    assert card["dose"]["unit"] == "mg/day"
    assert (card["dose"]["hard_low"], card["dose"]["hard_high"]) == ([0.0], [15.0])
    assert card["dose"]["step_limit"]["relative"] == 0.2
    assert {"nomogram", "gage", "gage-nomogram", "uniform", "constant:DOSE"} <= set(
        card["behaviour_policies"]
    )
    assert card["options"] == {
        "cohort": "train",
        "monitoring": "clinic",
        "variability": "full",
        "hide_genotype": True,
    }
    units = {entry["name"]: entry["unit"] for entry in card["observations"]}
    assert units["age"] == "year"
    assert units["dose yesterday"] == "mg/day"
