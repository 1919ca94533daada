"""Behaviour policies: who gave the logged doses, with the density of each dose.

A policy proposes a dose from what it sees and says with what density it did so. Densities are per dose
unit, of the requested dose. A policy that gives one dose with certainty has no density and logs NaN, so
that importance weights built on it are refused instead of wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from dosing.errors import UserError
from dosing.safety import DoseLimits
from dosing.types import AnyArray, Array


@dataclass(frozen=True)
class View:
    """What a behaviour policy sees of N patients at one visit."""

    obs: NDArray[np.float32]
    """Observation as the learner sees it [N, O]."""
    marker: Array
    """The scenario's clinical marker from the measured state; NaN where it was not measured [N]."""
    covariate: NDArray[np.float32]
    """Hidden covariate that shifts a patient's log sensitivity by ``confounding``; the learner never sees
    it [N]."""
    last_dose: NDArray[np.float32] | None
    """Dose delivered at the visit before [N, A]; None at the first visit."""
    dice: Array
    """Independent uniforms on (0, 1) for this policy, [N, A + 1]."""
    low: Array
    """Lowest dose that would be delivered now, [A] or [N, A]."""
    high: Array
    """Highest dose that would be delivered now, [A] or [N, A]."""
    known: Mapping[str, AnyArray] = field(default_factory=dict)
    """What the clinician knows of each patient whether or not the learner is shown it, [N] each."""


Act = Callable[[View], tuple[Array, Array]]
"""One episode of treatment: maps what is seen to doses [N, A] and their log densities [N]."""


@dataclass(frozen=True)
class Clinic:
    """What a policy may know of the scenario before the first visit."""

    limits: DoseLimits
    marker_target: float
    """Value of the marker at which a titrating clinician leaves the dose alone."""
    marker_gain: float
    """Change of the dose per unit that the marker lies below its target."""
    first_dose: float
    """Dose with which titration starts."""
    confounding: float
    """Log sensitivity per unit of the covariate, known to the clinician."""


class BehaviourPolicy(ABC):
    """A named way of giving doses."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Text that ``parse_policy`` would read, stored with the data."""

    @abstractmethod
    def begin(self, clinic: Clinic, n: int) -> Act:
        """Start an episode for ``n`` new patients."""


@dataclass(frozen=True)
class Uniform(BehaviourPolicy):
    """Uniform over the allowed doses, whatever is seen."""

    @property
    def name(self) -> str:
        """Name in files and on the command line."""
        return "uniform"

    def begin(self, clinic: Clinic, n: int) -> Act:
        """Start an episode."""
        low, high = np.asarray(clinic.limits.low), np.asarray(clinic.limits.high)
        log_prob = np.full(n, -np.log(high - low).sum())
        return lambda view: (low + (high - low) * view.dice[:, :-1], log_prob)


@dataclass(frozen=True)
class Constant(BehaviourPolicy):
    """The same dose for everyone at every visit; it has no density."""

    dose: float
    """The dose in every dimension; outside the limits it is delivered at the limit like any other."""

    def __post_init__(self) -> None:
        """Refuse a dose that is no finite number."""
        if not np.isfinite(self.dose):
            raise UserError(f"a constant dose must be finite, got {self.dose}")

    @property
    def name(self) -> str:
        """Name in files and on the command line."""
        return f"constant:{self.dose:g}"

    def begin(self, clinic: Clinic, n: int) -> Act:
        """Start an episode."""
        dose, log_prob = np.full((n, clinic.limits.n_act), self.dose), np.full(n, np.nan)
        return lambda view: (dose, log_prob)


@dataclass(frozen=True)
class Titration(BehaviourPolicy):
    """Clinician-like: raise or lower a planned dose until the marker reaches its target, with noise.

    plan += gain (target - marker), kept within the limits; an unmeasured marker leaves the plan alone. The
    dose is drawn from a normal around plan / exp(confounding * covariate), truncated to the limits.
    """

    spread: float = 0.1
    """Standard deviation of that normal as a share of the allowed range; wider covers more doses."""

    def __post_init__(self) -> None:
        """Refuse a spread that gives no density."""
        if not 0 < self.spread <= 10:
            raise UserError(f"the spread of titration must lie in (0, 10], got {self.spread}")

    @property
    def name(self) -> str:
        """Name in files and on the command line."""
        return f"titration:{self.spread:g}"

    def begin(self, clinic: Clinic, n: int) -> Act:
        """Start an episode."""
        low, high = np.asarray(clinic.limits.low), np.asarray(clinic.limits.high)
        sd = self.spread * (high - low)
        plan = np.full((n, clinic.limits.n_act), clinic.first_dose)

        def act(view: View) -> tuple[Array, Array]:
            change = clinic.marker_gain * (clinic.marker_target - view.marker)
            plan[:] = np.clip(plan + np.where(np.isnan(change), 0.0, change)[:, None], low, high)
            centre = np.clip(plan / np.exp(clinic.confounding * view.covariate)[:, None], low, high)
            dose = truncated_normal(centre, sd, low, high, view.dice[:, :-1])
            return dose, truncated_normal_log_prob(dose, centre, sd, low, high).sum(axis=1)

        return act


