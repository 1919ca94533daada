"""The command ``simulate``: simulated patients, recorded in a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dosing.cli import options


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "simulate", run, "simulate patients and record their visits in a file"
    )
    parser.add_argument("env", nargs="?", default=options.DEFAULT_ENV, help="environment id [%(default)s]")
    parser.add_argument("--out", type=Path, required=True, help="file ending in .parquet, .csv or .hdf5")
    options.add_cohort(parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    from dosing.data.store import write_episodes
    from simulator.cohorts.generate import simulate

    episodes = simulate(
        arguments.env,
        patients=arguments.patients,
        policy=arguments.policy,
        seed=arguments.data_seed,
        progress=True,
        **options.env_options(arguments.env_option),
    )
    metadata = write_episodes(episodes, arguments.out)
    print(f"{len(episodes):,} visits of {arguments.patients:,} patients in {arguments.out}")
    print(f"content hash {metadata.content_hash}")
    return 0
