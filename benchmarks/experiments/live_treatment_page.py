"""What a study of live treatment came to, as a page with a picture; see ``live_treatment.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.studies.finetune_table import below
from dosing.studies.report.svg import COLOURS, GREY, minus, sheet, stroke, text, ticks
from dosing.types import Array

ENV_ID, PATIENTS, NAME = "dosing/Treatment-v0", 200, "live_treatment"
DISTRIBUTIONS = {"sparse": "FtTPO", "gaussian": "Gaussian counterpart"}
"""Distributions of FtTPO's actor."""
COLUMNS, WIDTH, HEIGHT = 4, 260, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 16, 28, 30


def over(values: Array) -> Estimate:
    """Mean of one number per seed ``[S]`` with its interval."""
    return mean_over_seeds(np.asarray(values, dtype=np.float64)[:, None])


@dataclass(frozen=True)
class TrialResult:
    """What one trial came to; estimates are over seeds.

    Attributes:
        title: of the method, and of what it started from.
        distribution: of FtTPO's actor, in part 2.
        visits: visits of a seed's patients at the evaluations.
        band: return of the evaluation patients by the recommended dose, simultaneously over ``visits``.
        difference: the same less that of the offline policy, on the same patients.
        along: mean of the return along the trial (trapezoids over visits).
        treated: mean return of the treated patients.
        cost: safety cost of all treated patients of a seed together.
        worst_patient: lowest return of a treated patient, of all seeds.
        limited: share of doses that a limit held.
        coverage: effective share of the dose range that the doses given cover, until the first evaluation
            after the start and until the end.
        half_width: mean half-width of the dose interval over recorded visits, before and after, where a
            distribution of FtTPO goes on by itself.
        patients: treated per seed.
        minutes: of training, on one core.
        by_seed: what part 2 compares, one number per seed.
    """

    title: str
    distribution: str
    visits: tuple[int, ...]
    band: tuple[Estimate, ...]
    difference: tuple[Estimate, ...]
    along: Estimate
    treated: Estimate
    cost: Estimate
    worst_patient: float
    limited: Estimate
    coverage: tuple[Estimate, Estimate]
    half_width: tuple[Estimate, Estimate] | None
    patients: int
    minutes: float
    by_seed: Mapping[str, tuple[float, ...]]

    @property
    def lowest(self) -> int:
        """Evaluation at which the return is lowest."""
        return int(np.argmin([e.value for e in self.band]))

    @property
    def below(self) -> list[int]:
        """Evaluations at which the band of the difference lies below 0."""
        return below(self.difference)

    @property
    def verdict(self) -> str:
        """Whether the method is found below the offline policy: by how much at most, and when."""
        if not self.below:
            return "no"
        most = min(self.below, key=lambda t: self.difference[t].value)
        first, last = (self.visits[self.below[i]] for i in (0, -1))
        when = f"at {first:,}" if first == last else f"first at {first:,}, last at {last:,}"
        by = minus(f"{self.difference[most]:.2f}")
        return f"yes: {by} at {self.visits[most]:,} visits; {when}"


def words(estimate: Estimate, spec: str = ".2f") -> str:
    """A number with its interval, with real minus signs."""
    return minus(format(estimate, f"z{spec}"))


def methods_table(result: Sequence[TrialResult]) -> str:
    """Part 1, a row per method."""
    head = (
        "method", "return at start", "lowest on the curve", "at the end", "found below the offline policy",
        "mean along the trial", "treated patients' return", "cost of all treated, per seed", "worst patient",
        "limited doses", "dose range covered", "minutes",
    )  # fmt: skip
    lines = [
        [
            x.title,
            words(x.band[0]),
            f"{words(x.band[x.lowest])} at {x.visits[x.lowest]:,}",
            words(x.band[-1]),
            x.verdict,
            words(x.along),
            words(x.treated),
            words(x.cost, ",.0f"),
            minus(f"{x.worst_patient:.1f}"),
            words(x.limited, ".1%"),
            words(x.coverage[1], ".0%"),
            f"{x.minutes:.1f}",
        ]
        for x in result
    ]
    return table(head, lines)


def distributions_table(result: Sequence[TrialResult]) -> str:
    """Part 2, a row per start and method, and the differences between the two distributions."""
    head = (
        "trial", "return at start", "at the end", "found below its start", "mean along the trial",
        "treated patients' return", "cost of all treated, per seed", "dose range covered at first",
        "dose range covered", "half-width before", "half-width after",
    )  # fmt: skip
    lines = []
    for x in result:
        widths = [words(e, ".3f") for e in x.half_width] if x.half_width else ["", ""]
        lines.append(
            [
                x.title,
                words(x.band[0]),
                words(x.band[-1]),
                x.verdict,
                words(x.along),
                words(x.treated),
                words(x.cost, ",.0f"),
                *(words(e, ".0%") for e in x.coverage),
                *widths,
            ]
        )
    for way in ("Direct from", "PEX beside"):
        sparse, twin = (
            next(x for x in result if x.title == f"{way} {name}") for name in DISTRIBUTIONS.values()
        )
        gain = {k: over(np.subtract(v, twin.by_seed[k])) for k, v in sparse.by_seed.items()}
        lines.append(
            [
                f"{way}: {DISTRIBUTIONS['sparse']} less {DISTRIBUTIONS['gaussian']}",
                "",
                words(gain["end"]),
                "",
                words(gain["along"]),
                words(gain["treated"]),
                words(gain["cost"], ",.0f"),
                words(gain["coverage at first"], ".0%"),
                words(gain["coverage"], ".0%"),
                "",
                words(gain["half-width"], ".3f") if "half-width" in gain else "",
            ]
        )
    return table(head, lines)


