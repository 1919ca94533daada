"""The figure from fat to thin: a row of panels for every data set, a line for every agent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dosing import NOT_FOR_PATIENTS
from dosing.studies.report.svg import COLOURS, GREY, minus, sheet, stroke, text, ticks

if TYPE_CHECKING:
    from benchmarks.experiments.sparse_vs_gaussian import Line, Measured

KINDS = (
    ("unbounded density", ("infinite_clipped",)),
    ("density within the limits", ("full_box",)),
    ("draws, no density", ("samples", "point_set")),
    ("one dose", ("point",)),
)
"""Panels of the figure, by what the fat policy's doses are."""
BLUE = COLOURS[0]
COLUMN, ROW, PLOT, TOP, LEFT = 330, 280, 186, 34, 46
"""Size of a panel in pixels, the width and the margins of what is drawn in it."""


def picture(sets: Sequence[Measured]) -> str:
    """A row of panels for every data set, a line from fat to thin for every agent."""
    head, foot = 66, 40
    width, height = COLUMN * len(KINDS), head + ROW * len(sets) + foot
    title = "From fat to thin: return lost by drawing doses, against the probability removed"
    marks = (
        "One line an agent, from its fat policy (open circle) to the sparse law distilled from it (disc), "
        "which is exactly 0 outside its interval. Grey ring: its truncated Gaussian."
    )
    axes = (
        "x: probability outside the sparse interval that is removed; y: return of recommended doses minus "
        "that of drawn ones, the same patients (no unit)"
    )
    bars = "Bars: 95 % intervals over seeds, cut at the frame."
    out = [*sheet(width, height), text(8, 20, title, size=15), text(8, 40, marks)]
    out.append(text(8, 56, bars, fill=GREY))
    for place, one in enumerate(sets):
        about, frame = one.content, frame_of(one)
        words = f"{about['set'].replace(':', ', ')}{' patients' if ':' in about['set'] else ''}; "
        words += f"{about['updates']:,} updates, {about['seeds']} seeds"
        out += [f'<g transform="translate(0,{head + ROW * place})">', text(8, 12, words, size=12)]
        for column, (kind, kinds) in enumerate(KINDS):
            own = [line for line in one.lines if line.fat.kind in kinds]
            out.append(f'<g transform="translate({COLUMN * column},0)">')
            out += [*frame.panel(f"fat: {kind}", own), "</g>"]
        out.append("</g>")
    out += [text(8, height - 24, axes, fill=GREY), text(8, height - 8, NOT_FOR_PATIENTS, fill=GREY)]
    return "\n".join([*out, "</svg>"]) + "\n"


@dataclass(frozen=True)
class Frame:
    """One panel: the ends of its axes, which its row shares; probabilities begin at 0."""

    low: float
    high: float
    far: float

    def x(self, share: float) -> float:
        """Place of a probability."""
        return LEFT + 8 + (PLOT - 16) * min(max(share / self.far, 0.0), 1.0)

    def y(self, value: float) -> float:
        """Place of a loss, held within the frame."""
        share = (self.high - min(max(value, self.low), self.high)) / (self.high - self.low)
        return TOP + (ROW - TOP - 44) * share

    def panel(self, words: str, own: Sequence[Line]) -> list[str]:
        """Grid, lines from fat to thin, and their names; nothing where no agent has such a policy."""
        if not own:
            return []
        bottom = self.y(self.low)
        out = [text(LEFT, TOP - 6, words, fill=GREY)]
        for value in ticks(self.low, self.high):
            colour = GREY if value == 0.0 else "#e4e4e4"
            out.append(stroke(LEFT, self.y(value), LEFT + PLOT, self.y(value), colour))
            out.append(text(LEFT - 5, self.y(value) + 4, minus(f"{value:g}"), anchor="end", fill=GREY))
        for share in (0.0, 0.5 * self.far, self.far):
            out.append(text(self.x(share), bottom + 15, f"{share:g}", anchor="middle", fill=GREY))
            out.append(stroke(self.x(share), bottom, self.x(share), bottom + 4, GREY))
        return out + [part for line in own for part in self.line(line)] + self.names(own)

    def line(self, line: Line) -> list[str]:
        """An agent."""
        inner = self.x(line.removed(line.thin))
        ends = [(self.x(0.0), line.fat.lost, "white"), (inner, line.thin.lost, BLUE)]
        out = [stroke(x, self.y(lost.low), x, self.y(lost.high), "#c8c8c8") for x, lost, _ in ends]
        (x1, fat, _), (x2, thin, _) = ends
        out.append(stroke(x1, self.y(fat.value), x2, self.y(thin.value), BLUE, 1.6))
        for x, lost, fill in ends:
            look = f'r="3.4" fill="{fill}" stroke="{BLUE}" stroke-width="1.6"'
            out.append(f'<circle cx="{x:.1f}" cy="{self.y(lost.value):.1f}" {look}/>')
        if line.truncated is not None:
            x, y = self.x(line.removed(line.truncated)), self.y(line.truncated.lost.value)
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="none" stroke="{GREY}"/>')
        return out

    def names(self, own: Sequence[Line]) -> list[str]:
        """Names beside the panel, from top to bottom as the thin ends stand, a thread to each."""
        order = sorted(own, key=lambda line: (self.y(line.thin.lost.value), line.removed(line.thin)))
        places = spread([self.y(line.thin.lost.value) for line in order], TOP + 4, self.y(self.low))
        out = []
        for line, y in zip(order, places, strict=True):
            x = self.x(line.removed(line.thin))
            out.append(stroke(x + 5, self.y(line.thin.lost.value), LEFT + PLOT + 8, y, "#b5b5b5", 0.6))
            out.append(text(LEFT + PLOT + 11, y + 4, line.fat.title))
        return out


def frame_of(one: Measured) -> Frame:
    """Holds all losses and 0, and what every thin policy removes."""
    values = [0.0, *(row.lost.value for row in one.policies)]
    room = 0.06 * (max(values) - min(values) or 1.0)
    most = max([0.1, *(line.removed(line.thin) for line in one.lines)])
    return Frame(min(values) - room, max(values) + room, math.ceil(10.0 * most - 1e-9) / 10.0)


def spread(wanted: Sequence[float], top: float, bottom: float, step: float = 13.0) -> list[float]:
    """Places in ascending order, ``step`` apart and as near to ``wanted`` as they can be within the ends."""
    result: list[float] = []
    for y in wanted:
        result.append(max(y, result[-1] + step if result else top))
    for k in reversed(range(len(result))):
        result[k] = min(result[k], bottom if k + 1 == len(result) else result[k + 1] - step)
    return result
