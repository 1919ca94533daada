"""Roll-outs from one state: bands over matched patients for every choice, and what the choices differ by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.analysis.what_if import Strip
from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, Mark, number, unit_words
from dosing.evaluation.statistics import Estimate, verdict

TOP = 30
"""Room in pixels above the first strip."""


def common_range(strips: Sequence[Strip]) -> tuple[float, float]:
    """Axis range that holds one quantity of every choice, so that choices compare by eye."""
    values = np.concatenate([np.r_[strip.bands.ravel(), strip.limits] for strip in strips])
    low, high = float(values.min()), float(values.max())
    pad = 0.08 * (high - low) or 1.0
    return low - pad, high + pad


def episode(
    name: str, mark: Mark, strips: Sequence[Strip], ranges: Sequence[tuple[float, float]]
) -> go.Figure:
    """One choice from the present state on: a strip per quantity, median and two bands over patients.

    Args:
        name: of the choice.
        mark: its look.
        strips: what happened, from top to bottom.
        ranges: vertical range of each strip.
    """
    count, last = len(strips), float(strips[0].visits[-1])
    height = 150 if count <= 3 else 96
    body = height * count
    traces: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    for row, (strip, (low, high)) in enumerate(zip(strips, ranges, strict=True)):
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
        unit = "" if strip.unit == "" else f" ({label(unit_words(strip.unit))})"
        place = {"x": 0, "xref": "paper", "xanchor": "left", "xshift": -40, "showarrow": False}
        title = {"text": f"<b>{label(strip.name)}</b>{unit}", "font": {"size": 12.5}, "yanchor": "bottom"}
        notes += [
            {**place, **title, "y": top, "yref": "paper"},
            *_ends(strip, axis, (high - low) / (height - 34)),
        ]
        for edge in strip.limits:
            line = {"color": GREY, "width": 2}
            across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "layer": "below"}
            shapes.append({**across, "y0": edge, "y1": edge, "line": line})
        traces += _bands(name, mark, strip, axis)
    figure = finish(
        go.Figure(data=traces),
        body + TOP + BOTTOM,
        xaxis={
            "anchor": f"y{count}" if count > 1 else "y",
            "title": "visits from the chosen state",
            "range": [-0.4, last + 0.4],
            "zeroline": False,
        },
        annotations=notes,
        shapes=shapes,
        **axes,
    )
    return figure.update_layout(margin={"l": 44, "r": 80})


def _bands(name: str, mark: Mark, strip: Strip, axis: str) -> list[dict[str, Any]]:
    """Two ribbons and the median."""
    shape = "hv" if strip.steps else "linear"
    x, bands = strip.visits, strip.bands
    ribbon = {"type": "scatter", "x": x, "yaxis": axis, "mode": "lines", "hoverinfo": "skip"}
    ribbon["line"] = {"width": 0, "shape": shape, "color": mark.colour}
    traces = []
    for lower, upper, alpha in ((0, 4, 0.16), (1, 3, 0.28)):
        fill = {"fill": "tonexty", "fillcolor": mark.faint(alpha)}
        traces += [ribbon | {"y": bands[lower]}, ribbon | {"y": bands[upper]} | fill]
    median = {
        "type": "scatter",
        "x": x,
        "y": bands[2],
        "yaxis": axis,
        "mode": "lines",
        "line": {"color": mark.colour, "width": 2.4, "dash": mark.dash, "shape": shape},
        "customdata": bands[[0, 4]].T,
        "hovertemplate": f"{label(name)}, visit %{{x}}: {label(strip.name)}, median %{{y:.3f}}, "
        "10 to 90 % %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>",
    }
    return [*traces, median]


def _ends(strip: Strip, axis: str, pixel: float) -> list[dict[str, Any]]:
    """Names of the median and the outer band where they end, as far as there is room."""
    low, middle, high = (float(strip.bands[k, -1]) for k in (0, 2, 4))
    texts = [(middle, f"<b>{number(middle, 2)}</b>", 12.5)]
    for value, percent in ((low, 10), (high, 90)):
        if abs(value - middle) > 15 * pixel:
            texts.append((value, f"{percent} %: {number(value, 1)}", 10.5))
    place = {"x": 1, "xref": "paper", "xanchor": "left", "xshift": 4, "yref": axis, "showarrow": False}
    return [{**place, "y": value, "text": text, "font": {"size": size}} for value, text, size in texts]


def differences(base: str, result: Sequence[tuple[str, Mark, Estimate]]) -> go.Figure:
    """What every further choice is worth more than the first, paired by patient, with its interval.

    Args:
        base: name of the first choice.
        result: name, mark and difference in return of each further choice.
    """
    lane = 56
    height = lane * len(result)
    figure = finish(
        go.Figure(),
        height + TOP + BOTTOM,
        xaxis={"title": "return minus that of choice 1 (no unit)", "zeroline": False},
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
