"""Insulin and carbohydrate that are given but have not acted yet.

The insulin curve is the exponential one of Loop and oref0: duration 300 min, peak of activity at 75 min.
Carbohydrate disappears linearly over 180 min after it was announced.
"""

from __future__ import annotations

import numpy as np

from dosing.types import Array

DURATION_MIN = 300
PEAK_MIN = 75
CARBOHYDRATE_MIN = 180


def insulin_left(minutes: Array) -> Array:
    """Share of insulin still to act some minutes after it was given, of the shape of ``minutes``."""
    tau = PEAK_MIN * (1 - PEAK_MIN / DURATION_MIN) / (1 - 2 * PEAK_MIN / DURATION_MIN)
    a = 2 * tau / DURATION_MIN
    scale = 1 / (1 - a + (1 + a) * np.exp(-DURATION_MIN / tau))
    t = np.clip(minutes, 0.0, DURATION_MIN)
    bend = (t**2 / (tau * DURATION_MIN * (1 - a)) - t / tau - 1) * np.exp(-t / tau) + 1
    left: Array = 1 - scale * (1 - a) * bend
    return left


def carbohydrate_left(minutes: Array) -> Array:
    """Share of carbohydrate still to act some minutes after it was announced."""
    return np.clip(1 - minutes / CARBOHYDRATE_MIN, 0.0, 1.0)


class OnBoard:
    """What P patients were given minute by minute, as long as it acts."""

    def __init__(self, left: Array, patients: int) -> None:
        """Begin with nothing given.

        Args:
            left: share that is left 0, 1, ... minutes after it was given [L].
            patients: P.
        """
        self._left = left[:, None]
        self._patients = patients
        # A sum over rows of two columns or more adds row after row; one column alone would be summed in
        # another order and round otherwise.
        self._given = np.zeros((len(left), max(patients, 2)))

    def give(self, amounts: Array) -> None:
        """Add what was given in each of the last m minutes, the latest last [m, P]."""
        m = len(amounts)
        self._given[m:] = self._given[:-m].copy()
        self._given[:m, : self._patients] = amounts[::-1]

    def total(self, minutes: int = 0) -> Array:
        """What will be left after ``minutes`` without more [P], in the unit of what was given."""
        shares = self._left[minutes:] * self._given[: len(self._given) - minutes]
        total: Array = shares.sum(axis=0)[: self._patients]
        return total
