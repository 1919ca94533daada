"""The density c [h^2 - (x - m)^2]_+ on a bounded interval of doses, with h such that it integrates to 1.

It maximises E Q + lambda (1 - int p^2) over the densities p on [low, high] where Q = const - 2 lambda c (x -
m)^2: the policy of quasi-optimal learning (Li, Zhou, Zhu 2023, arXiv 2301.08940). While m - h and m + h are
within the interval it is the q-Gaussian with q = 0 (Epanechnikov's distribution), of half-width h = (3 /
4c)^(1/3). Where the interval cuts it off, it is lifted until its integral is 1 again, never clipped, and m
may even lie outside.

At distance w from the mode, the point of the interval next to m, the density is p - k w - c w^2 with the
slope k = 2 c |m - mode|. This form has no cancellation however far m is; its peak p is found by Newton's
method.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from dosing.distributions.univariate import Univariate, centred, limits

ITERATIONS = 5
"""Of Newton's method: four reach the last digit of double precision."""


class Sides(NamedTuple):
    """The density p - k w - c w^2 at distance w from the mode, as far as ``left`` and ``right`` of it."""

    mode: Tensor
    peak: Tensor
    slope: Tensor
    curvature: Tensor
    left: Tensor
    right: Tensor

    def square(self) -> Tensor:
        """Return the integral of the squared density."""
        p, k, c = self.peak, self.slope, self.curvature
        total = torch.zeros_like(p)
        for w in (self.left, self.right):
            rest = (k.square() - 2.0 * p * c) / 3.0 + w * (c * k / 2.0 + w * c.square() / 5.0)
            total = total + w * (p.square() - w * (p * k - w * rest))
        return total


def solve(loc: Tensor, curvature: Tensor, low: Tensor, high: Tensor) -> Sides:
    """Return the density on [low, high] around ``loc``, differentiable in all arguments.

    Args:
        loc: m, any number.
        curvature: c, above 0.
        low: lower end of the interval.
        high: upper end.
    """
    mode = torch.maximum(torch.minimum(loc, high), low)
    slope = 2.0 * curvature * (loc - mode).abs()
    rooms = mode - low, high - mode
    with torch.no_grad():
        # Within a factor 2 of the peak if no end cuts the density off; the peak itself if both do. From
        # anywhere, the method converges on an increasing convex function.
        free = (2.0 * slope).sqrt() + (2.25 * curvature) ** (1.0 / 3.0)
        squares = sum(room.square() * (0.5 * slope + room * curvature / 3.0) for room in rooms)
        peak = torch.minimum(free, (1.0 + squares) / (high - low))
        for _ in range(ITERATIONS):
            peak = _step(peak, slope, curvature, rooms)
    peak = _step(peak, slope, curvature, rooms)  # of size 0, with the derivative of the implicit function
    left, right = (_width(peak, slope, curvature, room) for room in rooms)
    return Sides(mode, peak, slope, curvature, left, right)


def _width(peak: Tensor, slope: Tensor, curvature: Tensor, room: Tensor) -> Tensor:
    """Distance from the mode at which the density is 0, or the room there is."""
    root = torch.hypot(slope, 2.0 * (curvature * peak).sqrt())
    return torch.minimum(room, 2.0 * peak / (slope + root))


def _step(peak: Tensor, slope: Tensor, curvature: Tensor, rooms: tuple[Tensor, Tensor]) -> Tensor:
    """One step of Newton's method for a mass of 1; the mass is increasing and convex in the peak."""
    widths = [_width(peak, slope, curvature, room) for room in rooms]
    mass = sum(w * (peak - w * (0.5 * slope + w * curvature / 3.0)) for w in widths)
    return peak - (mass - 1.0) / (widths[0] + widths[1]).detach()


