"""Ceilings: how good a policy can be at all on a scenario with a deterministic latent mean (III and IV).

- *clairvoyant*: knows a patient's mean and covariance. Because noise never feeds back into the mean, the
  best open-loop dose sequence is the best of all policies; it is found by batched spectral projected gradient
  ascent (Birgin, Martinez, Raydan 2000) from many starts, with a certificate of convergence.
- *myopic, true mean*: maximises each visit's expected reward, knowing mean and covariance.
- *best constant dose*: the same dose for everyone at every visit.
- *myopic, observed state*: the same rule, taking the noisy state for the mean.
- *memoryless* and *recurrent*: what can be reached from observations (``simulator.bounds.differentiable``,
  needs torch).

All rows are expected returns of the same patients, so that differences between rows are not noise.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from simulator.bounds.expected_reward import (
    Float,
    Patients,
    expected_return,
    expected_reward,
    move,
    value_and_gradient,
)
from simulator.environment import CohortEnv

RESTARTS = 16
"""Starting sequences per patient."""

TOLERANCE = 1e-6
"""Largest projected gradient entry at which a sequence counts as converged, reward per dose unit."""


@dataclass(frozen=True)
class Clairvoyant:
    """The best dose sequences found and how far one may trust them."""

    doses: Float
    """Best sequence of each patient [T, n]."""
    value: Float
    """Its expected return [n]."""
    projected_gradient: Float
    """Largest entry of the projected gradient at that sequence [n]; 0 at an exact local optimum."""
    agreement: Float
    """Share of a patient's restarts that ended within 1e-4 of the best return [n]."""
    iterations: int
    """Gradient steps made."""


