"""Every agent from fat to thin: what drawing doses loses, against the probability that a sparse law removes.

    OMP_NUM_THREADS=1 python benchmarks/experiments/sparse_vs_gaussian.py --study FOLDER [--sets SET ...]

For every data set one ``compare --preset sparse-vs-gaussian --agents all`` with small networks: the agent's
own policy, its clipped and truncated Gaussians, and the sparse law distilled from its own. Data, critics,
seeds, patients and noise are shared. A data set is measured once, and what is trained of one stays in its
folder: the same command goes on where it was stopped, and the sets that it does not name stay on the page.
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

import torch

import agents
from benchmarks.experiments.sparse_vs_gaussian_figure import KINDS, picture
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.options import add_resources, resources_of
from dosing.errors import UserError
from dosing.evaluation.statistics import verdict
from dosing.runs.files import write_atomic, write_json
from dosing.studies import Comparison, Grid, compare
from dosing.studies.compared import Difference
from dosing.studies.data import external_of
from dosing.studies.policy_table import HEAD, PolicyRow, cells, mass_cell
from dosing.studies.settings import Cohort, DataSource
from dosing.training.offline import TrainingSettings
from dosing.typed_json import typed

RESULTS = Path(__file__).resolve().parents[1] / "results"
NAME, PRESET = "sparse_vs_gaussian", "sparse-vs-gaussian"
SETS = ("dosing/Treatment-v0:50", "dosing/Treatment-v0:400", "dosing/Warfarin-v0:50", "dosing/Insulin-v0:50")
WIDTHS: dict[str, list[Any]] = {"hidden": [(64, 64)], "vae_hidden": [(64, 64)]}
FIRST_PHASES = ("vae_steps", "mmd_only", "behaviour_steps", "critic_steps")
"""Settings that count the updates of a first phase: a fifth of all, so that every policy learns."""


def words_of(name: str) -> str:
    """A data set as a reader knows it: scenario and recorded patients, or the name of a file."""
    env_id, separator, size = name.rpartition(":")
    return f"{env_id}, {size} recorded patients" if separator else name


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that a data set's comparison says, as plain numbers."""
    env_id, separator, size = name.rpartition(":")
    external = external_of(arguments.task, {}) if arguments.task and not separator else None
    source = DataSource(env_id, Cohort(int(size))) if separator else DataSource(name, external=external)
    first = {key: [max(1, arguments.updates // 5)] for key in FIRST_PHASES}
    result = compare(
        arguments.study / folder_of(name),
        Grid(tuple(arguments.agents), taken(WIDTHS | first, arguments.agents), PRESET),
        source,
        seeds=range(arguments.seeds),
        training=TrainingSettings(steps=arguments.updates, batch_size=256),
        evaluation_patients=arguments.patients,
        resources=resources_of(arguments),
    )
    return asked(name, arguments) | plain(result)


def folder_of(name: str) -> str:
    """Folder of a data set's runs within the study."""
    return Path(name).stem if ":" not in name else name.split("/")[-1].replace(":", "-")


def taken(settings: Mapping[str, list[Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """The settings that one of the agents has."""
    chosen = list(agents.AGENTS) if list(names) == ["all"] else names
    known = {field for name in chosen for field in agents.find(name).config_class().__dataclass_fields__}
    return {name: values for name, values in settings.items() if name in known}


def asked(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What makes the numbers of a data set what they are; of a file its name alone."""
    told = {key: getattr(arguments, key) for key in ("agents", "updates", "seeds", "patients")}
    if ":" in name:
        return {"set": name} | told
    return {"set": Path(name).name} | told | ({"task": arguments.task} if arguments.task else {})


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
        f"## {words_of(known['set'])}",
        f"`{command_of(known)}`: {known['updates']:,} updates, {known['seeds']} seeds, {known['patients']:,} "
        f"new {'episodes' if 'task' in known else 'patients'} per seed.",
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


def command_of(known: Mapping[str, Any]) -> str:
    """The command that measures a data set."""
    told = f"--updates {known['updates']} --seeds {known['seeds']} --patients {known['patients']}"
    chosen = "" if known["agents"] == ["all"] else f" --agents {' '.join(known['agents'])}"
    chosen += f" --task {known['task']}" if "task" in known else ""
    return (
        f"OMP_NUM_THREADS=1 python benchmarks/experiments/{NAME}.py --study FOLDER --sets {known['set']} "
        f"{told}{chosen}"
    )


def page(sets: Sequence[Measured]) -> str:
    """Everything as markdown."""
    parts = [
        "# Every agent from fat to thin",
        f"A comparison by the preset `{PRESET}` for every data set, with networks of two layers "
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
        "Agents that go on learning with either policy: [live treatment](sparse_online.md). Not measured: "
        "full trainings.",
    ]
    for one in sets:
        names = {row.agent for row in one.policies}
        missing = [entry.title for name, entry in agents.AGENTS.items() if name not in names]
        parts += [*section(one), *([f"Not measured on these data: {', '.join(missing)}."] if missing else [])]
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


def main() -> None:
    """Measure the data sets that are missing; keep numbers, page and figure after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="SET",
                        help="SCENARIO:PATIENTS or a file of visits [%(default)s]")  # fmt: skip
    parser.add_argument("--task", metavar="ENV", help="environment of a file that does not name its own")
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
    for name in arguments.sets:
        wanted = asked(name, arguments)
        if not any(wanted.items() <= one.items() for one in sets):
            sets = [one for one in sets if one["set"] != wanted["set"]] + [measured(name, arguments)]
        write(arguments.out, sets)
        told = next(one for one in sets if one["set"] == wanted["set"])
        print(name, verdicts(Measured(told)), flush=True)


def place_of(one: Mapping[str, Any]) -> tuple[int, int]:
    """Where a data set stands: by scenario in the order of :data:`SETS`, then by size; files last."""
    scenario, _, size = one["set"].rpartition(":")
    known = list(dict.fromkeys(name.rpartition(":")[0] for name in SETS))
    return (known.index(scenario), int(size)) if scenario in known else (len(known), 0)


def write(folder: Path, sets: Sequence[Mapping[str, Any]]) -> None:
    """Numbers, page and figure."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = sorted(sets, key=place_of)
    read = [Measured(one) for one in sets]
    kept = {"machine": describe(), "version": __version__, "sets": sets}
    write_json(folder / f"{NAME}.json", kept)
    write_atomic(folder / f"{NAME}.md", page(read).encode())
    write_atomic(folder / f"{NAME}.svg", picture(read).encode())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{NAME}: {error}")
