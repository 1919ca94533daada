"""The command ``evaluate``: a finished run on new simulated patients."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dosing import NOT_FOR_PATIENTS
from dosing.cli import options


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "evaluate", run, "evaluate a finished run on new simulated patients"
    )
    parser.add_argument("path", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--patients", type=int, default=None, help="new patients per seed [1000; MuJoCo: 10 episodes]"
    )
    options.add_scenario(parser, "where the run's scenario is one of a file or module")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    from dosing.studies import evaluate

    options.load_scenario(arguments.scenario)
    print(evaluate(arguments.path, arguments.patients))
    print(NOT_FOR_PATIENTS)
    return 0
