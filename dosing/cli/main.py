"""Parser and exit statuses of ``python -m dosing``; every command is registered by its own file.

Heavy imports happen inside the commands, so that help and listings are instant and need no torch; no command
is imported before it is known that ``agents``, ``app`` and ``simulator`` are those of this product.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.packages import check_packages
from dosing.errors import UserError, end_on_sigterm


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Bad input prints one sentence and returns 2."""
    try:
        check_packages()
        parser, commands = _parser()
        arguments, rest = parser.parse_known_args(argv)
        if rest and arguments.command != "train":
            commands[arguments.command].error(f"unrecognized arguments: {' '.join(rest)}")
        arguments.argv = list(sys.argv[1:] if argv is None else argv)
        end_on_sigterm()
        status: int = arguments.run(arguments, rest)
        sys.stdout.flush()
    except UserError as error:
        print(f"dosing: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the end
        return 1
    except OSError as error:  # a full disk, a file without permission
        where = f" ({error.filename})" if error.filename else ""
        print(f"dosing: {error.strerror or error}{where}; nothing half-written is left.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dosing: interrupted; a run folder continues from its last checkpoint.", file=sys.stderr)
        return 130
    return status


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of the commands, in the order of the help text."""
    from dosing.cli import (
        audit,
        collect,
        compare,
        demo,
        evaluate,
        finetune,
        list_agents,
        recommend,
        report,
        select,
        serve,
        simulate,
        train,
    )

    parser = argparse.ArgumentParser(
        prog="python -m dosing",
        description="Simulate patients, learn doses, look at them.",
        epilog=NOT_FOR_PATIENTS,
    )
    parser.add_argument("--version", action="version", version=__version__)
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands: dict[str, argparse.ArgumentParser] = {}

    def command(name: str, run: Any, text: str, **options: Any) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = sub.add_parser(
            name, help=text, description=text, epilog=NOT_FOR_PATIENTS, **options
        )
        made.set_defaults(run=run, parser=made)
        commands[name] = made
        return made

    for module in (
        demo,
        simulate,
        train,
        compare,
        select,
        evaluate,
        recommend,
        report,
        audit,
        collect,
        finetune,
        list_agents,
        serve,
    ):
        module.register(command)
    return parser, commands
