"""The command ``agents``: the suite as a table."""

from __future__ import annotations

import argparse
from typing import Any

import agents


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    command("agents", run, "list the agents")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del arguments, rest
    lines = [("agent", "title", "policy", "dose set", "losses checked against", "paper")]
    for name, entry in agents.AGENTS.items():
        about = entry.about
        lines.append((name, entry.title, about.family, about.support, about.checked, about.paper))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0
