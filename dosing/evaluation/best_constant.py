"""The best constant dose of a scenario, searched with the simulator: a bound that no clinic has."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from dosing.errors import UserError
from dosing.evaluation.rollout import EnvFactory, rollout
from dosing.evaluation.rules import constant

SEARCH_SEED = 1
"""Seed of the evaluation patients on whom the constant is searched; results are reported on others."""


GRID = 41
"""Doses that are tried unless another number is asked for."""


def best_constant(
    factory: EnvFactory, patients: int = 10_000, *, grid: int = GRID, progress: tqdm[Any] | None = None
) -> tuple[float, float]:
    """Best constant dose on simulated patients kept for this search alone.

    All candidates meet the same patients; the parabola through the maximum of the grid and its neighbours
    refines it.

    Args:
        factory: the scenario.
        patients: of the search.
        grid: doses that are tried.
        progress: a bar to advance by doses, ``grid`` + 1 of them, or None.

    Returns:
        The dose, and its mean return on the search patients (optimistic: report another cohort).

    Raises:
        UserError: the dose has more than one dimension.
    """
    if factory.limits.n_act != 1:
        raise UserError("the best constant dose is searched for one dose dimension only.")
    low, high = factory.limits.low[0], factory.limits.high[0]

    def value(dose: float) -> float:
        result = rollout(factory, constant(dose), (0,), patients, env_seed=SEARCH_SEED)
        if progress is not None:
            progress.update()
        return float(result.returns.mean())

    doses = np.linspace(low, high, grid)
    values = np.array([value(dose) for dose in doses])
    k = int(np.clip(values.argmax(), 1, grid - 2))
    left, mid, right = values[k - 1 : k + 2]
    curvature = left - 2.0 * mid + right
    shift = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    best = float(np.clip(doses[k] + np.clip(shift, -1.0, 1.0) * (doses[1] - doses[0]), low, high))
    return best, value(best)
