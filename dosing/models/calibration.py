"""Whether a response model deserves trust: what it says about patients it was not fitted to.

Every patient is looked at by the model fitted without that patient's fold. Three questions:

- *Forecasts* of 1, 2, 4 and 8 visits ahead under the recorded doses: mean squared error against two naive
  forecasts, the last value and the mean of the other patients, and the coverage of 90 % intervals.
- *Innovations* z = e / sqrt(S) of a true model are independent and standard normal (Kalman 1960, J Basic Eng
  82:35; Dawid 1984, J R Stat Soc A 147:278): distance of their probability integral transform from uniform,
  autocorrelation from visit to visit.
- *What is left to explain*: a regression of z on what was known before the visit (the doses of this visit and
  the last as steps, the belief, two earlier innovations) fitted to one half of the patients, tried on the
  other. What it explains, as a share of what the model explains, is what a family could not hold: a threshold
  of the dose, an oscillation, a delay.

A model that is not better than both naive forecasts on held-out patients, beyond chance and by 2 %, that
leaves too much to explain or whose intervals do not cover is refused; :data:`REASONS` are the sentences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dosing.models.response import Belief, ResponseModel
from dosing.models.response_fit import Fitted

HORIZONS = (1, 2, 4, 8)
"""Visits ahead that are forecast, where at least half of the patients have so many."""
COVERAGE = 0.9
LEAST_SKILL = 0.02
"""Least share of the mean squared error of either naive forecast that the model saves, mean over horizons: a
smaller one can be found and still say nothing of use about doses."""
NOT_COVERED = 0.08
"""Largest difference between the share of observations within 90 % intervals and 90 %."""
LEFT_OVER = 0.15
"""Largest share of what can be foreseen that the model may leave unexplained."""
DOSE_STEPS = 6
"""Parts of the dose range for whose mean innovation the regression has a number each."""
RIDGE = 1e-2
REASONS = (
    "",
    "the response model does not forecast held-out patients at least 2 % better than their last value and "
    "the mean of the others do",
    "the response model leaves unexplained what the recorded visits show",
    "the forecast intervals of the response model do not cover what was observed",
    "the reward of a visit cannot be foreseen from its dose and the next observation",
)
"""Why a model is refused, by number; 0 is a model that is not."""
LEAST_EXPLAINED = 0.05
"""Least share of the rewards' variance that the reward model must explain on held-out patients."""


@dataclass(frozen=True)
class Calibration:
    """What held-out patients say of the response models of R data sets.

    Attributes:
        skill: ``[R, H, 2]`` one minus the ratio of mean squared errors, against the last value and the mean.
        lower: ``[R, H, 2]`` the mean difference of squared errors in favour of the model, less 1.64 standard
            errors over patients: above 0 where the model is found better.
        coverage: ``[R, H]`` share of observations within the 90 % intervals.
        left_over: ``[R]`` share of what can be foreseen one visit ahead that the model leaves unexplained.
        uniform: ``[R]`` largest distance of the distribution of the probability integral transform from the
            uniform.
        autocorrelation: ``[R]`` of innovations one visit apart, mean over markers.
    """

    skill: Tensor
    lower: Tensor
    coverage: Tensor
    left_over: Tensor
    uniform: Tensor
    autocorrelation: Tensor

    def reason(self, explained: Tensor) -> Tensor:
        """Number of the first of :data:`REASONS` that refuses each model ``[R]``, 0 for none.

        Args:
            explained: share ``[R]`` of the rewards' variance explained by the reward model.
        """
        found = (self.lower > 0.0).all(-1).all(-1) & (self.skill.mean(1) >= LEAST_SKILL).all(-1)
        near = (self.coverage - COVERAGE).abs().amax(1) <= NOT_COVERED
        checks = (
            ~found,  # so put that a number which is not finite refuses
            ~(self.left_over <= LEFT_OVER),
            ~near,
            ~(explained >= LEAST_EXPLAINED),
        )
        reason = torch.zeros_like(near, dtype=torch.long)
        for number in range(len(checks), 0, -1):
            reason = torch.where(checks[number - 1], number, reason)
        return reason


