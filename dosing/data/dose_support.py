"""Which doses were recorded at states like a given one, and how far from them a dose is.

The doses of the M visits nearest to a state (Ramaswamy, Rastogi, Shim 2000, SIGMOD; each entry divided by its
interquartile range) say what was given at states like it. A dose is as far from them as from the second
nearest of these doses, in robust standard deviations of the recorded doses, so that no single odd visit makes
a dose recorded. At the lowest and the highest dose ever recorded there are neighbours on one side only, so
the recorded doses are reflected there, one dimension at a time (Schuster 1985, Communications in Statistics
14:1123); a dose beyond them is as far as the nearer end, and by how much it is beyond. Where only some levels
were ever given, a dose between two neighbouring levels counts as recorded: what half the median gap between
levels bridges has distance 0.

Visits of one patient resemble each other, so the threshold is calibrated on whole patients: the patients are
cut into parts, every recorded visit is measured against the visits of the other parts alone, and the
threshold is the conformal quantile for hierarchical data (Lee, Barber, Willett 2023, arXiv 2306.06342, HCP)
over the K' patients::

    sum_i 1/((K'+1) N_i) sum_j 1[distance_ij <= threshold]  >=  1 - level

The visit of a new patient who was seen and dosed as the recorded ones is then beyond it with probability at
most ``level`` (up to the difference that the left-out part makes). With few patients no level below 1/(K'+1)
can be promised, and none is: the level is then 1/(K'+1), the threshold the largest distance. A threshold on
doses is never above :data:`MOST_APART`; its level is then what it attains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dosing.errors import UserError
from dosing.types import AnyArray, Array

LEVEL = 0.01
"""Probability with which a usual visit may be called unusual."""
ALIKE = 2
"""A dose is as far from the recorded ones as from the second nearest of them."""
MOST_APART = 1.0
"""Largest threshold, in robust standard deviations times the root of the dose dimensions. Without it, a few
recorded doses apart from all others would let pass whatever lies between."""
PARTS = 20
"""Most parts that the patients are cut into for calibration."""
VISITS = 5000
"""Most recorded visits that are kept, evenly spaced over the data."""
IQR_OF_NORMAL = 1.3489795003921634
"""Interquartile range of the standard normal distribution: makes scales comparable with standard
deviations."""
CONSTANT = 1e-3
"""Scale of an entry that never changes in the records, relative to its size: any other value is far."""
ROUNDING = 1e-6
"""Relative rounding of doses that are recorded in float32."""


@dataclass(frozen=True)
class DoseRule:
    """When a dose counts as recorded among given ones.

    Attributes:
        low: ``[A]`` lowest recorded dose.
        high: ``[A]`` highest.
        scale: ``[A]`` robust standard deviation of the recorded doses.
        tolerance: ``[A]`` largest difference between doses that is none: half the median gap between levels.
        near: M, visits whose doses are looked at.
        threshold: distance beyond which a dose counts as never recorded at states like this one.
        level: probability of that for a visit of a new, usual patient, at most.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    scale: tuple[float, ...]
    tolerance: tuple[float, ...]
    near: int
    threshold: float
    level: float

    def distance(self, doses: Array, recorded: AnyArray) -> Array:
        """Distance ``[..., B]`` of doses ``[..., B, A]`` from those recorded near, ``[B, M, A]``."""
        low, high, tolerance, scale = map(np.asarray, (self.low, self.high, self.tolerance, self.scale))
        held = np.clip(doses, low, high)
        beyond = np.maximum(np.abs(doses - held) - tolerance, 0.0)
        edge = np.where(held - low < high - held, low, high)[..., None, :]  # the nearer end

        def least(gap: Array) -> Array:
            """The nearest :data:`ALIKE` distances from differences ``[..., B, M, A]``."""
            apart = (np.maximum(gap - tolerance, 0.0) + beyond[..., None, :]) / scale
            each = apart[..., 0] if apart.shape[-1] == 1 else np.sqrt((apart**2).sum(-1))
            return np.asarray(np.partition(each, ALIKE - 1, axis=-1)[..., :ALIKE])

        gap = np.abs(held[..., None, :] - recorded)
        mirrored = np.abs(held[..., None, :] + recorded - 2.0 * edge)
        nearest = [least(gap)]
        for dimension in range(gap.shape[-1]):
            own = np.arange(gap.shape[-1]) == dimension
            nearest.append(least(np.where(own, mirrored, gap)))
        together = np.concatenate(nearest, axis=-1)
        return np.asarray(np.partition(together, ALIKE - 1, axis=-1)[..., ALIKE - 1])


