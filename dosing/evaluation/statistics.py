"""Point estimates with honest intervals: means over seeds, paired differences, bootstraps, verdicts.

Sources: Agarwal et al. 2021, arXiv 2108.13264 (interquartile mean); Efron and Tibshirani 1993 (percentile
bootstrap); Satterthwaite 1946 (degrees of freedom of combined
mean squares); Acerbi and Tasche 2002 (expected shortfall of an empirical distribution, here called CVaR).

Axes: S training seeds, P patients, so returns are ``[S, P]`` (``[P]`` is one seed). Higher is better.
Intervals have the unit of the data. Common to all functions: ``confidence`` is the coverage asked of the
interval, ``replicates`` the number of resamples, ``rng`` a generator or the seed of a new one (fixed by
default: the same data give the same interval). Everything empty, NaN, infinite, of another shape or too small
for an interval raises ``UserError``; nothing is dropped or clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from dosing.errors import UserError
from dosing.types import Array

Generator: TypeAlias = np.random.Generator
Statistic: TypeAlias = Callable[[Array], Array]
"""Reduces the trailing axes of a stack of resamples: ``[..., *data axes]`` -> ``[...]``."""
Verdict: TypeAlias = Literal["better", "not distinguishable", "worse"]

_BLOCK = 2_000_000  # numbers resampled at once (16 MB), so that memory does not grow with the replicates


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and the sample it rests on."""

    value: float
    """Point estimate."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    level: float
    """Confidence level of the interval, 0.95 for 95 %."""
    n: int
    """How many values entered: patients summed over seeds, or cells of a score table."""
    n_seeds: int | None
    """How many training seeds (runs per task) entered; None where the data carry no seeds."""
    method: str
    """How the interval was made, in words, such as "t over seeds"."""

    def __post_init__(self) -> None:
        """Refuse what no interval can be, so that no later reader has to ask."""
        if not all(map(math.isfinite, (self.value, self.low, self.high))) or self.low > self.high:
            raise UserError(
                f"an estimate needs finite low <= high and value, got {self.value} [{self.low}, {self.high}]"
            )

    def __format__(self, spec: str) -> str:
        """Return ``value [low, high]``; an empty ``spec`` shows the half-width to two digits."""
        spec = spec or f"z.{self._decimals()}f"
        return f"{format(self.value, spec)} [{format(self.low, spec)}, {format(self.high, spec)}]"

    def __str__(self) -> str:
        """Return ``value [low, high]``."""
        return format(self)

    def text(self, unit: str = "", spec: str = "") -> str:
        """Return ``"3.41 [2.90, 3.92] mg"``; ``spec`` formats each number, as in ``__format__``."""
        return f"{format(self, spec)} {unit}".rstrip()

    @property
    def basis(self) -> str:
        """The interval's origin for a caption: ``"95 % interval, t over seeds, 5 seeds, n = 5,000"``."""
        seeds = "" if self.n_seeds is None else f"{self.n_seeds} seed{'s' if self.n_seeds != 1 else ''}, "
        return f"{100 * self.level:g} % interval, {self.method}, {seeds}n = {self.n:,}"

    def _decimals(self) -> int:
        scale = (self.high - self.low) / 2 or abs(self.value) or 1.0
        return min(max(1 - math.floor(math.log10(scale)), 0), 6)


def mean_over_seeds(x: ArrayLike, *, shared_patients: bool = False, confidence: float = 0.95) -> Estimate:
    """Return the grand mean of returns ``[S, P]`` with a Student-t interval for new seeds and new patients.

    Own patients per seed (the default): the S seed means are independent and each carries the spread of its
    seed and of its patients, so the interval is t over the S means, S - 1 degrees of freedom. The same
    patients in every row (``shared_patients``): their sampling error is common to all rows, which t over the
    means cannot see; the variance is (MS_seeds + MS_patients - MS_rest) / (S P) of the two-way random layout,
    negative components set to zero, degrees of freedom by Satterthwaite. One row: t over its patients, blind
    to the spread between seeds; ``method`` and ``n_seeds`` say so. A rule that was not trained has no seeds:
    give all its patients as one row.

    Raises:
        UserError: As the module says, and if the rows are identical without being declared shared patients.
    """
    rows = _rows(x, "returns")
    _check_confidence(confidence)
    n_seeds, n_patients = rows.shape
    if n_patients < 2 and (n_seeds == 1 or shared_patients):
        raise UserError("one patient has no spread to make an interval from; give at least 2 per seed")
    if n_seeds == 1:
        variance, dof, method = float(rows.var(ddof=1)) / n_patients, n_patients - 1.0, "t over patients"
    elif shared_patients:
        variance, dof = _crossed_variance(rows)
        method = "t over seeds and shared patients"
    else:
        _check_rows_differ(rows)
        variance, dof, method = float(rows.mean(1).var(ddof=1)) / n_seeds, n_seeds - 1.0, "t over seeds"
    value, half = float(rows.mean()), float(stdtrit(dof, 0.5 + confidence / 2)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half, confidence, rows.size, n_seeds, method)


