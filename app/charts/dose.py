"""The dose axis: what every policy could give to one patient, against the hard limits.

True supports are solid; a central 99 % that stands in for one is hatched and dashed and never called a
support. Everything drawn comes from recommendations; a refusal is drawn as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.ndimage import minimum_filter1d

from app.analysis.recommendations import Answer, DensityCurve, dose_range
from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import (
    CENTRAL_WORDS,
    GREY,
    SHADE,
    Mark,
    decimals,
    dose_number,
    interval,
    number,
    per_unit,
    unit_words,
)
from dosing.types import Array

TAIL_DECADES = 6
"""Decades shown below the highest density on the log scale."""
ROOM = 14
"""Longest name of a policy beside which a narrow window has room for all words on its interval."""
LETTER = 0.035
"""Width of a letter on the dose axis of a narrow window, as a share of the axis."""


class Parts:
    """What is drawn on a figure, added to it at once: one by one, plotly copies all that is there before."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._shapes: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._traces: list[go.Scatter | go.Bar] = []

    def add_shape(self, **shape: Any) -> None:
        """As ``Figure.add_shape``."""
        self._shapes.append(shape)

    def add_annotation(self, **annotation: Any) -> None:
        """As ``Figure.add_annotation``."""
        self._annotations.append(annotation)

    def add_trace(self, trace: go.Scatter | go.Bar) -> None:
        """As ``Figure.add_trace``."""
        self._traces.append(trace)

    def onto(self, figure: go.Figure) -> go.Figure:
        """The figure with all of this on it."""
        figure.update_layout(
            shapes=[*figure.layout.shapes, *self._shapes],
            annotations=[*figure.layout.annotations, *self._annotations],
        )
        figure.add_traces(self._traces)
        return figure


def dose_axis(
    answers: Sequence[Answer],
    curves: Sequence[DensityCurve | None],
    dimension: int = 0,
    *,
    name: str = "dose",
    log: bool = False,
    extras: bool = False,
) -> go.Figure:
    """Density, dose set, recommended dose and seeds of every policy on one dose axis, with the hard limits.

    Exact supports are filled and have solid edges; a central 99 % that stands in for one is hatched, has
    dashed edges and is never called a support. A refusal has neither density nor interval.

    Args:
        answers: what the policies say.
        curves: their densities over this dimension, None after a refusal.
        dimension: of the dose.
        name: of the dose, for the axis title.
        log: logarithmic density, so that tails are visible.
        extras: draw the agents' further densities, dotted.
    """
    left, right = dose_range(answers, dimension)
    limits = answers[0].source.limits
    figure = _density_over_lanes(len(answers), (left, right), name, limits.unit, log)
    top = max((float(c.density.max()) for c in curves if c), default=1.0)
    floor = top * 10.0**-TAIL_DECADES
    if log:
        span = [np.log10(floor), np.log10(top) + 1.2]
        figure.update_layout(yaxis={"type": "log", "range": span, "dtick": 2, "exponentformat": "power"})
    else:
        figure.update_layout(yaxis={"range": [0, 1.16 * top], "rangemode": "tozero"})
    parts = Parts()
    _limits(parts, limits.low[dimension], limits.high[dimension], left, right)
    lines: list[tuple[str, Mark, Array, Array]] = []
    for row, (answer, curve) in enumerate(zip(answers, curves, strict=True)):
        _lane(parts, row, answer, dimension, left, right)
        if curve is None:
            continue
        lines.append((answer.source.name, answer.mark, curve.dose, curve.density))
        _density(parts, curve.dose, curve.density, answer.mark, answer.mark.dash, floor if log else 0.0)
        _edges(parts, answer, curve, dimension, floor if log else 0.0)
        for kind, density in curve.extra.items() if extras else ():
            lines.append((f"{answer.source.name} {kind}", answer.mark, curve.dose, density))
            _density(parts, curve.dose, density, answer.mark, "dot", floor if log else 0.0, fill=False)
    _direct_labels(parts, lines, left, right, floor if log else None)
    return parts.onto(figure)


