"""Two policies that need no training loop: the constant dose and the ridge fitted-Q policy, both closed form.

A learnt policy that does not beat the constant dose estimated from the same data has learnt nothing that a
regression of the reward on the dose does not show. Sources: Ernst, Geurts, Wehenkel 2005 (JMLR 6:503, fitted
Q iteration); Hoerl, Kennard 1970 (ridge regression).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.evaluation.rules import constant
from dosing.models.prior import constant_dose, greedy
from dosing.ope.features import Features, StateFeatures
from dosing.ope.trajectories import Trajectories, standardise
from dosing.policy import Observations
from dosing.types import Array

UNTOLD = "the recorded rewards say nothing about doses"
"""What is said where slope and curvature of the reward over the dose cannot be told from 0."""


@dataclass(frozen=True)
class EstimatedConstant:
    """The best constant dose as the data see it, or the median recorded one where they see none.

    Attributes:
        dose: in dose units, never outside the recorded doses.
        reward: estimated reward per visit.
        low: lowest recorded dose.
        high: highest recorded dose.
        identified: whether the rewards say anything about doses; where not, ``dose`` is the median recorded
            one and nothing is judged by it.
        p: p value of "they say nothing", see :func:`dosing.models.prior.dose_effect`.
    """

    dose: float
    reward: float
    low: float
    high: float
    identified: bool
    p: float

    @property
    def missing(self) -> str:
        """Why nothing is judged by this dose; empty where it was identified."""
        if self.identified:
            return ""
        return f"{UNTOLD} (p = {self.p:.2g} for slope and curvature 0, patients as clusters)"

    @property
    def edge(self) -> str:
        """Where the dose lies among the recorded ones: lowest, highest, or empty for between."""
        if not self.identified:
            return ""
        return "lowest" if self.dose <= self.low else "highest" if self.dose >= self.high else ""

    def __call__(self, obs: Observations, visit: int) -> Array:
        """The dose ``[S, P, 1]`` for everyone; an :data:`dosing.evaluation.rollout.Act`."""
        return constant(self.dose)(obs, visit)


def estimated_constant(data: Trajectories) -> EstimatedConstant:
    """Estimate the best constant dose from recorded visits; see :func:`dosing.models.prior.constant_dose`.

    Raises:
        UserError: the dose has more than one dimension or fewer than three different values.
    """
    if data.act.shape[-1] != 1:
        raise UserError("the constant dose is estimated for one dose dimension only.")
    rows = data.recorded > 0
    best = constant_dose(data.act[rows][:, 0], data.reward[rows], np.nonzero(rows)[0])
    dose, low, high = (float(data.transform.to_dose(x[None])[0]) for x in (best.dose, best.low, best.high))
    return EstimatedConstant(dose, float(best.reward), low, high, bool(best.identified), float(best.p))


@dataclass(frozen=True)
class RidgeFittedQ:
    """The greedy policies of S fitted values, one per ridge strength; a :data:`dosing.types.Act`.

    Attributes:
        transform: the scales of the patients it was fitted to.
        features: of a state and a dose.
        theta: ``[S, D]`` weights of the values.
        low: lowest recorded dose on the [-1, 1] axis; no greedy dose is lower.
        high: highest recorded dose.
    """

    transform: Transform
    features: Features
    theta: Array
    low: float
    high: float

    def __call__(self, obs: Observations, visit: int) -> Array:
        """Greedy doses ``[S, P, 1]`` at ``obs [S, P, O]``, or at ``[1, P, O]`` shared by all S."""
        phi = self.features.of_state(standardise(self.transform, obs))
        _, c1, c2 = self.features.dose_coefficients(phi, self.theta)
        return self.transform.to_dose(greedy(c1, c2, self.low, self.high)[..., None])


def ridge_fitted_q(
    data: Trajectories,
    ridge: Sequence[float] = (1e-3,),
    *,
    discount: float = 0.9,
    iterations: int = 60,
    state: StateFeatures = "linear",
) -> RidgeFittedQ:
    """Fitted Q iteration with a value quadratic in the dose, so that its greedy dose is exact.

    Q <- ridge regression of r + gamma (1 - d) max_a Q(s', a) on the features, ``iterations`` times from Q =
    0.

    Args:
        data: recorded patients.
        ridge: strengths, relative to the number of visits; one policy each.
        discount: gamma.
        iterations: regressions; what is left of the first is discount^iterations.
        state: features; see :mod:`dosing.ope.features`.

    Raises:
        UserError: a strength is not positive, the discount not in [0, 1), or the dose has several dimensions.
    """
    strengths = np.asarray(ridge, dtype=np.float64)
    if strengths.ndim != 1 or strengths.size == 0 or not (strengths > 0).all():
        raise UserError(f"ridge strengths must be one or more numbers above 0, got {list(ridge)}.")
    if not 0.0 <= discount < 1.0:
        raise UserError(f"the discount of fitted Q iteration must be in [0, 1), got {discount}.")
    features = Features(data.obs.shape[-1], data.act.shape[-1], state)
    rows = data.recorded > 0
    phi = features.of_state(standardise(data.transform, data.obs[rows]))
    phi_next = features.of_state(standardise(data.transform, data.next_obs[rows]))
    act, reward, alive = data.act[rows], data.reward[rows], 1.0 - data.terminated[rows]
    low, high = float(act.min()), float(act.max())
    design = features.combine(phi, act, act**2)
    penalty = strengths[:, None, None] * len(design) * np.diag(features.penalised())
    project = np.linalg.solve(
        design.T @ design + penalty, np.broadcast_to(design.T, (len(strengths), *design.T.shape))
    )
    theta = np.zeros((len(strengths), features.size))
    for _ in range(iterations):
        c0, c1, c2 = features.dose_coefficients(phi_next, theta)
        best = greedy(c1, c2, low, high)
        target = reward + discount * alive * (c0 + c1 * best + c2 * best**2)  # [S, M]
        theta = (project @ target[..., None])[..., 0]
    return RidgeFittedQ(data.transform, features, theta, low, high)