def rate_over_seeds(x: ArrayLike) -> Estimate:
    """Return the share of ones in ``[S, P]`` zeros and ones: t over seeds where they differ, else Wilson."""
    rows = _rows(x, "successes")
    if np.ptp(rows.mean(1)) > 0:
        result = mean_over_seeds(rows)
        return replace(result, low=max(result.low, 0.0), high=min(result.high, 1.0))
    from scipy.stats import binomtest  # half a second, for the few who ask for a success rate

    interval = binomtest(int(rows.sum()), rows.size).proportion_ci(method="wilson")
    ends = float(interval.low), float(interval.high)
    return Estimate(float(rows.mean()), *ends, 0.95, rows.size, len(rows), "Wilson over patients")


def band_over_seeds(x: ArrayLike, *, confidence: float = 0.95) -> tuple[Estimate, ...]:
    """Return the means of curves ``[S, T]`` over seeds, with intervals that hold at all T points at once.

    Student-t over the S seeds at each point, S - 1 degrees of freedom, at the confidence 1 - (1 - confidence)
    / T (Bonferroni): however the points depend on each other, every one of the T intervals holds with at
    least ``confidence``. So the lowest point of a curve may be picked after looking.

    Raises:
        UserError: As the module says, and if there is only one seed.
    """
    curves = _rows(x, "curves")
    _check_confidence(confidence)
    seeds, points = curves.shape
    if seeds < 2:
        raise UserError("a band over seeds needs at least two seeds")
    method = f"t over seeds, simultaneous over {points} point{'s' if points > 1 else ''} (Bonferroni)"
    each = [mean_over_seeds(c[:, None], confidence=1.0 - (1.0 - confidence) / points) for c in curves.T]
    return tuple(replace(estimate, level=confidence, method=method) for estimate in each)


def paired_difference(
    x: ArrayLike, y: ArrayLike, *, shared_patients: bool = False, confidence: float = 0.95
) -> Estimate:
    """Return the mean of x - y, cell by cell on the same patients (common random numbers), with its interval.

    Row s of x and row s of y must be the same patients; the interval is that of :func:`mean_over_seeds` for
    the differences. One row (``[1, P]`` or ``[P]``) against S rows means that every seed saw that row's
    patients, so they are shared whether declared or not.
    """
    a, b = _rows(x, "returns x"), _rows(y, "returns y")
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"paired differences need the same patients, got {a.shape[1]} in x, {b.shape[1]} in y"
        )
    if a.shape[0] != b.shape[0] and 1 not in (a.shape[0], b.shape[0]):
        raise UserError(f"paired differences need equal seeds or one row, got {len(a)} and {len(b)} rows")
    shared = shared_patients or a.shape[0] != b.shape[0]
    return mean_over_seeds(a - b, shared_patients=shared, confidence=confidence)


def verdict(difference: Estimate) -> Verdict:
    """Return what the interval of a paired difference says; an interval that touches 0 decides nothing."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "not distinguishable"


def interquartile_mean(scores: ArrayLike) -> Array:
    """Return the mean of the middle half of all runs and tasks together, ``[..., runs, tasks]`` -> ``[...]``.

    For one table the same as ``scipy.stats.trim_mean(scores, 0.25, axis=None)``; ``[n]`` counts as one table.
    """
    flat = _flat(scores)
    n, cut = flat.shape[-1], flat.shape[-1] // 4
    return np.asarray(np.partition(flat, (cut, n - cut - 1), axis=-1)[..., cut : n - cut].mean(axis=-1))


def patient_bootstrap(
    x: ArrayLike,
    statistic: Statistic,
    *,
    replicates: int = 2000,
    rng: Generator | int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Return a statistic of one policy's patients ``[P]`` with a percentile interval over patients.

    ``statistic`` maps ``[..., P]`` to ``[...]``.
    """
    values = finite(x, "values of the patients")
    if values.ndim != 1 or values.size < 2:
        raise UserError(
            f"a patient bootstrap needs one value of each of 2 or more patients [P], got {values.shape}"
        )
    value, low, high = _percentile(values, statistic, lambda i: values[i], replicates, rng, confidence)
    return Estimate(value, low, high, confidence, values.size, None, "patient bootstrap")


