"""The command ``select``: settings chosen from recorded visits alone."""

from __future__ import annotations

import argparse
from typing import Any

from dosing import NOT_FOR_PATIENTS
from dosing.cli import options


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "select",
        run,
        "choose settings from recorded visits alone: cross-validated against the constant dose; resumable",
    )
    parser.add_argument("--agents", nargs="+", required=True, help="agents; all for the suite")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="environment id (simulated on the spot), a file, or a folder of parts",
    )
    options.add_grid(parser, out="runs/select")
    parser.add_argument("--folds", type=int, help="parts of the patients [5, or 2 where model_based decides]")
    parser.add_argument("--fold-seed", type=int, default=0, help="seed of the cut into parts [%(default)s]")
    parser.add_argument(
        "--estimators",
        nargs="+",
        default=(),
        help="of fqe, wis, wis_window, wdr, model_based: the first decides, the others are shown [fqe; "
        "model_based and fqe where an agent looks back on a patient's episode]",
    )
    parser.add_argument(
        "--ridge", type=float, default=1.0, help="penalty of fqe on differences between states [%(default)s]"
    )
    parser.add_argument(
        "--behaviour",
        choices=("recorded", "estimated"),
        default="recorded",
        help="density of the recorded doses, for importance weights [%(default)s]",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    from dosing.ope.selection import Settings
    from dosing.studies import Folds, select
    from dosing.studies.commands import note_command
    from dosing.studies.selected import SELECTION

    selected = select(
        arguments.out,
        options.grid_of(arguments),
        options.source_of(arguments.data, arguments),
        folds=Folds(arguments.folds, arguments.fold_seed),
        criterion=Settings(
            estimators=tuple(arguments.estimators), ridge=arguments.ridge, behaviour=arguments.behaviour
        ),
        **options.grid_options(arguments),
    )
    note_command(arguments.out / SELECTION, arguments.argv)
    print(selected)
    print(NOT_FOR_PATIENTS)
    return 0
