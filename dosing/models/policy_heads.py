"""Policy networks: one trunk, one head per parameter of the distribution, a choice of distributions.

Every distribution lives on the [-1, 1] axis of a dose, one independent distribution per dose dimension.
Distributions fitted by likelihood are positive on the whole box: a recorded dose outside their support would
have probability 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.nn.functional import softplus

from dosing.distributions.bounded import TanhNormal, TruncatedNormal
from dosing.distributions.point import Point
from dosing.distributions.q_gaussian import QGaussian, n_uniforms, support_radius
from dosing.distributions.scaled_beta import ScaledBeta
from dosing.distributions.student_t import StudentT
from dosing.distributions.univariate import Univariate
from dosing.errors import UserError
from dosing.models.networks import Init, Initialiser, Linear, Mlp
from dosing.models.prior import Centred
from dosing.types import Problem

Family = Literal[
    "clipped_gaussian", "squashed_gaussian", "truncated_normal", "student_t", "beta", "heavy_q_gaussian"
]
"""Distributions whose density is positive at every dose in the box, so that recorded doses have a
likelihood."""

HEAVY_Q = 2.0
"""Index of the heavy-tailed q-Gaussian: a Cauchy distribution."""
MEAN_LIMIT = 0.999
"""Largest |mean| of a sparse distribution; leaves room for a support of positive width at every mean."""
MIN_WIDTH = 1e-3
"""Smallest half-width of a sparse distribution, as a fraction of the room between the mean and the nearer
limit."""
SMALL_GAIN = 0.01
"""Gain of last layers that start near 0."""
EDGE = 1e-6
"""Distributions on the open box see recorded doses at most this close to its edges."""


def sparse_distribution(mean: Tensor, width: Tensor, q: float) -> QGaussian:
    """Bounded q-Gaussian whose support [m - h, m + h] lies inside (-1, 1) by parametrisation.

    Args:
        mean: ``[S, B, A]`` with ``|mean| <= MEAN_LIMIT``.
        width: unconstrained; h = u (1 - |m|) with u = MIN_WIDTH + (1 - 2 MIN_WIDTH) sigmoid(width).
        q: index below 1.
    """
    fraction = MIN_WIDTH + (1.0 - 2.0 * MIN_WIDTH) * torch.sigmoid(width)
    half_width = fraction * (1.0 - mean.abs())
    return QGaussian(mean, half_width / support_radius(q), q, validate_args=False)


class Policy(nn.Module):
    """Distribution of the dose given the observation, fitted by likelihood.

    Families and their parameters, from linear heads h on the trunk's features:

    * ``clipped_gaussian``: N(tanh(h_loc), sigma^2), executed clipped; sigma = exp(clip(h_scale));
    * ``squashed_gaussian``: tanh of N(h_loc, sigma^2);
    * ``truncated_normal``: N(tanh(h_loc), sigma^2) restricted to the box; ln sigma = low + (high - low) (1 +
      tanh(h_scale)) / 2, since doses that fill the box drive sigma to a bound, where a clip has no slope;
    * ``student_t``: location tanh(h_loc), scale sigma, df = 1 + softplus(h_df);
    * ``beta``: Beta(1 + softplus(h_loc), 1 + softplus(h_scale)) on the box, unimodal;
    * ``heavy_q_gaussian``: q-Gaussian of index ``HEAVY_Q``, location tanh(h_loc), scale sigma.

    Args:
        init: initialiser of the S seeds.
        problem: sizes.
        hidden: widths of the trunk.
        family: the distribution.
        scheme: initialisation of every layer.
        log_std: bounds of ln sigma.
        free_scale: one state-independent ln sigma per seed and dimension, starting at 0, in place of a head;
            a Beta distribution, which has no sigma, keeps its head.
        small_start: the heads start near 0 (Glorot uniform, gain ``SMALL_GAIN``) and ln sigma near -1, for a
            head of ln sigma.

    Raises:
        UserError: the bounds of ln sigma are the wrong way round.
    """

    def __init__(
        self,
        init: Initialiser,
        problem: Problem,
        hidden: Sequence[int],
        family: Family,
        *,
        scheme: Init = "default",
        log_std: tuple[float, float] = (-5.0, 2.0),
        free_scale: bool = False,
        small_start: bool = False,
    ) -> None:
        super().__init__()
        if log_std[0] > log_std[1]:
            raise UserError(f"log_std_min must not exceed log_std_max, got {log_std[0]} and {log_std[1]}.")
        self.family, self.log_std = family, log_std
        self.q = HEAVY_Q if family == "heavy_q_gaussian" else 1.0
        width, n_act = (problem.n_obs, *hidden)[-1], problem.n_act
        self.trunk = Mlp(init, [problem.n_obs, *hidden], scheme=scheme, activate_last=True)
        head: Init = "xavier" if small_start else scheme
        gain = SMALL_GAIN if small_start else None
        self.loc = Linear(init, width, n_act, scheme=head, gain=gain)
        self.prior = Centred(init, n_act, self.loc.bias)
        if self.prior.active and family == "beta":
            raise UserError("a Beta distribution has no mean of its own that could start at a prior dose.")
        self.scale: Linear | nn.Parameter
        if free_scale and family != "beta":
            self.scale = init.constant(0.0, 1, n_act)
        else:
            self.scale = Linear(init, width, n_act, scheme=head, gain=gain)
            if small_start:
                nn.init.constant_(self.scale.bias, -1.0)
        if family == "student_t":
            self.df = Linear(init, width, n_act, scheme=scheme)

    def distribution(self, features: Tensor) -> Univariate:
        """Per-dimension distribution with batch shape ``[S, B, A]`` at the trunk's ``features``."""
        loc = self.prior(self.loc(features))
        raw = self.scale(features) if isinstance(self.scale, Linear) else self.scale.expand_as(loc)
        if self.family == "beta":
            return ScaledBeta(1.0 + softplus(loc), 1.0 + softplus(raw), -1.0, 1.0, validate_args=False)
        if self.family == "truncated_normal":
            low, high = self.log_std
            scale = torch.exp(low + 0.5 * (high - low) * (1.0 + torch.tanh(raw)))
            return TruncatedNormal(torch.tanh(loc), scale, validate_args=False)
        scale = torch.exp(raw.clamp(*self.log_std))
        if self.family == "squashed_gaussian":
            return TanhNormal(loc, scale, validate_args=False)
        if self.family == "student_t":
            return StudentT(1.0 + softplus(self.df(features)), torch.tanh(loc), scale, validate_args=False)
        return QGaussian(torch.tanh(loc), scale, self.q, validate_args=False)

    def forward(self, obs: Tensor) -> Distribution:
        """Distribution with batch shape ``[S, B]`` and event shape ``[A]`` at ``obs [S, B, O]``."""
        return Independent(self.distribution(self.trunk(obs)), 1, validate_args=False)

    def log_prob(self, obs: Tensor, act: Tensor) -> Tensor:
        """Log-density ``[S, B]`` of recorded actions ``[S, B, A]``.

        The open-box families see actions moved inside by ``EDGE``, where their density is finite.
        """
        if self.family in ("squashed_gaussian", "beta"):
            act = act.clamp(-1.0 + EDGE, 1.0 - EDGE)
        log_prob: Tensor = self.distribution(self.trunk(obs)).log_prob(act).sum(-1)
        return log_prob

    @property
    def n_uniforms(self) -> int:
        """Uniform numbers that one draw of one dose dimension uses."""
        return StudentT.n_uniforms if self.family == "student_t" else n_uniforms(self.q)


