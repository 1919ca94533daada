"""Tables of patients that somebody brings: what such a file must be, and everything that is wrong with one.

Nothing is guessed: a file that is not exactly what it should be is refused as a whole, with all that is wrong
at once, each with its row (from 1) and column. What reads as numbers goes through the guarded recommender,
which refuses single rows: missing numbers, and numbers beyond what the scenario card calls possible.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dosing.data.formats import FAILURES, SUFFIXES
from dosing.data.identifying import identifying
from dosing.data.text_table import Fault, Refused, as_numbers, decimal_comma, read_text_table
from dosing.recommendation.inputs import LARGEST
from dosing.recommendation.records import Recommender, StateEntry
from dosing.types import Array

MOST_BYTES, MOST_ROWS, MOST_COLUMNS = 10_000_000, 50_000, 200
"""Largest file that is read, in bytes, rows and columns."""
PATIENT = "patient"
"""Column that says whose each row is; see ``dosing.recommendation.visit_table``."""
Column: TypeAlias = list[str] | pa.ChunkedArray | pa.DataType
"""See :class:`Sheet`."""


@dataclass(frozen=True)
class Sheet:
    """A file that could be read: its columns as they came.

    Attributes:
        columns: by name: the ``rows`` texts of a CSV file; of a parquet file the numbers, the texts of the
            column ``patient``, or the type of what was not unpacked.
        rows: number of them.
        separator: what stands between the values of a CSV file.
    """

    columns: Mapping[str, Column]
    rows: int
    separator: str = ","


# Which columns there must be


def wanted(recommender: Recommender) -> tuple[list[StateEntry], list[StateEntry]]:
    """Columns that a table must have: observed entries, and current doses where they are needed."""
    rules, n_obs = recommender.rules, recommender.policy.agent.problem.n_obs
    entries = list(rules.entries) or [StateEntry(f"entry {k + 1}") for k in range(n_obs)]
    if rules.step is None or rules.step.current:
        return entries, []
    limits = rules.limits
    names = by_dimension("current_dose", limits.n_act)
    return entries, [
        StateEntry(n, limits.unit, lo, hi) for n, lo, hi in zip(names, limits.low, limits.high, strict=True)
    ]


def by_dimension(name: str, width: int) -> list[str]:
    """Columns of a quantity with one number per dose dimension."""
    return [name] if width == 1 else [f"{name}_{k + 1}" for k in range(width)]


def exact(schema: pa.Schema, wanted: Sequence[str], rows: int) -> str:
    """What keeps a parquet table from being exactly the wanted columns of numbers; empty if nothing does."""
    wrong = []
    if missing := [name for name in wanted if name not in schema.names]:
        wrong.append(f"lacks {', '.join(missing)}")
    if further := [name for name in schema.names if name not in wanted]:
        wrong.append(f"has other columns, which may name patients: {', '.join(further)}")
    if twice := _twice(schema.names):
        wrong.append(f"has twice {', '.join(twice)}")
    if texts := [f"{f.name} ({f.type})" for f in schema if f.name in wanted and not _numeric(f.type)]:
        wrong.append(f"has columns that are no numbers: {', '.join(texts)}")
    if rows == 0:
        wrong.append("has no rows")
    return "; ".join(wrong)


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _readable(name: str, kind: pa.DataType) -> bool:
    """Whether a column is unpacked: numbers, and texts that say whose each row is."""
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    return _numeric(kind) or (name == PATIENT and texts)


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


# Reading a file


def read(content: bytes, suffix: str, allowed: Sequence[str] = ()) -> Sheet:
    """Read a CSV or parquet file without interpreting its values.

    Args:
        content: of the file.
        suffix: of its name: ``.csv`` or ``.parquet``, in any case.
        allowed: column names that identify nobody, whatever they look like: those of the scenario.

    Raises:
        Refused: the file is too large, cannot be read, has a column twice or none, or names patients.
    """
    if len(content) > MOST_BYTES:
        raise Refused([f"The file has {len(content):,} bytes; at most {MOST_BYTES:,} are read."])
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    kind = SUFFIXES.get(suffix.lower())
    if kind not in readers:
        raise Refused([f"The file must end in .csv or .parquet, got {suffix!r}."])
    return readers[kind](content, allowed)


def _read_parquet(content: bytes, allowed: Sequence[str]) -> Sheet:
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            rows, names = file.metadata.num_rows, file.schema_arrow.names
            if problems := _head_problems(names, rows, allowed):  # before anything is unpacked
                raise Refused(problems)
            kinds = {f.name: f.type for f in file.schema_arrow}
            table = file.read(columns=[name for name, kind in kinds.items() if _readable(name, kind)])
    except Refused:
        raise
    except FAILURES as error:
        raise Refused([f"The file is truncated or not a parquet file ({error})."]) from None
    return sheet_of(table, kinds)


def sheet_of(table: pa.Table, kinds: Mapping[str, pa.DataType] | None = None) -> Sheet:
    """A table in memory as a sheet.

    Args:
        table: all columns, or those of numbers and of texts.
        kinds: of every column that the file has.
    """
    kinds = kinds or {f.name: f.type for f in table.schema}
    columns: dict[str, Column] = {}
    for name, kind in kinds.items():
        columns[name] = table.column(name) if _numeric(kind) else kind
        if _readable(name, kind) and not _numeric(kind):
            columns[name] = table.column(name).cast(pa.string()).fill_null("").to_pylist()
    return Sheet(columns, table.num_rows)


def _read_csv(content: bytes, allowed: Sequence[str]) -> Sheet:
    """Read a header line and as many values in every further one."""
    table = read_text_table(
        io.BytesIO(content),
        most_columns=MOST_COLUMNS,
        most_rows=MOST_ROWS,
        head=lambda names: _people(names, allowed),
    )
    return Sheet(table.columns, table.rows, table.separator)


def _people(names: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """Columns that look as if they identified people."""
    people = [name for name in names if name not in allowed and identifying(name)]
    return [
        f"These columns look as if they identified people: {', '.join(map(repr, people))}. Remove them; rows "
        "are numbered in the order of the file."
    ] * bool(people)


def _head_problems(names: Sequence[str], rows: int, allowed: Sequence[str]) -> list[str]:
    """What names and number of rows tell before any value is looked at."""
    problems = _people(names, allowed)
    if twice := _twice(list(names)):
        problems.append(f"These columns are there twice: {', '.join(map(repr, twice))}.")
    if empty := [str(place) for place, name in enumerate(names, 1) if not name]:
        problems.append(f"Column {', '.join(empty)} has no name.")
    if len(names) > MOST_COLUMNS:
        problems.append(f"The file has {len(names):,} columns; at most {MOST_COLUMNS:,} are read.")
    if rows == 0:
        problems.append("The file has no rows.")
    if rows > MOST_ROWS:
        problems.append(f"The file has more than {MOST_ROWS:,} rows, the most that are answered at once.")
    return problems


# Columns as numbers


def numbers(sheet: Sheet, columns: Mapping[str, str], entries: Sequence[StateEntry]) -> Array:
    """The chosen columns as numbers ``[M, len(entries)]``; NaN where a number is missing.

    Args:
        sheet: the file.
        columns: the file's column of every entry, by the entry's name.
        entries: in the order in which they are wanted.

    Raises:
        Refused: an entry has no column or two share one, or values are no numbers: everything at once.
    """
    problems = []
    if missing := [entry.name for entry in entries if columns.get(entry.name) not in sheet.columns]:
        problems.append(f"No column was chosen for {', '.join(missing)}.")
    chosen = [columns[e.name] for e in entries if e.name in columns]
    problems += [f"Column {name!r} was chosen for several entries." for name in _twice(chosen)]
    if problems:
        raise Refused(problems)
    texts = [column for name in chosen if isinstance(column := sheet.columns[name], list)]
    comma = decimal_comma(sheet.separator, texts)
    values, wrong = np.full((sheet.rows, len(entries)), np.nan), []
    for place, entry in enumerate(entries):
        name = columns[entry.name]
        result, faults = _column(sheet.columns[name], name, comma)
        wrong += faults
        if not faults:
            values[:, place] = result
    if wrong:
        raise Refused([sentence for _, sentence in sorted(wrong, key=lambda fault: fault[0])])
    return values


def _column(column: Column, name: str, comma: bool) -> tuple[Array, list[Fault]]:
    """One column as numbers, with the rows that hold none."""
    if isinstance(column, pa.DataType):
        return np.empty(0), [(0, f"Column {name!r} holds {column}, not numbers.")]
    if isinstance(column, pa.ChunkedArray):
        return column.to_numpy().astype(np.float64), []
    values, faults = as_numbers(column, comma)
    return values, [(row, f"Row {row}, {name}: {why}") for row, why in faults]


def row_problems(values: Array, entries: Sequence[StateEntry]) -> Iterator[Fault]:
    """Rows that will be refused, each with what is wrong: what, value, allowed range, unit.

    Args:
        values: ``[M, len(entries)]``.
        entries: with their ranges.
    """
    wild = ~(np.abs(values) <= LARGEST)
    low, high = np.array([(entry.low, entry.high) for entry in entries]).T
    with np.errstate(invalid="ignore"):
        outside = ~wild & ((values < low) | (values > high))
    for row, place in np.argwhere(wild | outside):
        entry, value = entries[place], values[row, place]
        allowed = entry.allowed or "a finite number"
        said = "is missing" if np.isnan(value) else f"must be {allowed}, got {value:.6g}"
        yield int(row) + 1, f"Row {row + 1}: {entry.name} {said}."
