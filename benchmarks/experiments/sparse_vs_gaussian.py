"""Every agent from fat to thin: what drawing doses loses, against the probability that a sparse law removes.

    OMP_NUM_THREADS=1 python benchmarks/experiments/sparse_vs_gaussian.py --study FOLDER [--sets ID:SIZE ...]

For every data set one ``compare --preset sparse-vs-gaussian --agents all`` with small networks: the agent's
own policy, its clipped and truncated Gaussians, and the sparse law distilled from its own. Data, critics,
seeds, patients and noise are shared. A data set is measured once, and what is trained of one stays in its
folder: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.options import add_resources, resources_of
from dosing.errors import UserError
from dosing.evaluation.statistics import verdict
from dosing.runs.files import write_atomic, write_json
from dosing.studies import Comparison, Grid, compare
from dosing.studies.compared import Difference
from dosing.studies.policy_table import HEAD, PolicyRow, cells, mass_cell
from dosing.studies.report.svg import COLOURS, GREY, minus, sheet, stroke, text, ticks
from dosing.studies.settings import Cohort, DataSource
from dosing.training.offline import TrainingSettings
from dosing.typed_json import typed

RESULTS = Path(__file__).resolve().parents[1] / "results"
NAME, PRESET = "sparse_vs_gaussian", "sparse-vs-gaussian"
SETS = ("dosing/Treatment-v0:50", "dosing/Treatment-v0:400", "dosing/Warfarin-v0:50", "dosing/Insulin-v0:50")
WIDTHS: dict[str, list[Any]] = {"hidden": [(64, 64)], "vae_hidden": [(64, 64)]}
FIRST_PHASES = ("vae_steps", "mmd_only", "behaviour_steps", "critic_steps")
"""Settings that count the updates of a first phase: a fifth of all, so that every policy learns."""
KINDS = (
    ("unbounded density", ("infinite_clipped",)),
    ("density within the limits", ("full_box",)),
    ("draws, no density", ("samples", "point_set")),
    ("one dose", ("point",)),
)
"""Panels of the figure, by what the fat policy's doses are."""
BLUE = COLOURS[0]
COLUMN, ROW, PLOT, TOP, LEFT = 330, 280, 186, 34, 46
"""Size of a panel in pixels, the width and the margins of what is drawn in it."""


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that a data set's comparison says, as plain numbers."""
    env_id, _, size = name.rpartition(":")
    first = {key: [max(1, arguments.updates // 5)] for key in FIRST_PHASES}
    result = compare(
        arguments.study / f"{env_id.split('/')[-1]}-{size}",
        Grid(tuple(arguments.agents), taken(WIDTHS | first, arguments.agents), PRESET),
        DataSource(env_id, Cohort(int(size))),
        seeds=range(arguments.seeds),
        training=TrainingSettings(steps=arguments.updates, batch_size=256),
        evaluation_patients=arguments.patients,
        resources=resources_of(arguments),
    )
    return asked(name, arguments) | plain(result)


def taken(settings: Mapping[str, list[Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """The settings that one of the agents has."""
    chosen = list(agents.AGENTS) if list(names) == ["all"] else names
    known = {field for name in chosen for field in agents.find(name).config_class().__dataclass_fields__}
    return {name: values for name, values in settings.items() if name in known}


def asked(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What makes the numbers of a data set what they are."""
    told = {key: getattr(arguments, key) for key in ("agents", "updates", "seeds", "patients")}
    return {"set": name} | told


def plain(result: Comparison) -> dict[str, Any]:
    """The parts of a comparison that the page needs."""
    rules = [row for row in result.rows if row.sampled is None and row.cost is not None]
    return {
        "policies": [asdict(row) for row in result.policies],
        "differences": [asdict(pair) for pair in result.differences],
        "rules": [
            {"name": row.name, "returns": str(row.recommended), "cost": str(row.cost)} for row in rules
        ],
        "notes": list(result.notes),
    }


class Measured:
    """One data set's numbers, read back."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.policies = [typed(PolicyRow, row, NAME) for row in content["policies"]]
        self.differences = [typed(Difference, pair, NAME) for pair in content["differences"]]

    def of(self, agent: str, role: str) -> PolicyRow | None:
        """A policy of an agent."""
        return next((row for row in self.policies if (row.agent, row.role) == (agent, role)), None)

    def pair(self, title: str, first: str, second: str) -> Difference | None:
        """An agent's first distribution minus its second."""
        words = (first, second)
        return next((d for d in self.differences if (d.name, d.distributions) == (title, words)), None)

    @property
    def lines(self) -> list[Line]:
        """From fat to thin: of a policy that is sparse itself, from its Gaussian counterpart."""
        result = []
        for own in (row for row in self.policies if row.role == "own"):
            thin, other = self.of(own.agent, "thin"), self.of(own.agent, "other")
            if thin is not None and (pair := self.pair(own.title, "thin", "fat")) is not None:
                beside = self.pair(own.title, "thin", "truncated Gaussian")
                result.append(Line(own, thin, pair, other, beside))
            elif other is not None and (pair := self.pair(own.title, "sparse", "Gaussian")) is not None:
                result.append(Line(other, own, pair))
        return result


@dataclass(frozen=True)
class Line:
    """An agent from fat to thin.

    Attributes:
        fat: policy.
        thin: policy.
        difference: thin minus fat.
        truncated: its truncated Gaussian, if it has one.
        beside: thin minus truncated.
    """

    fat: PolicyRow
    thin: PolicyRow
    difference: Difference
    truncated: PolicyRow | None = None
    beside: Difference | None = None

    def removed(self, other: PolicyRow) -> float:
        """Probability outside the thin interval that the fat policy has and another one has not."""
        assert self.fat.outside_interval is not None
        assert other.outside_interval is not None
        return self.fat.outside_interval.value - other.outside_interval.value


def summary(one: Measured) -> str:
    """A line for every agent from fat to thin."""
    head = (
        "agent", "fat policy", "fat, outside the thin interval", "fat, outside the limits", "half-width, fat",
        "half-width, thin", "lost by drawing, fat", "lost by drawing, thin", "drawn return, thin minus fat",
        "", "drawn cost, thin minus fat", "drawn return, thin minus truncated Gaussian",
    )  # fmt: skip
    lines = []
    for line in one.lines:
        fat, thin, drawn = line.fat, line.thin, line.difference.sampled
        lines.append(
            [
                fat.title,
                fat.family,
                mass_cell(fat.outside_interval, fat.exact),
                mass_cell(fat.outside_limits, fat.exact),
                str(fat.half_width),
                str(thin.half_width),
                str(fat.lost),
                str(thin.lost),
                str(drawn),
                verdict(drawn),
                str(line.difference.costs[1]) if line.difference.costs else "",
                str(line.beside.sampled) if line.beside else "",
            ]
        )
    return table(head, lines)


def verdicts(one: Measured) -> str:
    """How often drawing from the thin policy returned more or less than from another one."""

    def counted(told: Sequence[str]) -> str:
        words = ("better", "not distinguishable", "worse")
        return ", ".join(f"{told.count(word)} {word}" for word in words if word in told)

    parts = []
    for words, kinds in KINDS:
        told = [verdict(line.difference.sampled) for line in one.lines if line.fat.kind in kinds]
        parts += [f"{words}: {counted(told)}"] if told else []
    result = f"Drawn returns, thin beside fat, agents by what the fat policy is. {'; '.join(parts)}."
    beside = [verdict(line.beside.sampled) for line in one.lines if line.beside]
    return result + (f" Thin beside the truncated Gaussian: {counted(beside)}." if beside else "")


def section(one: Measured) -> list[str]:
    """Everything of one data set."""
    known = one.content
    refused = [f"- {row.title}: {row.refused}" for row in one.policies if row.refused and row.role == "own"]
    others = [f"- {note}" for note in known["notes"] if "has no thin row" not in note]
    parts = [
        f"## {known['set'].replace(':', ', ')} recorded patients",
        f"{known['updates']:,} updates, {known['seeds']} seeds, {known['patients']:,} new patients per seed.",
        verdicts(one),
        summary(one),
        "Without a thin policy:",
        "\n".join(refused) or "- none",
        *(["Notes:", "\n".join(others)] if others else []),
        "Every policy:",
        table(HEAD, [cells(row) for row in one.policies]),
        "Beside them: "
        + "; ".join(f"{r['name']}: {r['returns']}, cost {r['cost']}" for r in known["rules"])
        + ".",
    ]
    return parts


def page(sets: Sequence[Measured], command: str) -> str:
    """Everything as markdown."""
    parts = [
        "# Every agent from fat to thin",
        f"`{command}`: a comparison by the preset `{PRESET}` for every data set, with networks of two layers "
        f"of 64 and first phases of a fifth of the updates. dosing {__version__}; {describe()}.",
        "How far it was trained stands with every data set: few updates and few seeds. The numbers say what "
        "the sparse law does to these policies at this point of their training, not how good the agents are.",
        f"![What drawing doses loses against the probability removed]({NAME}.svg)",
        "Intervals are 95 %: t over seeds, which share their recorded patients and each have new patients of "
        "their own; a difference is paired by patient and seed. None is corrected for the number of agents: "
        "one in twenty leaves out the truth by chance. *Lost by drawing*: return of recommended doses minus "
        "that of drawn ones. *Outside the thin interval*: probability that a policy leaves outside the "
        "agent's own sparse interval at the recorded visits, before any clipping. Half-widths are in dose "
        "units; of a policy without exact edges they are those of its central 99 %. Entropies are in nats on "
        "the [-1, 1] axis of the dose. Returns have no unit; costs are the scenario's own. A policy whose "
        "one dose is a limit lies outside its thin interval, which ends just within the limits; a truncated "
        "Gaussian is a training of its own, so its recommended doses differ as well.",
        "Not measured here: agents that go on learning with either policy, and full trainings.",
    ]
    for one in sets:
        names = {row.agent for row in one.policies}
        missing = [entry.title for name, entry in agents.AGENTS.items() if name not in names]
        parts += [*section(one), *([f"Not measured on these data: {', '.join(missing)}."] if missing else [])]
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


def picture(sets: Sequence[Measured]) -> str:
    """A row of panels for every data set, a line from fat to thin for every agent."""
    head, foot = 66, 40
    width, height = COLUMN * len(KINDS), head + ROW * len(sets) + foot
    title = "From fat to thin: return lost by drawing doses, against the probability removed"
    marks = (
        "One line an agent, from its fat policy (open circle) to the sparse law distilled from it (disc), "
        "which is exactly 0 outside its interval. Grey ring: its truncated Gaussian."
    )
    axes = (
        "x: probability outside the sparse interval that is removed; y: return of recommended doses minus "
        "that of drawn ones, the same patients (no unit)"
    )
    bars = "Bars: 95 % intervals over seeds, cut at the frame."
    out = [*sheet(width, height), text(8, 20, title, size=15), text(8, 40, marks)]
    out.append(text(8, 56, bars, fill=GREY))
    for place, one in enumerate(sets):
        about, frame = one.content, frame_of(one)
        words = f"{about['set'].replace(':', ', ')} patients; "
        words += f"{about['updates']:,} updates, {about['seeds']} seeds"
        out += [f'<g transform="translate(0,{head + ROW * place})">', text(8, 12, words, size=12)]
        for column, (kind, kinds) in enumerate(KINDS):
            own = [line for line in one.lines if line.fat.kind in kinds]
            out.append(f'<g transform="translate({COLUMN * column},0)">')
            out += [*frame.panel(f"fat: {kind}", own), "</g>"]
        out.append("</g>")
    out += [text(8, height - 24, axes, fill=GREY), text(8, height - 8, NOT_FOR_PATIENTS, fill=GREY)]
    return "\n".join([*out, "</svg>"]) + "\n"


@dataclass(frozen=True)
class Frame:
    """One panel: the ends of its axes, which its row shares; probabilities begin at 0."""

    low: float
    high: float
    far: float

    def x(self, share: float) -> float:
        """Place of a probability."""
        return LEFT + 8 + (PLOT - 16) * min(max(share / self.far, 0.0), 1.0)

    def y(self, value: float) -> float:
        """Place of a loss, held within the frame."""
        share = (self.high - min(max(value, self.low), self.high)) / (self.high - self.low)
        return TOP + (ROW - TOP - 44) * share

    def panel(self, words: str, own: Sequence[Line]) -> list[str]:
        """Grid, lines from fat to thin, and their names."""
        bottom = self.y(self.low)
        out = [text(LEFT, TOP - 6, words, fill=GREY)]
        for value in ticks(self.low, self.high):
            colour = GREY if value == 0.0 else "#e4e4e4"
            out.append(stroke(LEFT, self.y(value), LEFT + PLOT, self.y(value), colour))
            out.append(text(LEFT - 5, self.y(value) + 4, minus(f"{value:g}"), anchor="end", fill=GREY))
        for share in (0.0, 0.5 * self.far, self.far):
            out.append(text(self.x(share), bottom + 15, f"{share:g}", anchor="middle", fill=GREY))
            out.append(stroke(self.x(share), bottom, self.x(share), bottom + 4, GREY))
        return out + [part for line in own for part in self.line(line)] + self.names(own)

    def line(self, line: Line) -> list[str]:
        """An agent."""
        inner = self.x(line.removed(line.thin))
        ends = [(self.x(0.0), line.fat.lost, "white"), (inner, line.thin.lost, BLUE)]
        out = [stroke(x, self.y(lost.low), x, self.y(lost.high), "#c8c8c8") for x, lost, _ in ends]
        (x1, fat, _), (x2, thin, _) = ends
        out.append(stroke(x1, self.y(fat.value), x2, self.y(thin.value), BLUE, 1.6))
        for x, lost, fill in ends:
            look = f'r="3.4" fill="{fill}" stroke="{BLUE}" stroke-width="1.6"'
            out.append(f'<circle cx="{x:.1f}" cy="{self.y(lost.value):.1f}" {look}/>')
        if line.truncated is not None:
            x, y = self.x(line.removed(line.truncated)), self.y(line.truncated.lost.value)
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="none" stroke="{GREY}"/>')
        return out

    def names(self, own: Sequence[Line]) -> list[str]:
        """Names beside the panel, from top to bottom as the thin ends stand, a thread to each."""
        order = sorted(own, key=lambda line: (self.y(line.thin.lost.value), line.removed(line.thin)))
        places = spread([self.y(line.thin.lost.value) for line in order], TOP + 4, self.y(self.low))
        out = []
        for line, y in zip(order, places, strict=True):
            x = self.x(line.removed(line.thin))
            out.append(stroke(x + 5, self.y(line.thin.lost.value), LEFT + PLOT + 8, y, "#b5b5b5", 0.6))
            out.append(text(LEFT + PLOT + 11, y + 4, line.fat.title))
        return out


def frame_of(one: Measured) -> Frame:
    """Holds all losses and 0, and what every thin policy removes."""
    values = [0.0, *(row.lost.value for row in one.policies)]
    room = 0.06 * (max(values) - min(values) or 1.0)
    most = max([0.1, *(line.removed(line.thin) for line in one.lines)])
    return Frame(min(values) - room, max(values) + room, math.ceil(10.0 * most - 1e-9) / 10.0)


def spread(wanted: Sequence[float], top: float, bottom: float, step: float = 13.0) -> list[float]:
    """Places in ascending order, ``step`` apart and as near to ``wanted`` as they can be within the ends."""
    result: list[float] = []
    for y in wanted:
        result.append(max(y, result[-1] + step if result else top))
    for k in reversed(range(len(result))):
        result[k] = min(result[k], bottom if k + 1 == len(result) else result[k + 1] - step)
    return result


def main() -> None:
    """Measure the data sets that are missing; keep numbers, page and figure after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="ID:SIZE", help="[%(default)s]")
    parser.add_argument("--agents", nargs="+", default=["all"], help="[%(default)s]")
    parser.add_argument("--updates", type=int, default=500, help="[%(default)s]")
    parser.add_argument("--seeds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--patients", type=int, default=300, help="evaluated on, per seed [%(default)s]")
    parser.add_argument("--study", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    add_resources(parser)
    parser.set_defaults(device="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = arguments.out / f"{NAME}.json"
    sets = json.loads(kept.read_text())["sets"] if kept.is_file() else []
    told = f"--updates {arguments.updates} --seeds {arguments.seeds} --patients {arguments.patients}"
    if arguments.agents != ["all"]:
        told += f" --agents {' '.join(arguments.agents)}"
    sets = [one for one in sets if asked(one["set"], arguments).items() <= one.items()]
    for name in arguments.sets:
        if all(one["set"] != name for one in sets):
            sets.append(measured(name, arguments))
        done = " ".join(one["set"] for one in sets)
        command = (
            f"OMP_NUM_THREADS=1 python benchmarks/experiments/{NAME}.py --study FOLDER --sets {done} {told}"
        )
        write_json(kept, {"machine": describe(), "version": __version__, "command": command, "sets": sets})
        read = [Measured(one) for one in sets]
        write_atomic(arguments.out / f"{NAME}.md", page(read, command).encode())
        write_atomic(arguments.out / f"{NAME}.svg", picture(read).encode())
        print(name, verdicts(read[-1]), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{NAME}: {error}")
