"""The figures say what the numbers say: supports, limits, tails, intervals; each has the notice."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from app.analysis.recommendations import Answer, DensityCurve, Source, ask, curves, dose_range
from app.charts import base, episode
from app.charts.dose import dose_axis
from app.theme import GREY, MARKS, NOTICE, OTHER, decimals, interval, mark, number, probability
from dosing import NOT_FOR_PATIENTS
from dosing.evaluation.statistics import Estimate
from dosing.recommendation.records import Recommendation, Recommender, Rules, SeedSet
from dosing.runs.folder import find_runs
from dosing.safety import DoseLimits
from dosing.studies import data, loading
from dosing.studies.baseline import Baseline
from dosing.studies.comparison_table import Row


def answer(
    *,
    seeds: tuple[tuple[float, float, float], ...] = ((0.2, 0.1, 0.3), (0.25, 0.15, 0.4)),
    bounded: bool = True,
    limits: DoseLimits | None = None,
    position: int = 0,
    **result: Any,
) -> Answer:
    """An answer with seeds given as (dose, low, high) of one dose dimension."""
    limits = limits or DoseLimits((-1.0,), (1.0,))
    sets = tuple(SeedSet(i, (d,), (lo,), (hi,)) for i, (d, lo, hi) in enumerate(seeds))
    dose = float(np.mean([d for d, _, _ in seeds]))
    fields: dict[str, Any] = {
        "status": "ok",
        "dose": (dose,),
        "proposed": (dose,),
        "unit": limits.unit,
        "limits": (limits.low, limits.high),
        "kind": "interval" if bounded else "infinite_clipped",
        "bounded": bounded,
        "support": ((min(s[1] for s in seeds),), (max(s[2] for s in seeds),)),
        "mass_outside": 0.0 if bounded else 0.1,
        "seeds": sets,
        "reasons": (),
        "state": (0.0,),
    }
    recommender = Recommender(None, Rules(limits))  # type: ignore[arg-type]
    source = Source(f"Agent {position}", "distribution", recommender, mark=mark(position))
    return Answer(source, Recommendation(**(fields | result)))


def refusal(position: int = 0) -> Answer:
    nothing = dict.fromkeys(("dose", "proposed", "support", "mass_outside", "kind", "bounded"))
    return answer(position=position, status="refused", seeds=((0.0, 0.0, 0.0),), **nothing)


def curve(low: float, high: float) -> DensityCurve:
    """A parabola on [low, high], zero outside."""
    dose = np.linspace(-1.2, 1.2, 481)
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    return DensityCurve(
        dose, np.maximum(0.0, 0.75 / half * (1 - ((dose - middle) / half) ** 2)), {"proposal": dose**2}
    )


def texts(figure: go.Figure) -> str:
    return "\n".join(str(a.text) for a in figure.layout.annotations)


def bars(figure: go.Figure) -> list[tuple[float, float]]:
    return [(t.base[0], t.base[0] + t.x[0]) for t in figure.data if isinstance(t, go.Bar)]


def estimate(value: float, half: float = 1.0) -> Estimate:
    return Estimate(value, value - half, value + 2 * half, 0.95, 100, 5, "t over seeds")


def row(name: str, value: float, verdict: str | None = "worse", *, agent: bool = True) -> Row:
    other = estimate(value - 1.0) if agent else None
    return Row(
        name,
        "distribution",
        estimate(value),
        other,
        estimate(-1.0) if verdict else None,
        verdict,
        None,
        None,
        None,
        None,
        estimate(0.0),
        Baseline(0.4, 50),
    )


LOOKS = [MARKS[0], OTHER, OTHER]
ROWS = [row("Agent", 1.0), row("rule", 0.0, agent=False), row("constant", 2.0, None, agent=False)]
VISITS = np.arange(1.0, 6.0)
WAVES = np.sin(np.outer(VISITS, [1.0, 2.0]))


def figures() -> dict[str, go.Figure]:
    one = answer()
    return {
        "dose axis": dose_axis([one], [curve(0.1, 0.4)]),
        "refused": dose_axis([refusal()], [None]),
        "observations": episode.observations(VISITS, WAVES, ["a", "b"], ["1", "mg/L"], 2),
        "doses": episode.doses(VISITS, VISITS / 10, VISITS, VISITS > 4, (-1.0, 1.0), 2),
        "intervals": base.intervals(ROWS, LOOKS),
        "training": base.training_curve(VISITS, np.ones((3, 5)), "loss", MARKS[0]),
    }


@pytest.mark.parametrize("name", figures())
def test_every_figure_carries_the_notice(name: str) -> None:
    figure = figures()[name]
    assert NOTICE.replace("<br>", " ") == NOT_FOR_PATIENTS
    assert figure.layout.title.text == NOTICE
    assert figure.layout.xaxis.title.text


def test_hard_limits_are_drawn_at_the_limits() -> None:
    figure = dose_axis([answer(limits=DoseLimits((-2.0,), (6.0,), "mg"))], [curve(0.1, 0.4)])
    lines = {s.x0 for s in figure.layout.shapes if s.type == "line" and s.line.color == GREY}
    assert lines == {-2.0, 6.0}
    grey = sorted((s.x0, s.x1) for s in figure.layout.shapes if s.fillcolor)
    left, right = figure.layout.xaxis.range
    assert grey == [(-2.0, left), (6.0, right)]
    assert left < -2.0
    assert right > 6.0
    assert "hard limit 6" in texts(figure)
    assert figure.layout.xaxis.title.text == "dose (mg)"
    assert figure.layout.yaxis.title.text == "density (per mg)"


def test_a_support_is_solid_and_a_central_interval_hatched_and_never_called_a_support() -> None:
    both = [answer(), answer(bounded=False, seeds=((-0.5, -1.5, 0.5),), position=1)]
    figure = dose_axis(both, [curve(0.1, 0.4), curve(-1.0, 0.5)])
    exact, central = (t for t in figure.data if isinstance(t, go.Bar))
    assert not exact.marker.pattern.shape
    assert central.marker.pattern.shape == "/"
    assert "Agent 0</b>: exact support" in texts(figure)
    assert "Agent 1</b>: central 99\N{NO-BREAK SPACE}%, not a support" in texts(figure)
    dashes = {
        (s.line.color, s.line.dash) for s in figure.layout.shapes if s.type == "rect" and not s.fillcolor
    }
    assert dashes == {(MARKS[0].colour, "solid"), (MARKS[1].colour, "4px,3px")}


def test_seeds_that_are_apart_keep_their_own_intervals() -> None:
    apart = answer(seeds=((-0.8, -0.9, -0.7), (0.5, 0.4, 0.6), (0.6, 0.55, 0.7)))
    assert apart.pieces(0) == [(-0.9, -0.7), (0.4, 0.7)]
    assert np.allclose(bars(dose_axis([apart], [curve(0.4, 0.7)])), [(-0.9, -0.7), (0.4, 0.7)])
    assert dose_axis([apart], [curve(0.4, 0.7)]).layout.barmode == "overlay"  # not side by side
    assert answer().pieces(0) == [(0.1, 0.4)]


def test_names_of_alike_densities_stand_apart() -> None:
    """On a narrow window a name is as wide as a third of the dose axis."""
    figure = dose_axis([answer(position=k) for k in range(2)], [curve(0.1, 0.4), curve(0.1, 0.41)])
    first, second = (a for a in figure.layout.annotations if a.yshift)
    left, right = figure.layout.xaxis.range
    bottom, top = figure.layout.yaxis.range
    across, up = abs(first.x - second.x) / (right - left), abs(first.y - second.y) / (top - bottom)
    assert across > 0.3 or up > 0.1


def test_a_long_name_leaves_no_room_for_all_words() -> None:
    short, long = answer(bounded=False), answer(bounded=False, position=1)
    long = replace(long, source=replace(long.source, name="Decision Transformer"))
    said = texts(dose_axis([short, long], [None, None]))
    assert "Agent 0</b>: central 99\N{NO-BREAK SPACE}%, not a support" in said
    assert "Decision Transformer</b>: central 99\N{NO-BREAK SPACE}%\n" in f"{said}\n"


def test_a_deferred_dose_is_drawn_as_one() -> None:
    both = [answer(status="deferred"), answer(position=1)]
    figure = dose_axis(both, [curve(0.1, 0.4), curve(0.1, 0.4)])
    assert "Agent 0</b>: exact support" in texts(figure)
    assert "</b> DEFERRED" in texts(figure)
    assert texts(figure).count("DEFERRED") == 1
    hovers = [str(trace.hovertemplate) for trace in figure.data]
    assert any(hover.startswith("Agent 0: deferred dose") for hover in hovers)
    assert any(hover.startswith("Agent 1: recommended dose") for hover in hovers)


def test_a_clinics_rule_is_a_lane_for_reference_with_its_dose() -> None:
    one = answer(seeds=((0.3, 0.3, 0.3),))
    rule = replace(one, source=replace(one.source, name="clinic: rule", reference=True, mark=OTHER))
    figure = dose_axis([answer(), rule], [curve(0.1, 0.4), None])
    assert "<b>clinic: rule</b>: reference, a clinic's rule" in texts(figure)
    (drawn,) = (trace for trace in figure.data if str(trace.hovertemplate).startswith("clinic: rule: reco"))
    assert drawn.x[0] == pytest.approx(0.3)
    assert (drawn.marker.symbol, drawn.marker.line.color) == ("x-thin", GREY)  # a white line would be no mark
    assert len([trace for trace in figure.data if "seed" in str(trace.hovertemplate)]) == 2  # the agent's


def test_long_names_and_units_stand_above_their_strips() -> None:
    named = episode.observations(VISITS, WAVES, ["mean dose of 7 days", "b"], ["mg/day", "1"], 2)
    (title,) = (a for a in named.layout.annotations if "mean dose" in a.text)
    assert (title.yref, title.yanchor, title.xshift) == ("paper", "bottom", 0)
    assert title.y == pytest.approx(named.layout.yaxis.domain[1])
    assert named.layout.yaxis.domain[0] > named.layout.yaxis2.domain[1] + 0.1
    short = episode.observations(VISITS, WAVES, ["a", "b"], ["1", "1"], 2)
    (beside,) = (a for a in short.layout.annotations if a.text == "<b>a</b>")
    assert (beside.yref, beside.xshift) == ("y", -74)


def test_a_refusal_is_as_prominent_as_a_dose_and_draws_none() -> None:
    figure = dose_axis([answer(), refusal(1)], [curve(0.1, 0.4), None])
    assert len(bars(figure)) == 1
    assert "<b>REFUSED</b>, no dose" in texts(figure)
    alone = dose_axis([refusal()], [None])
    assert not alone.data


def test_a_limited_dose_shows_what_was_proposed() -> None:
    figure = dose_axis([answer(status="limited", dose=(1.0,), proposed=(1.25,))], [curve(0.1, 0.4)])
    assert "<b>1.000</b> LIMITED, proposed 1.250" in texts(figure)
    assert any(tuple(t.x) == (1.0, 1.25) for t in figure.data if isinstance(t, go.Scatter))


def test_on_the_log_scale_a_zero_density_is_a_gap() -> None:
    figure = dose_axis([answer()], [curve(0.1, 0.4)], log=True, extras=True)
    density, proposal = (t for t in figure.data if isinstance(t, go.Scatter) and len(t.x) > 100)
    inside = (density.x > 0.1) & (density.x < 0.4)
    assert np.isnan(density.y[~inside]).all()
    assert (density.y[inside] > 0).all()
    assert proposal.line.dash == "dot"
    assert figure.layout.yaxis.type == "log"
    plain = dose_axis([answer()], [curve(0.1, 0.4)])
    assert plain.layout.yaxis.range[0] == 0


def test_a_very_wide_distribution_does_not_squeeze_the_limits() -> None:
    wide = answer(bounded=False, seeds=((0.0, -50.0, 80.0),))
    assert dose_range([wide], 0) == (-3.0, 3.0)
    figure = dose_axis([wide], [curve(-1.0, 1.0)])
    assert "◂ \N{MINUS SIGN}50.000" in texts(figure)
    assert "80.000 ▸" in texts(figure)


def test_names_of_densities_stand_clear_of_other_densities() -> None:
    dose = np.linspace(-1.2, 1.2, 481)
    broad = DensityCurve(dose, np.full(481, 0.3), {})
    figure = dose_axis([answer(), answer(bounded=False, position=1)], [curve(0.1, 0.4), broad])
    (name,) = (a for a in figure.layout.annotations if str(a.text).endswith("Agent 1") and a.yref != "y2")
    assert not -0.1 < name.x < 0.6
    assert name.y == pytest.approx(0.3)


def test_one_chart_per_dose_dimension() -> None:
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
        figure = dose_axis([two], [curve(*expected)], dimension, name=f"dose {dimension + 1}")
        assert bars(figure) == [expected]
        assert figure.layout.xaxis.title.text == f"dose {dimension + 1} (mg)"


def test_curves_and_masses_agree_with_the_trained_policies(full_study: Path) -> None:
    sources = []
    for run in find_runs(full_study):
        policy, limits = loading.policy_of(run), run.config().limits
        sources.append(Source(run.config().agent, "", Recommender(policy, Rules(limits))))
    state = data.episodes_of(find_runs(full_study)[0]).obs[17].tolist()
    sparse, gaussian = ask(sources, state)
    bounded, unbounded = curves([sparse, gaussian], 0)
    assert bounded is not None
    assert unbounded is not None
    assert np.trapezoid(bounded.density, bounded.dose) == pytest.approx(1.0, abs=2e-3)
    pieces = sparse.pieces(0)
    outside = ~np.any([(bounded.dose >= lo) & (bounded.dose <= hi) for lo, hi in pieces], axis=0)
    assert (bounded.density[outside] == 0.0).all()
    assert (bounded.density[~outside][1:-1] > 0.0).any()
    assert sparse.outside_sparse == 0.0
    inside = 0.0
    for lo, hi in pieces:
        dose = np.linspace(lo, hi, 4001)
        density = gaussian.source.policy.density(np.asarray(state, np.float32), dose[:, None])[:, 0]
        inside += float(np.trapezoid(density, dose))
    assert gaussian.outside_sparse == pytest.approx(1.0 - inside, abs=1e-5)
    assert set(bounded.extra) == {"proposal"}


def test_interval_chart_shows_every_estimate_and_its_interval() -> None:
    figure = base.intervals(ROWS, LOOKS)
    shown = [
        (t.x[0], t.x[0] - t.error_x.arrayminus[0], t.x[0] + t.error_x.array[0], t.marker.symbol)
        for t in figure.data
    ]
    assert shown == [
        (1.0, 0.0, 3.0, MARKS[0].symbol),
        (0.0, -1.0, 2.0, f"{MARKS[0].symbol}-open"),
        (0.0, -1.0, 2.0, OTHER.symbol),
        (2.0, 1.0, 4.0, OTHER.symbol),
    ]
    assert {(line.x0, line.x1) for line in figure.layout.shapes} == {
        (2.0, 2.0)
    }  # the estimated constant dose
    assert "<b>Agent</b>: worse than estimated constant" in texts(figure)


def test_the_interval_chart_draws_no_line_without_an_estimated_constant() -> None:
    lost = replace(row("Agent", 1.0, None), baseline=Baseline(None, 50, "the visits tell none."))
    ceiling = replace(row("ceiling", 3.0, None, agent=False), baseline=None)
    assert not base.intervals([lost, ceiling], LOOKS[:2]).layout.shapes


def test_a_long_name_gets_a_higher_lane_of_its_own() -> None:
    rows = [row("best constant dose 0.436, known to the simulator only", 1.0, agent=False), *ROWS]
    figure = base.intervals(rows, [OTHER, *LOOKS])
    first, second, *_ = figure.layout.annotations
    lines = first.text.split("<br>")
    assert len(lines) == 2
    assert lines[-1] == "<b>simulator only</b>: worse than estimated constant"
    assert max(len(re.sub("<.*?>", "", line)) for line in lines) <= 46
    plain = base.intervals(ROWS, LOOKS)
    higher = figure.layout.height - plain.layout.height
    assert higher == plain.layout.yaxis.range[0] - figure.layout.yaxis.range[0] == base.LANE + base.LINE
    # A pixel is a unit: a name stands above its own estimate and below the estimate of the row before.
    assert figure.data[0].y[0] < first.y < 0
    assert figure.data[1].y[0] < second.y < figure.data[0].y[0] - 10


def test_training_curve_is_the_interquartile_mean_of_finite_steps() -> None:
    values = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, np.nan], [9.0, 1.0]])
    *seeds, middle = base.training_curve(np.array([10.0, 20.0]), values, "loss", MARKS[1]).data
    assert len(seeds) == 4
    assert list(middle.x) == [10.0]
    assert list(middle.y) == [1.5]
    *seeds, _ = base.training_curve(np.array([10.0]), values[:, :1], "loss", MARKS[1]).data
    assert {seed.mode for seed in seeds} == {"markers"}  # a line through one point is none


def test_numbers_as_they_are_written() -> None:
    assert number(-0.0001, 3) == "0.000"
    assert number(-1.5, 1) == "\N{MINUS SIGN}1.5"
    assert interval(-1, 2, 0).replace("\N{NO-BREAK SPACE}", " ") == "\N{MINUS SIGN}1 to 2"
    assert [decimals(span) for span in (2.0, 15.0, 100.0, 5000.0, 0.02)] == [3, 2, 1, 0, 5]
    written = {
        0.0: "0 (exactly)",
        1e-9: "1.0e\N{MINUS SIGN}07 %",
        0.271: "27.1 %",
        0.99999: "more than 99.9 %",
    }
    for value, text in written.items():
        assert probability(value).replace("\N{NO-BREAK SPACE}", " ") == text
    assert probability(None) == "not measured"


def contrast(one: str, two: str) -> float:
    """Contrast ratio of two colours, WCAG 2.2."""
    luminance = []
    for colour in (one, two):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminance) + 0.05) / (min(luminance) + 0.05)


@pytest.mark.parametrize("page", ["#FFFFFF", "#14171A"])
def test_marks_are_seen_on_both_pages_and_differ_beyond_colour(page: str) -> None:
    assert all(contrast(m.colour, page) >= 3.0 for m in (*MARKS, OTHER))
    assert len({(m.colour, m.symbol) for m in MARKS}) == len(MARKS) == 36
    for four in zip(*(MARKS[k:] for k in range(4)), strict=False):  # any four runs in a row
        for field in ("colour", "dash", "symbol", "glyph"):
            assert len({getattr(m, field) for m in four}) == 4
    assert [(m.glyph, f"[{m.glyph}]" in m.sign) for m in MARKS] == [(m.glyph, True) for m in MARKS]
    assert page in (Path(__file__).resolve().parents[2] / "app" / ".streamlit" / "config.toml").read_text()
