"""State-space model of how recorded patients respond to doses, and the belief about a patient's level.

Every marker (observed quantity) i has a latent level x_i that the dose a moves; what is seen is noisy:

    x'_i = f_i(x, a) + N(0, q_i),      y_i = x_i + N(0, r_i),      x_0i ~ N(mu_i, p_i)
    g_i  = alpha_i x_i + b_i . a + c_i + sum_h V_hi tanh(U_h . x + W_h . a + d_h),      0 < alpha_i < 1.1

    linear      f_i = g_i, held between the ends of the recorded beliefs;     V = 0
    saturating  f_i = C_i tanh(g_i / C_i);                                    V = 0
    network     f_i = C_i tanh(g_i / C_i), every marker may act on every other

The belief is the mean and the variance of a Gaussian second-order filter (Athans, Wishner, Bertolini 1968,
IEEE TAC 13:504; Jazwinski 1970, "Stochastic processes and filtering theory", chapter 9), which is exact where
f is linear:

    e = y - b,  S = p + r,  K = p / S,   b <- b + K e,   p <- (1 - K) p          at a visit
    b <- f(b, a) + H p / 2,   p <- J^2 p + (H p)^2 / 2 + q                       from visit to visit
                              J = df/dx,  H = d2f/dx2 at b
    ln L = - 1/2 sum (ln 2 pi S + e^2 / S)                          (Schweppe 1965, IEEE TAC 11:61)

A level that saturates bends towards 0, by more the less is known of it: without H its mean is forecast too
far out, and a fit makes up for it by a smaller alpha. alpha may be a little above 1: a saturating level stays
bounded.

Mean-field, J and p are diagonals: that is all there is for the first two families, where no marker acts on
another. Coupled models leave H out (extended Kalman filter). With the full covariance p <- J p J' + q, and
the markers of a visit are taken in one after the other, which is exact as their noise is independent. A level
that is held keeps the slope J that it has without the ends of its range: a belief at an end is not certain.
A marker that is not recorded (NaN) is passed over. Nothing here knows a simulator.

K models stand on the leading axis of every tensor; none of them sees another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Family = Literal["linear", "saturating", "network"]

FULL_COVARIANCE = 3
"""Most markers of which a coupled model keeps the full covariance."""
FAR = 1e6
"""End of the range of a level that is not held."""
STRAIGHT = 1e4
"""Saturation level of a linear family: C tanh(g / C) is g to the last digit of float32."""
MOST_PULL = 1.1
"""End of the range of alpha, the slope of a level in the one before."""
LOG_TWO_PI = math.log(2.0 * math.pi)
LOG_LEVEL = (-20.0, 20.0)
"""Range of a saturation level's logarithm, in standard deviations of the recorded visits."""
LOG_VARIANCE = (-12.0, 8.0)
"""Range of a variance's logarithm, in squared standard deviations of the recorded visits."""