def page(result: Sequence[TrialResult], notes: Sequence[str], about: Mapping[str, Any], command: str) -> str:
    """Everything as markdown."""
    settings = about["settings"]
    first, second = [x for x in result if not x.distribution], [x for x in result if x.distribution]
    parts = [
        "# Live treatment",
        f"`{command}` on {about['machine']}; dosing {about['version']}.",
        f"{PATIENTS} recorded patients of {ENV_ID}, uniform doses; {about['offline_updates']:,} offline "
        f"updates at two layers of 64 units. Then {settings['visits']:,} visits of {settings['patients']} "
        f"patients side by side per seed, {settings['updates_per_visit']:g} updates per visit after the "
        f"first {settings['start']:,}; {about['seeds']} seeds. Returns are those of "
        f"{about['evaluation_patients']:,} "
        "new patients per seed who get the recommended dose, the same at every evaluation and for every "
        "method. Methods start from IQL's run, AWAC and those that name another agent from a run of that. "
        "Cost: visits with a dose beyond 0.9 of the largest allowed one. Dose range covered: "
        "exponential of the entropy of the doses given, over a hundred equal parts of the range; 100 % is an "
        "even spread.",
        "Start, lowest point and end are 95 % intervals (Student-t over seeds) that hold at all evaluations "
        "of a method at once; so does *found below the offline policy*, for the difference on the same "
        "patients, seed by seed. Across methods they are not corrected. All other intervals are 95 % each. "
        "JSRL's curriculum is evaluated with its guide until the end of the trial.",
        f"![Return of the recommended dose along live treatment]({NAME}.svg)",
        "## Methods",
        methods_table(first),
    ]
    if second:
        parts += [
            "## A sparse policy and its Gaussian counterpart",
            "FtTPO's actor with a bounded dose set, and the same networks with a Gaussian one, trained "
            "offline and continued alike. *Direct* goes on by itself and draws its doses from its "
            "distribution; in "
            "PEX it is frozen beside IQL's policy, and its recommended dose is one of three proposals. "
            "Half-width: of the exact support, or of the central 99 % before limits where there is none, "
            "mean over recorded visits.",
            distributions_table(second),
        ]
    return "\n\n".join([*parts, *(f"Note: {note}" for note in notes), NOT_FOR_PATIENTS]) + "\n"


def picture(result: Sequence[TrialResult], starts: Sequence[Estimate]) -> str:
    """One panel per trial: its return with the simultaneous band, over that of the offline policy."""
    ends = [v for x in result for e in x.band for v in (e.value, min(e.high, e.value + 3.0))]
    low = max(min(ends), min(e.value for e in starts) - 6.0) - 0.5  # a random policy may begin far below
    high = max(ends) + 0.5
    last = max(x.visits[-1] for x in result)
    width, height = COLUMNS * WIDTH, 44 + -(-len(result) // COLUMNS) * HEIGHT + 34
    inside = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    out = [
        *sheet(width, height),
        f'<clipPath id="panel"><rect {inside}/></clipPath>',
        text(8, 16, "Return of the recommended dose along live treatment", size=13),
        text(8, 33, "Blue: the method, with its simultaneous 95 % band over seeds. Grey: the offline policy "
             "that it started from, 95 %.", fill=GREY),
    ]  # fmt: skip

    def x_of(visits: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * visits / last

    def y_of(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    for number, (x, start) in enumerate(zip(result, starts, strict=True)):
        column, row = number % COLUMNS, number // COLUMNS
        out.append(f'<g transform="translate({WIDTH * column},{44 + HEIGHT * row})">')
        out.append(text(LEFT, TOP - 8, x.title, size=12))
        for value in ticks(low, high):
            out.append(stroke(LEFT, y_of(value), WIDTH - RIGHT, y_of(value), "#e4e4e4"))
            out.append(text(LEFT - 5, y_of(value) + 4, minus(f"{value:g}"), anchor="end", fill=GREY))
        for visits in (0, last // 2, last):
            anchor = {0: "start", last: "end"}.get(visits, "middle")
            out.append(text(x_of(visits), HEIGHT - BOTTOM + 14, f"{visits:,}", anchor=anchor, fill=GREY))
        out.append('<g clip-path="url(#panel)">')
        box = f'y="{y_of(start.high):.1f}" height="{y_of(start.low) - y_of(start.high):.1f}"'
        out.append(f'<rect x="{LEFT}" width="{WIDTH - LEFT - RIGHT}" {box} fill="{GREY}" opacity="0.25"/>')
        out.append(stroke(LEFT, y_of(start.value), WIDTH - RIGHT, y_of(start.value), GREY, 1, "4 3"))
        at = [x_of(v) for v in x.visits]
        top = [f"{a:.1f},{y_of(e.high):.1f}" for a, e in zip(at, x.band, strict=True)]
        under = [f"{a:.1f},{y_of(e.low):.1f}" for a, e in zip(at, x.band, strict=True)]
        out.append(f'<polygon points="{" ".join([*top, *under[::-1]])}" fill="{COLOURS[0]}" opacity="0.2"/>')
        line = " ".join(f"{a:.1f},{y_of(e.value):.1f}" for a, e in zip(at, x.band, strict=True))
        out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>')
        out.append("</g></g>")
    note = (
        "x: visits of a seed's patients; y: mean return per evaluation patient, one scale; cut at the frame"
    )
    out.append(text(8, height - 18, note, fill=GREY))
    out.append(text(8, height - 5, NOT_FOR_PATIENTS, fill=GREY))
    return "\n".join([*out, "</svg>"]) + "\n"
