"""FtTPO's distributions as its released code (github.com/lingweizhu/fat2thin) computes them.

For measuring what the defects do, and for nothing else. Sigma is a diagonal squared scale; every draw is
clamped to the box and the continuous density is then taken at the clamp. Density and sampler are joint over
the n dose dimensions:

* the heavy-tailed distribution is drawn per dimension by Box-Muller with the index (q - 1)/(3 - q), a wrong
  sign: q = 2 draws a normal distribution. Its density halves the quadratic form but not the constant, so that
  in one dimension it integrates to sqrt 2; for n >= 2 it has the elliptical exponent 1/(1 - q), at q = 2 not
  integrable, under the constant of another distribution;
* the bounded distribution is the elliptical one of Martins et al. 2022 (arXiv 2108.02658): shrinking one axis
  widens all others, and its edge may lie outside the box;
* an axis whose Sigma is below 1000 eps of the largest is left out of rank, determinant and distance.
"""

import math

import torch
from torch import Tensor

from dosing.distributions.q_gaussian import from_uniform, standard_log_prob
from dosing.distributions.special import beta_icdf

EDGE = 1.0 - 1e-6
"""Draws and recorded actions are clamped to [-EDGE, EDGE]; means are tanh times EDGE."""


class Elliptical:
    """What both share: location, Sigma without the axes left out, and half the squared distance.

    Args:
        loc: ``[S, B, A]``.
        sigma: squared scale ``[S, B, A]``.
        q: index.
    """

    def __init__(self, loc: Tensor, sigma: Tensor, q: float) -> None:
        self.loc, self.sigma, self.q = loc, sigma, q
        factor = 1e3 if sigma.dtype == torch.float32 else 1e6
        least = factor * torch.finfo(sigma.dtype).eps * sigma.detach().amax(-1, keepdim=True)
        self.kept = sigma.detach() > least
        self.rank = self.kept.sum(-1).to(sigma.dtype)  # [S, B]
        self.log_det = torch.where(self.kept, sigma, 1.0).log().sum(-1)

    def half_distance(self, act: Tensor) -> Tensor:
        """(a - loc)^T Sigma^-1 (a - loc) / 2 of ``act [S, B, A]``: ``[S, B]``."""
        inverse = torch.where(self.kept, 1.0 / self.sigma, 0.0)
        return 0.5 * ((act - self.loc).square() * inverse).sum(-1)


class HeavyTailed(Elliptical):
    """The proposal's distribution, 1 < q < 3."""

    def sample(self, u: Tensor) -> Tensor:
        """Clamped draws from noise ``[S, B, A, 2]``."""
        index = (self.q - 1.0) / (3.0 - self.q)
        v = u[..., 0] + torch.finfo(u.dtype).eps / 4.0  # never 0
        log_q = v.log() if index == 1.0 else (v ** (1.0 - index) - 1.0) / (1.0 - index)
        z = torch.sqrt(-2.0 * log_q) * torch.cos(2.0 * math.pi * u[..., 1])
        return (self.loc + self.sigma.sqrt() * z).clamp(-EDGE, EDGE)

    def log_prob(self, act: Tensor) -> Tensor:
        """Log of the published density ``[S, B]`` at the clamped action."""
        q, n = self.q, self.rank
        half = (3.0 - q) / (2.0 * (q - 1.0))
        log_norm = math.lgamma(half) - torch.lgamma(half + 0.5 * n)
        log_norm = log_norm + 0.5 * n * math.log(math.pi * (3.0 - q) / (q - 1.0)) + 0.5 * self.log_det
        distance = self.half_distance(act.clamp(-EDGE, EDGE))
        log_prob: Tensor = -torch.log1p((q - 1.0) * distance / (3.0 - q)) / (q - 1.0) - log_norm
        return log_prob


class Bounded(Elliptical):
    """The actor's distribution, q < 1, with alpha = 2 - q in the published notation."""

    def __init__(self, loc: Tensor, sigma: Tensor, q: float) -> None:
        super().__init__(loc, sigma, q)
        n, m = self.rank, 1.0 - q  # m = alpha - 1
        ratio = (2.0 - q) / m
        inner = torch.lgamma(0.5 * n + ratio) - math.lgamma(ratio) - 0.5 * n * math.log(math.pi)
        inner = inner + math.log(2.0 / m) / m
        self.log_radius = m / (2.0 + m * n) * inner
        self.log_spread = -self.log_det / (2.0 * n + 4.0 / m)

    @property
    def half_width(self) -> Tensor:
        """Half the extent of the support along each axis ``[S, B, A]``."""
        return (self.log_radius + self.log_spread).exp().unsqueeze(-1) * self.sigma.sqrt()

    def sample(self, u: Tensor) -> Tensor:
        """Clamped draws, differentiable, from noise ``[S, B, A + 1]``: radius, then direction."""
        ratio = torch.full_like(self.rank, (2.0 - self.q) / (1.0 - self.q))
        radius = beta_icdf(u[..., 0], 0.5 * self.rank, ratio).sqrt()
        direction = torch.where(self.kept, from_uniform(u[..., 1:].unsqueeze(-1), 1.0), 0.0)
        unit = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        drawn: Tensor = self.loc + self.half_width * radius.unsqueeze(-1) * unit
        return drawn.clamp(-EDGE, EDGE)

    def log_prob(self, act: Tensor) -> Tensor:
        """Log-density ``[S, B]``, -inf outside the support."""
        m = 1.0 - self.q
        threshold = 0.5 * (2.0 * (self.log_radius + self.log_spread)).exp()
        density = (m * (threshold - self.half_distance(act))).clamp(min=0.0) ** (1.0 / m)
        return density.log()


class Squashed:
    """The Gaussian proposal of the FtTPO-SG ablation: tanh of a normal, 1e-6 added to its slope."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale

    def sample(self, u: Tensor) -> Tensor:
        """Draws from noise ``[S, B, A, 1]``."""
        return torch.tanh(self.loc + self.scale * from_uniform(u, 1.0))

    def log_prob(self, act: Tensor) -> Tensor:
        """Log-density ``[S, B]``."""
        z = (torch.atanh(act.clamp(-EDGE, EDGE)) - self.loc) / self.scale
        slope = (1.0 - act.square() + 1e-6).log()
        return (standard_log_prob(z, 1.0, self.scale.log()) - slope).sum(-1)
