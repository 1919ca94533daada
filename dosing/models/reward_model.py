"""Reward (or cost) of a visit: quadratic in the dose, with coefficients that depend on the next observation.

    r(y', a) = phi(y') . Theta . psi(a),     psi(a) = 1, a_i, a_i a_j (i <= j)
    phi(y')  = 1, y'_i                        (linear)
             = 1, y'_i, y'_i y'_j             (quadratic)

Theta by ridge regression (Hoerl, Kennard 1970, Technometrics 12:55); features and strength by the held-out
error of whole patients. Everything is computed from the sums over visits of products of features, so that no
fold needs a second look at the visits. The same regression serves a cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

RIDGE = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Strengths that are tried, relative to the number of visits; the intercept is free."""
MOST_FEATURES = 700
"""Most coefficients of the quadratic features; with more, only the linear ones are tried."""
PATIENTS = 64
"""Patients whose own sums are held at once."""
ROWS = 1 << 18
"""Numbers of the design matrix that are held at once, in thousands of visits times coefficients."""


@dataclass(frozen=True)
class RewardModel:
    """K reward models.

    Attributes:
        theta: ``[K, 1 + O + O O, P]`` coefficients of every dose power; those of ``y_i y_j`` are symmetric.
    """

    theta: Tensor

    def __call__(self, next_obs: Tensor, act: Tensor) -> Tensor:
        """Reward ``[K, B]`` for doses ``act [K, B, A]`` followed by ``next_obs [K, B, O]``."""
        slope, constant = self.slopes
        by_marker: Tensor = torch.baddbmm(slope, next_obs, self.products).unflatten(
            -1, (-1, next_obs.shape[-1])
        )
        by_power = (by_marker * next_obs.unsqueeze(-2)).sum(-1) + constant  # [K, B, P]
        reward: Tensor = (by_power * powers(act)).sum(-1)
        return reward

    @cached_property
    def slopes(self) -> tuple[Tensor, Tensor]:
        """Coefficients of y' by dose power ``[K, 1, P O]``, and those of no marker ``[K, 1, P]``."""
        n_obs = self.n_obs
        return self.theta[:, 1 : 1 + n_obs].mT.flatten(1).unsqueeze(1), self.theta[:, :1]

    @cached_property
    def products(self) -> Tensor:
        """Coefficients of y' y' by dose power, ``[K, O, P O]``."""
        square: Tensor = self.theta[:, 1 + self.n_obs :].unflatten(
            1, (self.n_obs, self.n_obs)
        )  # [K, O, O, P]
        products: Tensor = square.movedim(3, 2).flatten(2).contiguous()
        return products

    @cached_property
    def pairs(self) -> Tensor:
        """Coefficients of y'_i y'_j by dose power, ``[K, O O, P]``."""
        return self.theta[:, 1 + self.n_obs :]

    @cached_property
    def curvature(self) -> Tensor:
        """Coefficients of y'_i y'_i ``[K, O, P]``: what one more variance of a marker adds to the reward."""
        square: Tensor = self.theta[:, 1 + self.n_obs :].unflatten(1, (self.n_obs, self.n_obs))
        return square.diagonal(dim1=1, dim2=2).mT

    @property
    def n_obs(self) -> int:
        """O."""
        return math.isqrt(self.theta.shape[1] - 1)


def powers(act: Tensor) -> Tensor:
    """1, a_i and a_i a_j (i <= j) of doses ``[..., A]``, ``[..., P]``."""
    one = torch.ones_like(act[..., :1])
    if act.shape[-1] == 1:
        return torch.cat((one, act, act * act), -1)
    i, j = torch.triu_indices(act.shape[-1], act.shape[-1], device=act.device)
    return torch.cat((one, act, act[..., i] * act[..., j]), -1)


def _features(next_obs: Tensor, *, quadratic: bool) -> Tensor:
    """Phi ``[..., D]``; quadratic with every product once."""
    one = torch.ones_like(next_obs[..., :1])
    if not quadratic:
        return torch.cat((one, next_obs), -1)
    i, j = torch.triu_indices(next_obs.shape[-1], next_obs.shape[-1], device=next_obs.device)
    return torch.cat((one, next_obs, next_obs[..., i] * next_obs[..., j]), -1)


