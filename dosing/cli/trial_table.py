"""The table of trials: what they ended with, what they cost the patients treated, how they differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dosing.evaluation import read_outcomes
from dosing.runs import EPISODES, RunFolder, read_json, read_table, write_json, write_table
from dosing.statistics import Estimate, mean_over_seeds, paired_difference
from dosing.trial import COURSES, CURVE, REPORT

Array = npt.NDArray[np.float64]

TRIALS, TABLE, CURVES = "trials", "table.json", "curves.parquet"
"""Folder of a study, and its files: of the trials that one command ran side by side."""


@dataclass(frozen=True)
class Line:
    """One trial in the table; every estimate is over seeds."""

    title: str
    run: str
    before: Estimate
    """Return of the evaluation patients by recommended doses before the trial."""
    after: Estimate
    """The same at its end."""
    sampled: Estimate
    """The same by sampled doses."""
    treated: float | None
    """Mean return of the patients treated meanwhile; None, as what follows, where no course ended."""
    worst: float | None
    """Lowest return of one of them."""
    cost: float | None
    """Their mean cost."""
    limited: float | None
    """Share of their doses that a limit held."""
    patients: int
    """How many they were, over all seeds."""
    stopped: int
    """Seeds that the harm budget stopped."""


@dataclass(frozen=True)
class Report:
    """What a command found.

    Attributes:
        lines: one per trial.
        differences: every trial's return at the end less that of the first, on the same patients.
        notes: what a reader has to know besides.
    """

    lines: tuple[Line, ...]
    differences: tuple[tuple[str, Estimate], ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return the table, the differences and the notes as text."""
        head = ("method", "before", "after", "sampled", "treated", "worst", "cost", "limited", "stopped")
        rows = [
            (
                line.title,
                *(f"{e:.2f}" for e in (line.before, line.after, line.sampled)),
                _words(line.treated, ".2f"),
                _words(line.worst, ".2f"),
                _words(line.cost, ".3f"),
                _words(line.limited, ".1%"),
                str(line.stopped),
            )
            for line in self.lines
        ]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        text = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
        ]
        if self.differences:
            text.append(f"after, less {self.lines[0].title}, paired by patient:")
            text += [f"  {name}: {estimate:.2f}" for name, estimate in self.differences]
        return "\n".join([*text, *(f"note: {note}" for note in self.notes)])


def _words(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def report_on(study: Path, done: Sequence[tuple[str, RunFolder, str]], notes: Sequence[str]) -> Report:
    """The table of finished trials, which is also written; all curves are written as one long table.

    Args:
        study: the study folder.
        done: method, run folder and title of each trial.
        notes: what a reader has to know besides.
    """
    stops = [
        f"{title}: {stop['why']}."
        for _, run, title in done
        for stop in read_json(run.path / REPORT)["stopped"]
    ]
    returns = [read_outcomes(run.path / EPISODES)["recommended"].returns for _, run, _ in done]
    differences = [
        (title, _difference(own, returns[0]))
        for (_, _, title), own in zip(done[1:], returns[1:], strict=True)
    ]
    lines = [_line(run, title, study) for _, run, title in done]
    found = Report(tuple(lines), tuple(differences), (*notes, *stops))
    rows: list[dict[str, Any]] = []
    for method, run, title in done:
        about = {"method": method, "name": title, "run": os.path.relpath(run.path, study)}
        rows += [about | row for row in read_table(run.path / CURVE).to_pylist()]
    write_table(study / TRIALS / CURVES, {name: [row[name] for row in rows] for name in rows[0]})
    table = {
        "lines": [asdict(line) for line in lines],
        "differences": [{"name": name, **asdict(e)} for name, e in differences],
        "notes": list(found.notes),
    }
    write_json(study / TRIALS / TABLE, table)
    return found


def _line(run: RunFolder, title: str, study: Path) -> Line:
    curve = read_table(run.path / CURVE).to_pandas()
    courses = read_table(run.path / COURSES).to_pandas()
    outcomes = read_outcomes(run.path / EPISODES)
    before = curve[curve["visits"] == 0]["recommended"].to_numpy()
    some = len(courses) > 0
    return Line(
        title=title,
        run=os.path.relpath(run.path, study),
        before=_over_seeds(before[:, None]),
        after=_over_seeds(outcomes["recommended"].returns),
        sampled=_over_seeds(outcomes["sampled"].returns),
        treated=float(courses["returns"].mean()) if some else None,
        worst=float(courses["returns"].min()) if some else None,
        cost=float(courses["cost"].mean()) if some else None,
        limited=float(courses["limited"].sum() / courses["visits"].sum()) if some else None,
        patients=len(courses),
        stopped=len(read_json(run.path / REPORT)["stopped"]),
    )


def _over_seeds(returns: Array) -> Estimate:
    """Mean of returns ``[S, P]`` with its interval; of one value, that value."""
    return _alike(returns) if returns.size == 1 else mean_over_seeds(returns)


def _difference(own: Array, first: Array) -> Estimate:
    """Mean of own less first ``[S, P]`` with its interval; policies that are one differ by nothing."""
    alike = np.array_equal(own, first) or own.size == 1
    return _alike(own - first) if alike else paired_difference(own, first)


def _alike(values: Array) -> Estimate:
    """Values ``[S, P]`` that are all one."""
    value = float(values.flat[0])
    return Estimate(value, value, value, 0.95, values.size, len(values), "no spread, no interval")