def _density_over_lanes(count: int, ends: tuple[float, float], name: str, unit: str, log: bool) -> go.Figure:
    """Empty axes: densities above, a lane for each of ``count`` policies below, one dose axis for both."""
    panel, gap, lane = 250, 14, 66
    body = panel + gap + lane * count
    lanes_top = lane * count / body
    return finish(
        go.Figure(),
        body + 30 + BOTTOM,
        xaxis={
            "range": list(ends),
            "anchor": "y2",
            "title": f"{label(name)} ({label(unit_words(unit))})",
            "zeroline": False,
        },
        yaxis={
            "domain": [lanes_top + gap / body, 1],
            "title": {
                "text": f"density ({label(per_unit(unit))}{', log scale' if log else ''})",
                "standoff": 4,
            },
        },
        yaxis2={"domain": [0, lanes_top], "range": [-count, 0], "visible": False, "fixedrange": True},
    )


def _limits(figure: Parts, low: float, high: float, left: float, right: float) -> None:
    """Hard limits as labelled lines over the densities, and what lies outside them in grey."""
    places = decimals(high - low)
    for edge, end in ((low, left), (high, right)):
        shade = {"fillcolor": SHADE, "line_width": 0, "layer": "below"}
        figure.add_shape(type="rect", x0=edge, x1=end, yref="paper", y0=0, y1=1, **shade)
        line = {"color": GREY, "width": 2.5}
        figure.add_shape(type="line", x0=edge, x1=edge, yref="y domain", y0=0, y1=1, line=line)
        figure.add_annotation(
            x=edge,
            yref="paper",
            y=1,
            yanchor="bottom",
            xanchor=_anchor(edge, left, right),
            showarrow=False,
            text=f"hard limit {number(edge, places).rstrip('0').rstrip('.')}",
            font={"size": 11.5},
        )


def _anchor(x: float, left: float, right: float) -> str:
    """Side on which a text at ``x`` has room."""
    position = (x - left) / (right - left)
    return "left" if position < 0.2 else "right" if position > 0.8 else "center"


def _density(
    figure: Parts, dose: Array, density: Array, mark: Mark, dash: str, floor: float, *, fill: bool = True
) -> None:
    """One density; on the log scale a zero density is a gap, never a small number."""
    shown = np.where(density > 0.0, density, np.nan) if floor else density
    figure.add_trace(
        go.Scatter(
            x=dose,
            y=shown,
            mode="lines",
            line={"color": mark.colour, "dash": dash, "width": 2.2},
            fill="tozeroy" if fill and not floor else None,
            fillcolor=mark.faint(0.12),
            hovertemplate="dose %{x:.3f}, density %{y:.3g}<extra></extra>",
        )
    )


def _edges(figure: Parts, answer: Answer, curve: DensityCurve, dimension: int, floor: float) -> None:
    """Lines at the ends of the interval: solid for a support, dashed for a central 99 %.

    On the log scale an edge of a support reaches up to the density that ends there.
    """
    inside = curve.dose[curve.density > floor]
    line = {"color": answer.mark.colour, "width": 2.2}
    for x in (end for piece in answer.pieces(dimension) for end in piece):
        if not answer.result.bounded:
            ends = {"yref": "y domain", "y0": 0, "y1": 0.14}
            figure.add_shape(type="line", x0=x, x1=x, line=line | {"dash": "2px,3px"}, **ends)
        elif not floor or not len(inside):
            figure.add_shape(type="line", x0=x, x1=x, line=line, yref="y domain", y0=0, y1=0.14)
        else:
            nearest = inside[int(np.argmin(np.abs(inside - x)))]
            height = float(curve.density[curve.dose == nearest][0])
            figure.add_shape(type="line", x0=x, x1=x, line=line, yref="y", y0=floor, y1=height)


