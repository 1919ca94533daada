"""The command ``simulate``: simulated patients, recorded in a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dosing.cli import options
from dosing.errors import UserError


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "simulate", run, "simulate patients and record their visits in a file"
    )
    parser.add_argument("env", nargs="?", metavar="ID", help="the same as --scenario")
    options.add_scenario(parser, f"whose patients [{options.DEFAULT_ENV}]")
    parser.add_argument("--out", type=Path, required=True, help="file ending in .parquet, .csv or .hdf5")
    options.add_cohort(parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    from dosing.data.store import write_episodes
    from simulator.cohorts.generate import simulate
    from simulator.envs.registered import scenario_id

    if arguments.env and arguments.scenario:
        raise UserError(f"two scenarios are named, {arguments.env} and {arguments.scenario}: name one.")
    episodes = simulate(
        scenario_id(arguments.env or arguments.scenario or options.DEFAULT_ENV),
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
