"""The Bellman residual of any value function on held-out visits.

Farahmand, Szepesvari 2011 (Machine Learning 85:299, model selection by Bellman error). Beware: the mean
square is E delta^2 = (Bellman error)^2 + Var(r + gamma V(s') | s, a). The second term is noise that depends
on the value itself, so a flat and wrong value can score better than the right one, and residuals of critics
with different discounts, rewards or policies are not comparable (Baird 1995, on the need of double sampling).
Rank policies by an estimate of their return; use this to see whether one critic has converged or over-fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, patient_bootstrap
from dosing.ope.targets import Target
from dosing.ope.trajectories import Trajectories
from dosing.types import Array

QFunction = Callable[[Array, Array], Array]
"""Observations ``[S, B, O]`` and doses ``[S, B, A]`` on the [-1, 1] axis to values ``[S, B]``."""


@dataclass(frozen=True)
class Residual:
    """The temporal difference error r + gamma (1 - d) E_{a' ~ pi} Q(s', a') - Q(s, a) of one seed.

    Attributes:
        mean: its mean; away from 0 the value drifts in one direction.
        mean_square: its mean square, noise included.
        reward_variance: variance of the recorded rewards, the scale to read the mean square against.
    """

    mean: Estimate
    mean_square: Estimate
    reward_variance: float


def bellman_residual(q: QFunction, policy: Target, data: Trajectories, discount: float) -> list[Residual]:
    """Residual of each seed's value on visits it was not fitted to, with patient-bootstrap intervals.

    Args:
        q: the value.
        policy: whose value it claims to be.
        data: held-out patients.
        discount: gamma of the value.

    Raises:
        UserError: the value does not return ``[S, B]`` or is not finite, or there are fewer than two
            patients.
    """
    rows = data.recorded > 0
    obs, act, after = data.obs[rows], data.act[rows], data.next_obs[rows]
    doses, weights = policy.nodes(after)  # [K, S, B, A]
    seeds = doses.shape[1]

    def values(states: Array, given: Array) -> Array:
        result = q(
            np.broadcast_to(states, (seeds, *states.shape)),
            np.broadcast_to(given, (seeds, *given.shape[-2:])),
        )
        if result.shape != (seeds, len(states)) or not np.isfinite(result).all():
            raise UserError(
                f"a value must return finite numbers of shape [{seeds}, {len(states)}], "
                f"got {list(result.shape)}."
            )
        return result

    following = sum(w * values(after, d) for w, d in zip(weights, doses, strict=True))
    delta = data.reward[rows] + discount * (1.0 - data.terminated[rows]) * following - values(obs, act)
    variance = float(data.reward[rows].var())
    return [Residual(_mean(d, rows), _mean(d**2, rows), variance) for d in np.asarray(delta)]


def _mean(values: Array, rows: NDArray[np.bool_]) -> Estimate:
    """Mean over visits with an interval over patients of equal length; visits weigh alike."""
    laid = np.zeros(rows.shape)
    laid[rows] = values
    share = rows.shape[0] / rows.sum()
    return patient_bootstrap(laid.sum(1) * share, lambda x: np.asarray(x.mean(-1)))
