"""Figures of evaluated patients: distributions of the return, cost against return, subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, Mark, number
from dosing.evaluation.statistics import Estimate, Subgroup
from dosing.types import Array

BINS = 80
"""Bins of a distribution over the common axis."""

TOP = 30
"""Room in pixels above the plotting area."""


@dataclass(frozen=True)
class Lane:
    """The returns of one agent's patients.

    Attributes:
        name: of the agent.
        mark: its look.
        returns: of all patients and seeds ``[M]``.
        mean: their mean.
        tail: mean of the worst tenth (CVaR 10 %); None where a tenth is less than one patient.
    """

    name: str
    mark: Mark
    returns: Array
    mean: Estimate
    tail: Estimate | None


def distributions(lanes: Sequence[Lane]) -> go.Figure:
    """How returns are spread over patients: a histogram per agent on one axis, the worst tenth filled.

    Below each: the mean (filled mark) and the mean of the worst tenth (open mark) with their intervals.
    """
    lane, hill = 118, 56
    height = lane * len(lanes)
    every = np.concatenate([one.returns for one in lanes])
    edges = np.linspace(every.min(), every.max() + 1e-9, BINS + 1)
    shares = [np.histogram(one.returns, edges)[0] / len(one.returns) for one in lanes]
    tallest = max(float(share.max()) for share in shares)
    intervals = [e for one in lanes for e in (one.mean, one.tail) if e is not None]
    left = min([edges[0], *(e.low for e in intervals)])
    right = max([edges[-1], *(e.high for e in intervals)])
    pad = 0.03 * (right - left)
    figure = finish(
        go.Figure(),
        height + TOP + BOTTOM,
        xaxis={
            "title": "return of a patient (no unit)",
            "zeroline": False,
            "range": [left - pad, right + pad],
        },
        yaxis={"range": [-height, 0], "visible": False},
    )
    middles = 0.5 * (edges[1:] + edges[:-1])
    for row, (one, share) in enumerate(zip(lanes, shares, strict=True)):
        floor = -lane * row - 20.0 - hill
        worst = float(np.quantile(one.returns, 0.1))
        figure.add_trace(
            go.Bar(
                x=middles,
                y=hill * share / tallest,
                base=floor,
                width=edges[1] - edges[0],
                marker={
                    "color": [one.mark.faint(0.75 if x < worst else 0.3) for x in middles],
                    "line": {"width": 0},
                },
                customdata=100 * share,
                hovertemplate=f"{label(one.name)}: %{{customdata:.1f}} % of the patients near %{{x:.1f}}"
                "<extra></extra>",
            )
        )
        _estimate(figure, f"{one.name}, mean", one.mean, floor - 10, one.mark, filled=True)
        if one.tail is not None:
            _estimate(figure, f"{one.name}, worst tenth", one.tail, floor - 22, one.mark, filled=False)
        text = f'<span style="color:{one.mark.colour}">{one.mark.glyph}</span> <b>{label(one.name)}</b>'
        _text(figure, 0, -lane * row - 10, text, "left", xref="paper")
    return figure


def _estimate(figure: go.Figure, name: str, result: Estimate, y: float, mark: Mark, *, filled: bool) -> None:
    """An estimate with its interval as a line with caps."""
    figure.add_trace(
        go.Scatter(
            x=[result.value],
            y=[y],
            mode="markers",
            error_x=_error(result, mark),
            marker=_marker(mark, filled),
            hovertemplate=f"{label(name)}: {result} ({label(result.basis)})<extra></extra>",
        )
    )


def _error(result: Estimate, mark: Mark) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [result.high - result.value],
        "arrayminus": [result.value - result.low],
        "color": mark.colour,
        "thickness": 2,
        "width": 4,
    }


def _marker(mark: Mark, filled: bool) -> dict[str, Any]:
    symbol = mark.symbol if filled else f"{mark.symbol}-open"
    return {"symbol": symbol, "size": 9, "color": mark.colour, "line": {"width": 2, "color": mark.colour}}


def _text(figure: go.Figure, x: float, y: float, text: str, anchor: str, **more: Any) -> None:
    font = {"size": 12.5}
    figure.add_annotation(x=x, y=y, text=text, xanchor=anchor, showarrow=False, font=font, **more)


def cost_and_return(
    points: Sequence[tuple[str, Mark, Estimate, Estimate]], budgets: Sequence[float] = ()
) -> go.Figure:
    """Mean cost against mean return of every agent and rule with both intervals.

    The names stand above, each at the end of a line from its point: the further out a point, the higher its
    name, so that no line runs through a name on its own side.

    Args:
        points: name, mark, return and cost.
        budgets: costs that agents had to keep within, each drawn as a line.
    """
    panel, row = 300, 17
    body = panel + row * len(points) + 8
    share = panel / body
    figure = finish(
        go.Figure(),
        body + TOP + BOTTOM,
        xaxis={"title": "mean return per patient (no unit)", "zeroline": False},
        yaxis={"title": "mean cost per patient (events)", "zeroline": False, "domain": [0, share]},
    )
    ends = [end for _, _, result, _ in points for end in (result.low, result.high)]
    left, right = min(ends), max(ends)
    wide = right - left or 1.0
    top = max([*(cost.high for *_, cost in points), *budgets]) or 1.0
    bottom, top = -0.06 * top, 1.06 * top
    figure.update_xaxes(range=[left - 0.05 * wide, right + 0.05 * wide])
    figure.update_yaxes(range=[bottom, top])
    for budget in budgets:
        figure.add_hline(y=budget, line={"color": GREY, "width": 1.5, "dash": "dash"})
        _text(
            figure,
            0.0,
            budget,
            f"cost budget {budget:g}",
            "left",
            xref="x domain",
            yref="y",
            yanchor="bottom",
        )
    middle = 0.5 * (left + right)
    order = np.argsort([abs(result.value - middle) for _, _, result, _ in points], kind="stable")
    for place, index in enumerate(order):
        name, mark, result, cost = points[index]
        figure.add_trace(
            go.Scatter(
                x=[result.value],
                y=[cost.value],
                mode="markers",
                error_x=_error(result, mark),
                error_y=_error(cost, mark),
                marker=_marker(mark, filled=True),
                hovertemplate=f"{label(name)}: return {result}, cost {cost} "
                f"({label(result.basis)})<extra></extra>",
            )
        )
        foot, head = share * (cost.value - bottom) / (top - bottom), share + (8 + row * place) / body
        line = {"color": mark.colour, "width": 1, "dash": "dot"}
        figure.add_shape(
            type="line", yref="paper", x0=result.value, x1=result.value, y0=foot, y1=head, line=line
        )
        outer = result.value > middle
        text = f'<span style="color:{mark.colour}">{mark.glyph}</span> {label(name)}'
        _text(figure, result.value, head, text, "right" if outer else "left", yref="paper", yanchor="bottom")
    return figure


def rule_name(name: str) -> str:
    """A reference rule's name short enough to stand over a point."""
    words = name.split()
    if "estimated" in words:
        return "estimated constant"
    return "best constant" if words[0] == "best" else " ".join(words[:2])


