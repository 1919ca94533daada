"""The ridgeline: one lane per policy over one dose axis, with its density, dose set and dose.

Every density is scaled to its own peak, so that a wide one is seen beside a narrow one; what lies beyond the
hard limits is filled in the warning colour and labelled. True supports are solid bands; a central 99 % that
stands in for one is hatched and dashed and never called a support. Everything drawn comes from
recommendations; a refusal is drawn as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.analysis.recommendations import Answer, DensityCurve, Landmarks, dose_range
from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import (
    CENTRAL_WORDS,
    GREY,
    SHADE,
    Mark,
    decimals,
    dose_number,
    interval,
    number,
    probability,
    unit_words,
)
from dosing.types import Array

DECADES = 6
"""Decades below its own peak that a lane spans on the log scale."""
CUT = 4.0
"""A density is drawn up to this many times its mean over the dose set: a spike would flatten the rest."""
LANE, HEAD = 74, 58
"""Height in pixels of a policy's lane, and of the lane with the doses to compare with. One unit of the
vertical axis is one pixel."""
TITLE, BASE, PEAK, BAND, DOSE = 8, 50, 15, 8, 66
"""Where things stand in a lane, in pixels below its top: middle of the title, foot and peak of the density,
thickness of the band below the foot, middle of the dose's number."""
ROOM = 14
"""Longest name of a policy beside which a narrow window has room for all words on its interval."""


