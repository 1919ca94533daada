"""FAN's experiments: what a critic that is told the policy's noise makes of a tree, and five flow agents.

    python benchmarks/experiments/fan.py --data FOLDER [--updates N] [--agents ...] [--alphas ...] [--full]
    python benchmarks/experiments/fan.py --sets                                         # the tree alone

1. A tree of two visits. At the first, a dose above 0 leads to a visit where a dose above 0 pays +30 and one
   below 0 pays -30; a dose below 0 leads to one where every dose pays +10. Recorded doses are uniform, and a
   large alpha_1 keeps the policy at them: half of its draws take the +30 branch. An ordinary critic (FAQL)
   values the upper dose at the mean of its draws, 0, below 10. FAN's critic is told the draw, and Z is the
   upper expectile kappa of it: 30 (2 kappa - 1), which is 24 at the paper's 0.9, above 10; below one half it
   is averse instead. Trained values stand beside the exact ones.
2. FAN, FQL, IFQL, ReBRAC and Value Flows on two sets (data as for ``locomotion.py``). No paper gives alpha of
   FAN and FQL on locomotion: every one of ``--alphas`` is tried, with values divided by their mean size.

Without ``--full`` all widths are ``--hidden`` (papers: four layers of 512). Every set is a study of its own
in ``--out`` and resumes where it was killed; the tree's values after ``--tree`` updates are kept beside.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks import mujoco
from benchmarks.curves import draw
from benchmarks.machine import describe
from benchmarks.mujoco import Trained
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.runs.files import read_json, write_json
from dosing.studies import Grid
from dosing.studies.report.svg import COLOURS, GREY, minus, sheet, stroke, text
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Problem

AGENTS = ("fan", "fql", "ifql", "rebrac", "value_flows")
RISE, SURE = 30.0, 10.0
UNIT = 10.0
"""Rewards are learned in tens."""
TREE_SEEDS, EPISODES, ANCHOR = (0, 1, 2), 4096, 300.0
"""Seeds and recorded episodes of the tree, and alpha_1, which keeps the policy at the recorded doses."""
CRITICS = (
    ("fan", 0.9, "FAN, kappa 0.9"),
    ("fan", 0.5, "FAN, kappa 0.5"),
    ("fan", 0.2, "FAN, kappa 0.2"),
    ("faql", None, "FAQL, ordinary critic"),
)


@dataclass(frozen=True)
class Valued:
    """What one critic says of the first visit's doses, over seeds ``[S]``, beside the exact values."""

    name: str
    upper: list[float]
    lower: list[float]
    exact: float
    share: list[float]
    """Of the policy's draws at the second visit that take the +30 branch."""


def expectile(kappa: float) -> float:
    """The expectile of +RISE and -RISE, each with probability one half: the root z of its balance.

    kappa (RISE - z) = (1 - kappa) (z + RISE).
    """
    return RISE * (2.0 * kappa - 1.0)


def tree() -> Dataset:
    """Recorded episodes of two visits; observation 0, then 1 after a dose above 0 and -1 after another."""
    rng = np.random.default_rng(0)
    dose = rng.uniform(-1.0, 1.0, (EPISODES, 2))
    upper = dose[:, 0] > 0.0
    second = np.where(upper, 1.0, -1.0)
    paid = np.where(upper, np.where(dose[:, 1] > 0.0, RISE, -RISE), SURE)
    zero = np.zeros(EPISODES)

    def column(first: np.ndarray, then: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack((first, then), 1).reshape(-1)).float()

    return Dataset(
        obs=column(zero, second)[:, None],
        act=column(dose[:, 0], dose[:, 1])[:, None],
        reward=column(zero, paid) / UNIT,
        next_obs=column(second, second)[:, None],
        terminated=column(zero, zero + 1.0),
        starts=torch.arange(0, 2 * EPISODES + 1, 2),
        transform=Transform((0.0,), (1.0,), (-1.0,), (1.0,)),
    )


