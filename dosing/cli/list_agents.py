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
    lines = [(name, e.title, e.family, e.support, e.checked, e.paper) for name, e in agents.AGENTS.items()]
    head = ("agent", "title", "policy", "dose set", "losses checked against", "paper")
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    for line in [head, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0
