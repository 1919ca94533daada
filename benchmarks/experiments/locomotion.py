"""The suite on MuJoCo locomotion data: scores along training, and how FtTPO's policy moves in training.

    python benchmarks/experiments/locomotion.py --data FOLDER [--updates N] [--at N ...] [--seeds S]
        [--sets hopper-medium ...] [--agents ...] [--proposals ...] [--name PAGE]
    python benchmarks/experiments/locomotion.py --data FOLDER --ablations --name ablations_locomotion
    python benchmarks/experiments/locomotion.py --data FOLDER --full     # 1,000,000 updates, 5 seeds

``FOLDER`` (or the variable DOSING_MUJOCO_DATA) holds files in the D4RL layout whose names begin with task and
quality, such as ``hopper-medium-expert*.hdf5``; ``python -m dosing collect`` records some. Settings are those
of the preset ``d4rl-mujoco/TASK-QUALITY`` (mixed data take those of medium-replay). Without ``--full`` widths
are ``--hidden`` for every agent and SPOT's first phase is a fifth of the updates, so that all of it ends on
two cores; what that costs is not known here. ``--ablations``: FtTPO with one part changed at a time, those of
``ablations.py``, in place of the agents.

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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks import mujoco
from benchmarks.curves import draw
from benchmarks.experiments.ablations import CHANGES
from benchmarks.mujoco import Rule, Trained
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS
from dosing.distributions.double import in_double
from dosing.errors import UserError
from dosing.runs.files import read_json
from dosing.runs.folder import RunFolder
from dosing.studies import Grid, presets
from dosing.studies.data import episodes_of
from dosing.studies.loading import policy_of
from dosing.studies.report.svg import COLOURS, GREY, sheet, stroke, text

AGENTS = ("fttpo", "iql", "sql", "xql", "inac", "awac", "tawac", "td3_bc", "spot", "bc")
"""Those of FtTPO's main table."""
PROPOSALS = ("q_gaussian", "squashed_gaussian")
"""Of FtTPO: what the paper calls FtTPO, and its FtTPO-SG."""
MOVES = (0.02, 0.1, 0.3, 1.0)
"""Shares of the training near which FtTPO's densities are drawn, and where it is evaluated without --at."""


@dataclass(frozen=True)
class Change:
    """One line of ``--ablations``: an agent, and what differs from its preset in settings and data."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, bool] = field(default_factory=dict)
    agent: str = "fttpo"

    def grid(self, short: Mapping[str, list[Any]], preset: str) -> Grid:
        """What is trained."""
        settings = {key: [value] for key, value in self.settings.items()}
        return Grid((self.agent,), settings | dict(short), preset, data_options=self.data)

    def key(self, preset: str) -> tuple[Any, ...]:
        """What tells its run from those of the other changes."""
        config = agents.find(self.agent).config_class()
        own = asdict(config()) | presets.find(preset).settings(self.agent, config) | dict(self.settings)
        data = (self.data.get(option, False) for option in ("standardise_obs", "scale_reward"))
        return (self.agent, *(own.get(key) for key in CHANGED), *data)

    @staticmethod
    def key_of(config: Mapping[str, Any]) -> tuple[Any, ...]:
        """The same of a run."""
        own, transform = config["agent_config"], config["transform"]
        data = (any(scale != 1.0 for scale in transform["obs_scale"]), transform["reward_scale"] != 1.0)
        return (config["agent"], *(own.get(key) for key in CHANGED), *data)


ABLATIONS = (
    *(Change(name, settings) for name, settings in CHANGES.items()),
    Change("temperature 0.1", {"temperature": 0.1}),
    Change("temperature 10", {"temperature": 10.0}),
    Change("states standardised", data={"standardise_obs": True}),
    Change("rewards over their standard deviation", data={"scale_reward": True}),
    Change("the released code", agent="fttpo_released"),
)
CHANGED = sorted({key for change in ABLATIONS for key in change.settings})
"""Settings that differ between runs of ``--ablations``."""
GRID, PANEL, TALL = 201, 230, 150
RULES: tuple[tuple[Rule, str, str], ...] = (
    ("recommended", "The recommended action", ""),
    ("sampled", "An action drawn from the policy", "_drawn"),
)
"""What is given, its heading, and the end of its picture's name."""


def one(name: str, options: argparse.Namespace) -> Trained:
    """Train and evaluate every agent on one data set; the study is found again where it was left."""
    short, preset = mujoco.short(options, options.agents), mujoco.preset(options, name)
    if options.ablations:
        grids = [change.grid(short, preset) for change in ABLATIONS]
        return by_change(mujoco.trained(name, grids, options), preset)
    if "fttpo" in options.agents:
        short |= {"fttpo.proposal": options.proposals}
    data = {"standardise_obs": True} if options.standardise_obs else {}
    grid = Grid(tuple(options.agents), short, preset, data_options=data)
    return mujoco.trained(name, [grid], options)


