"""How far the study on show is; looked at again every few seconds, for all sessions once."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.readers.study import study
from dosing.studies.progress import StudyProgress, UnfinishedRun, progress_of

EVERY = 5
"""Seconds between two looks."""


@st.cache_data(ttl=EVERY - 1, show_spinner=False)
def _progress(path: str) -> StudyProgress:
    del path
    return progress_of(study())


def progress() -> StudyProgress:
    """How far the study is."""
    return _progress(str(study()))


def rows(runs: tuple[UnfinishedRun, ...]) -> pd.DataFrame:
    """Unfinished runs, one row each, those written last first."""
    return pd.DataFrame(
        {
            "run": [str(run.path) for run in runs],
            "data set": [run.data for run in runs],
            "seeds": [run.seeds for run in runs],
            "updates at the last checkpoint": [run.update for run in runs],
            "updates in all": [run.updates or None for run in runs],
            "done": [run.update / run.updates if run.updates else None for run in runs],
            "last written": [f"{duration(run.silent)} ago" for run in runs],
        }
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: ``42 s``, ``7 min``, ``3.5 h``."""
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"