class Parabola(Univariate):
    """The density c [h^2 - (x - m)^2]_+ on [low, high]; all sums are taken in double precision.

    Its support is exact: [m - h, m + h] within the limits. Where a limit cuts it off, the limit belongs to it
    and has positive density, but no atom.
    """

    arg_constraints = {  # noqa: RUF012  as in torch
        "loc": constraints.real,
        "curvature": constraints.positive,
    }

    def __init__(
        self,
        loc: Tensor | float,
        curvature: Tensor | float,
        low: float = -1.0,
        high: float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        """Build the distribution.

        Args:
            loc: m, the top of the parabola, inside the limits or not.
            curvature: c, above 0.
            low: lower limit.
            high: upper limit.
            validate_args: as in torch; False skips all checks of tensors.

        Raises:
            UserError: low is not below high; with checks on, loc or curvature is not finite, or curvature not
                above 0.
        """
        self.low, self.high = limits(low, high)
        self.loc, self.curvature = broadcast_all(loc, curvature)
        super().__init__(self.loc.shape, validate_args)
        if self._validate_args:
            self._refuse_unless(self.curvature > 0.0, "curvature", "above 0")

    @property
    def support(self) -> constraints.Constraint:
        """The interval on which the density is positive."""
        low, high = self._edges(self._sides())
        return constraints.interval(low.to(self.loc.dtype), high.to(self.loc.dtype))

    @property
    def mode(self) -> Tensor:
        """The location, held within the limits."""
        return self.loc.clamp(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self._moments()[0].to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self._moments()[1].to(self.loc.dtype)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, by Gauss-Legendre on either side of the mode."""
        s = self._sides()
        nodes, weights = (
            torch.as_tensor(x, device=s.mode.device) for x in np.polynomial.legendre.leggauss(64)
        )
        total = torch.zeros_like(s.peak)
        for side in (s.left, s.right):
            w = 0.5 * side.unsqueeze(-1) * (1.0 + nodes)
            density = s.peak.unsqueeze(-1) - w * (s.slope.unsqueeze(-1) + w * s.curvature.unsqueeze(-1))
            total = total - 0.5 * side * (weights * torch.special.xlogy(density, density)).sum(-1)
        return total.to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at ``value``; -inf outside the support."""
        self._check_value(value)
        s = self._sides()
        low, high = self._edges(s)
        w = (value - s.mode).abs()
        density = s.peak - w * (s.slope + w * s.curvature)
        outside = (value < low) | (value > high) | (density <= 0.0)
        log_density = torch.where(outside, 1.0, density).log()
        return torch.where(outside, -math.inf, log_density).to(value.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value), accurate in the lower tail."""
        return self._tails(value)[0].to(value.dtype)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value), accurate in the upper tail."""
        return self._tails(value)[1].to(value.dtype)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the quantile at probability ``p``; NaN for p outside [0, 1]."""
        s = self._sides()
        inside = (p >= 0.0) & (p <= 1.0)
        value = self._quantile(s, torch.where(inside, p, 0.5).double())
        return torch.where(inside, value, math.nan).to(p.dtype)

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return draws from noise ``[..., 1]`` by inversion; see the base class."""
        support = self.support
        value = self._quantile(self._sides(), 0.5 + centred(u[..., 0]).double()).to(self.loc.dtype)
        return value.clamp(support.lower_bound, support.upper_bound)  # type: ignore[attr-defined]

    def _sides(self) -> Sides:
        loc, curvature = self.loc.double(), self.curvature.double()
        low, high = torch.full_like(loc, self.low), torch.full_like(loc, self.high)
        return solve(loc, curvature, low, high)

    def _edges(self, s: Sides) -> tuple[Tensor, Tensor]:
        """Ends of the support; exactly the limits where these cut it off."""
        low = torch.where(s.left < s.mode - self.low, s.mode - s.left, self.low)
        return low, torch.where(s.right < self.high - s.mode, s.mode + s.right, self.high)

    def _moments(self) -> tuple[Tensor, Tensor]:
        s = self._sides()
        first = second = torch.zeros_like(s.peak)
        for w, sign in ((s.left, -1.0), (s.right, 1.0)):
            first = first + sign * w.square() * (s.peak / 2.0 - w * (s.slope / 3.0 + w * s.curvature / 4.0))
            second = second + w**3 * (s.peak / 3.0 - w * (s.slope / 4.0 + w * s.curvature / 5.0))
        return s.mode + first, second - first.square()

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities below and above ``value``: the smaller one from its own end, without cancellation."""
        self._check_value(value)
        s = self._sides()
        low, high = self._edges(s)
        below = _Tail(s, s.left, s.mode - self.low).mass(torch.minimum((value - low).clamp(min=0.0), s.left))
        above = _Tail(s, s.right, self.high - s.mode).mass(
            torch.minimum((high - value).clamp(min=0.0), s.right)
        )
        left = (value < s.mode) | ((value == s.mode) & (s.right > 0.0))
        return torch.where(left, below, 1.0 - above), torch.where(left, 1.0 - below, above)

    def _quantile(self, s: Sides, p: Tensor) -> Tensor:
        low, high = self._edges(s)
        below, above = _Tail(s, s.left, s.mode - self.low), _Tail(s, s.right, self.high - s.mode)
        return torch.where(p <= below.mass(s.left), low + below.quantile(p), high - above.quantile(1.0 - p))


class _Tail:
    """The mass within distance t of one end of the support: d t + e t^2 / 2 - c t^3 / 3, convex in t."""

    def __init__(self, s: Sides, width: Tensor, room: Tensor) -> None:
        at_end = s.peak - width * (s.slope + width * s.curvature)
        self.width, self.curvature = width, s.curvature
        self.density = torch.where(width < room, 0.0, at_end)
        self.rise = s.slope + 2.0 * s.curvature * width

    def mass(self, t: Tensor) -> Tensor:
        """Mass within t."""
        return t * (self.density + t * (0.5 * self.rise - t * self.curvature / 3.0))

    def quantile(self, p: Tensor) -> Tensor:
        """Distance within which the mass is ``p``; the whole width if there is less."""
        with torch.no_grad():
            quadratic = 0.5 * self.rise - self.curvature * self.width / 3.0  # bounds the mass from below
            tiny = torch.finfo(p.dtype).tiny
            root = torch.hypot(self.density, 2.0 * (quadratic * p).sqrt())
            t = torch.minimum(2.0 * p / (self.density + root).clamp(min=tiny), self.width)
            for _ in range(ITERATIONS):
                t = torch.minimum(self._step(t, p), self.width)
        return torch.minimum(self._step(t, p), self.width)

    def _step(self, t: Tensor, p: Tensor) -> Tensor:
        slope = self.density + t * (self.rise - t * self.curvature)
        return (t - (self.mass(t) - p) / slope.detach().clamp(min=torch.finfo(t.dtype).tiny)).clamp(min=0.0)
