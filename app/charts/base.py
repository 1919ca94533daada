"""What all figures share, and the figures of a study: intervals and training curves. No Streamlit here.

Every figure ends with the notice that it is not for patients. Neutral text takes the page's colour, so one
figure serves the light and the dark theme.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.text import label
from app.theme import GREY, NOTICE, Mark
from dosing.evaluation.statistics import Estimate, interquartile_mean
from dosing.studies.comparison_table import Row
from dosing.types import AnyArray

BOTTOM = 78
"""Room in pixels for axis numbers, axis title and notice."""

NOTICE_AT = 30
"""Top of the notice in pixels above the foot."""

LANE, LINE = 60, 17
"""Height in pixels of a row with a name of one line, and of every further line."""


def finish(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """Common layout of every figure, with the notice at its foot; in place of any that it had."""
    axes = {name: value for name, value in layout.items() if name[1:5] == "axis"}
    for name in {"xaxis", "yaxis", *axes}:
        axes[name] = _axis(axes.get(name, {}), name)
    # Set as a whole: plotly's updates go through everything, ten times as slowly.
    figure.layout = {
        **layout,
        **axes,
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 30, "b": BOTTOM, "autoexpand": True},
        "title": {
            "text": NOTICE,
            "font": {"size": 10.5},
            "xref": "container",
            "x": 0,
            "yref": "container",
            "y": NOTICE_AT / height,
            "yanchor": "top",
            "pad": {"l": 8},
        },
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "barmode": "overlay",
    }
    return figure


def _axis(given: Any, name: str) -> dict[str, Any]:
    """An axis as every figure has it: it cannot be dragged, its title has room."""
    title = given.get("title", {})
    title = {"text": title} if isinstance(title, str) else title
    size = {"font": {**title.get("font", {}), "size": 13}}
    room = {"standoff": 4} if name.startswith("x") else {}
    return {**given, "fixedrange": True, "automargin": True, "title": {**title, **size, **room}}


def intervals(rows: Sequence[Row], marks: Sequence[Mark]) -> go.Figure:
    """Mean return of every agent and reference rule with its interval, the estimated constant as a line.

    Args:
        rows: of the study table.
        marks: of their runs, grey for a rule.
    """
    labels = [_label(row) for row in rows]
    ends = np.cumsum([LANE + LINE * (len(lines) - 1) for lines in labels])  # of the lanes, in pixels
    figure = finish(
        go.Figure(),
        int(ends[-1]) + 30 + BOTTOM,
        xaxis={"title": "mean return per patient (no unit)", "zeroline": False},
        yaxis={"range": [-int(ends[-1]), 0], "visible": False},
    )
    base = next((row.recommended.value for row in rows if row.is_baseline), None)
    names, constant, estimates = [], [], []  # added at once: one by one, plotly copies all before
    for row, look, lines, end in zip(rows, marks, labels, ends.tolist(), strict=True):
        lines[0] = f'<span style="color:{look.colour}">{look.glyph}</span> {lines[0]}'
        text = {"text": "<br>".join(lines), "align": "left", "font": {"size": 12.5}, "showarrow": False}
        place = {"x": 0, "xref": "paper", "xanchor": "left", "y": 38 - end, "yanchor": "bottom"}
        names.append(text | place)
        if base is not None:  # beside the names, not through them
            line = {"color": GREY, "width": 2, "dash": "dot"}
            ends_ = {"x0": base, "x1": base, "y0": 37 - end, "y1": -end}
            constant.append({"type": "line", "line": line, "layer": "below"} | ends_)
        estimates.append(_estimate(row.name, row.recommended, 26 - end, look, filled=True))
        if row.sampled is not None:
            estimates.append(_estimate(f"{row.name}, sampled", row.sampled, 12 - end, look, filled=False))
    figure.update_layout(annotations=[*figure.layout.annotations, *names], shapes=constant)
    figure.add_traces(estimates)
    return figure


def _label(row: Row) -> list[str]:
    """Name and verdict in lines that fit a telephone, the name in bold."""
    name = textwrap.wrap(row.name, 42)
    lines = [f"<b>{label(part)}</b>" for part in name]
    if row.verdict is None:
        return lines
    words = f"{label(row.verdict)} {'from' if row.verdict.startswith('not') else 'than'} estimated constant"
    if len(name[-1]) + len(words) > 46:
        return [*lines, words]
    return [*lines[:-1], f"{lines[-1]}: {words}"]


def _estimate(name: str, estimate: Estimate, y: float, look: Mark, *, filled: bool) -> go.Scatter:
    """One estimate with its interval as a line with caps."""
    return go.Scatter(
        x=[estimate.value],
        y=[y],
        mode="markers",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [estimate.high - estimate.value],
            "arrayminus": [estimate.value - estimate.low],
            "color": look.colour,
            "thickness": 2,
            "width": 5,
        },
        marker={
            "symbol": look.symbol if filled else f"{look.symbol}-open",
            "size": 10,
            "color": look.colour,
            "line": {"width": 2, "color": look.colour},
        },
        hovertemplate=f"{label(name)}: {estimate} ({label(estimate.basis)})<extra></extra>",
    )


def training_curve(step: AnyArray, values: AnyArray, name: str, look: Mark) -> go.Figure:
    """One training metric: every seed as a faint line, the interquartile mean over seeds as a strong one.

    Args:
        step: updates ``[T]``.
        values: ``[S, T]``; NaN where a seed has no value.
        name: of the metric.
        look: mark of the agent.
    """
    title = textwrap.wrap(label(name), 34)
    figure = finish(
        go.Figure(),
        200 + 15 * len(title) + BOTTOM,
        xaxis={"title": "gradient updates", "range": [0, 1.03 * float(step[-1])]},
        yaxis={"exponentformat": "power"},
        annotations=[_above("<br>".join(title))],
    )
    figure.update_layout(margin_t=18 + 17 * len(title))
    for number, seed in enumerate(values, 1):
        line = {"color": look.faint(0.4), "width": 1}
        mode = "lines" if len(step) > 1 else "markers"
        figure.add_trace(
            go.Scatter(x=step, y=seed, mode=mode, line=line, hoverinfo="skip", name=f"seed {number}")
        )
    whole = np.isfinite(values).all(0)
    middle = interquartile_mean(values[:, whole].T[:, :, None]) if whole.any() else np.empty(0)
    figure.add_trace(
        go.Scatter(
            x=step[whole],
            y=middle,
            name="interquartile mean",
            mode="lines" if whole.sum() > 1 else "markers",
            line={"color": look.colour, "width": 2.6},
            hovertemplate=f"update %{{x}}: {label(name)} %{{y:.4g}}<extra></extra>",
        )
    )
    return figure


def _above(text: str) -> dict[str, object]:
    """The name of what is drawn, above the axes: a long one has no room beside them."""
    at = {"x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "bottom"}
    return at | {"text": f"<b>{text}</b>", "align": "left", "showarrow": False, "font": {"size": 12.5}}
