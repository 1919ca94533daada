"""The table of the benchmark: what an entry gains over the estimated constant dose, read from run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.statistics import Estimate, mean_over_seeds, paired_difference, verdict
from dosing.runs.files import read_json, write_atomic, write_json
from dosing.studies.benchmark_set import BenchmarkSet
from dosing.studies.comparison_table import clinic_title
from dosing.studies.references import CLINIC, References
from dosing.typed_json import typed
from dosing.types import Array
from simulator.bounds.published import measured

LEADERBOARD = "leaderboard"
"""Name of the table in the folder, as ``.json`` and as ``.md``."""
OVER_DATA_SETS = "t over data sets"


@dataclass(frozen=True)
class Cell:
    """What an entry is worth on the data sets of one task and number of recorded patients.

    Attributes:
        task: name of the task.
        patients: recorded patients of a data set.
        data_sets: how many.
        gain: mean return less that of the constant dose estimated from the same data set, on the same new
            patients; None where a training failed.
        least: gain on the worst data set; None where a training failed.
        losing: data sets whose gain is below minus the set's margin; None where a training failed.
        refused: data sets whose model the agent itself did not use: everyone had the constant dose.
        failed: why there is no run, one sentence per data set without.
    """

    task: str
    patients: int
    data_sets: int
    gain: Estimate | None
    least: float | None
    losing: int | None
    refused: int
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One row: an agent with its settings on the whole set.

    Attributes:
        agent: registry key.
        title: of the agent.
        package: that brings the agent, with its version.
        preset: its settings by name; None for the agent's own.
        changed: settings that the entry changes, by name.
        settings: SHA-256 of all its settings.
        score: mean over all cells of the gain in standard deviations, between patients, of the constant
            dose's return; None where a training failed.
        cells: one per task and number of patients.
        hours: of processor time, all data sets together.
        versions: package to the versions its runs were computed with.
        processors: kinds of processors, with the device.
    """

    agent: str
    title: str
    package: str
    preset: str | None
    changed: Mapping[str, Any]
    settings: str
    score: Estimate | None
    cells: tuple[Cell, ...]
    hours: float
    versions: Mapping[str, tuple[str, ...]]
    processors: tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """A rule that needs no learning beside the entries of one cell; gains are as in :class:`Cell`.

    A ceiling was measured beforehand on other patients: it has a return and no gain.
    """

    task: str
    patients: int
    name: str
    value: Estimate
    gain: Estimate | None


@dataclass(frozen=True)
class Table:
    """The leaderboard of one set.

    Attributes:
        version: of the set.
        size: of the set.
        definition: SHA-256 of the set.
        evaluation: SHA-256 of its evaluation seeds.
        about: what every entry does, in words.
        entries: best score first, then those with a training that failed.
        rules: see :class:`Rule`.
        left_out: agents of all that could not take part with the set's settings, with the reason.
    """

    version: int
    size: str
    definition: str
    evaluation: str
    about: str
    entries: tuple[Entry, ...] = ()
    rules: tuple[Rule, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, chosen: BenchmarkSet) -> Table:
        """The empty table of a set."""
        about = (
            f"{len(chosen.data_seeds)} data sets of each kind, a training of {chosen.updates:,} updates and "
            f"{chosen.evaluation_patients:,} new patients for each of them; margin {chosen.margin:g}"
        )
        return cls(chosen.version, chosen.size, chosen.hash, chosen.hash_of_evaluation, about)

    @classmethod
    def read(cls, folder: Path, chosen: BenchmarkSet) -> Table:
        """The table in a folder, which is empty where there is none.

        Raises:
            UserError: it is damaged, or of another set.
        """
        path, empty = folder / f"{LEADERBOARD}.json", cls.of(chosen)
        if not path.is_file():
            return empty
        table = typed(cls, read_json(path), str(path))
        if table.definition != empty.definition:
            raise UserError(
                f"{path} is of version {table.version}, size {table.size}, definition "
                f"{table.definition[:12]}; this is version {chosen.version}, size {chosen.size}, definition "
                f"{chosen.hash[:12]}: give another folder by --out."
            )
        return table

    def taking(self, entry: Entry, left_out: Mapping[str, str]) -> Table:
        """With an entry in place of an earlier one with the same settings, and who could not take part."""
        others = [one for one in self.entries if (one.agent, one.settings) != (entry.agent, entry.settings)]
        entries = tuple(sorted([*others, entry], key=_rank))
        there = {one.agent for one in entries}
        missing = {name: why for name, why in {**self.left_out, **left_out}.items() if name not in there}
        return replace(self, entries=entries, left_out=missing)

    def write(self, folder: Path) -> None:
        """Write ``leaderboard.json`` and ``leaderboard.md``."""
        write_json(folder / f"{LEADERBOARD}.json", asdict(self))
        write_atomic(folder / f"{LEADERBOARD}.md", page(self).encode())


