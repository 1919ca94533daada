"""Fitting response models: maximum likelihood with a hierarchical prior, family and prior chosen by patients.

    minimise over theta   - sum_patients ln L / (recorded entries) + strength spread(theta) / N
                          + (network alone) |weights|^2 / N

``spread`` is how much markers differ from each other in every parameter, up to the sign of their response: a
normal prior around the mean over markers (Gelman, Hill 2007, "Data analysis using regression and
multilevel/hierarchical models", chapter 12). The ln L of whole patients is that of
:mod:`dosing.models.response`.

A fold's model starts, as all do, from regressions on all patients, and family, strength and (of linear
models) the ends of the range are chosen with all of them; only its likelihood is without the fold.

Family and strength are chosen by k-fold held-out likelihood over patients: of all candidates that are within
one standard error (of the paired difference over patients) of the best, the simplest (Breiman et al. 1984,
"Classification and regression trees", section 3.4.3). Saturating counts as simpler than linear, whose levels
nothing bounds, and more pooling as simpler than less; a network comes last, and only with many patients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dosing.errors import UserError
from dosing.models.optimisers import Adam
from dosing.models.response import STRAIGHT, Family, ResponseModel, Sizes, unpack

POOLING: dict[Family, tuple[float, ...]] = {
    "saturating": (100.0, 10.0, 1.0, 0.1),
    "linear": (10.0, 0.3),
    "network": (10.0, 0.3),
}
"""Strengths of the hierarchical prior that are tried, most pooling first."""
COUPLED_FROM = 400
"""Patients from which on a family may be tried in which markers act on each other."""
LEARNING_RATE = 0.04
WARM_UP = 0.1
"""Share of the steps over which the step size grows."""
LARGEST_GRADIENT = 10.0
NOISE_SHARE = 0.8
"""Share of a regression's residual variance that a fit takes for noise at first."""


@dataclass(frozen=True)
class FitSettings:
    """How response models are fitted."""

    steps: int = 150
    """Adam steps of every fold's model; the model of all patients takes half as many again."""
    batch: int = 128
    """Patients per step, the same for all models; all where there are fewer."""
    folds: int = 3
    """Parts of the patients, each held out once."""
    families: tuple[Family, ...] = ("saturating", "linear", "network")
    """Families that are tried, simplest first."""
    hidden: int = 12
    """Hidden units of the network family."""


@dataclass(frozen=True)
class Fitted:
    """Response models of R data sets.

    Attributes:
        packed: ``[R, 1 + F, P]`` parameters: of all patients, then without each of the F folds; see
            :func:`dosing.models.response.unpack`.
        family: of every data set.
        pooling: strength of the prior of every data set.
        held_out: mean held-out negative log-likelihood ``[R, candidates]`` per recorded entry.
        candidates: their families and strengths, simplest first.
        fold: ``[N]`` number of the fold in which each patient is held out.
        sizes: of the models.
    """

    packed: Tensor
    family: tuple[Family, ...]
    pooling: tuple[float, ...]
    held_out: Tensor
    candidates: tuple[tuple[Family, float], ...]
    fold: Tensor
    sizes: Sizes

    def models(self, member: int) -> ResponseModel:
        """The R models of all patients (member 0), or without fold ``member - 1``."""
        return unpack(self.packed[:, member], self.sizes)


def spread(model: ResponseModel) -> Tensor:
    """How much markers differ from each other, up to the sign of their response; ``[K]``.

    The sign is that of the dose that moves the markers most.
    """
    p = model.parameters
    most = p["dose"].detach().square().sum(1).argmax(-1)  # [K]
    index = most.view(-1, 1, 1).expand(-1, p["dose"].shape[1], 1)
    sign = p["dose"].detach().gather(2, index).squeeze(-1).sign()

    def variance(x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)).square().flatten(1).sum(1)

    plain = ("pull", "log_level", "log_noise", "log_start_variance", "log_process")
    total = sum((variance(p[name]) for name in plain), torch.zeros_like(p["pull"][:, 0]))
    signed = p["dose"] * sign.unsqueeze(-1)
    return total + 4.0 * variance(signed) + 4.0 * variance(p["offset"] * sign) + variance(p["start"] * sign)


def weights(model: ResponseModel) -> Tensor:
    """Squared size ``[K]`` of what couples the markers; 0 without hidden units."""
    p = model.parameters
    if not model.coupled:
        return torch.zeros_like(p["pull"][:, 0])
    inner = p["hidden_obs"].square().flatten(1).sum(1) + p["hidden_act"].square().flatten(1).sum(1)
    return p["hidden_out"].square().flatten(1).sum(1) + 0.1 * inner


