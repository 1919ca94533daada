"""What a policy's width is worth in live treatment: every agent goes on with each of its policies acting.

    OMP_NUM_THREADS=1 python benchmarks/experiments/sparse_online.py --study FOLDER [--agents ...] [--seeds 5]

1. ``compare --preset sparse-vs-gaussian`` trains every agent's policies offline, on the same data and seeds.
2. ``finetune direct`` goes on from each of them: it treats by draws of that policy and learns from what comes
   of them. The patients treated, their order and those it is evaluated on are the same for all.

How much of the dose range was covered, what that cost the patients treated, and what was learned from it.
What is finished stays in the study folder: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks.experiments.live_treatment_page import over
from benchmarks.experiments.sparse_vs_gaussian import PRESET, RESULTS, WIDTHS, taken
from benchmarks.experiments.sparse_vs_gaussian_figure import spread
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.options import add_resources, resources_of
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, verdict
from dosing.finetuning.method import TrialSettings
from dosing.runs.config import RunConfig
from dosing.runs.files import read_json, write_atomic, write_json
from dosing.runs.folder import RunFolder
from dosing.studies import Cohort, DataSource, Grid, compare, presets
from dosing.studies.dose_sets import doses_of
from dosing.studies.finetune import finetune
from dosing.studies.finetune_table import Progress, Standing
from dosing.studies.naming import TABLE, family_of
from dosing.studies.report.svg import COLOURS, GREY, minus, sheet, stroke, text, ticks
from dosing.training.offline import TrainingSettings
from dosing.typed_json import typed

NAME, METHOD = "sparse_online", "direct"
DEFAULTS: dict[str, int] = {
    **{"updates": 500, "seeds": 5, "recorded": 50, "visits": 2000, "patients": 32, "start": 250},
    **{"evaluate_every": 500, "evaluation_patients": 500},
}
UPDATES_PER_VISIT, BATCH = 0.25, 256
MEASURES = ("coverage", "cost", "treated", "worst", "limited", "end", "along")
PANELS = (("cost", "cost per patient treated"), ("along", "gain in return along the trial (no unit)"))
"""Panels of the figure, over coverage."""
COLUMN, HEIGHT, LEFT, TOP, PLOT, FOOT = 460, 330, 56, 66, 290, 80


@dataclass(frozen=True)
class Acting:
    """One policy that acted; measures are one number per seed.

    Attributes:
        agent: registry key.
        title: of the agent.
        role: ``own``, ``other`` or ``thin``, see ``dosing.studies.policy_table``.
        family: distribution, in words.
        bounded: whether its doses lie in an interval with exact edges.
        before: return of the evaluation patients by the recommended dose, before the trial.
        coverage: effective share of the dose range that the doses given cover.
        cost: mean cost of the patients treated.
        treated: their mean return.
        worst: the lowest return of one of them.
        limited: share of their doses that a limit held.
        end: return of the evaluation patients by the recommended dose at the end, less that before.
        along: the same as a mean along the trial (trapezoids over visits).
        treated_patients: per seed.
    """

    agent: str
    title: str
    role: str
    family: str
    bounded: bool
    before: tuple[float, ...]
    coverage: tuple[float, ...]
    cost: tuple[float, ...]
    treated: tuple[float, ...]
    worst: tuple[float, ...]
    limited: tuple[float, ...]
    end: tuple[float, ...]
    along: tuple[float, ...]
    treated_patients: int

    def over(self, measure: str) -> Estimate:
        """A measure over seeds."""
        return over(np.array(getattr(self, measure)))

    def less(self, other: Acting, measure: str) -> Estimate:
        """A measure less that of another policy, seed by seed."""
        return over(np.subtract(getattr(self, measure), getattr(other, measure)))


def role_of(config: RunConfig) -> str:
    """What a run's policy is to its agent."""
    if config.regularisation.thin is not None:
        return "thin"
    kind = agents.find(config.agent).config_class()
    contrast = presets.find(PRESET).contrast
    choice = contrast.of(kind) if contrast else None
    return (
        "own" if choice is None or config.agent_config[choice.setting] == choice.values(kind)[0] else "other"
    )


