"""The list of recorded patients in the order of what matters: who did worst, where policies disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import streamlit as st

from app.analysis.patients import PatientTable, Said, said
from app.readers import study
from app.theme import counted, number
from app.widgets import page
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.types import Array

NUMBER, WORST, APART, DEFERRED = "number", "worst outcome", "disagreement", "deferrals"
ORDERS = (NUMBER, WORST, APART, DEFERRED)


def ordered(
    episodes: Episodes, table: PatientTable, runs: Sequence[study.Run], order: str
) -> tuple[list[int], list[str]]:
    """Numbers of the patients, the most notable first, each with the words of what it is ordered by.

    Args:
        episodes: the recorded visits.
        table: of their patients.
        runs: whose answers count.
        order: one of :data:`ORDERS`.
    """
    patients = table.patient.tolist()
    if order == NUMBER:
        return patients, [""] * len(patients)
    if order == WORST:
        returns = table.returns()
        return _sorted(patients, returns, lambda value: f" (return {number(value, 1)})")
    try:
        keys = tuple(str(study.recommender(run).provenance["weights"]) for run in runs)
        result = _said((episodes.metadata.content_hash, *keys), table, [*runs])
    except UserError as error:
        page.problems([f"the order by {order}: {error}"])
        return patients, [""] * len(patients)
    if order == APART:
        return _sorted(patients, -result.apart, lambda value: _apart(-value))
    deferred = -result.deferred.astype(np.float64)
    return _sorted(patients, deferred, lambda value: f" ({counted(int(-value), 'deferral')})")


def _apart(value: float) -> str:
    share = "no two doses" if np.isnan(value) else f"doses up to {100 * value:.0f}\N{NO-BREAK SPACE}% apart"
    return f" ({share})"


def _sorted(patients: list[int], by: Array, words: Callable[[float], str]) -> tuple[list[int], list[str]]:
    order = np.argsort(by, kind="stable").tolist()  # NaN last
    return [patients[k] for k in order], [words(float(by[k])) for k in order]


@st.cache_resource(show_spinner="Asking every policy about every recorded visit", max_entries=8)
def _said(key: tuple[str, ...], _table: PatientTable, _runs: list[study.Run]) -> Said:
    """What the policies say of all patients; the key names everything that decides it."""
    del key
    return said(_table, [study.recommender(run) for run in _runs])
