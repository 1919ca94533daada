"""The q-Gaussian distribution: bounded support for q < 1, normal at q = 1, Student's t for 1 < q < 3.

With z = (x - loc)/scale the density is

    p(x) = exp_q(-z^2 / (3 - q)) / (scale Z_q),        q < 3

so that q = 1 is the normal distribution with standard deviation ``scale`` and 1 < q < 3 is Student's t with
nu = (3 - q)/(q - 1) degrees of freedom and the same scale. For q < 1 the support is |z| < R_q =
sqrt((3-q)/(1-q)), and

    Z_q = R_q B(1/2, b),        b = 1/(1-q) + 1   for q < 1
    Z_q = sqrt(nu) B(1/2, b),   b = nu/2          for q > 1

Sources: Tsallis 1988, J. Stat. Phys. 52:479; Prato and Tsallis 1999, Phys. Rev. E 60:2398 (normaliser,
moments); Thistleton, Marsh, Nelson, Tsallis 2007, IEEE Trans. Inf. Theory 53(12):4805 (generalised Box-Muller
draws).
"""

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from dosing.distributions import special
from dosing.distributions.q_exponential import finite_index
from dosing.distributions.univariate import Univariate, centred, polar_draw
from dosing.errors import UserError


class _Shape(NamedTuple):
    """Constants of the standard distribution (loc 0, scale 1): plain floats that cost no tensor call."""

    q: float
    power: float
    """1/|1 - q|, the exponent of the density; infinite at q = 1."""
    curvature: float
    """(1 - q)/(3 - q): the density is (1 - curvature z^2)^(1/(1-q)) up to its constant."""
    half: float
    """b of the module docstring."""
    log_norm: float
    """ln Z_q."""


def _shape(q: float) -> _Shape:
    q = finite_index(q)
    if q >= 3.0:
        raise UserError(f"The index q of a q-Gaussian must be below 3, or it has no density; got {q:g}.")
    if q == 1.0:
        return _Shape(q, math.inf, 0.0, math.inf, 0.5 * math.log(2.0 * math.pi))
    power = 1.0 / abs(1.0 - q)
    half = power + 1.0 if q < 1.0 else (3.0 - q) / (q - 1.0) / 2.0
    log_beta = 0.5 * math.log(math.pi) - special.log_gamma_half_step(half)
    return _Shape(q, power, (1.0 - q) / (3.0 - q), half, 0.5 * math.log((3.0 - q) * power) + log_beta)


def support_radius(q: float) -> float:
    """Return R_q: the support is loc +- R_q scale. It is sqrt((3-q)/(1-q)) for q < 1 and infinite otherwise.

    Raises:
        UserError: q is not a finite number below 3.
    """
    q = _shape(q).q
    return math.sqrt((3.0 - q) / (1.0 - q)) if q < 1.0 else math.inf


def n_uniforms(q: float) -> int:
    """Return how many uniform numbers one draw of a q-Gaussian uses: 1 for q = 0, 1, 2 and 2 otherwise.

    Raises:
        UserError: q is not a finite number below 3.
    """
    return 1 if _shape(q).q in (0.0, 1.0, 2.0) else 2


def from_uniform(u: Tensor, q: float) -> Tensor:
    """Return draws of the standard q-Gaussian as a deterministic function of uniform noise.

    q = 0, 1, 2 invert the distribution function; any other q uses the generalised Box-Muller transform, with
    the index (1 + q)/(3 - q) and its logarithm in double precision. (The sine twin of that transform is not
    independent of the cosine one unless q = 1, so it is never used.)

    In float32 the noise has a resolution of 2^-24: no |z| above 5.4 (q = 1) or 1.1e7 (q = 2) is ever drawn.
    Bounded distributions stay strictly inside their support. The heaviest tails (q above 2.4, in float64
    above 2.8) are held at |z| = 1e18 (float64: 1e150), so that the square of a draw is finite.

    Args:
        u: ``[..., n_uniforms(q)]``, uniform on [0, 1).
        q: the index, below 3.

    Returns:
        ``[...]``, without gradient with respect to q.

    Raises:
        UserError: q is not a finite number below 3, or the last axis of u is not ``n_uniforms(q)``.
    """
    columns = n_uniforms(q)
    if u.shape[-1:] != (columns,):
        raise UserError(
            f"Noise for q = {q:g} needs a last axis of length {columns}, got shape {tuple(u.shape)}."
        )
    if columns == 2:
        z = polar_draw(u, (3.0 - q) / (q - 1.0))
        if q > 1.0:
            return z
        edge = support_radius(q) * (1.0 - 4.0 * torch.finfo(u.dtype).eps)
        return z.clamp(-edge, edge)
    v = centred(u[..., 0])
    if q == 0.0:
        return torch.asin(2.0 * v).div(3.0).sin() * (2.0 * math.sqrt(3.0))
    tail = 0.5 - v.abs()  # exact, and never 0
    if q == 1.0:
        return torch.copysign(torch.special.ndtri(tail), v)
    return torch.sin(math.pi * v) / torch.sin(math.pi * tail)  # tan(pi v) without its pole


