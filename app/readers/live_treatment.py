"""Cached readers of a study's trials: what live treatment did to the policies and to the patients."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from app.readers.study import study
from app.theme import counted
from dosing.errors import UserError
from dosing.finetuning.trial import CURVE, TREATED
from dosing.runs.folder import CONFIG, DONE, RunFolder
from dosing.studies.finetune_table import (
    STARTS,
    TABLE,
    TRIALS,
    Standing,
    returns_of_starts,
    titles_of,
    trial_folders,
)


@dataclass(frozen=True)
class TrialSummary:
    """A trial with what the page calls it.

    Attributes:
        label: title of its method, and of what it started from where the trials differ in that.
        trial: what its folder says.
        start: mean return of the offline policy by seed, on the same evaluation patients; None if unknown.
    """

    label: str
    trial: Standing
    start: pd.Series | None


@dataclass(frozen=True)
class MethodCurve:
    """Trials that can stand in one picture: same data, environment, seeds and settings.

    Attributes:
        label: data, visits, updates per visit and seeds.
        rivals: in the order of the last command's table.
    """

    label: str
    rivals: tuple[TrialSummary, ...]


def groups() -> tuple[list[MethodCurve], list[str]]:
    """The study's trials, and sentences about the unreadable ones."""
    try:
        folders, titles = trial_folders(study()), _titles()
    except UserError as error:
        return [], [str(error)]
    result: dict[str, list[Standing]] = {}
    problems = []
    for folder in folders:
        path = folder.path
        try:
            trial = _trial(str(path), *(_stamp(path / n) for n in (CONFIG, CURVE, TREATED, DONE)))
        except UserError as error:
            problems.append(str(error))
            continue
        result.setdefault(trial.shared, []).append(trial)
    starts: dict[Path, pd.Series] = {}
    try:
        starts = _starts(str(study()), _stamp(study() / TRIALS / STARTS))
    except UserError as error:
        problems.append(str(error))
    made = []
    names = _names([trials[0] for trials in result.values()])
    for name, trials in zip(names, result.values(), strict=True):
        labels = _labels(trials, titles)
        rivals = tuple(
            TrialSummary(label, trial, starts.get(trial.offline))
            for label, trial in zip(labels, trials, strict=True)
        )
        made.append(MethodCurve(name, rivals))
    return made, problems


def _names(trials: list[Standing]) -> list[str]:
    """What each group of trials shares, in words; with a key where the words are the same."""
    names = []
    for trial in trials:
        config = trial.run.config()
        assert config.trial is not None  # Standing.of refuses other runs
        settings, seeds = config.trial.settings, counted(len(config.trial.start_seeds), "seed")
        budget = settings.get("harm_budget")
        names.append(
            f"{config.data.name}: {settings['visits']:,} visits, {settings['updates_per_visit']:g} "
            f"updates per visit, {seeds}"
            + ("" if budget is None else f", harm budget {budget:g} per patient")
        )
    return [
        name
        if names.count(name) == 1
        else f"{name} ({hashlib.sha256(trial.shared.encode()).hexdigest()[:6]})"
        for name, trial in zip(names, trials, strict=True)
    ]


def _labels(trials: list[Standing], titles: dict[str, str]) -> list[str]:
    """Titles of the last command's table; else of the method, with the start and key as far as needed."""
    several = len({trial.offline for trial in trials}) > 1
    labels = []
    for trial in trials:
        own = titles.get(str(trial.run.path.relative_to(study())))
        labels.append(own or trial.title + (f" from {trial.agent}" if several else ""))
    return [
        label if labels.count(label) == 1 else f"{label} {trial.run.path.name[:6]}"
        for label, trial in zip(labels, trials, strict=True)
    ]


def _titles() -> dict[str, str]:
    return _read_titles(str(study()), _stamp(study() / TRIALS / TABLE))


def _stamp(file: Path) -> int:
    """Modification time in ns; 0 for a file that is not there."""
    return file.stat().st_mtime_ns if file.is_file() else 0


@st.cache_resource(show_spinner="Reading the trials", max_entries=64)
def _trial(path: str, *stamp: int) -> Standing:
    return Standing.of(RunFolder(Path(path)))


@st.cache_data(show_spinner=False, max_entries=4)
def _read_titles(path: str, stamp: int) -> dict[str, str]:
    return titles_of(Path(path))


@st.cache_resource(show_spinner=False, max_entries=4)
def _starts(path: str, stamp: int) -> dict[Path, pd.Series]:
    return returns_of_starts(Path(path))