def initial(sizes: Sizes, obs: Tensor, act: Tensor, repeats: int, linear: Tensor) -> ResponseModel:
    """Where a fit starts: directions from the covariance of dose and next visit, noise from a regression.

    Args:
        sizes: of the models.
        obs: ``[R, N, V, O]``.
        act: ``[R, N, V - 1, A]``.
        repeats: models per data set.
        linear: ``[R repeats]``, True for models without saturation.
    """
    blank = ResponseModel.blank(sizes, len(obs) * repeats, obs)
    seen = torch.where(obs[:, :, 1:].isfinite(), obs[:, :, 1:], 0.0).flatten(1, 2)  # [R, M, O]
    doses = (act - act.mean((1, 2), keepdim=True)).flatten(1, 2)
    slope = (seen.mT @ doses) / doses.square().sum(1).clamp(min=1e-6).unsqueeze(1)  # [R, O, A]
    p = dict(blank.parameters)
    p["dose"] = slope.repeat_interleave(repeats, 0)
    p["log_noise"] = _first_noise(obs, act).log().repeat_interleave(repeats, 0)
    p["log_level"] = torch.where(linear[:, None], math.log(STRAIGHT), p["log_level"])
    if sizes.hidden:
        rng = torch.Generator().manual_seed(0)
        for name, size in (("hidden_obs", 0.5), ("hidden_act", 0.5)):
            draws = size * torch.randn(p[name].shape[1:], generator=rng)  # the same for every model
            p[name] = draws.to(p[name]).expand_as(p[name])
    full = sizes.hidden > 0 and unpack(blank.pack(), sizes).full
    return ResponseModel({name: value.contiguous() for name, value in p.items()}, full)


def _first_noise(obs: Tensor, act: Tensor) -> Tensor:
    """A guess at the noise ``[R, O]``: most of the error of a regression on the last visit and dose."""
    known = obs[:, :, 1:].isfinite() & obs[:, :, :-1].isfinite()  # [R, N, T, O]
    now, before = (torch.where(known, x, 0.0) for x in (obs[:, :, 1:], obs[:, :, :-1]))
    columns = [torch.ones_like(before), before, *(a.unsqueeze(-1).expand_as(before) for a in act.unbind(-1))]
    design = torch.stack(columns, -1) * known.unsqueeze(-1)
    rows, target = design.flatten(1, 2).transpose(1, 2), now.flatten(1, 2).mT  # [R, O, M, D], [R, O, M]
    gram = rows.mT @ rows + 1e-3 * torch.eye(rows.shape[-1]).to(rows)
    theta = torch.linalg.solve(gram, rows.mT @ target.unsqueeze(-1))
    error = (target.unsqueeze(-1) - rows @ theta).square().sum((2, 3))
    count = known.flatten(1, 2).sum(1).clamp(min=1)
    guess: Tensor = (NOISE_SHARE * error / count).clamp(1e-4, 2.0)
    return guess


@torch.enable_grad()
def fit(
    start: ResponseModel,
    obs: Tensor,
    act: Tensor,
    share: Tensor,
    pooling: Tensor,
    linear: Tensor,
    steps: int,
    batch: int,
) -> ResponseModel:
    """Maximise likelihood and prior, all models at once and each on its own.

    Args:
        start: K = R M models, the M models of a data set next to each other.
        obs: ``[R, N, V, O]``, NaN where a marker was not recorded.
        act: ``[R, N, V - 1, A]``.
        share: ``[K, N]`` weight of every patient.
        pooling: ``[K]`` strength of the hierarchical prior.
        linear: ``[K]``, True for models whose saturation level stays where it is.
        steps: of Adam, with a step size that grows at first and falls to 0 by a cosine.
        batch: patients per step, the same for every model.
    """
    repeats, patients = start.count // len(obs), obs.shape[1]
    trained = {
        name: nn.Parameter(value.clone())
        for name, value in start.parameters.items()
        if name not in ("low", "high")
    }
    complete = bool(obs.isfinite().all())
    optimizer = Adam(list(trained.values()), LEARNING_RATE, betas=(0.9, 0.98))
    rng = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randperm(patients, generator=rng)[:batch].to(obs.device)
        o, a = (x[:, rows].repeat_interleave(repeats, 0) for x in (obs, act))
        w = share[:, rows]
        model = ResponseModel({**start.parameters, **trained}, start.full, held=False, complete=complete)
        entries = (o.isfinite().sum((2, 3)) * w).sum(1).clamp(min=1.0)
        loss = -(model.log_likelihood(o, a) * w).sum(1) / entries
        loss = loss + (pooling * spread(model) + weights(model)) / patients
        optimizer.zero_grad()
        loss.sum().backward()
        cast(Tensor, trained["log_level"].grad).masked_fill_(linear[:, None], 0.0)
        _clip([p.grad for p in trained.values() if p.grad is not None])
        warm = min((step + 1) / max(WARM_UP * steps, 1.0), 1.0)
        optimizer.param_groups[0]["lr"] = (
            LEARNING_RATE * warm * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        )
        optimizer.step()
    return ResponseModel({name: p.detach() for name, p in model.parameters.items()}, start.full)


