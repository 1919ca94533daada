"""Recorded visits gone through again: the same patient, what the record leaves out, and nobody else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from dosing.data.store import Episodes
from dosing.errors import UserError
from simulator.cohorts.generate import simulate
from simulator.cohorts.replay import go_on, replay

WARFARIN, INSULIN = "dosing/Warfarin-v0", "dosing/Insulin-v0"


def rows_of(episodes: Episodes, patient: int) -> np.ndarray:
    return np.flatnonzero(episodes.episode == patient)


@pytest.mark.long
@pytest.mark.parametrize(
    ("env_id", "policy", "truth", "options"),
    [
        (WARFARIN, "uniform", "INR", {"hide_genotype": True}),
        (INSULIN, "uniform-allowed", "glucose_mg_dL", {"steps": 40}),
    ],
)
def test_events_and_truth_are_those_of_the_patient_treated_alone(
    env_id: str, policy: str, truth: str, options: dict[str, Any]
) -> None:
    episodes = simulate(env_id, patients=6, policy=policy, seed=4, first_patient=250, **options)
    found = replay(episodes, 253)
    assert sorted(found) == [250, 251, 252, 253, 254, 255]  # one of two blocks would hold 256 and on
    env: Any = gymnasium.make(env_id, **options)
    happened = 0
    for patient, one in found.items():
        env.reset(seed=4, options={"patient_id": patient})
        infos = [env.step(episodes.act_requested[row])[4] for row in rows_of(episodes, patient)]
        assert one.target is not None
        np.testing.assert_allclose(one.target, [info["truth"][truth] for info in infos], rtol=1e-6)
        for name, flags in one.events.items():
            assert flags.tolist() == [info["events"][name] for info in infos]
            happened += int(flags.sum())
    assert happened


@pytest.mark.long
def test_events_that_last_are_those_of_the_course_within_visits() -> None:
    """A quarter of an hour in a row below 70 or 54 mg/dL, counted in the curve itself."""
    episodes = simulate(INSULIN, patients=12, policy="uniform-allowed", seed=4)
    begun = {"hypoglycaemia_level_1": 0, "hypoglycaemia_level_2": 0}
    for one in replay(episodes, 0).values():
        assert one.within is not None
        assert one.target is not None
        assert one.within.shape[1] == 15
        np.testing.assert_array_equal(one.within[:, -1], one.target)
        for name, threshold in zip(begun, (70.0, 54.0), strict=True):
            visits = np.flatnonzero(one.events[name])
            low = one.within.ravel() < threshold
            full = np.convolve(low, np.ones(15))[: len(low)].reshape(-1, 15) == 15
            assert full[visits].any(axis=1).all()  # a quarter of an hour is full within the visit
            begun[name] += len(visits)
            assert full.any() == bool(len(visits))
    assert all(begun.values())


def test_warfarin_has_no_course_within_a_day() -> None:
    episodes = simulate(WARFARIN, patients=2, policy="nomogram", seed=4)
    assert replay(episodes, 0)[0].within is None


def test_patients_of_another_block_are_found_too() -> None:
    episodes = simulate(WARFARIN, patients=4, policy="nomogram", seed=1, first_patient=254)
    assert sorted(replay(episodes, 255)) == [254, 255]
    assert sorted(replay(episodes, 256)) == [256, 257]


def test_an_episode_that_ended_early_ends_there_again() -> None:
    episodes = simulate(WARFARIN, patients=40, policy="uniform", seed=3)
    ended = episodes.episode[episodes.terminated]
    assert len(ended), "the test needs a critical INR"
    one = replay(episodes, int(ended[0]))[int(ended[0])]
    assert one.target is not None
    assert len(one.target) == len(rows_of(episodes, int(ended[0]))) < 90
    assert one.target[-1] > 10.0
    assert one.events["critical"].tolist() == [False] * (len(one.target) - 1) + [True]


def test_a_rule_asks_for_the_doses_that_it_gave_when_it_made_the_record() -> None:
    episodes = simulate(WARFARIN, patients=12, policy="nomogram:0", seed=2)
    for patient, one in replay(episodes, 0).items():
        asked = episodes.act_requested[rows_of(episodes, patient)]
        np.testing.assert_allclose(one.clinic["nomogram:0"], asked, rtol=1e-6)
        assert one.clinic["nomogram:0"][0, 0] == 5.0


def test_gages_dose_is_that_of_the_published_formula_at_every_visit() -> None:
    episodes = simulate(WARFARIN, patients=8, policy="nomogram", seed=2, monitoring="daily")
    env: Any = gymnasium.make_vec(WARFARIN, num_envs=8)
    env.reset(seed=2)
    known = env.unwrapped.visits.treated.known()
    two, three, a = (known[f"{name} alleles"] for name in ("*2", "*3", "A"))
    surface, age = known["body surface"], known["age"]
    log = 0.9751 - 0.3238 * a + 0.4317 * surface - 0.4008 * three - 0.00745 * age - 0.2066 * two + 0.50725
    for patient, one in replay(episodes, 0).items():
        assert one.clinic["gage:0"].shape == (90, 1)
        np.testing.assert_allclose(one.clinic["gage:0"], np.exp(log[patient]), rtol=1e-6)


def test_the_schedule_is_what_the_pump_shows() -> None:
    episodes = simulate(INSULIN, patients=3, policy="protocol", seed=5, steps=20)
    place = episodes.metadata.obs_names.index("scheduled basal")
    for patient, one in replay(episodes, 0).items():
        shown = episodes.obs[rows_of(episodes, patient), place]
        np.testing.assert_allclose(one.clinic["basal:0"][:, 0], shown, rtol=1e-6)


def test_a_scenario_without_range_and_rules_has_neither() -> None:
    one = replay(simulate("dosing/Treatment-v0", patients=2, policy="titration", seed=1), 1)[1]
    assert one.target is None
    assert one.clinic == {}
    assert set(one.events) == {"extreme_dose"}


def test_of_a_patient_who_comes_out_otherwise_nothing_is_said() -> None:
    episodes = simulate(WARFARIN, patients=4, policy="nomogram", seed=1)
    episodes.obs[rows_of(episodes, 2)[50], 0] += 0.01
    assert sorted(replay(episodes, 2)) == [0, 1, 3]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"env_id": None}, "recorded elsewhere"),
        ({"env_id": "Pendulum-v1"}, "recorded elsewhere"),
        ({"seed": None}, "recorded elsewhere"),
        ({"scenario_version": "0.9"}, "version 0.9 of dosing/Warfarin-v0"),
        ({"env_options": {"steps": 5}}, "beyond the 5 of an episode"),
    ],
)
def test_visits_that_cannot_be_gone_through_again_are_refused(changed: dict[str, Any], said: str) -> None:
    episodes = simulate(WARFARIN, patients=2, policy="nomogram", seed=1)
    other = replace(episodes, metadata=replace(episodes.metadata, **changed))
    with pytest.raises(UserError, match=said):
        replay(other, 0)


def recorded_from(episodes: Episodes, row: int) -> Any:
    """The rule that gives what was recorded from a row on."""
    return lambda obs, visit: episodes.act_requested[row + visit].reshape(*obs.shape[:2], 1)


@pytest.mark.parametrize(("env_id", "policy"), [(WARFARIN, "nomogram"), (INSULIN, "protocol")])
def test_the_recorded_doses_lead_on_as_recorded(env_id: str, policy: str) -> None:
    episodes = simulate(env_id, patients=3, policy=policy, seed=6, steps=30)
    rows, row = rows_of(episodes, 1), int(rows_of(episodes, 1)[12])
    on = go_on(episodes, row, recorded_from(episodes, row))
    rest, found = rows[12:], replay(episodes, 1)[1]
    np.testing.assert_allclose(on.seen[:-1], episodes.obs[rest], rtol=1e-5)
    np.testing.assert_allclose(on.seen[-1], episodes.next_obs[rest[-1]], rtol=1e-5)
    np.testing.assert_allclose(on.reward, episodes.reward[rest], rtol=1e-5)
    np.testing.assert_allclose(on.cost, episodes.cost[rest])
    np.testing.assert_allclose(on.dose, episodes.act[rest])
    assert on.target is not None
    assert found.target is not None
    np.testing.assert_allclose(on.target, found.target[12:])
    for name, flags in on.events.items():
        assert flags.tolist() == found.events[name][12:].tolist()
    assert not on.ended


def test_no_more_warfarin_brings_the_inr_down_to_where_it_began() -> None:
    episodes = simulate(WARFARIN, patients=2, policy="nomogram", seed=6)
    row = int(rows_of(episodes, 1)[30])
    on = go_on(episodes, row, lambda obs, visit: np.zeros((1, 1, 1)))
    assert len(on.reward) == 60
    assert on.target is not None
    assert on.target[-1] == pytest.approx(1.0, abs=0.02)
    assert on.events["under_anticoagulated"][-30:].all()
    assert on.cost[-30:].tolist() == [1.0] * 30


def test_limits_hold_chosen_doses_and_an_early_end_is_told() -> None:
    episodes = simulate(WARFARIN, patients=8, policy="nomogram", seed=6)
    ends = []
    for patient in range(8):
        on = go_on(episodes, int(rows_of(episodes, patient)[20]), lambda obs, visit: np.full((1, 1, 1), 15.0))
        assert on.limited[0] != 0  # a maintenance dose rises by a fifth at most
        assert on.dose.max() <= 15.0
        ends.append(on.ended)
        assert on.ended == (len(on.reward) < 70)
        assert on.ended == bool(on.events["critical"].any())
    assert any(ends)


def test_who_comes_out_otherwise_does_not_go_on() -> None:
    episodes = simulate(WARFARIN, patients=2, policy="nomogram", seed=6)
    row = int(rows_of(episodes, 1)[30])
    episodes.obs[row - 5, 0] += 0.01
    with pytest.raises(UserError, match="come out otherwise"):
        go_on(episodes, row, recorded_from(episodes, row))