def standard_log_prob(z: Tensor, q: float, log_scale: Tensor | float = 0.0) -> Tensor:
    """Return the log-density of the standard q-Gaussian at z, less ``log_scale``.

    It is exactly -inf, with zero gradient by z and by log_scale, outside the support.

    Raises:
        UserError: q is not a finite number below 3.
    """
    shape = _shape(q)
    log_norm = shape.log_norm + log_scale
    if shape.q == 1.0:
        return -0.5 * z * z - log_norm
    y = z * z * -shape.curvature
    if shape.q > 1.0:
        return torch.log1p(y) * -shape.power - log_norm
    outside = y <= -1.0  # this way round, so that NaN stays NaN
    density = torch.log1p(torch.where(outside, 0.0, y)) * shape.power - log_norm
    return torch.where(outside, -math.inf, density)


class _Cdf(torch.autograd.Function):
    """Distribution function of the standard distribution; its derivative is the density."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, q: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.q = q
        if q == 0.0:
            w = (z / math.sqrt(3.0)).clamp(-1.0, 1.0)
            return (1.0 + w).square() * (2.0 - w) / 4.0
        if q == 1.0:
            return 0.5 * torch.erfc(z * -math.sqrt(0.5))  # torch.special.ndtr cancels in the lower tail
        if q == 2.0:
            return torch.atan2(torch.ones_like(z), -z) / math.pi
        if q < 1.0:
            return special.arch_cdf(z / support_radius(q), _shape(q).power)
        return special.t_cdf(z, (3.0 - q) / (q - 1.0))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return grads[0] * standard_log_prob(z, ctx.q).exp(), None


def standard_cdf(z: Tensor, q: float) -> Tensor:
    """Return the distribution function of the standard q-Gaussian at z, accurate in the lower tail."""
    return cast(Tensor, _Cdf.apply(z, q))  # type: ignore[no-untyped-call]


class _Icdf(torch.autograd.Function):
    """Quantile of the standard distribution; its derivative is one over the density at the quantile."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: float) -> Tensor:
        ctx.q = q
        z = _quantile(p, q)
        ctx.save_for_backward(z)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        log_density = standard_log_prob(z, ctx.q)
        inside = log_density > -math.inf  # the derivative is infinite at p = 0 and 1: report 0 there, not NaN
        return torch.where(inside, grads[0] * torch.where(inside, -log_density, 0.0).exp(), 0.0), None


def standard_icdf(p: Tensor, q: float) -> Tensor:
    """Return the quantile of the standard q-Gaussian at p; NaN for p outside [0, 1]."""
    return cast(Tensor, _Icdf.apply(p, q))  # type: ignore[no-untyped-call]


def _quantile(p: Tensor, q: float) -> Tensor:
    if q not in (0.0, 1.0, 2.0):
        if q < 1.0:
            return special.arch_icdf(p, _shape(q).power) * support_radius(q)
        return special.t_icdf(p, (3.0 - q) / (q - 1.0))
    tail = torch.minimum(p, 1.0 - p)  # the smaller of the two tails keeps its digits
    if q == 0.0:
        size = torch.sin((math.pi / 2.0 - 2.0 * torch.asin(tail.sqrt())) / 3.0) * (2.0 * math.sqrt(3.0))
    elif q == 1.0:
        size = -torch.special.ndtri(tail)
    else:
        size = torch.cos(math.pi * tail) / torch.sin(math.pi * tail)
    size = torch.where(tail >= 0.0, size, math.nan)
    return torch.copysign(size, p - 0.5)


