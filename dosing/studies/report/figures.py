"""The figures of a report, in black and greys: what they tell apart is told apart by shape and by words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from dosing.evaluation.statistics import Estimate
from dosing.studies.report.svg import GREY, minus, sheet, stroke, text, ticks

INK, PALE, WIDTH = "#1f2328", "#dfe3e8", 700
MARKS = ("better", "not distinguishable", "worse", "rule")
"""Kinds of a point: filled circle, open circle, filled triangle, open square."""
COLUMNS, PANEL, TALL = 3, WIDTH / 3, 150
"""Small panels side by side, and the size of one in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 36, 10, 24, 22
MOST_POINTS, MOST_PANELS = 40, 18
"""Lines of a forest plot, and small panels, that fit on a page of A4."""
T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """One line of a forest plot."""

    label: str
    estimate: Estimate
    kind: str
    """One of :data:`MARKS`."""


@dataclass(frozen=True)
class Series:
    """A line of a small panel, with the ends of its intervals."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    steps: bool = False
    """Whether it is drawn with a band and without points."""


@dataclass(frozen=True)
class Panel:
    """One policy, before a dashed line of what it is compared with."""

    title: str
    line: Series
    reference: Series | None = None


def pages(parts: Sequence[T], most: int) -> list[Sequence[T]]:
    """The parts of a figure in turns of as many as fit on a page."""
    return [parts[start : start + most] for start in range(0, len(parts), most)]


def frame(points: Sequence[Point]) -> tuple[float, float]:
    """Ends of an axis that holds 0 and the intervals of all that was trained, with some room."""
    inside = [p.estimate for p in points if p.kind != "rule"]
    low, high = min(0.0, *(e.low for e in inside)), max(0.0, *(e.high for e in inside))
    room = 0.15 * (high - low or 1.0)
    return low - room, high + room


def forest(points: Sequence[Point], label: str, ends: tuple[float, float]) -> str:
    """Estimates below each other with their intervals, beside the words of their numbers.

    Args:
        points: from top to bottom; one beyond the ends of the axis is an arrow.
        label: what the axis counts, with its unit.
        ends: of the axis, as of :func:`frame`.
    """
    name_width, number_width, line = 248, 162, 22
    low, high = ends
    bottom = 10 + line * len(points)
    left, right = name_width, WIDTH - number_width

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    out = sheet(WIDTH, bottom + 38)
    for value in ticks(low, high):
        out.append(stroke(x(value), 6, x(value), bottom, PALE))
        out.append(text(x(value), bottom + 15, minus(f"{value:g}"), anchor="middle", fill=GREY))
    out.append(stroke(x(0.0), 4, x(0.0), bottom, INK, 1.2))
    for k, point in enumerate(points):
        y, e = 10 + line * (k + 0.5), point.estimate
        out.append(text(name_width - 8, y + 4, _short(point.label, 40), anchor="end", size=10))
        if low <= e.value <= high:
            bar = [x(min(max(end, low), high)) for end in (e.low, e.high)]
            out.append(stroke(bar[0], y, bar[1], y, INK, 1.6))
            out += [stroke(end, y - 4, end, y + 4, INK, 1.6) for end in bar]
            out.append(_mark(x(e.value), y, point.kind))
        else:
            place, sign = (left, "\u25c0") if e.value < low else (right - 12, "\u25b6")
            out.append(text(place, y + 4, sign, size=12))
        out.append(text(right + 10, y + 4, minus(str(e))))
    out.append(text((left + right) / 2, bottom + 32, label, anchor="middle"))
    return "\n".join([*out, "</svg>"]) + "\n"


def _mark(x: float, y: float, kind: str) -> str:
    look = f'stroke="{INK}" stroke-width="1.6"'
    if kind == "rule":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="white" {look}/>'
    if kind == "worse":
        points = f"{x - 5.5:.1f},{y - 4:.1f} {x + 5.5:.1f},{y - 4:.1f} {x:.1f},{y + 5.5:.1f}"
        return f'<polygon points="{points}" fill="{INK}" {look}/>'
    fill = INK if kind == "better" else "white"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" {look}/>'


def panels(parts: Sequence[Panel], of_x: str, of_y: str, *, logarithmic: bool = False) -> str:
    """Small panels with common axes.

    Args:
        parts: at least one.
        of_x: what the horizontal axes count.
        of_y: what the vertical axes count.
        logarithmic: the horizontal axes are.
    """
    lines = [s for p in parts for s in (p.line, p.reference) if s is not None]
    scale = math.log if logarithmic else float
    ends = sorted(scale(v) for s in lines for v in (s.x[0], s.x[-1]))
    low, high = min(v for s in lines for v in s.low), max(v for s in lines for v in s.high)
    pad = 0.05 * (high - low or 1.0)
    axes = _Axes(ends[0], ends[-1], low - pad, high + pad, logarithmic)
    rows = math.ceil(len(parts) / COLUMNS)
    out = sheet(WIDTH, rows * TALL + 22)
    for number, panel in enumerate(parts):
        place = f"translate({PANEL * (number % COLUMNS):.1f},{TALL * (number // COLUMNS)})"
        out += [
            f'<g transform="{place}">',
            text(LEFT, TOP - 9, _short(panel.title, 34), size=10),
            *axes.frame(),
        ]
        if panel.reference is not None:
            out += axes.line(panel.reference, GREY, "4 3", marked=False)
        out += [*axes.line(panel.line, INK, "", marked=not panel.line.steps), "</g>"]
    out.append(text(LEFT, rows * TALL + 14, f"across: {of_x}; up: {of_y}", fill=GREY))
    return "\n".join([*out, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Axes:
    """The axes that all panels share."""

    left: float
    right: float
    low: float
    high: float
    logarithmic: bool

    def x(self, value: float) -> float:
        at = math.log(value) if self.logarithmic else value
        span = self.right - self.left or 1.0
        return LEFT + 6 + (PANEL - LEFT - RIGHT - 12) * (at - self.left) / span

    def y(self, value: float) -> float:
        return TOP + (TALL - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)

    def frame(self) -> list[str]:
        out = []
        for value in ticks(self.low, self.high):
            out.append(stroke(LEFT, self.y(value), PANEL - RIGHT, self.y(value), PALE))
            out.append(text(LEFT - 4, self.y(value) + 4, minus(f"{value:g}"), anchor="end", size=10))
        ends = [math.exp(v) if self.logarithmic else v for v in (self.left, self.right)]
        marks = ends if self.logarithmic else ticks(self.left, self.right)
        for value in marks if ends[0] < ends[1] else ends[:1]:
            out.append(
                text(self.x(value), TALL - BOTTOM + 14, minus(f"{value:.6g}"), anchor="middle", size=10)
            )
        return out

    def line(self, series: Series, colour: str, dash: str, *, marked: bool) -> list[str]:
        places = [(self.x(x), self.y(y)) for x, y in zip(series.x, series.y, strict=True)]
        out = []
        if series.steps and not dash:
            edge = [*zip(series.x, series.high, strict=True)]
            edge += reversed([*zip(series.x, series.low, strict=True)])
            band = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in edge)
            out.append(f'<polygon points="{band}" fill="{PALE}"/>')
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        look = f'fill="none" stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}"'
        out.append(f'<polyline points="{path}" {look}/>')
        if marked:
            for (x, y), low, high in zip(places, series.low, series.high, strict=True):
                out.append(stroke(x, self.y(low), x, self.y(high), colour, 1.4))
                out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>')
        return out


def _short(words: str, most: int) -> str:
    """Words that fit, with a sign where some are left out."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
