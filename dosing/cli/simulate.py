"""The command ``simulate``: simulated patients, recorded in a file or in parts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dosing.cli import options
from dosing.errors import UserError


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command("simulate", run, "simulate patients and record their visits")
    parser.add_argument("env", nargs="?", metavar="ID", help="the same as --scenario")
    options.add_scenario(parser, f"whose patients [{options.DEFAULT_ENV}]")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file ending in .parquet, .csv or .hdf5; with --parts a folder",
    )
    parser.add_argument(
        "--parts", type=int, metavar="N", help="write N parquet files and a manifest, side by side; resumable"
    )
    options.add_workers(parser)
    options.add_cohort(parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    from simulator.envs.registered import scenario_id

    if arguments.env and arguments.scenario:
        raise UserError(f"two scenarios are named, {arguments.env} and {arguments.scenario}: name one.")
    env_id = scenario_id(arguments.env or arguments.scenario or options.DEFAULT_ENV)
    metadata = _in_file(env_id, arguments) if arguments.parts is None else _in_parts(env_id, arguments)
    print(f"{metadata.rows:,} visits of {arguments.patients:,} patients in {arguments.out}")
    print(f"content hash {metadata.content_hash}")
    return 0


def _in_file(env_id: str, arguments: argparse.Namespace) -> Any:
    """Write one file in constant memory; returns its metadata."""
    from simulator.cohorts.generate import simulate_to

    if arguments.workers is not None or arguments.cluster is not None:
        raise UserError("--workers and --cluster go with --parts: one file has one writer.")
    return simulate_to(
        arguments.out,
        env_id,
        patients=arguments.patients,
        policy=arguments.policy,
        seed=arguments.data_seed,
        progress=True,
        **options.env_options(arguments.env_option),
    )


def _in_parts(env_id: str, arguments: argparse.Namespace) -> Any:
    """Write a data set in parts, or what is missing of it; returns its metadata."""
    from dosing.studies.partition import Request, simulate_parts

    launcher = options.resources_of(arguments).launcher(arguments.out)
    more = options.env_options(arguments.env_option)
    request = Request(env_id, arguments.patients, arguments.policy, arguments.data_seed, more)
    return simulate_parts(arguments.out, request, arguments.parts, launcher).metadata