@dataclass(frozen=True)
class _HeldOut:
    """Patients of one fold seen by the models fitted without them."""

    obs: Tensor
    act: Tensor
    model: ResponseModel
    beliefs: list[Belief]
    error: Tensor
    variance: Tensor
    naive: Tensor


def _look(fitted: Fitted, obs: Tensor, act: Tensor, fold: int) -> _HeldOut:
    """Filter the patients of one fold; ``naive`` is the mean ``[R, O]`` of all others."""
    rows = fitted.fold == fold
    model, o, a = fitted.models(1 + fold), obs[:, rows], act[:, rows]
    beliefs, innovations = model.filter(o, a)
    known = torch.stack([i.recorded for i in innovations], 2)
    error = torch.stack([i.error for i in innovations], 2)
    variance = torch.stack([i.variance for i in innovations], 2)
    nan = torch.full_like(error, math.nan)
    naive = obs[:, ~rows].flatten(1, 2).nanmean(1)
    return _HeldOut(o, a, model, beliefs, torch.where(known, error, nan), variance, naive)


def _horizons(obs: Tensor) -> tuple[int, ...]:
    """Those of :data:`HORIZONS` that at least half of the patients have; one visit ahead in any case."""
    seen = obs.isfinite().any(-1)  # [R, N, V]
    return HORIZONS[:1] + tuple(
        step
        for step in HORIZONS[1:]
        if step < obs.shape[2] and bool((seen[:, :, step:].any(2).float().mean(1) >= 0.5).all())
    )


