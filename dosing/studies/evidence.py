"""From a run to what the study's table says that following its policy was worth."""

from __future__ import annotations

from pathlib import Path

from dosing.errors import UserError
from dosing.recommendation.dose_context import Evidence
from dosing.runs.files import read_json
from dosing.runs.folder import RunFolder
from dosing.studies.comparison_table import Row
from dosing.studies.naming import TABLE


def evidence_of(row: Row | None, unit: str) -> Evidence:
    """What a line of the study table says of its policy.

    Args:
        row: the line; None where the policy was not compared.
        unit: of the dose.
    """
    if row is None or row.baseline is None:
        return Evidence(unit)
    if row.difference is None or row.baseline.dose is None or row.verdict is None:
        why = row.baseline.missing or "there is no constant dose to compare it with"
        return Evidence(unit, missing=f"measured on new simulated patients, but {why}")
    return Evidence(unit, row.verdict, row.difference, row.baseline.dose, row.baseline.patients, "")


def read_evidence(run: RunFolder) -> Evidence:
    """The same for a run folder ``<study>/<agent>/<data>/<key>``, from the table of its study.

    A table that cannot be read gives no verdict and says so.
    """
    path = run.path.resolve()
    folders: list[Path] = list(path.parents)
    unit = run.config().limits.unit
    study = folders[min(2, len(folders) - 1)]
    if not (study / TABLE).is_file():
        return Evidence(unit)
    try:
        content = read_json(study / TABLE)
        rows = dict(zip(content["runs"], content["rows"], strict=False))  # agents' rows come first
        mine = rows.get(str(path.relative_to(study)))
        return evidence_of(None if mine is None else Row.from_json(mine), unit)
    except (UserError, KeyError, TypeError, AttributeError):
        return Evidence(unit, missing=f"the study table {study / TABLE} cannot be read")