def valued(agent: str, kappa: float | None, name: str, updates: int) -> Valued:
    """Train on the tree and look at the first visit's critic in the middle of each branch."""
    settings: dict[str, Any] = {
        "hidden": (32, 32),
        "learning_rate": 3e-3,
        "target_rate": 0.02,
        "discount": 0.999,
        "actor_penalty": ANCHOR,
    }
    if kappa is not None:
        settings["expectile"] = kappa
    stack: Any = agents.build(agent, settings, Problem(1, 1), TREE_SEEDS)
    sampler, take = Sampler(tree(), stack, 256), updater(stack)
    for step in range(updates):
        take(sampler(step))
    critic = stack.critic if kappa is None else stack.upper
    at = torch.zeros(len(TREE_SEEDS), 1, 1)
    with torch.no_grad():
        sides = [UNIT * critic(at, torch.full_like(at, side)).mean((1, 2)) for side in (0.5, -0.5)]
        draws = stack.policy(at + 1.0).base_dist.values[:, 0, 0]
    share = (draws > 0.0).float().mean(-1)
    exact = 0.0 if kappa is None else expectile(kappa)
    return Valued(name, sides[0].tolist(), sides[1].tolist(), exact, share.tolist())


def branches(options: argparse.Namespace) -> list[Valued]:
    """Every critic on the tree, or what ``tree.json`` keeps of it after as many updates."""
    kept = options.out / "tree.json"
    asked = {"updates": options.tree, "version": __version__}
    if kept.is_file() and (known := read_json(kept)).items() >= asked.items():
        return [Valued(**x) for x in known["values"]]
    result = [valued(agent, kappa, name, options.tree) for agent, kappa, name in CRITICS]
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(kept, asked | {"values": [vars(x) for x in result]})
    return result


def suite(name: str, options: argparse.Namespace) -> Trained:
    """Train and evaluate the agents on one set."""
    settings = mujoco.short(options, options.agents)
    for agent, key in (("fan", "actor_penalty"), ("fql", "alpha")):
        if agent in options.agents:
            settings |= {f"{agent}.{key}": list(options.alphas), f"{agent}.normalise_q": [True]}
    grid = Grid(tuple(options.agents), settings, mujoco.preset(options, name))
    return mujoco.trained(name, [grid], options)


def parts(branch: Sequence[Valued], found: Sequence[Trained], options: argparse.Namespace) -> list[str]:
    """The page: the tree and, where sets were named, the agents."""
    rows = [
        [
            x.name,
            minus(f"{x.exact:.0f}"),
            _spread(x.upper),
            f"{SURE:.0f}",
            _spread(x.lower),
            "above 0" if np.mean(x.upper) > np.mean(x.lower) else "below 0",
            _spread([100.0 * share for share in x.share]),
        ]
        for x in branch
    ]
    head = [
        "critic", "above 0, exact", "learned", "below 0, exact", "learned", "higher",
        "draws on the +30 branch, %",
    ]  # fmt: skip
    command = f"python benchmarks/experiments/fan.py --sets --tree {options.tree}"
    result = [
        "# FAN: the +30 branch" + (", and five agents" if found else ""),
        "## The +30 branch",
        f"`{command}`. Version {__version__}. {describe()}. {options.tree:,} updates, "
        f"{EPISODES:,} recorded episodes, {len(TREE_SEEDS)} seeds (mean, smallest to largest in brackets), "
        f"two hidden layers of 32, alpha_1 {ANCHOR:g}, discount 0.999. Values of the first visit's doses 0.5 "
        "and -0.5.",
        "![Values of the two branches](fan.svg)",
        table(head, rows),
        "An ordinary critic averages over the policy's own draws; one that is told the draw prices it by "
        "kappa. What FAN gains is optimism about what the policy can still choose, not about chance: both "
        "average over a reward that is itself random.",
    ]
    return [*result, *agents_parts(found, options)] if found else result


def agents_parts(found: Sequence[Trained], options: argparse.Namespace) -> list[str]:
    """The part of the page on the agents."""
    command = mujoco.command("fan", options, "tree", "agents", "alphas")
    lines = [["recorded episodes, mean", *(f"{x.behaviour:.1f}" for x in found)]]
    for name in dict.fromkeys(name for x in found for name in x.rows):
        lines.append([name, *(mujoco.shown(x.scored(name)) if name in x.rows else "-" for x in found)])
    return [
        "## Five agents",
        mujoco.opening(command, options, found, options.agents),
        "alpha of FAN and FQL: no values for locomotion are published; those tried are in the table, with "
        "values divided by their mean size.",
        table(["agent", *(x.title for x in found)], lines),
        *(["![Scores along training](fan_curves.svg)"] if options.at else []),
        "OGBench's tasks: `benchmarks/experiments/mazes.py`.",
    ]


