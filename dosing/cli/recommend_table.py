"""What ``recommend`` reads from files and writes: tables of states or visits, and one patient's visits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dosing.data.text_table import Refused
from dosing.errors import UserError
from dosing.recommendation.answers_table import answers_schema, answers_table, columns_of_numbers

if TYPE_CHECKING:
    import pyarrow as pa

    from dosing.data.earlier_visits import EarlierVisits
    from dosing.recommendation.audit_log import AuditLog
    from dosing.recommendation.dose_context import DecidedStates, Evidence
    from dosing.recommendation.patient_table import Sheet
    from dosing.recommendation.records import EarlierVisit, Recommender
    from dosing.types import Array

PIECE = 65_536
"""Rows of a table that are answered and written at once."""


class Piece(NamedTuple):
    """Some rows of a table: states ``[M, O]``, doses given now ``[M, A]`` and visits before, where told."""

    states: Array
    current: Array | None
    earlier: EarlierVisits | None


def history_of(recommender: Recommender, file: Path) -> tuple[tuple[float, ...], tuple[EarlierVisit, ...]]:
    """The state at hand of one patient, and the visits before it.

    Args:
        recommender: policy, rules and monitor.
        file: parquet or CSV: see ``dosing.recommendation.visit_table.visits_of``.

    Raises:
        UserError: it does not exist, or is not exactly such a file.
    """
    from dosing.recommendation.patient_table import wanted
    from dosing.recommendation.visit_table import check_columns, visits_of

    try:
        sheet = _sheet(file, [entry.name for entry in wanted(recommender)[0]])
        check_columns(recommender, sheet.columns, patients=False)
        return visits_of(sheet, recommender, patients=False).course()
    except Refused as error:
        raise UserError(f"{file}: {error}") from None


def _sheet(file: Path, allowed: Sequence[str]) -> Sheet:
    """A whole file as the dashboard reads it; see ``dosing.recommendation.patient_table.read``."""
    from dosing.recommendation.patient_table import read

    try:
        return read(file.read_bytes(), file.suffix, allowed)
    except FileNotFoundError:
        raise UserError(f"{file} does not exist.") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}.") from error


def recommend_table(
    recommender: Recommender, table: Path, out: Path, log: AuditLog, evidence: Evidence
) -> tuple[dict[str, int], str]:
    """Answer every row of a table in a parquet file, in the same order; parquet of states in constant memory.

    Args:
        recommender: policy, rules and monitor.
        table: see :func:`pieces_of`; a missing number refuses its row, and those that look back at it.
        out: written whole or not at all: ``row`` (from 0), ``status``, ``dose``, ``proposed``,
            ``support_low``, ``support_high``, ``recorded_low`` and ``recorded_high`` (doses recorded near the
            state), ``spread``, ``mass_outside``, ``reasons`` (codes, separated by spaces), ``distance``,
            ``nearest_distance``, ``dose_distance``, ``verdict`` (on the policy) and ``decision`` (in force on
            the row's state); null where a row has no such thing. Doses of several dimensions have one column
            each, ``dose_1``, ``dose_2``, ...
        log: gets one record with the hashes of both files, before ``out`` appears.
        evidence: what following the policy was worth.

    Returns:
        How many rows have each status; and what the policy was not told, in words, empty if nothing.

    Raises:
        UserError: the table cannot be read, is empty, lacks columns, has others or columns that hold no
            numbers; or ``out`` cannot be written.
    """
    import pyarrow as pa

    from dosing.data.partial import partial_path
    from dosing.recommendation.decisions import all_decisions
    from dosing.recommendation.dose_context import DecidedStates
    from dosing.recommendation.explanations import FIRST_VISITS
    from dosing.runs.files import sha256

    if out.resolve() == table.resolve():
        raise UserError(f"--out {out} is the table that is read; give it another name.")
    temporary = partial_path(out)
    try:
        source = sha256(table)
        known = all_decisions(log) if log.path.is_file() else ()
        decided = DecidedStates(known, recommender.provenance.get("weights"))
        pieces = pieces_of(recommender, table)
        first = next(pieces)  # what is wrong with the table is told before anything is written
        note = FIRST_VISITS if recommender.policy.looks_back and first.earlier is None else ""
        schema = answers_schema(recommender, source, evidence, note)
        counts = _write(recommender, chain([first], pieces), temporary, schema, decided)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        about = {"input": source, "output": sha256(temporary), "rows": sum(counts.values())}
        about |= {"statuses": counts, "provenance": dict(recommender.provenance)}
        log.append("batch", about)
        temporary.replace(out)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or table} does not exist.") from error
    except pa.ArrowException as error:
        raise UserError(f"{table} is truncated or not a parquet file ({error}).") from error
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return counts, note


def _write(
    recommender: Recommender,
    pieces: Iterable[Piece],
    file: Path,
    schema: pa.Schema,
    decided: DecidedStates,
) -> dict[str, int]:
    """Answer the pieces of a table one after the other; returns how many rows have each status."""
    import pyarrow.parquet as pq

    from dosing.recommendation.batch import read_current_doses, recommend_all
    from dosing.recommendation.reasons import STATUSES

    counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
    with pq.ParquetWriter(file, schema) as writer:
        for piece in pieces:
            result = recommend_all(recommender, *piece, workers=-1)
            given = read_current_doses(recommender.rules, *piece)
            seen = piece.earlier if recommender.policy.looks_back else None
            done = sum(counts.values())
            writer.write_table(answers_table(result, done, schema, decided.of(piece.states, given, seen)))
            for status, name in enumerate(STATUSES):
                counts[name] += int((result.status == status).sum())
    return counts


def pieces_of(recommender: Recommender, table: Path) -> Iterator[Piece]:
    """The rows of a parquet or CSV file, piece by piece.

    Args:
        recommender: policy, rules and monitor.
        table: parquet or CSV file with one column of numbers per observed entry, by its name (``entry 1``,
            ``entry 2``, ... where the run has no names). Where the scenario limits the change of a dose that
            it does not observe, also ``current_dose`` (of several dimensions: ``current_dose_1``, ...). Or,
            with the columns ``patient`` and ``visit``, several visits of each patient, see
            ``dosing.recommendation.visit_table``. A CSV file is read as the dashboard reads it.

    Raises:
        UserError: it has other columns or lacks some, or its values are not what they must be.
    """
    import pyarrow.parquet as pq

    from dosing.recommendation.patient_table import PATIENT, numbers, wanted
    from dosing.recommendation.records import StateEntry
    from dosing.recommendation.visit_table import holds_visits

    entries, doses = ([entry.name for entry in part] for part in wanted(recommender))
    names = [*entries, *doses]
    csv = table.suffix.lower() == ".csv"
    try:
        sheet = _sheet(table, [*names, PATIENT]) if csv else None
        head = list(sheet.columns) if sheet else pq.read_schema(table).names
        if holds_visits(head):
            yield from _visits(recommender, sheet or _whole(table))
            return
        if sheet is None:
            with pq.ParquetFile(table) as file:
                _check(table, file.schema_arrow, file.metadata.num_rows, names)
                for piece in file.iter_batches(PIECE, columns=names):
                    current = columns_of_numbers(piece, doses) if doses else None
                    yield Piece(columns_of_numbers(piece, entries), current, None)
            return
        _check(table, _numbers_schema(list(sheet.columns)), sheet.rows, names)
        values = numbers(sheet, {name: name for name in names}, [StateEntry(name) for name in names])
    except Refused as error:
        raise UserError(f"{table}: {error}") from None
    width = len(entries)
    yield Piece(values[:, :width], values[:, width:] if doses else None, None)


def _check(table: Path, schema: pa.Schema, rows: int, names: Sequence[str]) -> None:
    """Refuse a table of states with other columns than these, or without rows.

    Raises:
        UserError: what is wrong with it.
    """
    from dosing.recommendation.patient_table import exact

    if wrong := exact(schema, names, rows):
        raise UserError(f"{table} {wrong}. It needs {len(names)} columns: {', '.join(names)}.")


def _numbers_schema(names: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.float64()) for name in names])


def _whole(table: Path) -> Sheet:
    """A parquet file of any length, as a sheet."""
    import pyarrow.parquet as pq

    from dosing.recommendation.patient_table import sheet_of

    return sheet_of(pq.read_table(table))


def _visits(recommender: Recommender, sheet: Sheet) -> Iterator[Piece]:
    """The rows of a table of visits; no patient is divided between two pieces."""
    from dosing.recommendation.visit_table import check_columns, visits_of

    check_columns(recommender, sheet.columns, patients=True)
    visits = visits_of(sheet, recommender, patients=True)
    earlier = visits.earlier
    for rows in visits.pieces(PIECE):
        yield Piece(visits.states[rows], None, earlier[rows])
