"""The suite on MuJoCo locomotion data: returns, normalised scores, and how FtTPO's policy moves in training.

    python benchmarks/experiments/locomotion.py --data FOLDER [--updates N] [--seeds S] [--tasks ...]
    [--qualities ...] python benchmarks/experiments/locomotion.py --data FOLDER --full        # 1,000,000
    updates, 5 seeds, published widths

``FOLDER`` (or the variable DOSING_MUJOCO_DATA) holds files in the D4RL layout whose names begin with task and
quality, such as ``hopper-medium-expert*.hdf5``; ``python -m dosing collect`` records some. Settings are those
of the preset ``d4rl-mujoco/TASK-QUALITY`` (mixed data take those of medium-replay). Without ``--full`` widths
are 2x256 for every agent and SPOT's first phase is a fifth of the updates, so that all of it ends on two
cores; what that costs is not known here.

Every data set is a study of its own in ``--out`` and resumes where it was killed. Policies are evaluated by
their recommended action in 10 episodes per seed, in environments that no agent was trained on. Scores: 0 is a
random policy, 100 the expert in the same version of the task.
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

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.options import add_resources, resources_of
from dosing.data.store import read_episodes
from dosing.distributions.double import in_double
from dosing.errors import UserError
from dosing.runs.files import read_json, write_atomic, write_json
from dosing.runs.folder import RunFolder
from dosing.studies import DataSource, Grid, compare
from dosing.studies.comparison_table import Row
from dosing.studies.data import external_of
from dosing.studies.loading import policy_of
from dosing.studies.report.svg import COLOURS, GREY, sheet, stroke, text
from dosing.training.offline import TrainingSettings
from simulator.envs.mujoco import REFERENCES

RESULTS = Path(__file__).resolve().parents[1] / "results"
VARIABLE = "DOSING_MUJOCO_DATA"
ENVS = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5"}
QUALITIES = {"medium": "medium", "medium-expert": "medium-expert", "mixed": "medium-replay"}
"""Quality of the data to the quality whose published settings are taken."""
AGENTS = ("fttpo", "iql", "sql", "td3_bc", "awac", "spot", "rebrac", "fan", "fql", "bc")
SHORT = {"hidden": [(256, 256)], "spot.vae_hidden": [(256, 256)]}
MOVES = (0.02, 0.1, 0.3, 1.0)
"""Shares of the training after which FtTPO's densities are drawn."""
GRID, PANEL, TALL = 201, 230, 150


def found_file(folder: Path, task: str, quality: str) -> Path | None:
    """The data set of this task and quality, None where the folder has none."""
    names = [p for p in sorted(folder.glob(f"{task}-{quality}*.hdf5")) if _quality(p, task) == quality]
    return names[0] if names else None


def _quality(path: Path, task: str) -> str:
    """``hopper-medium-expert-100k-s0`` is medium-expert, not medium."""
    rest = path.stem.removeprefix(f"{task}-")
    known = [q for q in (*QUALITIES, "expert", "random") if rest == q or rest.startswith(f"{q}-")]
    return max(known, key=len, default="")


