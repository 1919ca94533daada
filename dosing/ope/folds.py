"""Cross-validation of whole procedures: every patient is valued under policies that have not seen them.

In each fold the policies and the constant dose come from the other patients, and the fold's own patients
alone estimate their values (``dosing.ope.selection``). Fold estimates are averaged with the numbers of their
patients as weights. The interval is a percentile bootstrap over patients, drawn within every fold; resampling
n patients with replacement shrinks a variance by (n - 1) / n, which is undone fold by fold (Davison, Hinkley
1997, section 3.2). Policies are taken as fixed. Where a replicate fits models anew there are too few for
percentiles: the interval is t, of their spread, with the degrees of freedom of the patients.

With C candidates, intervals of differences are at 1 - (1 - confidence) / C: all hold together at the given
confidence (Bonferroni), so that trying more settings makes nothing look better than it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit
from tqdm import tqdm

from dosing.data.store import Episodes, concatenate
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, Verdict, verdict
from dosing.ope.baselines import estimated_constant
from dosing.ope.selection import BASELINE, REFITTED, Settings, evaluate_policies
from dosing.ope.trajectories import Trajectories
from dosing.ope.values import Estimator, widened
from dosing.policy import DosePolicy
from dosing.types import Act, Array


@dataclass(frozen=True)
class Fold:
    """One fold of the patients.

    Attributes:
        training: visits of all other patients, whose constant dose is the baseline.
        held_out: visits of the fold's patients, who value the policies.
        policies: by name, trained on ``training``; see ``evaluate_policies``.
    """

    training: Episodes
    held_out: Episodes
    policies: Mapping[str, Act | DosePolicy]


@dataclass(frozen=True)
class PooledValue:
    """What all folds together say of one policy by one estimator, or the reason why they say nothing.

    Attributes:
        estimate: return of the policies, mean over patients and seeds, in the data's unit.
        difference: that return minus the one of the constant dose of the same training patients, paired by
            patient; its interval allows for the number of candidates. None for the constant dose itself, and
            where the rewards of all patients together tell no such dose.
        verdict: what the difference says.
        folds: the difference in each fold.
        refused: why there is no number.
    """

    estimate: Estimate | None = None
    difference: Estimate | None = None
    verdict: Verdict | None = None
    folds: tuple[float, ...] = ()
    refused: str | None = None


@dataclass(frozen=True)
class FoldValue:
    """What the patients of one fold say of one policy by one estimator.

    Attributes:
        drawn: the estimate in every bootstrap replicate ``[R + 1]``, of the patients themselves first; None
            where there is no number.
        unknown: how far below and above the return may lie besides, see ``Valuation``.
        seeds: number of the policy's.
        refused: why there is no number.
    """

    drawn: tuple[float, ...] | None
    unknown: tuple[float, ...]
    seeds: int
    refused: str | None


@dataclass(frozen=True)
class FoldValues:
    """What the patients of one fold say; plain fields, that a job can leave as JSON.

    Attributes:
        dose: the constant dose of the fold's training patients.
        patients: number of those held out.
        behaviour: where the density of the recorded doses comes from, in words.
        values: of the constant dose and of every policy, by estimator.
    """

    dose: float
    patients: int
    behaviour: str
    values: Mapping[str, Mapping[str, FoldValue]]


@dataclass(frozen=True)
class CrossValidation:
    """The result of :func:`evaluate_folds`.

    Attributes:
        values: of the constant dose, under the name ``dosing.ope.selection.BASELINE``, and of every
            candidate, by estimator.
        doses: the constant dose of each fold's training patients; the median recorded one where their
            rewards tell none.
        patients: N, each held out once.
        horizon: visits of the return.
        behaviour: where the density of the recorded doses comes from, in words.
        candidates: C of the Bonferroni correction.
        missing: why nothing is judged by the constant dose; empty where all patients together tell one.
    """

    values: dict[str, dict[Estimator, PooledValue]]
    doses: tuple[float, ...]
    patients: int
    horizon: int
    behaviour: str
    candidates: int
    missing: str = ""


def enough_replicates(candidates: int) -> int:
    """Bootstrap replicates of which five lie beyond either corrected 95 % limit; 2,000 at least."""
    return max(2000, 200 * candidates)


def evaluate_folds(
    folds: Sequence[Fold], settings: Settings | None = None, candidates: int | None = None
) -> CrossValidation:
    """Value every candidate on patients its policies have not seen, beside the constant dose.

    Args:
        folds: two or more, with policies of the same names.
        settings: what is estimated, and how; one horizon for all folds, None for the longest recording. No
            ``neural_fqe``: it has too few replicates for corrected limits.
        candidates: C, where more were tried than have policies here; None counts those that have.

    Raises:
        UserError: the folds do not fit together, or one of them cannot be evaluated.
    """
    settings = settings or Settings()
    names = list(folds[0].policies) if folds else []
    if len(folds) < 2 or any(list(fold.policies) != names for fold in folds):
        raise UserError("cross-validation needs two or more folds, each with policies of the same names.")
    if "neural_fqe" in settings.estimators:
        raise UserError("neural_fqe has too few bootstrap replicates for corrected limits; take another.")
    tried = max(1, len(names)) if candidates is None else candidates
    longest = max(Trajectories.from_episodes(fold.training).visits for fold in folds)
    settings = replace(settings, horizon=settings.horizon or longest)
    values = [evaluate_fold(fold, settings, k, len(folds)) for k, fold in enumerate(folds)]
    return pooled(values, [fold.held_out for fold in folds], settings, tried)


def evaluate_fold(
    fold: Fold, settings: Settings, number: int, count: int, progress: tqdm[Any] | None = None
) -> FoldValues:
    """Value policies on the patients of one fold; what one policy comes to does not depend on the others.

    Args:
        fold: the fold.
        settings: of all folds, with their horizon; every fold has replicates of its own.
        number: the fold's, from 0.
        count: of folds.
        progress: a bar to advance by policies, the constant dose included, or None.

    Raises:
        UserError: the fold cannot be evaluated.
    """
    own = replace(settings, seed=settings.seed * count + number)  # independent draws
    try:
        best = estimated_constant(Trajectories.from_episodes(fold.training))
        result = evaluate_policies(fold.held_out, [*fold.policies.items()], own, best, progress)
    except (UserError, np.linalg.LinAlgError) as error:
        raise UserError(f"the patients of fold {number + 1} value no policy: {error}") from error
    values: dict[str, dict[str, FoldValue]] = {
        policy.name: {
            estimator: FoldValue(
                None if v.drawn is None else tuple(v.drawn.tolist()), v.unknown, len(v.seeds), v.refused
            )
            for estimator, v in policy.values.items()
        }
        for policy in result.policies
    }
    return FoldValues(best.dose, result.patients, result.behaviour, values)


def pooled(
    folds: Sequence[FoldValues], held_out: Sequence[Episodes], settings: Settings, candidates: int
) -> CrossValidation:
    """What all folds together say.

    Args:
        folds: what each says, with policies of the same names.
        held_out: visits of each fold's patients.
        settings: with the horizon of all folds.
        candidates: C of the Bonferroni correction.
    """
    everyone = concatenate(list(held_out), held_out[0].metadata)
    missing = estimated_constant(Trajectories.from_episodes(everyone)).missing
    values: dict[str, dict[Estimator, PooledValue]] = {
        name: {
            e: _pooled(folds, name, e, settings.confidence, candidates, not missing)
            for e in settings.estimators
        }
        for name in folds[0].values
    }
    doses, patients = tuple(fold.dose for fold in folds), sum(fold.patients for fold in folds)
    assert settings.horizon is not None
    return CrossValidation(values, doses, patients, settings.horizon, folds[0].behaviour, candidates, missing)


def _pooled(
    folds: Sequence[FoldValues], name: str, estimator: Estimator, confidence: float, tried: int, judged: bool
) -> PooledValue:
    """Pool what every fold says of one policy, or of the constant dose."""
    refitted = estimator in REFITTED
    method = (
        "t, spread of patient-bootstrap refits within folds" if refitted else "patient bootstrap within folds"
    )
    drawn: list[Array] = []
    unknown = np.zeros(2)  # below and above, mean over patients
    unpaired = np.zeros(2)
    differences: list[Array] = []
    sizes = [fold.patients for fold in folds]
    for k, fold in enumerate(folds, 1):
        base, own = (fold.values[who][estimator] for who in (BASELINE, name))
        if own.drawn is None or base.drawn is None:
            who, why = ("", own.refused) if own.drawn is None else ("the constant dose, ", base.refused)
            return PooledValue(refused=f"{who}fold {k}: {why}")
        drawn.append(np.asarray(own.drawn))
        differences.append(drawn[-1] - np.asarray(base.drawn))
        unknown += sizes[k - 1] / sum(sizes) * np.asarray(own.unknown)
        unpaired += sizes[k - 1] / sum(sizes) * (np.asarray(own.unknown) + np.asarray(base.unknown[::-1]))
    n_seeds = folds[0].values[name][estimator].seeds
    pool = spread_over_folds if refitted else _percentiles
    estimate = widened(pool(drawn, sizes, n_seeds, confidence, confidence, method), *unknown.tolist())
    if name == BASELINE or not judged:
        return PooledValue(estimate)
    level, corrected = 1.0 - (1.0 - confidence) / tried, f"{method}, Bonferroni for {tried} candidates"
    how = corrected if tried > 1 else method
    difference = pool(differences, sizes, n_seeds, level, confidence, how)
    difference = widened(difference, *unpaired.tolist())
    return PooledValue(estimate, difference, verdict(difference), tuple(float(d[0]) for d in differences))


def _percentiles(
    drawn: Sequence[Array], sizes: Sequence[int], n_seeds: int, level: float, told: float, method: str
) -> Estimate:
    """Mean over folds of replicates ``[R + 1]``, with percentile limits at one level told as another."""
    point, around = _around(drawn, sizes)
    low, high = np.quantile(point + around, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(point, float(low), float(high), told, sum(sizes), n_seeds, method)


def spread_over_folds(
    drawn: Sequence[Array], sizes: Sequence[int], n_seeds: int, level: float, told: float, method: str
) -> Estimate:
    """The same with limits of Student's t, of as many degrees of freedom as the smallest fold leaves."""
    point, around = _around(drawn, sizes)
    half = float(stdtrit(min(sizes) - 1, 0.5 + level / 2) * math.sqrt((around**2).mean()))
    return Estimate(point, point - half, point + half, told, sum(sizes), n_seeds, method)


def _around(drawn: Sequence[Array], sizes: Sequence[int]) -> tuple[float, Array]:
    """Mean over folds, and what the mean of each replicate ``[R]`` differs from it."""
    share = [n / sum(sizes) for n in sizes]
    point = sum(w * float(d[0]) for w, d in zip(share, drawn, strict=True))
    around: Array = sum(
        (w * math.sqrt(n / (n - 1)) * (d[1:] - d[0]) for w, n, d in zip(share, sizes, drawn, strict=True)),
        start=np.zeros(len(drawn[0]) - 1),
    )
    return point, around
