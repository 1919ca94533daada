"""The command ``recommend``: a state or a table of states, answered and on record."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dosing import NOT_FOR_PATIENTS
from dosing.data.text_table import Refused
from dosing.errors import UserError
from dosing.recommendation.answers_table import answers_schema, answers_table, columns_of_numbers

if TYPE_CHECKING:
    import pyarrow as pa

    from dosing.recommendation.audit_log import AuditLog
    from dosing.recommendation.dose_context import DoseContext, Evidence
    from dosing.recommendation.records import Recommendation, Recommender
    from dosing.runs.folder import RunFolder

DEFERRED, REFUSED = 3, 2
"""Exit statuses of a recommendation without a dose to follow."""
PIECE = 65_536
"""Rows of a table that are read, answered and written at once."""


def register(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = command(
        "recommend",
        run,
        "recommend a dose for a patient state (exit status 2: refused, 3: deferred) or a table of them",
    )
    parser.add_argument("path", type=Path, metavar="RUN", help="run folder")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--state", nargs="+", help="as many numbers as the scenario observes")
    asked.add_argument(
        "--in",
        dest="table",
        type=Path,
        metavar="FILE",
        help="parquet or CSV file with a column per observed entry",
    )
    parser._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)")  # -1e-3 is no option, as in 3.14
    parser.add_argument(
        "--current-dose",
        nargs="+",
        metavar="DOSE",
        help="dose given now, with --state, where the scenario limits its change",
    )
    parser.add_argument("--json", action="store_true", help="print the whole recommendation as JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="parquet file to write, with --in")
    parser.add_argument(
        "--audit",
        type=Path,
        metavar="FILE",
        help="audit log [DOSING_AUDIT, else audit.jsonl in the run's study folder]",
    )
    parser.add_argument(
        "--audit-states",
        choices=("numbers", "hash"),
        default="numbers",
        help="what the log keeps of a state [%(default)s]; of a table it keeps the file's hash",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command; the answer is in the audit log before it is shown."""
    from dosing.recommendation.audit_log import shown
    from dosing.recommendation.dose_context import verdict_words
    from dosing.recommendation.recommender import recommend
    from dosing.runs.folder import RunFolder
    from dosing.studies import loading
    from dosing.studies.evidence import read_evidence

    if (arguments.table is None) != (arguments.out is None):
        raise UserError("a table needs both --in and --out.")
    if arguments.table is not None and (arguments.json or arguments.current_dose):
        raise UserError("--json and --current-dose go with --state; a table has its columns.")
    recommender = loading.recommender_of(RunFolder(arguments.path))
    log = study_log(arguments.path, arguments.audit)
    log.append("run loaded", dict(recommender.provenance))
    if arguments.table is not None:
        evidence = read_evidence(RunFolder(arguments.path))
        counts = recommend_table(recommender, arguments.table, arguments.out, log, evidence)
        told = ", ".join(f"{count:,} {status}" for status, count in counts.items())
        print(f"{sum(counts.values()):,} recommendations in {arguments.out}: {told}")
        print(verdict_words(evidence))
        print(NOT_FOR_PATIENTS)
        return 0
    result = recommend(recommender, arguments.state, arguments.current_dose)
    record = log.append(*shown(result.to_json(), arguments.audit_states))
    beside = context_of(RunFolder(arguments.path), log, record.content)
    if arguments.json:
        lines = {"context": [words for _, words in beside.lines]}
        print(json.dumps(result.to_json() | lines, indent=1, allow_nan=False))
    if result.status == "refused":
        default = f" Safe default of this scenario: {result.safe_default}." if result.safe_default else ""
        print(f"dosing: no dose is recommended: {' '.join(result.reasons)}{default}", file=sys.stderr)
    elif not arguments.json:
        print(describe(result, beside))
    return exit_status(result)


def study_log(run: Path, chosen: Path | None) -> AuditLog:
    """The audit log of the study that holds a run, unless another one is chosen."""
    from dosing.recommendation.audit_log import log_of

    folders = run.resolve().parents  # <study>/<agent>/<data>/<key>
    return log_of(folders[min(2, len(folders) - 1)], chosen)


