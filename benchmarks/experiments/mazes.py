r"""SPOT, IQL, FAN, BC offline and PEX online in small mazes: success rates, from data that are recorded here.

    python benchmarks/experiments/mazes.py [--updates N] [--visits N] [--seeds S] [--mazes ...] [--agents ...]
        [--full]

A point walks through each maze for ``--transitions`` visits, with noise and whatever the goal is
(``python -m dosing collect``); agents learn from that with the settings of the preset ``d4rl-antmaze``, and
PEX goes on from IQL for ``--visits`` visits. Without ``--full`` widths are ``--hidden`` for every agent and
SPOT's first phase is a fifth of the updates; with it they are the published ones, for 1,000,000 updates,
visits and transitions and 5 seeds.

An ant needs a policy that walks, so its data come from a file of D4RL, Minari or OGBench; as for any maze::

    python -m dosing compare --agents iql spot fan --preset d4rl-antmaze/umaze \
        --data minari:D4RL/antmaze/umaze-v1

Every maze is a study of its own in ``--out`` and resumes where it was killed. The score is the share of
episodes that reach the goal, in episodes that no agent was trained on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.machine import describe
from benchmarks.mujoco import short, shortened
from benchmarks.report import spelled, table
from dosing import __version__
from dosing.data.store import read_metadata, write_episodes
from dosing.finetuning.method import TrialSettings
from dosing.runs.files import read_json, write_atomic, write_json
from dosing.studies import Grid, Resources, compare
from dosing.studies.comparison_table import Row, success_words
from dosing.studies.finetune import finetune
from dosing.studies.maze_data import MazePlan, collect_maze
from dosing.training.offline import TrainingSettings

RESULTS = Path(__file__).resolve().parents[1] / "results"
MAZES: dict[str, dict[str, Any]] = {
    "PointMaze_UMaze-v3": {},
    "pointmaze-medium-singletask-v0": {"shift_reward": 0.0},
}
"""Mazes to what differs from the preset: OGBench's rewards are -1 short of the goal already."""
AGENTS = ("iql", "spot", "fan", "bc")
PEX = "pex,evaluation_epsilon=0.1"


def recorded(maze: str, options: argparse.Namespace) -> Path:
    """The data of a maze, recorded where they are not there."""
    path = Path(options.out) / "data" / f"{maze.rpartition('-')[0]}-{options.transitions}.hdf5"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_episodes(collect_maze(MazePlan(maze, options.transitions)), path)
    return path


def one(maze: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate every agent in one maze, and let PEX go on from IQL."""
    path, study = recorded(maze, options), Path(options.out) / maze
    settings = short(options, options.agents)
    resources = Resources("cpu", options.workers)
    grid = Grid(tuple(options.agents), settings, "d4rl-antmaze/umaze", data_options=MAZES[maze])
    offline = compare(
        study,
        grid,
        path,
        seeds=range(options.seeds),
        training=TrainingSettings(steps=options.updates),
        evaluation_patients=options.episodes,
        resources=resources,
    )
    metadata = read_metadata(path)
    found = {
        "maze": maze,
        "rows": [row.to_json() for row in offline.rows if row.success is not None],
        "recorded": {"episodes": metadata.patients, "reached": metadata.collected["reached"]},
    }
    runs = [study / run for run in read_json(study / "table.json")["runs"]]
    start = next((run for run in runs if read_json(run / "config.json")["agent"] == "iql"), None)
    if start is None:
        return found
    trial = finetune(
        [PEX],
        [start],
        study=study,
        settings=TrialSettings(
            visits=options.visits,
            start=min(5000, options.visits // 10),
            evaluate_every=options.visits,
        ),
        evaluation_patients=options.episodes,
        resources=resources,
    )
    return found | {"pex": success_words(trial.lines[0].success)}


def page(result: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """One table: a row per agent or rule, a column per maze."""
    rows = [[Row.from_json(row) for row in x["rows"]] for x in result]
    names = list(dict.fromkeys(row.name for own in rows for row in own))
    walk = [f"{x['recorded']['reached']:,} of {x['recorded']['episodes']:,} episodes" for x in result]
    lines = [["the recorded walk itself", *walk]]
    for name in names:
        found = [next((row for row in own if row.name == name), None) for own in rows]
        lines.append([name, *(success_words(row.success) if row else "-" for row in found)])
    if "iql" in options.agents:
        at = 1 + next((k for k, name in enumerate(names) if name.startswith("IQL")), -1)
        pex = f"PEX, {options.visits:,} visits after IQL"
        lines.insert(at + 1, [pex, *(x["pex"] for x in result)])
    lengths = ("updates", "visits", "transitions", "seeds", "episodes")
    said = spelled(options, *lengths, "mazes", "agents", "full" if options.full else "hidden", "name")
    how = "t over seeds" if options.seeds > 1 else "Wilson's, over episodes of the one seed"
    widths = "" if options.full else f" {shortened(options, options.agents)}"
    return (
        "\n\n".join(
            [
                "# Mazes",
                f"`python benchmarks/experiments/mazes.py {said}`. Version {__version__}. {describe()}. "
                f"{options.updates:,} updates, {options.seeds} seed(s), {options.transitions:,} recorded "
                f"visits per maze, {options.episodes} evaluation episodes per seed. Share of episodes that "
                f"reach the goal; 95 % intervals, {how}.{widths}",
                "A point that is pushed (PointMaze, Gymnasium-Robotics) or moved (OGBench), from "
                "noisy walks whatever the goal is; settings of `d4rl-antmaze/umaze`. The papers train for "
                "1,000,000 updates on ants, so these numbers say that everything runs to the end and who is "
                "fast; they do not compare with published scores.",
                table(["success rate", *(x["maze"] for x in result)], lines),
            ]
        )
        + "\n"
    )


def main() -> None:
    """Run what is not done, print, keep."""
    parser = argparse.ArgumentParser(description="Success rates in small mazes.")
    parser.add_argument("--out", type=Path, default=Path("runs/mazes"))
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--visits", type=int, default=5_000, help="of PEX in live treatment")
    parser.add_argument("--transitions", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=50, help="evaluation episodes per seed")
    parser.add_argument("--mazes", nargs="*", choices=MAZES, default=list(MAZES))
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), help="PEX is added where iql is")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256], help="widths, short of --full")
    parser.add_argument("--name", default="mazes", help="of the page [%(default)s]")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="published widths and lengths, 5 seeds")
    options = parser.parse_args()
    if options.full:
        options.updates = options.visits = options.transitions = 1_000_000
        options.seeds, options.episodes = 5, 100
    result = []
    for maze in options.mazes:
        result.append(one(maze, options))
        print(page(result, options), flush=True)
    about = {"updates": options.updates, "seeds": options.seeds}
    write_json(RESULTS / f"{options.name}.json", about | {"found": result})
    write_atomic(RESULTS / f"{options.name}.md", page(result, options).encode())


if __name__ == "__main__":
    main()
