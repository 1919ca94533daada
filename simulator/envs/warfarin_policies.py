"""How clinics dose warfarin: a starting dose, and a nomogram that answers the measured INR.

Starting dose: Gage et al. 2008 (PMC2683977), with genotype, target 2.5, none of its other traits:

    ln dose = 0.9751 - 0.3238 nA + 0.4317 BSA - 0.4008 n3 - 0.00745 age - 0.2066 n2 + 0.2029 * 2.5   (mg/day)

Nomogram: University of Washington anticoagulation services, for a target of 2 to 3; one number inside each
published range is our choice, and so are the factors of the first week. The maintenance dose stays within 0.5
to 15 mg. It answers INRs of days on which the clinic measures, however often they are measured beside.

A recorded dose is the nomogram's times exp(N(0, SPREAD^2)), drawn from that distribution as far as it lies
below the highest dose that would be delivered, with its density. A held dose is held with certainty and, like
every dose at SPREAD = 0, has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from dosing.errors import UserError
from dosing.types import Array
from simulator.behaviour_policies import Act, BehaviourPolicy, Clinic, View
from simulator.engine.scenario import NamedPolicy

SPREAD = 0.15
"""Usual standard deviation of the log of a recorded dose."""

FIRST_DOSE = 5.0
"""Starting dose of the nomogram where nothing is known of a patient (mg/day)."""

FIRST_WEEK = 7
EDGES = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
"""INRs between which the nomogram's answers differ; 2.0 begins a range, 3.0 and all above end one."""
LATER = (1.15, 1.075, 1.0, 1.0, 0.925, 0.90, 0.85, 0.85)
EARLY = (1.15, 1.0, 0.75, 0.60, 0.50, 0.50, 0.50, 0.50)
"""Factors on the maintenance dose from day 7 on and before."""
HOLDS = (0, 0, 0, 0, 0, 1, 2, 3)
"""Days without a dose."""
LEAST, MOST = 0.5, 15.0


def measured_on(day: int) -> bool:
    """Whether a clinic measures the INR at the end of this day of therapy."""
    return day in (3, 5, 7, 9, 11, 14) or (day > 14 and day % 7 == 0)


def starting_dose(age: Array, surface: Array, two: Array, three: Array, a: Array) -> Array:
    """Dose of Gage et al. (mg/day) by age (y), body surface (m2), numbers of *2, *3 and VKORC1 A alleles."""
    log = 0.9751 - 0.3238 * a + 0.4317 * surface - 0.4008 * three - 0.00745 * age - 0.2066 * two
    return np.asarray(np.exp(log + 0.2029 * 2.5))


def answer(inr: Array, day: int) -> tuple[Array, Array]:
    """The nomogram's answer to INRs measured at the end of a day: factors on the dose, and days to hold."""
    # the lower three edges belong to the range above them, the others to the range below
    place = np.searchsorted(EDGES[:3], inr, side="right") + np.searchsorted(EDGES[3:], inr, side="left")
    factors = EARLY if day < FIRST_WEEK else LATER
    return np.asarray(factors)[place], np.asarray(HOLDS)[place]


@dataclass(frozen=True)
class Nomogram(BehaviourPolicy):
    """A starting dose, then the nomogram's answers, with noise that gives the doses a density."""

    label: str
    """Name in files and on the command line."""
    pharmacogenetic: bool
    """Whether treatment begins with the dose of Gage et al. instead of 5 mg."""
    adjusted: bool
    """Whether the nomogram answers the INR at all."""
    spread: float = SPREAD
    """Standard deviation of the log of the dose."""

    @property
    def name(self) -> str:
        """Name in files and on the command line."""
        return f"{self.label}:{self.spread:g}"

    def begin(self, clinic: Clinic, n: int) -> Act:
        """Start an episode."""
        plan, hold, day = np.full(n, FIRST_DOSE), np.zeros(n, dtype=np.int64), 0

        def act(view: View) -> tuple[Array, Array]:
            nonlocal day
            known = view.known
            if day == 0 and self.pharmacogenetic:
                alleles = (known[f"{name} alleles"] for name in ("*2", "*3", "A"))
                plan[:] = starting_dose(known["age"], known["body surface"], *alleles)
            if self.adjusted and measured_on(day):
                factor, wait = answer(view.marker, day)
                plan[:] = np.clip(plan * factor, LEAST, MOST)
                hold[:] = wait
            wanted = np.where(hold > 0, 0.0, plan)
            hold[:] = np.maximum(hold - 1, 0)
            day += 1
            return recorded(wanted, self.spread, np.broadcast_to(view.high, (n, 1))[:, 0], view.dice[:, 0])

        return act


def recorded(wanted: Array, spread: float, high: Array, dice: Array) -> tuple[Array, Array]:
    """Doses [N, 1] round the wanted ones [N] and their log densities [N]; NaN where a dose is certain."""
    if spread == 0:
        return wanted[:, None], np.full(len(wanted), np.nan)
    held = wanted == 0
    centre = np.log(np.where(held, 1.0, np.minimum(wanted, high)))
    top = (np.log(high) - centre) / spread
    mass = ndtr(top)
    z = np.minimum(ndtri(mass * dice), top)
    dose = np.where(held, 0.0, np.minimum(np.exp(centre + spread * z), high))
    log_prob = -0.5 * z**2 - np.log(np.where(held, 1.0, dose) * spread * np.sqrt(2 * np.pi) * mass)
    return dose[:, None], np.where(held, np.nan, log_prob)


def _made(label: str, pharmacogenetic: bool, adjusted: bool, text: str) -> NamedPolicy:
    def make(value: str) -> BehaviourPolicy:
        try:
            spread = float(value) if value else SPREAD
        except ValueError:
            spread = np.nan
        if not 0 <= spread <= 2:
            raise UserError(f"the spread of {label} must be a number from 0 to 2, got {value!r}")
        return Nomogram(label, pharmacogenetic, adjusted, spread)

    return NamedPolicy(f"{text}; times exp(N(0, SPREAD^2)), {SPREAD:g} unless given", make)


POLICIES = {
    name: _made(name, *how)
    for name, how in {
        "nomogram": (False, True, "5 mg/day, then the University of Washington nomogram"),
        "gage-nomogram": (True, True, "starting dose by genotype (Gage 2008), then the nomogram"),
        "gage": (True, False, "starting dose by genotype (Gage 2008), never adjusted"),
    }.items()
}
"""Policies of warfarin clinics by name."""
