"""Tables of several visits of each patient: which columns they have, and everything that is wrong with one.

The rows of a patient stand together, in the order of the visits, from the first visit on. Each row is
answered with the rows before it of the same patient, and with nothing of later ones: the dose of a row is
what was delivered after what was seen in it. As for tables of single states nothing is guessed, and a table
that is not exactly what it should be is refused as a whole, with all that is wrong at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dosing.agent import needs_rewards
from dosing.data.earlier_visits import EarlierVisits
from dosing.data.text_table import Fault, Refused
from dosing.recommendation.patient_table import PATIENT, Sheet, by_dimension, numbers, wanted
from dosing.recommendation.records import EarlierVisit, Recommender, StateEntry
from dosing.types import Array

VISIT, REWARD, DOSE = "visit", "reward", "dose"
"""Columns of a table of visits beside the observed entries and ``patient``."""


@dataclass(frozen=True)
class Visits:
    """The rows of a table of visits.

    Attributes:
        states: ``[M, O]`` seen at each row, NaN where a number is missing.
        dose: ``[M, A]`` delivered then; NaN at a patient's last row where there is none yet.
        reward: ``[M]`` received for it, NaN where it was not recorded.
        starts: row of each patient's first visit.
    """

    states: Array
    dose: Array
    reward: Array
    starts: NDArray[np.int64]

    @property
    def earlier(self) -> EarlierVisits:
        """The visits before each row."""
        return EarlierVisits.of_episodes(self.states, self.dose, self.reward, self.starts)

    def course(self) -> tuple[tuple[float, ...], tuple[EarlierVisit, ...]]:
        """State at the last row, and the visits before it: of a table of one patient."""
        rows = zip(self.states.tolist(), self.dose.tolist(), self.reward.tolist(), strict=True)
        visits = [EarlierVisit(tuple(s), tuple(d), None if np.isnan(r) else r) for s, d, r in rows]
        return visits[-1].state, tuple(visits[:-1])

    def pieces(self, rows: int) -> Iterator[slice]:
        """Parts of at least so many rows, but for the last, with whole patients each."""
        ends = np.r_[self.starts[1:], len(self.states)]
        start = 0
        while start < ends[-1]:
            end = int(ends[min(np.searchsorted(ends, start + rows), len(ends) - 1)])
            yield slice(start, end)
            start = end


def doses_of(recommender: Recommender) -> list[StateEntry]:
    """Columns of the delivered dose, one per dose dimension."""
    limits = recommender.rules.limits
    spans = zip(by_dimension(DOSE, limits.n_act), limits.low, limits.high, strict=True)
    return [StateEntry(name, limits.unit, low, high) for name, low, high in spans]


def holds_visits(names: Collection[str]) -> bool:
    """Whether columns are those of several visits of each patient.

    Raises:
        Refused: one of the columns patient and visit is there without the other.
    """
    there = [name for name in (PATIENT, VISIT) if name in names]
    if len(there) == 1:
        other = VISIT if there == [PATIENT] else PATIENT
        raise Refused(
            [
                f"Column {there[0]!r} goes with a column {other!r}: which rows are whose, in which order. "
                "Without both, every row is a state of its own."
            ]
        )
    return len(there) == 2


def check_columns(recommender: Recommender, names: Collection[str], *, patients: bool) -> None:
    """Refuse columns that a table of visits does not have.

    Args:
        recommender: policy, rules and monitor.
        names: columns of the file.
        patients: whether it holds several patients, by the columns ``patient`` and ``visit``; else it is one
            patient's, and the visit may be left out.

    Raises:
        Refused: a column is missing, or one too many.
    """
    needed = [entry.name for entry in (*wanted(recommender)[0], *doses_of(recommender))]
    needed += [PATIENT, VISIT] if patients else []
    further = [REWARD] if patients else [VISIT, REWARD]
    if needs_rewards(recommender.policy.agent):
        needed.append(REWARD)
    problems = []
    if missing := [name for name in needed if name not in names]:
        problems.append(f"The file lacks {', '.join(missing)}.")
    if other := [name for name in names if name not in (*needed, *further)]:
        problems.append(f"The file has other columns, which may name patients: {', '.join(other)}.")
    if problems:
        free = ", ".join(name for name in further if name not in needed)
        may = f"; {free} may be there" if free else ""
        raise Refused([*problems, f"It must have {', '.join(needed)}{may}."])


def visits_of(
    sheet: Sheet, recommender: Recommender, columns: Mapping[str, str] | None = None, *, patients: bool
) -> Visits:
    """The rows of a table of visits.

    Args:
        sheet: the file.
        recommender: policy, rules and monitor.
        columns: the file's column of every observed entry and dose, by the entry's name; the same name where
            none is told.
        patients: as for :func:`check_columns`. A table of one patient ends with the visit at hand, which has
            neither dose nor reward yet; of several patients any visit may have both.

    Raises:
        Refused: values are no numbers; visits are not 1, 2, 3, ...; rows of a patient do not stand together;
            a dose is missing or outside the hard limits, or there where none can be: everything at once.
    """
    if needs_rewards(recommender.policy.agent) and REWARD not in sheet.columns:
        raise Refused([f"The file lacks {REWARD}: this policy aims at a return, less what was received."])
    entries, doses = list(wanted(recommender)[0]), doses_of(recommender)
    own = [StateEntry(name) for name in (REWARD, VISIT) if name in sheet.columns]
    asked = [*entries, *doses, *own]
    chosen = {entry.name: entry.name for entry in asked} | dict(columns or {})
    values = numbers(sheet, chosen, asked)
    width, last = len(entries), len(entries) + len(doses)
    by_name = {entry.name: values[:, last + k] for k, entry in enumerate(own)}
    rows = np.arange(sheet.rows)
    starts = np.zeros(1, dtype=np.int64)
    faults: list[Fault] = []
    if patients:
        who = _patients(sheet)
        starts = np.flatnonzero(np.r_[True, who[1:] != who[:-1]])
        faults += _apart(who, starts)
    visit = rows - starts[np.searchsorted(starts, rows, side="right") - 1] + 1
    if VISIT in by_name:
        faults += _out_of_order(by_name[VISIT], visit)
    reward = by_name.get(REWARD, np.full(sheet.rows, np.nan))
    at_end = np.r_[np.diff(starts), sheet.rows - starts[-1]].cumsum() - 1
    faults += _wrong_doses(values[:, width:last], doses, at_end, at_hand=not patients)
    if not patients and np.isfinite(reward[-1]):
        faults.append((sheet.rows, f"Row {sheet.rows}, {REWARD}: the visit at hand has no reward yet."))
    if faults:
        raise Refused([words for _, words in sorted(faults, key=lambda fault: fault[0])])
    return Visits(values[:, :width], values[:, width:last], reward, starts)


def _patients(sheet: Sheet) -> NDArray[np.object_]:
    """Whose each row is, as text.

    Raises:
        Refused: it is missing somewhere, or is neither text nor a number.
    """
    column = sheet.columns[PATIENT]
    if isinstance(column, pa.DataType):
        raise Refused([f"Column {PATIENT!r} holds {column}, neither texts nor numbers."])
    if not isinstance(column, list):
        column = column.cast(pa.string()).fill_null("").to_pylist()
    texts: list[str] = column
    if empty := [row for row, text in enumerate(texts, 1) if not text.strip()]:
        raise Refused([f"Row {row}, {PATIENT}: is missing." for row in empty])
    return np.array([text.strip() for text in texts], dtype=object)


def _apart(who: NDArray[np.object_], starts: NDArray[np.int64]) -> Iterator[Fault]:
    """Rows at which a patient comes again after another one."""
    _, first, patient = np.unique(who[starts], return_index=True, return_inverse=True)
    before = first[patient]  # where the patient of each run of rows came first
    for again in np.flatnonzero(before != np.arange(len(starts))).tolist():
        row, other = starts[again] + 1, starts[before[again]] + 1
        yield (
            int(row),
            f"Row {row}, {PATIENT}: the patient of row {other} comes again after another one; the rows of a "
            "patient must stand together.",
        )


def _out_of_order(told: Array, visit: NDArray[np.int64]) -> Iterator[Fault]:
    """Rows whose visit is not the one that follows the row before, from 1 at a patient's first row."""
    for row in np.flatnonzero(told != visit).tolist():
        number, where = told[row], f"Row {row + 1}, {VISIT}:"
        before = None if visit[row] == 1 else told[row - 1]
        if np.isnan(number):
            yield row + 1, f"{where} is missing."
        elif number != np.floor(number):
            yield row + 1, f"{where} must be a whole number, got {number:g}."
        elif before is None:
            yield row + 1, f"{where} a patient's first visit is 1, got {number:g}; all visits are needed."
        elif number == before:
            yield row + 1, f"{where} visit {number:g} is there twice."
        elif number < before:
            yield row + 1, f"{where} visit {number:g} stands after visit {before:g}; visits must be in order."
        elif number != before + 1:
            yield row + 1, f"{where} visit {number:g} follows visit {before:g}; all visits are needed."


def _wrong_doses(
    dose: Array, entries: list[StateEntry], ends: NDArray[np.int64], *, at_hand: bool
) -> Iterator[Fault]:
    """Doses that are missing before a patient's last row, outside the hard limits, or given already."""
    last = np.zeros(len(dose), dtype=np.bool_)
    last[ends] = True
    low, high = np.array([(entry.low, entry.high) for entry in entries]).T
    missing = np.isnan(dose)
    partly = last & missing.any(1) & ~missing.all(1)
    wrong = np.where(last[:, None], partly[:, None] & missing, missing) | (dose < low) | (dose > high)
    wrong |= last[:, None] & ~missing & at_hand
    for row, place in np.argwhere(wrong).tolist():
        where, value = f"Row {row + 1}, {entries[place].name}:", dose[row, place]
        if last[row] and at_hand:
            yield row + 1, f"{where} the last row is the visit at hand, which has no dose yet, got {value:g}."
        elif missing[row, place]:
            yield row + 1, f"{where} is missing; a patient's last visit alone may have none yet."
        else:
            yield row + 1, f"{where} must be {entries[place].allowed}, got {value:.9g}."
