"""The dose as a function of the return that a policy is asked to reach. No Streamlit here."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, SHADE, Mark, decimals, number, unit_words
from dosing.types import Array

POINTS = 61
"""Returns at which the dose is computed."""
MARGIN = 0.25
"""How far beyond the recorded returns the curve goes, as a share of their range."""


def grid(targets: Array) -> Array:
    """Returns to ask a policy for: over all recorded ones and some beyond, in order, ``[K]``.

    Args:
        targets: lowest recorded return, the one aimed at, highest recorded, of every seed ``[S, 3]``.
    """
    low, high = float(targets.min()), float(targets.max())
    beyond = MARGIN * (high - low) or 1.0  # where every recorded return is the same
    return np.union1d(np.linspace(low - beyond, high + beyond, POINTS), targets[:, 1])


def dose_by_target(
    target: Array,
    dose: Array,
    targets: Array,
    limits: tuple[float, float],
    look: Mark,
    *,
    name: str = "dose",
    unit: str = "1",
) -> go.Figure:
    """Recommended dose over the return aimed at.

    Returns that no recorded patient had are grey. A dotted line stands at the return that the policy aims at
    by default, a marker where it meets the dose.

    Args:
        target: returns ``[K]``, in increasing order.
        dose: of one dose dimension ``[K]``.
        targets: lowest recorded return, the one aimed at by default, highest recorded, ``[S, 3]``.
        limits: hard limits of the dose.
        look: mark of the policy.
        name: of the dose.
        unit: of the dose.
    """
    places = decimals(limits[1] - limits[0])
    figure = _frame(
        (float(target[0]), float(target[-1])), targets, limits, f"{label(name)} ({label(unit_words(unit))})"
    )
    figure.add_trace(
        go.Scatter(
            x=target,
            y=dose,
            mode="lines",
            line={"color": look.colour, "width": 2.6},
            hovertemplate=f"return %{{x:.2f}}: {label(name)} %{{y:.{places}f}}<extra></extra>",
        )
    )
    aim = float(targets[:, 1].mean())
    rim = {"color": "white", "width": 1.5}
    figure.add_trace(
        go.Scatter(
            x=[aim],
            y=[float(np.interp(aim, target, dose))],
            mode="markers",
            marker={"symbol": look.symbol, "size": 13, "color": look.colour, "line": rim},
            hovertemplate=f"return %{{x:.2f}}, by default: {label(name)} %{{y:.{places}f}}<extra></extra>",
        )
    )
    return figure


def _frame(ends: tuple[float, float], targets: Array, limits: tuple[float, float], title: str) -> go.Figure:
    """Axes, hard limits, the returns that nobody had in grey, and the return aimed at by default."""
    low, aim, high = float(targets[:, 0].min()), float(targets[:, 1].mean()), float(targets[:, 2].max())
    pad = 0.12 * (limits[1] - limits[0])
    figure = finish(
        go.Figure(),
        260 + 30 + BOTTOM,
        xaxis={
            "title": "return asked for: sum of rewards (no unit)",
            "range": list(ends),
            "zeroline": False,
        },
        yaxis={
            "title": {"text": title, "standoff": 4},
            "range": [limits[0] - pad, limits[1] + pad],
            "zeroline": False,
        },
    )
    for edge in limits:
        figure.add_hline(y=edge, line={"color": GREY, "width": 2.5})
    shade = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "fillcolor": SHADE, "layer": "below"}
    for edge, end in zip((low, high), ends, strict=True):
        figure.add_shape(shade, x0=edge, x1=end, line_width=0)
    figure.add_vline(x=aim, line={"color": GREY, "width": 1.5, "dash": "dot"})
    default = f"asked for by default: {number(aim, decimals(high - low))}"
    side = "right" if aim > 0.5 * sum(ends) else "left"
    words = {"showarrow": False, "yanchor": "bottom", "font": {"size": 11.5}}
    figure.add_annotation(words, x=0.5 * (low + high), y=limits[1], text="hard limits", xanchor="center")
    figure.add_annotation(words, x=aim, y=limits[0], text=default, xanchor=side)
    return figure