class Parts:
    """What is drawn on a figure, added to it at once: one by one, plotly copies all that is there before."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._shapes: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._traces: list[go.Scatter] = []

    def line(self, x: float, top: float, foot: float, **line: Any) -> None:
        """An upright line."""
        self._shapes.append({"type": "line", "x0": x, "x1": x, "y0": -top, "y1": -foot, "line": line})

    def box(self, low: float, high: float, top: float, foot: float, **look: Any) -> None:
        """A rectangle."""
        self._shapes.append({"type": "rect", "x0": low, "x1": high, "y0": -top, "y1": -foot, **look})

    def text(self, x: float, y: float, text: str, anchor: str, size: float = 12, **more: Any) -> None:
        """A text whose middle is ``y`` pixels below the top."""
        place = {"x": x, "y": -y, "xanchor": anchor, "yanchor": "middle", "showarrow": False}
        self._annotations.append(place | {"text": text, "font": {"size": size}} | more)

    def trace(self, **scatter: Any) -> None:
        """A line or markers."""
        self._traces.append(go.Scatter(**scatter))

    def onto(self, figure: go.Figure) -> go.Figure:
        """The figure with all of this on it."""
        figure.update_layout(shapes=self._shapes, annotations=self._annotations)
        figure.add_traces(self._traces)
        return figure


def ridgeline(
    answers: Sequence[Answer],
    curves: Sequence[DensityCurve | None],
    landmarks: Landmarks,
    dimension: int = 0,
    *,
    name: str = "dose",
    log: bool = False,
    extras: bool = False,
) -> go.Figure:
    """Density, dose set and recommended dose of every policy, a lane each, over the hard limits.

    Args:
        answers: what the policies say.
        curves: their densities over this dimension; None after a refusal, and where there is none.
        landmarks: doses to compare with.
        dimension: of the dose.
        name: of the dose, for the axis title.
        log: logarithmic densities, so that tails are visible.
        extras: draw the agents' further densities, dotted.
    """
    left, right = dose_range(answers, dimension)
    limits = answers[0].source.limits
    height = HEAD + LANE * len(answers)
    figure = finish(
        go.Figure(),
        height + 30 + BOTTOM,
        xaxis={
            "range": [left, right],
            "title": f"{label(name)} ({label(unit_words(limits.unit))})",
            "zeroline": False,
        },
        yaxis={"range": [-height, 0], "visible": False},
    )
    parts = Parts()
    places = decimals(limits.high[dimension] - limits.low[dimension])
    _limits(parts, (limits.low[dimension], limits.high[dimension]), (left, right), height)
    _landmarks(parts, landmarks, places, left)
    for row, (answer, curve) in enumerate(zip(answers, curves, strict=True)):
        top, constant = HEAD + LANE * row, landmarks.constant
        _lane(parts, top, answer, curve, dimension, (left, right), constant, log=log, extras=extras)
    return parts.onto(figure)


def _limits(parts: Parts, limits: tuple[float, float], ends: tuple[float, float], height: float) -> None:
    """Hard limits as labelled lines beside the words of every lane, and what lies outside them in grey."""
    places = decimals(limits[1] - limits[0])
    for edge, end in zip(limits, ends, strict=True):
        parts.box(edge, end, 0, height, fillcolor=SHADE, line_width=0, layer="below")
        for top in range(HEAD, int(height), LANE):
            parts.line(edge, top + TITLE + 9, top + LANE, color=GREY, width=2.5)
        text = f"hard limit {number(edge, places).rstrip('0').rstrip('.')}"
        above = {"yref": "paper", "yanchor": "bottom"}
        parts.text(edge, -1, text, _anchor(edge, *ends), 11.5, **above)


def _anchor(x: float, left: float, right: float) -> str:
    """Side on which a text at ``x`` has room."""
    position = (x - left) / (right - left)
    return "left" if position < 0.2 else "right" if position > 0.8 else "center"


def _landmarks(parts: Parts, one: Landmarks, places: int, left: float) -> None:
    """Doses to compare with, each named with its number."""
    known = [
        (sign, symbol, words, dose)
        for sign, symbol, words, dose in (
            ("○", "circle-open", "given now", one.given),
            ("△", "triangle-up-open", "previous", one.previous),
        )
        if dose is not None
    ]
    first = [f"{sign} {words} {number(dose, places)}" for sign, _, words, dose in known]
    if one.constant is not None:
        first.append(f"┊ constant {number(one.constant, places)}")
    parts.text(left, 8, "   ".join(first), "left", 11.5)
    if one.near is not None:
        parts.text(left, 23, f"▬ recorded near this state {interval(*one.near, places)}", "left", 11.5)
        parts.trace(
            x=list(one.near),
            y=[-52, -52],
            mode="lines+markers",
            line={"color": GREY, "width": 4},
            marker={"symbol": "line-ns", "size": 9, "line": {"color": GREY, "width": 2}},
            hovertemplate=f"recorded near this state: {interval(*one.near, places)}<extra></extra>",
        )
    for _, symbol, words, dose in known:
        parts.trace(
            x=[dose],
            y=[-39],
            mode="markers",
            marker={"symbol": symbol, "size": 11, "color": GREY, "line": {"color": GREY, "width": 2}},
            hovertemplate=f"{words} dose {number(dose, places)}<extra></extra>",
        )


def _lane(
    parts: Parts,
    top: float,
    answer: Answer,
    curve: DensityCurve | None,
    dimension: int,
    ends: tuple[float, float],
    constant: float | None,
    *,
    log: bool,
    extras: bool,
) -> None:
    """One policy: title with its interval, density, what lies outside the limits, band, seeds, dose."""
    result, mark = answer.result, answer.mark
    title = f'<span style="color:{mark.colour}">{mark.glyph}</span> <b>{label(answer.source.name)}</b>'
    if result.dose is None or result.proposed is None:
        parts.text(ends[0], top + TITLE, f"{title}: <b>REFUSED</b>, no dose", "left")
        return
    limits = (result.limits[0][dimension], result.limits[1][dimension])
    places = decimals(limits[1] - limits[0])
    height, cut = (None, False) if curve is None else scaled(curve.density, _mean(answer, dimension), log)
    note = " (peak cut)" if cut else ""
    parts.text(ends[0], top + TITLE, f"{title}: {_words(answer, dimension, places)}{note}", "left")
    foot = -top - BASE
    ground = {"color": GREY, "width": 1}
    parts.trace(x=list(ends), y=[foot, foot], mode="lines", line=ground, hoverinfo="skip")
    if constant is not None:  # beside the words, not through them
        parts.line(constant, top + TITLE + 10, top + BASE, color=GREY, width=1.6, dash="dot")
    if curve is not None and height is not None:
        _density(parts, curve, foot + (BASE - PEAK) * height, foot, mark, limits)
        for kind, density in curve.extra.items() if extras else ():
            own, _ = scaled(density, float(density.max()), log)
            parts.trace(
                x=curve.dose,
                y=foot + (BASE - PEAK) * own,
                mode="lines",
                line={"color": mark.colour, "dash": "dot", "width": 1.8},
                hovertemplate=f"{label(answer.source.name)} {label(kind)}<extra></extra>",
            )
    if not answer.source.reference:
        _outside(parts, top, answer, dimension, ends)
        for piece in answer.pieces(dimension):
            _band(parts, top + BASE, piece, answer, limits)
        _seeds(parts, foot - 0.5 * BAND, answer, dimension, places)
    _dose(parts, top, answer, dimension, ends)


def _words(answer: Answer, dimension: int, places: int) -> str:
    """What the policy could give, as long as a narrow window has room for."""
    if answer.source.reference:
        return "reference, a clinic's rule"
    if answer.point:
        return "one dose"
    pieces = answer.pieces(dimension)
    hull = interval(pieces[0][0], pieces[-1][1], places)
    short = len(answer.source.name) <= ROOM
    if answer.result.bounded:
        apart = f" in {len(pieces)} parts" if len(pieces) > 1 else ""
        return f"{hull}{apart}, exact{' support' if short and not apart else ''}"
    return f"{'any, ' if short else ''}central {CENTRAL_WORDS} {hull}"


def _mean(answer: Answer, dimension: int) -> float:
    """Mean density over the dose set, to which the scale of a lane is bound; infinite for a point."""
    length = sum(high - low for low, high in answer.pieces(dimension))
    return 1.0 / length if length > 0 else np.inf


def scaled(density: Array, mean: float, log: bool) -> tuple[Array, bool]:
    """Heights of a density, 1 at its own peak, and whether the peak was cut.

    Args:
        density: ``[K]``, at least 0.
        mean: mean density over the dose set; the density is drawn up to :data:`CUT` times this.
        log: whether the height is that of the logarithm, 0 at :data:`DECADES` decades below the peak, and
            NaN where the density is 0: a gap, never a small number.
    """
    top = float(density.max())
    peak = min(top, CUT * mean)
    if not peak > 0:
        return np.zeros_like(density), False
    height = np.minimum(density / peak, 1.0)
    if log:
        known = np.where(density > 0.0, height, np.nan)
        height = np.maximum(1.0 + np.log10(known) / DECADES, 0.0)
    return height, top > peak


def _density(
    parts: Parts, curve: DensityCurve, y: Array, foot: float, mark: Mark, limits: tuple[float, float]
) -> None:
    """One density; what lies beyond a hard limit is filled in the warning colour."""
    x, filled = curve.dose, np.where(np.isnan(y), foot, y)
    low, high = limits
    for inside, colour in (
        ((x >= low) & (x <= high), mark.faint(0.2)),
        (x <= low, _HARM_FILL),
        (x >= high, _HARM_FILL),
    ):
        if inside.any() and filled[inside].max() > foot:
            parts.trace(
                x=np.concatenate([x[inside][:1], x[inside], x[inside][-1:]]),
                y=np.concatenate([[foot], filled[inside], [foot]]),
                mode="lines",
                line={"width": 0},
                fill="toself",
                fillcolor=colour,
                hoverinfo="skip",
            )
    there = curve.density > 0.0
    there |= np.append(there[1:], False) | np.append(False, there[:-1])  # down to the foot, not along it
    parts.trace(
        x=x,
        y=np.where(there, y, np.nan),
        customdata=curve.density,
        mode="lines",
        line={"color": mark.colour, "dash": mark.dash, "width": 2},
        hovertemplate="dose %{x:.3f}, density %{customdata:.3g}<extra></extra>",
    )


_HARM_FILL = "rgba(208,59,47,0.55)"
"""The warning colour, filled."""


def _outside(parts: Parts, top: float, answer: Answer, dimension: int, ends: tuple[float, float]) -> None:
    """How probable a dose beyond the hard limits is, on the side where most of it lies."""
    below, above = answer.outside[dimension] if answer.outside else (0.0, 0.0)
    total = below + above
    x, anchor = (ends[0], "left") if below > above else (ends[1], "right")
    if total > 0:
        parts.text(x, top + TITLE + 16, f"<b>{probability(total)} outside</b>", anchor, 12)
    else:
        parts.text(x, top + TITLE + 16, "none outside", anchor, 11.5)


def _band(
    parts: Parts, top: float, piece: tuple[float, float], answer: Answer, limits: tuple[float, float]
) -> None:
    """One interval of a dose set: filled and solid, or dashed and empty where it is no support."""
    mark, (low, high) = answer.mark, piece
    if answer.result.bounded:
        parts.box(low, high, top, top + BAND, fillcolor=mark.colour, line={"color": mark.colour, "width": 1})
    else:
        line = {"color": mark.colour, "width": 1.5, "dash": "4px,3px"}
        parts.box(low, high, top, top + BAND, fillcolor="rgba(0,0,0,0)", line=line)
    for start, end in ((low, min(high, limits[0])), (max(low, limits[1]), high)):
        if start < end:
            parts.box(start, end, top, top + BAND, fillcolor=_HARM_FILL, line_width=0)


def _seeds(parts: Parts, y: float, answer: Answer, dimension: int, places: int) -> None:
    """Every training seed's own dose as a tick; its interval under the pointer."""
    seeds = answer.result.seeds
    look = {"color": "white" if answer.result.bounded else answer.mark.colour, "width": 1.6}
    parts.trace(
        x=[seed.dose[dimension] for seed in seeds],
        y=[y] * len(seeds),
        mode="markers",
        marker={"symbol": "line-ns", "size": BAND - 2, "line": look},
        customdata=[
            f"seed {seed.seed}: {interval(seed.low[dimension], seed.high[dimension], places)}, "
            f"dose {number(seed.dose[dimension], places)}"
            for seed in seeds
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _dose(parts: Parts, top: float, answer: Answer, dimension: int, ends: tuple[float, float]) -> None:
    """The dose with its number; grey and small where it was deferred; after a limit also the proposal."""
    result, mark = answer.result, answer.mark
    assert result.dose is not None
    assert result.proposed is not None
    dose, proposed = result.dose[dimension], result.proposed[dimension]
    low, high = (limit[dimension] for limit in result.limits)
    places, deferred = decimals(high - low), result.status == "deferred"
    y = -top - BASE - 0.5 * BAND
    words = dose_number(dose, low, high, places)
    text = f"{words} deferred" if deferred else f"<b>{words}</b>"
    colour = GREY if deferred else mark.colour
    if dose != proposed:
        parts.trace(
            x=[dose, proposed],
            y=[y, y],
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": "dot"},
            marker={"symbol": "x-thin", "size": [0, 10], "line": {"color": colour, "width": 2.5}},
            hovertemplate=f"proposed {number(proposed, places)}, held at a limit<extra></extra>",
        )
        text += f", proposed {number(proposed, places)}"
    thin = mark.symbol.endswith("thin")  # nothing but its line
    rank = "deferred" if deferred else "recommended"
    parts.trace(
        x=[dose],
        y=[y],
        mode="markers",
        marker={
            "symbol": mark.symbol,
            "size": 10 if deferred else 16,
            "color": colour,
            "line": {"color": colour, "width": 3} if thin else {"color": "white", "width": 1.5},
        },
        hovertemplate=f"{label(answer.source.name)}: {rank} dose {words}<extra></extra>",
    )
    size, anchor = (11, "center") if deferred else (13, "center")
    if _anchor(dose, *ends) != "center" or dose != proposed:
        anchor = "left" if dose < 0.5 * sum(ends) else "right"
    parts.text(dose, top + DOSE, text, anchor, size)