def clairvoyant(
    patients: Patients,
    *,
    gamma: float = 1.0,
    restarts: int = RESTARTS,
    iterations: int = 3000,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Clairvoyant:
    """Find each patient's best dose sequence by spectral projected gradient ascent from several starts.

    Half of the starts are constant doses spread over the limits, one is the best constant dose, one myopic,
    the others are random.
    """
    low, high, steps, n = patients.low, patients.high, patients.visits, patients.n
    rng = np.random.default_rng(seed)
    start = rng.uniform(low, high, size=(steps, n, restarts))
    constants = restarts // 2
    start[:, :, :constants] = np.linspace(low, high, constants + 2)[1:-1]
    start[:, :, -1] = myopic_doses(patients)
    start[:, :, -2] = best_constant_dose(patients, gamma)[0]
    many = patients.repeat(restarts)
    doses, gradient_size, used = _ascend(many, start.reshape(steps, -1), gamma, iterations, tolerance)
    value = expected_return(many, doses, gamma).reshape(n, restarts)
    best = value.argmax(axis=1)
    pick = np.arange(n) * restarts + best
    top = value[np.arange(n), best]
    return Clairvoyant(
        doses=doses[:, pick],
        value=top,
        projected_gradient=gradient_size[pick],
        agreement=(value >= top[:, None] - 1e-4).mean(axis=1),
        iterations=used,
    )


def _ascend(
    patients: Patients, doses: Float, gamma: float, iterations: int, tolerance: float
) -> tuple[Float, Float, int]:
    """Climb from ``doses`` [T, N] until every projected gradient is below ``tolerance``.

    Barzilai-Borwein steps with a non-monotone Armijo rule over the last ten values, each sequence on its
    own. Sequences that have converged leave the batch. Returns doses, largest projected gradient entries,
    iterations.
    """
    low, high, memory = patients.low, patients.high, 10
    final, size = doses.copy(), np.full(doses.shape[1], np.inf)
    active = np.arange(doses.shape[1])
    value, gradient = value_and_gradient(patients, doses, gamma)
    recent = np.repeat(value[None], memory, axis=0)
    rate = np.full(len(active), 0.1)
    done = 0
    for done in range(1, iterations + 1):
        trial = np.clip(doses + rate * gradient, low, high)
        step = trial - doses
        slope = (gradient * step).sum(axis=0)
        floor, share = recent.min(axis=0), np.ones(len(active))
        new_value, new_gradient = value_and_gradient(patients, trial, gamma)
        for _ in range(30):
            short = new_value < floor + 1e-4 * share * slope
            if not short.any():
                break
            share[short] *= 0.5
            where = np.flatnonzero(short)
            trial[:, where] = doses[:, where] + share[where] * step[:, where]
            new_value[where], new_gradient[:, where] = value_and_gradient(
                patients.take(where), trial[:, where], gamma
            )
        moved, turned = trial - doses, gradient - new_gradient
        curvature = (moved * turned).sum(axis=0)
        square = (moved * moved).sum(axis=0)
        rate = np.where(curvature > 1e-12 * square, square / np.maximum(curvature, 1e-300), 10.0).clip(
            1e-6, 10.0
        )
        doses, value, gradient = trial, new_value, new_gradient
        recent[done % memory] = value
        projected = np.abs(np.clip(doses + gradient, low, high) - doses).max(axis=0)
        final[:, active], size[active] = doses, projected
        going = projected > tolerance
        if not going.any():
            break
        if going.mean() < 0.8:
            keep = np.flatnonzero(going)
            patients, active, rate = patients.take(keep), active[keep], rate[keep]
            doses, value, gradient, recent = doses[:, keep], value[keep], gradient[:, keep], recent[:, keep]
    return final, size, done


def myopic_doses(patients: Patients, means: Float | None = None) -> Float:
    """Return the doses [T, n] that maximise each visit's expected reward, knowing the true mean."""
    mean, doses = patients.mean, []
    for _ in range(patients.visits):
        dose = best_next_dose(patients, mean)
        mean = move(patients, mean, dose)
        doses.append(dose)
    return np.array(doses)


def best_next_dose(patients: Patients, mean: Float, points: int = 81, rounds: int = 4) -> Float:
    """Return the dose [n] with the largest expected reward of this visit, by a grid that narrows."""
    low, high = np.full(patients.n, patients.low), np.full(patients.n, patients.high)
    best = low
    for _ in range(rounds):
        grid = np.linspace(low, high, points)
        value = np.array(
            [
                expected_reward(patients, mean if patients.lag else move(patients, mean, dose), dose)
                for dose in grid
            ]
        )
        at = value.argmax(axis=0)
        best = np.take_along_axis(grid, at[None], axis=0)[0]
        width = (high - low) / (points - 1)
        low, high = np.maximum(best - width, patients.low), np.minimum(best + width, patients.high)
        points = 11
    return best


def best_constant_dose(patients: Patients, gamma: float = 1.0) -> tuple[float, Float]:
    """Return the constant dose with the largest mean expected return and that return of each patient [n]."""
    shape = (patients.visits, patients.n)

    def returns(dose: float) -> Float:
        return expected_return(patients, np.full(shape, dose), gamma)

    grid = np.linspace(patients.low, patients.high, 41)
    centre = grid[int(np.argmax([returns(dose).mean() for dose in grid]))]
    width = grid[1] - grid[0]
    result = minimize_scalar(
        lambda dose: -returns(float(dose)).mean(),
        bounds=(max(centre - width, patients.low), min(centre + width, patients.high)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(result.x), returns(float(result.x))


def myopic_on_observation(env_id: str, patients: Patients, seed: int, **options: Any) -> Float:
    """Return the doses [T, n] of the myopic rule when it takes the noisy state for the exact mean."""
    env = CohortEnv(env_id, num_envs=patients.n, **options)
    obs, _ = env.reset(seed=seed)
    naive = replace(patients, spread=np.zeros(patients.n))
    doses = []
    for _ in range(patients.visits):
        dose = best_next_dose(naive, obs[:, :8].T.astype(np.float64))
        doses.append(dose)
        obs, *_ = env.step(dose[:, None].astype(np.float32))
    return np.array(doses)
