"""The distribution of a delivered dose: a dose drawn on the real line and then limited to a box.

Limiting moves all mass beyond a limit on to the limit itself. The distribution is then mixed: two atoms and a
density between them. Density and probability are different kinds of number: neither is ever returned for the
other.
"""

import math
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from dosing.distributions.univariate import Univariate, interval, limits
from dosing.errors import UserError


class Clipped(Univariate):
    """The distribution of min(max(X, low), high) for a distribution X."""

    arg_constraints = {}  # noqa: RUF012  the parameters are those of ``base``

    def __init__(self, base: Univariate, low: float = -1.0, high: float = 1.0) -> None:
        """Build the distribution of the delivered dose.

        Args:
            base: distribution of the requested dose; its argument checks apply.
            low: lower limit, in the unit of the dose.
            high: upper limit.

        Raises:
            UserError: low is not below high, or base has no survival function.
        """
        if not isinstance(base, Univariate):
            raise UserError(
                f"Clipped needs a distribution of this package, with both tails, got {type(base).__name__}."
            )
        self.base = base
        self.low, self.high = limits(low, high)
        self.n_uniforms = base.n_uniforms
        super().__init__(base.batch_shape, base._validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The closed interval [low, high]."""
        return interval(self.low, self.high, self._parameters()[0])

    @property
    def mass_low(self) -> Tensor:
        """P(X <= low): probability of delivering exactly the lower limit, shape ``batch_shape``."""
        return self.base.cdf(self._constant(self.low))

    @property
    def mass_high(self) -> Tensor:
        """P(X >= high): probability of delivering exactly the upper limit, shape ``batch_shape``."""
        return self.base.sf(self._constant(self.high))

    @property
    def mode(self) -> Tensor:
        """The delivered dose when the mode of the base distribution is requested."""
        return self.base.mode.clamp(self.low, self.high)

    def prob_atom(self, value: Tensor) -> Tensor:
        """Return the probability of delivering exactly ``value``: 0 everywhere but at the two limits."""
        self._check_value(value)
        inner = torch.where(value == self.high, self.mass_high, 0.0)
        return torch.where(value == self.low, self.mass_low, inner)

    def density(self, value: Tensor) -> Tensor:
        """Return the density strictly between the limits, 0 elsewhere; it integrates to 1 less both atoms."""
        self._check_value(value)
        elsewhere = (value <= self.low) | (value >= self.high)
        return torch.where(elsewhere, 0.0, self.base.log_prob(value).exp())

    def mixed_log_likelihood(self, value: Tensor) -> Tensor:
        """Return the log-likelihood of a delivered dose with respect to length plus one unit at either limit.

        That is the log-probability of the atom for a dose at a limit, the log-density of the base
        distribution for a dose between, and -inf outside. Only differences at the same ``value`` are
        comparable, as for any likelihood.
        """
        self._check_value(value)
        elsewhere = (value <= self.low) | (value >= self.high)
        middle = self.base.mode.detach().clamp(self.low, self.high)
        density = self.base.log_prob(torch.where(elsewhere, middle, value))
        atom = self.prob_atom(value)
        impossible = atom == 0.0
        log_atom = torch.where(impossible, -math.inf, torch.where(impossible, 1.0, atom).log())
        return torch.where(elsewhere, log_atom, density)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse: a mixed distribution has no density.

        Raises:
            UserError: always; it names the three methods to choose from.
        """
        raise UserError(
            "A clipped distribution has atoms and no log_prob: use mixed_log_likelihood, or density and "
            "prob_atom."
        )

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(delivered <= value): jumps by ``mass_low`` at low and by ``mass_high`` at high."""
        below = torch.where(value < self.low, torch.zeros_like(value), self.base.cdf(value))
        return torch.where(value >= self.high, torch.ones_like(value), below)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(delivered > value)."""
        above = torch.where(value < self.low, torch.ones_like(value), self.base.sf(value))
        return torch.where(value >= self.high, torch.zeros_like(value), above)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the quantile of the delivered dose at probability ``p``; NaN for p outside [0, 1]."""
        return self.base.icdf(p).clamp(self.low, self.high)

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return delivered doses from noise; the gradient of a dose that was limited is 0."""
        return self.base.rsample_from(u).clamp(self.low, self.high)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """Return this distribution expanded to ``batch_shape``."""
        return type(self)(self.base.expand(batch_shape), self.low, self.high)

    def _parameters(self) -> list[Tensor]:
        return self.base._parameters()

    def _constant(self, value: float) -> Tensor:
        return torch.full_like(self._parameters()[0], value)
