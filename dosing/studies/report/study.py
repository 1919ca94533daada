"""What the folder of a finished comparison holds, read and checked for a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dosing.data.metadata import DatasetMetadata
from dosing.data.store import read_metadata
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.runs.config import RunConfig
from dosing.runs.files import read_json, read_table
from dosing.runs.folder import CARD, CONFIG, DONE, METRICS, WEIGHTS, RunFolder
from dosing.studies.compared import Difference
from dosing.studies.comparison_table import Row
from dosing.studies.evaluation import references_of
from dosing.studies.naming import CURVES, TABLE
from dosing.typed_json import typed
from dosing.types import Array


@dataclass(frozen=True)
class Trained:
    """One run of the table.

    Attributes:
        row: its line of the table.
        path: of its folder, from the study.
        config: its configuration, checked.
        weights: SHA-256 of its weights.
        card: of the scenario; empty where there is none.
        seconds: of the training, all seeds together; None where none were logged.
        curve: seed means of the return of recommended doses ``[S]``, after so many updates each.
    """

    row: Row
    path: str
    config: RunConfig
    weights: str
    card: Mapping[str, Any]
    seconds: float | None
    curve: Mapping[int, Array]

    @property
    def title(self) -> str:
        """Name and distribution."""
        return f"{self.row.name} ({self.row.family})"

    @property
    def scores(self) -> Array:
        """Seed means at the end ``[S]``."""
        return self.curve[max(self.curve)]


@dataclass(frozen=True)
class Compared:
    """A finished comparison.

    Attributes:
        path: study folder.
        trained: runs, in the order of the table.
        rules: reference rules and ceilings.
        differences: pairs of runs that differ in their distribution.
        notes: what the comparison told besides.
        data: by name of the data set: what its file says of itself, where it still lies there.
        constants: by name of the data set: seed means of the estimated constant dose ``[S]``, on the patients
            of the table.
        unfinished: folders of runs without a result.
        beside: finished runs that are not in the table.
        policies: rows of the policies of each agent side by side, as the table keeps them.
        presets: names of those that settings were taken from.
    """

    path: Path
    trained: tuple[Trained, ...]
    rules: tuple[Row, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    data: Mapping[str, DatasetMetadata]
    constants: Mapping[str, Array]
    unfinished: tuple[str, ...]
    beside: int
    policies: tuple[Mapping[str, Any], ...] = ()
    presets: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The data sets, in the order of the table."""
        return list(dict.fromkeys(one.row.data for one in self.trained))

    def which(self, data: str) -> str:
        """Name of a data set for a table's cell; a dash where there is but one."""
        return data if len(self.names) > 1 else "-"

    def on(self, data: str) -> list[Trained]:
        """Runs on one data set."""
        return [one for one in self.trained if one.row.data == data]


def read_compared(study: Path) -> Compared:
    """Read a finished comparison; every run is checked against the hashes of its files.

    Raises:
        UserError: no finished comparison, or a file of it is missing, damaged or was changed.
    """
    table = read_json(study / TABLE)
    try:
        rows, runs = [Row.from_json(row) for row in table["rows"]], list(table["runs"])
        pairs, notes = list(table["differences"]), tuple(map(str, table["notes"]))
        presets = tuple(map(str, table.get("presets", ())))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{study / TABLE} is not the table of this version's compare; give that command again."
        ) from error
    differences = tuple(typed(Difference, one, f"{study / TABLE}: differences") for one in pairs)
    if not runs or len(rows) < len(runs):
        raise UserError(f"{study / TABLE} names no runs, so there is nothing to report.")
    curves = _curves(study)
    trained = [_trained(study, row, path, curves) for row, path in zip(rows, runs, strict=False)]
    rules, paths = tuple(rows[len(runs) :]), {study / path for path in runs}
    folders = sorted(file.parent for file in study.glob(f"*/*/*/{CONFIG}"))
    return Compared(
        study,
        tuple(trained),
        rules,
        differences,
        notes,
        _metadata(study, trained),
        _constants(study, trained, rules),
        tuple(str(f.relative_to(study)) for f in folders if not (f / DONE).is_file()),
        sum((f / DONE).is_file() and f not in paths for f in folders),
        tuple(table.get("policies", ())),
        presets,
    )


def difference_from(first: Trained, second: Trained) -> Estimate:
    """Return of the first minus the second, paired by patient, with t over the seeds of both.

    Raises:
        UserError: there is one seed, whose patients the study's curves do not keep.
    """
    if len(first.scores) < 2 or first.config.seeds != second.config.seeds:
        raise UserError("--reference needs runs with the same two or more seeds.")
    result = mean_over_seeds((first.scores - second.scores)[:, None])
    return replace(result, n=first.row.recommended.n)


def _curves(study: Path) -> dict[str, dict[int, Array]]:
    """Seed means by run and update."""
    if not (study / CURVES).is_file():
        raise UserError(f"{study / CURVES} is missing; give the compare command again.")
    result: dict[str, dict[int, Array]] = {}
    for (run, update), rows in read_table(study / CURVES).to_pandas().groupby(["run", "update"]):
        result.setdefault(str(run), {})[int(update)] = rows["recommended"].to_numpy(np.float64)
    return result


def _trained(study: Path, row: Row, path: str, curves: Mapping[str, dict[int, Array]]) -> Trained:
    run = RunFolder(study / path)
    checked = run.verify()
    if path not in curves:
        raise UserError(f"{study / CURVES} does not know the run {path}; give the compare command again.")
    seconds = read_table(run.path / METRICS).column("seconds").to_numpy()
    card = read_json(run.path / CARD) if CARD in checked.hashes else {}
    return Trained(
        row,
        path,
        checked.config,
        checked.hashes[WEIGHTS],
        card,
        float(seconds.max()) if len(seconds) else None,
        curves[path],
    )


def _metadata(study: Path, trained: Sequence[Trained]) -> dict[str, DatasetMetadata]:
    """What the files of the data sets say; nothing of one that has gone, or is another by now."""
    result = {}
    for one in trained:
        file = (study / one.path / one.config.data_file).resolve()
        if one.row.data not in result and file.exists():
            metadata = read_metadata(file)
            if metadata.content_hash == one.config.data.content_hash:
                result[one.row.data] = metadata
    return result


def _constants(study: Path, trained: Sequence[Trained], rules: Sequence[Row]) -> dict[str, Array]:
    """Seed means of the estimated constant dose, where they are those that the table was made of."""
    told = {row.data: row.recommended for row in rules if row.is_baseline}
    result: dict[str, Array] = {}
    for one in trained:
        data = one.row.data
        if data in told and data not in result:
            kept = references_of(RunFolder(study / one.path))
            returns = kept["estimated"].returns if kept and "estimated" in kept else np.empty((0, 0))
            if returns.size == told[data].n and np.isclose(returns.mean(), told[data].value):
                result[data] = returns.mean(1)
    return result
