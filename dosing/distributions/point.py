"""The distribution of a deterministic policy: one dose, no density."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from dosing.distributions.univariate import Univariate


class Point(Univariate):
    """All probability at ``loc``. It has quantiles and a distribution function, and no density."""

    arg_constraints = {"loc": constraints.real}  # noqa: RUF012  as in torch
    has_density = False

    def __init__(self, loc: Tensor, validate_args: bool | None = None) -> None:
        """Build the distribution.

        Args:
            loc: the dose, any shape.
            validate_args: as in torch; False skips all checks of tensors.

        Raises:
            UserError: with checks on, loc is not finite.
        """
        self.loc = loc
        super().__init__(loc.shape, validate_args)

    @property
    def kind(self) -> str:
        """A ``point``."""
        return "point"

    @property
    def support(self) -> constraints.Constraint:
        """The closed interval from ``loc`` to ``loc``."""
        return constraints.interval(self.loc, self.loc)

    @property
    def mode(self) -> Tensor:
        """The dose."""
        return self.loc

    @property
    def mean(self) -> Tensor:
        """The dose."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse: a point has no density.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a deterministic policy has no density; use cdf, icdf or mode")

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value): 0 or 1."""
        return (value >= self.loc).to(self.loc.dtype)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value): 0 or 1."""
        return (value < self.loc).to(self.loc.dtype)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the dose, whatever the probability."""
        return self.loc.expand(torch.broadcast_shapes(self.loc.shape, p.shape))

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return the dose for every draw; the noise only gives the shape."""
        return self.loc.expand(u.shape[:-1])

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the dose, ``[*sample_shape, *batch_shape]``."""
        return self.loc.expand(self._extended_shape(torch.Size(sample_shape)))
