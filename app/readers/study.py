"""Cached readers of a study folder.

Everything is keyed by path and modification times, so a changed file is read again, and a damaged one gives a
sentence while the rest still shows. Nothing is written or trained here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

import agents
from app.theme import OTHER, Mark, mark
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.recommendation.records import Recommender
from dosing.runs.config import RunConfig
from dosing.runs.files import read_json, read_table
from dosing.runs.folder import (
    CARD,
    CONFIG,
    DONE,
    METRICS,
    NOVELTY,
    NOVELTY_VISITS,
    WEIGHTS,
    RunFolder,
    find_runs,
)
from dosing.studies import data as studies_data
from dosing.studies import loading, naming
from dosing.studies.comparison_table import Row

Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """A finished run as the pages need it.

    Attributes:
        folder: where it is.
        config: its ``config.json``.
        entry: its agent in the registry.
        label: the agent's title, with the run's key where the study holds several runs of that agent.
        place: in the study's whole list, from 0.
    """

    folder: RunFolder
    config: RunConfig
    entry: agents.AgentSpec
    label: str
    place: int = 0

    @property
    def mark(self) -> Mark:
        """Its colour and symbol on every page, in every legend and table."""
        return mark(self.place)

    @property
    def family(self) -> str:
        """Distribution of its policy, in words."""
        return naming.family_of(self.config)

    @property
    def spelled(self) -> str:
        """What its label stands for, and its distribution: ``full name: family``."""
        return ": ".join(filter(None, (self.entry.full_name, self.family)))

    @property
    def data(self) -> str:
        """Hash of the data it was trained on: runs that share it can stand in one chart."""
        return self.config.data.content_hash


@dataclass(frozen=True)
class Listing:
    """What a study folder holds: readable runs, sentences about the unreadable, unfinished folders."""

    runs: tuple[Run, ...]
    problems: tuple[str, ...]
    unfinished: tuple[Path, ...]

    def mark_of(self, path: str) -> Mark:
        """Mark of the run in a folder of the study; grey where that holds no readable run."""
        marks = {str(run.folder.path.relative_to(study())): run.mark for run in self.runs}
        return marks.get(path, OTHER)

    def free_mark(self, index: int) -> Mark:
        """A mark that no run of the study has, for what is no run."""
        return mark(len(self.runs) + index)


def study() -> Path:
    """The study folder on show, set by ``python -m dosing app --out``."""
    return Path(os.environ.get("DOSING_STUDY", "runs/demo"))


def listing() -> Listing:
    """List the study's runs."""
    result: list[tuple[RunFolder, RunConfig, agents.AgentSpec]] = []
    problems = []
    for folder in find_runs(study()):
        try:
            config = _config(str(folder.path), _stamp(folder.path / CONFIG))
            result.append((folder, config, agents.find(config.agent)))
        except UserError as error:
            problems.append(str(error))
    titles = [entry.title for _, _, entry in result]
    runs = tuple(
        Run(f, c, e, e.title if titles.count(e.title) == 1 else f"{e.title} {f.path.name[:6]}", place)
        for place, (f, c, e) in enumerate(result)
    )
    unfinished = sorted(p.parent for p in study().glob(f"*/*/*/{CONFIG}") if not (p.parent / DONE).is_file())
    return Listing(runs, tuple(problems), tuple(unfinished))


def recommender(run: Run) -> Recommender:
    """The guarded recommender before the run's policy, verified against the hashes of its files.

    Raises:
        UserError: the run is damaged.
    """
    path = run.folder.path
    names = (CONFIG, WEIGHTS, METRICS, CARD, NOVELTY, NOVELTY_VISITS, DONE)
    return _recommender(str(path), _stamp(*(path / name for name in names)))


def episodes(run: Run) -> Episodes:
    """The recorded visits the run was trained on.

    Raises:
        UserError: the file has gone, was changed or is another one.
    """
    file = Path(os.path.normpath(run.folder.path / run.config.data_file))
    return _episodes(str(run.folder.path), _stamp(run.folder.path / CONFIG, file))


def metrics(run: Run) -> pd.DataFrame:
    """The run's training metrics: step, seed, name, value.

    Raises:
        UserError: the file is damaged.
    """
    file = run.folder.path / METRICS
    return _metrics(str(file), _stamp(file))


def table() -> tuple[list[Row], list[str]] | None:
    """Rows of the study's table and the run folders it was made from; None if there is none yet.

    Agents stand first, in the order of :func:`listing`, each beside its folder; rules follow.

    Raises:
        UserError: the file is damaged.
    """
    file = study() / naming.TABLE
    return _table(str(file), _stamp(file)) if file.is_file() else None


def measured(run: Run) -> Row | None:
    """The run's line in the study table; None if it is not there or the table cannot be read."""
    try:
        result = table()
    except UserError:
        return None
    path = str(run.folder.path.relative_to(study()))
    rows = dict(zip(result[1], result[0], strict=False)) if result else {}  # agents' rows come first
    return rows.get(path)


def _stamp(*files: Path) -> Stamp:
    """Modification times in ns; 0 for a file that is not there."""
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


@st.cache_data(show_spinner=False)
def _config(path: str, stamp: Stamp) -> RunConfig:
    return RunFolder(Path(path)).config()


@st.cache_resource(show_spinner="Loading the policy and checking its hashes", max_entries=32)
def _recommender(path: str, stamp: Stamp) -> Recommender:
    return loading.recommender_of(RunFolder(Path(path)))


@st.cache_resource(show_spinner="Reading the recorded visits", max_entries=4)
def _episodes(path: str, stamp: Stamp) -> Episodes:
    return studies_data.episodes_of(RunFolder(Path(path)))


@st.cache_data(show_spinner="Reading the training curves", max_entries=32)
def _metrics(path: str, stamp: Stamp) -> pd.DataFrame:
    frame: pd.DataFrame = read_table(Path(path)).to_pandas()
    return frame


@st.cache_data(show_spinner=False)
def _table(path: str, stamp: Stamp) -> tuple[list[Row], list[str]]:
    content = read_json(Path(path))
    try:
        rows, paths = [Row.from_json(row) for row in content["rows"]], list(content["runs"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a study table of this version; run the demo again.") from error
    order = sorted(range(min(len(rows), len(paths))), key=lambda k: Path(paths[k]))
    return [*(rows[k] for k in order), *rows[len(order) :]], [paths[k] for k in order]
