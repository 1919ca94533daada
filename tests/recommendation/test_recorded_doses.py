"""A dose that nobody was given at states like one is deferred, and its neighbours are told."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agents
from dosing.data.dataset import Transform
from dosing.data.dose_support import ALIKE, DoseSupport
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.policy import DosePolicy, DoseSet
from dosing.recommendation.answers_table import answers_schema, answers_table
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.dose_context import DoseContext, Evidence
from dosing.recommendation.novelty import Monitor, keep_monitor, monitor_of
from dosing.recommendation.reasons import Reason
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Recommender, Rules
from dosing.recommendation.report import Said, report
from dosing.runs.folder import NOVELTY
from dosing.safety import DoseLimits, dose_text
from dosing.types import Problem
from tests.ope.ope_problems import episodes
from tests.support.samples import small

LIMITS = DoseLimits((0.0,), (10.0,), "mg")


def dosed(patients: int = 40, visits: int = 6, seed: int = 0, rule: Any = None) -> Episodes:
    """Patients of two state entries, dosed between 2 and 3 mg unless a rule of the state says otherwise."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(patients, visits, 2))
    act = rng.uniform(2.0, 3.0, size=(patients, visits, 1)) if rule is None else rule(obs, rng)
    return episodes(obs, act, obs[..., 0], obs, limits=(0.0, 10.0))


@functools.cache
def monitor() -> Monitor:
    return Monitor.fit(dosed())


class Constant(DosePolicy):
    """A policy of two seeds that give one dose, or one for each row where there are as many."""

    def __init__(self, dose: Any) -> None:
        super().__init__(agents.build("bc", small("bc"), Problem(2, 1, 6), (0, 1)), Transform.fit(dosed()))
        self.dose = np.asarray(dose, dtype=np.float64).reshape(-1, 1)

    def consult(self, obs: Any, low: Any, high: Any) -> tuple[Any, DoseSet]:
        dose = np.broadcast_to(self.dose, (2, obs.shape[1], 1))
        return dose, DoseSet("interval", True, dose - 0.1, dose + 0.1, np.zeros_like(dose))

    def central(self, obs: Any, mass: float) -> tuple[Any, Any]:
        dose = np.broadcast_to(self.dose, (2, obs.shape[1], 1))
        return dose - 0.1, dose + 0.1


def asked(dose: Any, known: Monitor | None = None) -> Recommender:
    return Recommender(Constant(dose), Rules(LIMITS), known or monitor())


# The distance


def slow(dose: float, near: Any, rule: Any) -> float:
    """Distance to the second nearest of the recorded doses and their mirror images, one at a time."""
    low, high, scale, tolerance = rule.low[0], rule.high[0], rule.scale[0], rule.tolerance[0]
    held = min(max(dose, low), high)
    beyond = max(abs(dose - held) - tolerance, 0.0)
    edge = low if held - low < high - held else high
    points = [float(a) for a in near] + [2 * edge - float(a) for a in near]
    each = sorted((max(abs(held - p) - tolerance, 0.0) + beyond) / scale for p in points)
    return each[ALIKE - 1]


