"""A policy known by finitely many doses: draws of a push-forward, or candidates to choose from.

Such a policy has no density. Everything here is exact for the finite distribution itself; how well M equally
weighted draws stand for the push-forward they come from is another matter, and their ends are no support.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor
from torch.distributions import constraints

from dosing.distributions.univariate import Univariate, centred
from dosing.errors import UserError

DrawsKind = Literal["samples", "point_set"]


class Draws(Univariate):
    """Dose k of M with probability ``weights[k]``; the dose dimensions of one draw belong together.

    The last axis of ``batch_shape`` is that of the dose dimensions.
    """

    arg_constraints = {  # noqa: RUF012  as in torch
        "values": constraints.real,
        "weights": constraints.unit_interval,
        "loc": constraints.real,
    }
    has_density = False

    def __init__(
        self,
        values: Tensor,
        weights: Tensor | None = None,
        loc: Tensor | None = None,
        kind: DrawsKind = "samples",
        validate_args: bool | None = None,
    ) -> None:
        """Build the distribution.

        Args:
            values: the doses, ``[..., A, M]``.
            weights: their probabilities, ``[..., 1, M]``, the same for every dimension; equal if None.
            loc: the recommended dose ``[..., A]``; :func:`densest` of the doses if None.
            kind: ``samples`` of a push-forward, or a ``point_set`` of candidates.
            validate_args: as in torch; False skips all checks of tensors.

        Raises:
            UserError: with checks on, a dose is not finite, a weight is negative, or they do not sum to 1.
        """
        if weights is None:
            weights = torch.full_like(values[..., :1, :], 1.0 / values.shape[-1])
        self.values, self.weights = values, weights.expand(values.shape)
        self.loc = densest(values) if loc is None else loc
        self._kind: DrawsKind = kind
        super().__init__(values.shape[:-1], validate_args)
        if self._validate_args:
            self._refuse_unless(self.weights >= 0.0, "weights", "at least 0")
            if not bool((self.weights.sum(-1) - 1.0).abs().max() < 1e-5):
                raise UserError("Draws: the weights must sum to 1.")

    @property
    def kind(self) -> str:
        """``samples`` or ``point_set``."""
        return self._kind

    @property
    def support(self) -> constraints.Constraint:
        """The real line: what other draws could have given is not known from these."""
        return constraints.real

    @property
    def mode(self) -> Tensor:
        """The recommended dose, ``batch_shape``."""
        return self.loc

    @property
    def mean(self) -> Tensor:
        """Mean dose per dimension."""
        return (self.weights * self.values).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Variance per dimension."""
        return (self.weights * (self.values - self.mean.unsqueeze(-1)).square()).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse: a finite set has no density.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a policy known by its draws has no density; use cdf, icdf or values")

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value)."""
        return (self.weights * (self.values <= value.unsqueeze(-1))).sum(-1).clamp(max=1.0)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value)."""
        return (self.weights * (self.values > value.unsqueeze(-1))).sum(-1).clamp(max=1.0)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the least dose whose distribution function reaches ``p``; NaN for p outside [0, 1]."""
        values, order = self.values.sort(-1)
        reached = self.weights.gather(-1, order).cumsum(-1)
        p, _ = torch.broadcast_tensors(p, self.loc)
        rank = (reached < p.unsqueeze(-1) - 4.0 * torch.finfo(values.dtype).eps).sum(-1, keepdim=True)
        values = values.expand(*p.shape, -1)
        quantile = values.gather(-1, rank.clamp(max=values.shape[-1] - 1)).squeeze(-1)
        return torch.where((p >= 0.0) & (p <= 1.0), quantile, torch.nan)

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return one of the doses; the noise of the first dimension chooses for all of them."""
        first = centred(u[..., :1, 0]) + 0.5  # [..., 1]
        reached = self.weights[..., 0, :].cumsum(-1)
        chosen = (reached < first).sum(-1, keepdim=True).clamp(max=self.values.shape[-1] - 1)
        chosen = chosen.unsqueeze(-2).expand(*u.shape[:-1], 1)
        return self.values.expand(*u.shape[:-1], -1).gather(-1, chosen).squeeze(-1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Return this distribution expanded to ``batch_shape``, without copying its doses."""
        shape = torch.Size(batch_shape)
        new = self._get_checked_instance(type(self), _instance)  # type: ignore[no-untyped-call]  # torch's
        new.__dict__.update(self.__dict__)
        new.values = self.values.expand(*shape, -1)
        new.weights = self.weights.expand(*shape, -1)
        new.loc = self.loc.expand(shape)
        new._batch_shape = shape
        return cast(Self, new)


NEIGHBOURS = 8
"""The densest dose is the one whose nearest M / NEIGHBOURS others reach least far."""


def densest(values: Tensor) -> Tensor:
    """Return that of the doses ``[..., A, M]`` which has most others near it, ``[..., A]``.

    A nearest-neighbour estimate of the mode (Loftsgaarden, Quesenberry 1965, Ann. Math. Stat. 36:1049): the
    dose itself was drawn, unlike a mean, which may lie between two modes. Of equal ones the first is taken.
    """
    count = values.shape[-1]
    points = values.detach().transpose(-1, -2)  # [..., M, A]
    if points.shape[-1] == 1:
        distance = (points - points.transpose(-1, -2)).abs()
    else:
        distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    rank = 1 + max(1, count // NEIGHBOURS) if count > 1 else 1  # the nearest is the dose itself
    reach = distance.kthvalue(rank, dim=-1).values  # [..., M]
    chosen = reach.argmin(-1, keepdim=True).unsqueeze(-2).expand(*values.shape[:-1], 1)
    return values.gather(-1, chosen).squeeze(-1)


def best_of(preference: Tensor, tries: int) -> Tensor:
    """Return the probability ``[..., M]`` that each of M equally likely doses is the best of ``tries`` draws.

    The r-th best of M (counted from 0) is the best of N independent draws with probability
    ((M - r) / M)^N - ((M - r - 1) / M)^N.

    Args:
        preference: larger is better, ``[..., M]``; of equal ones the first counts as better.
        tries: N.
    """
    count = preference.shape[-1]
    remaining = torch.arange(count, -1, -1, dtype=preference.dtype, device=preference.device) / count
    by_rank = remaining[:-1] ** tries - remaining[1:] ** tries
    order = preference.detach().argsort(dim=-1, descending=True, stable=True)
    return torch.empty_like(preference).scatter(-1, order, by_rank.expand(preference.shape))


def best_candidate(values: Tensor, preference: Tensor, tries: int) -> Draws:
    """Return the distribution of the best of ``tries`` draws from M candidates.

    The recommended dose is the best of the first ``tries`` candidates, which are drawn once for all.

    Args:
        values: the candidates, ``[S, B, M, A]``, M at least ``tries``.
        preference: larger is better, ``[S, B, M]``.
        tries: number of draws that the executed dose is the best of.
    """
    best = preference[..., :tries].argmax(-1)[..., None, None].expand(*values.shape[:-2], 1, values.shape[-1])
    loc = values.gather(-2, best).squeeze(-2)
    weights = best_of(preference, tries).unsqueeze(-2)
    return Draws(values.transpose(-1, -2), weights, loc, "point_set", validate_args=False)