class QGaussian(Univariate):
    """The q-Gaussian distribution with location, scale and a fixed index q < 3, batched.

    ``log_prob`` is exactly -inf outside the support, ``cdf`` exactly 0 or 1; gradients are finite wherever
    the density is positive and zero outside. In float32 squares overflow for |z| above 1.8e19.

    For q < 1 a draw can be rounded on to the edge of its support, where the density is 0. A loss that needs
    the log-density of its own draws takes it from :meth:`rsample_with_log_prob`, which is finite.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  as in torch

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, q: float, validate_args: bool | None = None
    ) -> None:
        """Build the distribution.

        Args:
            loc: the mode and centre of symmetry, any shape that broadcasts against ``scale``.
            scale: above 0.
            q: the index, a number below 3, the same for the whole batch.
            validate_args: as in torch; False skips all checks of tensors.

        Raises:
            UserError: q is not below 3; with checks on, loc or scale is not finite or scale is not positive.
        """
        self._shape = _shape(q)
        self.q = self._shape.q
        self.n_uniforms = n_uniforms(self.q)
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args)
        if self._validate_args:
            self._refuse_unless(self.scale > 0.0, "scale", "above 0")

    @property
    def radius(self) -> float:
        """R_q: the support is loc +- radius * scale; infinite for q >= 1."""
        return support_radius(self.q)

    @property
    def support(self) -> constraints.Constraint:
        """The open interval loc +- radius * scale for q < 1, the real line otherwise."""
        if self.q >= 1.0:
            return constraints.real
        reach = self.radius * self.scale
        return constraints.interval(self.loc - reach, self.loc + reach)

    @property
    def mode(self) -> Tensor:
        """The location."""
        return self.loc

    @property
    def mean(self) -> Tensor:
        """The location for q < 2; NaN otherwise, where the mean does not exist."""
        return self.loc if self.q < 2.0 else torch.full_like(self.loc, math.nan)

    @property
    def variance(self) -> Tensor:
        """scale^2 (3-q)/(5-3q) for q < 5/3, infinite for 5/3 <= q < 2, undefined (NaN) for q >= 2."""
        if self.q >= 2.0:
            return torch.full_like(self.scale, math.nan)
        if 5.0 - 3.0 * self.q <= 0.0:
            return torch.full_like(self.scale, math.inf)
        return self.scale.square() * ((3.0 - self.q) / (5.0 - 3.0 * self.q))

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats: ln(scale Z_q) + 1/|1-q| [psi(b + 1/2) - psi(b)]."""
        shape = self._shape
        spread = 0.5 if shape.q == 1.0 else shape.power * special.digamma_half_step(shape.half)
        return self.scale.log() + (shape.log_norm + spread)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at ``value``, which broadcasts against ``batch_shape``."""
        self._check_value(value)
        return standard_log_prob((value - self.loc) / self.scale, self.q, self.scale.log())

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value), accurate in the lower tail."""
        self._check_value(value)
        return standard_cdf((value - self.loc) / self.scale, self.q)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value), accurate in the upper tail."""
        self._check_value(value)
        return standard_cdf((self.loc - value) / self.scale, self.q)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the quantile at probability ``p``; NaN for p outside [0, 1]."""
        return self.loc + self.scale * standard_icdf(p, self.q)

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return loc + scale * z with z from :func:`from_uniform`; see the base class."""
        return torch.addcmul(self.loc, self.scale, from_uniform(u, self.q))

    def rsample_with_log_prob(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and their log-density, the latter as a function of the noise.

        Its total derivative with respect to loc is exactly 0, and with respect to ln(scale) exactly -1.
        """
        z = from_uniform(u, self.q)
        return torch.addcmul(self.loc, self.scale, z), standard_log_prob(z, self.q, self.scale.log())
