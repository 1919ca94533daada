"""The command ``compare``: agents, policy families and settings on the same recorded visits."""

from __future__ import annotations

import argparse
from typing import Any

from dosing import NOT_FOR_PATIENTS
from dosing.cli import options


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


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    from dosing.studies import compare

    sources = arguments.data or [None if arguments.scenario else options.DEFAULT_ENV]
    comparison = compare(
        arguments.out,
        options.grid_of(arguments, arguments.policy_families),
        [options.source_of(source, arguments) for source in sources],
        milestones=arguments.evaluate_at,
        evaluation_patients=arguments.evaluation_patients,
        **options.grid_options(arguments),
    )
    print(comparison)
    print(NOT_FOR_PATIENTS)
    return 0
