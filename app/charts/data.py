"""Figures of recorded or simulated visits: how states, doses and rewards are distributed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.analysis.data import Quantity
from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, number, unit_words

BINS = 40
ROOM = 18
"""Letters of a name and its unit that fit into one line of half a telephone."""
PANEL, TOP = 132, 30
"""Height in pixels of a panel, and of the room above the first."""


def histograms(quantities: Sequence[Quantity]) -> go.Figure:
    """How each quantity is distributed over the visits: small histograms, two a row, each on its own axis.

    Heights are shares of the visits, on one scale within a panel only; the mean stands under its name.
    """
    rows = -(-len(quantities) // 2)
    body = PANEL * rows
    figure = finish(go.Figure(), body + TOP + BOTTOM)
    for index, one in enumerate(quantities):
        row, column = divmod(index, 2)
        _panel(figure, "" if index == 0 else str(index + 1), one, 0.53 * column, 1.0 - row / rows, body)
    return figure


def _panel(figure: go.Figure, tag: str, one: Quantity, left: float, top: float, body: int) -> None:
    """One histogram on the axes ``tag``, its upper left corner at ``left`` and ``top`` of the paper."""
    values = one.values.astype(np.float64)
    ends = np.array([values.min(), values.max(), *one.limits])
    edges = np.linspace(ends.min(), ends.max() + 1e-9, BINS + 1)
    pad = 0.04 * (edges[-1] - edges[0])
    across = {
        "anchor": f"y{tag}",
        "domain": [left, left + 0.47],
        "range": [edges[0] - pad, edges[-1] + pad],
        "nticks": 5,
        "tickfont": {"size": 10.5},
        "zeroline": False,
        "showgrid": False,
        "fixedrange": True,
    }
    up = {
        "anchor": f"x{tag}",
        "domain": [top - 92 / body, top - 42 / body],
        "visible": False,
        "fixedrange": True,
        "rangemode": "tozero",
    }
    figure.update_layout({f"xaxis{tag}": across, f"yaxis{tag}": up})
    figure.add_trace(
        go.Bar(
            x=0.5 * (edges[1:] + edges[:-1]),
            y=100 * np.histogram(values, edges)[0] / len(values),
            xaxis=f"x{tag}",
            yaxis=f"y{tag}",
            marker={"color": GREY, "line": {"width": 0}},
            hovertemplate=f"{label(one.name)} near %{{x:.3f}}: %{{y:.1f}} % of the visits<extra></extra>",
        )
    )
    limit = {"type": "line", "xref": f"x{tag}", "yref": f"y{tag} domain", "y0": 0, "y1": 1}
    for edge in one.limits:
        figure.add_shape(limit, x0=edge, x1=edge, line={"color": GREY, "width": 2, "dash": "dot"})
    figure.add_annotation(
        x=left,
        xref="paper",
        xanchor="left",
        y=top - 40 / body,
        yref="paper",
        yanchor="bottom",
        align="left",
        text=_title(one, f"mean {number(float(values.mean()), 2)}"),
        showarrow=False,
        font={"size": 12},
    )


def _title(one: Quantity, mean: str) -> str:
    """Name, unit and mean in two lines that fit half a telephone."""
    name, unit = f"<b>{label(one.name)}</b>", label(unit_words(one.unit))
    if len(one.name) + len(unit) > ROOM:
        return f"{name}<br>({unit}) {mean}"
    return f"{name} ({unit})<br>{mean}"
