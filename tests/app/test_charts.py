"""The figures say what the numbers say: supports, limits, tails, intervals; each has the notice."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from app.analysis.recommendations import Answer, Landmarks, Source, ask, curves
from app.charts import base, episode
from app.charts.ridgeline import ridgeline
from app.theme import MARKS, NOTICE, OTHER, decimals, interval, mark, number, probability
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
    outside = None if result.get("status") == "refused" else tuple((0.0, 0.0) for _ in limits.low)
    recommender = Recommender(None, Rules(limits))  # type: ignore[arg-type]
    source = Source(f"Agent {position}", "distribution", recommender, mark=mark(position))
    return Answer(source, Recommendation(**(fields | result)), outside)


def refusal(position: int = 0) -> Answer:
    nothing = dict.fromkeys(("dose", "proposed", "support", "mass_outside", "kind", "bounded"))
    return answer(position=position, status="refused", seeds=((0.0, 0.0, 0.0),), **nothing)


def texts(figure: go.Figure) -> str:
    return "\n".join(str(a.text) for a in figure.layout.annotations)


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
        "ridgeline": ridgeline([one], [None], Landmarks()),
        "refused": ridgeline([refusal()], [None], Landmarks()),
        "so far": episode.so_far(VISITS, VISITS / 10, (-1.0, 1.0), 2),
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


def test_long_names_and_units_stand_above_their_strips() -> None:
    named = episode.observations(VISITS, WAVES, ["mean dose of 7 days", "b"], ["mg/day", "1"], 2)
    (title,) = (a for a in named.layout.annotations if "mean dose" in a.text)
    assert (title.yref, title.yanchor, title.xshift) == ("paper", "bottom", 0)
    assert title.y == pytest.approx(named.layout.yaxis.domain[1])
    assert named.layout.yaxis.domain[0] > named.layout.yaxis2.domain[1] + 0.1
    short = episode.observations(VISITS, WAVES, ["a", "b"], ["1", "1"], 2)
    (beside,) = (a for a in short.layout.annotations if a.text == "<b>a</b>")
    assert (beside.yref, beside.xshift) == ("y", -74)


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
    assert sparse.outside == ((0.0, 0.0),)
    for end, mass in zip((-1.0, 1.0), gaussian.outside[0] if gaussian.outside else (), strict=True):
        dose = np.linspace(end, 40.0 * end, 40_001)
        density = gaussian.source.policy.density(np.asarray(state, np.float32), dose[:, None])[:, 0]
        assert mass == pytest.approx(abs(float(np.trapezoid(density, dose))), abs=1e-5)
    assert sum(gaussian.outside[0] if gaussian.outside else ()) == pytest.approx(gaussian.result.mass_outside)
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
