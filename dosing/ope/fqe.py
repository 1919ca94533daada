"""Fitted Q evaluation in closed form, for all seeds of a policy and all bootstrap replicates at once.

Le, Voloshin, Yue 2019, arXiv 1903.08738 (fitted Q evaluation); Lagoudakis, Parr 2003, JMLR 4:1107 (its fixed
point for a linear value). With h visits to go,

    Q_h = argmin_Q sum (r + gamma (1 - d) E_{a' ~ pi} Q_{h-1}(s', a') - Q(s, a))^2 + ridge,   Q_0 = 0,

summed over recorded visits; the value is the mean over first states of E_{a ~ pi} Q_H(s, a). Every visit
serves every h, since neither the distribution of motion nor the policy changes with the visit. With the
features Phi of ``dosing.ope.features`` and their expectation Phi_pi under the policy,

    theta_h = G^-1 (b + gamma C theta_{h-1}),
    G = Phi' Phi + ridge,   C = Phi' (1 - d) Phi_pi(s'),   b = Phi' r.

G, C and b are sums over patients: a bootstrap replicate only weighs them. They are kept by patient, S N D^2
numbers: little for linear features, 1.5 GB for 10,000 patients and the 135 quadratic features of 8 states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dosing.errors import UserError
from dosing.ope.features import Features, StateFeatures
from dosing.ope.targets import Target, dose_moments
from dosing.ope.trajectories import Trajectories, standardise
from dosing.types import Array


class Regression:
    """What every policy's evaluation on the same patients shares: features, and their sums by patient.

    Args:
        data: recorded patients.
        ridge: strength of the penalty relative to the number of visits.
        state: features; see :mod:`dosing.ope.features`.

    Raises:
        UserError: the strength is not positive, or fewer than three different doses were recorded.
    """

    def __init__(self, data: Trajectories, ridge: float = 1.0, state: StateFeatures = "linear") -> None:
        if not ridge > 0:
            raise UserError(f"the ridge strength must be above 0, got {ridge}.")
        doses = data.act[data.recorded > 0]
        if any(len(np.unique(column)) < 3 for column in doses.T):
            raise UserError(
                "fitted Q evaluation needs at least three different recorded doses in every dimension."
            )
        self.data = data
        self.features = Features(data.obs.shape[-1], data.act.shape[-1], state)
        self.ridge = ridge
        self.phi = self.features.of_state(standardise(data.transform, data.obs))  # [N, T, F]
        self.phi_next = self.features.of_state(standardise(data.transform, data.next_obs))
        design = self.features.combine(self.phi, data.act, data.act**2)
        self.design = design * data.recorded[..., None]  # [N, T, D]; padding has no features
        self.gram = np.swapaxes(self.design, 1, 2) @ self.design  # [N, D, D]
        self.reward = np.einsum("ntd,nt->nd", self.design, data.reward)

    @cached_property
    def visits(self) -> Array:
        """Recorded visits of each patient ``[N]``."""
        count: Array = self.data.recorded.sum(1)
        return count

    def solver(self, counts: Array) -> Array:
        """Inverse of G ``[..., D, D]`` when patient n enters ``counts[..., n]`` times."""
        penalty = self.ridge * (counts @ self.visits)[..., None, None] * np.diag(self.features.penalised())
        gram = weighted(counts, self.gram) + penalty
        return np.asarray(np.linalg.inv(gram), dtype=np.float64)


def weighted(counts: Array, per_patient: Array) -> Array:
    """Sum over patients ``[..., *rest]`` of ``per_patient [N, *rest]`` weighed by ``counts [..., N]``."""
    return np.tensordot(counts, per_patient, 1)


@dataclass(frozen=True)
class PolicyFeatures:
    """Expected features of one policy on the recorded patients.

    Attributes:
        here: ``[S, N, T, D]`` at the recorded states; 0 at padding.
        cross: ``[S, N, D, D]`` sums over visits of Phi (1 - d) Phi_pi(s')'.
    """

    here: Array
    cross: Array

    @classmethod
    def of(cls, regression: Regression, policy: Target) -> PolicyFeatures:
        """Evaluate the policy at every recorded and every next state."""
        data, features = regression.data, regression.features
        n, t = data.reward.shape

        def expected(obs: Array, phi: Array) -> Array:
            first, second = (
                m.reshape(m.shape[0], n, t, -1) for m in dose_moments(policy, obs.reshape(n * t, -1))
            )
            return features.combine(phi[None], first, second)

        here = expected(data.obs, regression.phi) * data.recorded[..., None]
        after = expected(data.next_obs, regression.phi_next) * (1.0 - data.terminated)[..., None]
        cross = np.swapaxes(regression.design, 1, 2) @ after  # [N, D, T] @ [S, N, T, D]
        return cls(here, cross)


def fit(
    regression: Regression,
    policy: PolicyFeatures,
    counts: Array,
    *,
    discount: float,
    horizon: int | None,
    inverse: Array | None = None,
) -> Array:
    """Weights of the fitted values for every weighing of the patients.

    Args:
        regression: the patients.
        policy: the policy's features on them.
        counts: ``[R, N]`` how often each patient enters.
        discount: gamma.
        horizon: H visits to go; None for the fixed point of the discounted recursion.
        inverse: ``regression.solver(counts)`` where it is known already.

    Returns:
        ``[H, R, S, D]``, entry h - 1 with h visits to go; ``[1, R, S, D]`` without a horizon.

    Raises:
        UserError: the discount is not in [0, 1], is 1 without a horizon, or the horizon is not positive.
    """
    check_criterion(discount, horizon)
    if inverse is None:
        inverse = regression.solver(counts)
    inverse = inverse[:, None]  # [R, 1, D, D]
    cross = weighted(counts, np.swapaxes(policy.cross, 0, 1))  # [R, S, D, D]
    base = inverse @ weighted(counts, regression.reward)[:, None, :, None]  # [R, 1, D, 1]
    step = discount * (inverse @ cross)
    if horizon is None:
        fixed = np.linalg.solve(np.eye(step.shape[-1]) - step, np.broadcast_to(base, (*step.shape[:-1], 1)))
        return np.asarray(fixed, dtype=np.float64)[None, ..., 0]
    theta = np.zeros((*step.shape[:-1], 1))
    result = []
    for _ in range(horizon):
        theta = base + step @ theta
        result.append(theta[..., 0])
    return np.stack(result)


def value(policy: PolicyFeatures, theta: Array, counts: Array) -> Array:
    """Value ``[R, S]`` of the first states of the weighed patients under weights ``theta [R, S, D]``."""
    start = weighted(counts, np.swapaxes(policy.here[:, :, 0], 0, 1))  # [R, S, D]
    mean: Array = (start * theta).sum(-1) / counts.sum(-1)[:, None]
    return mean


def check_criterion(discount: float, horizon: int | None) -> None:
    """Refuse a return that is not defined.

    Raises:
        UserError: see :func:`fit`.
    """
    if not 0.0 <= discount <= 1.0 or (horizon is None and discount == 1.0):
        raise UserError(
            f"the discount must be between 0 and 1, and below 1 without a horizon; got {discount} with "
            f"{'no horizon' if horizon is None else f'a horizon of {horizon} visits'}."
        )
    if horizon is not None and horizon < 1:
        raise UserError(f"the horizon must be at least one visit, got {horizon}.")
