"""Tails of distributions on the dose axis, and what their patients paid. No Streamlit here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.analysis.tails import Paid, Tails
from app.charts.base import BOTTOM, finish
from app.charts.estimates import Panel
from app.text import label
from app.theme import GREY, SHADE, Mark, decimals, number, unit_words

DECADES = 12
"""Decades of probability that are drawn."""
TOP = 34
"""Room in pixels above the plotting area."""


def tail_mass(
    result: Sequence[Tails], limits: tuple[float, float], *, name: str = "dose", unit: str = "1"
) -> go.Figure:
    """Probability of a dose at least as extreme as the one on the axis, log scale, mean over seeds.

    A bounded distribution's line ends at a marked edge: beyond it the probability is exactly 0, which a
    logarithmic axis cannot show. What lies between two lines is filled: the difference in tail mass.

    Args:
        result: tails over one dose dimension; the first is the one that the others are set against.
        limits: hard limits of the dose.
        name: of the dose.
        unit: of the dose.
    """
    left, right = float(result[0].dose[0]), float(result[0].dose[-1])
    places = decimals(limits[1] - limits[0])
    floor = 10.0**-DECADES
    figure = finish(
        go.Figure(),
        330 + TOP + BOTTOM,
        xaxis={
            "range": [left, right],
            "title": f"{label(name)} ({label(unit_words(unit))})",
            "zeroline": False,
        },
        yaxis={
            "type": "log",
            "range": [-DECADES, 0.8],
            "dtick": 2,
            "exponentformat": "power",
            "title": {"text": "probability of a dose this far out or further", "standoff": 4},
        },
    )
    for edge, end in zip(limits, (left, right), strict=True):
        shade = {"fillcolor": SHADE, "line_width": 0, "layer": "below"}
        figure.add_shape(type="rect", x0=edge, x1=end, yref="paper", y0=0, y1=1, **shade)
        line = {"color": GREY, "width": 2.5}
        figure.add_shape(type="line", x0=edge, x1=edge, yref="paper", y0=0, y1=1, line=line)
        words = f"hard limit {number(edge, places).rstrip('0').rstrip('.')}"
        room = abs(end - edge) / (right - left) > 0.25  # beyond the limit, away from the other one
        anchor = "left" if (edge == limits[0]) != room else "right"
        _text(figure, edge, 1.0, words, yref="paper", yanchor="bottom", xanchor=anchor, size=11.5)
    if len(result) > 1:
        _gap(figure, result[0], result[1], floor)
    for one in result:
        _tail(figure, one, floor, places)
    return figure


def _gap(figure: go.Figure, first: Tails, second: Tails, floor: float) -> None:
    """Fill what lies between two tails."""
    grid = np.union1d(first.dose, second.dose)
    ends = [np.maximum(np.interp(grid, one.dose, one.mean), floor) for one in (first, second)]
    figure.add_trace(
        go.Scatter(
            x=np.concatenate([grid, grid[::-1]]),
            y=np.concatenate([ends[0], ends[1][::-1]]),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=second.answer.mark.faint(0.12),
            hoverinfo="skip",
        )
    )


def _tail(figure: go.Figure, one: Tails, floor: float, places: int) -> None:
    look, name = one.answer.mark, one.answer.source.name
    shown = np.where(one.mean > 0.0, one.mean, np.nan)
    figure.add_trace(
        go.Scatter(
            x=one.dose,
            y=shown,
            mode="lines",
            line={"color": look.colour, "dash": look.dash, "width": 2.4},
            hovertemplate=f"{label(name)}: %{{y:.2g}} at dose %{{x:.{places}f}} or beyond<extra></extra>",
        )
    )
    named = f'<span style="color:{look.colour}">{look.glyph}</span> {label(name)}'
    if (one.mean > 0.0).all():
        _beside(figure, one, named)
    elif (one.mean > 0.0).any():
        _ends(figure, one, named, floor * 4.0, places)


def _ends(figure: go.Figure, one: Tails, named: str, height: float, places: int) -> None:
    """Mark where the probability becomes exactly 0, and name the distribution on the side with more room.

    Where neither side has room for a name on a telephone it stands between the ends.
    """
    look, name = one.answer.mark, one.answer.source.name
    inside = one.dose[one.mean > 0.0]
    axis = (float(one.dose[0]), float(one.dose[-1]))
    edges = {"left": float(inside[0]), "right": float(inside[-1])}
    room = {"left": edges["left"] - axis[0], "right": axis[1] - edges["right"]}
    for side, edge in edges.items():
        if room[side] > 0.0:  # else the tail goes on beyond the axis
            figure.add_trace(
                go.Scatter(
                    x=[edge],
                    y=[height],
                    mode="markers",
                    marker={"symbol": f"triangle-{side}", "size": 11, "color": look.colour},
                    hovertemplate=f"{label(name)}: exactly 0 beyond dose "
                    f"{number(edge, places)}<extra></extra>",
                )
            )
    side = max(room, key=lambda which: room[which])
    share = room[side] / (axis[1] - axis[0])
    words = f"{named}: 0 beyond" if share > 0.5 else named
    x, anchor, shift = edges[side], "right" if side == "left" else "left", -8 if side == "left" else 8
    if share < 0.3:
        x, anchor, shift = 0.5 * (edges["left"] + edges["right"]), "center", 0
    _text(figure, x, float(np.log10(height)), words, xanchor=anchor, yanchor="middle", xshift=shift)


def _beside(figure: go.Figure, one: Tails, named: str) -> None:
    """Name a tail without an end over its outer part, on the side with more room."""
    width = one.dose[-1] - one.dose[0]
    peak = float(one.dose[np.argmax(one.mean)])
    left = peak - one.dose[0] > one.dose[-1] - peak
    seen = one.dose[one.mean > 10.0 ** (1 - DECADES)]
    x = max(one.dose[0] + 0.25 * width, seen[0]) if left else min(one.dose[-1] - 0.25 * width, seen[-1])
    y = float(np.log10(np.interp(x, one.dose, one.mean)))
    _text(figure, float(x), y, named, xanchor="right" if left else "left", yanchor="bottom", yshift=4)


def measures(rows: Sequence[tuple[str, Mark, str, Paid]], share: float | None) -> list[Panel]:
    """Panels of :func:`app.charts.estimates.panels_of_estimates`.

    Args:
        rows: agent, mark, rule and what its patients paid.
        share: of the patients that are the worst; None where there are too few.
    """
    named = [(f"{name}, {rule}", look, rule == "recommended", result) for name, look, rule, result in rows]
    result: list[Panel] = [
        ("safety cost per patient", [(n, m, f, p.cost) for n, m, f, p in named]),
        ("doses held at a hard limit (%)", [(n, m, f, p.limited) for n, m, f, p in named]),
    ]
    if share is not None:
        title = f"return of the worst {100 * share:g}\N{NO-BREAK SPACE}% of patients (no unit)"
        result.insert(1, (title, [(n, m, f, p.worst or "too few patients") for n, m, f, p in named]))
    return result


def _text(figure: go.Figure, x: float, y: float, text: str, *, size: float = 12.5, **more: Any) -> None:
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, font={"size": size}, **more)
