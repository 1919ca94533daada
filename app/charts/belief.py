"""A patient's level as an agent believes it to be, and its forecasts: one strip per marker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.analysis.belief import Band, Beliefs
from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, SHADE, number
from dosing.types import AnyArray

STRIP = 92
"""Height of one marker in pixels."""


def markers(one: Beliefs, which: Sequence[int], names: Sequence[str], units: Sequence[str]) -> go.Figure:
    """Some markers below each other on one axis of visits, each on its own scale.

    Args:
        one: what is believed.
        which: numbers of the markers to draw.
        names: of all markers.
        units: of all markers.
    """
    count, now = len(which), len(one.seen)
    last = float(one.recommended.visits[-1])
    line = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    axis = {
        "anchor": f"y{count}" if count > 1 else "y",
        "title": f"visit (forecast from {now + 1} on)",
        "range": [0.3, last + 0.7],
        "dtick": 1 if last <= 8 else None,
        "zeroline": False,
    }
    here = line | {"x0": now, "x1": now, "line": {"color": GREY, "width": 1.5, "dash": "dot"}}
    figure = finish(go.Figure(), STRIP * count + 30 + BOTTOM, xaxis=axis, shapes=[here])
    figure.update_layout(margin={"l": 62})
    for place, marker in enumerate(which):
        _strip(figure, one, marker, place, count, f"{label(names[marker])}", units[marker])
    return figure


def _strip(
    figure: go.Figure, one: Beliefs, marker: int, place: int, count: int, name: str, unit: str
) -> None:
    """Dots, level and forecasts of one marker."""
    axis, suffix = ("y" if place == 0 else f"y{place + 1}"), "" if unit in ("", "1") else f" {label(unit)}"
    bands = (one.level, one.recommended, one.constant)
    low = min(float(one.seen[:, marker].min()), *(float(b.low[:, marker].min()) for b in bands))
    high = max(float(one.seen[:, marker].max()), *(float(b.high[:, marker].max()) for b in bands))
    pad, top = 0.1 * (high - low) or 1.0, 1.0 - place / count
    figure.update_layout(
        {
            axis.replace("y", "yaxis"): {
                "domain": [top - 0.9 / count, top],
                "range": [low - pad, high + pad],
                "tickvals": [low, 0.5 * (low + high), high],
                "ticktext": [number(v, 1) for v in (low, 0.5 * (low + high), high)],
                "tickfont": {"size": 10.5},
                "fixedrange": True,
                "zeroline": False,
                "showgrid": False,
            }
        }
    )
    figure.add_annotation(
        x=0,
        xref="paper",
        xshift=-60,
        xanchor="left",
        y=top - 0.45 / count,
        yref="paper",
        text=f"<b>{name}</b>{'<br>' if suffix else ''}{suffix}",
        showarrow=False,
        font={"size": 12.5},
    )
    colour, faint = one.mark.colour, one.mark.faint(0.22)
    _from_level(figure, one, marker, axis)
    _band(figure, one.constant, marker, axis, GREY, SHADE, "dot", "constant dose", suffix)
    _band(figure, one.recommended, marker, axis, colour, faint, "dash", "recommended dose held", suffix)
    _band(figure, one.level, marker, axis, colour, one.mark.faint(0.34), "solid", "level", suffix)
    visits = one.level.visits
    dots = go.Scatter(x=visits, y=one.seen[:, marker], yaxis=axis, mode="markers")
    dots.update(marker={"color": GREY, "size": 6.5}, name="seen", showlegend=False)
    figure.add_trace(dots.update(hovertemplate=f"visit %{{x}}: seen %{{y:.3f}}{suffix}<extra></extra>"))


def _from_level(figure: go.Figure, one: Beliefs, marker: int, axis: str) -> None:
    """Lines from the level at the visit on show to the first forecasts."""
    for forecast, colour, dash in ((one.constant, GREY, "dot"), (one.recommended, one.mark.colour, "dash")):
        x = [one.level.visits[-1], forecast.visits[0]]
        y = [one.level.mean[-1, marker], forecast.mean[0, marker]]
        line = {"color": colour, "width": 2, "dash": dash}
        figure.add_trace(go.Scatter(x=x, y=y, yaxis=axis, mode="lines", line=line, hoverinfo="skip"))


def _band(
    figure: go.Figure,
    band: Band,
    marker: int,
    axis: str,
    colour: str,
    fill: str,
    dash: str,
    name: str,
    suffix: str,
) -> None:
    """A mean as a line in its 90 % interval."""
    low, mean, high = (v[:, marker] for v in (band.low, band.mean, band.high))
    outline: AnyArray = np.concatenate([high, low[::-1]])
    area = go.Scatter(x=np.concatenate([band.visits, band.visits[::-1]]), y=outline, yaxis=axis)
    area.update(fill="toself", fillcolor=fill, line={"width": 0}, mode="lines", hoverinfo="skip")
    middle = go.Scatter(x=band.visits, y=mean, yaxis=axis, mode="lines", customdata=np.c_[low, high])
    middle.update(line={"color": colour, "width": 2, "dash": dash}, name=name)
    hover = f"visit %{{x}}, {name}: %{{y:.3f}} (%{{customdata[0]:.3f}} to %{{customdata[1]:.3f}}){suffix}"
    if len(band.visits) == 1:  # no line to see
        middle.update(mode="markers", marker={"color": colour, "size": 8, "symbol": "line-ew-open"})
        spread = {"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low}
        middle.update(error_y=spread | {"color": colour, "thickness": 5, "width": 0})
    figure.add_traces([area, middle.update(hovertemplate=f"{hover}<extra></extra>")])
