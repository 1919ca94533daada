"""The best constant dose of a scenario, searched with the simulator: a bound that no clinic has."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from dosing.errors import UserError
from dosing.evaluation.rollout import EnvFactory, follow, rollout
from dosing.evaluation.rules import constant
from dosing.types import Act, Array, Observations

SEARCH_SEED = 1
"""Seed of the evaluation patients on whom the constant is searched; results are reported on others."""
AT_ONCE = 10_000
"""Most patients, copies counted, that are followed at once."""
GRID = 41
"""Doses that are tried unless another number is asked for."""


@runtime_checkable
class RepeatsPatients(Protocol):
    """A scenario that can hold the same patients several times, each time under other doses."""

    def repeated(self, patients: int, copies: int) -> VectorEnv[Any, Any, Any] | None:
        """Environment of the first evaluation patients: all, then all again; None where it cannot be."""


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
    doses = np.linspace(low, high, grid)
    values = mean_returns(factory, doses, patients, progress)
    k = int(np.clip(values.argmax(), 1, grid - 2))
    left, mid, right = values[k - 1 : k + 2]
    curvature = left - 2.0 * mid + right
    shift = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    best = float(np.clip(doses[k] + np.clip(shift, -1.0, 1.0) * (doses[1] - doses[0]), low, high))
    return best, float(mean_returns(factory, np.array([best]), patients, progress)[0])


def mean_returns(
    factory: EnvFactory, doses: Array, patients: int, progress: tqdm[Any] | None = None
) -> Array:
    """Mean return ``[K]`` on the search patients of each of ``doses [K]``, as many at once as are held."""
    together = isinstance(factory, RepeatsPatients) and patients <= AT_ONCE // 2
    means: list[float] = []
    for part in np.array_split(doses, -(-len(doses) * patients // AT_ONCE) if together else len(doses)):
        env = (
            factory.repeated(patients, len(part))
            if isinstance(factory, RepeatsPatients) and together
            else None
        )
        if env is None:
            means += [_alone(factory, dose, patients) for dose in part]
        else:
            numbers = range(len(part))
            result = follow([env], _each(part, patients), numbers, factory.horizon, SEARCH_SEED)
            means += [float(row.mean()) for row in result.returns]
        if progress is not None:
            progress.update(len(part))
    return np.array(means)


def _alone(factory: EnvFactory, dose: float, patients: int) -> float:
    result = rollout(factory, constant(dose), (0,), patients, env_seed=SEARCH_SEED)
    return float(result.returns.mean())


def _each(doses: Array, patients: int) -> Act:
    """The rule that gives everyone in row k the dose ``doses[k]``."""
    given = np.broadcast_to(doses[:, None, None], (len(doses), patients, 1))

    def act(obs: Observations, visit: int) -> Array:
        return given

    return act
