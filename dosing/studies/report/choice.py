"""Sections of the report of a selection, from what ``select`` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.runs.files import read_json
from dosing.runs.folder import find_runs
from dosing.studies.commands import command_of
from dosing.studies.report.document import Code, Items, Part, Quote, Section, Table, Words
from dosing.studies.report.svg import minus
from dosing.studies.selected import FOLDS, SELECTION

PACKAGES = ("dosing", "python", "torch", "numpy", "gymnasium")


def selected(study: Path) -> list[Section]:
    """The sections.

    Raises:
        UserError: the selection is damaged, or of another version.
    """
    file = study / SELECTION
    content = read_json(file)
    try:
        tables = tuple(_values(content, estimator) for estimator in content["criterion"]["estimators"])
        rest = [
            Section("What may be quoted", (Quote(str(content["verdict"])),)),
            Section("On which data", tuple(_data(content))),
            Section("Values of the candidates", tables),
            Section("Notes", (Items(tuple(content["notes"])) if content["notes"] else Words("None."),)),
            Section("Settings of the candidates", (_settings(content["candidates"]),)),
            Section("Trainings of the folds", tuple(_trainings(study))),
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not of this version's select; give that command again.") from error
    command = command_of(file)
    again: Part = Words("Which command wrote this selection is not noted.")
    return [*rest, Section("To make it again", (Code((command,)) if command else again,))]


def _data(content: Mapping[str, Any]) -> Iterator[Part]:
    constant, criterion = content["constant"], content["criterion"]
    unit = "" if constant["unit"] in ("", "1") else f" {constant['unit']}"
    doses = ", ".join(f"{dose:.3g}" for dose in constant["doses_of_folds"])
    low, high = constant["recorded"]
    kind = "estimated constant dose" if constant["identified"] else "median recorded dose"
    yield Words(
        f"{content['patients']:,} recorded patients, values over {content['horizon']} visits; no simulated "
        f"patient takes part. Recorded doses: {low:.4g} to {high:.4g}{unit}. The {kind}: "
        f"{constant['dose']:.4g}{unit}, of the training patients of each fold {doses}{unit}. "
        f"Behaviour: {content['behaviour']}. Decided by {content['decided_by']}; "
        f"resamples {criterion['replicates']:,}; {len(content['candidates'])} candidates, for whom "
        "together the intervals hold."
    )


def _values(content: Mapping[str, Any], estimator: str) -> Table:
    """What one estimator says of every candidate and of the constant dose."""
    named = [("constant dose", content["constant"]), *((c["name"], c) for c in content["candidates"])]
    rows = tuple(_line(name, of, estimator) for name, of in named)
    head = ("candidate", "return", "cost", "minus constant dose", "verdict", "n", "interval", "refused")
    decides = ", which decides" if estimator == content["decided_by"] else ""
    caption = f"Estimated by {estimator}{decides}: return without unit; 95 % intervals"
    return Table(caption, head, rows, frozenset({1, 2, 3, 5}))


def _line(name: str, of: Mapping[str, Any], estimator: str) -> tuple[str, ...]:
    value = of["values"][estimator]
    cost = of.get("costs", {}).get(estimator, {}).get("estimate")
    shown = [minus(str(Estimate(**e))) if e else "-" for e in (value["estimate"], cost, value["difference"])]
    told = value["difference"] or value["estimate"]
    basis = (f"{told['n']:,}", str(told["method"])) if told else ("-", "-")
    return (name, *shown, value["verdict"] or "-", *basis, value["refused"] or "-")


def _trainings(study: Path) -> Iterator[Part]:
    """What the trainings in the folder of the folds were made of."""
    configs = [run.config() for run in find_runs(study / FOLDS)]
    told = {
        (
            c.data.name,
            f"{c.data.patients:,}",
            f"{c.data.visits:,}",
            c.data.content_hash,
            f"{len(c.seeds)}",
            f"{c.updates:,}",
            f"{c.device}, {c.versions.get('processor') or 'unknown'}",
        )
        for c in configs
    }
    head = ("training visits", "patients", "visits", "SHA-256 of the visits", "seeds", "updates", "processor")
    if told:
        caption = f"{len(configs)} finished trainings"
        yield Table(caption, head, tuple(sorted(told)), frozenset({1, 2, 4, 5}), frozenset({3}))
    packages = {", ".join(f"{k} {v}" for k, v in c.versions.items() if k in PACKAGES and v) for c in configs}
    yield Items(tuple(f"Versions: {words}." for words in sorted(packages))) if packages else Words("None.")


def _settings(candidates: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (c["name"], ", ".join(f"{k}={v}" for k, v in (c["config"] | c["regularisation"]).items()))
        for c in candidates
    )
    return Table("Settings in full", ("candidate", "settings"), rows)