def _clip(gradients: list[Tensor]) -> None:
    """Scale the gradients of each model to a norm of at most ``LARGEST_GRADIENT``."""
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    factor = (LARGEST_GRADIENT / norm.clamp(min=1e-12)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))


def held_out(model: ResponseModel, obs: Tensor, act: Tensor, fold: Tensor, folds: int) -> Tensor:
    """Negative log-likelihood ``[R, C, N]`` per entry of every patient, by the model not fitted to it.

    Args:
        model: K = R C folds models, folds innermost.
        obs: ``[R, N, V, O]``.
        act: ``[R, N, V - 1, A]``.
        fold: ``[N]``.
        folds: F.
    """
    repeats = model.count // len(obs)
    losses_left_out = obs.new_zeros(model.count // folds, obs.shape[1])
    for k in range(folds):
        rows = (fold == k).nonzero()[:, 0]
        own = torch.arange(k, model.count, folds, device=obs.device)
        o, a = (x[:, rows].repeat_interleave(repeats // folds, 0) for x in (obs, act))
        with torch.no_grad():
            entries = o.isfinite().sum((2, 3)).clamp(min=1)
            losses_left_out[:, rows] = -model.select(own).log_likelihood(o, a) / entries
    losses: Tensor = losses_left_out.unflatten(0, (len(obs), -1))
    return losses


def one_standard_error(losses: Tensor) -> Tensor:
    """First candidate ``[R]`` of ``losses [R, C, N]`` that is within a standard error of the best."""
    best = losses.mean(-1).argmin(1)  # [R]
    reference = losses.gather(1, best.view(-1, 1, 1).expand(-1, 1, losses.shape[-1]))
    excess = losses - reference
    error = excess.std(-1) / math.sqrt(losses.shape[-1])
    return (excess.mean(-1) <= error).int().argmax(1)  # argmax: the first


def fit_response(obs: Tensor, act: Tensor, settings: FitSettings = FitSettings()) -> Fitted:
    """Fit response models to R data sets of N patients, and choose family and prior for each.

    Args:
        obs: ``[R, N, V, O]`` standardised, NaN where a marker was not recorded.
        act: ``[R, N, V - 1, A]`` delivered doses in [-1, 1].
        settings: see :class:`FitSettings`.

    Raises:
        UserError: there are fewer patients than folds, or fewer than two visits.
    """
    sets, patients, visits, n_obs = obs.shape
    if patients < settings.folds or visits < 2:
        raise UserError(
            f"a response model needs at least {settings.folds} patients with two visits, got {patients} "
            f"with {visits}."
        )
    sizes = Sizes(n_obs, act.shape[-1], settings.hidden if "network" in settings.families else 0)
    fold = torch.arange(patients, device=obs.device) % settings.folds
    own: list[tuple[Family, float]] = [
        (f, pool) for f in settings.families if f != "network" for pool in POOLING[f]
    ]
    groups: list[list[tuple[Family, float]]] = [own] if own else []
    if sizes.hidden and (patients >= COUPLED_FROM or not own):
        groups.append([("network", pool) for pool in POOLING["network"]])
    parts, losses = [], []
    for group in groups:
        model = _fit_group(group, sizes, obs, act, fold, settings)
        losses.append(held_out(model, obs, act, fold, settings.folds))
        parts.append(_padded(model, sizes).unflatten(0, (sets, len(group), settings.folds)))
    candidates = [candidate for group in groups for candidate in group]
    loss = torch.cat(losses, 1)
    chosen = one_standard_error(loss)
    every = torch.cat(parts, 1)  # [R, C, F, P]
    folds = every[torch.arange(sets, device=obs.device), chosen]  # [R, F, P]
    names = [candidates[c] for c in chosen.tolist()]
    whole = _fit_whole(names, sizes, obs, act, settings)
    return Fitted(
        packed=torch.cat((whole.unsqueeze(1), folds), 1),
        family=tuple(name for name, _ in names),
        pooling=tuple(pool for _, pool in names),
        held_out=loss.mean(-1),
        candidates=tuple(candidates),
        fold=fold,
        sizes=sizes,
    )


def refit(fitted: Fitted, obs: Tensor, act: Tensor, share: Tensor, steps: int, batch: int) -> ResponseModel:
    """Fit the models of all patients on to other weighings of them; family and prior stay as chosen.

    Args:
        fitted: response models of R data sets.
        obs: ``[R, N, V, O]`` they were fitted to, or ``[R M, ...]`` standardised for every weighing.
        act: ``[R, N, V - 1, A]``, or ``[R M, ...]``.
        share: ``[R M, N]`` weight of every patient in M weighings of each data set, those of one next to each
            other.
        steps: of Adam, from the model of all patients.
        batch: patients per step.

    Returns:
        R M models.
    """
    count = len(fitted.family)
    sets = torch.arange(count, device=obs.device).repeat_interleave(len(share) // count)
    start = fitted.models(0).select(sets)
    linear = torch.tensor([family == "linear" for family in fitted.family], device=obs.device)[sets]
    pooling = torch.tensor(fitted.pooling, dtype=obs.dtype, device=obs.device)[sets]
    return fit(start, obs, act, share, pooling, linear, steps, batch)


def _padded(model: ResponseModel, sizes: Sizes) -> Tensor:
    """A model's parameters ``[K, P]``, with zeros where others have hidden units."""
    packed = model.pack()
    width = sum(math.prod(shape) for shape in sizes.shapes().values())
    return torch.cat((packed, packed.new_zeros(len(packed), width - packed.shape[1])), 1)


def _fit_group(
    group: Sequence[tuple[Family, float]],
    sizes: Sizes,
    obs: Tensor,
    act: Tensor,
    fold: Tensor,
    settings: FitSettings,
) -> ResponseModel:
    """Fold models of candidates of one shape: R C F, held to the recorded range where they are linear."""
    sets, folds = len(obs), settings.folds
    coupled = group[0][0] == "network"
    sizes = sizes if coupled else sizes._replace(hidden=0)
    linear = torch.tensor([f == "linear" for f, _ in group], device=obs.device)
    pooling = torch.tensor([pool for _, pool in group], dtype=obs.dtype, device=obs.device)
    linear, pooling = (x.repeat_interleave(folds).repeat(sets) for x in (linear, pooling))
    share = torch.stack([fold != k for k in range(folds)]).to(obs.dtype).repeat(sets * len(group), 1)
    start = initial(sizes, obs, act, len(group) * folds, linear)
    model = fit(start, obs, act, share, pooling, linear, settings.steps, settings.batch)
    if not bool(linear.any()):
        return model
    return _held(model, obs, act, linear)


def _held(model: ResponseModel, obs: Tensor, act: Tensor, linear: Tensor) -> ResponseModel:
    """Linear models held to the range of beliefs about recorded patients, of whom some hundreds will do."""
    rows = slice(0, 256)
    repeats = model.count // len(obs)
    o, a = (x[:, rows].repeat_interleave(repeats, 0) for x in (obs, act))
    return model.hold(o, a, linear)


def _fit_whole(
    names: Sequence[tuple[Family, float]], sizes: Sizes, obs: Tensor, act: Tensor, settings: FitSettings
) -> Tensor:
    """The models of all patients ``[R, P]``, of the family and prior chosen for each data set."""
    packed: list[Tensor] = [torch.empty(0)] * len(names)
    for coupled in (False, True):
        sets = [k for k, (family, _) in enumerate(names) if (family == "network") == coupled]
        if not sets:
            continue
        own = sizes if coupled else sizes._replace(hidden=0)
        o, a = obs[sets], act[sets]
        linear = torch.tensor([names[k][0] == "linear" for k in sets], device=obs.device)
        pooling = torch.tensor([names[k][1] for k in sets], dtype=obs.dtype, device=obs.device)
        share = o.new_ones(o.shape[:2])
        steps, batch = settings.steps + settings.steps // 2, 2 * settings.batch
        model = fit(initial(own, o, a, 1, linear), o, a, share, pooling, linear, steps, batch)
        if bool(linear.any()):
            model = _held(model, o, a, linear)
        for k, row in zip(sets, _padded(model, sizes), strict=True):
            packed[k] = row
    return torch.stack(packed)
