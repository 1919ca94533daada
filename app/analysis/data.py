"""Visits as tables, quantities and files to take away; simulating a cohort within a bound. No Streamlit."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dosing import NOT_FOR_PATIENTS
from dosing.data.store import Episodes, write_episodes
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.recommendation.units import headed
from dosing.safety import LIMITED_BY, DoseLimits
from dosing.types import AnyArray
from simulator.cohorts.generate import simulate
from simulator.engine.scenario import Choice
from simulator.envs import PACKAGED, SCENARIOS, scenario_class
from simulator.envs.registered import file_ids, load_trusted_files
from simulator.scenarios import evaluation_factory

MOST_PATIENTS, MOST_VISITS = 10_000, 240_000
"""Largest cohort that the dashboard simulates, in patients and in visits of all of them: under a second."""

MOST_SINGLE_VISITS = 10_000
"""The same for an environment that steps its patients one by one."""

SHOWN = 16
"""Observed entries drawn as histograms; a history has many more."""


@dataclass(frozen=True)
class Offered:
    """What can be chosen of a scenario."""

    variants: tuple[str, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """Its options that have a few values."""
    policies: tuple[str, ...] = ()
    """Behaviour policies beside uniform and constant doses."""


def environments() -> list[str]:
    """Ids of the scenarios, those of packages and of files that a person named among them.

    Raises:
        UserError: a file that was named cannot be loaded.
    """
    load_trusted_files()
    return list(dict.fromkeys([*SCENARIOS, *file_ids(), *PACKAGED]))


def offered(env_id: str) -> Offered:
    """What can be chosen of a scenario.

    Raises:
        UserError: the package that brings it cannot be loaded.
    """
    if env_id not in SCENARIOS:
        return Offered()
    scenario = scenario_class(env_id)
    return Offered(scenario.variants, scenario.choices, ("titration", *scenario.policies))


def limits(env_id: str, variant: str) -> DoseLimits:
    """Hard dose limits; an empty variant is none."""
    return evaluation_factory(env_id, _options(variant)).limits


def _options(variant: str) -> dict[str, Any]:
    return {"variant": variant} if variant else {}


def most_patients(env_id: str, variant: str) -> int:
    """Largest cohort of a scenario that stays within both bounds."""
    visits = MOST_VISITS if env_id in SCENARIOS else MOST_SINGLE_VISITS
    return max(1, min(MOST_PATIENTS, visits // evaluation_factory(env_id, _options(variant)).horizon))


def cohort(
    env_id: str, variant: str, patients: int, seed: int, policy: str, options: tuple[tuple[str, Any], ...]
) -> Episodes:
    """Simulate a cohort with options of the environment; see ``simulator.cohorts.generate.simulate``."""
    return simulate(env_id, patients=patients, policy=policy, seed=seed, **_options(variant), **dict(options))


def quantity_names(episodes: Episodes) -> list[str]:
    """Names of the observed entries."""
    return list(episodes.metadata.obs_names) or [f"s{i + 1}" for i in range(episodes.obs.shape[1])]


def head(episodes: Episodes, rows: int) -> pd.DataFrame:
    """The first visits as a table with the names of the file; visits count from 1."""
    part = slice(0, rows)
    frame = pd.DataFrame({"patient": episodes.episode[part], "visit": episodes.step[part] + 1})
    meta, names = episodes.metadata, quantity_names(episodes)
    units = meta.obs_units or ("1",) * len(names)
    columns = [headed(name, unit) for name, unit in zip(names, units, strict=True)]
    frame[columns] = episodes.obs[part].round(3)
    dose = meta.dose_name
    for k in range(episodes.act.shape[1]):
        name = dose if episodes.act.shape[1] == 1 else f"{dose} {k + 1}"
        frame[headed(f"{name} requested", meta.dose_unit)] = episodes.act_requested[part, k].round(3)
        frame[headed(f"{name} given", meta.dose_unit)] = episodes.act[part, k].round(3)
    frame["held by"] = [LIMITED_BY[code] or "\N{EM DASH}" for code in episodes.limited_by[part]]
    frame["reward"] = episodes.reward[part].round(3)
    frame["cost"] = episodes.cost[part].round(3)
    return frame


def quantities(episodes: Episodes) -> list[Quantity]:
    """Observed entries (at most :data:`SHOWN`), doses given and rewards, one value per visit."""
    meta, names = episodes.metadata, quantity_names(episodes)
    units = meta.obs_units or ("1",) * len(names)
    states = [
        Quantity(name, unit, episodes.obs[:, k])
        for k, (name, unit) in enumerate(zip(names, units, strict=True))
    ]
    low, high, unit = meta.action_low, meta.action_high, meta.dose_unit
    name, width = meta.dose_name, episodes.act.shape[1]
    doses = [
        Quantity(
            f"{name} given" if width == 1 else f"{name} {k + 1} given",
            unit,
            episodes.act[:, k],
            (float(low[k]), float(high[k])),
        )
        for k in range(width)
    ]
    return [*states[:SHOWN], *doses, Quantity("reward", "1", episodes.reward)]


def mean_return(episodes: Episodes) -> Estimate | None:
    """Mean undiscounted return of the patients; None for one patient, who has no interval."""
    returns = pd.Series(episodes.reward.astype(np.float64)).groupby(episodes.episode).sum().to_numpy()
    return mean_over_seeds(returns) if len(returns) > 1 else None


def patient_rows(episodes: Episodes, place: int) -> np.ndarray:
    """Rows of the patient at this place of the file, from 1."""
    return np.flatnonzero(episodes.episode == np.unique(episodes.episode)[place - 1])


def export(episodes: Episodes, suffix: str) -> bytes:
    """The visits as a file, ``.parquet`` or ``.csv``, with the notice in its metadata."""
    noticed = replace(episodes, metadata=replace(episodes.metadata, notice=NOT_FOR_PATIENTS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"visits{suffix}"
        write_episodes(noticed, path)
        return path.read_bytes()


@dataclass(frozen=True)
class Quantity:
    """One column of the visits.

    Attributes:
        name: of the quantity.
        unit: its unit.
        values: one per visit ``[M]``.
        limits: levels drawn as lines, such as the hard limits of a dose.
    """

    name: str
    unit: str
    values: AnyArray
    limits: tuple[float, ...] = ()
