"""Cached readers of what a study measured: evaluation outcomes, the evaluated patients, training curves."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import streamlit as st

from app.readers.study import Run, study
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes, read_outcomes
from dosing.evaluation.rollout import REFERENCE_SEED
from dosing.runs.files import read_json, read_table, sha256
from dosing.runs.folder import EPISODES, EVALUATION
from dosing.studies import naming, scenarios
from simulator.cohorts.evaluated import Evaluated, evaluated
from simulator.scenarios import CohortFactory

RULES = ("recommended", "sampled")
"""How doses were taken from a policy in its evaluation."""


def outcomes(run: Run) -> dict[str, Outcomes] | None:
    """What happened to the patients the run was evaluated on; None if it was not evaluated.

    Raises:
        UserError: the record is damaged or not that of the outcomes beside it.
    """
    path = run.folder.path
    record, file = path / EVALUATION, path / EPISODES
    if not record.is_file() or not file.is_file():
        return None
    return _outcomes(str(path), record.stat().st_mtime_ns, file.stat().st_mtime_ns)


def patients(run: Run, result: Outcomes) -> Evaluated:
    """Who the patients of these outcomes are.

    Raises:
        UserError: they came from no simulator here, or from one without patients.
    """
    factory = scenarios.factory_of(run.folder)
    if not isinstance(factory, CohortFactory):
        raise UserError(f"{factory.env_id} has episodes, not patients.")
    options = json.dumps(factory.options, sort_keys=True)
    return _patients(factory.env_id, options, result.seeds, result.returns.shape[1])


def curves() -> pd.DataFrame | None:
    """Returns along training of every run of the study (``curves.parquet``); None where there are none.

    Raises:
        UserError: the file is damaged.
    """
    file = study() / naming.CURVES
    return _curves(str(file), file.stat().st_mtime_ns) if file.is_file() else None


@st.cache_resource(show_spinner="Reading the evaluation", max_entries=32)
def _outcomes(path: str, *stamp: int) -> dict[str, Outcomes]:
    record, file = Path(path) / EVALUATION, Path(path) / EPISODES
    if read_json(record).get("episodes") != sha256(file):
        raise UserError(f"{file} was changed or truncated since the evaluation; it is not used.")
    return read_outcomes(file)


@st.cache_resource(show_spinner="Bringing the evaluated patients back", max_entries=8)
def _patients(env_id: str, options: str, seeds: tuple[int, ...], count: int) -> Evaluated:
    return evaluated(env_id, seeds, count, REFERENCE_SEED, **json.loads(options))


@st.cache_data(show_spinner="Reading the returns along training", max_entries=4)
def _curves(path: str, stamp: int) -> pd.DataFrame:
    frame: pd.DataFrame = read_table(Path(path)).to_pandas()
    needed = {"name", "data", "run", "update", "seed", *RULES}
    if missing := needed - set(frame.columns):
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}; compare the agents again.")
    return frame
