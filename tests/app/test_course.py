"""The course of what is kept in a range: hand-made courses whose time in range and events are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.analysis.course import Course, Range, TimeInRange, course_of
from app.charts.course import course, shown_range
from app.theme import HARM, NOTICE, TARGET
from app.widgets.course_panel import told
from dosing.data.store import Episodes
from simulator.card import scenario_card
from simulator.cohorts.generate import simulate
from simulator.cohorts.replay import Replayed, replay
from tests.app.test_charts import texts
from tests.app.test_pages import plain

INR = Range("last INR", "1", 2.0, 3.0, "a guideline")
VISITS = np.arange(1.0, 7.0)


def made(**fields: Any) -> Course:
    """Six visits: true value 2 and 3 on the ends of the range, two below, two above."""
    flags = np.array([False, False, False, False, True, True])
    usual: dict[str, Any] = {
        "target": INR,
        "seen": np.array([1.0, 1.0, 1.4, 2.1, 2.1, 4.4, 6.0]),
        "true": np.array([1.2, 1.9, 2.0, 3.0, 4.1, 5.5]),
        "within": None,
        "events": {"over_anticoagulated": flags, "severe": flags & (VISITS == 6), "critical": ~flags & flags},
        "definitions": {"severe": "INR of 5 or more"},
        "interval": "1 day",
        "cost": 2.0,
        "budget": 5.0,
        "ended": False,
    }
    return Course(**(usual | fields))


def said(one: Course, missing: str = "") -> str:
    return plain("\n".join(told(one, missing))).replace("**", "")


def test_the_ends_of_the_range_belong_to_it() -> None:
    assert TimeInRange.of(np.array([1.999, 2.0, 2.5, 3.0, 3.001, np.nan]), 2.0, 3.0) == TimeInRange(3, 1, 1)


def test_time_in_range_is_of_the_truth_where_it_is_known() -> None:
    assert made().judged == TimeInRange(2, 2, 2)
    assert made(true=None).judged == TimeInRange(2, 2, 2)  # the first value was seen before any dose
    words = said(made())
    assert (
        "Time in range (last INR): 33\N{NO-BREAK SPACE}% of 6 visits, by the true value after each visit: "
        "2 within 2 to 3, 2 below, 2 above" in words
    )
    assert "carried forward: 33\N{NO-BREAK SPACE}% in range" in words
    assert "Safety cost of these visits: 2 (budget of an episode: 5)" in words


def test_events_are_counted_by_name() -> None:
    assert made().counts == {"over_anticoagulated": 2, "severe": 1, "critical": 0}
    words = said(made())
    assert "Adverse events: over anticoagulated at 2 visits and severe at 1 visit; never critical" in words
    quiet = np.zeros(6, dtype=np.bool_)
    assert "No adverse events of severe" in said(made(events={"severe": quiet}))


def test_what_is_not_known_is_said_and_nothing_is_made_up() -> None:
    words = said(made(true=None, events={}), "recorded elsewhere.")
    assert "of 6 visits, as seen" in words
    assert "True value and adverse events are not known: recorded elsewhere." in words
    assert "carried forward" not in words
    assert "No adverse events" not in words


def test_an_early_end_is_said() -> None:
    assert "The episode ended early, at visit 6" in said(made(ended=True))
    assert "ended early" not in said(made())


def test_the_range_is_shaded_where_the_card_says_with_its_unit() -> None:
    glucose = Range("sensor glucose", "mg/dL", 70.0, 180.0, "a consensus")
    values = np.array([60.0, 100.0, 200.0, 90.0, 90.0, 90.0])
    one = made(target=glucose, seen=np.append(95.0, values), true=values, events={})
    figure = course(VISITS, one, 2)
    (band,) = (shape for shape in figure.layout.shapes if shape.fillcolor == TARGET)
    assert (band.y0, band.y1, band.yref) == (70.0, 180.0, "y")
    assert "target 70 to 180" in texts(figure)
    assert "(mg/dL)" in figure.layout.yaxis.title.text
    assert figure.layout.xaxis.title.text == "visit (1 to 6, 1 day each)"
    assert figure.layout.title.text == NOTICE
    assert "70 to 180 mg/dL" in said(one)
    low, high = shown_range([one])
    assert low < 60.0
    assert high > 200.0
    higher = replace(one, seen=one.seen + 200.0)
    both = shown_range([one, higher])
    assert both[0] < 60.0
    assert both[1] > 400.0
    assert list(course(VISITS, one, 2, both).layout.yaxis.range) == list(both)


def test_every_event_that_happened_has_a_named_lane_with_its_visits() -> None:
    figure = course(VISITS, made(), 0)
    lanes = [trace for trace in figure.data if trace.yaxis == "y2"]
    assert [lane.x.tolist() for lane in lanes] == [[6.0, 7.0], [7.0]]  # what visits 5 and 6 brought
    assert {lane.marker.color for lane in lanes} == {HARM}
    assert "<b>over anticoagulated</b>: at 2 visits" in texts(figure)
    assert "<b>severe</b>: at 1 visit" in texts(figure)
    assert "critical" not in texts(figure)
    assert "INR of 5 or more" in lanes[1].hovertemplate
    true, seen = (trace for trace in figure.data if trace.yaxis is None)
    assert true.x.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert seen.x.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert (np.asarray(seen.marker.size) > 0).tolist() == [True, False, True, True, False, True, True]


def test_the_course_within_visits_is_drawn_at_its_times_and_fits_the_axis() -> None:
    """Four values a visit; the last stands where the visit's own true value would."""
    values = np.linspace(1.2, 5.5, 24).reshape(6, 4)
    values[2, 1] = 9.0
    one = made(within=values, true=values[:, -1])
    true, _ = (trace for trace in course(VISITS, one, 0).data if trace.yaxis is None)
    assert true.x[:5].tolist() == [1.25, 1.5, 1.75, 2.0, 2.25]
    assert true.x[3::4].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    np.testing.assert_array_equal(true.y[3::4], one.true)
    assert true.y[9] == 9.0
    assert shown_range([one])[1] > 9.0