def acted(trial: RunFolder) -> Acting:
    """What a finished trial came to.

    Raises:
        UserError: too short to end an episode, or its tables are missing.
    """
    progress, standing = Progress.of(trial), Standing.of(trial)
    if progress is None or progress.coverage is None or np.isnan(progress.treated_mean).any():
        raise UserError(f"{trial.path} ended no episode, or lacks its tables.")
    offline = RunFolder(standing.offline)
    config = offline.config()
    gain = progress.returns - progress.returns[:, :1]
    measured = {
        "before": progress.returns[:, 0],
        "coverage": progress.coverage[:, -1],
        "cost": progress.cost[:, -1] / progress.patients,
        "treated": progress.treated_mean,
        "worst": progress.worst,
        "limited": progress.limited,
        "end": gain[:, -1],
        "along": np.trapezoid(gain, progress.visits, axis=1) / (progress.visits[-1] - progress.visits[0]),
    }
    return Acting(
        agent=config.agent,
        title=agents.find(config.agent).title,
        role=role_of(config),
        family=family_of(config),
        bounded=doses_of(offline).interval,
        treated_patients=int(progress.patients[0]),
        **{name: tuple(map(float, values)) for name, values in measured.items()},
    )


def measure(options: argparse.Namespace) -> tuple[list[Acting], tuple[str, ...]]:
    """Train, go on, and read what came of it; with what could not go on."""
    resources = resources_of(options)
    compare(
        options.study,
        Grid(tuple(options.agents), taken(WIDTHS, options.agents), PRESET),
        DataSource(options.env, Cohort(options.recorded)),
        seeds=range(options.seeds),
        training=TrainingSettings(steps=options.updates, batch_size=BATCH),
        evaluation_patients=options.evaluation_patients,
        resources=resources,
    )
    settings = TrialSettings(
        visits=options.visits,
        patients=options.patients,
        updates_per_visit=UPDATES_PER_VISIT,
        start=options.start,
        batch_size=BATCH,
        evaluate_every=options.evaluate_every,
    )
    runs = [(options.study / run).resolve() for run in read_json(options.study / TABLE)["runs"]]
    result = finetune(
        [METHOD],
        runs,
        study=options.study,
        settings=settings,
        evaluation_patients=options.evaluation_patients,
        resources=resources,
    )
    return [acted(RunFolder(options.study / line.run)) for line in result.lines], result.notes


def pairs(result: Sequence[Acting]) -> list[tuple[Acting, Acting]]:
    """Every bounded policy with each other policy of its agent."""
    return [
        (narrow, wide)
        for narrow in result
        for wide in result
        if narrow.bounded and not wide.bounded and narrow.agent == wide.agent
    ]


def numbers(estimates: Mapping[str, Estimate]) -> list[str]:
    """Cells of the measures."""
    spec = {"coverage": ".1%", "limited": ".1%"}
    return [minus(format(estimates[name], spec.get(name, ".2f"))) for name in MEASURES]


HEAD = (
    "dose range covered", "cost per patient treated", "return of the patients treated", "the worst of them",
    "doses that a limit held", "gain at the end", "gain along the trial",
)  # fmt: skip


def policies_table(result: Sequence[Acting]) -> str:
    """One line per policy."""
    head = ("agent", "acting policy", "return before", *HEAD)
    lines = [
        [x.title, x.family, minus(f"{x.over('before'):.2f}"), *numbers({m: x.over(m) for m in MEASURES})]
        for x in result
    ]
    return table(head, lines)


def differences_table(result: Sequence[Acting]) -> str:
    """The bounded policy less each other one of its agent."""
    lines = []
    for narrow, wide in pairs(result):
        gap = {m: narrow.less(wide, m) for m in MEASURES}
        lines.append([narrow.title, f"less {wide.family}", *numbers(gap), verdict(gap["along"])])
    return table(("agent", "bounded policy", *HEAD, "verdict of the gain along"), lines)