def _spread(values: Sequence[float]) -> str:
    return minus(f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")


def picture(branch: Sequence[Valued]) -> str:
    """The tree, and a bar of each critic's value for either dose; the exact value is a line across."""
    width, height, left, base, scale = 900, 400, 440, 215, 4.2
    out = [
        *sheet(width, height),
        text(
            8,
            18,
            minus("What critics make of a branch that pays +30 or -30 by the policy's own draw"),
            size=13,
        ),
        *_branches(),
    ]
    for value in (-30, -20, -10, 0, 10, 20, 30):
        y = base - scale * value
        out.append(stroke(left, y, width - 12, y, "#222" if value == 0 else "#e4e4e4"))
        out.append(text(left - 6, y + 4, minus(f"{value}"), anchor="end", fill=GREY))
    step = (width - left - 12) / len(branch)
    for k, x in enumerate(branch):
        middle = left + step * (k + 0.5)
        for shift, values, exact, colour in (
            (-26, x.upper, x.exact, COLOURS[0]),
            (4, x.lower, SURE, COLOURS[1]),
        ):
            mean, at = float(np.mean(values)), middle + shift
            top, tall = base - scale * max(mean, 0.0), scale * abs(mean)
            out.append(f'<rect x="{at:.1f}" y="{top:.1f}" width="22" height="{tall:.1f}" fill="{colour}"/>')
            out.append(stroke(at - 3, base - scale * exact, at + 25, base - scale * exact, "#222", 2))
        first, _, second = x.name.partition(", ")
        out.append(text(middle, height - 52, first, anchor="middle"))
        out.append(text(middle, height - 38, second, anchor="middle", fill=GREY))
    note = (
        "bars: value learned for the first dose (blue: above 0, orange: below 0), mean of seeds; black: exact"
    )
    return (
        "\n".join(
            [
                *out,
                text(8, height - 18, note, fill=GREY),
                text(8, height - 5, NOT_FOR_PATIENTS, fill=GREY),
                "</svg>",
            ]
        )
        + "\n"
    )


def _branches() -> list[str]:
    """The tree itself."""
    edges = (
        ((40, 200), (170, 120), "dose above 0", COLOURS[0]),
        ((40, 200), (170, 290), "dose below 0", COLOURS[1]),
        ((170, 120), (300, 80), "above 0", GREY),
        ((170, 120), (300, 160), "below 0", GREY),
        ((170, 290), (300, 290), "any", GREY),
    )
    out = []
    for (x1, y1), (x2, y2), words, colour in edges:
        out.append(stroke(x1, y1, x2, y2, colour, 2))
        clear = 3.2 * len(words) * abs(y2 - y1) / (x2 - x1)  # where the edge is at the words' end
        beside = -8 - clear if y2 <= y1 else 18 + clear
        out.append(text((x1 + x2) / 2, (y1 + y2) / 2 + beside, words, anchor="middle", fill=colour))
    for x, y in ((40, 200), (170, 120), (170, 290)):
        out.append(f'<circle cx="{x}" cy="{y}" r="6" fill="#222"/>')
    for y, paid in ((80, f"+{RISE:.0f}"), (160, minus(f"-{RISE:.0f}")), (290, f"+{SURE:.0f}")):
        out.append(text(306, y + 5, paid, size=15))
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not done, print, keep."""
    parser = argparse.ArgumentParser(description="FAN: the +30 branch, and five agents on MuJoCo data.")
    mujoco.add_options(parser, "fan", updates=10_000, sets=("hopper-medium", "hopper-medium-expert"))
    parser.add_argument("--tree", type=int, default=3_000, help="updates on the tree [%(default)s]")
    parser.add_argument("--agents", nargs="+", default=list(AGENTS))
    parser.add_argument("--alphas", type=float, nargs="+", default=[3.0, 30.0], help="of FAN and FQL")
    options = parser.parse_args(argv)
    if options.sets:
        options = mujoco.checked(options)
    if options.full:
        options.updates, options.seeds = 500_000, 5
    branch = branches(options)
    found: list[Trained] = []
    written(branch, found, options)
    for name in options.sets:
        found.append(suite(name, options))
        written(branch, found, options)


def written(branch: Sequence[Valued], found: Sequence[Trained], options: argparse.Namespace) -> None:
    """Keep the page as far as it is."""
    pictures = {"fan": picture(branch)}
    if options.at and found:
        curves = mujoco.panels(found, options.at)
        title = "Normalised score along training"
        pictures["fan_curves"] = draw(curves, [], title, of_y=mujoco.OF_Y, of_groups="")
    content = {
        "branch": [vars(x) for x in branch],
        "found": [mujoco.numbers(x, options.at) for x in found],
    }
    mujoco.keep(options, "fan", parts(branch, found, options), content, pictures)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"fan: {error}")