class PointPolicy(nn.Module):
    """Deterministic policy: the dose is tanh of a network's output.

    Args:
        init: initialiser of the S seeds.
        problem: sizes.
        hidden: hidden widths.
        scheme: initialisation of every layer.
        last_bound: weights and bias of the last layer start uniform within it.
    """

    def __init__(
        self,
        init: Initialiser,
        problem: Problem,
        hidden: Sequence[int],
        *,
        scheme: Init = "default",
        last_bound: float | None = None,
    ) -> None:
        super().__init__()
        self.net = Mlp(init, [problem.n_obs, *hidden, problem.n_act], scheme=scheme, last_bound=last_bound)
        self.prior = Centred(init, problem.n_act, cast(Linear, self.net.layers[-1]).bias)

    def action(self, obs: Tensor, keep: Sequence[Tensor] = ()) -> Tensor:
        """Action ``[S, B, A]`` in [-1, 1] at ``obs [S, B, O]``; for ``keep`` see :class:`Mlp`."""
        return torch.tanh(self.prior(self.net(obs, keep)))

    def forward(self, obs: Tensor) -> Distribution:
        """All mass at one dose: batch shape ``[S, B]``, event shape ``[A]`` at ``obs [S, B, O]``."""
        return Independent(Point(self.action(obs), validate_args=False), 1, validate_args=False)