def context_of(run: RunFolder, log: AuditLog, content: Mapping[str, Any]) -> DoseContext:
    """What following the policy was worth, and the decision in force on a recorded recommendation of it."""
    from dosing.recommendation.decisions import decisions_on
    from dosing.recommendation.dose_context import DoseContext
    from dosing.studies.evidence import read_evidence

    return DoseContext(read_evidence(run), next(reversed(decisions_on(log, content)), None))


def exit_status(result: Recommendation) -> int:
    """0 for a dose to follow, 3 for a deferred one, 2 for none."""
    return {"refused": REFUSED, "deferred": DEFERRED}.get(result.status, 0)


def describe(result: Recommendation, beside: DoseContext) -> str:
    """A recommendation with what stands beside it and with its basis, one line each."""
    from dosing.recommendation.records import dose_words, span_words
    from dosing.studies.comparison_table import mass_words

    def words(values: Sequence[float]) -> str:
        return dose_words(values, result.limits)

    def span(ends: tuple[Sequence[float], Sequence[float]]) -> str:
        return f"{span_words(ends, result.limits)}{unit}"

    unit = "" if result.unit == "1" else f" {result.unit}"
    assert result.dose is not None
    assert result.proposed is not None
    assert result.support is not None
    assert result.central is not None
    assert result.mass_outside is not None
    deferred = result.status == "deferred"
    lines = [
        ("status", result.status.upper() if deferred else result.status),
        *(("reason", reason) for reason in result.reasons),
        (
            "policy's dose" if deferred else "recommended dose",
            f"{words(result.dose)}{unit}  (mean of the modes of {len(result.seeds)} seeds: "
            + "; ".join(words(s.dose) for s in result.seeds)
            + ")",
        ),
        *(("decision" if kind == "decision" else "verdict", words) for kind, words in beside.lines),
        *([("proposed dose", f"{words(result.proposed)}{unit}")] if result.dose != result.proposed else []),
        *([("safe default", result.safe_default)] if deferred and result.safe_default else []),
        ("dose interval", f"{span(result.support)}  ({result.support_words}, union over seeds)"),
        ("central 90 %", f"{span(result.central)}  (widest over seeds)"),
        ("hard limits", span(result.limits)),
        *([("step limit", span(result.step))] if result.step else []),
        (
            "mass outside them",
            f"{mass_words(result.mass_outside, bool(result.bounded))}  (before any clipping)",
        ),
        *(
            [("spread of seeds", f"{words(result.spread)}{unit}  (standard deviation)")]
            if result.spread
            else []
        ),
    ]
    lines += _nearby(result, unit)
    lines += [("note", note) for note in result.notes]
    lines.append(("run", f"{result.provenance['run']}  weights {result.provenance['weights'][:12]}"))
    return "\n".join([*(f"{name:<18} {text}" for name, text in lines), result.notice])


def _nearby(result: Recommendation, unit: str) -> list[tuple[str, str]]:
    """How far state and dose are from what was recorded, and the nearest visits."""
    from dosing.recommendation.records import dose_words, span_words

    lines = []
    if result.distance is not None and result.threshold is not None:
        lines.append(("distance", f"{result.distance:.3g}, unfamiliar beyond {result.threshold:.3g}"))
    if result.recorded_near is not None:
        told = (
            f"distance of this dose {result.dose_distance:.3g}, unrecorded beyond {result.dose_threshold:.3g}"
        )
        near_by = span_words(result.recorded_near, result.limits)
        lines.append(("recorded nearby", f"{near_by}{unit}  ({told})"))
    return lines + [
        (
            "near visit",
            f"distance {near.distance:.3g}: dose {dose_words(near.dose, result.limits)}{unit}, "
            f"reward {near.reward:.4g}  (patient {near.patient}, visit {near.visit + 1})",
        )
        for near in result.nearest
    ]


