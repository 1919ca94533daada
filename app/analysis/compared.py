"""The rows of a study as they are sorted, filtered and taken away. No Streamlit."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from dosing import NOT_FOR_PATIENTS
from dosing.evaluation.statistics import Estimate
from dosing.studies.comparison_table import Row

AGENT, RULE, CEILING = "agents", "rules", "ceilings"
NAME, VERDICT = "agent or rule", "verdict"
DIFFERENCE, RETURN, SAMPLED = "minus estimated constant", "return, recommended dose", "return, sampled dose"
COST, RANGE, WORST = "cost per patient", "time in range (%)", "worst 5 % of patients"

ESTIMATES: dict[str, Callable[[Row], Estimate | None]] = {
    DIFFERENCE: lambda row: row.difference,
    RETURN: lambda row: row.recommended,
    SAMPLED: lambda row: row.sampled,
    COST: lambda row: row.cost,
    RANGE: lambda row: None if row.in_range is None else per_cent(row.in_range),
    WORST: lambda row: row.lower_tail,
}
"""Measures with an interval, by their heads; a picture shows any of them."""
VALUES: dict[str, Callable[[Row], Any]] = {
    "policy": lambda row: row.family,
    VERDICT: lambda row: verdict_of(row),
    "half-width of the dose interval": lambda row: row.half_width,
    "interval is": lambda row: row.width_kind,
    "outside hard limits (%)": lambda row: _hundred(row.mass_outside_limits),
    "outside sparse interval (%)": lambda row: _hundred(row.mass_outside_sparse),
    "cost budget": lambda row: None if row.budget is None else row.budget_words,
    "return foreseen": lambda row: None if row.foreseen is None else row.foreseen[0],
    "return foreseen, worst 5 %": lambda row: None if row.foreseen is None else row.foreseen[1],
}
"""Everything else, by its head."""
FIRST = ("policy", VERDICT, DIFFERENCE, RETURN, COST, RANGE, WORST)
"""Columns to begin with, as far as anything was measured."""
SMALL_IS_GOOD = (COST,)


def per_cent(share: Estimate) -> Estimate:
    """A share with its interval, in per cent."""
    value, low, high = (100.0 * one for one in (share.value, share.low, share.high))
    return Estimate(value, low, high, share.level, share.n, share.n_seeds, share.method)


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def verdict_of(row: Row) -> str | None:
    """The verdict; a rule that is not judged is a reference."""
    return row.verdict or (None if row.sampled else "reference")


def kind_of(row: Row) -> str:
    """Whether a row is of an agent, of a rule that can be followed, or of a ceiling."""
    return AGENT if row.sampled is not None else RULE if row.baseline is not None else CEILING


def measured(rows: Sequence[Row]) -> list[str]:
    """Heads of the columns in which any of these rows has something."""
    every = {**VALUES, **ESTIMATES}
    order = [*FIRST, *(head for head in every if head not in FIRST)]
    return [head for head in order if any(every[head](row) is not None for row in rows)]


def ordered(rows: Sequence[Row], by: str | None) -> list[Row]:
    """The rows by a measure, the best first, those without it last; as they are where there is none."""
    if by is None:
        return list(rows)
    sign = 1.0 if by in SMALL_IS_GOOD else -1.0

    def place(row: Row) -> tuple[bool, float]:
        estimate = ESTIMATES[by](row)
        return estimate is None, 0.0 if estimate is None else sign * estimate.value

    return sorted(rows, key=place)


def frame(rows: Sequence[Row], heads: Sequence[str]) -> pd.DataFrame:
    """A line per row: numbers, which a table sorts as such, and beside each its 95 % interval in words."""
    columns: dict[str, list[Any]] = {NAME: [row.name for row in rows]}
    for head in heads:
        if head in ESTIMATES:
            told = [ESTIMATES[head](row) for row in rows]
            columns[head] = [one.value if one else None for one in told]
            columns[interval_of(head)] = [_interval(one) for one in told]
        else:
            columns[head] = [VALUES[head](row) for row in rows]
    return pd.DataFrame(columns)


def interval_of(head: str) -> str:
    """Head of the column with the interval of a measure."""
    return f"95 % interval: {head}"


def _interval(one: Estimate | None) -> str:
    if one is None:
        return "\N{EM DASH}"
    return str(one).partition(" ")[2].replace("-", "\N{MINUS SIGN}")


def as_csv(rows: Sequence[Row]) -> bytes:
    """Every column of the rows in full precision, with the ends of the intervals, below the notice."""
    out = io.StringIO()
    out.write(f"# {NOT_FOR_PATIENTS}\n")
    write = csv.writer(out, lineterminator="\n")
    ends = [f"{head}{end}" for head in ESTIMATES for end in ("", ", low", ", high", ", rests on")]
    write.writerow(["data", NAME, *VALUES, *ends])
    for row in rows:
        told = [ESTIMATES[head](row) for head in ESTIMATES]
        numbers = [
            part
            for one in told
            for part in ((one.value, one.low, one.high, one.basis) if one else ("", "", "", ""))
        ]
        values = [value if (value := read(row)) is not None else "" for read in VALUES.values()]
        write.writerow([row.data, row.name, *values, *numbers])
    return out.getvalue().encode()