def _rank(entry: Entry) -> tuple[float, str, str]:
    return (np.inf if entry.score is None else -entry.score.value), entry.agent, entry.settings


@dataclass(frozen=True)
class Measured:
    """Outcomes of one data set.

    Attributes:
        returns: of the entry, ``[P]``; None where its training failed.
        constant: of the estimated constant dose on the same patients, ``[P]``.
        refused: whether the agent did not use its model.
        failed: why there is no run; empty where there is one.
    """

    returns: Array | None
    constant: Array
    refused: bool = False
    failed: str = ""


def constant_of(data: str, rules: References) -> Outcomes:
    """Outcomes of the constant dose estimated from a data set.

    Raises:
        UserError: its rewards tell none, and there is nothing to gain over.
    """
    if "estimated" not in rules.outcomes:
        raise UserError(f"no constant dose is estimated from {data}: {rules.baseline.missing}")
    return rules.outcomes["estimated"]


def cell_of(task: str, patients: int, sets: Sequence[Measured], margin: float) -> Cell:
    """The cell of an entry from its data sets, each with new patients of its own."""
    failed = tuple(one.failed for one in sets if one.failed)
    refused = sum(one.refused for one in sets)
    gains = _gains(sets)
    if gains is None:
        return Cell(task, patients, len(sets), None, None, None, refused, failed)
    losing = int((_in_spreads(sets, gains) < -margin).sum())
    return Cell(
        task, patients, len(sets), _over_data_sets(gains), float(gains.mean(1).min()), losing, refused
    )


def score_of(cells: Sequence[Sequence[Measured]]) -> Estimate | None:
    """Mean over cells of the gain in spreads, with t over the data sets: the k-th of every cell together.

    Data sets of different seeds share neither recorded nor new patients, those of one seed may.
    """
    each = []
    for sets in cells:
        gains = _gains(sets)
        if gains is None:
            return None
        each.append(_in_spreads(sets, gains))
    return replace(mean_over_seeds(np.mean(each, axis=0)[:, None]), method=OVER_DATA_SETS)


def _gains(sets: Sequence[Measured]) -> Array | None:
    """Gains over the constant dose ``[data sets, patients]``."""
    rows = [one.returns - one.constant for one in sets if one.returns is not None]
    return np.stack(rows) if len(rows) == len(sets) else None


def _in_spreads(sets: Sequence[Measured], gains: Array) -> Array:
    """Mean gain of every data set over the standard deviation of the constant dose's return."""
    result: Array = gains.mean(1) / np.array([one.constant.std(ddof=1) for one in sets])
    return result


def _over_data_sets(x: Array) -> Estimate:
    return replace(mean_over_seeds(x), method=OVER_DATA_SETS)