def test_no_event_leaves_no_lane() -> None:
    figure = course(VISITS, made(events={}), 0)
    assert not [trace for trace in figure.data if trace.yaxis == "y2"]


@pytest.mark.parametrize(
    ("env_id", "name", "unit", "ends"),
    [
        ("dosing/Warfarin-v0", "last INR", "1", (2.0, 3.0)),
        ("dosing/Insulin-v0", "sensor glucose", "mg/dL", (70.0, 180.0)),
    ],
)
def test_a_card_states_a_range_of_what_is_observed(
    env_id: str, name: str, unit: str, ends: tuple[float, float]
) -> None:
    card = scenario_card(env_id)
    target = Range.of(card)
    assert target is not None
    assert (target.name, target.unit, (target.low, target.high)) == (name, unit, ends)
    assert name in [entry["name"] for entry in card["observations"]]


@pytest.mark.parametrize("target", [None, "2 to 3", {"name": "x"}, {"name": "x", "low": "a", "high": 3}])
def test_a_card_without_a_range_draws_none(target: Any) -> None:
    assert Range.of({"target": target}) is None


def one_patient(episodes: Episodes) -> tuple[np.ndarray, Replayed]:
    return np.flatnonzero(episodes.episode == 1), replay(episodes, 1)[1]


def test_recorded_courses_are_those_of_the_simulator() -> None:
    episodes = simulate("dosing/Warfarin-v0", patients=12, policy="uniform", seed=1, monitoring="daily")
    high = 0
    for patient, found in replay(episodes, 0).items():
        rows = np.flatnonzero(episodes.episode == patient)
        one = course_of(episodes, rows, found)
        assert one is not None
        assert one.true is not None
        above, below = (one.counts[f"{name}_anticoagulated"] for name in ("over", "under"))
        assert above == int((one.true > 4.0).sum())
        assert below == int((one.true[14:] < 1.5).sum())
        lost = 90 - len(rows) if one.ended else 0  # days charged at an early end
        assert one.cost == pytest.approx(above + below + lost)
        assert np.abs(np.log(one.seen[1:] / one.true)).max() < 0.6  # measured daily, log error of 0.10
        assert one.budget == 5.0
        high += above
    assert high


def test_a_scenario_without_a_range_has_no_course() -> None:
    episodes = simulate("dosing/Treatment-v0", patients=2, policy="titration", seed=1)
    assert course_of(episodes, *one_patient(episodes)) is None


def test_a_range_of_something_that_is_not_observed_draws_nothing() -> None:
    episodes = simulate("dosing/Warfarin-v0", patients=2, policy="nomogram", seed=1)
    meta = episodes.metadata
    other = replace(episodes, metadata=replace(meta, obs_names=tuple(f"x{k}" for k in range(8))))
    assert course_of(other, np.arange(90), None) is None
