"""Target policies: what off-policy evaluation has to know of a policy, for every seed of its stack.

A policy is evaluated as deployed. Either it gives its recommended dose, a number that has no density; or it
draws the dose from its distribution, and a draw beyond a hard limit is delivered at the limit. Expectations
over a distribution are taken by Gauss-Legendre quadrature in probability, E f(a) = int_0^1 f(F^-1(u)) du,
which holds for bounded, heavy-tailed and clipped distributions alike. For importance weights the point at the
recommended dose is replaced by a density of half-width h around it, the Epanechnikov kernel (the q-Gaussian
with q = 0), cut at the hard limits: Kallus, Zhou 2018, arXiv 1802.06037. That evaluates another, smoothed
policy; the bandwidth is stated beside the number.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dosing.data.dataset import Transform
from dosing.distributions.double import in_double
from dosing.errors import UserError
from dosing.evaluation.rules import following
from dosing.ope.trajectories import Trajectories
from dosing.policy import DosePolicy
from dosing.safety import DoseLimits
from dosing.types import Act, Array, Listener

QUADRATURE = 32
"""Nodes over which the expectation over a distribution is taken."""


class Target(Protocol):
    """A stationary policy of S stacked seeds with doses on the [-1, 1] axis."""

    description: str
    """What is evaluated, in words."""

    def nodes(self, obs: Array) -> tuple[Array, Array]:
        """Doses ``[K, S, B, A]`` at ``obs [B, O]`` and their probabilities ``[K]``."""

    def density(self, obs: Array, act: Array) -> Array:
        """Density ``[S, B]`` of the doses ``[B, A]`` at ``obs [B, O]``, per unit of the [-1, 1] axis."""

    def off_support(self, obs: Array) -> Array:
        """Probability ``[S, B]`` of a dose exactly at a hard limit, which :meth:`density` leaves out."""


class RecommendedDose:
    """The policy that gives one dose in each state.

    Args:
        act: the rule; it may not depend on the visit.
        transform: maps its doses to the [-1, 1] axis.
        bandwidth: half-width h of the kernel of :meth:`density`, on the [-1, 1] axis.

    Raises:
        UserError: the bandwidth is not positive.
    """

    def __init__(self, act: Act, transform: Transform, bandwidth: float = 0.2) -> None:
        if not bandwidth > 0:
            raise UserError(f"the bandwidth must be above 0, got {bandwidth}.")
        self._act, self._transform, self.bandwidth = act, transform, bandwidth
        self._limits = DoseLimits(transform.act_low, transform.act_high)
        self.description = f"recommended dose; importance weights smooth it with half-width {bandwidth:g}"

    def nodes(self, obs: Array) -> tuple[Array, Array]:
        """The delivered dose, with probability 1.

        Raises:
            UserError: the rule depends on the visit, as one does that draws its doses.
        """
        seen = np.asarray(obs, dtype=np.float32)[None]
        dose = self._act(seen, 0)
        if not np.array_equal(dose, self._act(seen, 1)):
            raise UserError(
                "the policy gives another dose in the same state at another visit; off-policy evaluation "
                "takes rules of the state alone, and a policy that draws its doses by its distribution."
            )
        delivered = self._limits.deliver(dose)[0].astype(np.float64)
        return self._transform.to_unit(delivered)[None], np.ones(1)

    def density(self, obs: Array, act: Array) -> Array:
        """Product over dose dimensions of (3/4h)(1 - ((a - m)/h)^2)_+ over its mass within [-1, 1]."""
        mode, h = self.nodes(obs)[0][0], self.bandwidth
        kernel = 0.75 / h * np.maximum(1.0 - ((act - mode) / h) ** 2, 0.0)
        inside = _kernel_cdf((1.0 - mode) / h) - _kernel_cdf((-1.0 - mode) / h)
        density: Array = (kernel / inside).prod(-1)
        return density

    def off_support(self, obs: Array) -> Array:
        """0.0: the kernel is cut at the limits."""
        return np.zeros(self.nodes(obs)[0].shape[1:3])


def _kernel_cdf(x: Array) -> Array:
    """Distribution function of the Epanechnikov kernel on [-1, 1]."""
    x = np.clip(x, -1.0, 1.0)
    return 0.5 + 0.75 * x - 0.25 * x**3


class SampledDose:
    """The policy that draws the dose from its distribution, for one dose dimension.

    Args:
        policy: the trained stack.
        transform: that of the recorded patients; its hard limits must be those of the policy.

    Raises:
        UserError: other limits, or more than one dose dimension.
    """

    description = "dose drawn from the distribution, delivered within the limits"

    def __init__(self, policy: DosePolicy, transform: Transform) -> None:
        own = policy.transform
        if (own.act_low, own.act_high) != (transform.act_low, transform.act_high):
            raise UserError(
                f"the policy was trained for doses from {list(own.act_low)} to {list(own.act_high)}, the "
                f"data have {list(transform.act_low)} to {list(transform.act_high)}."
            )
        if len(own.act_low) != 1:
            raise UserError(
                "a sampled dose is evaluated for one dose dimension; evaluate the recommended one."
            )
        self._policy = policy

    def _distribution(self, obs: Array) -> torch.distributions.Distribution:
        """Per-dimension distribution ``[S, B, A]`` in double precision."""
        seen = np.asarray(obs, dtype=np.float32)
        distribution: torch.distributions.Distribution = in_double(
            self._policy.distribution(np.broadcast_to(seen, (len(self._policy.seeds), *seen.shape)))
        )
        return distribution

    def nodes(self, obs: Array) -> tuple[Array, Array]:
        """Quantiles at the Gauss-Legendre nodes of (0, 1), delivered within the limits."""
        x, w = np.polynomial.legendre.leggauss(QUADRATURE)
        u = torch.as_tensor(0.5 * (x + 1.0))[:, None, None, None]
        distribution = self._distribution(obs)
        quantiles = distribution.icdf(u.expand(-1, *distribution.batch_shape))
        return np.clip(quantiles.numpy(), -1.0, 1.0), 0.5 * w

    def density(self, obs: Array, act: Array) -> Array:
        """Density at recorded doses between the limits; exactly 0 outside a bounded support.

        Raises:
            UserError: the distribution has no density, or a recorded dose is at a limit, where the
                distribution may have an atom.
        """
        distribution = self._distribution(obs)
        if not getattr(distribution, "has_density", True):
            raise UserError(
                "a deterministic policy has no density to draw from; evaluate its recommended dose."
            )
        if (np.abs(act) >= 1.0).any():
            raise UserError(
                "a recorded dose is exactly at a hard limit, where a clipped distribution has a "
                "probability and no "
                "density; use fitted Q evaluation alone."
            )
        log_density = distribution.log_prob(torch.as_tensor(act).expand(distribution.batch_shape))
        density: Array = log_density.exp().numpy()[..., 0]
        return density

    def off_support(self, obs: Array) -> Array:
        """Probability at or beyond the limits, where draws are delivered at the limit."""
        distribution = self._distribution(obs)
        one = torch.ones(distribution.batch_shape, dtype=torch.float64)
        mass: Array = (distribution.cdf(-one) + distribution.sf(one)).numpy()[..., 0]  # type: ignore[attr-defined]
        return mass


def target(policy: Act | DosePolicy, transform: Transform, *, sampled: bool, bandwidth: float) -> Target:
    """The target policy of a rule or of a trained stack.

    Args:
        policy: an act function, or a trained stack.
        transform: that of the recorded patients.
        sampled: evaluate a trained stack by draws from its distribution; a rule has none and gives its dose.
        bandwidth: see :class:`RecommendedDose`.

    Raises:
        UserError: the policy depends on more than the state; see also the two classes.
    """
    if isinstance(policy, DosePolicy):
        if policy.looks_back:
            raise UserError(
                "the policy looks back on the episode before a visit; off-policy evaluation takes "
                "policies of "
                "the state alone."
            )
        if sampled and policy.has_density(np.asarray(transform.obs_mean, dtype=np.float32)):
            return SampledDose(policy, transform)
        rule = policy

        def act(obs: NDArray[np.float32], visit: int) -> Array:
            return rule.recommended(np.broadcast_to(obs, (len(rule.seeds), *obs.shape[1:])))

        return RecommendedDose(act, transform, bandwidth)
    return RecommendedDose(policy, transform, bandwidth)


def dose_moments(policy: Target, obs: Array) -> tuple[Array, Array]:
    """First and second progress ``[S, B, A]`` of the dose at ``obs [B, O]``."""
    doses, weights = policy.nodes(obs)
    first: Array = np.tensordot(weights, doses, 1)
    second: Array = np.tensordot(weights, doses**2, 1)
    return first, second


def looks_back(policy: Act | DosePolicy) -> bool:
    """Whether a policy is a trained stack whose dose depends on the episode before a visit."""
    return isinstance(policy, DosePolicy) and policy.looks_back


def doses_after(policy: DosePolicy, data: Trajectories, visits: int) -> tuple[Array, Array]:
    """States ``[B, O]`` of recorded visits and the doses ``[S, B, A]`` recommended after the episode so far.

    Args:
        policy: a trained stack, which may look back.
        data: the patients, who were given their recorded doses at the visits before.
        visits: most visits that are looked at; whole patients, evenly spaced.
    """
    some = max(1, min(data.patients, visits // data.visits))
    rows = np.unique(np.linspace(0, data.patients - 1, some).astype(np.int64))
    obs, seeds = data.obs[rows].astype(np.float32), len(policy.seeds)
    given, reward = data.transform.to_dose(data.act[rows]), data.reward[rows]
    rule, doses = following(policy), []
    for visit in range(data.visits):
        dose = rule(np.broadcast_to(obs[:, visit], (seeds, *obs[:, visit].shape)), visit)
        doses.append(np.clip(data.transform.to_unit(dose), -1.0, 1.0))
        if isinstance(rule, Listener):
            heard = (np.broadcast_to(x[:, visit], (seeds, *x[:, visit].shape)) for x in (given, reward))
            rule.observe(*heard)
    recorded = data.recorded[rows] > 0
    return data.obs[rows][recorded], np.stack(doses, 2)[:, recorded]
