"""Agents and rules in lanes below each other, one measure or several beside each other. No Streamlit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, Mark
from dosing.evaluation.statistics import Estimate

LANE, LINE = 44, 17
"""Height in pixels of a lane with a name of one line, and of every further line."""
GAP = 0.05
"""Room between two measures, as a share of the width."""


@dataclass(frozen=True)
class Measure:
    """One measure of every lane.

    Attributes:
        title: with its unit.
        values: of every lane; None where it was not measured.
        base: value that a lane is compared with; None where there is none.
    """

    title: str
    values: Sequence[Estimate | None]
    base: float | None = None


def forest(lanes: Sequence[tuple[str, Mark, str]], measures: Sequence[Measure]) -> go.Figure:
    """Every measure with its interval, a lane per agent or rule, the name above it.

    Args:
        lanes: name, look and further words, such as a verdict, from top to bottom.
        measures: from left to right.
    """
    names = [_lines(*lane) for lane in lanes]
    heights = [LANE + LINE * (len(lines) - 1) for lines in names]
    body = sum(heights)
    room = 56 // len(measures)  # letters of a title that fit beside the others on a telephone
    titles = [textwrap.wrap(one.title, room) for one in measures]
    more = 16 * (max(map(len, titles)) - 1)
    figure = finish(go.Figure(), body + 30 + BOTTOM + more)
    width = (1.0 - GAP * (len(measures) - 1)) / len(measures)
    layout: dict[str, Any] = {"yaxis": {"range": [-body, 0], "visible": False, "fixedrange": True}}
    shapes, traces = [], []
    for column, (one, title) in enumerate(zip(measures, titles, strict=True)):
        tag = "" if column == 0 else str(column + 1)
        left = column * (width + GAP)
        layout[f"xaxis{tag}"] = _axis(
            one, "<br>".join(map(label, title)), (left, left + width), len(measures)
        )
        top = 0
        for (name, mark, _), value, height in zip(lanes, one.values, heights, strict=True):
            foot = top - height
            if one.base is not None:  # beside the names, not through them
                line = {"color": GREY, "width": 2, "dash": "dot"}
                ends = {"x0": one.base, "x1": one.base, "y0": foot + 22, "y1": foot}
                shapes.append({"type": "line", "xref": f"x{tag}", "line": line, "layer": "below"} | ends)
            if value is not None:
                traces.append(_estimate(name, mark, value, foot + 12, tag, one.title))
            top = foot
    figure.update_layout(shapes=shapes, margin_b=BOTTOM + more, **layout)
    figure.add_traces(traces)
    figure.update_layout(annotations=_names(names, heights))
    return figure


def _lines(name: str, mark: Mark, words: str) -> list[str]:
    """Name and words in lines that fit a telephone, the name in bold behind its mark."""
    first, *more = textwrap.wrap(name, 40)
    lines = [f'<span style="color:{mark.colour}">{mark.glyph}</span> <b>{label(first)}</b>']
    lines += [f"<b>{label(part)}</b>" for part in more]
    if not words:
        return lines
    if len((more or [first])[-1]) + len(words) > 42:
        return [*lines, label(words)]
    return [*lines[:-1], f"{lines[-1]}: {label(words)}"]


def _names(names: Sequence[Sequence[str]], heights: Sequence[int]) -> list[dict[str, Any]]:
    """Every name at the top of its lane."""
    place = {"x": 0, "xref": "paper", "xanchor": "left", "yref": "y", "yanchor": "top", "align": "left"}
    look = {"showarrow": False, "font": {"size": 12.5}}
    tops = [-sum(heights[:row]) for row in range(len(heights))]
    return [
        place | look | {"y": top, "text": "<br>".join(lines)} for lines, top in zip(names, tops, strict=True)
    ]


def _axis(one: Measure, title: str, domain: tuple[float, float], beside: int) -> dict[str, Any]:
    """The axis of one measure, wide enough for every interval and for what it is compared with."""
    ends = [end for value in one.values if value for end in (value.low, value.high)]
    ends += [] if one.base is None else [one.base]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    pad = 0.06 * (high - low) or 0.5
    return {
        "anchor": "y",
        "domain": domain,
        "range": [low - pad, high + pad],
        "title": {"text": title, "font": {"size": 12}},
        "nticks": max(8 // beside, 3),
        "tickfont": {"size": 11},
        "zeroline": False,
        "fixedrange": True,
    }


def _estimate(name: str, mark: Mark, value: Estimate, y: float, tag: str, title: str) -> go.Scatter:
    """One estimate with its interval as a line with caps."""
    return go.Scatter(
        x=[value.value],
        y=[y],
        name=label(name),
        xaxis=f"x{tag}",
        mode="markers",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [value.high - value.value],
            "arrayminus": [value.value - value.low],
            "color": mark.colour,
            "thickness": 2,
            "width": 5,
        },
        marker={
            "symbol": mark.symbol,
            "size": 10,
            "color": mark.colour,
            "line": {"width": 2, "color": mark.colour},
        },
        hovertemplate=f"{label(name)}, {label(title)}: {value} ({label(value.basis)})<extra></extra>",
    )