@dataclass(frozen=True)
class EpsilonGreedy(BehaviourPolicy):
    """An agent's dose, blurred so that it has a density, and with probability epsilon a uniform one."""

    agent: Callable[[NDArray[np.float32]], Any]
    """Maps observations [N, O] to doses [N, A] in dose units."""
    epsilon: float = 0.1
    """Probability of a uniform dose."""
    spread: float = 0.02
    """Standard deviation of the blur round the agent's dose as a share of the allowed range."""
    label: str = "agent"
    """Name of the agent, stored with the data."""

    def __post_init__(self) -> None:
        """Refuse settings that give no density everywhere."""
        if not 0 < self.epsilon <= 1 or not 0 < self.spread <= 10:
            raise UserError(
                f"need 0 < epsilon <= 1 and 0 < spread <= 10, got {self.epsilon} and {self.spread}"
            )

    @property
    def name(self) -> str:
        """Name in files."""
        return f"epsilon-greedy:{self.epsilon:g}:{self.spread:g}:{self.label}"

    def begin(self, clinic: Clinic, n: int) -> Act:
        """Start an episode."""
        low, high = np.asarray(clinic.limits.low), np.asarray(clinic.limits.high)
        sd, log_uniform = self.spread * (high - low), np.log(self.epsilon) - np.log(high - low).sum()

        def act(view: View) -> tuple[Array, Array]:
            wish = np.asarray(self.agent(view.obs), dtype=np.float64)
            if wish.shape != (n, clinic.limits.n_act) or not np.isfinite(wish).all():
                raise UserError(f"the agent must give finite doses of shape {(n, clinic.limits.n_act)}")
            centre = np.clip(wish, low, high)
            dice = view.dice[:, :-1]
            explore = view.dice[:, -1:] < self.epsilon
            dose = np.where(explore, low + (high - low) * dice, truncated_normal(centre, sd, low, high, dice))
            greedy = truncated_normal_log_prob(dose, centre, sd, low, high).sum(axis=1)
            return dose, np.logaddexp(
                np.log1p(-self.epsilon) + greedy if self.epsilon < 1 else -np.inf, log_uniform
            )

        return act


def truncated_normal(centre: Array, sd: Array, low: Array, high: Array, dice: Array) -> Array:
    """Turn uniforms into draws of a normal truncated to [low, high], by its inverse distribution function."""
    below, above = ndtr((low - centre) / sd), ndtr((high - centre) / sd)
    out: Array = np.clip(centre + sd * ndtri(below + (above - below) * dice), low, high)
    return out


def truncated_normal_log_prob(dose: Array, centre: Array, sd: Array, low: Array, high: Array) -> Array:
    """Log density of that truncated normal, for doses inside the limits."""
    mass = ndtr((high - centre) / sd) - ndtr((low - centre) / sd)
    out: Array = -0.5 * np.square((dose - centre) / sd) - np.log(sd * np.sqrt(2 * np.pi) * mass)
    return out


class Named(Protocol):
    """What makes a scenario's own policy from the text behind its name."""

    @property
    def make(self) -> Callable[[str], BehaviourPolicy]:
        """Takes the text after the colon, empty where there is none."""


def parse_policy(policy: str | BehaviourPolicy, own: Mapping[str, Named] | None = None) -> BehaviourPolicy:
    """Return the policy that a text names.

    Args:
        policy: the text, or a policy itself.
        own: policies of one scenario by name, beside those that every scenario has.

    Raises:
        UserError: If it is not ``uniform``, ``constant:DOSE``, ``titration``, ``titration:SPREAD`` or the
            name of an own policy.
    """
    own = own or {}
    if isinstance(policy, BehaviourPolicy):
        return policy
    kind, _, value = str(policy).partition(":")
    try:
        if kind == "uniform" and not value:
            return Uniform()
        if kind == "constant":
            return Constant(float(value))
        if kind == "titration":
            return Titration(float(value)) if value else Titration()
        if kind in own:
            return own[kind].make(value)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
    more = "".join(f", {name} or {name}:VALUE" for name in own)
    raise UserError(
        f"unknown policy {policy!r}: it must be uniform, constant:DOSE, titration or titration:SPREAD{more}"
    )
