"""Slow off-policy evaluation: loops over patients and visits, no code of ``dosing.ope``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def features(z: np.ndarray, a: np.ndarray, kind: str) -> np.ndarray:
    """Features of one standardised state and one dose vector, in the documented order."""
    phi = [1.0, *z]
    if kind == "quadratic":
        phi += [z[i] * z[j] for i in range(len(z)) for j in range(i, len(z))]
    out = list(phi)
    for x in a:
        out += [p * x for p in phi]
    for x in a:
        out += [p * x**2 for p in phi] if kind == "quadratic" else [x**2]
    return np.array(out)


def expected_features(z: np.ndarray, distribution: list[tuple[float, np.ndarray]], kind: str) -> np.ndarray:
    """Expected features under a distribution given as (probability, dose) pairs."""
    return sum(p * features(z, a, kind) for p, a in distribution)


def fqe(
    rows: list[dict[str, Any]],
    policy: Callable[[np.ndarray], list[tuple[float, np.ndarray]]],
    *,
    kind: str,
    ridge: float,
    discount: float,
    horizon: int,
    free: list[int],
) -> list[np.ndarray]:
    """Weights of Q_1, ..., Q_H by least squares with one extra row per penalised feature.

    Args:
        rows: visits with ``z, act, reward, next_z, terminated`` and ``obs``, ``next_obs`` for the policy; a
            patient who counts twice is there twice.
        policy: distribution of the dose at an observation.
        kind: features.
        ridge: strength per row.
        discount: gamma.
        horizon: H.
        free: features without a penalty.
    """
    x = np.array([features(row["z"], row["act"], kind) for row in rows])
    extra = np.sqrt(ridge * len(rows)) * np.delete(np.eye(x.shape[1]), free, axis=0)
    result, theta = [], np.zeros(x.shape[1])
    for _ in range(horizon):
        y = []
        for row in rows:
            after = expected_features(row["next_z"], policy(row["next_obs"]), kind) @ theta
            y.append(row["reward"] + (0.0 if row["terminated"] else discount * after))
        design, target = np.concatenate([x, extra]), np.concatenate([y, np.zeros(len(extra))])
        theta = np.linalg.lstsq(design, target, rcond=None)[0]
        result.append(theta)
    return result


def weighted_importance(patients: list[list[tuple[float, float]]], discount: float) -> float:
    """Weighted per-decision importance sampling of episodes of (ratio, reward) pairs."""
    total = 0.0
    for t in range(len(patients[0])):
        numerator = denominator = 0.0
        for visits in patients:
            weight = 1.0
            for ratio, _ in visits[: t + 1]:
                weight *= ratio
            numerator += weight * visits[t][1]
            denominator += weight
        total += discount**t * numerator / denominator
    return total


def windowed_importance(patients: list[list[tuple[float, float]]], discount: float, window: int) -> float:
    """Mean reward weighed by the product of the last ``window`` ratios, times the sum of discounts."""
    numerator = denominator = 0.0
    visits = len(patients[0])
    for episode in patients:
        for t in range(window - 1, visits):
            weight = 1.0
            for ratio, _ in episode[t - window + 1 : t + 1]:
                weight *= ratio
            numerator += weight * episode[t][1]
            denominator += weight
    return sum(discount**t for t in range(visits)) * numerator / denominator


def weighted_doubly_robust(patients: list[list[tuple[float, float, float, float]]], discount: float) -> float:
    """WDR of episodes of (ratio, reward, q, v), in the form of Thomas and Brunskill 2016."""
    n, visits = len(patients), len(patients[0])
    products = [[float(np.prod([v[0] for v in e[: t + 1]])) for t in range(visits)] for e in patients]

    def share(i: int, t: int) -> float:
        if t < 0:
            return 1.0 / n
        return products[i][t] / sum(products[j][t] for j in range(n))

    total = 0.0
    for i, episode in enumerate(patients):
        for t, (_, reward, q, v) in enumerate(episode):
            total += discount**t * share(i, t) * reward
            total -= discount**t * (share(i, t) * q - share(i, t - 1) * v)
    return total


def fitted_q(
    rows: list[dict[str, Any]], *, kind: str, ridge: float, discount: float, iterations: int, free: list[int]
) -> np.ndarray:
    """Weights of fitted Q iteration, the best next dose found on a grid of the recorded range."""
    recorded = [float(row["act"][0]) for row in rows]
    grid = np.linspace(min(recorded), max(recorded), 1001)
    x = np.array([features(row["z"], row["act"], kind) for row in rows])
    after = [np.array([features(row["next_z"], np.array([a]), kind) for a in grid]) for row in rows]
    extra = np.sqrt(ridge * len(rows)) * np.delete(np.eye(x.shape[1]), free, axis=0)
    theta = np.zeros(x.shape[1])
    for _ in range(iterations):
        y = [
            row["reward"] + (0.0 if row["terminated"] else discount * (doses @ theta).max())
            for row, doses in zip(rows, after, strict=True)
        ]
        design, target = np.concatenate([x, extra]), np.concatenate([y, np.zeros(len(extra))])
        theta = np.linalg.lstsq(design, target, rcond=None)[0]
    return theta
