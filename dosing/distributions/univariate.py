"""What every distribution of a dose offers: density, both tails, quantiles, mode, draws from given noise."""

import math
from collections.abc import Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from dosing.errors import UserError


class Univariate(Distribution):
    """A batched distribution of one quantity; ``torch.distributions.Independent`` joins several.

    A subclass provides ``log_prob``, ``cdf``, ``sf``, ``icdf``, ``mode``, ``support`` and ``rsample_from``.
    Its parameters are the names in ``arg_constraints``, each a tensor of shape ``batch_shape``.

    A bounded ``support`` carries its ends as tensors of shape ``batch_shape`` (``lower_bound``,
    ``upper_bound``). Unlike in torch, a value outside the support is no error: its ``log_prob`` is exactly
    -inf and its ``cdf`` 0 or 1. With argument checks on (torch's default) a NaN value is refused; training
    loops pass ``validate_args=False``, which also avoids the device synchronisation of the checks.
    """

    has_rsample = True
    n_uniforms: int = 1
    """Independent uniform numbers that :meth:`rsample_from` uses up for one draw."""
    has_density: bool = True
    """Whether the distribution has a density, so that ``log_prob`` means something."""
    fills_box: bool = False
    """Whether the support is the same box whatever the parameters."""

    @property
    def kind(self) -> str:
        """What the set of doses is: ``interval``, ``full_box``, ``infinite_clipped``, ``point``, ...

        An ``interval`` depends on the state and is exact; a ``full_box`` is every dose there is, so that its
        ends say nothing; a distribution on the real line is executed clipped.
        """
        if not hasattr(self.support, "lower_bound"):
            return "infinite_clipped"
        return "full_box" if self.fills_box else "interval"

    def __init__(self, batch_shape: torch.Size, validate_args: bool | None) -> None:
        """Store shape and checking mode; the subclass has already set its parameters.

        Raises:
            UserError: checks are on and a parameter is not finite.
        """
        check = Distribution._validate_args if validate_args is None else validate_args
        super().__init__(batch_shape, validate_args=False)  # checked here instead, in one sentence
        self._validate_args = check
        if check:
            for name in self.arg_constraints:
                self._refuse_unless(torch.isfinite(getattr(self, name)), name, "finite")

    def sf(self, value: Tensor) -> Tensor:
        """Return the survival function 1 - cdf(value), accurate in the upper tail."""
        raise NotImplementedError

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return draws as a deterministic, differentiable function of uniform noise.

        Args:
            u: ``[*sample_shape, *batch_shape, n_uniforms]``, uniform on [0, 1) as from ``torch.rand``, in the
                precision of the parameters.

        Returns:
            ``[*sample_shape, *batch_shape]``; finite, and never beyond the support, for every u in [0, 1].
        """
        raise NotImplementedError

    def rsample_with_log_prob(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``rsample_from(u)`` and the log-density at these draws, both differentiable.

        Distributions that can do so compute the density before the draw is rounded: it is then finite even
        where the rounded draw lies on the edge of the support.
        """
        value = self.rsample_from(u)
        return value, self.log_prob(value)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return differentiable draws, ``[*sample_shape, *batch_shape]``."""
        like = self._parameters()[0]
        shape = (*self._extended_shape(torch.Size(sample_shape)), self.n_uniforms)
        return self.rsample_from(torch.rand(shape, dtype=like.dtype, device=like.device))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Return this distribution with its parameters expanded to ``batch_shape``, without copying them."""
        new = self._get_checked_instance(type(self), _instance)  # type: ignore[no-untyped-call]
        new.__dict__.update(self.__dict__)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(torch.Size(batch_shape)))
        new._batch_shape = torch.Size(batch_shape)
        return cast(Self, new)

    def _parameters(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.arg_constraints]

    def _refuse_unless(self, good: Tensor, name: str, wanted: str) -> None:
        """Raise unless every element of ``good`` holds; the first offending parameter value is named."""
        if not bool(good.all()):
            worst = getattr(self, name)[~good].reshape(-1)[0].item()
            raise UserError(f"{type(self).__name__}: {name} must be {wanted}, got {worst:g}.")

    def _check_value(self, value: Tensor) -> None:
        """Refuse a NaN value when checks are on."""
        if self._validate_args and bool(torch.isnan(value).any()):
            raise UserError(f"{type(self).__name__}: the value must not contain NaN.")


