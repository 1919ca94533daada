"""The command ``compare``: agents, policy families and settings on the same recorded visits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dosing import NOT_FOR_PATIENTS
from dosing.cli import options
from dosing.errors import UserError

if TYPE_CHECKING:
    from dosing.studies.plan import Spread


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "compare", run, "train and evaluate several agents on the same visits; resumable"
    )
    parser.add_argument("--agents", nargs="+", default=["all"], help="agents [all]")
    parser.add_argument("--policy-families", nargs="+", default=[], help="cross agents with these families")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="SOURCE",
        default=[],
        help=f"ids or files [patients of --scenario, else of {options.DEFAULT_ENV}]",
    )
    options.add_grid(parser, out="runs/compare")
    parser.add_argument(
        "--evaluate-at",
        nargs="+",
        type=int,
        default=[],
        metavar="UPDATE",
        help="evaluate after these updates too; written to curves.parquet",
    )
    parser.add_argument(
        "--evaluation-patients", type=int, default=None, help="per seed [1000; MuJoCo: 10 episodes]"
    )
    planned = parser.add_argument_group("before the run")
    planned.add_argument(
        "--plan",
        action="store_true",
        help="say what would be run and the least difference it would find, and run nothing",
    )
    assumed = planned.add_mutually_exclusive_group()
    assumed.add_argument(
        "--plan-sd",
        nargs="+",
        type=float,
        metavar="SD",
        help="assumed standard deviation of the paired difference between patients, and between seeds [that "
        "of the constant dose's returns, and 0]",
    )
    assumed.add_argument(
        "--plan-from", type=Path, metavar="STUDY", help="take both from the runs of a finished comparison"
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    from dosing.studies.commands import note_command
    from dosing.studies.comparison import asked_of, compare
    from dosing.studies.naming import TABLE

    sources = arguments.data or [None if arguments.scenario else options.DEFAULT_ENV]
    grid = options.grid_options(arguments)
    resources = grid.pop("resources")
    asked = {
        "agents": options.grid_of(arguments, arguments.policy_families),
        "data": [options.source_of(source, arguments) for source in sources],
        "milestones": arguments.evaluate_at,
        "evaluation_patients": arguments.evaluation_patients,
        **grid,
    }
    spread = _spread(arguments)
    if arguments.plan:
        from dosing.studies.plan import plan

        print(plan(arguments.out, asked_of(**asked), resources, spread))
    else:
        comparison = compare(arguments.out, **asked, resources=resources)
        note_command(arguments.out / TABLE, arguments.argv)
        print(comparison)
    print(NOT_FOR_PATIENTS)
    return 0


def _spread(arguments: argparse.Namespace) -> Spread | None:
    """The spread that a plan assumes; None where none is stated.

    Raises:
        UserError: one is stated without --plan, by more than two numbers, or the study tells none.
    """
    from dosing.studies.plan import Spread, spread_of

    if arguments.plan_sd is None and arguments.plan_from is None:
        return None
    if not arguments.plan:
        raise UserError("--plan-sd and --plan-from state what --plan assumes; add --plan.")
    if arguments.plan_from is not None:
        return spread_of(arguments.plan_from)
    if len(arguments.plan_sd) > 2:
        raise UserError("--plan-sd takes a number for patients and one for seeds.")
    patients, seeds = [*arguments.plan_sd, 0.0][:2]
    return Spread(patients, seeds, "stated by --plan-sd")
