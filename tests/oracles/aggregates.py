"""Slow loops and exact enumeration, in the words of the definitions, for dosing.evaluation.aggregates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np


def interquartile_mean(values: Sequence[float]) -> float:
    """Sort, leave a quarter out at either end, rounded down, and average."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)


def improvement(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> float:
    """Mean over strata of the share of pairs in which x is above y, a tie counting one half."""
    strata = len(x[0])
    total = Fraction(0)
    for t in range(strata):
        wins = Fraction(0)
        for a in x:
            for b in y:
                wins += Fraction(1) if a[t] > b[t] else Fraction(1, 2) if a[t] == b[t] else Fraction(0)
        total += wins / (len(x) * len(y))
    return float(total / strata)


def profile(x: Sequence[Sequence[float]], thresholds: Sequence[float]) -> list[float]:
    """Share of the runs above each threshold."""
    runs = [score for row in x for score in row]
    return [sum(score > edge for score in runs) / len(runs) for edge in thresholds]


def bootstrap_distribution(
    x: Sequence[Sequence[float]], statistic: Callable[[Sequence[Sequence[float]]], float]
) -> np.ndarray:
    """The statistic of every one of the S^(S T) resamples, all equally likely; tiny tables only."""
    seeds, strata = len(x), len(x[0])
    draws = list(itertools.product(range(seeds), repeat=seeds))
    values = []
    for chosen in itertools.product(draws, repeat=strata):
        values.append(statistic([[x[chosen[t][s]][t] for t in range(strata)] for s in range(seeds)]))
    return np.sort(values)


def rejected(p: Sequence[float], alpha: float) -> set[int]:
    """Holm's step-down procedure: the smallest p against alpha / M, the next against alpha / (M - 1), ..."""
    result: set[int] = set()
    for step, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        if p[k] > alpha / (len(p) - step):
            break
        result.add(k)
    return result
