"""The recorded episode of one patient: observations, doses given, rewards over the visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, TARGET, number, unit_words
from dosing.types import AnyArray

SHORT = 8
"""Letters of a name that has room beside its strip; longer ones, and units, stand above."""


def observations(
    visits: AnyArray, obs: AnyArray, names: Sequence[str], units: Sequence[str], current: int
) -> go.Figure:
    """A patient's observations over the visits, one strip each on its own scale, the current visit marked.

    Args:
        visits: visit numbers ``[T]``, from 1.
        obs: observations ``[T, O]``.
        names: of the observations.
        units: of the observations.
        current: row of the visit on show.
    """
    above = any(len(name) > SHORT for name in names) or any(unit not in ("", "1") for unit in units)
    strip, count, title = (64, obs.shape[1], 22) if above else (46, obs.shape[1], 0)
    corner = {"x": 1.0, "xanchor": "right", "xshift": 54, "y": 1, "yref": "paper", "yanchor": "bottom"}
    notes = [{**corner, "yshift": 4, "text": f"visit {visits[current]:.0f}", "font": {"size": 12}}]
    traces: list[dict[str, Any]] = []
    axes: dict[str, dict[str, Any]] = {}
    for row in range(count):
        axis = "y" if row == 0 else f"y{row + 1}"
        top, value = 1.0 - row / count, obs[:, row]
        low, high = float(value.min()), float(value.max())
        pad = 0.2 * (high - low) or 1.0
        unit = "" if units[row] in ("", "1") else f" {label(units[row])}"
        axes[axis.replace("y", "yaxis")] = {
            "domain": [top - (0.9 * (strip - title) + title) / strip / count, top - title / strip / count],
            "range": [low - pad, high + pad],
            "tickvals": [low, high],
            "ticktext": [number(low, 1), number(high, 1)],
            "tickfont": {"size": 10.5},
            "zeroline": True,
            "zerolinecolor": "rgba(118,118,118,0.5)",
            "showgrid": False,
        }
        middle = {"y": (low + high) / 2, "yref": axis, "font": {"size": 12.5}}
        name = {"text": f"<b>{label(names[row])}</b>{unit}", "x": 0, "xanchor": "left", "xshift": -74}
        if above:
            name |= {"xshift": 0, "y": top - title / strip / count, "yref": "paper", "yanchor": "bottom"}
        now_text = f"<b>{number(float(value[current]), 2)}</b>"
        notes += [middle | name, middle | {"text": now_text, "x": 1, "xanchor": "right", "xshift": 54}]
        line = {"type": "scatter", "yaxis": axis}
        hover = f"visit %{{x}}: {label(names[row])} %{{y:.3f}}{unit}<extra></extra>"
        course = {"x": visits, "y": value, "mode": "lines", "hovertemplate": hover}
        now = {"x": [visits[current]], "y": [value[current]], "mode": "markers", "hoverinfo": "skip"}
        traces += [
            line | course | {"line": {"color": GREY, "width": 1.7}},
            line | now | {"marker": {"color": GREY, "size": 9}},
        ]
    figure = finish(
        go.Figure(data=traces),
        strip * count + 30 + BOTTOM,
        annotations=[note | {"xref": "paper", "showarrow": False} for note in notes],
        **_visits_axis(visits, f"y{count}", current),
        **axes,
    )
    return figure.update_layout(margin={"l": 42 if above else 76, "r": 58})


def _visits_axis(visits: AnyArray, anchor: str, current: int) -> dict[str, object]:
    """Layout of a visit axis with a line at the current visit through every strip."""
    line = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    x = float(visits[current])
    title = f"visit ({int(visits[0])} to {int(visits[-1])})"
    return {
        "xaxis": {
            "anchor": anchor,
            "title": title,
            "range": [float(visits[0]) - 0.7, float(visits[-1]) + 0.7],
            "dtick": 1 if len(visits) <= 8 else None,
            "zeroline": False,
        },
        "shapes": [line | {"x0": x, "x1": x, "line": {"color": GREY, "width": 1.5, "dash": "dot"}}],
    }


def doses(
    visits: AnyArray,
    dose: AnyArray,
    reward: AnyArray,
    limited: AnyArray,
    limits: tuple[float, float],
    current: int,
    *,
    name: str = "dose",
    unit: str = "1",
) -> go.Figure:
    """The doses a patient was given, within the hard limits, and the reward of each visit.

    Args:
        visits: visit numbers ``[T]``, from 1.
        dose: doses delivered ``[T]`` of one dose dimension.
        reward: ``[T]``.
        limited: ``[T]``, where a limit changed the requested dose.
        limits: hard limits of this dimension.
        current: row of the visit on show.
        name: of the dose.
        unit: of the dose.
    """
    figure = finish(go.Figure(), 46 * 8 + 30 + BOTTOM, **_visits_axis(visits, "y2", current))
    _dose_and_reward_axes(figure, limits, f"<b>{label(name)} given</b> ({label(unit_words(unit))})")
    x, side = (0, "left") if current > len(visits) // 2 else (1, "right")
    words = {"showarrow": False, "yanchor": "bottom", "font": {"size": 11.5}}
    figure.add_annotation(words, x=x, xref="paper", y=limits[1], text="hard limits", xanchor=side)
    now, changed = np.arange(len(visits)) == current, np.asarray(limited, dtype=bool)
    figure.add_trace(
        go.Scatter(
            x=visits,
            y=dose,
            mode="lines+markers",
            line={"color": GREY, "width": 1, "shape": "hv"},
            marker={
                "color": GREY,
                "size": np.where(now, 12, 7),
                "symbol": np.where(changed, "x", "circle"),
            },
            customdata=np.where(changed, ", held at a limit", ""),
            hovertemplate=f"visit %{{x}}: {label(name)} %{{y:.3f}}%{{customdata}}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Bar(
            x=visits,
            y=reward,
            yaxis="y2",
            marker={"color": np.where(now, GREY, "rgba(118,118,118,0.45)")},
            hovertemplate="visit %{x}: reward %{y:.2f}<extra></extra>",
        )
    )
    return figure


@dataclass(frozen=True)
class Kept:
    """A quantity that is to be kept in a range, as it was observed at each visit ``[T]``."""

    name: str
    unit: str
    low: float
    high: float
    seen: AnyArray


def so_far(
    visits: AnyArray,
    dose: AnyArray,
    limits: tuple[float, float],
    current: int,
    kept: Kept | None = None,
    *,
    name: str = "dose",
    unit: str = "1",
) -> go.Figure:
    """What happened up to a visit, at a glance: the doses given, and the quantity that is kept in a range.

    Args:
        visits: visit numbers ``[T]``, from 1.
        dose: doses delivered ``[T]`` of one dose dimension.
        limits: hard limits of this dimension.
        current: row of the visit on show; its own dose and those after it are left out.
        kept: what is kept in a range, where the scenario has such a quantity.
        name: of the dose.
        unit: of the dose.
    """
    strip, count = 56, 1 if kept is None else 2
    anchor = "y" if kept is None else "y2"
    figure = finish(go.Figure(), strip * count + 30 + BOTTOM, **_visits_axis(visits, anchor, current))
    pad = 0.12 * (limits[1] - limits[0])
    axis = {"range": [limits[0] - pad, limits[1] + pad], "zeroline": False, "nticks": 4}
    figure.update_layout(yaxis=axis | {"domain": [0.58 if count == 2 else 0, 1]})
    _limit_lines(figure, limits, 2)
    titles = [(1.0, f"<b>{label(name)} given</b> ({label(unit_words(unit))})")]
    figure.add_trace(_held(visits[:current], dose[:current], f"{label(name)} %{{y:.3f}}"))
    if kept is not None:
        words = f"{label(kept.name)} %{{y:.2f}}"
        low, high = float(np.nanmin(kept.seen)), float(np.nanmax(kept.seen))
        room = 0.15 * (max(high, kept.high) - min(low, kept.low))
        figure.update_layout(
            yaxis2={
                "domain": [0, 0.38],
                "range": [min(low, kept.low) - room, max(high, kept.high) + room],
                "zeroline": False,
                "nticks": 4,
            }
        )
        band = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "yref": "y2", "layer": "below"}
        look = {"fillcolor": TARGET, "line": {"width": 0}}
        figure.add_shape(band | {"y0": kept.low, "y1": kept.high} | look)
        figure.add_trace(_held(visits[: current + 1], kept.seen[: current + 1], words, "y2"))
        target = f"target {kept.low:g} to {kept.high:g}"
        titles.append((0.38, f"<b>{label(kept.name)}</b> ({label(unit_words(kept.unit))}), {target}"))
    for top, text in titles:
        place = {"x": 0, "xref": "paper", "xanchor": "left", "y": top, "yref": "paper", "yanchor": "bottom"}
        figure.add_annotation(place, yshift=2, text=text, showarrow=False, font={"size": 12})
    return figure


def _held(visits: AnyArray, values: AnyArray, words: str, axis: str = "y") -> go.Scatter:
    """Values that hold until the next visit."""
    return go.Scatter(
        x=visits,
        y=values,
        yaxis=axis,
        mode="lines+markers",
        line={"color": GREY, "width": 1.4, "shape": "hv"},
        marker={"color": GREY, "size": 7},
        hovertemplate=f"visit %{{x}}: {words}<extra></extra>",
    )


def _dose_and_reward_axes(figure: go.Figure, limits: tuple[float, float], title: str) -> None:
    """Doses above, with the hard limits as lines; rewards below."""
    pad = 0.12 * (limits[1] - limits[0])
    figure.update_layout(
        yaxis={
            "domain": [0.54, 1],
            "range": [limits[0] - pad, limits[1] + pad],
            "title": {"text": title, "font": {"size": 12}},
            "zeroline": False,
        },
        yaxis2={
            "domain": [0, 0.44],
            "title": {"text": "<b>reward</b> (no unit)", "font": {"size": 12}},
            "zeroline": True,
            "zerolinecolor": GREY,
        },
    )
    _limit_lines(figure, limits, 2.5)


def _limit_lines(figure: go.Figure, limits: tuple[float, float], width: float) -> None:
    """The hard limits of the uppermost axis; plotly's own ``add_hline`` takes twenty times as long."""
    across = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "yref": "y"}
    lines = [across | {"y0": edge, "y1": edge, "line": {"color": GREY, "width": width}} for edge in limits]
    figure.layout.shapes = [*figure.layout.shapes, *lines]
