"""One number for several runs and data sets, with intervals over the seeds; and many comparisons at once.

Source: Agarwal et al. 2021, arXiv 2108.13264: interquartile mean, stratified bootstrap, probability of
improvement, performance profiles; Holm 1979, Scandinavian Journal of Statistics 6:65.

Axes: S seeds, T strata, which are data sets (or groups of patients); scores are ``[S, T]``, one number per
seed and stratum, higher is better, and ``[S]`` is one stratum. Every resample draws the S seeds anew within
each stratum, independently of the others; strata stay as they are. Scores of several strata must have one
scale. With few seeds percentile intervals are too narrow: of normal scores in one stratum those of the
interquartile mean hold the true value in 75, 91 and 94 of 100 cases with 3, 5 and 10 seeds, not in 95; in ten
strata in 88, 91 and 94. Arguments in common and refusals are those of ``dosing.evaluation.statistics``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from dosing.errors import UserError
from dosing.evaluation.statistics import (
    Estimate,
    Generator,
    Statistic,
    check_resampling,
    finite,
    interquartile_mean,
    percentiles,
)
from dosing.types import Array

_BLOCK = 2_000_000  # numbers compared at once (16 MB), so that memory does not grow with the replicates
_Several: TypeAlias = Callable[..., Array]
"""Reduces resamples of several tables, ``[R, S, T]`` each, to ``[R, ...]``."""

BY_T = ("t over seeds", "t over patients")
"""Methods of the estimates whose degrees of freedom their sizes tell."""


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Statistic = interquartile_mean,
    *,
    replicates: int = 2000,
    rng: Generator | int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Return a statistic of scores ``[S, T]`` with the percentile interval of the stratified bootstrap.

    Args:
        scores: one number per seed and stratum.
        statistic: maps ``[..., S, T]`` to ``[...]``; the interquartile mean by default.
        replicates: number of resamples.
        rng: generator, or the seed of one.
        confidence: of the interval.

    Raises:
        UserError: no finite scores of two or more seeds, or too few replicates.
    """
    table = _table(scores, "scores")
    drawn = _resampled((table,), statistic, table.size, replicates, rng, confidence)
    low, high = percentiles(drawn, confidence)
    value, method = float(statistic(table)), _method(table)
    return Estimate(value, float(low), float(high), confidence, table.size, len(table), method)


