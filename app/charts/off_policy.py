"""How many patients importance weights rest on. No Streamlit here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, Mark
from dosing.ope.importance import LEAST_SAMPLE
from dosing.types import Array

FLOOR = 0.5
"""Lowest effective sample size on the axis; no weights at all are drawn there, with an open marker."""


def effective_sample(lines: Sequence[tuple[str, Mark, Array]], patients: int) -> go.Figure:
    """Effective sample size of the full products of ratios at every visit, log scale.

    Args:
        lines: name, mark and sample size ``[S, H]`` of every agent.
        patients: recorded: the most that it can be.
    """
    visits = max(sample.shape[1] for _, _, sample in lines)
    top = 1.6 * patients
    figure = finish(
        go.Figure(),
        260 + 30 + BOTTOM,
        xaxis={
            "title": "visit",
            "range": [0.5, 0.5 + 1.3 * visits],
            "tickvals": np.unique(np.linspace(1, visits, 5).round()),
            "zeroline": False,
        },
        yaxis={
            "title": {"text": "effective sample size (patients)", "standoff": 4},
            "type": "log",
            "range": [np.log10(0.7 * FLOOR), np.log10(top)],
            "tickvals": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000],
        },
    )
    for level, words in ((LEAST_SAMPLE, f"no number below {LEAST_SAMPLE:g}"), (patients, "all patients")):
        figure.add_hline(y=level, line={"color": GREY, "width": 1.5, "dash": "dot"})
        _text(figure, 0.5 + 1.3 * visits, np.log10(level), words, xanchor="right", yanchor="bottom")
    for row, (name, look, sample) in enumerate(lines):
        x, mean = np.arange(1, sample.shape[1] + 1), sample.mean(0)
        for seed in sample:
            line = {"color": look.faint(0.4), "width": 1}
            figure.add_trace(
                go.Scatter(x=x, y=np.maximum(seed, FLOOR), mode="lines", line=line, hoverinfo="skip")
            )
        figure.add_trace(
            go.Scatter(
                x=x,
                y=np.maximum(mean, FLOOR),
                customdata=mean,
                mode="lines+markers",
                line={"color": look.colour, "width": 2.4, "dash": look.dash},
                marker={
                    "symbol": [look.symbol if m >= FLOOR else f"{look.symbol}-open" for m in mean],
                    "size": 7,
                },
                hovertemplate=f"{label(name)}, visit %{{x}}: %{{customdata:.2g}} patients<extra></extra>",
            )
        )
        words = f'<span style="color:{look.colour}">{look.glyph}</span> {label(name)}'
        _text(figure, visits + 0.7, np.log10(5.0), words, xanchor="left", yanchor="middle", yshift=-17 * row)
    return figure


def _text(figure: go.Figure, x: float, y: float, text: str, **more: object) -> None:
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, font={"size": 11.5}, **more)
