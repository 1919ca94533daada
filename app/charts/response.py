"""Believed return over the dose: one panel per agent on one dose axis. No Streamlit here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.analysis.response import DoseResponse
from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, Mark, decimals, number, unit_words
from dosing.safety import DoseLimits
from dosing.types import Array

PANEL, HEAD = 190, 44
"""Height in pixels of a panel, and of the line with the agent's name above it."""
ROOM = 0.36
"""Room for the names of the lines right of the upper hard limit, as a share of the limits' distance."""
APART = 15
"""Least distance in pixels of two names."""


def dose_response(
    responses: Sequence[DoseResponse], limits: DoseLimits, dimension: int = 0, *, name: str = "dose"
) -> go.Figure:
    """Value of every allowed dose for every agent: seeds as a band, their mean as a strong line.

    A learned distribution of returns adds its 10 to 90 % band and the mean of its worst 5 %, dashed. A marker
    stands at the recommended dose, ticks at doses recorded near the state, grey lines at the hard limits.
    Panels have return axes of their own: critics agree on neither level nor scale.

    Args:
        responses: of one dose dimension.
        limits: hard limits.
        dimension: of the dose.
        name: of the dose, for the axis title.
    """
    low, high = limits.low[dimension], limits.high[dimension]
    width, places = high - low, decimals(high - low)
    right = high + ROOM * width
    lane = PANEL + HEAD
    body = lane * len(responses)
    figure = finish(
        go.Figure(),
        body + 30 + BOTTOM,
        xaxis={
            "range": [low - 0.03 * width, right],
            "tickvals": _ticks(low, high),
            "title": f"{label(name)} ({label(unit_words(limits.unit))})",
            "zeroline": False,
        },
    )
    for row, response in enumerate(responses):
        axis = "y" if row == 0 else f"y{row + 1}"
        top = 1.0 - row * lane / body
        bottom, ceiling = top - lane / body, top - HEAD / body
        figure.update_layout({f"yaxis{axis[1:]}": _return_axis(response, bottom, ceiling)})
        for edge in (low, high):
            line = {"color": GREY, "width": 2.5}
            figure.add_shape(type="line", x0=edge, x1=edge, yref=f"{axis} domain", y0=0, y1=1, line=line)
        _panel(figure, response, axis, places)
        _names(figure, response, axis, high + 0.02 * width)
        look = response.answer.mark
        _text(
            figure,
            0.0,
            top - 6 / body,
            f'<span style="color:{look.colour}">{look.glyph}</span> '
            f"<b>{label(response.answer.source.name)}</b>"
            f"{', DEFERRED' if response.answer.result.status == 'deferred' else ''}",
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="top",
        )
    figure.update_xaxes(anchor="y" if len(responses) == 1 else f"y{len(responses)}")
    for edge, anchor in ((low, "left"), (high, "right")):
        words = f"hard limit {number(edge, places).rstrip('0').rstrip('.')}"
        _text(figure, edge, 1.0, words, yref="paper", xanchor=anchor, yanchor="bottom", size=11.5)
    return figure


def _ticks(low: float, high: float) -> list[float]:
    """Five round numbers or so within the limits, and none in the room for names."""
    size = 10.0 ** np.floor(np.log10((high - low) / 4))
    step = size * next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (m * size) <= 5)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return [float(np.round(k * step, 10)) for k in np.arange(first, last + 1)]


def _ends(response: DoseResponse) -> tuple[float, float]:
    """Least and greatest value in a panel."""
    parts = [response.value]
    if response.distribution is not None:
        parts += [response.distribution.low, response.distribution.high, response.distribution.worst]
    least, most = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
    if most - least < 1e-9 * max(abs(most), 1.0):  # a critic that does not look at the dose
        least, most = least - 0.5, most + 0.5
    return least, most


def _return_axis(response: DoseResponse, bottom: float, top: float) -> dict[str, object]:
    least, most = _ends(response)
    pad = 0.08 * (most - least)
    return {
        "domain": [bottom, top],
        "anchor": "x",
        "range": [least - 2.2 * pad, most + 2.2 * pad],
        "title": {"text": "believed return<br>(no unit)", "standoff": 4, "font": {"size": 12}},
        "nticks": 5,
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
    }


