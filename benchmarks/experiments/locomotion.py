"""The suite on MuJoCo locomotion data: scores along training, and how FtTPO's policy moves in training.

    python benchmarks/experiments/locomotion.py --data FOLDER [--updates N] [--at N ...] [--seeds S]
        [--sets hopper-medium ...] [--agents ...] [--proposals ...] [--name PAGE]
    python benchmarks/experiments/locomotion.py --data FOLDER --full     # 1,000,000 updates, 5 seeds

``FOLDER`` (or the variable DOSING_MUJOCO_DATA) holds files in the D4RL layout that are named as D4RL's, such
as ``hopper-medium-expert*.hdf5`` or ``hopper_medium_expert-v2.hdf5``; ``python -m dosing collect`` records
some. ``--sets minari:mujoco/hopper/medium-v0`` takes one of Minari's. Settings are those of the preset
``d4rl-mujoco/TASK-QUALITY``. Without ``--full`` widths are ``--hidden`` for every agent and SPOT's first
phase is a fifth of the updates, so that all of it ends on two cores; what that costs is not known here.
``ablations_locomotion.py`` changes FtTPO's parts.

Every data set is a study of its own in ``--out`` and resumes where it was killed. Policies are evaluated by
their recommended action, and by actions drawn from them, as FtTPO's paper and its code do, in 10 episodes per
seed and environments that no agent was trained on. Scores: 0 is a random policy, 100 the expert in the same
version of the task.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from benchmarks import mujoco
from benchmarks.curves import draw
from benchmarks.mujoco import Rule, Trained
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS
from dosing.distributions.double import in_double
from dosing.errors import UserError
from dosing.runs.files import read_json
from dosing.runs.folder import RunFolder
from dosing.studies import Grid
from dosing.studies.data import episodes_of
from dosing.studies.loading import policy_of
from dosing.studies.report.svg import COLOURS, GREY, sheet, stroke, text

AGENTS = ("fttpo", "iql", "sql", "xql", "inac", "awac", "tawac", "td3_bc", "spot", "bc")
"""Those of FtTPO's main table."""
PROPOSALS = ("q_gaussian", "squashed_gaussian")
"""Of FtTPO: what the paper calls FtTPO, and its FtTPO-SG."""
MOVES = (0.02, 0.1, 0.3, 1.0)
"""Shares of the training near which ``--moves`` draws densities; it evaluates there without ``--at``."""
GRID, PANEL, TALL = 201, 230, 150
RULES: tuple[tuple[Rule, str, str], ...] = (
    ("recommended", "The recommended action", ""),
    ("sampled", "An action drawn from the policy", "_drawn"),
)
"""What is given, its heading, and the end of its picture's name."""


def one(name: str, options: argparse.Namespace) -> Trained:
    """Train and evaluate every agent on one data set; the study is found again where it was left."""
    settings, preset = mujoco.short(options, options.agents), mujoco.preset(options, name)
    if "fttpo" in options.agents:
        settings |= {"fttpo.proposal": options.proposals}
    data = {"standardise_obs": True} if options.standardise_obs else {}
    grid = Grid(tuple(options.agents), settings, preset, data_options=data)
    return mujoco.trained(name, [grid], options)


def parts(found: Sequence[Trained], options: argparse.Namespace) -> list[str]:
    """The page: two tables, of recommended and of drawn actions."""
    own = options.proposals != list(PROPOSALS)
    names = ("agents", *(("proposals",) if own else ()), "standardise_obs", "name", "moves")
    opening = mujoco.opening(mujoco.command("locomotion", options, *names), options, found, options.agents)
    said = f" FtTPO's proposal: {' and '.join(options.proposals)}." if own else ""
    moves = [f"![How FtTPO's densities move]({options.name}_evolution.svg)"] if options.moves else []
    return ["# MuJoCo locomotion", opening + said, *tables(found, options), *moves]


def tables(
    found: Sequence[Trained],
    options: argparse.Namespace,
    head: str = "agent",
    names: Sequence[str] | None = None,
) -> list[str]:
    """Scores of recommended and of drawn actions, curves along training, and the mean of the second half.

    Args:
        found: the studies.
        options: of the command.
        head: what a line is.
        names: lines; None is every run that did not diverge everywhere.
    """
    names = names or list(dict.fromkeys(name for x in found for name in x.rows))
    result = []
    for rule, heading, end in RULES:
        result += [f"## {heading}", _scores(found, rule, head, names)]
        if options.at:
            result.append(f"![Scores along training, {heading.lower()}]({options.name}{end}.svg)")
    if any(2 * update >= options.updates for update in options.at):
        half = (
            "One evaluation of one seed can be far from the next; this is the mean of those from half of the "
            "training on, the last among them."
        )
        result += ["## Later evaluations", half, _later(found, options.at, head, names)]
    return result


