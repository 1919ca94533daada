"""One patient's course of the quantity that is kept in a range: the range shaded, adverse events named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.analysis.course import Course, Range
from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, HARM, TARGET, counted, unit_words
from dosing.types import AnyArray

PANEL, GAP, LANE = 230, 12, 38
"""Height in pixels of the curve, of the room below it, and of the lane of one event."""


def course(visits: AnyArray, one: Course, current: int, ends: tuple[float, float] | None = None) -> go.Figure:
    """The curve over the visits with its range, and a lane for every event that happened.

    What is observed stands at its visit; what a visit brought, the true value and events, one further.

    Args:
        visits: visit numbers ``[T]``, from 1.
        one: the course.
        current: row of the visit on show.
        ends: of the vertical axis, so that several courses compare by eye; None for its own.
    """
    happened = [name for name, count in one.counts.items() if count]
    body = PANEL + (GAP + LANE * len(happened) if happened else 0)
    foot = LANE * len(happened) / body
    after = visits + 1.0
    at = float(visits[current])
    now = {"type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1}
    figure = finish(
        go.Figure(),
        body + 30 + BOTTOM,
        xaxis={
            "anchor": "y2" if happened else "y",
            "title": _visit_words(visits, one.interval),
            "range": [float(visits[0]) - 0.7, float(after[-1]) + 0.7],
            "zeroline": False,
        },
        yaxis={
            "domain": [1 - PANEL / body, 1],
            "range": list(ends or shown_range([one])),
            "title": {"text": f"<b>{label(one.target.name)}</b> ({label(unit_words(one.target.unit))})"},
            "zeroline": False,
        },
        yaxis2={"domain": [0, foot], "range": [-max(len(happened), 1), 0], "visible": False},
        shapes=[
            _band(one.target),
            now | {"layer": "below", "line": {"color": GREY, "width": 1.5, "dash": "dot"}},
        ],
        annotations=[_band_name(one.target)],
    )
    figure.update_layout(margin={"l": 8, "r": 8})
    figure.add_traces(_curves(np.append(visits, after[-1]), after, one))
    for row, name in enumerate(happened):
        _lane(figure, row, name, after[one.events[name]], one.definitions.get(name, ""))
    return figure


def shown_range(courses: Sequence[Course]) -> tuple[float, float]:
    """Vertical range that holds the target and every value of these courses, with some air."""
    values: list[AnyArray] = [np.array([(one.target.low, one.target.high) for one in courses]).ravel()]
    values += [one.seen for one in courses]
    values += [x.ravel() for one in courses for x in (one.true, one.within) if x is not None]
    every = np.concatenate(values)
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    pad = 0.08 * (high - low) or 1.0
    return low - pad, high + pad


def _visit_words(visits: AnyArray, interval: str) -> str:
    each = f", {label(interval)} each" if interval else ""
    return f"visit ({int(visits[0])} to {int(visits[-1])}{each})"


def _band(target: Range) -> dict[str, Any]:
    """The range, shaded."""
    shade = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "layer": "below"}
    return shade | {"y0": target.low, "y1": target.high, "fillcolor": TARGET, "line": {"width": 0}}


def _band_name(target: Range) -> dict[str, Any]:
    return {
        "x": 1,
        "xref": "paper",
        "xanchor": "right",
        "y": target.high,
        "yref": "y",
        "yanchor": "bottom",
        "text": f"target {target.low:g} to {target.high:g}",
        "showarrow": False,
        "font": {"size": 11.5},
    }


def _curves(visits: AnyArray, after: AnyArray, one: Course) -> list[go.Scatter]:
    """What was seen as dots, held until the next visit; the truth as a line."""
    name, unit = label(one.target.name), label(unit_words(one.target.unit))
    fresh = np.append(True, np.diff(one.seen) != 0)  # else the last value is shown once more
    seen = go.Scatter(
        x=visits,
        y=one.seen,
        mode="lines+markers",
        line={"color": GREY, "width": 1, "shape": "hv", "dash": "dot"},
        marker={"size": np.where(fresh, 7, 0), "color": GREY, "symbol": "circle-open"},
        hovertemplate=f"visit %{{x}}: {name}, as seen, %{{y:.2f}} ({unit})<extra></extra>",
    )
    if one.true is None:
        return [seen]
    x, y, where = after, one.true, "before visit %{x}"
    if one.within is not None:
        share = np.arange(1, one.within.shape[1] + 1) / one.within.shape[1]
        x, y, where = (after[:, None] - 1 + share).ravel(), one.within.ravel(), "at %{x:.2f}"
    true = go.Scatter(
        x=x,
        y=y,
        mode="lines" if len(x) > 1 else "markers",
        line={"color": GREY, "width": 2.6},
        hovertemplate=f"{where}: true value %{{y:.2f}} ({unit})<extra></extra>",
    )
    return [true, seen]


def _lane(figure: go.Figure, row: int, name: str, at: AnyArray, definition: str) -> None:
    """One event: its name, how often, and a mark wherever it happened."""
    figure.add_annotation(
        x=0,
        xref="paper",
        xanchor="left",
        y=-row - 0.3,
        yref="y2",
        yanchor="middle",
        text=f'<span style="color:{HARM}">■</span> <b>{label(event_words(name))}</b>: '
        f"at {counted(len(at), 'visit')}",
        showarrow=False,
        font={"size": 12},
    )
    figure.add_trace(
        go.Scatter(
            x=at,
            y=np.full(len(at), -row - 0.74),
            yaxis="y2",
            mode="markers",
            marker={"symbol": "square", "size": 7, "color": HARM},
            hovertemplate=f"before visit %{{x}}: {label(event_words(name))}, {label(definition)}"
            "<extra></extra>",
        )
    )


def event_words(name: str) -> str:
    """An event's name as words."""
    return name.replace("_", " ")
