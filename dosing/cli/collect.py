"""The command ``collect``: make a data set in a MuJoCo task, or in a maze, without any download."""

from __future__ import annotations

import argparse
from typing import Any

from dosing.errors import UserError
from simulator.envs.mujoco import QUALITIES


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "collect", _collect, "record a behaviour agent that learns in a MuJoCo task, or a walk in a maze"
    )
    parser.add_argument("env", metavar="ENV", help="task, such as HalfCheetah-v5 or PointMaze_UMaze-v3")
    parser.add_argument(
        "--quality", choices=(*QUALITIES, "waypoints"), help="[medium; waypoints in mazes: a noisy walk]"
    )
    parser.add_argument("--noise", type=float, help="standard deviation of a walk's noise in a maze [0.5]")
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
    from simulator.envs.mazes import package_of

    quality = arguments.quality or ("waypoints" if package_of(arguments.env) else "medium")
    if quality == "waypoints":
        return _walk(arguments)
    if arguments.noise is not None:
        raise UserError("--noise is of a walk in a maze (--quality waypoints).")
    plan = CollectionPlan(
        arguments.env,
        quality,
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


def _walk(arguments: argparse.Namespace) -> int:
    from dosing.data.store import write_episodes
    from dosing.studies.maze_data import MazePlan, collect_maze, describe_maze
    from dosing.studies.mujoco_data import check_free

    noise = MazePlan.noise if arguments.noise is None else arguments.noise
    plan = MazePlan(arguments.env, arguments.transitions, arguments.seed, noise)
    check_free(arguments.out)
    stored = write_episodes(collect_maze(plan), arguments.out)
    print(f"{stored.rows:,} visits in {stored.patients:,} episodes of {plan.env_id} in {arguments.out}")
    print(describe_maze(stored))
    print(f"content hash {stored.content_hash}")
    return 0
