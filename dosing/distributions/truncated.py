"""A law of one maximum restricted to an interval, and renormalised there."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.distributions import constraints

from dosing.distributions.univariate import Univariate, centred

HALVINGS = 60
"""Bisections by which a quantile in the upper tail is found."""


class Truncated(Univariate):
    """Another distribution given that the quantity lies in [low, high]; outside, the density is exactly 0.

    The distribution has one maximum, and [low, high] lies in its support and has a positive width. Both ends
    are tensors, one for every element of the batch. The parameters are those of the other distribution beside
    ``low`` and ``high``; everything is as accurate as its ``cdf`` and ``sf``, so take it in double precision.
    """

    arg_constraints = {}  # noqa: RUF012  of every instance its own, as its parameters are

    def __init__(
        self, base: Univariate, low: Tensor, high: Tensor, validate_args: bool | None = None
    ) -> None:
        """Build the distribution.

        Args:
            base: the other distribution, of one maximum.
            low: lower end, of its batch shape, within its support.
            high: upper end, above ``low``.
            validate_args: as in torch; False skips all checks of tensors.

        Raises:
            UserError: with checks on, a parameter is not finite, or low is not below high.
        """
        self._law = base
        self.arg_constraints = {**base.arg_constraints, "low": constraints.real, "high": constraints.real}
        for name in base.arg_constraints:
            setattr(self, name, getattr(base, name))
        self.low, self.high = low, high
        super().__init__(base.batch_shape, validate_args)
        if self._validate_args:
            self._refuse_unless(self.low < self.high, "low", "below high")

    @property
    def base(self) -> Univariate:
        """The other distribution, with the parameters of this one."""
        result = copy.copy(self._law)
        for name in result.arg_constraints:
            setattr(result, name, getattr(self, name))
        result._batch_shape = self._batch_shape
        return result

    @property
    def support(self) -> constraints.Constraint:
        """The closed interval [low, high]."""
        return constraints.interval(self.low, self.high)

    @property
    def mode(self) -> Tensor:
        """The dose of the interval next to the other distribution's mode."""
        return torch.maximum(torch.minimum(self.base.mode, self.high), self.low)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at ``value``; -inf outside [low, high]."""
        self._check_value(value)
        base, outside = self.base, (value < self.low) | (value > self.high)
        density = base.log_prob(torch.where(outside, self.mode, value))
        return torch.where(outside, -math.inf, density - self._mass(base, self.low, self.high).log())

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value)."""
        self._check_value(value)
        base = self.base
        below = self._mass(base, self.low, self._within(value))
        return (below / self._mass(base, self.low, self.high)).clamp(0.0, 1.0)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value)."""
        self._check_value(value)
        base = self.base
        above = self._mass(base, self._within(value), self.high)
        return (above / self._mass(base, self.low, self.high)).clamp(0.0, 1.0)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the quantile at probability ``p``; NaN for p outside [0, 1]."""
        base, inside = self.base, (p >= 0.0) & (p <= 1.0)
        share = torch.where(inside, p, 0.5) * self._mass(base, self.low, self.high)
        value = self._within(base.icdf((base.cdf(self.low) + share).clamp(0.0, 1.0)))
        upper = self.low >= base.mode
        if bool(upper.any()):
            value = torch.where(upper, self._from_above(base, base.sf(self.low) - share), value)
        return torch.where(inside, value, math.nan)

    def _from_above(self, base: Univariate, above: Tensor) -> Tensor:
        """Where the other distribution has ``above`` to the right, which ``cdf`` cannot tell from 1."""
        low, high = torch.broadcast_tensors(self.low, self.high, above)[:2]
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            right = base.sf(middle) > above
            low, high = torch.where(right, middle, low), torch.where(right, high, middle)
        value: Tensor = 0.5 * (low + high)
        return value

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return draws from noise ``[..., 1]`` by inversion; see the base class."""
        return self.icdf(0.5 + centred(u[..., 0]).to(self.low.dtype))

    def _within(self, value: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(value, self.high), self.low)

    @staticmethod
    def _mass(base: Univariate, low: Tensor, high: Tensor) -> Tensor:
        """Probability between two doses, as a difference in the tail that they lie in."""
        return torch.where(low >= base.mode, base.sf(low) - base.sf(high), base.cdf(high) - base.cdf(low))
