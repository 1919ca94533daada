"""The command ``report``: a finished study, or what runs say about one patient, as one printable page."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError

if TYPE_CHECKING:
    from dosing.recommendation.records import EarlierVisit


def register(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = command(
        "report",
        run,
        "write a printable page: of a STUDY folder of compare, demo, select or finetune what was run and "
        "found; of RUN folders and a patient state what they recommend (exit status as recommend, of the "
        "gravest answer)",
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="STUDY|RUN",
        help="a study folder, without a state; or run folders, each of an agent, with one",
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="of a study: policy of its table that the others are compared with [the constant dose]",
    )
    asked = parser.add_mutually_exclusive_group()
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
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="HTML file to write; of a study .md too"
    )
    parser.add_argument(
        "--audit",
        type=Path,
        metavar="FILE",
        help="audit log [DOSING_AUDIT, else audit.jsonl in the study folder of the first run]",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command, of a study or of runs."""
    del rest
    return _of_study(arguments) if _is_of_study(arguments) else _of_runs(arguments)


def _is_of_study(arguments: argparse.Namespace) -> bool:
    """Whether a study is asked for.

    Raises:
        UserError: a study with a state, runs without one, or both kinds of folders.
    """
    from dosing.studies.report.page import is_study

    studies = [path for path in arguments.paths if is_study(path)]
    stated = arguments.state is not None or arguments.history is not None
    if studies and (len(arguments.paths) > 1 or stated or arguments.current_dose or arguments.audit):
        raise UserError(
            f"{studies[0]} is a study folder: its report takes that folder alone, without a state; the page "
            "on a patient state takes run folders, such as STUDY/AGENT/DATA/KEY."
        )
    if studies:
        return True
    if not stated:
        raise UserError(
            f"{arguments.paths[0]} holds no finished study (no table.json, selection.json or trials): name a "
            "study folder, or run folders with --state or --history."
        )
    if arguments.reference is not None:
        raise UserError("--reference is for the report of a study, not for a page on a patient state.")
    return False


def _of_study(arguments: argparse.Namespace) -> int:
    """Write the report of a study."""
    from dosing.studies.report.page import write_report

    written = write_report(arguments.paths[0], arguments.out, arguments.reference)
    print(", ".join(map(str, written)))
    print(NOT_FOR_PATIENTS)
    return 0


def _of_runs(arguments: argparse.Namespace) -> int:
    """Write the page on a patient state; the answers are in the audit log before it is written."""
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