def _forecasts(held: _HeldOut, horizons: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Differences ``[R, B, H, 2]`` of squared errors, model errors and hits ``[R, B, H]`` per patient."""
    visits = held.obs.shape[2]
    z = math.sqrt(2.0) * torch.erfinv(torch.tensor(COVERAGE)).item()
    ahead = Belief(*(torch.stack(parts, 2) for parts in zip(*held.beliefs, strict=True)))  # [R, B, V, ...]
    last = held.obs
    gains, errors, hits = [], [], []
    for step in range(1, max(horizons) + 1):
        keep = visits - step
        doses = held.act[:, :, step - 1 :][:, :, :keep].flatten(1, 2)
        now = Belief(*(part[:, :, :keep].flatten(1, 2) for part in ahead))
        moved = held.model.predict(now, doses)
        ahead = Belief(*(part.unflatten(1, (-1, keep)) for part in moved))
        if step not in horizons:
            continue
        target = held.obs[:, :, step:]
        spread = (moved.diagonal + held.model.noise).unflatten(1, (-1, keep)).sqrt()
        own = (target - ahead.mean).square()
        naive = held.naive[:, None, None]
        rivals = ((target - last[:, :, :keep]).square(), (target - naive).square())
        gains.append(torch.stack([(rival - own).flatten(2).nanmean(2) for rival in rivals], -1))
        errors.append(
            torch.stack([own.flatten(2).nanmean(2), *(r.flatten(2).nanmean(2) for r in rivals)], -1)
        )
        inside = torch.where(target.isfinite(), ((target - ahead.mean).abs() <= z * spread).float(), math.nan)
        hits.append(inside.flatten(2).nanmean(2))
    return torch.stack(gains, 2), torch.stack(errors, 2), torch.stack(hits, 2)


def _known_before(held: _HeldOut) -> tuple[Tensor, Tensor, Tensor]:
    """What is known before each visit from the third on ``[R, B, V - 3, O, D]``, z there, and its share.

    The share is the part of an observation's variance around the naive mean that the model foresees.
    """
    z = held.error / held.variance.sqrt()
    filled = torch.where(z.isfinite(), z, 0.0)
    visits, n_obs = held.obs.shape[2], held.obs.shape[3]
    now, before = held.act[:, :, 2 : visits - 1], held.act[:, :, 1 : visits - 2]  # into visits 3.. and 2..
    means = torch.stack([b.mean for b in held.beliefs], 2)[:, :, 2 : visits - 1]
    columns = [means, means.square(), filled[:, :, 2:-1], filled[:, :, 1:-2]]
    features = [c.unsqueeze(-1) for c in columns]
    for dose in (*now.unbind(-1), *before.unbind(-1)):
        step = ((dose + 1.0) * (0.5 * DOSE_STEPS)).long().clamp(0, DOSE_STEPS - 1)
        one_hot = torch.nn.functional.one_hot(step, DOSE_STEPS).to(z.dtype)
        features.append(one_hot.unsqueeze(3).expand(-1, -1, -1, n_obs, -1))
        features.append((dose.unsqueeze(-1) * means).unsqueeze(-1))
    forecast = held.obs[:, :, 3:] - held.error[:, :, 3:]
    foreseen = (forecast - held.naive[:, None, None]).square() / held.variance[:, :, 3:]
    return torch.cat(features, -1), z[:, :, 3:], foreseen


def _left_over(held: list[_HeldOut]) -> Tensor:
    """Share ``[R]`` of what can be foreseen that innovations still hold, on patients not regressed on."""
    parts = [_known_before(h) for h in held]
    x, z, foreseen = (torch.cat(tensors, 1) for tensors in zip(*parts, strict=True))
    half = torch.arange(x.shape[1], device=x.device) % 2 == 0
    gained = z.new_zeros(len(z))
    for train, test in ((half, ~half), (~half, half)):
        xs, zs = (
            x[:, train].movedim(3, 1).flatten(2, 3),
            z[:, train].movedim(3, 1).flatten(2, 3),
        )  # [R, O, M, D]
        known = zs.isfinite().unsqueeze(-1)
        xs, zs = torch.where(known, xs, 0.0).double(), torch.where(known[..., 0], zs, 0.0).double()
        gram = xs.mT @ xs
        ridge = (
            RIDGE
            * known.double().sum((2, 3)).clamp(min=1.0)[..., None, None]
            * torch.eye(xs.shape[-1]).to(xs)
        )
        theta = torch.linalg.solve(gram + ridge, xs.mT @ zs.unsqueeze(-1)).squeeze(-1)  # [R, O, D]
        told = torch.einsum("rbvod,rod->rbvo", x[:, test], theta.to(x))
        gained = gained + 0.5 * (z[:, test].square() - (z[:, test] - told).square()).flatten(1).nanmean(1)
    gained = gained.clamp(min=0.0)
    return gained / (gained + foreseen.flatten(1).nanmean(1)).clamp(min=1e-6)


def _shape(held: list[_HeldOut]) -> tuple[Tensor, Tensor]:
    """Distance of the probability integral transform from the uniform, and autocorrelation, ``[R]`` each."""
    z = torch.cat([h.error / h.variance.sqrt() for h in held], 1)
    levels = torch.linspace(0.05, 0.95, 19, dtype=z.dtype, device=z.device)
    pit = torch.special.ndtr(z).flatten(1)
    known = pit.isfinite().sum(1, keepdim=True).clamp(min=1)
    below = torch.stack([(pit <= level).sum(1) for level in levels], 1) / known  # NaN is not below
    product = (z[:, :, 1:] * z[:, :, :-1]).flatten(1).nanmean(1)
    return (below - levels).abs().amax(1), product / z.square().flatten(1).nanmean(1)


@torch.no_grad()
def calibrate(fitted: Fitted, obs: Tensor, act: Tensor) -> Calibration:
    """Look at every patient with the model fitted without that patient's fold.

    Args:
        fitted: the response models of R data sets.
        obs: ``[R, N, V, O]`` they were fitted to, NaN where a marker was not recorded.
        act: ``[R, N, V - 1, A]``.
    """
    held = [_look(fitted, obs, act, fold) for fold in range(int(fitted.fold.max()) + 1)]
    steps = _horizons(obs)
    gains, errors, hits = (torch.cat(x, 1) for x in zip(*(_forecasts(h, steps) for h in held), strict=True))
    mean, count = gains.nanmean(1), gains.isfinite().sum(1)
    deviation = (gains - mean.unsqueeze(1)).square().nanmean(1).sqrt()
    error = errors.nanmean(1)  # [R, H, 3]: the model's, the last value's, the mean's
    uniform, autocorrelation = _shape(held)
    left = _left_over(held) if obs.shape[2] > 4 else torch.zeros_like(uniform)
    return Calibration(
        skill=1.0 - error[..., :1] / error[..., 1:].clamp(min=1e-12),
        lower=mean - 1.64 * deviation / count.sqrt(),
        coverage=hits.nanmean(1),
        left_over=left,
        uniform=uniform,
        autocorrelation=autocorrelation,
    )