class Sizes(NamedTuple):
    """Markers O, dose dimensions A and hidden units H of the coupled part (0: none)."""

    n_obs: int
    n_act: int
    hidden: int = 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters behind the leading axis, in the order in which they are packed."""
        o, a, h = self
        per_marker = (
            "pull",
            "offset",
            "log_level",
            "start",
            "log_start_variance",
            "log_noise",
            "log_process",
        )
        shapes: dict[str, tuple[int, ...]] = {name: (o,) for name in (*per_marker, "low", "high")}
        shapes |= {"dose": (o, a)}
        if h:
            shapes |= {
                "hidden_obs": (o, h),
                "hidden_act": (a, h),
                "hidden_bias": (1, h),
                "hidden_out": (h, o),
            }
        return shapes


class Belief(NamedTuple):
    """What is known of B levels: ``mean [K, B, O]``, ``variance [K, B, O]``, or ``[K, B, O, O]`` in full."""

    mean: Tensor
    variance: Tensor

    @property
    def diagonal(self) -> Tensor:
        """Variance of every marker, ``[K, B, O]``."""
        return self.variance if self.variance.dim() == 3 else self.variance.diagonal(dim1=-2, dim2=-1)


class Innovation(NamedTuple):
    """How a visit differed from its forecast, ``[K, B, O]`` each; ``error`` is 0 where none was recorded."""

    error: Tensor
    variance: Tensor
    recorded: Tensor
    log_likelihood: Tensor
    """Of the visit, ``[K, B]``."""


@dataclass(frozen=True)
class ResponseModel:
    """K response models.

    Attributes:
        parameters: by name, ``[K, ...]`` with the shapes of :meth:`Sizes.shapes`.
        full: keep the full covariance of a belief instead of its diagonal.
        held: whether levels are held between ``low`` and ``high``; while fitting they are not.
        complete: every marker of every visit it will see is recorded, so that none need be looked for.
    """

    parameters: Mapping[str, Tensor]
    full: bool = False
    held: bool = True
    complete: bool = False

    @classmethod
    def blank(cls, sizes: Sizes, count: int, like: Tensor | None = None) -> ResponseModel:
        """``count`` models before any data: standard levels and noise, no response to doses."""
        like = torch.zeros(()) if like is None else like
        fixed = {"pull": 2.0, "log_level": 0.3, "log_start_variance": -1.0, "log_noise": -0.5}
        fixed |= {"log_process": -8.0, "low": -FAR, "high": FAR}
        return cls(
            {
                name: torch.full((count, *shape), fixed.get(name, 0.0), dtype=like.dtype, device=like.device)
                for name, shape in sizes.shapes().items()
            }
        )

    @property
    def count(self) -> int:
        """K."""
        return len(self.parameters["pull"])

    @property
    def coupled(self) -> bool:
        """Whether the models have hidden units through which markers act on each other."""
        return "hidden_out" in self.parameters

    def select(self, index: Tensor) -> ResponseModel:
        """Some of the models, or the same one several times: ``index [L]``."""
        return replace(self, parameters={name: p[index] for name, p in self.parameters.items()})

    def pack(self) -> Tensor:
        """All parameters in one tensor ``[K, P]``; the inverse of :func:`unpack`."""
        return torch.cat([p.flatten(1) for p in self.parameters.values()], 1)

    def _row(self, name: str) -> Tensor:
        """A parameter ``[K, 1, ...]``, ready to meet B patients."""
        return self.parameters[name].unsqueeze(1)

    def _variance(self, name: str) -> Tensor:
        return self._row(name).clamp(*LOG_VARIANCE).exp()

    @cached_property
    def noise(self) -> Tensor:
        """Variance r of what is seen around the level, ``[K, 1, O]``."""
        return self._variance("log_noise")

    @cached_property
    def process(self) -> Tensor:
        """Variance q of the level from visit to visit, ``[K, 1, O]``."""
        return self._variance("log_process")

    @cached_property
    def start_variance(self) -> Tensor:
        """Variance of the level before the first visit, ``[K, 1, O]``."""
        return self._variance("log_start_variance")

    @cached_property
    def pull(self) -> Tensor:
        """Slope alpha of a level in the one before, ``[K, 1, O]``."""
        return MOST_PULL * torch.sigmoid(self._row("pull"))

    @cached_property
    def ceiling(self) -> Tensor:
        """C, where a level saturates, ``[K, 1, O]``."""
        return self._row("log_level").clamp(*LOG_LEVEL).exp()

    @cached_property
    def offset(self) -> Tensor:
        """c, ``[K, 1, O]``."""
        return self._row("offset")

    @cached_property
    def _dose(self) -> Tensor:
        return self.parameters["dose"].mT.contiguous()

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest level where levels are held, ``[K, 1, O]`` each."""
        return self._row("low"), self._row("high")

    def _within(self, level: Tensor) -> Tensor:
        if not self.held:
            return level
        return level.clamp(*self.ends)

    def move(self, level: Tensor, act: Tensor) -> Tensor:
        """Levels ``[K, B, O]`` after doses ``act [K, B, A]``, without process noise."""
        raw = self._drive(level, act)[0]
        return self._within(self.ceiling * torch.tanh(raw / self.ceiling))

    def _drive(self, level: Tensor, act: Tensor) -> tuple[Tensor, Tensor | None]:
        """G of the module docstring ``[K, B, O]``, and the hidden units ``[K, B, H]`` behind it."""
        push = act * self._dose if act.shape[-1] == 1 else act @ self._dose
        raw = torch.addcmul(push + self.offset, self.pull, level)
        if not self.coupled:
            return raw, None
        p = self.parameters
        hidden = torch.tanh(level @ p["hidden_obs"] + act @ p["hidden_act"] + p["hidden_bias"])
        return raw + hidden @ p["hidden_out"], hidden

    def _coupled_slope(self, level: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """The next level and its slope: the Jacobian's diagonal ``[K, B, O]``, in full ``[K, B, O, O]``."""
        p, pull = self.parameters, self.pull
        raw, hidden = self._drive(level, act)
        ratio = torch.tanh(raw / self.ceiling)
        moved, outer = self._within(self.ceiling * ratio), 1.0 - ratio * ratio
        if hidden is None:
            return moved, torch.diag_embed(outer * pull)
        inner = 1.0 - hidden * hidden  # [K, B, H]
        if not self.full:
            return moved, outer * (pull + inner @ (p["hidden_obs"].mT * p["hidden_out"]))
        out, back = (
            p["hidden_out"].mT.unsqueeze(1),
            p["hidden_obs"].mT.unsqueeze(1),
        )  # [K, 1, O, H], [K, 1, H, O]
        coupled = (out * inner.unsqueeze(-2)) @ back
        return moved, outer.unsqueeze(-1) * (torch.diag_embed(pull.expand_as(level)) + coupled)

    def prior(self, patients: int) -> Belief:
        """The belief ``[K, B, O]`` about B patients before their first visit."""
        mean = self._row("start").expand(-1, patients, -1)
        variance = self.start_variance.expand(-1, patients, -1)
        return Belief(mean, torch.diag_embed(variance) if self.full else variance)

    def correct(self, belief: Belief, obs: Tensor) -> tuple[Belief, Innovation]:
        """Take in the visit ``obs [K, B, O]``, NaN where a marker was not recorded."""
        if self.complete and not self.full:
            total = belief.variance + self.noise
            error = obs - belief.mean
            gain = belief.variance / total
            surprise = total.log() + error * error / total
            corrected = Belief(torch.addcmul(belief.mean, gain, error), belief.variance * (1.0 - gain))
            likelihood = -0.5 * (surprise.sum(-1) + LOG_TWO_PI * obs.shape[-1])
            return corrected, Innovation(error, total, torch.ones_like(obs, dtype=torch.bool), likelihood)
        recorded = obs.isfinite()
        seen = torch.where(recorded, obs, 0.0)
        if self.full:
            return self._correct_in_turn(belief, seen, recorded)
        total = belief.variance + self.noise
        error = torch.where(recorded, seen - belief.mean, 0.0)
        gain = torch.where(recorded, belief.variance / total, 0.0)
        surprise = torch.where(recorded, LOG_TWO_PI + total.log() + error * error / total, 0.0)
        corrected = Belief(belief.mean + gain * error, belief.variance * (1.0 - gain))
        return corrected, Innovation(error, total, recorded, -0.5 * surprise.sum(-1))

    def _correct_in_turn(self, belief: Belief, seen: Tensor, recorded: Tensor) -> tuple[Belief, Innovation]:
        """One marker after the other, with the full covariance; innovations are those given earlier ones."""
        mean, covariance = belief
        noise = self.noise
        errors, totals, surprises = [], [], []
        for i in range(seen.shape[-1]):
            known = recorded[..., i]
            column = covariance[..., i]  # [K, B, O]
            total = column[..., i] + noise[..., i]
            error = torch.where(known, seen[..., i] - mean[..., i], 0.0)
            gain = torch.where(known.unsqueeze(-1), column / total.unsqueeze(-1), 0.0)
            mean = mean + gain * error.unsqueeze(-1)
            covariance = covariance - gain.unsqueeze(-1) * column.unsqueeze(-2)
            surprises.append(torch.where(known, LOG_TWO_PI + total.log() + error * error / total, 0.0))
            errors.append(error)
            totals.append(total)
        log_likelihood = -0.5 * torch.stack(surprises, -1).sum(-1)
        innovation = Innovation(torch.stack(errors, -1), torch.stack(totals, -1), recorded, log_likelihood)
        return Belief(mean, covariance), innovation

    def predict(self, belief: Belief, act: Tensor) -> Belief:
        """The belief at the next visit, before it, after doses ``act [K, B, A]``."""
        if self.coupled or self.full:
            mean, slope = self._coupled_slope(belief.mean, act)
            if self.full:
                return Belief(mean, slope @ belief.variance @ slope.mT + torch.diag_embed(self.process))
            return Belief(mean, slope * slope * belief.variance + self.process)
        ratio = torch.tanh(self._drive(belief.mean, act)[0] / self.ceiling)
        slope = self.pull * (1.0 - ratio * ratio)
        half_bend = ratio * slope * belief.variance * -(self.pull / self.ceiling)
        mean = self._within(torch.addcmul(half_bend, self.ceiling, ratio))
        variance = torch.addcmul(self.process, slope * slope, belief.variance)
        return Belief(mean, torch.addcmul(variance, half_bend, half_bend, value=2.0))

    def forecast(self, belief: Belief, act: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance ``[K, B, V, O]`` of what is seen at the V visits after a belief.

        Args:
            belief: after the visit at hand.
            act: ``[K, B, V, A]`` doses at it and at the V - 1 visits after it.
        """
        means, variances = [], []
        for dose in act.unbind(2):
            belief = self.predict(belief, dose)
            means.append(belief.mean)
            variances.append(belief.diagonal + self.noise)
        return torch.stack(means, 2), torch.stack(variances, 2)

    def filter(self, obs: Tensor, act: Tensor) -> tuple[list[Belief], list[Innovation]]:
        """Beliefs after every visit of recorded patients, and how every visit differed from its forecast.

        Args:
            obs: ``[K, B, V, O]``, NaN where nothing was recorded.
            act: ``[K, B, V - 1, A]`` or more; the dose after the last visit has no say.
        """
        belief, beliefs, innovations = self.prior(obs.shape[1]), [], []
        for visit in range(obs.shape[2]):
            if visit > 0:
                belief = self.predict(belief, act[:, :, visit - 1])
            belief, innovation = self.correct(belief, obs[:, :, visit])
            beliefs.append(belief)
            innovations.append(innovation)
        return beliefs, innovations

    def log_likelihood(self, obs: Tensor, act: Tensor) -> Tensor:
        """Log-likelihood ``[K, B]`` of whole patients; arguments as for :meth:`filter`."""
        belief, total = self.prior(obs.shape[1]), obs.new_zeros(obs.shape[:2])
        for visit in range(obs.shape[2]):
            if visit > 0:
                belief = self.predict(belief, act[:, :, visit - 1])
            belief, innovation = self.correct(belief, obs[:, :, visit])
            total = total + innovation.log_likelihood
        return total

    @torch.no_grad()
    def hold(self, obs: Tensor, act: Tensor, which: Tensor, share: float = 0.005) -> ResponseModel:
        """Hold the levels of the models ``which [K]`` between quantiles of the recorded beliefs.

        Args:
            obs: ``[K, B, V, O]``.
            act: ``[K, B, V - 1, A]``.
            which: True where to hold, such as for linear models, whose levels nothing bounds.
            share: of the beliefs beyond either end.
        """
        beliefs, _ = self.filter(obs, act)
        means = torch.stack([b.mean for b in beliefs], 2).flatten(1, 2)  # [K, B V, O]
        at = max(1, round(share * means.shape[1]))
        low, high = means.kthvalue(at, 1).values, means.kthvalue(means.shape[1] - at + 1, 1).values
        far = torch.full_like(low, FAR)
        ends = {
            "low": torch.where(which[:, None], low, -far),
            "high": torch.where(which[:, None], high, far),
        }
        return replace(self, parameters={**self.parameters, **ends})


def unpack(packed: Tensor, sizes: Sizes) -> ResponseModel:
    """The models behind ``packed [K, P]``; see :meth:`ResponseModel.pack`."""
    shapes = sizes.shapes()
    parts = packed.split([math.prod(shape) for shape in shapes.values()], 1)
    full = sizes.hidden > 0 and sizes.n_obs <= FULL_COVARIANCE
    named = zip(shapes.items(), parts, strict=True)
    return ResponseModel({name: part.unflatten(1, shape) for (name, shape), part in named}, full)