def _lane(figure: Parts, row: int, answer: Answer, dimension: int, left: float, right: float) -> None:
    """One policy under the densities: name, interval, the seeds' own intervals and doses, the dose."""
    result, mark = answer.result, answer.mark
    title = f'<span style="color:{mark.colour}">{mark.glyph}</span> <b>{label(answer.source.name)}</b>'
    if result.dose is None or result.support is None or result.proposed is None:
        _lane_text(figure, left, -row - 0.17, f"{title}: <b>REFUSED</b>, no dose", "left")
        return
    places = decimals(result.limits[1][dimension] - result.limits[0][dimension])
    spread = "exact support" if result.bounded else f"central {CENTRAL_WORDS}, not a support"
    words = "one dose" if answer.point else spread
    words = "reference, a clinic's rule" if answer.source.reference else words
    brief = words if len(answer.source.name) <= ROOM else words.split(",")[0]  # on a narrow window
    _lane_text(figure, left, -row - 0.17, f"{title}: {brief}", "left")
    middle = -row - 0.5
    for limit in result.limits:
        ends = {"x0": limit[dimension], "x1": limit[dimension], "y0": middle - 0.24, "y1": middle + 0.24}
        figure.add_shape(type="line", yref="y2", line={"color": GREY, "width": 2.5}, **ends)
    for low, high in answer.pieces(dimension):
        _interval(figure, middle, low, high, answer, f"{interval(low, high, places)}, {words}")
    if result.recorded_near is not None:
        low, high = (ends[dimension] for ends in result.recorded_near)
        _recorded(figure, middle, low, high, places)
    for place, seed in enumerate(() if answer.source.reference else result.seeds):
        y = middle + 0.26 * (0.5 - (place + 0.5) / len(result.seeds))
        figure.add_trace(
            go.Scatter(
                x=[seed.low[dimension], seed.dose[dimension], seed.high[dimension]],
                y=[y, y, y],
                yaxis="y2",
                mode="lines+markers",
                line={"color": mark.colour, "width": 1},
                marker={"symbol": "line-ns", "size": [0, 9, 0], "line": {"color": mark.colour, "width": 2.5}},
                hovertemplate=f"seed {seed.seed}: "
                f"{interval(seed.low[dimension], seed.high[dimension], places)}, "
                f"dose {number(seed.dose[dimension], places)}<extra></extra>",
            )
        )
    roomy = "left" if result.dose[dimension] < 0.5 * (left + right) else "right"
    _dose(figure, middle, answer, dimension, places, roomy)
    low, high = (end[dimension] for end in result.support)
    for end, beyond, sign, anchor in ((low, low < left, "◂", "left"), (high, high > right, "▸", "right")):
        if beyond:
            text = f"{sign} {number(end, places)}" if anchor == "left" else f"{number(end, places)} {sign}"
            _lane_text(figure, left if anchor == "left" else right, -row - 0.84, text, anchor)


def _interval(figure: Parts, y: float, low: float, high: float, answer: Answer, words: str) -> None:
    """One interval of a dose set: filled and solid, or hatched and dashed where it is no support."""
    mark, bounded = answer.mark, answer.result.bounded
    outline = {"color": mark.colour, "width": 1.5, "dash": "solid" if bounded else "4px,3px"}
    box = {"x0": low, "x1": high, "y0": y - 0.18, "y1": y + 0.18}
    figure.add_shape(type="rect", yref="y2", line=outline, **box)
    pattern = {"shape": "" if bounded else "/", "fgcolor": mark.faint(0.5), "size": 8, "solidity": 0.2}
    figure.add_trace(
        go.Bar(
            x=[high - low],
            base=[low],
            y=[y],
            width=0.36,
            orientation="h",
            yaxis="y2",
            marker={
                "color": mark.faint(0.22) if bounded else "rgba(0,0,0,0)",
                "line": {"width": 0},
                "pattern": pattern,
            },
            hovertemplate=f"{label(answer.source.name)}: {words}<extra></extra>",
        )
    )


def _recorded(figure: Parts, y: float, low: float, high: float, places: int) -> None:
    """The range of the doses recorded near the state, as a line with end ticks below the interval."""
    figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[y - 0.26, y - 0.26],
            yaxis="y2",
            mode="lines+markers",
            line={"color": GREY, "width": 3},
            marker={"symbol": "line-ns", "size": 8, "line": {"color": GREY, "width": 2}},
            hovertemplate=f"recorded near this state: {interval(low, high, places)}<extra></extra>",
        )
    )


