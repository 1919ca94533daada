"""Estimates with their intervals, in rows on one axis per measure. No Streamlit here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from app.charts import BOTTOM, finish
from app.theme import Mark, minus
from dosing.statistics import Estimate

Line = tuple[str, Mark, bool, Estimate | str]
"""One row: name, mark, whether its marker is filled, and a number with its interval or why there is none."""
Panel = tuple[str, Sequence[Line]]
"""Title of an axis with its unit, and the rows above it."""

LANE, HEAD, FOOT = 42, 6, 60
"""Height in pixels of a row, and of the room above and below the rows of a panel."""


def panels_of_estimates(panels: Sequence[Panel]) -> go.Figure:
    """Estimates with their intervals, one panel per measure with an axis of its own, one row per name.

    Args:
        panels: see :data:`Panel`.
    """
    heights = [HEAD + LANE * len(rows) + FOOT for _, rows in panels]
    body = sum(heights)
    figure = finish(go.Figure(), body - FOOT + 30 + BOTTOM)
    start = 0
    for index, ((title, rows), height) in enumerate(zip(panels, heights, strict=True)):
        tag = "" if index == 0 else str(index + 1)
        top, floor = 1.0 - (start + HEAD) / body, 1.0 - (start + height - FOOT) / body
        start += height
        known = [found for _, _, _, found in rows if isinstance(found, Estimate)]
        low = min((e.low for e in known), default=0.0)
        high = max((e.high for e in known), default=1.0)
        pad = 0.05 * (high - low) or 0.5
        figure.update_layout(
            {
                f"xaxis{tag}": {
                    "anchor": f"y{tag}",
                    "range": [low - pad, high + pad],
                    "title": title,
                    "zeroline": False,
                },
                f"yaxis{tag}": {
                    "anchor": f"x{tag}",
                    "domain": [floor, top],
                    "range": [-LANE * len(rows), 0],
                    "visible": False,
                    "fixedrange": True,
                },
            }
        )
        for row, (name, look, filled, found) in enumerate(rows):
            words = f'<span style="color:{look.colour}">{look.glyph}</span> {name}'
            words += f": {minus(found)}"
            at: dict[str, Any] = {"xref": f"x{tag} domain", "yref": f"y{tag}"}
            _text(figure, 0.0, -LANE * row, words, xanchor="left", yanchor="top", **at)
            if isinstance(found, Estimate):
                _estimate(figure, name, look, filled, found, -LANE * row - 28.0, tag)
    return figure


def _estimate(
    figure: go.Figure, name: str, look: Mark, filled: bool, found: Estimate, y: float, tag: str
) -> None:
    figure.add_trace(
        go.Scatter(
            x=[found.value],
            y=[y],
            xaxis=f"x{tag}",
            yaxis=f"y{tag}",
            mode="markers",
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [found.high - found.value],
                "arrayminus": [found.value - found.low],
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
            hovertemplate=f"{name}: {found} ({found.basis})<extra></extra>",
        )
    )


def _text(figure: go.Figure, x: float, y: float, text: str, *, size: float = 12.5, **more: Any) -> None:
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, font={"size": size}, **more)
