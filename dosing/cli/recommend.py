"""The command ``recommend``: a state or a table of states, answered and on record."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError

if TYPE_CHECKING:
    from dosing.recommendation.audit_log import AuditLog
    from dosing.recommendation.dose_context import DoseContext
    from dosing.recommendation.records import Recommendation
    from dosing.runs.folder import RunFolder

DEFERRED, REFUSED = 3, 2
"""Exit statuses of a recommendation without a dose to follow."""


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
        help="parquet or CSV file with a column per observed entry and a row per state; or a row per visit, "
        "with columns patient, visit and dose, for agents that look back",
    )
    asked.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="parquet or CSV file of one patient's visits in order, the last one at hand: a column per "
        "observed entry, dose (as delivered, empty in the last row), and if recorded reward and visit",
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
    from dosing.cli.recommend_table import history_of, recommend_table
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
    if arguments.history is not None and arguments.current_dose:
        raise UserError("--current-dose goes with --state; with --history it is the last dose of the file.")
    recommender = loading.recommender_of(RunFolder(arguments.path))
    state, earlier = arguments.state, None
    if arguments.history is not None:
        state, earlier = history_of(recommender, arguments.history)
    log = study_log(arguments.path, arguments.audit)
    log.append("run loaded", dict(recommender.provenance))
    if arguments.table is not None:
        evidence = read_evidence(RunFolder(arguments.path))
        counts, note = recommend_table(recommender, arguments.table, arguments.out, log, evidence)
        told = ", ".join(f"{count:,} {status}" for status, count in counts.items())
        print(f"{sum(counts.values()):,} recommendations in {arguments.out}: {told}")
        if note:
            print(note)
        print(verdict_words(evidence))
        print(NOT_FOR_PATIENTS)
        return 0
    result = recommend(recommender, state, arguments.current_dose, earlier)
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