def rules_of(
    task: str, patients: int, env: tuple[str, Mapping[str, Any]], data: Mapping[str, References]
) -> list[Rule]:
    """The rules beside one cell: the constant dose first, then those that were found on every data set.

    Args:
        task: name of the task.
        patients: recorded patients.
        env: scenario and its options, for ceilings.
        data: reference rules by the name of the data set.
    """
    base = np.stack([constant_of(name, rules).returns.reshape(-1) for name, rules in data.items()])
    result = [Rule(task, patients, "constant dose estimated from the data set", _over_data_sets(base), None)]
    first, *others = data.values()
    for name in first.outcomes:
        if name == "estimated" or any(name not in one.outcomes for one in others):
            continue
        own = np.stack([one.outcomes[name].returns.reshape(-1) for one in data.values()])
        difference = replace(paired_difference(own, base), method=OVER_DATA_SETS)
        result.append(Rule(task, patients, _title(name), _over_data_sets(own), difference))
    for one in measured(env[0], dict(env[1])):
        value = Estimate(
            one.value,
            one.value - one.half_width,
            one.value + one.half_width,
            0.95,
            one.patients,
            None,
            "measured beforehand",
        )
        result.append(Rule(task, patients, f"ceiling: {one.policy}, knows {one.knows}", value, None))
    return result


def _title(rule: str) -> str:
    if rule.startswith(CLINIC):
        return clinic_title(rule.removeprefix(CLINIC))
    known = "best constant dose, known to the simulator only"
    return {"uniform": "uniform dosing", "none": "no dose", "best": known}.get(rule, rule)


def page(table: Table) -> str:
    """The leaderboard as markdown."""
    parts = [
        "# Benchmark",
        f"Version {table.version}, size {table.size}; definition `{table.definition}`, evaluation seeds "
        f"`{table.evaluation}`: {table.about}. "
        f"A row is made by `python -m dosing bench --size {table.size} --agents NAME`, "
        "with `--preset` and `--set` where its settings are not the set's.",
        "Gain: mean return over new patients less that of the constant dose estimated from the same data "
        "set, on the same patients; intervals are 95 %, t over data sets. In spreads: over the standard "
        "deviation of that dose's return between patients, mean over all tasks. Losing: data sets that lose "
        "more than the margin, in spreads. Refused: data sets whose model the agent did not use. Hours: of "
        "one processor core, trainings and evaluations of all data sets.",
        _markdown(ENTRIES, [_entry_line(place, entry) for place, entry in enumerate(table.entries, 1)]),
    ]
    if table.left_out:
        parts.append("\n".join(f"- {name} is left out: {why}" for name, why in table.left_out.items()))
    cells = dict.fromkeys((rule.task, rule.patients) for rule in table.rules)
    for task, patients in cells:
        lines = [
            line
            for entry in table.entries
            for cell in entry.cells
            if (cell.task, cell.patients) == (task, patients)
            for line in [_cell_line(entry, cell)]
        ]
        rules = [
            [rule.name, str(rule.value), str(rule.gain or "-")]
            for rule in table.rules
            if (rule.task, rule.patients) == (task, patients)
        ]
        parts += [f"## {task}, {patients} recorded patients", _markdown(CELLS, lines)]
        parts.append(_markdown(("rule", "return", "gain"), rules))
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


ENTRIES = (
    "",
    "agent",
    "settings",
    "gain in spreads",
    "verdict",
    "hours",
    "package",
    "computed with",
    "processors",
)
CELLS = ("agent", "data sets", "gain", "least", "losing", "refused", "failed")


def _entry_line(place: int, entry: Entry) -> list[str]:
    changed = [f"{name}={value}" for name, value in entry.changed.items()]
    versions = [f"{name} {' and '.join(own)}" for name, own in entry.versions.items()]
    return [
        str(place),
        entry.title,
        ", ".join([entry.preset or "its own", *changed]),
        str(entry.score or "-"),
        "-" if entry.score is None else verdict(entry.score),
        f"{entry.hours:.2g}",
        entry.package,
        ", ".join(versions),
        ", ".join(entry.processors),
    ]


def _cell_line(entry: Entry, cell: Cell) -> list[str]:
    same = [entry.title, *(f"{name}={value}" for name, value in entry.changed.items())]
    return [
        ", ".join(same),
        str(cell.data_sets),
        str(cell.gain or "-"),
        "-" if cell.least is None else f"{cell.least:.3g}",
        "-" if cell.losing is None else str(cell.losing),
        str(cell.refused),
        str(len(cell.failed)),
    ]


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = [":--"] * 2 + ["--:"] * (len(head) - 2)
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *escaped])