def by_change(found: Trained, preset: str) -> Trained:
    """Runs of ``--ablations`` go by what was changed, which they say themselves; those that diverged lack."""
    known = {Change.key_of(read_json(path / "config.json")): name for name, path in found.runs.items()}
    names = {c.name: known[key] for c in ABLATIONS if (key := c.key(preset)) in known}
    return replace(
        found,
        runs={change: found.runs[name] for change, name in names.items()},
        rows={change: found.rows[name] for change, name in names.items()},
    )


def parts(found: Sequence[Trained], options: argparse.Namespace) -> list[str]:
    """The page: two tables, of recommended and of drawn actions."""
    more = () if options.proposals == list(PROPOSALS) else ("proposals",)
    chosen = "ablations" if options.ablations else "agents"
    command = mujoco.command("locomotion", options, chosen, "standardise_obs", "name", "moves", *more)
    title = "What FtTPO's parts are worth on MuJoCo data" if options.ablations else "MuJoCo locomotion"
    result = [f"# {title}", mujoco.opening(command, options, found)]
    for rule, title, end in RULES:
        result += [f"## {title}", _scores(found, rule, options.ablations)]
        result += (
            [f"![Scores along training, {title.lower()}]({options.name}{end}.svg)"] if options.at else []
        )
    if any(2 * update >= options.updates for update in options.at):
        half = (
            "One evaluation of one seed can be far from the next; this is the mean of those from half of the "
            "training on, the last among them."
        )
        result += ["## Later evaluations", half, _later(found, options.at, options.ablations)]
    return [
        *result,
        *([f"![How FtTPO's densities move]({options.name}_evolution.svg)"] if options.moves else []),
    ]


def _scores(found: Sequence[Trained], rule: Rule, changed: bool = False) -> str:
    """One table: a row per agent, a column per data set."""
    head = ["changed" if changed else "agent", *(x.title for x in found), "mean", "hours of training"]
    lines = [["recorded episodes, mean", *(f"{x.behaviour:.1f}" for x in found), "", ""]]
    for name in dict.fromkeys(name for x in found for name in x.rows):
        known = [x.scored(name, rule) if name in x.rows else None for x in found]
        values = [e.value for e in known if e is not None]
        mean = f"{np.mean(values):z.1f}" if len(values) == len(found) else "-"
        hours = sum(x.seconds.get(name, 0.0) for x in found) / 3600.0
        scores = (mujoco.shown(e) if e else "diverged" for e in known)
        lines.append([name, *scores, mean, f"{hours:.2f}"])
    return table(head, lines)


def _later(found: Sequence[Trained], at: Sequence[int], changed: bool = False) -> str:
    """A row per agent: mean score of the second half's evaluations, recommended and drawn, by data set."""
    head = [
        "changed" if changed else "agent",
        *(f"{x.title}, {words}" for x in found for words in ("recommended", "drawn", "evaluations")),
    ]
    lines = []
    for name in dict.fromkeys(name for x in found for name in x.runs):
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not done, print, keep."""
    parser = argparse.ArgumentParser(description="The suite on MuJoCo locomotion data.")
    mujoco.add_options(parser, "locomotion", updates=10_000)
    parser.add_argument("--agents", nargs="*", default=list(AGENTS))
    parser.add_argument("--proposals", nargs="+", choices=PROPOSALS, default=list(PROPOSALS), help="of FtTPO")
    parser.add_argument("--name", default="locomotion", help="of the page [%(default)s]")
    parser.add_argument("--moves", action="store_true", help="draw FtTPO's densities along training")
    parser.add_argument(
        "--standardise-obs", action="store_true", help="states over their deviation for all, published or not"
    )
    parser.add_argument("--ablations", action="store_true", help="FtTPO with one part changed at a time")
    options = mujoco.checked(parser.parse_args(argv))
    if options.ablations:
        options.agents = ["fttpo"]
    if options.full:
        options.updates, options.seeds = 1_000_000, 5
        options.at = options.at or list(range(20_000, options.updates, 20_000))
    if options.moves and not options.at:
        options.at = [max(1, round(share * options.updates)) for share in MOVES[:-1]]
    found: list[Trained] = []
    for name in options.sets:
        found.append(one(name, options))
        pictures = {}
        if options.at:
            for rule, title, end in RULES:
                curves = mujoco.panels(found, options.at, rule)
                along = f"Normalised score along training: {title.lower()}"
                pictures[options.name + end] = draw(curves, [], along, of_y=mujoco.OF_Y, of_groups="")
        if options.moves:
            pictures[f"{options.name}_evolution"] = evolution(found[-1], options.at)
        content = {"found": [mujoco.numbers(x, options.at) for x in found]}
        mujoco.keep(options, options.name, parts(found, options), content, pictures)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"locomotion: {error}")