@given(dose=st.floats(-5.0, 15.0), state=st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
def test_the_distance_of_a_dose_is_that_of_a_slow_search(dose: float, state: tuple[float, float]) -> None:
    known = monitor()
    look = known.look(np.array([state]), np.array([[dose]]))
    away = (((np.array(state) - known.obs) / known.scale) ** 2).sum(1)
    near = known.act[np.argsort(away)[: known.doses.near], 0]
    assert look.dose_distance[0] == pytest.approx(slow(dose, near, known.doses), rel=1e-9, abs=1e-12)
    assert (look.recorded_low[0, 0], look.recorded_high[0, 0]) == (near.min(), near.max())
    np.testing.assert_array_equal(look.distance, known.nearest(np.array([state]))[0])


def test_recorded_doses_of_new_patients_are_seldom_called_unrecorded() -> None:
    """The promise, over cohorts; and not by calling none: doses far beyond are always."""
    rates, levels = [], []
    for seed in range(30):
        known = Monitor.fit(dosed(30, seed=seed))
        new = dosed(60, seed=1000 + seed)
        look = known.look(new.obs.astype(float), new.act.astype(float))
        rates.append((look.dose_distance > known.doses.threshold).mean())
        levels.append(known.doses.level)
        beyond = known.look(new.obs.astype(float), new.act.astype(float) + 2.0)
        assert (beyond.dose_distance > known.doses.threshold).all()
    error = np.std(rates, ddof=1) / np.sqrt(len(rates))
    assert 0.1 * np.mean(levels) < np.mean(rates) <= np.mean(levels) + 3 * error
    assert "a dose is unrecorded beyond distance" in str(known)
    assert known.dose_false_alarms.low <= np.mean(rates) <= known.dose_false_alarms.high


def test_doses_are_recorded_at_states_and_not_just_anywhere() -> None:
    """Low doses at low states, high ones at high states: each is unrecorded at the other's."""
    known = Monitor.fit(
        dosed(rule=lambda obs, rng: 5 + 3 * np.sign(obs[..., :1]) + rng.uniform(-1, 1, (40, 6, 1)))
    )
    states = np.array([[-1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    look = known.look(states, np.array([[2.0], [8.0], [2.0], [8.0]]))
    assert (look.dose_distance > known.doses.threshold).tolist() == [False, True, True, False]


def test_a_dose_between_neighbouring_levels_is_recorded_and_between_distant_ones_is_not() -> None:
    levels = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 8.0])
    known = Monitor.fit(dosed(rule=lambda obs, rng: rng.choice(levels, (40, 6, 1))))
    look = known.look(np.zeros((4, 2)), np.array([[1.25], [2.0], [5.5], [8.0]]))
    assert (look.dose_distance > known.doses.threshold).tolist() == [False, False, True, False]


@pytest.mark.parametrize("share", [0.02, 0.03, 0.05, 0.1, 0.3])
def test_a_few_doses_apart_from_all_others_let_nothing_between_pass(share: float) -> None:
    """Some are given nothing and the others about 5 mg: 2.5 mg is far from both at any share of either."""

    def rule(obs: Any, rng: Any) -> Any:
        return np.where(rng.random((60, 6, 1)) < share, 0.0, rng.normal(5.0, 0.3, (60, 6, 1)))

    known = Monitor.fit(dosed(60, rule=rule))
    states = np.random.default_rng(1).normal(size=(50, 2))
    for dose, told in ((2.5, True), (5.0, False)):
        look = known.look(states, np.full((50, 1), dose))
        assert ((look.dose_distance > known.doses.threshold) == told).all()
    new = dosed(300, seed=9, rule=lambda obs, rng: np.resize(rule(obs[:60], rng), (300, 6, 1)))
    look = known.look(new.obs.astype(float), new.act.astype(float))
    assert (look.dose_distance > known.doses.threshold).mean() < 2.0 * known.doses.level + 0.02


def test_two_dose_dimensions_are_judged_together() -> None:
    """Doses on a diagonal: each of (2, 8) was given, never both at once."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(40, 6, 2))
    first = rng.uniform(2.0, 8.0, size=(40, 6, 1))
    act = np.concatenate([first, first + rng.uniform(-0.3, 0.3, size=(40, 6, 1))], axis=-1)
    known = Monitor.fit(episodes(obs, act, obs[..., 0], obs, limits=(0.0, 10.0)))
    look = known.look(np.zeros((3, 2)), np.array([[5.0, 5.0], [2.5, 7.5], [7.5, 2.5]]))
    assert (look.dose_distance > known.doses.threshold).tolist() == [False, True, True]
    with pytest.raises(UserError, match=r"doses of 2 number\(s\)"):
        known.look(np.zeros((3, 2)), np.zeros((3, 1)))


# What the recommender says


@settings(max_examples=60, deadline=None)
@given(dose=st.floats(-20.0, 20.0), state=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
def test_no_dose_is_ok_that_nobody_was_given(dose: float, state: tuple[float, float]) -> None:
    result = recommend(asked(dose), list(state))
    assert result.dose is not None
    assert 0.0 <= result.dose[0] <= 10.0
    if result.status in ("ok", "limited"):
        assert 1.8 <= result.dose[0] <= 3.2
    if not 1.8 <= result.dose[0] <= 3.2:
        assert result.status == "deferred"
        assert "unrecorded_dose" in result.codes
        assert any("was recorded at states like this one" in reason for reason in result.reasons)


def test_a_deferred_dose_tells_what_was_given_instead(tmp_path: Path) -> None:
    result = recommend(asked(9.94), [0.0, 0.0])
    assert (result.status, result.codes) == ("deferred", ("unrecorded_dose",))
    assert result.recorded_near is not None
    (low,), (high,) = result.recorded_near
    assert 2.0 <= low < 2.2 < 2.8 < high <= 3.0
    (reason,) = result.reasons
    assert reason.startswith("no dose near 9.94 mg was recorded at states like this one: the 24 nearest")
    assert f"{dose_text(low)} to {dose_text(high)} mg" in reason
    told = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert told["recorded_near"] == [[low], [high]]
    assert told["dose_distance"] > told["dose_threshold"]
    page = report([Said("A", "b", result, DoseContext(Evidence()))])
    assert f"Doses recorded near this state: {dose_text(low)} to {dose_text(high)} mg" in page
    assert 'class="recorded"' in page


def test_a_limited_dose_is_judged_where_it_is_given() -> None:
    """The policy asks for 40 mg, the limit holds 10 mg, and nobody was given that either."""
    result = recommend(asked(40.0), [0.0, 0.0])
    assert (result.dose, result.status, result.codes) == (
        (10.0,),
        "deferred",
        ("unrecorded_dose", "hard_limit"),
    )
    tight = replace(asked(40.0), rules=Rules(DoseLimits((0.0,), (2.5,), "mg")))
    assert recommend(tight, [0.0, 0.0]).status == "limited"


def test_a_table_has_the_columns_and_the_same_answers() -> None:
    doses = np.array([2.5, 9.0, -3.0])
    recommender = asked(doses)
    result = recommend_all(recommender, np.zeros((3, 2)))
    assert ((result.codes & Reason.UNRECORDED_DOSE) != 0).tolist() == [False, True, True]
    schema = answers_schema(recommender, "hash", Evidence())
    table = answers_table(result, 0, schema, [None] * 3).to_pydict()
    assert table["reasons"] == ["", "unrecorded_dose", "unrecorded_dose hard_limit"]
    alone = recommend(asked(9.0), [0.0, 0.0])
    assert alone.recorded_near == ((table["recorded_low"][1],), (table["recorded_high"][1],))
    assert alone.dose_distance == table["dose_distance"][1]


def test_without_a_monitor_nothing_is_advised() -> None:
    result = recommend(replace(asked(2.5), monitor=None, note="One patient has no monitor."), [0.0, 0.0])
    assert (result.status, result.codes, result.recorded_near) == ("deferred", ("no_monitor",), None)
    assert result.reasons[0].endswith("One patient has no monitor.")
    assert result.dose == (2.5,)


def test_a_monitor_of_an_earlier_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    keep_monitor(tmp_path, dosed())
    fields = json.loads((tmp_path / NOVELTY).read_text())
    (tmp_path / NOVELTY).write_text(json.dumps(fields | {"schema": 1}))
    with pytest.raises(UserError, match="knows states and no doses, as earlier versions wrote it; train"):
        monitor_of(tmp_path)


def test_a_kept_monitor_judges_doses_alike(tmp_path: Path) -> None:
    keep_monitor(tmp_path, dosed())
    kept, _ = monitor_of(tmp_path)
    assert kept is not None
    assert kept.doses == monitor().doses
    assert kept.dose_false_alarms == monitor().dose_false_alarms


def test_the_support_of_estimates_is_that_of_the_monitor() -> None:
    data = dosed()
    support = DoseSupport.fit(data.obs, data.act, data.episode)
    states, doses = data.obs[:50].astype(float), np.linspace(0.0, 5.0, 50)[:, None]
    look = monitor().look(states, doses)
    assert support.rule == monitor().doses
    expected = look.dose_distance > monitor().doses.threshold
    np.testing.assert_array_equal(support.unrecorded(states, doses), expected)


# Doses in words


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-3, 1e6),
    share=st.floats(0.0, 1.0),
    places=st.sampled_from((None, 0, 2)),
)
def test_no_rounding_carries_a_dose_across_its_limit(
    low: float, width: float, share: float, places: int | None
) -> None:
    high = low + width
    dose = min(max(low + share * width, low), high)
    text = dose_text(dose, low, high, places)
    assert low <= float(text) <= high
    assert "e+" not in text
    assert float(text) == pytest.approx(
        dose, rel=5e-4, abs=0.5 if places == 0 else 5e-3 if places else 1e-300
    )


def test_doses_are_short_where_they_can_be() -> None:
    assert dose_text(12345.6, 0.0, 12345.6) == "12345.6"
    assert dose_text(0.123456) == "0.1235"
    assert dose_text(9.99996, 0.0, 9.99997) == "9.99996"
    assert dose_text(2.0, 0.0, 10.0) == "2"
    assert dose_text(2.996, 0.0, 2.998, 1) == "2.996"
    assert dose_text(10.001, 0.0, 10.0) != "10"  # a proposed dose beyond its limit is not shown at it
