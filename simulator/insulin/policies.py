"""How pump rates are decided in recorded data: the schedule, a protocol round it, and any allowed rate.

Meal boluses belong to the patient, not to these policies: together with the schedule they are basal-bolus
treatment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from dosing.errors import UserError
from dosing.types import Array
from simulator.behaviour_policies import Act, BehaviourPolicy, Clinic, View
from simulator.engine.scenario import NamedPolicy
from simulator.insulin.patients import BASAL, GLUCOSE, SLOPE

FORECAST_MIN = 30.0
"""How far ahead the protocol looks along the present slope."""

SPREAD = 0.3
"""Standard deviation of the log of the rates that the protocol's data hold round its rule."""


def schedule(view: View) -> Array:
    """The scheduled basal rate whatever the glucose [N]."""
    return np.ones(len(view.obs))


def protocol(view: View) -> Array:
    """Multiple of the scheduled basal rate [N]: 0 where glucose is or will be low, more where high."""
    glucose = view.obs[:, GLUCOSE].astype(np.float64)
    forecast = glucose + FORECAST_MIN * view.obs[:, SLOPE]
    raised = np.where(forecast > 250, 2.0, np.where(forecast > 180, 1.5, 1.0))
    return np.where((glucose < 80) | (forecast < 70), 0.0, raised)


@dataclass(frozen=True)
class TimesBasal(BehaviourPolicy):
    """A rule's multiple of the scheduled basal rate, times exp(Normal(0, spread)) within what is allowed.

    The rate is drawn from that log-normal truncated to the highest rate that may be delivered. Where the rule
    stops the pump, and without a spread, the rate is certain and has no density.
    """

    rule_name: str
    """Name of the rule in files and on the command line."""
    rule: Callable[[View], Array]
    """Multiple of the scheduled basal rate [N] of a view."""
    spread: float
    """Standard deviation of the log of the rate."""

    def __post_init__(self) -> None:
        """Refuse a spread that is none."""
        if not 0 <= self.spread <= 10:
            raise UserError(f"the spread of {self.rule_name} must lie in [0, 10], got {self.spread}")

    @property
    def name(self) -> str:
        """Name in files and on the command line."""
        return f"{self.rule_name}:{self.spread:g}"

    def begin(self, clinic: Clinic, n: int) -> Act:
        """Start an episode."""

        def act(view: View) -> tuple[Array, Array]:
            centre = self.rule(view) * view.obs[:, BASAL]
            if self.spread == 0:
                return centre[:, None], np.full(n, np.nan)
            on = centre > 0
            middle = np.where(on, centre, 1.0)
            most = ndtr(np.log(np.broadcast_to(view.high, (n, 1))[:, 0] / middle) / self.spread)
            z = ndtri(most * view.dice[:, 0])
            rate = middle * np.exp(self.spread * z)
            log_prob = -0.5 * z**2 - np.log(np.sqrt(2 * np.pi) * self.spread * rate * most)
            return np.where(on, rate, 0.0)[:, None], np.where(on, log_prob, np.nan)

        return act


@dataclass(frozen=True)
class UniformAllowed(BehaviourPolicy):
    """Uniform between the lowest and the highest rate that would be delivered to this patient now."""

    @property
    def name(self) -> str:
        """Name in files and on the command line."""
        return "uniform-allowed"

    def begin(self, clinic: Clinic, n: int) -> Act:
        """Start an episode."""

        def act(view: View) -> tuple[Array, Array]:
            width = view.high - view.low
            dose = view.low + width * view.dice[:, :-1]
            return dose, np.broadcast_to(-np.log(width).sum(axis=-1), (n,))

        return act


def _spread(name: str, rule: Callable[[View], Array], usual: float) -> Callable[[str], BehaviourPolicy]:
    return lambda text: TimesBasal(name, rule, float(text) if text else usual)


def _uniform_allowed(text: str) -> BehaviourPolicy:
    if text:
        raise UserError(f"uniform-allowed takes no value, got {text!r}")
    return UniformAllowed()


POLICIES = {
    "basal": NamedPolicy(
        "scheduled basal rate times exp(Normal(0, SPREAD)), SPREAD 0", _spread("basal", schedule, 0.0)
    ),
    "protocol": NamedPolicy(
        "0 where glucose < 80 mg/dL or its 30-minute forecast < 70, 2 x basal where the forecast > 250, "
        "1.5 x where > 180, else 1 x; times exp(Normal(0, SPREAD)), SPREAD 0.3, truncated to what is allowed",
        _spread("protocol", protocol, SPREAD),
    ),
    "uniform-allowed": NamedPolicy("uniform over the rates that may be delivered now", _uniform_allowed),
}
"""Behaviour policies of insulin scenarios by name."""