def _scores(found: Sequence[Trained], rule: Rule, first: str, names: Sequence[str]) -> str:
    """One table: a row per name, a column per data set."""
    several = len(found) > 1
    head = [first, *(x.title for x in found), *(["mean"] if several else []), "hours of training"]
    lines = [["recorded episodes, mean", *(f"{x.behaviour:.1f}" for x in found), *[""] * (1 + several)]]
    for name in names:
        known = [x.scored(name, rule) if name in x.rows else None for x in found]
        values = [e.value for e in known if e is not None]
        mean = f"{np.mean(values):z.1f}" if len(values) == len(found) else "-"
        hours = sum(x.seconds.get(name, 0.0) for x in found) / 3600.0
        scores = (mujoco.shown(e) if e else "diverged" for e in known)
        lines.append([name, *scores, *([mean] if several else []), f"{hours:.2f}"])
    return table(head, lines)


def _later(found: Sequence[Trained], at: Sequence[int], first: str, names: Sequence[str]) -> str:
    """A row per name: mean score of the second half's evaluations, recommended and drawn, by data set."""
    head = [
        first,
        *(f"{x.title}, {words}" for x in found for words in ("recommended", "drawn", "evaluations")),
    ]
    lines = []
    for name in names:
        cells: list[str] = []
        for x in found:
            if name not in x.runs:
                cells += ["diverged", "diverged", "-"]
                continue
            along = [x.points(name, at, rule) for rule, *_ in RULES]
            late = [[e.value for u, e in own if 2 * u >= own[-1][0]] for own in along]
            cells += [*(f"{np.mean(values):z.1f}" for values in late), str(len(late[0]))]
        lines.append([name, *cells])
    return table(head, lines)


def evolution(found: Trained, at: Sequence[int]) -> str:
    """Densities of the first action at one recorded state after several updates, proposal and actor."""
    run = RunFolder(next(p for p in found.runs.values() if read_json(p / "config.json")["agent"] == "fttpo"))
    config = run.config()
    steps = config.updates
    data = episodes_of(run)
    obs = data.obs[len(data) // 2].astype(np.float32)
    unit = np.linspace(-1.0, 1.0, GRID)
    known = [*(u for u in at if u < steps), steps]
    panels = []
    for update in dict.fromkeys(min(known, key=lambda u: abs(u - share * steps)) for share in MOVES):
        policy = policy_of(run, update=None if update == steps else update)
        one_state = np.broadcast_to(obs, (len(policy.seeds), 1, len(obs)))
        distributions = {"actor": policy.distribution(one_state), **policy.densities(one_state)}
        lines = {}
        for name, distribution in distributions.items():
            base = in_double(distribution)
            x = torch.as_tensor(unit)[:, None, None, None].expand(GRID, *base.batch_shape)
            lines[name] = base.log_prob(x).exp()[:, 0, 0, 0].numpy()
        panels.append((update, lines))
    highest = max(float(line.max()) for _, lines in panels for line in lines.values())
    width, height = PANEL * len(panels), TALL + 76
    out = [
        *sheet(width, height),
        text(8, 16, f"FtTPO on {found.title}: first action at one recorded state, first seed", size=13),
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


def lengthened(options: argparse.Namespace) -> argparse.Namespace:
    """The options with the published length and evaluations where ``--full`` asks for them."""
    if options.full:
        options.updates, options.seeds = 1_000_000, 5
        options.at = options.at or list(range(20_000, options.updates, 20_000))
    return options


def keep(
    found: Sequence[Trained],
    parts: Sequence[str],
    options: argparse.Namespace,
    pictures: Mapping[str, str] | None = None,
) -> None:
    """Write the page with its numbers, its curves and further pictures, and print it."""
    drawn = dict(pictures or {})
    for rule, heading, end in RULES if options.at else ():
        title = f"Normalised score along training: {heading.lower()}"
        curves = mujoco.panels(found, options.at, rule)
        drawn[options.name + end] = draw(curves, [], title, of_y=mujoco.OF_Y, of_groups="")
    mujoco.keep(
        options, options.name, parts, {"found": [mujoco.numbers(x, options.at) for x in found]}, drawn
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not done, print, keep."""
    parser = argparse.ArgumentParser(description="The suite on MuJoCo locomotion data.")
    mujoco.add_options(parser, "locomotion", updates=10_000)
    parser.add_argument("--agents", nargs="+", default=list(AGENTS))
    parser.add_argument("--proposals", nargs="+", choices=PROPOSALS, default=list(PROPOSALS), help="of FtTPO")
    parser.add_argument(
        "--standardise-obs", action="store_true", help="states over their deviation for all, published or not"
    )
    parser.add_argument("--name", help="of the page [locomotion, or locomotion_standardised]")
    parser.add_argument("--moves", action="store_true", help="draw FtTPO's densities along training")
    options = lengthened(mujoco.checked(parser.parse_args(argv)))
    options.name = options.name or ("locomotion" + ("_standardised" if options.standardise_obs else ""))
    if "fttpo" not in options.agents and (options.moves or options.proposals != list(PROPOSALS)):
        raise UserError("--moves and --proposals are FtTPO's: name fttpo among --agents.")
    if options.moves and not options.at:
        options.at = [max(1, round(share * options.updates)) for share in MOVES[:-1]]
    found: list[Trained] = []
    for name in options.sets:
        found.append(one(name, options))
        moves = {f"{options.name}_evolution": evolution(found[-1], options.at)} if options.moves else {}
        keep(found, parts(found, options), options, moves)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"locomotion: {error}")