def _moments(next_obs: Tensor, act: Tensor, reward: Tensor, *, quadratic: bool) -> Tensor:
    """Products ``[R, D P + 1, D P + 1]`` of features and reward, summed over ``[R, N, T]`` visits."""
    n_obs = next_obs.shape[-1]
    width = (1 + n_obs + (n_obs * (n_obs + 1) // 2 if quadratic else 0)) * powers(act[:1, :1, :1]).shape[-1]
    total = next_obs.new_zeros(len(act), width + 1, width + 1, dtype=torch.float64)
    chunk = max(1, ROWS * 64 // (width * len(act) * act.shape[2]))
    for o, a, r in zip(next_obs.split(chunk, 1), act.split(chunk, 1), reward.split(chunk, 1), strict=True):
        valid = o.isfinite().all(-1) & r.isfinite()
        phi = _features(torch.where(valid.unsqueeze(-1), o, 0.0).double(), quadratic=quadratic)
        design = (phi.unsqueeze(-1) * powers(a.double()).unsqueeze(-2)).flatten(-2)
        rows = torch.cat((design, torch.where(valid, r, 0.0).double().unsqueeze(-1)), -1)
        rows = (rows * valid.unsqueeze(-1)).flatten(1, 2)
        total = total + rows.mT @ rows
    return total


def _solve(moments: Tensor, strength: Tensor) -> Tensor:
    """Ridge coefficients ``[..., D P]`` of moments ``[..., D P + 1, D P + 1]``, strengths ``[...]``."""
    gram, cross = moments[..., :-1, :-1], moments[..., :-1, -1]
    count = moments[..., 0, 0]  # the intercept's square is the number of visits
    penalty = torch.ones_like(cross)
    penalty[..., 0] = 1e-9
    diagonal = torch.diag_embed(penalty * (strength * count).unsqueeze(-1))
    theta: Tensor = torch.linalg.solve(gram + diagonal, cross.unsqueeze(-1)).squeeze(-1)
    return theta


def _error(moments: Tensor, theta: Tensor) -> Tensor:
    """Mean squared error of coefficients ``[..., D P]`` on the visits behind the moments."""
    full = torch.cat((theta, -torch.ones_like(theta[..., :1])), -1).unsqueeze(-1)
    error: Tensor = (full.mT @ moments @ full)[..., 0, 0] / moments[..., 0, 0].clamp(min=1.0)
    return error


@dataclass(frozen=True)
class FittedReward:
    """Reward models of R data sets.

    Attributes:
        theta: ``[R, 1 + F, 1 + O + O O, P]``: of all patients, then without each of the F folds.
        error: held-out mean squared error ``[R]``.
        explained: share ``[R]`` of the rewards' variance that is explained on held-out patients.
        quadratic: which data sets ``[R]`` took the quadratic features.
        strength: the ridge of each, ``[R]``.
    """

    theta: Tensor
    error: Tensor
    explained: Tensor
    quadratic: Tensor
    strength: Tensor


def fit_reward(next_obs: Tensor, act: Tensor, reward: Tensor, fold: Tensor) -> FittedReward:
    """Fit reward models to R data sets, features and ridge chosen by held-out patients.

    Args:
        next_obs: ``[R, N, T, O]``, NaN where a marker was not recorded: such a visit is left out.
        act: ``[R, N, T, A]`` in [-1, 1].
        reward: ``[R, N, T]``.
        fold: ``[N]`` number of the fold in which each patient is held out.
    """
    folds, n_obs, n_powers = int(fold.max()) + 1, next_obs.shape[-1], powers(act[:1, :1, :1]).shape[-1]
    strengths = torch.tensor(RIDGE, dtype=torch.float64, device=act.device)
    kinds = [False]
    if (1 + n_obs + n_obs * (n_obs + 1) // 2) * n_powers <= MOST_FEATURES:
        kinds.append(True)
    errors, thetas = [], []
    for quadratic in kinds:
        parts = torch.stack(
            [
                _moments(next_obs[:, fold == k], act[:, fold == k], reward[:, fold == k], quadratic=quadratic)
                for k in range(folds)
            ],
            1,
        )  # [R, F, ...]
        total = parts.sum(1, keepdim=True)
        train = (total - parts).unsqueeze(2).expand(-1, -1, len(strengths), -1, -1)
        theta = _solve(train, strengths.expand(train.shape[:3]))  # [R, F, L, D P]
        held = _error(parts.unsqueeze(2).expand_as(train), theta)
        whole = _solve(
            total.expand(-1, len(strengths), -1, -1), strengths.expand(len(act), -1)
        )  # [R, L, D P]
        every = torch.cat((whole.unsqueeze(1), theta), 1)  # [R, 1 + F, L, D P]
        thetas.append(_symmetric(every.unflatten(-1, (-1, n_powers)), n_obs, quadratic=quadratic))
        share = parts[..., 0, 0] / total[..., 0, 0]  # of the visits, [R, F]
        errors.append((held * share.unsqueeze(-1)).sum(1))
    error, every = torch.cat(errors, 1), torch.cat(thetas, 2)  # [R, C], [R, 1 + F, C, ...]
    best = error.argmin(1)
    sets = torch.arange(len(act), device=act.device)
    moments = _moments(next_obs, act, reward, quadratic=False)
    mean = moments[:, 0, -1] / moments[:, 0, 0]
    variance = moments[:, -1, -1] / moments[:, 0, 0] - mean * mean
    least = error[sets, best]
    return FittedReward(
        theta=every[sets, :, best].to(act.dtype),
        error=least.to(act.dtype),
        explained=(1.0 - least / variance.clamp(min=1e-12)).to(act.dtype),
        quadratic=best >= len(strengths),
        strength=strengths[best % len(strengths)].to(act.dtype),
    )


def refit_reward(
    fitted: FittedReward, number: int, next_obs: Tensor, act: Tensor, reward: Tensor, share: Tensor
) -> RewardModel:
    """Reward models of one data set for M other weighings of its patients; features and ridge stay.

    Args:
        fitted: reward models of R data sets.
        number: of the data set.
        next_obs: ``[N, T, O]``, NaN where a marker was not recorded.
        act: ``[N, T, A]``.
        reward: ``[N, T]``.
        share: ``[M, N]`` weight of every patient.
    """
    quadratic = bool(fitted.quadratic[number])
    n_obs, n_powers = next_obs.shape[-1], powers(act[:1, :1]).shape[-1]
    parts = zip(*(x.unsqueeze(1).split(PATIENTS) for x in (next_obs, act, reward)), strict=True)
    moments = [
        torch.tensordot(weight.double(), _moments(*columns, quadratic=quadratic), 1)
        for columns, weight in zip(parts, share.split(PATIENTS, 1), strict=True)
    ]
    theta = _solve(torch.stack(moments).sum(0), fitted.strength[number].double().expand(len(share)))
    full = _symmetric(theta.unflatten(-1, (-1, n_powers)), n_obs, quadratic=quadratic)
    return RewardModel(full.to(act.dtype))


def _symmetric(theta: Tensor, n_obs: int, *, quadratic: bool) -> Tensor:
    """Coefficients ``[..., 1 + O + O O, P]`` of ``[..., D, P]``; products of two markers are halved."""
    full = theta.new_zeros(*theta.shape[:-2], 1 + n_obs + n_obs * n_obs, theta.shape[-1])
    full[..., : 1 + n_obs, :] = theta[..., : 1 + n_obs, :]
    if quadratic:
        i, j = torch.triu_indices(n_obs, n_obs, device=theta.device)
        half = 0.5 * theta[..., 1 + n_obs :, :]
        at = 1 + n_obs
        full[..., at + i * n_obs + j, :] += half
        full[..., at + j * n_obs + i, :] += half
    return full