def centred(u: Tensor) -> Tensor:
    """Return u - 1/2 moved to the middle of its rounding cell: exact, symmetric, and never -1/2 or 1/2.

    ``torch.rand`` returns multiples of h = 2^-24 (float32) or 2^-53 (float64) in [0, 1). Adding h/2 after the
    subtraction is free of rounding in both, and makes the smallest and the largest value mirror images. This
    sets the resolution of every distribution drawn from one uniform: probabilities below h/2 are never
    reached.
    """
    half_cell = torch.finfo(u.dtype).eps / 4.0
    return (u - 0.5 + half_cell).clamp(half_cell - 0.5, 0.5 - half_cell)


def polar_draw(u: Tensor, nu: Tensor | float) -> Tensor:
    """Return generalised Box-Muller draws z = sqrt(nu (U1^(-2/nu) - 1)) cos(2 pi U2).

    For nu > 0 this is Student's t with nu degrees of freedom (Bailey 1994, Math. Comp. 62:779), for nu =
    -R_q^2 the bounded q-Gaussian: sqrt(-2 ln_qhat(U1)) with 1 - qhat = -2/nu in both. Differentiable with
    respect to nu.

    Args:
        u: ``[..., 2]``, uniform on [0, 1); computed in double precision, returned in that of u.
        nu: not 0, broadcasts against ``[...]``.
    """
    half_cell = torch.finfo(u.dtype).eps / 4.0
    log_u = (u[..., 0].double() + half_cell).clamp(max=1.0 - 1e-15).log()  # below 0, where sqrt has a slope
    largest = 1e18 if u.dtype == torch.float32 else 1e150
    exponent = (log_u * -2.0 / nu).clamp(max=2.0 * math.log(largest))  # reached for nu < 1 only
    z = torch.sqrt(nu * torch.expm1(exponent)) * torch.cos(2.0 * math.pi * u[..., 1].double())
    return z.to(u.dtype)


def central_interval(distribution: Distribution, mass: float) -> tuple[Tensor, Tensor]:
    """Return the interval that holds ``mass`` and leaves out (1 - mass)/2 on either side.

    It is not a support: for a distribution on the whole line it leaves probability outside. Its upper end
    comes from 1 - tail in the precision of the parameters: take them in double where the last digits matter.

    Args:
        distribution: a distribution with ``icdf``, or an ``Independent`` over one (the interval is then per
            dimension).
        mass: strictly between 0 and 1.

    Returns:
        lower and upper end, each of the shape of the distribution's parameters.

    Raises:
        UserError: mass is not strictly between 0 and 1.
    """
    if not 0.0 < mass < 1.0:
        raise UserError(f"The mass of a central interval must lie strictly between 0 and 1, got {mass!r}.")
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    tail = torch.full_like(distribution.mode, (1.0 - mass) / 2.0)
    return distribution.icdf(tail), distribution.icdf(1.0 - tail)


def limits(low: float, high: float) -> tuple[float, float]:
    """Return the limits as floats.

    Raises:
        UserError: they are not finite, or the lower is not below the upper.
    """
    low, high = float(low), float(high)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(
            f"The limits of a distribution must be finite, the lower below the upper; got {low:g} and "
            f"{high:g}."
        )
    return low, high


def interval(low: float, high: float, like: Tensor) -> constraints.Constraint:
    """Return the support [low, high] with ends of the shape, precision and device of ``like``."""
    return constraints.interval(torch.full_like(like, low), torch.full_like(like, high))


def strictly_inside(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    """Return the smallest and the largest number of this precision strictly between the limits."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    return float(np.nextafter(kind(low), kind(high))), float(np.nextafter(kind(high), kind(low)))
