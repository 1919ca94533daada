"""The recorded patients as a list to choose from: how many visits, how it went, what policies say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.theme import decimals, number, with_unit
from dosing.data.earlier_visits import EarlierVisits
from dosing.data.store import Episodes
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.records import Recommender
from dosing.types import Array


@dataclass(frozen=True)
class PatientTable:
    """The P recorded patients in the order of the records, where the visits of one stand together.

    Attributes:
        episodes: the recorded visits.
        patient: numbers ``[P]``.
        first: row of each one's first visit ``[P]``.
        count: number of visits ``[P]``.
    """

    episodes: Episodes
    patient: NDArray[np.int64]
    first: NDArray[np.int64]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, episodes: Episodes) -> PatientTable:
        """Count the visits of every patient."""
        patient, first, count = np.unique(episodes.episode, return_index=True, return_counts=True)
        order = np.argsort(first)
        return cls(episodes, patient[order], first[order], count[order])

    def at_visit(self, visit: int) -> dict[int, str]:
        """For every patient, by number, where a visit stands: ``visit 9 of 24, last dose 0.42``.

        Args:
            visit: from 1; the first for a patient who has no such visit.
        """
        meta = self.episodes.metadata
        places = decimals(max(h - low for low, h in zip(meta.action_low, meta.action_high, strict=True)))
        here = np.where((visit >= 1) & (visit <= self.count), visit, 1)
        last = self.episodes.act[np.maximum(self.first + here - 2, 0)].tolist()
        result = {}
        for patient, at, count, dose in zip(
            self.patient.tolist(), here.tolist(), self.count.tolist(), last, strict=True
        ):
            given = with_unit(", ".join(number(d, places) for d in dose), meta.dose_unit)
            before = "no dose before" if at == 1 else f"last dose {given}"
            result[patient] = f"visit {at} of {count}, {before}"
        return result

    def returns(self) -> Array:
        """Sum of each patient's rewards ``[P]``."""
        return np.asarray(np.add.reduceat(self.episodes.reward.astype(np.float64), self.first))


@dataclass(frozen=True)
class Said:
    """What policies say of every patient.

    Attributes:
        apart: ``[P]`` largest distance between two policies' doses at one visit, in widths of the limits; NaN
            where no visit has two doses.
        deferred: ``[P]`` how many doses were deferred or refused, over visits and policies.
    """

    apart: Array
    deferred: NDArray[np.int64]


def said(table: PatientTable, recommenders: Sequence[Recommender]) -> Said:
    """Ask every policy about every recorded visit, with the visits before it.

    Args:
        table: the patients.
        recommenders: the policies, guarded.
    """
    one = table.episodes
    earlier = EarlierVisits.of_episodes(one.obs, one.act, one.reward, table.first)
    states = one.obs.astype(np.float64)
    answers = [recommend_all(recommender, states, None, earlier) for recommender in recommenders]
    doses = np.stack([answer.dose for answer in answers])  # [N, M, A]
    limits = recommenders[0].rules.limits
    width = np.asarray(limits.high) - np.asarray(limits.low)
    known = np.isfinite(doses)
    low = np.where(known, doses, np.inf).min(0)
    high = np.where(known, doses, -np.inf).max(0)
    apart = np.where(known.sum(0) > 1, (high - low) / width, -np.inf).max(-1)  # [M]
    largest = np.maximum.reduceat(apart, table.first)
    deferred = np.sum([answer.status >= 2 for answer in answers], axis=0)
    return Said(np.where(np.isfinite(largest), largest, np.nan), np.add.reduceat(deferred, table.first))