def findings(result: Sequence[Acting]) -> str:
    """How often the bounded policy is told apart from the fat one of its agent, measure by measure."""
    own = [(narrow, wide) for narrow, wide in pairs(result) if "own" in (narrow.role, wide.role)]
    parts = []
    for measure, words in zip(MEASURES, HEAD, strict=True):
        told = [verdict(narrow.less(wide, measure)) for narrow, wide in own]
        counts = (("more", "better"), ("less", "worse"), ("not distinguishable", "not distinguishable"))
        said = [f"{told.count(kind)} {word}" for word, kind in counts if kind in told]
        parts.append(f"{words}: {', '.join(said)}")
    return f"The bounded policy beside the fat one of its agent, {len(own)} agents. {'; '.join(parts)}."


def page(result: Sequence[Acting], about: Mapping[str, Any]) -> str:
    """Everything as markdown."""
    o = about["options"]
    counts = sorted({x.treated_patients for x in result})
    many = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    parts = [
        "# Live treatment by a fat or a thin policy",
        f"`{about['command']}`. dosing {about['version']}; {about['machine']}.",
        f"{o['recorded']} recorded patients of {o['env']}; the policies of `{PRESET}` after "
        f"{o['updates']:,} offline updates at 2 x 64 units, {o['seeds']} seeds. Each then treats by "
        "draws of its own, or near its one dose with normal noise of 0.1 on the [-1, 1] axis, and goes on "
        f"learning as it did offline, half of every batch recorded visits (`finetune {METHOD}`): "
        f"{o['visits']:,} visits of every seed's patients, {o['patients']} side by side ({many} patients to "
        f"their end), {UPDATES_PER_VISIT:g} updates per visit after the first {o['start']:,}. Patients "
        f"treated are the same for all, in the same order; so are the {o['evaluation_patients']:,} new ones "
        f"per seed on whom the recommended dose is evaluated every {o['evaluate_every']:,} visits.",
        "Intervals are 95 %, t over seeds, which share their recorded patients; differences are paired by "
        "seed. None is corrected for the number of comparisons. *Dose range covered*: exponential of the "
        "entropy of the doses given, over a hundred equal parts of the range. *Gain*: return of the "
        "evaluation patients by the recommended dose less that before the trial, at its end and as a mean "
        "along it, which is what was learned for the visits it took. *The worst of them*: mean over seeds of "
        "the lowest return of a treated patient. Returns have no unit, costs are the scenario's own. Short "
        "trainings on few seeds: they say what the policies do at this point, not how good the agents are.",
        f"![Cost and gain against coverage]({NAME}.svg)",
        "## Every acting policy",
        policies_table(result),
        "## What the bounded policy changes",
        findings(result),
        differences_table(result),
        *(f"Note: {note}" for note in about["notes"]),
    ]
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


@dataclass(frozen=True)
class Frame:
    """One panel of the figure: a measure of all policies over their coverage."""

    result: Sequence[Acting]
    measure: str

    def ends(self, measure: str) -> tuple[float, float]:
        """Ends of an axis that hold all values, and 0."""
        values = [0.0, *(x.over(measure).value for x in self.result)]
        room = 0.08 * (max(values) - min(values) or 1.0)
        return min(values) - (room if min(values) < 0.0 else 0.0), max(values) + room

    def x(self, share: float) -> float:
        """Place of a coverage."""
        low, high = self.ends("coverage")
        return LEFT + PLOT * (share - low) / (high - low)

    def y(self, value: float) -> float:
        """Place of a value."""
        low, high = self.ends(self.measure)
        return TOP + (HEIGHT - TOP - FOOT) * (high - value) / (high - low)

    def drawn(self, words: str) -> list[str]:
        """Grid, a line from the fat to the bounded policy of every agent, and its name."""
        low, high = self.ends(self.measure)
        out = [text(LEFT, TOP - 8, words, size=12)]
        for value in ticks(low, high):
            out.append(stroke(LEFT, self.y(value), LEFT + PLOT, self.y(value), "#e4e4e4"))
            out.append(text(LEFT - 5, self.y(value) + 4, minus(f"{value:g}"), anchor="end", fill=GREY))
        for share in ticks(*self.ends("coverage")):
            out.append(text(self.x(share), HEIGHT - FOOT + 15, f"{share:.0%}", anchor="middle", fill=GREY))
        for narrow, wide in pairs(self.result):
            if "own" in (narrow.role, wide.role):
                out.append(stroke(*self.at(wide), *self.at(narrow), COLOURS[0], 1.6))
        for one in self.result:
            (x, y), fill = self.at(one), COLOURS[0] if one.bounded else "white"
            colour = GREY if one.role == "other" and not self.stands_for_fat(one) else COLOURS[0]
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}"/>')
        return out + self.names()

    def stands_for_fat(self, one: Acting) -> bool:
        """Whether an agent is bounded by itself, so that its other policy is the fat one."""
        return any(x.agent == one.agent and x.bounded and x.role == "own" for x in self.result)

    def at(self, one: Acting) -> tuple[float, float]:
        """Place of a policy."""
        return self.x(one.over("coverage").value), self.y(one.over(self.measure).value)

    def names(self) -> list[str]:
        """Names beside the panel, a thread to each bounded policy."""
        own = sorted((x for x in self.result if x.bounded), key=lambda x: self.at(x)[1])
        places = spread([self.at(x)[1] for x in own], TOP, HEIGHT - FOOT)
        out = []
        for one, y in zip(own, places, strict=True):
            out.append(stroke(self.at(one)[0] + 5, self.at(one)[1], LEFT + PLOT + 6, y, "#b5b5b5", 0.6))
            out.append(text(LEFT + PLOT + 9, y + 4, one.title))
        return out


