"""Student's t with location, scale and its own degrees of freedom per element, which may be learned.

Source: Johnson, Kotz, Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 28; draws by Bailey
1994, Math. Comp. 62:779, so that a draw is a smooth function of two uniform numbers and of the degrees of
freedom.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from dosing.distributions import special
from dosing.distributions.univariate import Univariate, polar_draw


class StudentT(Univariate):
    """Student's t on the real line; for a fixed ``df`` prefer ``QGaussian``, q = (df+3)/(df+1)."""

    arg_constraints = {  # noqa: RUF012  as in torch
        "df": constraints.positive,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real
    n_uniforms = 2

    def __init__(
        self,
        df: Tensor | float,
        loc: Tensor | float,
        scale: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        """Build the distribution.

        Args:
            df: degrees of freedom, above 0; the three arguments broadcast against each other.
            loc: the mode and centre of symmetry.
            scale: above 0.
            validate_args: as in torch; False skips all checks of tensors.

        Raises:
            UserError: with checks on, an argument is not finite, or df or scale is not above 0.
        """
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        super().__init__(self.loc.shape, validate_args)
        if self._validate_args:
            self._refuse_unless(self.df > 0.0, "df", "above 0")
            self._refuse_unless(self.scale > 0.0, "scale", "above 0")

    @property
    def mode(self) -> Tensor:
        """The location."""
        return self.loc

    @property
    def mean(self) -> Tensor:
        """The location where df > 1, else NaN."""
        return torch.where(self.df > 1.0, self.loc, math.nan)

    @property
    def variance(self) -> Tensor:
        """scale^2 df/(df-2) where df > 2, infinite where 1 < df <= 2, else undefined (NaN)."""
        finite = self.df > 2.0
        safe = torch.where(finite, self.df, 3.0)
        value = torch.where(finite, self.scale.square() * safe / (safe - 2.0), math.inf)
        return torch.where(self.df > 1.0, value, math.nan)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats."""
        half = self.df.double() / 2.0
        spread = (half + 0.5) * (torch.digamma(half + 0.5) - torch.digamma(half))
        return self.scale.log() + (_log_norm(self.df) + spread).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at ``value``."""
        self._check_value(value)
        z = (value - self.loc) / self.scale
        return _standard_log_prob(z, self.df) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value), through scipy on the CPU; not differentiable with respect to df."""
        self._check_value(value)
        return _standard_cdf((value - self.loc) / self.scale, self.df)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value), through scipy on the CPU; not differentiable with respect to df."""
        self._check_value(value)
        return _standard_cdf((self.loc - value) / self.scale, self.df)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the quantile at probability ``p``, through scipy on the CPU; NaN for p outside [0, 1]."""
        z = _Icdf.apply(*torch.broadcast_tensors(p, self.df))  # type: ignore[no-untyped-call]
        return self.loc + self.scale * cast(Tensor, z)

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return draws from noise ``[..., 2]``, differentiable in df too; see the base class."""
        return torch.addcmul(self.loc, self.scale, polar_draw(u, self.df))


class _Cdf(torch.autograd.Function):
    """Distribution function of the standard distribution; its derivative is the density."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, df: Tensor) -> Tensor:
        ctx.save_for_backward(z, df)
        return special.t_cdf(z, df)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        _refuse_df_gradient(ctx.needs_input_grad[1])
        z, df = ctx.saved_tensors
        return grads[0] * _standard_log_prob(z, df).exp(), None


class _Icdf(torch.autograd.Function):
    """Quantile of the standard distribution; its derivative is 1/density, 0 at p = 0 and 1."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, df: Tensor) -> Tensor:
        z = special.t_icdf(p, df)
        ctx.save_for_backward(z, df)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        _refuse_df_gradient(ctx.needs_input_grad[1])
        z, df = ctx.saved_tensors
        finite = z.isfinite()
        slope = torch.exp(-_standard_log_prob(torch.where(finite, z, 0.0), df))
        return torch.where(finite, grads[0] * slope, 0.0), None


def _standard_cdf(z: Tensor, df: Tensor) -> Tensor:
    return cast(Tensor, _Cdf.apply(*torch.broadcast_tensors(z, df)))  # type: ignore[no-untyped-call]


def _refuse_df_gradient(needed: bool) -> None:
    if needed:
        raise NotImplementedError(
            "StudentT.cdf, sf and icdf have no gradient with respect to df; detach df first."
        )


def _standard_log_prob(z: Tensor, df: Tensor) -> Tensor:
    return torch.log1p(z * z / df) * (-0.5 * (df + 1.0)) - _log_norm(df).to(z.dtype)


def _log_norm(df: Tensor) -> Tensor:
    """Return ln[sqrt(df) B(1/2, df/2)] in double precision: in single, large df would cost four digits."""
    df = df.double()
    return 0.5 * (df * math.pi).log() + torch.lgamma(df / 2.0) - torch.lgamma((df + 1.0) / 2.0)
