"""Learning in practice: what every agent makes of 50 recorded patients, at which point of its training.

    OMP_NUM_THREADS=1 python benchmarks/experiments/learning.py [--long] [--seeds 10] [--steps 10000] [--study
    FOLDER]

Recorded visits: environment SimEnv3, 50 patients x 24 visits, doses uniform within the limits. Every agent is
trained with the settings common to all, and with published ones where there are any, all seeds in one stack,
and evaluated on the same 1,000 new patients per seed. ``--long`` takes four agents and fewer seeds further.
Every run stays in the study folder: the same command continues a study that was stopped, and makes
the page again from one that is finished.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd

import agents
from benchmarks.curves import Line, Panel, draw
from benchmarks.machine import describe
from benchmarks.report import table
from benchmarks.speed.processes import ROOT
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.options import add_resources, resources_of
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.runs.files import read_json, read_table, write_atomic, write_json
from dosing.runs.folder import METRICS
from dosing.studies import Cohort, Comparison, DataSource, Grid, compare
from dosing.studies.baseline import Baseline
from dosing.studies.comparison_table import Row
from dosing.studies.naming import CURVES, TABLE
from dosing.studies.presets import PRESETS
from dosing.training.offline import TrainingSettings

ENV_ID, VARIANT, PATIENTS, VISITS = "dosing/Treatment-v0", "simenv3", 50, 24
GROUPS = ("common", "published")
"""Presets, the first for every agent, the others where they have an entry."""
SHORT = (500, 2_000, 5_000, 10_000)
LONG = (500, 2_000, 5_000, 10_000, 20_000, 50_000)
ELSEWHERE = ("study", "out", "workers", "cluster", "cluster_option")
"""Options that change no number: where things are kept and computed."""
LONG_AGENTS = ("fttpo", "iql", "awac", "sql")


def study(
    folder: Path, group: str, names: Sequence[str], seeds: int, arguments: argparse.Namespace
) -> Comparison:
    """Train and evaluate one group of settings, or find it done."""
    training = TrainingSettings(steps=arguments.steps, checkpoint_every=1000, **PRESETS[group].training)
    return compare(
        folder,
        Grid(tuple(names), preset=group),
        DataSource(ENV_ID, Cohort(PATIENTS, options={"variant": VARIANT})),
        seeds=range(seeds),
        training=training,
        milestones=[update for update in arguments.at if update <= arguments.steps],
        evaluation_patients=arguments.evaluation_patients,
        resources=resources_of(arguments),
    )


def points(folder: Path, patients: int) -> list[dict[str, Any]]:
    """Mean over seeds of every run at every update, with its interval."""
    curves: pd.DataFrame = read_table(folder / CURVES).to_pandas()
    result = []
    for (run, agent, name, update), rows in curves.groupby(["run", "agent", "name", "update"], sort=False):
        estimates = {
            rule: replace(mean_over_seeds(rows[[rule]].to_numpy(np.float64)), n=patients * len(rows))
            for rule in ("recommended", "sampled")
        }
        result.append({"run": run, "agent": agent, "name": name, "update": update} | estimates)
    return result


def minutes(folder: Path, runs: Sequence[str]) -> dict[str, float]:
    """Minutes of training by run, on one thread beside the other runs."""
    return {run: read_table(folder / run / METRICS).to_pandas()["seconds"].max() / 60 for run in runs}


def page(result: dict[str, dict[str, Any]], arguments: argparse.Namespace, name: str) -> str:
    """Everything as markdown."""
    updates = sorted({p["update"] for part in result.values() for p in part["points"]})
    seeds = " ".join(map(str, arguments.seeds))
    flags = f"{' --long' if arguments.long else ''} --seeds {seeds} --steps {arguments.steps}"
    if arguments.agents:
        flags += f" --agents {' '.join(arguments.agents)}"
    parts = [
        "# Learning in practice",
        f"`OMP_NUM_THREADS=1 python benchmarks/experiments/learning.py{flags}` on {describe()}; dosing "
        f"{__version__}.",
        f"{PATIENTS} recorded patients x {VISITS} visits of SimEnv3, uniform doses; "
        f"{arguments.evaluation_patients:,} new patients per seed, the same for every line. Mean return over "
        f"{VISITS} visits when the recommended dose is given, with its 95 % interval: Student-t over seeds "
        "for agents, over patients for rules. The intervals do not cover another draw of the recorded "
        "patients.",
        f"![Return along training, one panel per agent]({name}.svg)",
    ]
    for group, part in result.items():
        head = ["agent", "policy", *(f"{u:,} updates" for u in updates), "sampled, at the end"]
        head += ["minus estimated constant", "verdict", "minutes of training"]
        lines = []
        for row, run in zip(part["rows"], part["runs"], strict=False):
            own = {p["update"]: p for p in part["points"] if p["run"] == run}
            lines.append(
                [
                    row.name,
                    row.family,
                    *(str(own[u]["recommended"]) if u in own else "" for u in updates),
                    str(row.sampled),
                    row.difference_words,
                    row.verdict or "",
                    f"{part['minutes'][run]:.1f}",
                ]
            )
        for row in part["rows"][len(part["runs"]) :]:
            blank = [""] * (len(updates) - 1)
            words = [str(row.recommended), "", row.difference_words, row.verdict or "", ""]
            lines.append([row.name, row.family, *blank, *words])
        about = f"{PRESETS[group].about}. {part['seeds']} seeds."
        parts += [f"## Settings: {group}", about, table(head, lines), *part["notes"]]
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


def picture(result: dict[str, dict[str, Any]]) -> str:
    """Everything as SVG."""
    lines: dict[str, list[Line]] = {}
    for group, part in result.items():
        for run in part["runs"]:
            own = [p for p in part["points"] if p["run"] == run]
            line = Line(group, tuple(p["update"] for p in own), tuple(p["recommended"] for p in own))
            lines.setdefault(own[0]["agent"], []).append(line)
    part = next(iter(result.values()))
    rules = [(row.name, row.recommended.value) for row in part["rows"][len(part["runs"]) :]]
    rules.sort(key=lambda rule: rule[1])
    panels = [Panel(agents.AGENTS[a].title, tuple(lines[a])) for a in agents.AGENTS if a in lines]
    return draw(panels, rules, "Return of the recommended dose along training, on 50 recorded patients")


def plain(value: Any) -> Any:
    """Rows and estimates as JSON fields."""
    if isinstance(value, Row | Estimate | Baseline):
        return {k: plain(v) for k, v in vars(value).items()}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Run or continue the studies and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--long", action="store_true", help="fewer agents and seeds, more updates")
    parser.add_argument("--agents", nargs="+", help="agents, or all")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="for all settings, or for each; 10, or 3 with --long"
    )
    parser.add_argument("--steps", type=int, help="updates; 10000, or 50000 with --long")
    parser.add_argument("--at", nargs="+", type=int, help="updates to evaluate at, beside the last")
    parser.add_argument("--evaluation-patients", type=int, default=1000, help="per seed [%(default)s]")
    parser.add_argument("--study", type=Path, help="study folder [runs/learning, or runs/learning_long]")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the page"
    )
    add_resources(parser)
    parser.set_defaults(device="cpu")
    arguments = parser.parse_args(argv)
    name = "learning_long" if arguments.long else "learning"
    arguments.at = arguments.at or list(LONG if arguments.long else SHORT)
    arguments.steps = arguments.steps or arguments.at[-1]
    arguments.seeds = arguments.seeds or [3 if arguments.long else 10]
    folder = arguments.study or ROOT / "runs" / name
    names = arguments.agents or (list(LONG_AGENTS) if arguments.long else ["all"])
    if min(arguments.seeds) < 2:
        raise UserError("an interval over seeds needs at least two: --seeds 2 or more.")
    if len(arguments.seeds) not in (1, len(GROUPS)):
        raise UserError(f"--seeds takes one number, or one for each of {' and '.join(GROUPS)}.")

    results: dict[str, dict[str, Any]] = {}
    per_group = arguments.seeds * len(GROUPS) if len(arguments.seeds) == 1 else arguments.seeds
    for group, seeds in zip(GROUPS, per_group, strict=True):
        chosen = list(agents.AGENTS) if names == ["all"] else names
        own = [agent for agent in chosen if PRESETS[group].knows(agent)]
        if not own:
            continue
        result = study(folder / group, group, own, seeds, arguments)
        runs = read_json(folder / group / TABLE)["runs"]
        results[group] = {
            "rows": list(result.rows),
            "runs": runs,
            "points": points(folder / group, arguments.evaluation_patients),
            "minutes": minutes(folder / group, runs),
            "notes": list(result.notes),
            "seeds": seeds,
        }
        print(f"settings: {group}\n{result}\n", flush=True)
    about = {k: v for k, v in vars(arguments).items() if k not in ELSEWHERE}
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"machine": describe(), "version": __version__, "arguments": about, "groups": plain(results)}
    write_json(arguments.out / f"{name}.json", content)
    write_atomic(arguments.out / f"{name}.svg", picture(results).encode())
    write_atomic(arguments.out / f"{name}.md", page(results, arguments, name).encode())
    print(f"{arguments.out / name}.md, .json, .svg")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"learning: {error}")