def _dose(figure: Parts, y: float, answer: Answer, dimension: int, places: int, anchor: str) -> None:
    """The recommended dose with its number; after a limit also the dose that was proposed."""
    result, mark = answer.result, answer.mark
    assert result.dose is not None
    assert result.proposed is not None
    dose, proposed = result.dose[dimension], result.proposed[dimension]
    rank = "deferred" if result.status == "deferred" else "recommended"
    thin = mark.symbol.endswith("thin")
    low, high = (ends[dimension] for ends in result.limits)
    words = dose_number(dose, low, high, places)
    text = f"<b>{words}</b>{' DEFERRED' if result.status == 'deferred' else ''}"
    if dose != proposed:
        figure.add_trace(
            go.Scatter(
                x=[dose, proposed],
                y=[y, y],
                yaxis="y2",
                mode="lines+markers",
                line={"color": mark.colour, "width": 2, "dash": "dot"},
                marker={"symbol": "x-thin", "size": [0, 10], "line": {"color": mark.colour, "width": 2.5}},
                hovertemplate=f"proposed {number(proposed, places)}, held at the limit<extra></extra>",
            )
        )
        limited = "," if result.status == "deferred" else " LIMITED,"
        text += f"{limited} proposed {number(proposed, places)}"
    figure.add_trace(
        go.Scatter(
            x=[dose],
            y=[y],
            yaxis="y2",
            mode="markers",
            marker={
                "symbol": mark.symbol,
                "size": 15,
                "color": mark.colour,
                # a thin cross is nothing but its line
                "line": {"color": mark.colour, "width": 3} if thin else {"color": "white", "width": 1.5},
            },
            hovertemplate=f"{label(answer.source.name)}: {rank} dose {words}<extra></extra>",
        )
    )
    _lane_text(figure, dose, y - 0.34, text, anchor if dose != proposed else "center")


def _lane_text(figure: Parts, x: float, y: float, text: str, anchor: str) -> None:
    figure.add_annotation(
        x=x, y=y, yref="y2", xanchor=anchor, yanchor="middle", text=text, showarrow=False, font={"size": 12.5}
    )


def _direct_labels(
    figure: Parts,
    lines: Sequence[tuple[str, Mark, Array, Array]],
    left: float,
    right: float,
    floor: float | None,
) -> None:
    """Name every density beside its line, instead of in a legend, where no other line crosses the name."""
    grid = np.linspace(left + 0.2 * (right - left), right - 0.2 * (right - left), 201)
    heights = [np.interp(grid, dose, density) for _, _, dose, density in lines]
    if floor is not None:
        heights = [np.log10(np.maximum(height, floor)) for height in heights]
    panel = float(np.ptp(heights)) if lines else 1.0
    room = 0.14 * panel  # height of a name with air above it
    placed: list[tuple[int, float, int]] = []  # where names stand, and how many letters they have
    for index, (name, mark, _, _) in enumerate(lines):
        own = heights[index]
        clear = np.full(len(grid), room)
        for other in heights[:index] + heights[index + 1 :]:
            clear = np.minimum(clear, np.where(other > own - 0.03 * panel, np.abs(other - own), room))
        steep = 0.3 * (len(grid) - 1) * np.abs(np.gradient(own))  # on a slope the name would cover its line
        score = minimum_filter1d(clear, 41) - np.minimum(steep, panel) + 0.3 * own
        low = own < min(own.max(), np.min(heights) + 0.06 * panel)  # where there is next to no density
        for at, height, letters in placed:
            reach = 0.5 * LETTER * (len(name) + letters + 4) * (len(grid) - 1) / 0.6
            taken = (np.abs(np.arange(len(grid)) - at) < reach) & (np.abs(own - height) < room)
            score = np.where(taken, score - 2.0 * panel, score)
        best = int(np.argmax(np.where(low, -np.inf, score)))
        placed.append((best, float(own[best]), len(name)))
        figure.add_annotation(
            x=grid[best],
            y=own[best],
            yshift=11,
            showarrow=False,
            text=f'<span style="color:{mark.colour}">{mark.glyph}</span> {label(name)}',
            font={"size": 12.5},
        )
