"""The Beta distribution on an interval of doses, with the Jacobian of the interval in its density.

Sources: Johnson, Kotz, Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 25; Chou, Maturana,
Scherer 2017, ICML (Beta policies); Figurnov, Mohamed, Mnih 2018, arXiv 1805.08498 (derivatives of a draw by
its parameters).
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from dosing.distributions import special
from dosing.distributions.univariate import Univariate, centred, interval, limits, strictly_inside


class ScaledBeta(Univariate):
    """The Beta distribution on the open interval (low, high), unimodal: alpha, beta >= 1."""

    arg_constraints = {  # noqa: RUF012  as in torch
        "alpha": constraints.greater_than_eq(1.0),
        "beta": constraints.greater_than_eq(1.0),
    }
    fills_box = True

    def __init__(
        self,
        alpha: Tensor | float,
        beta: Tensor | float,
        low: float = -1.0,
        high: float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        """Build the distribution of low + (high - low) X with X ~ Beta(alpha, beta).

        Raises:
            UserError: low is not below high; with checks on, alpha or beta is not finite or below 1.
        """
        self.low, self.high = limits(low, high)
        self.alpha, self.beta = broadcast_all(alpha, beta)
        super().__init__(self.alpha.shape, validate_args)
        if self._validate_args:
            self._refuse_unless(self.alpha >= 1.0, "alpha", "at least 1")
            self._refuse_unless(self.beta >= 1.0, "beta", "at least 1")

    @property
    def support(self) -> constraints.Constraint:
        """The interval from low to high, ends excluded."""
        return interval(self.low, self.high, self.alpha)

    @property
    def mode(self) -> Tensor:
        """The mode low + (high - low) (alpha - 1)/(alpha + beta - 2); the middle if uniform."""
        tiny = torch.finfo(self.alpha.dtype).tiny
        share = (self.alpha - 1.0 + tiny) / (self.alpha - 1.0 + (self.beta - 1.0) + 2.0 * tiny)
        return self.low + (self.high - self.low) * share

    @property
    def mean(self) -> Tensor:
        """The mean low + (high - low) alpha/(alpha + beta)."""
        return self.low + (self.high - self.low) * self.alpha / (self.alpha + self.beta)

    @property
    def variance(self) -> Tensor:
        """(high - low)^2 alpha beta / ((alpha + beta)^2 (alpha + beta + 1))."""
        total = self.alpha + self.beta
        return (self.high - self.low) ** 2 * self.alpha * self.beta / (total.square() * (total + 1.0))

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats."""
        a, b = self.alpha.double(), self.beta.double()
        spread = (a + b - 2.0) * torch.digamma(a + b)
        spread = spread - (a - 1.0) * torch.digamma(a) - (b - 1.0) * torch.digamma(b)
        return (_log_beta(a, b) + spread + math.log(self.high - self.low)).to(self.alpha.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density per unit of dose at ``value``; -inf outside (low, high)."""
        self._check_value(value)
        outside = (value <= self.low) | (value >= self.high)
        safe = torch.where(outside, 0.5 * (self.low + self.high), value)
        width = self.high - self.low
        density = _beta_log_prob((safe - self.low) / width, (self.high - safe) / width, self.alpha, self.beta)
        return torch.where(outside, -math.inf, density - math.log(width))

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value), through scipy on the CPU."""
        x, rest = self._shares(value)
        return _beta_cdf(x, rest, self.alpha, self.beta)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value), through scipy on the CPU."""
        x, rest = self._shares(value)
        return _beta_cdf(rest, x, self.beta, self.alpha)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the quantile at probability ``p``, through scipy on the CPU; NaN for p outside [0, 1]."""
        arguments = torch.broadcast_tensors(p, self.alpha, self.beta)
        x = cast(Tensor, _BetaIcdf.apply(*arguments))  # type: ignore[no-untyped-call]
        return self.low + (self.high - self.low) * x

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return draws from noise ``[..., 1]`` by inversion, through scipy on the CPU; see the base class."""
        least, most = strictly_inside(self.low, self.high, self.alpha.dtype)
        return self.icdf(0.5 + centred(u[..., 0])).clamp(least, most)

    def _shares(self, value: Tensor) -> tuple[Tensor, Tensor]:
        self._check_value(value)
        width = self.high - self.low
        return ((value - self.low) / width).clamp(0.0, 1.0), ((self.high - value) / width).clamp(0.0, 1.0)


class _BetaCdf(torch.autograd.Function):
    """Distribution function of Beta(alpha, beta) at x, rest = 1 - x; differentiable in x, alpha, beta."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rest: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, rest, alpha, beta)
        return special.beta_cdf(x, rest, alpha, beta)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        x, rest, alpha, beta = ctx.saved_tensors
        inside, density = _beta_density(x, rest, alpha, beta)
        by_alpha, by_beta = _quantile_slopes(torch.where(inside, x, 0.5), alpha, beta)
        grad = grads[0] * density
        return grad, None, -grad * by_alpha, -grad * by_beta


class _BetaIcdf(torch.autograd.Function):
    """Quantile of Beta(alpha, beta) at p; differentiable in p, alpha, beta."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        x = special.beta_icdf(p, alpha, beta)
        ctx.save_for_backward(x, alpha, beta)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, alpha, beta = ctx.saved_tensors
        inside, density = _beta_density(x, 1.0 - x, alpha, beta)
        by_alpha, by_beta = _quantile_slopes(torch.where(inside, x, 0.5), alpha, beta)
        grad = torch.where(inside, grads[0], 0.0)
        return grad / torch.where(inside, density, 1.0), grad * by_alpha, grad * by_beta


def _beta_cdf(x: Tensor, rest: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    arguments = torch.broadcast_tensors(x, rest, alpha, beta)
    return cast(Tensor, _BetaCdf.apply(*arguments))  # type: ignore[no-untyped-call]


def _beta_density(x: Tensor, rest: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return where x lies inside (0, 1), and the density there, 0 elsewhere."""
    inside = (x > 0.0) & (rest > 0.0)
    log_density = _beta_log_prob(torch.where(inside, x, 0.5), torch.where(inside, rest, 0.5), alpha, beta)
    return inside, torch.where(inside, log_density.exp(), 0.0)


def _beta_log_prob(x: Tensor, rest: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    log_beta = _log_beta(alpha.double(), beta.double()).to(alpha.dtype)
    return (alpha - 1.0) * x.log() + (beta - 1.0) * rest.log() - log_beta


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)


def _quantile_slopes(x: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of a Beta quantile x by alpha and by beta, at fixed probability."""
    shares, parameters = torch.stack((x, 1.0 - x), -1), torch.stack((alpha, beta), -1)
    total = parameters.sum(-1, keepdim=True).expand_as(parameters)
    slopes = torch._dirichlet_grad(shares, parameters, total)
    return slopes[..., 0] * (1.0 - x), -slopes[..., 1] * x
