"""A patient's level as an agent believes it to be, and its forecasts: one strip per marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.analysis.belief import Band, Beliefs
from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, SHADE, number

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
    strips = [
        _strip(one, marker, place, count, f"{label(names[marker])}", units[marker])
        for place, marker in enumerate(which)
    ]
    figure = finish(
        go.Figure(data=[trace for strip in strips for trace in strip.traces]),
        STRIP * count + 30 + BOTTOM,
        xaxis=axis,
        shapes=[here],
        annotations=[strip.name for strip in strips],
        **{f"yaxis{place + 1}" if place else "yaxis": strip.axis for place, strip in enumerate(strips)},
    )
    return figure.update_layout(margin={"l": 62})


@dataclass(frozen=True)
class _Strip:
    """What one marker adds to the figure, which is made of all of it at once: piece by piece is slow."""

    traces: list[dict[str, Any]]
    axis: dict[str, Any]
    name: dict[str, Any]


def _strip(one: Beliefs, marker: int, place: int, count: int, name: str, unit: str) -> _Strip:
    """Dots, level and forecasts of one marker."""
    axis, suffix = ("y" if place == 0 else f"y{place + 1}"), "" if unit in ("", "1") else f" {label(unit)}"
    bands = (one.level, one.recommended, one.constant)
    low = min(float(one.seen[:, marker].min()), *(float(b.low[:, marker].min()) for b in bands))
    high = max(float(one.seen[:, marker].max()), *(float(b.high[:, marker].max()) for b in bands))
    pad, top = 0.1 * (high - low) or 1.0, 1.0 - place / count
    layout = {
        "domain": [top - 0.9 / count, top],
        "range": [low - pad, high + pad],
        "tickvals": [low, 0.5 * (low + high), high],
        "ticktext": [number(v, 1) for v in (low, 0.5 * (low + high), high)],
        "tickfont": {"size": 10.5},
        "zeroline": False,
        "showgrid": False,
    }
    text = {
        "x": 0,
        "xref": "paper",
        "xshift": -60,
        "xanchor": "left",
        "y": top - 0.45 / count,
        "yref": "paper",
        "text": f"<b>{name}</b>{'<br>' if suffix else ''}{suffix}",
        "showarrow": False,
        "font": {"size": 12.5},
    }
    colour, faint = one.mark.colour, one.mark.faint(0.22)
    dots = {
        "x": one.level.visits,
        "y": one.seen[:, marker],
        "mode": "markers",
        "marker": {"color": GREY, "size": 6.5},
        "name": "seen",
        "showlegend": False,
        "hovertemplate": f"visit %{{x}}: seen %{{y:.3f}}{suffix}<extra></extra>",
    }
    traces = [
        *_from_level(one, marker),
        *_band(one.constant, marker, GREY, SHADE, "dot", "constant dose", suffix),
        *_band(one.recommended, marker, colour, faint, "dash", "recommended dose held", suffix),
        *_band(one.level, marker, colour, one.mark.faint(0.34), "solid", "level", suffix),
        dots,
    ]
    return _Strip([{"type": "scatter", "yaxis": axis} | trace for trace in traces], layout, text)


def _from_level(one: Beliefs, marker: int) -> list[dict[str, Any]]:
    """Lines from the level at the visit on show to the first forecasts."""
    forecasts = ((one.constant, GREY, "dot"), (one.recommended, one.mark.colour, "dash"))
    return [
        {
            "x": [one.level.visits[-1], forecast.visits[0]],
            "y": [one.level.mean[-1, marker], forecast.mean[0, marker]],
            "mode": "lines",
            "line": {"color": colour, "width": 2, "dash": dash},
            "hoverinfo": "skip",
        }
        for forecast, colour, dash in forecasts
    ]


def _band(
    band: Band, marker: int, colour: str, fill: str, dash: str, name: str, suffix: str
) -> list[dict[str, Any]]:
    """A mean as a line in its 90 % interval."""
    low, mean, high = (v[:, marker] for v in (band.low, band.mean, band.high))
    area = {
        "x": np.concatenate([band.visits, band.visits[::-1]]),
        "y": np.concatenate([high, low[::-1]]),
        "fill": "toself",
        "fillcolor": fill,
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
    }
    hover = f"visit %{{x}}, {name}: %{{y:.3f}} (%{{customdata[0]:.3f}} to %{{customdata[1]:.3f}}){suffix}"
    middle = {
        "x": band.visits,
        "y": mean,
        "mode": "lines",
        "customdata": np.c_[low, high],
        "line": {"color": colour, "width": 2, "dash": dash},
        "name": name,
        "hovertemplate": f"{hover}<extra></extra>",
    }
    if len(band.visits) == 1:  # no line to see
        spread = {"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low}
        middle |= {
            "mode": "markers",
            "marker": {"color": colour, "size": 8, "symbol": "line-ew-open"},
            "error_y": spread | {"color": colour, "thickness": 5, "width": 0},
        }
    return [area, middle]
