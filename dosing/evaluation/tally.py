"""Outcomes of more patients than memory holds: exact means, spreads and lower tails, a stretch at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.special import ndtri, stdtrit

from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, lower_tail, mean_over_seeds
from dosing.types import Array

LEVEL = 0.95


class Tally:
    """Values of S rows of patients that come a stretch at a time: their mean, spread and lowest ones.

    Mean and sum of squared deviations are joined in float64 (Chan, Golub, LeVeque 1983, The American
    Statistician 37:242). Of the lower tail the values themselves are kept, as many as the tail will hold: 0.4
    byte per patient for one twentieth, and nothing else grows with the patients.

    Args:
        rows: S; 1 for a rule without seeds, whose patients count as one sample.
        patients: P that will come for every row.
        tail: share of the patients in the lower tail; 0 keeps none.
    """

    def __init__(self, rows: int, patients: int, tail: float = 0.0) -> None:
        self.patients, self.tail, self.count = patients, tail, 0
        self.mean, self._squares = np.zeros(rows), np.zeros(rows)
        self._keep = math.ceil(tail * patients) if tail * patients >= 1.0 else 0
        self._lowest = np.empty((rows, 0))

    def add(self, values: Array) -> None:
        """Take in the values ``[S, P']`` of the next patients."""
        n, total = values.shape[1], self.count + values.shape[1]
        mean = values.mean(1)
        apart = mean - self.mean
        self._squares += np.square(values - mean[:, None]).sum(1) + apart**2 * (self.count * n / total)
        self.mean += apart * (n / total)
        self.count = total
        if self._keep:
            both = np.concatenate((self._lowest, values), 1)
            kept = min(self._keep, both.shape[1])
            self._lowest = np.partition(both, kept - 1, axis=1)[:, :kept]

    def estimate(self) -> Estimate:
        """Mean with its 95 % interval, that of :func:`dosing.evaluation.statistics.mean_over_seeds`.

        Raises:
            UserError: the patients have not all come, or there is one patient of one row.
        """
        self._check()
        n = self.count * len(self.mean)
        if len(self.mean) > 1:
            return replace(mean_over_seeds(self.mean[:, None]), n=n)
        if self.count < 2:
            raise UserError("one patient has no spread to make an interval from; give at least 2 per seed")
        value = float(self.mean[0])
        half = float(stdtrit(self.count - 1, 0.5 + LEVEL / 2))
        half *= math.sqrt(float(self._squares[0]) / (self.count - 1) / self.count)
        return Estimate(value, value - half, value + half, LEVEL, n, 1, "t over patients")

    def lower_tail(self) -> Estimate | None:
        """Mean of the worst ``tail`` of the patients (CVaR), exact; None where that is less than one patient.

        Several rows: t over the rows' own values. One row: normal, with the asymptotic variance of Manistre,
        Hancock 2005 (North American Actuarial Journal 9:129), in place of a bootstrap over the patients.
        """
        self._check()
        if not self._keep:
            return None
        values = lower_tail(self._lowest, self.tail * self.patients / self._keep)
        n = self.count * len(self.mean)
        if len(self.mean) > 1:
            return replace(mean_over_seeds(values[:, None]), n=n)
        value, worst = float(values[0]), self._lowest[0]
        spread = worst.var() + (1.0 - self.tail) * (worst.max() - value) ** 2
        half = float(ndtri(0.5 + LEVEL / 2)) * math.sqrt(spread / (self.tail * self.count))
        return Estimate(value, value - half, value + half, LEVEL, n, None, "normal, asymptotic variance")

    def _check(self) -> None:
        if self.count != self.patients:
            raise UserError(f"{self.count:,} of {self.patients:,} patients have been counted.")


def shares(events: Mapping[str, Array]) -> dict[str, Array]:
    """Whether each patient had each event at all, ``[S, P]`` of 0 and 1, by name."""
    return {name: (counts > 0).astype(np.float64) for name, counts in events.items()}
