"""What happened to each evaluated patient, in memory and as a table on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dosing.runs.files import read_table, write_table
from dosing.types import Array


@dataclass(frozen=True)
class Outcomes:
    """What happened to each evaluated patient; arrays are ``[S, P]``.

    Attributes:
        seeds: the S training seeds (one pseudo-seed for a rule that was not trained).
        returns: undiscounted sum of rewards over the visits.
        cost: sum of the safety cost.
        limited: share of visits whose requested dose was held at a hard limit.
        dose: mean delivered dose, averaged over dose dimensions.
        visits: until the episode ended, at the latest the scenario's horizon; NaN in a file of an earlier
            version, which did not keep it.
        events: visits with each safety event that the scenario names; empty where it names none, or in a
            file of an earlier version.
        in_range: visits at which what the scenario's clinicians keep in a range truly lay there; None where
            there is no such quantity, or in a file of an earlier version.
        success: 1 for an episode at one of whose visits the environment reported success, else 0; None where
            it does not report any, or in a file of an earlier version.
    """

    seeds: tuple[int, ...]
    returns: Array
    cost: Array
    limited: Array
    dose: Array
    visits: Array
    events: Mapping[str, Array] = field(default_factory=dict)
    in_range: Array | None = None
    success: Array | None = None


EVENT = "event: "
"""Begins the column of a safety event."""

IN_RANGE = "in_range"
"""Column of the visits within the range."""

SUCCESS = "success"
"""Column of the success of an episode."""

MEASURES = ("returns", "cost", "limited", "dose", "visits")


def write_outcomes(path: Path, outcomes: dict[str, Outcomes]) -> None:
    """Write one row per rule, seed and patient as parquet."""
    columns: dict[str, list[Any]] = {k: [] for k in ("rule", "seed", "patient")}
    values: dict[str, list[Array]] = {k: [] for k in MEASURES}
    for rule, result in outcomes.items():
        n_seeds, patients = result.returns.shape
        columns["rule"] += [rule] * (n_seeds * patients)
        columns["seed"] += np.repeat(result.seeds, patients).tolist()
        columns["patient"] += np.tile(np.arange(patients), n_seeds).tolist()
        for name in MEASURES:
            values[name].append(getattr(result, name).reshape(-1))
        for name, counts in result.events.items():
            values.setdefault(EVENT + name, []).append(counts.reshape(-1))
        if result.in_range is not None:
            values.setdefault(IN_RANGE, []).append(result.in_range.reshape(-1))
        if result.success is not None:
            values.setdefault(SUCCESS, []).append(result.success.reshape(-1))
    write_table(path, columns | {name: np.concatenate(parts) for name, parts in values.items()})


def read_outcomes(path: Path) -> dict[str, Outcomes]:
    """Read :func:`write_outcomes`."""
    table = read_table(path).to_pandas()
    result: dict[str, Outcomes] = {}
    for rule, rows in table.groupby("rule", sort=False):
        seeds = tuple(int(s) for s in rows["seed"].unique())
        if "visits" not in rows:
            rows = rows.assign(visits=np.nan)
        arrays = {name: rows[name].to_numpy(np.float64).reshape(len(seeds), -1) for name in MEASURES}
        events = {
            str(name).removeprefix(EVENT): rows[name].to_numpy(np.float64).reshape(len(seeds), -1)
            for name in rows.columns
            if str(name).startswith(EVENT)
        }
        more = {
            name: rows[name].to_numpy(np.float64).reshape(len(seeds), -1)
            for name in (IN_RANGE, SUCCESS)
            if name in rows
        }
        result[str(rule)] = Outcomes(seeds, **arrays, events=events, **more)
    return result