@dataclass(frozen=True)
class DoseSupport:
    """R recorded visits, and the rule by which a dose was or was not given at states like one.

    Attributes:
        centre: ``[O]`` median of each entry of the states.
        scale: ``[O]`` its robust standard deviation.
        obs: ``[R, O]`` states, in the world's units.
        act: ``[R, A]`` doses given then.
        rule: see :class:`DoseRule`.
    """

    centre: Array
    scale: Array
    obs: AnyArray
    act: AnyArray
    rule: DoseRule

    @classmethod
    def fit(
        cls, obs: AnyArray, act: AnyArray, patient: NDArray[np.int64], level: float = LEVEL
    ) -> DoseSupport:
        """Fit to recorded visits, at most :data:`VISITS` of them; the same visits give the same result.

        Args:
            obs: ``[R, O]`` states.
            act: ``[R, A]`` doses.
            patient: ``[R]`` who each visit is of.
            level: probability of a false alarm to aim at.

        Raises:
            UserError: fewer than 2 patients, or too few visits of other patients.
        """
        kept = evenly(len(obs))
        obs, act, patient = obs[kept], act[kept], np.unique(patient[kept], return_inverse=True)[1]
        centre, scale = robust(obs.astype(np.float64))
        near = visits_near(len(obs))
        _, row = left_out((obs - centre) / scale, patient, ALIKE, near)
        rule, _ = calibrated(act, act[row], patient, level)
        return cls(centre, scale, obs, act, rule)

    @cached_property
    def tree(self) -> cKDTree:
        """Search tree of the scaled states."""
        return cKDTree((self.obs.astype(np.float64) - self.centre) / self.scale)

    def nearest(self, states: Array, count: int, workers: int = 1) -> tuple[Array, NDArray[np.int64]]:
        """Distances and rows ``[M, count]`` of the visits nearest to states ``[M, O]``, nearest first."""
        wanted = np.arange(1, count + 1)
        distance, row = self.tree.query((states - self.centre) / self.scale, k=wanted, workers=workers)
        return np.asarray(distance), np.asarray(row, dtype=np.int64)

    def unrecorded(self, states: Array, doses: Array) -> NDArray[np.bool_]:
        """Whether no dose near ``doses [..., B, A]`` was recorded at states like ``[B, O]``: ``[..., B]``."""
        _, row = self.nearest(states, self.rule.near)
        beyond: NDArray[np.bool_] = self.rule.distance(doses, self.act[row]) > self.rule.threshold
        return beyond


def calibrated(
    act: AnyArray, recorded: AnyArray, patient: NDArray[np.int64], level: float
) -> tuple[DoseRule, Array]:
    """The rule of recorded doses, and the distance ``[R]`` of each of them from those of other patients.

    Args:
        act: ``[R, A]`` doses.
        recorded: ``[R, M, A]`` doses of the nearest visits of other patients.
        patient: ``[R]`` number of the patient, 0 to K' - 1.
        level: as asked for.
    """
    doses = act.astype(np.float64)
    _, scale = robust(doses)
    tolerance = tuple(_tolerance(column) for column in doses.T)
    low, high = tuple(doses.min(0).tolist()), tuple(doses.max(0).tolist())
    rule = DoseRule(low, high, tuple(scale.tolist()), tolerance, recorded.shape[1], 0.0, level)
    distance = rule.distance(doses, recorded)
    threshold, attained = conformal_threshold(distance, patient, level)
    if threshold > (most := most_apart(act.shape[1])):
        visits = np.bincount(patient)
        share = (1.0 / ((len(visits) + 1) * visits))[patient]
        threshold, attained = most, 1.0 - float(share[distance <= most].sum())
    return replace(rule, threshold=threshold, level=attained), distance


