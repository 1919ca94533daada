"""The command ``report``: what runs say about one patient, as one printable page."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dosing.errors import UserError

if TYPE_CHECKING:
    from dosing.recommendation.records import EarlierVisit


def register(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = command(
        "report",
        run,
        "write what runs recommend for a patient state as one printable page (exit status as recommend, of "
        "the gravest answer)",
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN", help="run folders, each of an agent")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--state", nargs="+", help="as many numbers as the scenario observes")
    asked.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="parquet or CSV file of one patient's visits in order, as for recommend",
    )
    parser._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)")  # -1e-3 is no option, as in 3.14
    parser.add_argument(
        "--current-dose", nargs="+", metavar="DOSE", help="dose given now, where it is needed"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="HTML file to write")
    parser.add_argument(
        "--audit",
        type=Path,
        metavar="FILE",
        help="audit log [DOSING_AUDIT, else audit.jsonl in the study folder of the first run]",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command; the answers are in the audit log before the page is written."""
    import agents
    from dosing.cli.recommend import context_of, exit_status, study_log
    from dosing.cli.recommend_table import history_of
    from dosing.recommendation.audit_log import shown
    from dosing.recommendation.recommender import recommend
    from dosing.recommendation.report import Said, report
    from dosing.runs.files import write_atomic
    from dosing.runs.folder import RunFolder
    from dosing.studies import loading, naming

    if arguments.out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out must end in .html, got {arguments.out}.")
    if len({path.resolve() for path in arguments.paths}) < len(arguments.paths):
        raise UserError("a run stands on the page once; one of these run folders is given twice.")
    folders = [RunFolder(path) for path in arguments.paths]
    recommenders = [loading.recommender_of(folder) for folder in folders]
    if any(recommender.rules.entries != recommenders[0].rules.entries for recommender in recommenders[1:]):
        raise UserError("the runs observe different entries; one page is on one state.")
    if arguments.history is not None and arguments.current_dose:
        raise UserError("--current-dose goes with --state; with --history it is the last dose of the file.")
    asked: list[tuple[Sequence[str | float], Sequence[EarlierVisit] | None]]
    asked, origin = [(arguments.state, None)] * len(folders), "state from the command line"
    if arguments.history is not None:
        asked = [history_of(recommender, arguments.history) for recommender in recommenders]
        origin = f"visits from {arguments.history.name}"
    log = study_log(arguments.paths[0], arguments.audit)
    said = []
    for folder, recommender, (state, earlier) in zip(folders, recommenders, asked, strict=True):
        config = folder.config()
        log.append("run loaded", dict(recommender.provenance))
        result = recommend(recommender, state, arguments.current_dose, earlier)
        record = log.append(*shown(result.to_json()))
        name = agents.find(config.agent).title
        same = [other for other in folders if other.config().agent == config.agent]
        said.append(
            Said(
                f"{name} {folder.path.name[:6]}" if len(same) > 1 else name,
                naming.family_of(config),
                result,
                context_of(folder, log, record.content),
            )
        )
    write_atomic(arguments.out, report(said, recommenders[0].rules.entries, origin).encode())
    told = ", ".join(f"{one.name} {one.result.status}" for one in said)
    print(f"{arguments.out}: {told}")
    print(said[0].result.notice)
    return max((exit_status(one.result) for one in said), key=(0, 3, 2).index)
