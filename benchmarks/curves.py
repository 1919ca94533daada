"""Returns along training as one picture: a panel per agent, a line per group of settings. Plain SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dosing import NOT_FOR_PATIENTS
from dosing.evaluation.statistics import Estimate
from dosing.studies.report.svg import COLOURS, DASHES, GREY, minus, sheet, stroke, text, ticks

COLUMNS, WIDTH, HEIGHT = 4, 250, 190
"""Panels side by side, and the size of one with its axes, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 40, 24, 26, 30
"""Margins inside a panel."""


@dataclass(frozen=True)
class Line:
    """Estimates of one agent under one group of settings, after so many updates each."""

    group: str
    updates: tuple[int, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Panel:
    """One agent."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Axes:
    """The axes that all panels share: logarithmic in updates, unless the first is 0."""

    updates: tuple[int, ...]
    low: float
    high: float
    groups: tuple[str, ...]

    def x(self, update: int) -> float:
        """Place of an update inside a panel."""
        first, last = self.updates[0], self.updates[-1]
        if first == 0:
            share = update / (last or 1)
        else:
            share = math.log(update / first) / (math.log(last / first) or 1.0)
        return LEFT + 14 + (WIDTH - LEFT - RIGHT - 28) * share

    def y(self, value: float) -> float:
        """Place of a return inside a panel."""
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)

    def frame(self, rules: Sequence[tuple[str, float]]) -> list[str]:
        """Grid, numbers and rules of a panel."""
        out = []
        for value in ticks(self.low, self.high):
            out.append(stroke(LEFT, self.y(value), WIDTH - RIGHT, self.y(value), "#e4e4e4"))
            out.append(text(LEFT - 5, self.y(value) + 4, minus(f"{value:g}"), anchor="end", fill=GREY))
        free = math.inf  # from the last update back, as far as there is room
        for update in reversed(self.updates):
            label = f"{update // 1000}k" if update and update % 1000 == 0 else str(update)
            half = 3.5 * len(label)
            if self.x(update) + half < free:
                free = self.x(update) - half - 2
                out.append(text(self.x(update), HEIGHT - BOTTOM + 14, label, anchor="middle", fill=GREY))
        for k, (_, value) in enumerate(rules):
            out.append(stroke(LEFT, self.y(value), WIDTH - RIGHT, self.y(value), GREY, 1, "3 3"))
            out.append(
                text(WIDTH - RIGHT + 2 + 8 * (k % 3), self.y(value) + 3, str(k + 1), size=8, fill=GREY)
            )
        return out

    def line(self, line: Line) -> list[str]:
        """A line with its intervals; those of several groups stand beside each other."""
        k = self.groups.index(line.group)
        shift = 3.0 * (k - 0.5 * (len(self.groups) - 1))
        points = [(self.x(u) + shift, e) for u, e in zip(line.updates, line.estimates, strict=True)]
        path = " ".join(f"{x:.1f},{self.y(e.value):.1f}" for x, e in points)
        look = f'fill="none" stroke="{COLOURS[k]}" stroke-width="2" stroke-dasharray="{DASHES[k]}"'
        out = [f'<polyline points="{path}" {look}/>']
        for x, e in points:
            out.append(stroke(x, self.y(e.low), x, self.y(e.high), COLOURS[k], 1.4))
            out.append(f'<circle cx="{x:.1f}" cy="{self.y(e.value):.1f}" r="2.6" fill="{COLOURS[k]}"/>')
        return out


def draw(
    panels: Sequence[Panel],
    rules: Sequence[tuple[str, float]],
    title: str,
    *,
    of_x: str = "gradient updates",
    of_groups: str = "settings: ",
    of_y: str = "mean return per patient",
) -> str:
    """The picture.

    Args:
        panels: one per agent; all share both axes.
        rules: name and mean return of what needs no training, drawn across every panel.
        title: of the whole picture.
        of_x: what the horizontal axis counts.
        of_groups: what stands before a group's name.
        of_y: what the vertical axis shows.
    """
    lines = [line for panel in panels for line in panel.lines]
    values = [e.value for line in lines for e in line.estimates] + [value for _, value in rules]
    updates = tuple(sorted({update for line in lines for update in line.updates}))
    groups = tuple(dict.fromkeys(line.group for line in lines))
    axes = Axes(updates, min(values) - 1.0, max(values) + 1.0, groups)
    head, foot = 48 + 15 * math.ceil(len(rules) / 3), 34
    width, height = COLUMNS * WIDTH, head + math.ceil(len(panels) / COLUMNS) * HEIGHT + foot
    inside = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    out = [
        *sheet(width, height),
        f'<clipPath id="panel"><rect {inside}/></clipPath>',
        text(8, 16, title, size=13),
    ]
    for k, group in enumerate(groups):
        left = 12 + width / 3 * k
        out.append(stroke(left, 32, left + 28, 32, COLOURS[k], 2, DASHES[k]))
        out.append(text(left + 34, 36, f"{of_groups}{group}"))
    for k, (name, value) in enumerate(rules):
        words = f"dotted line {k + 1}: {name}, {minus(f'{value:.2f}')}"
        out.append(text(12 + width / 3 * (k % 3), 54 + 15 * (k // 3), words, fill=GREY))
    for number, panel in enumerate(panels):
        column, row = number % COLUMNS, number // COLUMNS
        out.append(f'<g transform="translate({WIDTH * column},{head + HEIGHT * row})">')
        out += [text(LEFT, TOP - 8, panel.title, size=12), *axes.frame(rules), '<g clip-path="url(#panel)">']
        out += [part for line in panel.lines for part in axes.line(line)]
        out.append("</g></g>")
    note = f"x: {of_x}; y: {of_y}; bars: 95 % intervals, cut at the frame"
    out.append(text(8, height - 18, note, fill=GREY))
    out.append(text(8, height - 5, NOT_FOR_PATIENTS, fill=GREY))
    return "\n".join([*out, "</svg>"]) + "\n"
