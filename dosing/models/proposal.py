"""Networks of heavy-tailed distributions that are fitted to recorded doses by likelihood, as a proposal.

The bounds are those of fat-to-thin policy optimization (Zhu, Wang, Nagai 2025, arXiv 2501.14373).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dosing.distributions.bounded import TanhNormal
from dosing.distributions.q_gaussian import QGaussian, n_uniforms
from dosing.distributions.student_t import StudentT
from dosing.distributions.univariate import Univariate
from dosing.models.networks import Initialiser, Linear, Mlp
from dosing.models.policy_heads import MEAN_LIMIT
from dosing.models.prior import Centred
from dosing.types import Problem

ProposalFamily = Literal["q_gaussian", "squashed_gaussian", "student_t"]

LOG_VARIANCE = math.log(1000.0)
"""Bound of a q-Gaussian's log squared scale, as published."""
LOG_STD = {"squashed_gaussian": (-20.0, 2.0), "student_t": (-14.0, 0.0)}
"""Bounds of the other distributions' log scale, as published."""
LEAST_DF = 1.000001
"""Fewest degrees of freedom of a Student-t distribution, as published."""


class Proposal(nn.Module):
    """A heavy-tailed distribution of the dose: trunk, mean, scale, and degrees of freedom where it has them.

    Args:
        init: initialiser of the S seeds.
        problem: sizes.
        hidden: widths of the trunk.
        family: the distribution.
        q: index of a q-Gaussian, at least 1 and below 3.
    """

    def __init__(
        self, init: Initialiser, problem: Problem, hidden: tuple[int, ...], family: ProposalFamily, q: float
    ) -> None:
        super().__init__()
        self.family, self.q = family, q
        width = (problem.n_obs, *hidden)[-1]
        self.trunk = Mlp(init, [problem.n_obs, *hidden], scheme="xavier", activate_last=True)
        self.mean = Linear(init, width, problem.n_act, scheme="xavier")
        self.prior = Centred(init, problem.n_act, self.mean.bias)
        scale = Linear(init, width, problem.n_act, scheme="xavier")
        if self.family == "q_gaussian":
            self.log_variance = scale
        else:
            self.log_std = scale
        if self.family == "student_t":
            self.df = Linear(init, width, problem.n_act, scheme="xavier")

    def location(self, features: Tensor) -> Tensor:
        """Mode ``[S, B, A]`` inside the box; the median of a squashed Gaussian."""
        mean: Tensor = MEAN_LIMIT * torch.tanh(self.prior(self.mean(features)))
        return mean

    def parameters_at(self, features: Tensor) -> tuple[Tensor, ...]:
        """What :meth:`distribution` takes, each ``[S, B, A]``."""
        if self.family == "q_gaussian":
            log_variance = self.log_variance(features).clamp(-LOG_VARIANCE, LOG_VARIANCE)
            return self.location(features), torch.exp(0.5 * log_variance)
        scale = torch.exp(self.log_std(features).clamp(*LOG_STD[self.family]))
        if self.family == "squashed_gaussian":
            return self.prior(self.mean(features)), scale
        return LEAST_DF + softplus(self.df(features)), self.location(features), scale

    def distribution(self, *parameters: Tensor) -> Univariate:
        """Per-dimension distribution with batch shape ``[S, B, A]``."""
        *df, loc, scale = parameters
        if self.family == "squashed_gaussian":
            return TanhNormal(loc, scale, validate_args=False)
        if self.family == "student_t":
            return StudentT(df[0], loc, scale, validate_args=False)
        return QGaussian(loc, scale, self.q, validate_args=False)

    def at(self, features: Tensor) -> Univariate:
        """The distribution at the trunk's ``features``."""
        return self.distribution(*self.parameters_at(features))

    @property
    def n_uniforms(self) -> int:
        """Uniform numbers that one draw of one dose dimension uses."""
        by_family = {"squashed_gaussian": TanhNormal.n_uniforms, "student_t": StudentT.n_uniforms}
        return by_family.get(self.family) or n_uniforms(self.q)