def probability_of_improvement(
    x: ArrayLike,
    y: ArrayLike,
    *,
    replicates: int = 2000,
    rng: Generator | int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Return P(X > Y) + P(X = Y) / 2 of a seed of x ``[S, T]`` and one of y ``[R, T]``, mean over strata.

    In a stratum this is the Mann-Whitney U of all S R pairs over their number; 0.5 tells nothing. Seeds of x
    and y are resampled independently of each other.

    Raises:
        UserError: other strata in x than in y; as :func:`stratified_bootstrap`.
    """
    a, b = _table(x, "scores x"), _table(y, "scores y")
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"a probability of improvement needs the same strata, got {a.shape[1]} in x, {b.shape[1]} in y"
        )
    drawn = _resampled((a, b), _above, len(a) * b.size, replicates, rng, confidence)
    low, high = percentiles(drawn, confidence)
    n_seeds = len(a) if len(a) == len(b) else None
    return Estimate(
        float(_above(a, b)), float(low), float(high), confidence, a.size + b.size, n_seeds, _method(a)
    )


@dataclass(frozen=True)
class Profile:
    """A performance profile: at every threshold the share of the runs above it, with pointwise intervals."""

    thresholds: Array
    """``[K]``, ascending."""
    share: Array
    """Share of the S T runs whose score is above a threshold ``[K]``."""
    low: Array
    """Lower ends ``[K]`` of its intervals, each at the level by itself."""
    high: Array
    """Upper ends ``[K]``."""
    level: float
    """Confidence level of each interval."""
    n: int
    """Runs that entered."""


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    *,
    replicates: int = 2000,
    rng: Generator | int = 0,
    confidence: float = 0.95,
) -> Profile:
    """Return the share of runs ``[S, T]`` with a score above each threshold ``[K]``: a score distribution.

    Raises:
        UserError: thresholds that are no ascending row; as :func:`stratified_bootstrap`.
    """
    table, edges = _table(scores, "scores"), finite(thresholds, "thresholds")
    if edges.ndim != 1 or (np.diff(edges) <= 0).any():
        raise UserError(f"a profile needs ascending thresholds [K], got the shape {list(edges.shape)}")

    def shares(runs: Array) -> Array:
        return np.asarray((runs[..., None] > edges).mean(axis=(-3, -2)))

    size = table.size * edges.size
    low, high = percentiles(_resampled((table,), shares, size, replicates, rng, confidence), confidence)
    return Profile(edges, shares(table), low, high, confidence, table.size)


def p_value(difference: Estimate) -> float:
    """Return the two-sided p of "no difference" from an estimate whose interval is Student's t.

    The interval tells the standard error, and its sample the degrees of freedom: S - 1 over seeds, n - 1 over
    patients. An interval without width gives 0, or 1 beside a value of 0.

    Raises:
        UserError: the interval was made otherwise.
    """
    if difference.method not in BY_T:
        raise UserError(f"a p-value needs an interval by t over seeds or patients, got {difference.method!r}")
    count = difference.n if difference.n_seeds in (None, 1) else difference.n_seeds
    half = 0.5 * (difference.high - difference.low)
    if half == 0.0:
        return 1.0 if difference.value == 0.0 else 0.0
    dof = count - 1.0
    t = abs(difference.value) / half * float(stdtrit(dof, 0.5 + difference.level / 2))
    return float(2.0 * stdtr(dof, -t))


def holm(p: Sequence[float] | ArrayLike) -> Array:
    """Return p-values ``[M]`` adjusted for M comparisons at once, in their order (Holm 1979).

    However the comparisons depend on each other, calling different what is below alpha calls none different
    by mistake with a probability of at least 1 - alpha.

    Raises:
        UserError: numbers that are no p-values ``[M]``.
    """
    values = finite(p, "p-values")
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise UserError("Holm's correction needs p-values [M] between 0 and 1")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def _above(a: Array, b: Array) -> Array:
    """Mean over pairs and strata of 1 for a > b, 1/2 for a = b: ``[..., S, T]``, ``[..., R, T]``."""
    pairs = np.sign(a[..., :, None, :] - b[..., None, :, :])
    return np.asarray(0.5 + 0.5 * pairs.mean(axis=(-3, -2, -1)))


def _resampled(
    tables: Sequence[Array],
    statistic: _Several,
    size: int,
    replicates: int,
    rng: Generator | int,
    confidence: float,
) -> Array:
    """The statistic ``[R, ...]`` of resamples of tables ``[S, T]``; ``size`` numbers are held for each."""
    check_resampling(replicates, confidence)
    generator, block = np.random.default_rng(rng), max(1, _BLOCK // size)
    drawn = []
    for start in range(0, replicates, block):
        count = min(block, replicates - start)
        index = [generator.integers(len(table), size=(count, *table.shape)) for table in tables]
        taken = [np.take_along_axis(t[None], i, axis=1) for t, i in zip(tables, index, strict=True)]
        drawn.append(np.asarray(statistic(*taken)))
        if drawn[-1].shape[:1] != (count,):
            raise UserError(f"the statistic must keep the {count} resamples, got {list(drawn[-1].shape)}")
    return np.concatenate(drawn)


def _method(table: Array) -> str:
    """How the interval is made, with the number of strata where there are several."""
    strata = table.shape[1]
    return "stratified bootstrap over seeds" + (f", {strata} strata" if strata > 1 else "")


def _table(scores: ArrayLike, name: str) -> Array:
    """Scores ``[S, T]`` of two or more seeds; ``[S]`` becomes one stratum."""
    values = finite(scores, name)
    table = values[:, None] if values.ndim == 1 else values
    if table.ndim != 2 or len(table) < 2:
        raise UserError(f"{name} need the shape [S, T] or [S] with 2 or more seeds, got {list(values.shape)}")
    return table
