"""Estimates with their intervals, in rows on one axis per measure. No Streamlit here."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import Mark, minus
from dosing.evaluation.statistics import Estimate

Line = tuple[str, Mark, bool, Estimate | str]
"""One row: name, mark, whether its marker is filled, and a number with its interval or why there is none."""
Panel = tuple[str, Sequence[Line]]
"""Title of an axis with its unit, and the rows above it."""

LINE, MARKER, HEAD, FOOT = 17, 20, 6, 62
"""Height in pixels of a line of text, of a marker below it, and of the room above and below the rows."""


def panels_of_estimates(panels: Sequence[Panel]) -> go.Figure:
    """Estimates with their intervals, one panel per measure with an axis of its own.

    Over every marker stand its name and its number in lines that fit a telephone.

    Args:
        panels: see :data:`Panel`.
    """
    words = [[_words(line) for line in lines] for _, lines in panels]
    lanes = [[LINE * len(text) + MARKER for text in texts] for texts in words]
    heights = [HEAD + sum(own) + FOOT for own in lanes]
    body = sum(heights)
    figure = finish(go.Figure(), body - FOOT + 30 + BOTTOM)
    start = 0
    for index, (title, lines) in enumerate(panels):
        tag = "" if index == 0 else str(index + 1)
        top, floor = 1.0 - (start + HEAD) / body, 1.0 - (start + heights[index] - FOOT) / body
        start += heights[index]
        figure.update_layout(_axes(tag, title, lines, (floor, top), sum(lanes[index])))
        y = 0.0
        for line, text, lane in zip(lines, words[index], lanes[index], strict=True):
            at: dict[str, Any] = {"xref": f"x{tag} domain", "yref": f"y{tag}"}
            _text(figure, 0.0, y, "<br>".join(text), xanchor="left", yanchor="top", align="left", **at)
            y -= lane
            if isinstance(line[3], Estimate):
                _estimate(figure, *line[:3], line[3], y + 0.55 * MARKER, tag)
    return figure


def _words(line: Line) -> list[str]:
    """The name and the number, or why there is none, in short lines."""
    name, look, _, result = line
    first, *more = map(label, textwrap.wrap(name, 42))
    number = (
        [f"<b>{minus(result)}</b>"]
        if isinstance(result, Estimate)
        else [label(part) for part in textwrap.wrap(result, 46)]
    )
    return [f'<span style="color:{look.colour}">{look.glyph}</span> {first}', *more, *number]


def _axes(
    tag: str, title: str, lines: Sequence[Line], domain: tuple[float, float], height: float
) -> dict[str, Any]:
    """Axes of one panel: estimates across, pixels down."""
    known = [result for _, _, _, result in lines if isinstance(result, Estimate)]
    low, high = min((e.low for e in known), default=0.0), max((e.high for e in known), default=1.0)
    pad = 0.05 * (high - low) or 0.5
    return {
        f"xaxis{tag}": {
            "anchor": f"y{tag}",
            "range": [low - pad, high + pad],
            "title": {"text": label(title), "font": {"size": 13}, "standoff": 4},
            "nticks": 8,
            "zeroline": False,
            "fixedrange": True,
        },
        f"yaxis{tag}": {
            "anchor": f"x{tag}",
            "domain": domain,
            "range": [-height, 0],
            "visible": False,
            "fixedrange": True,
        },
    }


def _estimate(
    figure: go.Figure, name: str, look: Mark, filled: bool, result: Estimate, y: float, tag: str
) -> None:
    figure.add_trace(
        go.Scatter(
            x=[result.value],
            y=[y],
            xaxis=f"x{tag}",
            yaxis=f"y{tag}",
            mode="markers",
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [result.high - result.value],
                "arrayminus": [result.value - result.low],
                "color": look.colour,
                "thickness": 2,
                "width": 4,
            },
            marker={
                "symbol": look.symbol if filled else f"{look.symbol}-open",
                "size": 9,
                "color": look.colour,
                "line": {"width": 2, "color": look.colour},
            },
            hovertemplate=f"{label(name)}: {result} ({label(result.basis)})<extra></extra>",
        )
    )


def _text(figure: go.Figure, x: float, y: float, text: str, *, size: float = 12.5, **more: Any) -> None:
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, font={"size": size}, **more)
