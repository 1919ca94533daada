"""The ridgeline says what the numbers say: own peaks, mass beyond the limits, ends, doses to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import stats

from app.analysis.recommendations import Answer, DensityCurve, Landmarks, dose_range, landmarks
from app.charts.ridgeline import BASE, HEAD, LANE, PEAK, ridgeline, scaled
from app.theme import GREY, HARM, MARKS, OTHER
from dosing.recommendation.records import SeedSet
from dosing.safety import DoseLimits
from dosing.studies.baseline import Baseline
from tests.app.test_charts import answer, refusal, row, texts

DOSE = np.linspace(-3.0, 3.0, 6001)
RED = "rgba(208,59,47,0.55)"


def parabola(low: float, high: float) -> DensityCurve:
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    density = np.maximum(0.0, 0.75 / half * (1 - ((DOSE - middle) / half) ** 2))
    return DensityCurve(DOSE, density, {"proposal": np.exp(-(DOSE**2))})


def normal(mean: float, deviation: float) -> DensityCurve:
    return DensityCurve(DOSE, stats.norm(mean, deviation).pdf(DOSE), {})


def wide(mean: float, deviation: float, position: int = 0) -> Answer:
    """A Gaussian policy of one seed."""
    law = stats.norm(mean, deviation)
    ends = tuple(float(x) for x in law.ppf([0.005, 0.995]))
    one = answer(bounded=False, seeds=((mean, *ends),), position=position)
    return replace(one, outside=((float(law.cdf(-1.0)), float(law.sf(1.0))),))


def draw(answers: Sequence[Answer], curves: Sequence[DensityCurve | None], **more: Any) -> go.Figure:
    return ridgeline(answers, curves, more.pop("around", Landmarks()), **more)


def areas(figure: go.Figure, red: bool) -> float:
    """Area of the filled parts of one kind, by the shoelace formula: pixels times doses."""
    total = 0.0
    for trace in figure.data:
        if trace.fill == "toself" and (trace.fillcolor == RED) == red:
            x, y = np.asarray(trace.x), np.asarray(trace.y)
            total += 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
    return total


def heights(figure: go.Figure) -> list[float]:
    """Height in pixels of every density line above the foot of its lane."""
    lines = [t for t in figure.data if t.mode == "lines" and t.customdata is not None]
    return [float(np.nanmax(t.y)) + HEAD + LANE * k + BASE for k, t in enumerate(lines)]


def boxes(figure: go.Figure) -> list[Any]:
    """The bands: rectangles that are neither shade nor red."""
    found = [s for s in figure.layout.shapes if s.type == "rect" and s.layer != "below"]
    return [s for s in found if s.fillcolor != RED]


def test_every_density_has_its_own_peak() -> None:
    both = [answer(), wide(0.0, 1.0, 1)]
    assert heights(draw(both, [parabola(0.1, 0.4), normal(0.0, 1.0)])) == pytest.approx([BASE - PEAK] * 2)
    assert parabola(0.1, 0.4).density.max() > 10 * normal(0.0, 1.0).density.max()


def test_what_lies_beyond_the_limits_is_red_and_as_large_as_its_probability() -> None:
    one = wide(0.7, 0.8)
    figure = draw([one], [normal(0.7, 0.8)])
    left, right = dose_range([one], 0)
    law = stats.norm(0.7, 0.8)
    beyond = law.cdf(-1) + law.sf(1)
    red, rest = areas(figure, red=True), areas(figure, red=False)
    assert red / (red + rest) == pytest.approx(beyond, abs=2e-3)
    assert max(x for t in figure.data if t.fillcolor == RED for x in t.x) >= right > 1.0 > -1.0 > left
    (words,) = (a for a in figure.layout.annotations if "outside" in a.text)
    percent = f"{100 * beyond:.1f}"
    assert words.text == f"<b>{percent}\N{NO-BREAK SPACE}% outside</b>"
    assert (words.x, words.xanchor) == (right, "right")
    mirrored = draw([wide(-0.7, 0.8)], [normal(-0.7, 0.8)])
    (other,) = (a for a in mirrored.layout.annotations if "outside" in a.text)
    assert (other.text, other.xanchor) == (words.text, "left")


def test_a_support_within_the_limits_has_no_red() -> None:
    figure = draw([answer()], [parabola(0.1, 0.4)])
    assert areas(figure, red=True) == 0.0
    assert "none outside" in texts(figure)
    assert HARM not in figure.to_json()


def test_a_spike_is_cut_and_says_so() -> None:
    spike = DensityCurve(DOSE, stats.norm(0.2, 0.3).pdf(DOSE) + 500.0 * (np.abs(DOSE - 0.2) < 0.002), {})
    figure = draw([answer(seeds=((0.2, -0.8, 1.0),))], [spike])
    assert "(peak cut)" in texts(figure)
    assert heights(figure) == pytest.approx([BASE - PEAK])
    height, cut = scaled(spike.density, 1.0 / 1.8, log=False)
    assert cut
    assert height[DOSE.searchsorted(0.21)] == pytest.approx(
        stats.norm(0.2, 0.3).pdf(0.21) / (4 / 1.8), rel=1e-3
    )
    assert "cut" not in texts(draw([answer()], [parabola(0.1, 0.4)]))
    assert "density" not in str(figure.layout.yaxis.title.text)  # no axis that runs to 500


def test_on_the_log_scale_decades_are_even_and_a_zero_density_is_a_gap() -> None:
    height, _ = scaled(np.array([1.0, 1e-3, 1e-6, 1e-9, 0.0]), 1.0, log=True)
    assert height[:4] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert np.isnan(height[4])
    figure = draw([answer()], [parabola(0.1, 0.4)], log=True, extras=True)
    density, proposal = (t for t in figure.data if t.mode == "lines" and len(t.x) > 100 and t.fill is None)
    inside = (density.x > 0.1) & (density.x < 0.4)
    assert np.isnan(density.y[~inside]).all()
    assert np.isfinite(density.y[inside]).all()
    assert proposal.line.dash == "dot"
    assert "Agent 0 proposal" in proposal.hovertemplate


def test_a_support_is_a_solid_band_and_a_central_interval_a_dashed_one() -> None:
    both = [answer(), answer(bounded=False, seeds=((-0.5, -0.9, 0.5),), position=1)]
    figure = draw(both, [parabola(0.1, 0.4), None])
    exact, central = boxes(figure)
    assert (exact.x0, exact.x1, exact.fillcolor) == (0.1, 0.4, MARKS[0].colour)
    assert (central.x0, central.x1, central.line.dash) == (-0.9, 0.5, "4px,3px")
    assert central.fillcolor == "rgba(0,0,0,0)"
    said = texts(figure).replace("\N{NO-BREAK SPACE}", " ")
    assert "Agent 0</b>: 0.100 to 0.400, exact support" in said
    assert "Agent 1</b>: any, central 99 % \N{MINUS SIGN}0.900 to 0.500\n" in f"{said}\n"


def test_seeds_that_are_apart_keep_their_own_intervals() -> None:
    apart = answer(seeds=((-0.8, -0.9, -0.7), (0.5, 0.4, 0.6), (0.6, 0.55, 0.7)))
    assert apart.pieces(0) == [(-0.9, -0.7), (0.4, 0.7)]
    figure = draw([apart], [None])
    assert [(s.x0, s.x1) for s in boxes(figure)] == [(-0.9, -0.7), (0.4, 0.7)]
    assert "in 2 parts, exact" in texts(figure)
    assert answer().pieces(0) == [(0.1, 0.4)]


def test_a_long_name_leaves_no_room_for_all_words() -> None:
    long = answer()
    long = replace(long, source=replace(long.source, name="Decision Transformer"))
    said = texts(draw([long], [None])).replace("\N{NO-BREAK SPACE}", " ")
    assert "Decision Transformer</b>: 0.100 to 0.400, exact\n" in f"{said}\n"


def test_hard_limits_are_drawn_at_the_limits() -> None:
    figure = draw([answer(limits=DoseLimits((-2.0,), (6.0,), "mg"))], [None])
    lines = {s.x0 for s in figure.layout.shapes if s.type == "line" and s.line.width == 2.5}
    assert lines == {-2.0, 6.0}
    grey = sorted((s.x0, s.x1) for s in figure.layout.shapes if s.layer == "below")
    left, right = figure.layout.xaxis.range
    assert grey == [(-2.0, left), (6.0, right)]
    assert left < -2.0 < 6.0 < right
    assert "hard limit 6" in texts(figure)
    assert figure.layout.xaxis.title.text == "dose (mg)"


def test_a_deferred_dose_is_small_and_grey() -> None:
    figure = draw([answer(status="deferred"), answer(position=1)], [parabola(0.1, 0.4)] * 2)
    small, large = (t.marker for t in figure.data if t.mode == "markers" and "dose 0.225" in t.hovertemplate)
    assert (small.color, large.color) == (GREY, MARKS[1].colour)
    assert small.size < large.size
    assert texts(figure).count("deferred") == 1


def test_a_refusal_is_said_and_draws_nothing() -> None:
    figure = draw([answer(), refusal(1)], [parabola(0.1, 0.4), None])
    assert len(boxes(figure)) == 1
    assert "<b>REFUSED</b>, no dose" in texts(figure)
    assert not draw([refusal()], [None]).data


def test_a_limited_dose_shows_what_was_proposed() -> None:
    figure = draw([answer(status="limited", dose=(1.0,), proposed=(1.25,))], [None])
    assert "<b>1.000</b>, proposed 1.250" in texts(figure)
    assert any(tuple(t.x) == (1.0, 1.25) for t in figure.data)


def test_a_clinics_rule_is_a_lane_for_reference_with_its_dose() -> None:
    one = answer(seeds=((0.3, 0.3, 0.3),))
    rule = replace(one, outside=None)
    rule = replace(rule, source=replace(one.source, name="clinic: rule", reference=True, mark=OTHER))
    figure = draw([answer(), rule], [None, None])
    assert "<b>clinic: rule</b>: reference, a clinic's rule" in texts(figure)
    (drawn,) = (t for t in figure.data if str(t.hovertemplate).startswith("clinic: rule: reco"))
    assert (drawn.x[0], drawn.marker.symbol, drawn.marker.line.color) == (0.3, "x-thin", GREY)
    assert texts(figure).count("outside") == 1  # the agent's


def test_a_very_wide_distribution_does_not_squeeze_the_limits() -> None:
    far = answer(bounded=False, seeds=((0.0, -50.0, 80.0),))
    assert dose_range([far], 0) == (-3.0, 3.0)
    assert "\N{MINUS SIGN}50.000" in texts(draw([far], [None]))


def test_doses_to_compare_with_are_drawn_and_named() -> None:
    around = Landmarks(given=0.5, previous=-0.25, constant=0.125, near=(-0.75, 0.875))
    figure = draw([answer(), answer(position=1)], [None, None], around=around)
    said = texts(figure).replace("\N{MINUS SIGN}", "-")
    assert "○ given now 0.500   △ previous -0.250   ┊ constant 0.125" in said
    assert "recorded near this state -0.750\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}0.875" in said
    drawn = {t.marker.symbol: list(t.x) for t in figure.data if str(t.marker.symbol).endswith("-open")}
    assert drawn == {"circle-open": [0.5], "triangle-up-open": [-0.25]}
    (near,) = (t for t in figure.data if "recorded near" in str(t.hovertemplate))
    assert list(near.x) == [-0.75, 0.875]
    dotted = [s.x0 for s in figure.layout.shapes if s.type == "line" and s.line.dash == "dot"]
    assert dotted == [0.125, 0.125]  # once in every lane
    said = texts(draw([answer()], [None], around=Landmarks(given=0.5)))
    assert "○ given now 0.500\n" in said
    assert not any(word in said for word in ("previous", "constant", "recorded near"))


def test_landmarks_come_from_the_records_and_the_table() -> None:
    one = answer(recorded_near=((-0.5,), (0.75,)))
    measured = replace(row("Agent", 1.0, "better"), baseline=Baseline(0.4, 50))
    one = replace(one, source=replace(one.source, measured=measured))
    assert landmarks([refusal(), one], 0, [0.1], [0.2]) == Landmarks(0.1, 0.2, 0.4, (-0.5, 0.75))
    assert landmarks([refusal()], 0) == Landmarks()


def test_one_picture_per_dose_dimension() -> None:
    limits = DoseLimits((0.0, -1.0), (5.0, 1.0), "mg")
    two = answer(
        limits=limits,
        dose=(2.0, 0.5),
        proposed=(2.0, 0.5),
        support=((1.0, 0.25), (3.0, 0.75)),
        seeds=((0.0, 0.0, 0.0),),
    )
    object.__setattr__(two.result, "seeds", (SeedSet(0, (2.0, 0.5), (1.0, 0.25), (3.0, 0.75)),))
    for dimension, expected in enumerate([(1.0, 3.0), (0.25, 0.75)]):
        figure = draw([two], [None], dimension=dimension, name=f"dose {dimension + 1}")
        assert [(s.x0, s.x1) for s in boxes(figure)] == [expected]
        assert figure.layout.xaxis.title.text == f"dose {dimension + 1} (mg)"