def spread(values: Sequence[float], apart: float) -> list[float]:
    """Heights of labels near their values, from the lowest up, none nearer to another than ``apart``."""
    heights = [0.0] * len(values)
    floor = -np.inf
    for index in np.argsort(values, kind="stable"):
        floor = max(float(values[index]), floor + apart)
        heights[index] = floor
    return heights


def by_subgroup(trait: str, result: Sequence[tuple[str, Mark, Sequence[Subgroup]]]) -> go.Figure:
    """Mean return in equally large groups of patients, an agent's groups joined by a line.

    Args:
        trait: what the patients are grouped by.
        result: name, mark and groups of each agent, the same groups for all.
    """
    groups = result[0][2]
    count = len(groups)
    figure = finish(
        go.Figure(),
        260 + TOP + BOTTOM + 22,  # ticks of two lines
        xaxis={
            "title": f"{label(trait)}, least to largest",
            "tickvals": list(range(count)),
            "ticktext": [f"{number(g.low, 2)} to<br>{number(g.high, 2)}" for g in groups],
            "tickangle": 0,
            "tickfont": {"size": 10.5},
            "range": [-0.35, count - 0.4],
            "zeroline": False,
            "showgrid": False,
        },
        yaxis={"title": "mean return (no unit)", "zerolinecolor": GREY},
    )
    figure.update_layout(margin={"r": 92, "b": BOTTOM + 22})
    ends = [end for *_, own in result for g in own for end in (g.mean.low, g.mean.high)]
    tall = max(ends) - min(ends) or 1.0
    figure.update_yaxes(range=[min(ends) - 0.06 * tall, max(ends) + 0.06 * tall])
    heights = spread([own[-1].mean.value for *_, own in result], 18 * 1.12 * tall / 260)
    for place, ((name, mark, own), height) in enumerate(zip(result, heights, strict=True)):
        figure.add_trace(_joined_groups(name, mark, own, 0.09 * (place - 0.5 * (len(result) - 1))))
        _text(
            figure,
            1,
            height,
            f'<span style="color:{mark.colour}">{mark.glyph}</span> {label(name)}',
            "left",
            xref="paper",
            xshift=2,
        )
    return figure


def _joined_groups(name: str, mark: Mark, own: Sequence[Subgroup], shift: float) -> go.Scatter:
    """One agent's groups, joined by a line, each mean with its interval."""
    means = [group.mean for group in own]
    return go.Scatter(
        x=[k + shift for k in range(len(own))],
        y=[mean.value for mean in means],
        mode="lines+markers",
        line={"color": mark.faint(0.55), "width": 1.5, "dash": mark.dash},
        marker=_marker(mark, filled=True),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [mean.high - mean.value for mean in means],
            "arrayminus": [mean.value - mean.low for mean in means],
            "color": mark.colour,
            "thickness": 2,
            "width": 4,
        },
        customdata=[f"{mean} ({label(mean.basis)})" for mean in means],
        hovertemplate=f"{label(name)}: %{{customdata}}<extra></extra>",
    )
