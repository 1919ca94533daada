"""PEX beside other ways from recorded visits to live treatment, on MuJoCo tasks, from one offline IQL.

    python benchmarks/experiments/pex.py --data FOLDER [--updates N] [--visits N] [--methods ...]
        [--name PAGE] [--full]

On every set (data as for ``locomotion.py``) IQL is trained offline once; every method goes on from that run,
or from one of the agent that it needs, in new episodes of the task, ``--patients`` side by side with one
update per visit. Names of methods may carry settings, as those of ``python -m dosing finetune`` do: set sizes
and temperatures of PEX are further lines on the first set. The weak start is an IQL of ``--weak`` updates,
which has learned almost nothing.

Without ``--full`` all widths are ``--hidden``. Everything of a set is in ``--out`` and resumes where it was
killed.
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

from benchmarks import mujoco
from benchmarks.curves import Line, Panel, draw
from benchmarks.experiments.live_treatment import seeds_for, start_for
from benchmarks.mujoco import Trained, TrialResult
from benchmarks.report import table
from dosing.errors import UserError
from dosing.studies import Grid

METHODS = ("scratch", "buffer", "direct", "pex", "bt", "jsrl", "awac", "off2on", "cal_ql")
SETTINGS = (
    "pex,members=4",
    "pex,inverse_temperature=1",
    "pex,inverse_temperature=100",
    "pex,adaptive=true",
)
"""Of PEX, on the first set: set size and temperature."""
WEAK = ("scratch", "direct", "pex")
"""Methods of the weak start, on the first set."""


@dataclass(frozen=True)
class Part:
    """Trials on one set from one length of offline training."""

    title: str
    updates: int
    starts: dict[str, Trained]
    trials: list[TrialResult]


def conducted(
    name: str, methods: Sequence[str], updates: int, options: argparse.Namespace, title: str
) -> Part:
    """Train what the methods start from, and let each go on."""
    starts: dict[str, Trained] = {}
    trials: list[TrialResult] = []
    for agent in dict.fromkeys(start_for(m) for m in methods):
        own = [m for m in methods if start_for(m) == agent]
        settings = mujoco.short(options, [agent])
        starts[agent] = mujoco.trained(
            name,
            [Grid((agent,), settings, mujoco.preset(options, name))],
            options,
            folder=options.out / f"{mujoco.folder_of(name)}-{updates}" / agent,
            updates=updates,
            seeds=seeds_for(agent, own, options.seeds),
        )
        trials += mujoco.trials(starts[agent], own, list(starts[agent].runs.values()), options)
    return Part(title, updates, starts, trials)


def lines_of(part: Part) -> list[list[str]]:
    """A line per trial."""
    return [
        [
            trial.title,
            *(mujoco.shown(e) for _, e in trial.points),
            f"{trial.along:.1f}",
            "-" if trial.treated is None else f"{trial.treated:.1f}",
        ]
        for trial in part.trials
    ]


def parts(found: Sequence[Part], options: argparse.Namespace) -> list[str]:
    """The page."""
    starts = [x for part in found for x in part.starts.values()]
    command = mujoco.command(
        "pex", options, "methods", "settings", "weak", "visits", "patients", "evaluations", "name"
    )
    command += "" if options.settings else " --settings"
    result = [
        "# PEX and other ways to live treatment, on MuJoCo",
        mujoco.opening(command, options, starts, [agent for part in found for agent in part.starts]),
        f"Then {options.visits:,} visits of {options.patients} episodes side by side, one update of 256 rows "
        "per visit; papers have 1,000,000 visits of one episode. Scores are of the recommended action; "
        "*along*: mean over the evaluations; *treated*: of the episodes that ended, from which it learned. "
        "BT, JSRL and PEX are evaluated as they treat, the offline policy among them: JSRL with its guide "
        "until the curriculum lets go. With one seed a trial has no interval, and its order is one draw.",
        f"![Scores along live treatment]({options.name}.svg)",
    ]
    for part in found:
        head = ["method", *(f"{v:,} visits" for v, _ in part.trials[0].points), "along", "treated"]
        offline = ", ".join(
            f"{next(iter(x.rows.values())).name} {mujoco.shown(x.scored(next(iter(x.rows))))}"
            for x in part.starts.values()
        )
        told = (
            f"Offline, {part.updates:,} updates: {offline}; recorded episodes {_first(part).behaviour:.1f}."
        )
        result += [f"## {part.title}", told, table(head, lines_of(part))]
    return result


def _first(part: Part) -> Trained:
    return next(iter(part.starts.values()))


def picture(found: Sequence[Part]) -> str:
    """A panel per method, a line per part."""
    by_method: dict[str, list[Line]] = {}
    for part in found:
        for trial in part.trials:
            visits, estimates = zip(*trial.points, strict=True)
            by_method.setdefault(trial.title, []).append(Line(part.title, visits, estimates))
    panels = [Panel(title, tuple(lines)) for title, lines in by_method.items()]
    title = "Normalised score of the recommended action along live treatment"
    return draw(panels, [], title, of_x="visits", of_y=mujoco.OF_Y, of_groups="")


def numbers(part: Part) -> dict[str, Any]:
    """A part as JSON fields."""
    return {
        "title": part.title,
        "offline_updates": part.updates,
        "starts": {agent: mujoco.numbers(x, []) for agent, x in part.starts.items()},
        "trials": [
            {
                "method": trial.title,
                "treated": trial.treated,
                "curve": [{"visits": v, **vars(e)} for v, e in trial.points],
            }
            for trial in part.trials
        ],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not done, print, keep."""
    parser = argparse.ArgumentParser(description="PEX and other ways to live treatment, on MuJoCo tasks.")
    mujoco.add_options(parser, "pex", updates=10_000, sets=("hopper-medium", "walker2d-medium"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="on every set")
    parser.add_argument(
        "--settings", nargs="*", default=list(SETTINGS), help="further methods, on the first set"
    )
    parser.add_argument("--weak", type=int, default=200, help="offline updates of the weak start; 0: none")
    parser.add_argument("--name", default="pex", help="of the page [%(default)s]")
    mujoco.add_trial_options(parser, visits=5_000)
    options = mujoco.checked(parser.parse_args(argv))
    if options.full:
        options.updates, options.visits, options.seeds, options.patients = 1_000_000, 1_000_000, 5, 1
    plans = [
        (
            name,
            [*options.methods, *(options.settings if k == 0 else [])],
            options.updates,
            " ".join(mujoco.named_file(options.data, name)[:2]),
        )
        for k, name in enumerate(options.sets)
    ]
    if options.weak:
        first = options.sets[0]
        plans.append((first, list(WEAK), options.weak, f"{plans[0][3]}, weak start"))
    found: list[Part] = []
    for name, methods, updates, title in plans:
        found.append(conducted(name, methods, updates, options, title))
        content = {"visits": options.visits, "found": [numbers(part) for part in found]}
        mujoco.keep(options, options.name, parts(found, options), content, {options.name: picture(found)})


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"pex: {error}")
