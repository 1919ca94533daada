"""Importance sampling: recorded rewards weighed by how much likelier the target policy makes their doses.

With rho_t = pi(a_t | s_t) / mu(a_t | s_t) and w_t = rho_0 ... rho_t (Precup, Sutton, Singh 2000; the
weighted, per-decision form and weighted doubly robust: Thomas, Brunskill 2016, arXiv 1604.00923)

    WIS = sum_t gamma^t sum_i u_t^i r_t^i,   u_t^i = w_t^i / sum_j w_t^j,   u_{-1}^i = 1 / N
    WDR = sum_t gamma^t sum_i [ u_t^i (r_t^i - Q(s_t^i, a_t^i)) + u_{t-1}^i V(s_t^i) ],

Q and V fitted to the other patients (cross-fitting: ``dosing.ope.fqe`` on the other folds).

Under a bounded support or a kernel most products are exactly 0 after a few visits. Every number comes with
the effective sample size (sum w)^2 / sum w^2 at each visit, and there is no number below
:data:`LEAST_SAMPLE`.

The windowed form multiplies only the last k ratios (Guo, Thomas, Brunskill 2017, arXiv 1703.03453, drop the
early ones likewise) and pools the visits t >= k - 1 of all patients:

    WIS_k = (sum_t gamma^t) (sum_{i,t} w_t^i r_t^i) / (sum_{i,t} w_t^i),   w_t = rho_{t-k+1} ... rho_t.

It takes doses given k or more visits ago for those of the target, and all visits for alike: a biased estimate
of what a full product cannot estimate at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dosing.errors import UserError
from dosing.ope.fqe import PolicyFeatures, Regression, fit
from dosing.ope.targets import Target
from dosing.ope.trajectories import Trajectories
from dosing.types import Array

LEAST_SAMPLE = 10.0
"""Smallest effective sample size at which a number is given."""
LEAST_SURVIVAL = 0.05
"""Smallest share of patients with a weight above 0 at which a number is given."""
MOST_OFF_SUPPORT = 0.05
"""Largest mean probability of doses without a density at which a number is given."""


@dataclass(frozen=True)
class WeightDiagnostics:
    """How many patients the weights rest on; every array is ``[S, T]``, the windowed ones ``[S]``.

    Attributes:
        effective_sample: (sum w)^2 / sum w^2 over patients, at most N.
        survival: share of patients with w > 0.
        largest_share: largest w over their sum; near 1 one patient decides. 1 where no weight is above 0.
        tenth_share: share of the sum that the tenth of the patients with the largest weights carries.
        window_sample: effective sample size of the windowed weights over all visits; visits of one patient
            are not independent, so it overstates.
        window_survival: share of visits with a windowed weight above 0.
    """

    effective_sample: Array
    survival: Array
    largest_share: Array
    tenth_share: Array
    window_sample: Array
    window_survival: Array

    @classmethod
    def of(cls, weights: Array, windowed: Array) -> WeightDiagnostics:
        """Diagnose full products ``[S, N, T]`` and windowed weights ``[S, M]``."""
        total = weights.sum(1)
        safe = np.where(total > 0, total, 1.0)
        ordered = -np.sort(-weights, axis=1)
        tenth = max(1, round(0.1 * weights.shape[1]))
        return cls(
            effective_sample=_effective(weights, 1),
            survival=(weights > 0).mean(1),
            largest_share=np.where(total > 0, ordered[:, 0] / safe, 1.0),
            tenth_share=np.where(total > 0, ordered[:, :tenth].sum(1) / safe, 1.0),
            window_sample=_effective(windowed, 1),
            window_survival=(windowed > 0).mean(1),
        )

    def refusal(self) -> str | None:
        """Why full products give no number, None if they do."""
        return _refusal(self.effective_sample, self.survival, "patients")

    def window_refusal(self) -> str | None:
        """Why windowed weights give no number, None if they do."""
        return _refusal(self.window_sample[:, None], self.window_survival[:, None], "visits")


def _effective(weights: Array, axis: int) -> Array:
    square = (weights**2).sum(axis)
    result: Array = weights.sum(axis) ** 2 / np.where(square > 0, square, 1.0)
    return result


def _refusal(sample: Array, survival: Array, unit: str) -> str | None:
    """Name the first visit, counted from 1, at which the weights are too few."""
    poor = ((sample < LEAST_SAMPLE) | (survival < LEAST_SURVIVAL)).any(0)
    if not poor.any():
        return None
    visit = int(poor.argmax())
    where = f" at visit {visit + 1}" if sample.shape[1] > 1 else ""
    return (
        f"the effective sample size{where} is {sample[:, visit].min():.1f} {unit} with "
        f"{survival[:, visit].min():.1%} of the weights above 0; at least {LEAST_SAMPLE:g} and "
        f"{LEAST_SURVIVAL:.0%} are needed"
    )


def density_ratios(data: Trajectories, policy: Target, horizon: int | None = None) -> Array:
    """Ratios pi(a|s) / mu(a|s), ``[S, N, H]``; 1 after the end of an episode.

    Raises:
        UserError: recordings stop before the horizon, a density is not known, or the policy gives more than
            :data:`MOST_OFF_SUPPORT` of its doses at the limits, where recorded doses say nothing of them.
    """
    horizon = data.visits if horizon is None else horizon
    if horizon > data.visits or not data.complete:
        result = (
            "some recordings stop earlier" if horizon <= data.visits else f"none has more than {data.visits}"
        )
        raise UserError(f"importance weights need {horizon} visits of every patient, and {result}.")
    recorded = data.recorded[:, :horizon] > 0
    log_density = data.log_density[:, :horizon]
    unknown = recorded & ~np.isfinite(log_density)
    if unknown.any():
        raise UserError(
            f"the density of {unknown.sum()} of {recorded.sum()} recorded doses under the policy that gave "
            "them is not known; estimate it (behaviour = estimated), or use fitted Q evaluation alone."
        )
    n = data.patients
    obs, act = (x[:, :horizon].reshape(n * horizon, -1) for x in (data.obs, data.act))
    inside = recorded.reshape(-1)
    off_support = float(policy.off_support(obs[inside]).mean(1).max())
    if off_support > MOST_OFF_SUPPORT:
        raise UserError(
            f"the policy gives {off_support:.1%} of its doses exactly at the limits, of which the recorded "
            f"doses between them say nothing; importance weights are for at most {MOST_OFF_SUPPORT:.0%}."
        )
    density = policy.density(obs[inside], act[inside])
    ratios = np.ones((len(density), n * horizon))
    ratios[:, inside] = density / np.exp(log_density.reshape(-1)[inside])
    shaped: Array = ratios.reshape(-1, n, horizon)
    return shaped


def windowed_weights(ratios: Array, window: int) -> Array:
    """Products of the last ``window`` ratios at every visit that has as many: ``[S, N, H - window + 1]``.

    Raises:
        UserError: the window is not between 1 and H.
    """
    if not 1 <= window <= ratios.shape[-1]:
        raise UserError(f"the window must be 1 to {ratios.shape[-1]} visits, got {window}.")
    products: Array = np.lib.stride_tricks.sliding_window_view(ratios, window, axis=-1).prod(-1)
    return products


def _powers(discount: float, horizon: int) -> Array:
    powers: Array = discount ** np.arange(horizon, dtype=np.float64)
    return powers


def _normalised(weights: Array, counts: Array) -> Array:
    """Weights u ``[R, S, N, T]`` of weighed patients that sum to 1 over them; NaN where none is left."""
    weighed: Array = counts[:, None, :, None] * weights
    total: Array = weighed.sum(2, keepdims=True)
    share: Array = np.where(total > 0, weighed / np.where(total > 0, total, 1.0), np.nan)
    return share


def weighted_importance(data: Trajectories, weights: Array, counts: Array, discount: float) -> Array:
    """WIS ``[R, S]``.

    Args:
        data: recorded patients.
        weights: products of ratios ``[S, N, H]``.
        counts: ``[R, N]`` how often each patient enters.
        discount: gamma.

    Returns:
        ``[R, S]``, NaN where no patient has a weight above 0 at some visit.
    """
    horizon = weights.shape[-1]
    rewards = data.reward[:, :horizon] * _powers(discount, horizon)
    result = np.empty((len(counts), len(weights)))
    for block in _blocks(counts, weights):
        result[block] = np.einsum("rsnt,nt->rs", _normalised(weights, counts[block]), rewards)
    return result


def windowed_importance(
    data: Trajectories, weights: Array, counts: Array, discount: float, horizon: int
) -> Array:
    """WIS_k ``[R, S]`` from :func:`windowed_weights`; arguments as of :func:`weighted_importance`."""
    rewards = data.reward[:, horizon - weights.shape[-1] : horizon]
    numerator = counts @ np.einsum("snt,nt->ns", weights, rewards)
    denominator = counts @ weights.sum(-1).T  # visits after the end count, with reward 0
    per_visit = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
    result: Array = per_visit * _powers(discount, horizon).sum()
    return result


def weighted_doubly_robust(
    regression: Regression,
    policy: PolicyFeatures,
    weights: Array,
    counts: Array,
    folds: NDArray[np.int64],
    discount: float,
) -> Array:
    """WDR ``[R, S]`` with values fitted to the patients of the other folds, anew in every replicate.

    Args:
        regression: the patients and the ridge strength.
        policy: the policy's features on them.
        weights: products of ratios ``[S, N, H]``.
        counts: ``[R, N]`` how often each patient enters.
        folds: ``[N]`` fold of each patient.
        discount: gamma.
    """
    data, horizon = regression.data, weights.shape[-1]
    result = np.zeros((len(counts), len(weights)))
    powers = _powers(discount, horizon)
    for block in _blocks(counts, weights):
        now = _normalised(weights, counts[block])  # [R, S, N, H]
        before = np.empty_like(now)
        before[..., 1:] = now[..., :-1]
        before[..., 0] = (counts[block] / counts[block].sum(1, keepdims=True))[:, None]
        for fold in np.unique(folds):
            out = folds == fold
            theta = fit(regression, policy, counts[block] * ~out, discount=discount, horizon=horizon)[::-1]
            q = np.einsum("ntd,trsd->rsnt", regression.design[out, :horizon], theta, optimize=True)
            v = np.einsum("sntd,trsd->rsnt", policy.here[:, out, :horizon], theta, optimize=True)
            residual = data.reward[out, :horizon] - q
            result[block] += np.einsum(
                "rsnt,t->rs", now[:, :, out] * residual + before[:, :, out] * v, powers
            )
    return result


def _blocks(counts: Array, weights: Array) -> list[slice]:
    """Cut the replicates so that the arrays ``[R, S, N, H]`` of one block stay below 32 MB."""
    size = max(1, 4_000_000 // weights.size)
    return [slice(start, start + size) for start in range(0, len(counts), size)]
