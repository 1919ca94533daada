"""The command ``audit``: check the audit log, look at its last records, record a decision."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dosing.errors import UserError
from dosing.recommendation.audit_log import FILE, VARIABLE, AuditLog, Record, what
from dosing.recommendation.decisions import ACTIONS, record_decision


def register(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = command(
        "audit", run, "check the audit log of recommendations and decisions, show it, or record a decision"
    )
    parser.add_argument(
        "what",
        choices=("verify", "show", "decide"),
        help="check every line and the chain, print a table, or record a decision",
    )
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help=f"the log, or a study folder that holds {FILE} [{VARIABLE}, else runs/demo]",
    )
    parser.add_argument("--last", type=int, default=20, help="records to show [%(default)s]")
    decision = parser.add_argument_group("decide")
    decision.add_argument("--record", type=int, metavar="N", help="number of the recommendation's record")
    decision.add_argument("--action", choices=ACTIONS, help="what was decided")
    decision.add_argument(
        "--dose", nargs="+", type=float, help="dose given instead, with modify, within the hard limits"
    )
    decision.add_argument(
        "--reason",
        default="",
        help="in words; needed to modify, to accept a deferral, or to replace the decision in force",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command; a broken log is named by its first broken line, with exit status 1."""
    chosen: Path = arguments.file or Path(os.environ.get(VARIABLE) or "runs/demo")
    if arguments.last < 1:
        raise UserError(f"--last must be at least 1, got {arguments.last}.")
    log = AuditLog(chosen / FILE if chosen.is_dir() else chosen)
    given = (arguments.record, arguments.action, arguments.dose, arguments.reason or None)
    if arguments.what == "decide":
        if arguments.record is None or arguments.action is None:
            raise UserError("a decision needs --record and --action.")
        if not log.path.is_file():
            raise UserError(f"there is no audit log {log.path}.")
        made = record_decision(
            log, arguments.record, arguments.action, arguments.dose, reason=arguments.reason
        )
        print(f"record {made.number} of {log.path}: {what(made)}")
        return 0
    if any(value is not None for value in given):
        raise UserError("--record, --action, --dose and --reason go with `audit decide`.")
    result = log.verify()
    if arguments.what == "show":
        for line in table(result.records[max(len(result.records) - arguments.last, 0) :]):
            print(line)
    if result.broken is not None:
        print(f"dosing: {log.sentence(result)}", file=sys.stderr)
        return 1
    if arguments.what == "verify":
        print(log.sentence(result))
    return 0


def table(records: Sequence[Record]) -> list[str]:
    """Records as lines of one table."""
    rows: list[tuple[str, ...]] = [("number", "time", "kind", "patient", "visit", "what", "run")]
    for record in records:
        content = record.content
        about = content.get("provenance", content)
        whom = (str(content.get("patient", "")), str(content.get("visit", "")))
        rows.append(
            (str(record.number), record.time, record.kind, *whom, what(record), str(about.get("run", "")))
        )
    rows = [tuple("".join(c if c.isprintable() else " " for c in cell) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
