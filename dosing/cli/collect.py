"""The command ``collect``: make a data set with a behaviour agent that learns online in a MuJoCo task."""

from __future__ import annotations

import argparse
from typing import Any

from simulator.envs.mujoco import QUALITIES


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "collect", _collect, "train a behaviour agent online in a MuJoCo task and record what it does"
    )
    parser.add_argument("env", metavar="ENV", help="task, such as HalfCheetah-v5")
    parser.add_argument("--quality", choices=QUALITIES, default="medium", help="[%(default)s]")
    parser.add_argument("--transitions", type=int, default=100_000, help="visits to record [%(default)s]")
    parser.add_argument("--out", required=True, help="file ending in .hdf5, .parquet or .csv, or minari:ID")
    parser.add_argument("--seed", type=int, default=0, help="of agent and episodes [%(default)s]")
    parser.add_argument("--start", type=int, default=1000, help="random steps before learning [%(default)s]")
    parser.add_argument(
        "--evaluate-every", type=int, default=5000, help="training steps between evaluations [%(default)s]"
    )
    parser.add_argument(
        "--most-steps", type=int, default=1_000_000, help="training steps to give up after [%(default)s]"
    )


def _collect(arguments: argparse.Namespace, rest: list[str]) -> int:
    from dosing.data.store import write_episodes
    from dosing.studies.mujoco_data import CollectionPlan, check_free, collect, describe

    plan = CollectionPlan(
        arguments.env,
        arguments.quality,
        arguments.transitions,
        seed=arguments.seed,
        start=arguments.start,
        evaluate_every=arguments.evaluate_every,
        most_steps=arguments.most_steps,
    )
    check_free(arguments.out)
    stored = write_episodes(collect(plan), arguments.out)
    print(f"{stored.rows:,} visits in {stored.patients:,} episodes of {plan.env_id} in {arguments.out}")
    for line in describe(stored):
        print(line)
    print(f"content hash {stored.content_hash}")
    return 0