def _panel(figure: go.Figure, response: DoseResponse, axis: str, places: int) -> None:
    """Bands, lines and marks of one agent."""
    look, dose = response.answer.mark, response.dose
    if response.distribution is not None:
        _band(figure, dose, response.distribution.low, response.distribution.high, look.faint(0.14), axis)
    else:
        _band(figure, dose, response.value.min(0), response.value.max(0), look.faint(0.2), axis)
    for seed in response.value:
        line = {"color": look.faint(0.55), "width": 1}
        figure.add_trace(go.Scatter(x=dose, y=seed, yaxis=axis, mode="lines", line=line, hoverinfo="skip"))
    figure.add_trace(
        go.Scatter(
            x=dose,
            y=response.mean,
            yaxis=axis,
            mode="lines",
            line={"color": look.colour, "width": 2.6},
            hovertemplate=f"dose %{{x:.{places}f}}: believed return %{{y:.3f}}<extra></extra>",
        )
    )
    if response.distribution is not None:
        figure.add_trace(
            go.Scatter(
                x=dose,
                y=response.distribution.worst.mean(0),
                yaxis=axis,
                mode="lines",
                line={"color": look.colour, "width": 2, "dash": "dash"},
                hovertemplate=f"dose %{{x:.{places}f}}: worst 5 % %{{y:.3f}}<extra></extra>",
            )
        )
    _marks(figure, response, axis, look, places)


def _marks(figure: go.Figure, response: DoseResponse, axis: str, look: Mark, places: int) -> None:
    """The recommended dose with its number, and ticks at the doses recorded near the state."""
    least, most = _ends(response)
    floor = least - 0.13 * (most - least)
    if len(response.near):
        figure.add_trace(
            go.Scatter(
                x=response.near,
                y=np.full(len(response.near), floor),
                yaxis=axis,
                mode="markers",
                marker={"symbol": "line-ns", "size": 9, "line": {"color": GREY, "width": 2}},
                hovertemplate=f"recorded at a near visit: dose %{{x:.{places}f}}<extra></extra>",
            )
        )
    x, y = response.recommended, float(response.at_recommended.mean())
    line = {"color": look.colour, "width": 1.5, "dash": "dot"}
    figure.add_shape(type="line", x0=x, x1=x, yref=f"{axis} domain", y0=0, y1=1, line=line)
    rank = "deferred" if response.answer.result.status == "deferred" else "recommended"
    figure.add_trace(
        go.Scatter(
            x=[x],
            y=[y],
            yaxis=axis,
            mode="markers",
            marker={
                "symbol": look.symbol,
                "size": 13,
                "color": look.colour,
                "line": {"color": "white", "width": 1.5},
            },
            hovertemplate=f"{rank} dose {number(x, places)}: believed return %{{y:.3f}}<extra></extra>",
        )
    )
    place = (x - response.dose[0]) / (response.dose[-1] - response.dose[0])
    _text(
        figure,
        x,
        1.0,
        f"{rank} <b>{number(x, places)}</b>",
        yref=f"{axis} domain",
        xanchor="left" if place < 0.25 else "right" if place > 0.75 else "center",
        yanchor="bottom",
        size=11.5,
    )


def _names(figure: go.Figure, response: DoseResponse, axis: str, x: float) -> None:
    """Names of the lines at their right ends, moved apart where they would cover each other."""
    least, most = _ends(response)
    floor = least - 0.13 * (most - least)
    named = [(float(response.mean[-1]), "<b>mean</b>")]
    if response.distribution is not None:
        named += [
            (float(response.distribution.worst.mean(0)[-1]), "worst 5\N{NO-BREAK SPACE}%"),
            (float(response.distribution.high[-1]), "90\N{NO-BREAK SPACE}%"),
            (float(response.distribution.low[-1]), "10\N{NO-BREAK SPACE}%"),
        ]
    if len(response.near):
        named.append((floor, "recorded"))
    pixel = (most - least) * (1 + 2 * 2.2 * 0.08) / PANEL
    named.sort()
    heights = [y for y, _ in named]
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + APART * pixel)
    top = most + 0.16 * (most - least)
    for k in reversed(range(len(heights))):
        heights[k] = min(heights[k], top - (len(heights) - 1 - k) * APART * pixel)
    for y, (_, words) in zip(heights, named, strict=True):
        _text(figure, x, y, words, yref=axis, xanchor="left", yanchor="middle", size=11.5)


def _band(figure: go.Figure, x: Array, low: Array, high: Array, colour: str, axis: str) -> None:
    figure.add_trace(
        go.Scatter(
            x=np.concatenate([x, x[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            yaxis=axis,
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=colour,
            hoverinfo="skip",
        )
    )


def _text(figure: go.Figure, x: float, y: float, text: str, *, size: float = 12.5, **more: object) -> None:
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, font={"size": size}, **more)