def one(path: Path, task: str, quality: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate every agent on one data set; the study is found again where it was left."""
    study = options.out / f"{task}-{quality}"
    settings: dict[str, list[Any]] = {"fttpo.proposal": ["q_gaussian", "squashed_gaussian"]}
    if not options.full:
        settings |= SHORT | {"spot.vae_steps": [max(1, options.updates // 5)]}
    if options.agents != list(AGENTS):
        settings = {k: v for k, v in settings.items() if "." not in k or k.split(".")[0] in options.agents}
    keep = sorted({max(1, round(share * options.updates)) for share in MOVES[:-1]})
    rows = compare(
        study,
        Grid(tuple(options.agents), settings, f"d4rl-mujoco/{task}-{QUALITIES[quality]}"),
        DataSource(str(path), external=external_of(ENVS[task], {})),
        seeds=range(options.seeds),
        training=TrainingSettings(steps=options.updates),
        milestones=keep if options.moves else (),
        resources=resources_of(options),
    ).rows
    data = read_episodes(next((study / "data").glob("*.hdf5")))
    returns = np.array([data.reward[data.episode == k].sum() for k in np.unique(data.episode)])
    kept = [row.to_json() for row in rows if row.sampled]
    return {
        "task": task,
        "quality": quality,
        "rows": kept,
        "visits": len(data),
        "behaviour": float(returns.mean()),
    }


def score(task: str, value: float) -> float:
    """Normalised score of a return in v5."""
    return REFERENCES[ENVS[task]].score(value)


def page(result: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """One table: a row per agent, a column per data set."""
    agents = list(dict.fromkeys(row["name"] for one_ in result for row in one_["rows"]))
    head = ["agent", *(f"{x['task']} {x['quality']}" for x in result), "mean"]
    behaviour = [f"{score(x['task'], x['behaviour']):.1f}" for x in result]
    lines = [["recorded episodes, mean", *behaviour, ""]]
    for name in agents:
        cells, values = [], []
        for x in result:
            row = next((Row.from_json(r) for r in x["rows"] if r["name"] == name), None)
            if row is None:
                cells.append("diverged")
                continue
            low, value, high = (
                score(x["task"], v)
                for v in (row.recommended.low, row.recommended.value, row.recommended.high)
            )
            values.append(value)
            cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        mean = f"{np.mean(values):.1f}" if len(values) == len(result) else "-"
        lines.append([name, *cells, mean])
    visits = ", ".join(f"{x['visits']:,}" for x in result[:1])
    chosen = "".join(
        f" --{name} {' '.join(getattr(options, name))}"
        for name, everything in (("tasks", ENVS), ("qualities", QUALITIES), ("agents", AGENTS))
        if getattr(options, name) != list(everything)
    ) + (" --moves" if options.moves else "")
    how = "over seeds" if options.seeds > 1 else "over episodes of the one seed"
    return (
        "\n\n".join(
            [
                "# MuJoCo locomotion",
                "`python benchmarks/experiments/locomotion.py --data FOLDER "
                f"--updates {options.updates} --seeds {options.seeds}{chosen}`. Version {__version__}. "
                f"{describe()}. "
                f"{options.updates:,} updates, {options.seeds} seed(s), {visits} transitions per data set, "
                f"10 evaluation episodes per seed; 95 % intervals {how}.",
                "Normalised scores in v5 (0: random policy, 100: expert; measured, not D4RL's). They do not "
                "compare with D4RL's published scores, whose rewards, data and lengths of training differ.",
                table(head, lines),
                "![How FtTPO's densities move](locomotion_evolution.svg)" if options.moves else "",
            ]
        ).strip()
        + "\n"
    )


def evolution(study: Path, task: str, quality: str) -> str:
    """Densities of the first action at one recorded state after several updates, proposal and actor."""
    runs = [study / p for p in read_json(study / "table.json")["runs"]]
    run = RunFolder(next(p for p in runs if read_json(p / "config.json")["agent"] == "fttpo"))
    config = run.config()
    steps = config.updates
    data = read_episodes(next((study / "data").glob("*.hdf5")))
    obs = data.obs[len(data) // 2].astype(np.float32)
    unit = np.linspace(-1.0, 1.0, GRID)
    panels = []
    for share in MOVES:
        update = max(1, round(share * steps))
        policy = policy_of(run, update=None if update == steps else update)
        one_state = np.broadcast_to(obs, (len(policy.seeds), 1, len(obs)))
        distributions = {"actor": policy.distribution(one_state), **policy.densities(one_state)}
        lines = {}
        for name, distribution in distributions.items():
            base = in_double(distribution)
            at = torch.as_tensor(unit)[:, None, None, None].expand(GRID, *base.batch_shape)
            lines[name] = base.log_prob(at).exp()[:, 0, 0, 0].numpy()
        panels.append((update, lines))
    highest = max(float(line.max()) for _, lines in panels for line in lines.values())
    width, height = PANEL * len(panels), TALL + 76
    out = [
        *sheet(width, height),
        text(8, 16, f"FtTPO on {task} {quality}: first action at one recorded state, first seed", size=13),
    ]
    for number, (update, lines) in enumerate(panels):
        left = number * PANEL + 12
        out.append(text(left, 38, f"after {update:,} updates", fill=GREY))
        out.append(stroke(left, 44 + TALL, left + PANEL - 24, 44 + TALL, "#999"))
        for k, (name, line) in enumerate(lines.items()):
            points = " ".join(
                f"{left + (PANEL - 24) * (u + 1) / 2:.1f},{44 + TALL * (1 - v / highest):.1f}"
                for u, v in zip(unit, line, strict=True)
            )
            dash = "" if k == 0 else ' stroke-dasharray="5 3"'
            out.append(
                f'<polyline points="{points}" fill="none" stroke="{COLOURS[k % 3]}" stroke-width="2"{dash}/>'
            )
            if number == 0:
                out.append(text(left + 4, 58 + 14 * k, name, fill=COLOURS[k % 3]))
    out.append(
        text(8, height - 18, "x: first action, -1 to 1 (no unit); y: density, one scale for all", fill=GREY)
    )
    out.append(text(8, height - 5, NOT_FOR_PATIENTS, fill=GREY))
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> None:
    """Run what is not done, print, keep."""
    parser = argparse.ArgumentParser(description="The suite on MuJoCo locomotion data.")
    parser.add_argument("--data", type=Path, default=os.environ.get(VARIABLE), help=f"folder [{VARIABLE}]")
    parser.add_argument("--out", type=Path, default=Path("runs/locomotion"))
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tasks", nargs="*", default=list(ENVS))
    parser.add_argument("--qualities", nargs="*", default=list(QUALITIES))
    parser.add_argument("--agents", nargs="*", default=list(AGENTS))
    parser.add_argument("--moves", action="store_true", help="keep milestones and draw FtTPO's densities")
    parser.add_argument("--full", action="store_true", help="1,000,000 updates, 5 seeds, published widths")
    add_resources(parser)
    options = parser.parse_args()
    if options.data is None:
        parser.error(f"name the folder of the data with --data or {VARIABLE}")
    if options.full:
        options.updates, options.seeds = 1_000_000, 5
    result = []
    for task in options.tasks:
        for quality in options.qualities:
            path = found_file(Path(options.data), task, quality)
            if path is None:
                print(f"no {task}-{quality}*.hdf5 in {options.data}: left out", flush=True)
                continue
            result.append(one(path, task, quality, options))
            print(page(result, options), flush=True)
    if not result:
        parser.error(f"{options.data} holds none of these data sets")
    write_json(
        RESULTS / "locomotion.json", {"updates": options.updates, "seeds": options.seeds, "found": result}
    )
    write_atomic(RESULTS / "locomotion.md", page(result, options).encode())
    if options.moves:
        last = result[-1]
        study = options.out / f"{last['task']}-{last['quality']}"
        picture = evolution(study, last["task"], last["quality"])
        write_atomic(RESULTS / "locomotion_evolution.svg", picture.encode())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"locomotion: {error}")
