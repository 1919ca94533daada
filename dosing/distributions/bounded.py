"""Normal distributions made to fit a bounded interval of doses: squashed by tanh, or truncated.

Sources: Haarnoja et al. 2018, arXiv 1812.05905, appendix C (squashed normal); Johnson, Kotz, Balakrishnan
1994, Continuous Univariate Distributions 1, 10.1 (truncated normal); Chou, Maturana, Scherer 2017, ICML (Beta
policies).
"""

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from dosing.distributions.q_gaussian import from_uniform, standard_cdf, standard_icdf, standard_log_prob
from dosing.distributions.univariate import Univariate, centred, interval, limits, strictly_inside


class TanhNormal(Univariate):
    """The distribution of tanh(X) with X normal: a squashed Gaussian, on the open interval (-1, 1).

    Draws that round to -1 or 1 are moved to the nearest number inside. No closed form of the entropy or of
    the mean is known; the entropy is a sum. A dose of exactly -1 or 1 has density 0: whoever fits this
    distribution to such data moves them inside first.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  as in torch
    fills_box = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        """Build the distribution of tanh(X), X normal with mean ``loc`` and standard deviation ``scale``.

        Raises:
            UserError: with checks on, loc or scale is not finite or scale is not positive.
        """
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args)
        if self._validate_args:
            self._refuse_unless(self.scale > 0.0, "scale", "above 0")

    @property
    def support(self) -> constraints.Constraint:
        """The interval from -1 to 1, ends excluded."""
        return interval(-1.0, 1.0, self.loc)

    @property
    def mode(self) -> Tensor:
        """tanh(loc): the squashed mode of X and the median; the density itself may have two maxima."""
        return torch.tanh(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at ``value``; -inf outside (-1, 1)."""
        self._check_value(value)
        outside = value.abs() >= 1.0
        safe = torch.where(outside, 0.0, value)
        above, below = (
            torch.log1p(safe),
            torch.log1p(-safe),
        )  # atanh = (above - below)/2, log(1-a^2) = their sum
        z = (0.5 * (above - below) - self.loc) / self.scale
        density = standard_log_prob(z, 1.0, self.scale.log()) - (above + below)
        return torch.where(outside, -math.inf, density)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value)."""
        return standard_cdf(self._latent(value), 1.0)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value)."""
        return standard_cdf(-self._latent(value), 1.0)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the quantile at probability ``p``; NaN for p outside [0, 1]."""
        z = standard_icdf(p, 1.0)
        end = z.isinf()  # p = 0 or 1
        return torch.where(
            end, z.detach().sign(), torch.tanh(self.loc + self.scale * torch.where(end, 0.0, z))
        )

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return draws from noise ``[..., 1]``; see the base class."""
        return self.rsample_with_log_prob(u)[0]

    def rsample_with_log_prob(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and their log-density, computed before squashing: finite where tanh rounds to 1."""
        z = from_uniform(u, 1.0)
        x = torch.addcmul(self.loc, self.scale, z)
        log_slope = 2.0 * (math.log(2.0) - x - torch.nn.functional.softplus(-2.0 * x))
        least, most = strictly_inside(-1.0, 1.0, x.dtype)
        return torch.tanh(x).clamp(least, most), standard_log_prob(z, 1.0, self.scale.log()) - log_slope

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats: that of X and E ln(1 - tanh^2 X), by the trapezoid rule.

        Its error falls like exp(-pi^2 / (scale * step)): far below 1e-9 up to a scale of 8.
        """
        z = torch.linspace(-9.0, 9.0, 361, dtype=torch.float64, device=self.loc.device)
        weights = torch.exp(-0.5 * z.square())
        x = self.loc.double().unsqueeze(-1) + self.scale.double().unsqueeze(-1) * z
        log_slope = 2.0 * (math.log(2.0) - x - torch.nn.functional.softplus(-2.0 * x))
        body = 0.5 * math.log(2.0 * math.pi * math.e) + self.scale.double().log()
        return (body + (log_slope * weights).sum(-1) / weights.sum()).to(self.loc.dtype)

    def _latent(self, value: Tensor) -> Tensor:
        """Return the standardised X at ``value``: -inf or inf, without gradient, beyond -1 or 1."""
        self._check_value(value)
        outside = value.abs() >= 1.0
        z = (torch.atanh(torch.where(outside, 0.0, value)) - self.loc) / self.scale
        return torch.where(outside, value.detach() * math.inf, z)


class TruncatedNormal(Univariate):
    """The normal distribution restricted to [low, high], with its peak inside: low <= loc <= high.

    With the peak inside, the normaliser is a sum of two positive terms and no tail is ever extrapolated.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  as in torch
    fills_box = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: float = -1.0,
        high: float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        """Build the distribution.

        Args:
            loc: the peak, in [low, high].
            scale: standard deviation before truncation, above 0.
            low: lower limit.
            high: upper limit.
            validate_args: as in torch; False skips all checks of tensors.

        Raises:
            UserError: low is not below high; with checks on, loc is outside [low, high] or scale not above 0.
        """
        self.low, self.high = limits(low, high)
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args)
        if self._validate_args:
            inside = (self.loc >= self.low) & (self.loc <= self.high)
            self._refuse_unless(inside, "loc", f"between the limits {self.low:g} and {self.high:g}")
            self._refuse_unless(self.scale > 0.0, "scale", "above 0")

    @property
    def support(self) -> constraints.Constraint:
        """The closed interval [low, high]."""
        return interval(self.low, self.high, self.loc)

    @property
    def mode(self) -> Tensor:
        """The location."""
        return self.loc

    @property
    def mean(self) -> Tensor:
        """The mean loc + scale (phi(a) - phi(b)) / mass, with a and b the standardised limits."""
        a, b, mass = self._standard_limits()
        return (self.loc + self.scale * (_phi(a) - _phi(b)) / mass).to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """scale^2 [1 + (a phi(a) - b phi(b)) / mass - ((phi(a) - phi(b)) / mass)^2]."""
        a, b, mass = self._standard_limits()
        shift = (_phi(a) - _phi(b)) / mass
        ratio = 1.0 + (a * _phi(a) - b * _phi(b)) / mass - shift.square()
        return (self.scale.square() * ratio).to(self.loc.dtype)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats."""
        a, b, mass = self._standard_limits()
        body = 0.5 * math.log(2.0 * math.pi * math.e) + (self.scale * mass).log()
        return (body + (a * _phi(a) - b * _phi(b)) / (2.0 * mass)).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at ``value``; -inf outside [low, high]."""
        self._check_value(value)
        outside = (value < self.low) | (value > self.high)
        z = (torch.where(outside, self.low, value) - self.loc) / self.scale
        root_half = math.sqrt(0.5) / self.scale
        twice_mass = torch.erf((self.high - self.loc) * root_half) + torch.erf(
            (self.loc - self.low) * root_half
        )
        density = standard_log_prob(z, 1.0, (0.5 * self.scale * twice_mass).log())
        return torch.where(outside, -math.inf, density)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value)."""
        self._check_value(value)
        a, _, mass = self._standard_limits()
        z = (value.clamp(self.low, self.high).double() - self.loc) / self.scale
        return (_normal_mass(a, z) / mass).to(self.loc.dtype)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value)."""
        self._check_value(value)
        _, b, mass = self._standard_limits()
        z = (value.clamp(self.low, self.high).double() - self.loc) / self.scale
        return (_normal_mass(-b, -z) / mass).to(self.loc.dtype)

    def icdf(self, p: Tensor) -> Tensor:
        """Return the quantile at probability ``p``; NaN for p outside [0, 1]."""
        inside = (p > 0.0) & (p < 1.0)
        ends = torch.where(p == 0.0, self.low, torch.where(p == 1.0, self.high, math.nan)).to(self.loc.dtype)
        return torch.where(inside, self._quantile(torch.where(inside, p, 0.5)), ends)

    def rsample_from(self, u: Tensor) -> Tensor:
        """Return draws from noise ``[..., 1]`` by inversion; see the base class."""
        return self._quantile(0.5 + centred(u[..., 0]).double())

    def _quantile(self, p: Tensor) -> Tensor:
        """Invert the distribution function for 0 < p < 1, through the smaller of the two normal tails."""
        a, b, mass = self._standard_limits()
        p = p.double()
        lower = _normal_cdf(a) + p * mass
        in_lower = lower < 0.5
        tail = torch.where(in_lower, lower, _normal_cdf(-b) + (1.0 - p) * mass)
        z = torch.special.ndtri(tail) * torch.where(in_lower, 1.0, -1.0)
        value: Tensor = self.loc + self.scale * z
        return value.to(self.loc.dtype).clamp(self.low, self.high)

    def _standard_limits(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (low - loc)/scale, (high - loc)/scale and the normal mass between them, all double."""
        a, b = (self.low - self.loc.double()) / self.scale, (self.high - self.loc.double()) / self.scale
        return a, b, 0.5 * (torch.erf(b * math.sqrt(0.5)) - torch.erf(a * math.sqrt(0.5)))


def _phi(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(z * -math.sqrt(0.5))


def _normal_mass(a: Tensor, z: Tensor) -> Tensor:
    """Return the normal mass from a to z, a <= 0: as a difference of tails in the tail, else of erf."""
    centre = 0.5 * (torch.erf(z * math.sqrt(0.5)) - torch.erf(a * math.sqrt(0.5)))
    return torch.where((a < -1.0) & (z < 0.0), _normal_cdf(z) - _normal_cdf(a), centre)