def recommend_table(
    recommender: Recommender, table: Path, out: Path, log: AuditLog, evidence: Evidence
) -> dict[str, int]:
    """Answer every row of a table in a parquet file, in the same order; parquet in constant memory.

    Args:
        recommender: policy, rules and monitor.
        table: see :func:`pieces_of`; a missing number refuses its row.
        out: written whole or not at all: ``row`` (from 0), ``status``, ``dose``, ``proposed``,
            ``support_low``, ``support_high``, ``recorded_low`` and ``recorded_high`` (doses recorded near the
            state), ``spread``, ``mass_outside``, ``reasons`` (codes, separated by spaces), ``distance``,
            ``nearest_distance``, ``dose_distance``, ``verdict`` (on the policy) and ``decision`` (in force on
            the row's state); null where a row has no such thing. Doses of several dimensions have one column
            each, ``dose_1``, ``dose_2``, ...
        log: gets one record with the hashes of both files, before ``out`` appears.
        evidence: what following the policy was worth.

    Returns:
        How many rows have each status.

    Raises:
        UserError: the table cannot be read, is empty, lacks columns, has others or columns that hold no
            numbers; or ``out`` cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dosing.data.partial import partial_path
    from dosing.recommendation.batch import read_current_doses, recommend_all
    from dosing.recommendation.decisions import all_decisions
    from dosing.recommendation.dose_context import DecidedStates
    from dosing.recommendation.patient_table import wanted
    from dosing.recommendation.reasons import STATUSES
    from dosing.runs.files import sha256

    if out.resolve() == table.resolve():
        raise UserError(f"--out {out} is the table that is read; give it another name.")
    counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
    temporary = partial_path(out)
    entries, doses = ([entry.name for entry in part] for part in wanted(recommender))
    try:
        source = sha256(table)
        schema = answers_schema(recommender, source, evidence)
        known = all_decisions(log) if log.path.is_file() else ()
        decided = DecidedStates(known, recommender.provenance.get("weights"))
        pieces = pieces_of(table, entries + doses)
        first = next(pieces)  # what is wrong with the table is told before anything is written
        with pq.ParquetWriter(temporary, schema) as writer:
            for piece in chain([first], pieces):
                states = columns_of_numbers(piece, entries)
                current = columns_of_numbers(piece, doses) if doses else None
                result = recommend_all(recommender, states, current, workers=-1)
                given = read_current_doses(recommender.rules, states, current)
                done = sum(counts.values())
                writer.write_table(answers_table(result, done, schema, decided.of(states, given)))
                for status, name in enumerate(STATUSES):
                    counts[name] += int((result.status == status).sum())
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        about = {
            "input": source,
            "output": sha256(temporary),
            "rows": sum(counts.values()),
            "statuses": counts,
        }
        log.append("batch", about | {"provenance": dict(recommender.provenance)})
        temporary.replace(out)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or table} does not exist.") from error
    except pa.ArrowException as error:
        raise UserError(f"{table} is truncated or not a parquet file ({error}).") from error
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return counts


def pieces_of(table: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The columns of a parquet or CSV file, piece by piece.

    Args:
        table: parquet or CSV file with one column of numbers per observed entry, by its name (``entry 1``,
            ``entry 2``, ... where the run has no names). Where the scenario limits the change of a dose that
            it does not observe, also ``current_dose`` (of several dimensions: ``current_dose_1``, ...). A CSV
            file is read as the dashboard reads it.
        names: columns that it must have, and no others.

    Raises:
        UserError: it has others or lacks some, or its values are no numbers.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dosing.recommendation.patient_table import exact, numbers, read
    from dosing.recommendation.records import StateEntry

    def check(schema: pa.Schema, rows: int) -> None:
        if wrong := exact(schema, names, rows):
            raise UserError(f"{table} {wrong}. It needs {len(names)} columns: {', '.join(names)}.")

    if table.suffix.lower() == ".csv":
        try:
            sheet = read(table.read_bytes(), table.suffix, names)
            check(pa.schema([(name, pa.float64()) for name in sheet.columns]), sheet.rows)
            values = numbers(sheet, {name: name for name in names}, [StateEntry(name) for name in names])
        except Refused as error:
            raise UserError(f"{table}: {error}") from None
        yield pa.RecordBatch.from_arrays([pa.array(column) for column in values.T], names=list(names))
        return
    with pq.ParquetFile(table) as file:
        check(file.schema_arrow, file.metadata.num_rows)
        yield from file.iter_batches(PIECE, columns=list(names))