def most_apart(dimensions: int) -> float:
    """Largest threshold on doses of so many dimensions."""
    return MOST_APART * float(np.sqrt(dimensions))


def _tolerance(doses: Array) -> float:
    """Half the median gap between the levels of one dose dimension, where there are three or more."""
    levels = np.unique(doses)
    rounding = ROUNDING * float(np.abs(levels).max())
    return rounding + (0.5 * float(np.median(np.diff(levels))) if len(levels) > 2 else 0.0)


def visits_near(visits: int) -> int:
    """M: a tenth of the visits, 20 to 50."""
    return min(max(visits // 10, 20), 50)


def evenly(visits: int) -> NDArray[np.int64]:
    """Rows of at most :data:`VISITS` of so many visits, evenly spaced."""
    return np.unique(np.linspace(0, visits - 1, min(visits, VISITS)).astype(np.int64))


def robust(values: Array) -> tuple[Array, Array]:
    """Median and scale of each column."""
    low, centre, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    scale = (high - low) / IQR_OF_NORMAL
    scale = np.where(scale > 0.0, scale, values.std(0))
    return centre, np.where(scale > 0.0, scale, CONSTANT * np.maximum(np.abs(centre), 1.0))


def left_out(
    scaled: Array, patient: NDArray[np.int64], least: int, most: int
) -> tuple[Array, NDArray[np.int64]]:
    """Distances and rows ``[R, K]`` of each visit's nearest among the visits of the other parts' patients.

    Args:
        scaled: ``[R, O]`` scaled states.
        patient: ``[R]`` number of the patient, from 0.
        least: K has to be at least this.
        most: K is this where every part leaves as many visits of others, else as many as there are.

    Raises:
        UserError: one patient, or fewer than ``least`` visits of others.
    """
    patients = int(patient.max()) + 1
    if patients < 2:
        raise UserError("a monitor of unfamiliar states needs the visits of at least 2 patients, got 1.")
    parts = min(patients, PARTS)
    part = np.random.default_rng(0).permutation(patients)[patient] % parts
    others = len(part) - int(np.bincount(part).max())
    if others < least:
        raise UserError(
            f"a monitor of unfamiliar states needs {least} visits of other patients, got {others}."
        )
    wanted = np.arange(1, min(most, others) + 1)
    distance = np.empty((len(scaled), len(wanted)))
    row = np.empty((len(scaled), len(wanted)), dtype=np.int64)
    for number in range(parts):
        own = part == number
        other = np.flatnonzero(~own)
        result, place = cKDTree(scaled[other]).query(scaled[own], k=wanted)
        distance[own], row[own] = result, other[place]
    return distance, row


def conformal_threshold(distance: Array, patient: NDArray[np.int64], level: float) -> tuple[float, float]:
    """Return the threshold of the module's formula, and the level that it is for.

    Args:
        distance: ``[R]`` distance of each visit from the visits of other patients.
        patient: ``[R]`` number of its patient, 0 to K' - 1, each with a visit.
        level: as asked for; raised to 1/(K'+1) where the patients allow no less.
    """
    visits = np.bincount(patient)
    attained = max(level, 1.0 / (len(visits) + 1))
    order = np.argsort(distance, kind="stable")
    reached = np.cumsum((1.0 / ((len(visits) + 1) * visits))[patient[order]])
    first = int(
        np.searchsorted(reached, 1.0 - attained - 1e-12)
    )  # sums of many shares fall short by rounding
    return float(distance[order[min(first, len(order) - 1)]]), attained
