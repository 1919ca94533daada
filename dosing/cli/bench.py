"""The command ``bench``: agents on one fixed, versioned set, and a row of the leaderboard for each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dosing.cli import options
from dosing.studies import benchmark_set


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "bench", run, "let agents take part in the benchmark, a fixed and versioned set; resumable"
    )
    parser.add_argument(
        "--agents", nargs="+", required=True, metavar="NAME", help="agents, those of packages too, or all"
    )
    sizes = ", ".join(benchmark_set.SIZES)
    parser.add_argument("--size", default="small", help=f"of the set: {sizes} [%(default)s]")
    parser.add_argument(
        "--preset", metavar="NAME", help="settings in place of the set's; none: the agents' own"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="AGENT.NAME=VALUE",
        help="one setting of an entry, stated in its row; repeatable",
    )
    parser.add_argument("--out", type=Path, help="folder of one size [runs/bench-SIZE]")
    options.add_resources(parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    benchmark_set.find(arguments.size)
    from dosing.studies.benchmark import bench
    from dosing.studies.leaderboard import page

    table = bench(
        arguments.out or Path("runs") / f"bench-{arguments.size}",
        arguments.agents,
        arguments.size,
        preset=arguments.preset,
        settings=options.settings_of(arguments.set),
        resources=options.resources_of(arguments),
    )
    print(page(table))
    return 0