def cvar(
    x: ArrayLike,
    level: float = 0.05,
    *,
    replicates: int = 2000,
    rng: Generator | int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Return the lower-tail mean of returns ``[S, P]``: the mean over the worst ``level`` of the patients.

    CVaR = 1/level times the integral of the empirical quantile function over [0, level]: the mean of the
    ``level * P`` lowest values, the last weighted by the fraction of a patient that remains. Refused if the
    tail holds less than one patient. One row: patient bootstrap. Several rows, each with patients of its own:
    the mean of the seeds' values, with t over the seeds.
    """
    if not 0 < level <= 1:
        raise UserError(f"CVaR needs a level in (0, 1], got {level}")
    rows = _rows(x, "returns")
    if _tail(level, rows.shape[1]) < 1:
        raise UserError(f"CVaR {level:g} needs at least {math.ceil(1 / level)} patients, got {rows.shape[1]}")
    return _over_patients(rows, lambda v: lower_tail(v, level), replicates, rng, confidence)


@dataclass(frozen=True)
class Subgroup:
    """Patients whose trait lies between two of its quantiles."""

    low: float
    """Least value of the trait in the group."""
    high: float
    """Largest value of the trait in the group."""
    mean: Estimate
    """Mean of the returns in the group."""


def subgroups(
    x: ArrayLike, trait: ArrayLike, count: int = 4, *, confidence: float = 0.95
) -> tuple[Subgroup, ...]:
    """Return the mean of returns ``[S, P]`` in ``count`` equally large groups by a trait ``[S, P]``.

    The groups are cut at the trait's quantiles over all patients together; equal values stay together, and a
    trait with no more values than groups, such as a genotype, has one group for each of its values. One
    row: t over the patients of a group. Several rows, each with patients of its own: the mean of the seeds'
    group means, with t over the seeds. A group needs two patients in every seed.
    """
    rows, values = _rows(x, "returns"), _rows(trait, "trait")
    if rows.shape != values.shape:
        raise UserError(
            f"subgroups need one trait per return, got {list(values.shape)} for {list(rows.shape)}"
        )
    if count < 2:
        raise UserError(f"subgroups need 2 or more groups, got {count}")
    levels = np.unique(values)
    edges = np.quantile(values, np.arange(1, count) / count)
    if 1 < len(levels) <= count:
        edges, count = levels[1:], len(levels)
    group = np.searchsorted(edges, values, side="right")
    result = []
    for index in range(count):
        inside = group == index
        sizes = inside.sum(axis=1)
        if sizes.min() < 2:
            raise UserError(
                f"{count} subgroups need 2 or more patients each in every seed, one has {sizes.min()}"
            )
        own = [row[kept] for row, kept in zip(rows, inside, strict=True)]
        if len(own) == 1:
            mean = mean_over_seeds(own[0][None], confidence=confidence)
        else:
            means = np.array([part.mean() for part in own])
            mean = replace(mean_over_seeds(means[:, None], confidence=confidence), n=int(sizes.sum()))
        result.append(Subgroup(float(values[inside].min()), float(values[inside].max()), mean))
    return tuple(result)


def lower_tail(x: Array, level: float = 0.05) -> Array:
    """Return CVaR of K equally likely values ``[..., K]``: the mean over the worst ``level`` of their mass.

    A tail that holds less than one value is the lowest value.
    """
    tail = _tail(level, x.shape[-1])
    k = math.ceil(tail)
    weights = np.clip(tail - np.arange(k), 0, 1)  # 1, ..., 1, remainder for the k-th lowest
    return np.asarray(np.partition(x, k - 1, axis=-1)[..., :k] @ weights / tail)


def _tail(level: float, count: int) -> float:
    """How many of ``count`` values lie in the tail, the last by a fraction."""
    tail = level * count
    if math.isclose(tail, round(tail), rel_tol=1e-9):  # 0.07 * 100 = 7.000000000000001 means 7 patients
        return float(round(tail))
    return tail


def _over_patients(
    rows: Array, statistic: Statistic, replicates: int, rng: Generator | int, confidence: float
) -> Estimate:
    """Bootstrap one row, or take t over the seeds' own statistics."""
    if rows.shape[0] == 1:
        return patient_bootstrap(rows[0], statistic, replicates=replicates, rng=rng, confidence=confidence)
    _check_rows_differ(rows)
    return replace(mean_over_seeds(statistic(rows)[:, None], confidence=confidence), n=rows.size)


def _crossed_variance(rows: Array) -> tuple[float, float]:
    """Variance of the grand mean of a two-way random layout ``[S, P]``, and its degrees of freedom."""
    n_seeds, n_patients = rows.shape
    seed, patient = rows.mean(1, keepdims=True) - rows.mean(), rows.mean(0, keepdims=True) - rows.mean()
    rest = rows - rows.mean() - seed - patient
    dof = np.array([n_seeds - 1, n_patients - 1, (n_seeds - 1) * (n_patients - 1)], dtype=np.float64)
    squares = np.array([n_patients * (seed**2).sum(), n_seeds * (patient**2).sum(), (rest**2).sum()]) / dof
    positive = squares[:2] > squares[2]  # a mean square below the rest is a negative component: zero
    terms = np.array([*positive, 1.0 - positive.sum()]) * squares
    total = float(terms.sum())
    return (total / rows.size, total**2 / float(terms**2 @ (1 / dof))) if total > 0 else (0.0, 1.0)


def _percentile(
    data: Array,
    statistic: Statistic,
    take: Callable[[NDArray[np.int64]], Array],
    replicates: int,
    rng: Generator | int,
    confidence: float,
) -> tuple[float, float, float]:
    """Point value and percentile interval, resampling axis 0 of the data independently in every column."""
    check_resampling(replicates, confidence)
    generator, block = np.random.default_rng(rng), max(1, _BLOCK // data.size)
    drawn = []
    for start in range(0, replicates, block):
        size = (min(block, replicates - start), *data.shape)
        drawn.append(np.asarray(statistic(take(generator.integers(len(data), size=size)))))
        if drawn[-1].shape != size[:1]:
            raise UserError(
                f"the statistic must map {list(size)} to [{size[0]}], got {list(drawn[-1].shape)}"
            )
    low, high = percentiles(np.concatenate(drawn), confidence)
    return float(statistic(data)), float(low), float(high)


def percentiles(drawn: Array, confidence: float) -> Array:
    """Equal-tailed percentile limits ``[2, ...]`` over the replicates ``[R, ...]``."""
    return np.asarray(np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"the confidence must lie between 0 and 1, such as 0.95; got {confidence}")


def check_resampling(replicates: int, confidence: float) -> None:
    """UserError where so many replicates cannot place the limits of such an interval."""
    _check_confidence(confidence)
    if replicates * (1 - confidence) < 2:
        raise UserError(
            f"{replicates} replicates cannot place {100 * confidence:g} % limits; give 1000 or more"
        )


def _check_rows_differ(rows: Array) -> None:
    if np.ptp(rows) > 0 and (rows == rows[0]).all():
        raise UserError(
            f"all {len(rows)} rows are identical, so no spread between seeds can be seen; give one row for a "
            "rule without seeds, or declare shared_patients"
        )


def finite(x: ArrayLike, name: str) -> Array:
    """Return x in float64; UserError where it is empty or not all finite."""
    try:
        values = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be a rectangular array of numbers: {error}") from error
    if values.size == 0:
        raise UserError(f"{name} are empty (shape {list(values.shape)}); give at least one value")
    if not np.isfinite(values).all():
        bad = (~np.isfinite(values)).sum()
        raise UserError(f"{name} hold {bad} of {values.size} values that are NaN or infinite")
    return values


def _rows(x: ArrayLike, name: str) -> Array:
    """Returns ``[S, P]``; ``[P]`` becomes one row."""
    values = finite(x, name)
    if values.ndim not in (1, 2):
        raise UserError(f"{name} need the shape [S, P] or [P], got {list(values.shape)}")
    return np.atleast_2d(values)


def _flat(scores: ArrayLike) -> Array:
    """Join runs and tasks: ``[..., runs, tasks]`` -> ``[..., runs * tasks]``; ``[n]`` stays."""
    values = finite(scores, "scores")
    return values.reshape(*values.shape[:-2], -1)
