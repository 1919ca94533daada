"""Regimens from one state on: bands of what each led to, overlaid or alone, and what they differ by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.analysis.regimens import Strip
from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, TARGET, Mark, number, unit_words
from dosing.evaluation.statistics import Estimate, verdict

Line = tuple[str, Mark, Sequence[Strip]]
"""Name, look and strips of one regimen."""
TOP = 30
"""Room in pixels above the first strip."""


def common_range(strips: Sequence[Strip]) -> tuple[float, float]:
    """Axis range that holds one quantity of every regimen, so that regimens compare by eye."""
    values = np.concatenate([np.r_[s.bands.ravel(), s.limits, s.target or ()] for s in strips])
    low, high = float(values.min()), float(values.max())
    pad = 0.08 * (high - low) or 1.0
    return low - pad, high + pad


def regimens(lines: Sequence[Line], ranges: Sequence[tuple[float, float]]) -> go.Figure:
    """Regimens from the present state on: a strip per quantity, lines and ribbons on one axis of visits.

    Args:
        lines: name, look and strips of every regimen, the same quantities in the same order; one regimen
            alone is drawn with its inner ribbon too.
        ranges: vertical range of each strip.
    """
    first = lines[0][2]
    count, last = len(first), max(float(s.visits[-1]) for _, _, strips in lines for s in strips)
    height = 150 if count <= 4 else 96
    body = height * count
    notes: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    for row, (low, high) in enumerate(ranges):
        same = [(name, mark, strips[row]) for name, mark, strips in lines]
        axis = "y" if row == 0 else f"y{row + 1}"
        top = 1.0 - row / count - 4 / body
        axes[axis.replace("y", "yaxis")] = {
            "domain": [top + 4 / body - (1 - 30 / height) / count, top],
            "range": [low, high],
            "nticks": 5 if height > 100 else 4,
            "tickfont": {"size": 11},
            "zeroline": True,
            "zerolinecolor": "rgba(118,118,118,0.5)",
        }
        pixel = (high - low) / (height - 34)
        notes += [_heading(first[row], top), *_ends(same, axis, (low, high), pixel)]
        shapes += _levels(first[row], axis)
        for name, mark, strip in same:
            traces += _bands(name, mark, strip, axis, inner=len(lines) == 1)
    figure = finish(
        go.Figure(data=traces),
        body + TOP + BOTTOM,
        xaxis={
            "anchor": f"y{count}" if count > 1 else "y",
            "title": "visits from the chosen state",
            "range": [-0.02 * last - 0.1, 1.02 * last + 0.1],
            "zeroline": False,
        },
        annotations=notes,
        shapes=shapes,
        **axes,
    )
    return figure.update_layout(margin={"l": 44, "r": 86})


def _heading(strip: Strip, top: float) -> dict[str, Any]:
    """Name, unit and target of a strip, above it."""
    unit = "" if strip.unit == "" else f" ({label(unit_words(strip.unit))})"
    target = "" if strip.target is None else "; shaded: target {:g} to {:g}".format(*strip.target)
    place = {"x": 0, "xref": "paper", "xanchor": "left", "xshift": -40, "y": top, "yref": "paper"}
    text = f"<b>{label(strip.name)}</b>{unit}{target}"
    return place | {"text": text, "font": {"size": 12.5}, "yanchor": "bottom", "showarrow": False}


def _levels(strip: Strip, axis: str) -> list[dict[str, Any]]:
    """Limits as lines, the target as a band."""
    across = {"xref": "paper", "x0": 0, "x1": 1, "yref": axis, "layer": "below"}
    line = {"type": "line", "line": {"color": GREY, "width": 2}}
    shapes = [across | line | {"y0": edge, "y1": edge} for edge in strip.limits]
    if strip.target is not None:
        low, high = strip.target
        band = {"type": "rect", "fillcolor": TARGET, "line": {"width": 0}}
        shapes.append(across | band | {"y0": low, "y1": high})
    return shapes


def _bands(name: str, mark: Mark, strip: Strip, axis: str, *, inner: bool) -> list[dict[str, Any]]:
    """The ribbons and the line of one regimen."""
    shape = "hv" if strip.steps else "linear"
    x, bands = strip.visits, strip.bands
    ribbon = {"type": "scatter", "x": x, "yaxis": axis, "mode": "lines", "hoverinfo": "skip"}
    ribbon["line"] = {"width": 0, "shape": shape, "color": mark.colour}
    what = f"{label(name)}, {label(strip.name)}"
    traces = []
    pairs = [(k, len(bands) - 1 - k) for k in range(len(bands) // 2)]
    for number_, (lower, upper) in enumerate(pairs if inner else pairs[:1]):
        fill = {"fill": "tonexty", "fillcolor": mark.faint(0.28 if number_ else 0.16)}
        ends = ribbon | {"name": f"{what}, ribbon {number_ + 1}"}
        traces += [ends | {"y": bands[lower]}, ends | {"y": bands[upper]} | fill]
    line = {
        "type": "scatter",
        "name": what,
        "x": x,
        "y": strip.middle,
        "yaxis": axis,
        "mode": "lines" if len(x) > 1 else "markers",
        "line": {"color": mark.colour, "width": 2.4, "dash": mark.dash, "shape": shape},
        "customdata": bands[[0, -1]].T,
        "hovertemplate": f"{label(name)}, visit %{{x}}: {label(strip.name)} %{{y:.3f}}{_hover(strip)}"
        "<extra></extra>",
    }
    return [*traces, line]


def _hover(strip: Strip) -> str:
    """The outer ribbon in a hover text."""
    if strip.percent is None:
        return ""
    return ", {} to {} % ".format(*strip.percent) + "%{customdata[0]:.3f} to %{customdata[1]:.3f}"


def _ends(
    same: Sequence[tuple[str, Mark, Strip]], axis: str, ends: tuple[float, float], pixel: float
) -> list[dict[str, Any]]:
    """Where the lines end, and the outer ribbon of one alone, in as much room as there is."""
    texts = [
        (float(strip.middle[-1]), f"{_glyph(mark)} <b>{number(float(strip.middle[-1]), 2)}</b>", 12.5)
        for _, mark, strip in same
    ]
    if len(same) == 1 and (percent := same[0][2].percent):
        for value, share in zip(same[0][2].bands[[0, -1], -1].tolist(), percent, strict=True):
            if abs(value - texts[0][0]) > 15 * pixel:
                texts.append((value, f"{share} %: {number(value, 1)}", 10.5))
    texts.sort(key=lambda one: one[0])
    at = [value for value, *_ in texts]
    for k in range(1, len(at)):  # each at least a line above the one below it
        at[k] = max(at[k], at[k - 1] + 15 * pixel)
    above = max(0.0, at[-1] - ends[1])
    place = {"x": 1, "xref": "paper", "xanchor": "left", "xshift": 4, "yref": axis, "showarrow": False}
    return [
        place | {"y": y - above, "text": text, "font": {"size": size}}
        for y, (_, text, size) in zip(at, texts, strict=True)
    ]


def _glyph(mark: Mark) -> str:
    return f'<span style="color:{mark.colour}">{mark.glyph}</span>'


def differences(base: str, result: Sequence[tuple[str, Mark, Estimate]]) -> go.Figure:
    """What every further regimen is worth more than the first, paired by patient, with its interval.

    Args:
        base: name of the first regimen.
        result: name, mark and difference in return of each further regimen.
    """
    lane = 56
    height = lane * len(result)
    figure = finish(
        go.Figure(),
        height + TOP + BOTTOM,
        xaxis={"title": "return minus that of regimen 1 (no unit)", "zeroline": False},
        yaxis={"range": [-height, 0], "visible": False},
    )
    ends = [end for *_, e in result for end in (e.low, e.high)]
    pad = 0.06 * (max(*ends, 0.0) - min(*ends, 0.0)) or 1.0
    figure.update_xaxes(range=[min(*ends, 0.0) - pad, max(*ends, 0.0) + pad])
    for row, (name, mark, estimate) in enumerate(result):
        line = {"color": GREY, "width": 2, "dash": "dot"}  # beside the names, not through them
        foot = -lane * (row + 1)
        figure.add_shape(type="line", line=line, layer="below", x0=0, x1=0, y0=foot + 30, y1=foot)
        figure.add_trace(
            go.Scatter(
                x=[estimate.value],
                y=[-lane * row - 40],
                mode="markers",
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [estimate.high - estimate.value],
                    "arrayminus": [estimate.value - estimate.low],
                    "color": mark.colour,
                    "thickness": 2,
                    "width": 5,
                },
                marker={"symbol": mark.symbol, "size": 11, "color": mark.colour},
                hovertemplate=f"{label(name)} minus {label(base)}: {estimate} "
                f"({label(estimate.basis)})<extra></extra>",
            )
        )
        text = (
            f'<span style="color:{mark.colour}">{mark.glyph}</span> <b>{label(name)}</b>: {verdict(estimate)}'
        )
        figure.add_annotation(
            x=0,
            xref="paper",
            xanchor="left",
            y=-lane * row - 16,
            text=text,
            showarrow=False,
            font={"size": 12.5},
        )
    return figure