def picture(result: Sequence[Acting]) -> str:
    """Cost and gain over coverage, a line from fat to bounded for every agent."""
    width = COLUMN * len(PANELS)
    out = [
        *sheet(width, HEIGHT),
        text(8, 20, "Live treatment: what each acting policy covers, costs and teaches", size=15),
        text(8, 38, "A line an agent, from its fat policy (open circle) to its bounded one (disc); grey "
             "ring: truncated Gaussian. Means over seeds."),
    ]  # fmt: skip
    for column, (measure_, words) in enumerate(PANELS):
        out += [
            f'<g transform="translate({COLUMN * column},0)">',
            *Frame(result, measure_).drawn(words),
            "</g>",
        ]
    axis = "x: share of the dose range that the doses given cover; intervals stand in the table"
    out += [text(8, HEIGHT - 34, axis, fill=GREY), text(8, HEIGHT - 12, NOT_FOR_PATIENTS, fill=GREY)]
    return "\n".join([*out, "</svg>"]) + "\n"


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--agents", nargs="+", default=["fttpo", "iql", "awac", "bc", "td3_bc"], help="[%(default)s]"
    )
    parser.add_argument("--env", default="dosing/Treatment-v0", help="[%(default)s]")
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="[%(default)s]")
    parser.add_argument("--study", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    add_resources(parser)
    parser.set_defaults(device="cpu")
    options = parser.parse_args(argv)
    if options.seeds < 2:
        raise UserError("an interval over seeds needs at least two: --seeds 2 or more.")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run or continue, then write the page, its numbers and its figure."""
    options = parsed(argv)
    torch.set_num_threads(1)
    result, notes = measure(options)
    asked = {name: getattr(options, name) for name in ("agents", "env", *DEFAULTS)}
    told = f"--agents {' '.join(options.agents)} --env {options.env} "
    told += " ".join(f"--{name.replace('_', '-')} {asked[name]}" for name in DEFAULTS)
    about = {
        "machine": describe(),
        "version": __version__,
        "command": f"OMP_NUM_THREADS=1 python benchmarks/experiments/{NAME}.py --study FOLDER {told}",
        "options": asked,
        "notes": list(notes),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / f"{NAME}.json", about | {"policies": [asdict(x) for x in result]})
    write(options.out)
    print(policies_table(result))


def write(folder: Path) -> None:
    """Page and figure of the numbers that are kept in a folder."""
    kept = json.loads((folder / f"{NAME}.json").read_text())
    result = [typed(Acting, one, NAME) for one in kept["policies"]]
    write_atomic(folder / f"{NAME}.md", page(result, kept).encode())
    write_atomic(folder / f"{NAME}.svg", picture(result).encode())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{NAME}: {error}")
