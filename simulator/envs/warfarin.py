"""The scenario ``dosing/Warfarin-v0``: a daily dose of warfarin, judged by the INR.

Who the patients are and how their INR moves: ``simulator.envs.warfarin_model`` (Hamberg et al. 2010). Beside
it, four sources of variation within a patient, sized so that a clinic's nomogram reaches the time in range
that clinics report (Erkens et al. 2012, PLoS One 7:e42269: 54 % in month 1, 60 % in months 2 and 3):

- EC50 drifts (diet, vitamin K, illness): EC50 exp(z), z an Ornstein-Uhlenbeck process of standard deviation
  0.35 and time constant 10 days, stepped daily;
- a dose is missed with probability 0.08 and doubled with probability 0.01; only the prescribed one is seen;
- 15 % of patients take an interacting drug for 14 days from some day between 20 and 90, under which the
  clearance is CL exp(N(-0.25, 0.25^2));
- the INR is measured with a multiplicative error of log standard deviation 0.10.

The step limit: the maintenance dose may be raised by 20 % a visit (or by 0.5 mg, the smallest tablet),
lowered freely, since no dose at all is always allowed, and begun with at most 10 mg. The maintenance dose is
the larger of yesterday's dose and the mean dose of the last seven days, or of the days so far: so a held dose
may be resumed near where it stood, and after a week without one treatment begins anew. The nomogram raises by
15 % at most; its large steps in the first week all go down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from dosing.safety import DoseLimits, StepLimit
from dosing.types import AnyArray, Array, Float32Array
from simulator.behaviour_policies import Clinic
from simulator.engine.rng import MEASUREMENT, NOISE, PATIENT
from simulator.engine.scenario import (
    Choice,
    NamedPolicy,
    ObservedEntry,
    OwnDraws,
    OwnOptions,
    Scenario,
    Target,
    VisitResult,
    normal_blocks,
    uniform_blocks,
)
from simulator.envs.warfarin_model import (
    DICE,
    DRIFT_DAYS,
    DRIFT_SD,
    INTERACTION_DAYS,
    NORMALS,
    Physiology,
    Traits,
)
from simulator.envs.warfarin_policies import POLICIES, measured_on

MISSED, DOUBLED = 0.08, 0.01
ERROR_SD = 0.10
REPORTED = (0.5, 25.0)
"""Range in which an INR is reported."""
TARGET, TOLERANCE = 2.5, 0.5
HIGH, SEVERE, CRITICAL, LOW, LOW_FROM = 4.0, 5.0, 10.0, 1.5, 14
WORST = -4.0
"""Lowest reward of a day."""
WEEK = 7


CHOICES = {
    "monitoring": Choice("INR measured as in a clinic, or daily", ("clinic", "daily")),
    "variability": Choice("Variation within a patient", ("full", "none")),
    "hide_genotype": Choice("Genotype hidden from agents", (False, True)),
}
"""Options and their values."""


@dataclass(frozen=True)
class WarfarinOptions(OwnOptions):
    """Options of the scenario alone."""

    monitoring: str = "clinic"
    """``clinic``: the INR is measured on days 3, 5, 7, 9, 11, 14 and then weekly; ``daily``: every day."""
    variability: str = "full"
    """``full``: the four sources of variation within a patient; ``none``: none of them."""
    hide_genotype: bool = False
    """Show the day of therapy and the slope of the INR in place of the genotype. Behaviour policies still see
    it, so that recorded visits are confounded by a cause that no agent sees."""

    def __post_init__(self) -> None:
        """Refuse values that are none."""
        for name, choice in CHOICES.items():
            choice.check(name, getattr(self, name))


class Warfarin(Scenario):
    """Initiation and maintenance of warfarin over 90 days."""

    env_id = "dosing/Warfarin-v0"
    title = "Warfarin and the INR over 90 days (Hamberg et al. 2010)"
    variants: ClassVar[tuple[str, ...]] = ("hamberg2010",)
    version = "1.0"
    sources = (
        "Hamberg et al. 2010, Clin Pharmacol Ther 87:727, doi 10.1038/clpt.2010.37 (model and parameters)",
        "Hamberg et al. 2007, Clin Pharmacol Ther, doi 10.1038/sj.clpt.6100084 (shares of the genotypes)",
        "Erkens et al. 2012, PLoS One 7:e42269 (time in range by which the variation was sized)",
        "Holbrook et al. 2012, Chest 141:e152S (target range; critical INR)",
        "Gage et al. 2008, PMC2683977 (starting dose)",
        "University of Washington anticoagulation services (maintenance nomogram)",
    )
    option_names = tuple(WarfarinOptions.__dataclass_fields__)
    choices: ClassVar[Mapping[str, Choice]] = CHOICES
    decision_interval = "1 day"
    terminates = True
    motion_text = (
        "A_g' = -k_a A_g, A_c' = k_a A_g - (CL/V) A_c, E = C^g/(EC50^g + C^g) with C = A_c/V; two chains of "
        "three compartments from 1 - E, mean transit times 28.6 h and 118.3 h; INR = 1 + 20 (1 - (F3 + H3)/2)"
        "; half of a dose is S-warfarin"
    )
    start_text = (
        "no warfarin before; CYP2C9, VKORC1, age set CL and EC50, with log-normal spread of CL, V and EC50"
    )
    noise_text = (
        "EC50 drifts (OU, SD 0.35, 10 days), doses are missed (0.08) or doubled (0.01), 15 % of patients "
        "take an interacting drug for 14 days, the INR is measured with log SD 0.10 and reported within 0.5 "
        "to 25; variability=none has none of it"
    )
    reward_text = (
        "max(-4, 1 - ((INR - 2.5)/0.5)^2) of each day, INR the true one; where INR > 10 ends the episode, -4 "
        "for each day that remains"
    )
    cost_text = (
        "1[INR > 4] + 1[INR < 1.5 and day > 14]; where INR > 10 ends the episode, 1 for each day that "
        "remains; never part of the reward"
    )
    events: ClassVar[Mapping[str, str]] = {
        "over_anticoagulated": "true INR > 4.0 (US label: no added benefit, higher risk of bleeding)",
        "severe": "true INR >= 5.0 (CHEST 2008: omit one or two doses, resume lower)",
        "critical": "true INR > 10 (CHEST 2012: oral vitamin K); ends the episode",
        "under_anticoagulated": "true INR < 1.5 after day 14 (University of Washington nomogram acts on it)",
    }
    target = Target("last INR", "INR", "1", 2.0, 3.0, "CHEST 2012 target for vitamin K antagonists, grade 1B")
    budget = 5.0
    recorded_by = "nomogram"
    clinic_rules = ("nomogram:0", "gage-nomogram:0", "gage:0")
    policies: ClassVar[Mapping[str, NamedPolicy]] = POLICIES
    searched = 1000
    safe_default = "hold: no dose (0 mg), measure the INR"
    model_limits_text = (
        "S-warfarin only; no bleeding, no thrombosis, no vitamin K, and no variation beyond what is named; "
        "7 % of patients would need more than the hard limit of 15 mg a day for an INR of 2.5."
    )

    def __init__(self, variant: str) -> None:
        """Build the scenario; raises UserError for an unknown variant."""
        self.variant = self.checked(variant)
        self.limits = DoseLimits((0.0,), (15.0,), "mg/day")
        self.step_limit = StepLimit(
            (0.5,), 0.2, (0.0,), ("dose yesterday", "mean dose of 7 days"), lowering=False, start=(10.0,)
        )
        self.visits = 90

    def own_options(self, given: Mapping[str, Any]) -> WarfarinOptions:
        """Check the options of this scenario; raises UserError for a bad value."""
        return WarfarinOptions(**given)

    def patients(self, n: int, cohort: str, own: WarfarinOptions, steps: int) -> WarfarinPatients:
        """``n`` patients who have not had warfarin before."""
        return WarfarinPatients(self, n, cohort, own, steps)

    def policy_texts(self) -> dict[str, str]:
        """Behaviour policies as they are written, with what they do."""
        titration = f"a dose towards a measured INR of {TARGET:g}, drawn round it"
        return super().policy_texts() | {"titration:SPREAD": titration}


class WarfarinPatients(OwnDraws):
    """n patients on warfarin. Numbers are float64 [n]; each patient's draws come from their own block."""

    def __init__(self, scenario: Warfarin, n: int, cohort: str, own: WarfarinOptions, steps: int) -> None:
        """Hold ``n`` patients; ``start`` comes before all else."""
        super().__init__(scenario, n, cohort)
        self.own, self.steps = own, steps
        self._varied = own.variability == "full"

    @cached_property
    def entries(self) -> tuple[ObservedEntry, ...]:
        """The eight observed entries."""
        low, high = REPORTED
        most = float(self.scenario.limits.high[0])
        shown = (
            (
                ObservedEntry("day of therapy", "day", 0.0, float(self.steps)),
                ObservedEntry("INR slope", "1/day", -high, high),
            )
            if self.own.hide_genotype
            else (
                ObservedEntry("CYP2C9 clearance", "1", 0.2, 1.0),
                ObservedEntry("VKORC1 A alleles", "1", 0.0, 2.0),
            )
        )
        return (
            ObservedEntry("last INR", "1", low, high),
            ObservedEntry("INR before", "1", low, high),
            ObservedEntry("days since INR", "day", 0.0, 31.0),
            ObservedEntry("dose yesterday", "mg/day", 0.0, most),
            ObservedEntry("mean dose of 7 days", "mg/day", 0.0, most),
            ObservedEntry("age", "year", 18.0, 100.0),
            *shown,
        )

    def start(self, seed: int, first: int) -> Float32Array:
        """Bring patients ``first`` on to the day before their first dose, with a baseline INR."""
        self.first, self.time = first, 0
        who, self._noise, self._error = (
            self.streams(seed, purpose) for purpose in (PATIENT, NOISE, MEASUREMENT)
        )
        self.who = Traits.of(
            self.columns(normal_blocks(who, NORMALS)), self.columns(uniform_blocks(who, DICE))
        )
        self._drift = self.who.drift
        self.body = Physiology.untreated(self.who.volume)
        self._doses = np.zeros((WEEK, self.n))
        self._measured = self._before = self._measure()
        self._last_day = self._before_day = 0
        return self._show()

    def step(self, dose: Float32Array) -> VisitResult:
        """Give doses [n, 1] (mg/day), live one day, measure the INR where it is due."""
        prescribed = dose[:, 0].astype(np.float64)
        taken, ec50 = self._taken_and_sensitivity(prescribed)
        who = self.who
        began = (who.interacts_from <= self.time) & self._varied
        interacting = began & (self.time < who.interacts_from + INTERACTION_DAYS)
        cl = np.where(interacting, who.cl * who.slowed, who.cl)
        self.body.day(taken, cl, ec50)
        self.time += 1
        self._doses[(self.time - 1) % WEEK] = prescribed
        measured = self._measure()  # always drawn, so that the schedule changes nobody's errors
        if measured_on(self.time) or self.own.monitoring == "daily":
            self._before, self._measured = self._measured, measured
            self._before_day, self._last_day = self._last_day, self.time
        truth = {"INR": self.body.inr, "dose taken": taken, "interacting drug": interacting}
        return self._result(truth)

    @property
    def covariate(self) -> Float32Array:
        """There is none beside what :meth:`known` says."""
        return np.zeros(self.n, dtype=np.float32)

    def clinic(self) -> Clinic:
        """Titration begins with 5 mg and moves by 0.5 mg per unit of the INR at each measurement."""
        return Clinic(self.scenario.limits, TARGET, 0.5, 5.0, 0.0)

    def marker(self, seen: Float32Array) -> Array:
        """The INR measured at this visit; the baseline says nothing about a dose."""
        if self.time == 0 or self._last_day != self.time:
            return np.full(self.n, np.nan)
        return self._measured

    def known(self) -> Mapping[str, AnyArray]:
        """Age (y), body surface (m2) and numbers of alleles."""
        return {"age": self.who.age, "body surface": self.who.surface, **self.who.alleles}

    def traits(self) -> Mapping[str, AnyArray]:
        """Age, genotype, and what the body makes of them."""
        who = self.who
        return {
            "age (year)": who.age,
            "VKORC1 A alleles": who.alleles["A alleles"],
            "CYP2C9 *2 or *3 alleles": who.alleles["*2 alleles"] + who.alleles["*3 alleles"],
            "clearance (L/h)": who.cl,
            "EC50 (mg/L)": who.ec50,
        }

    def current_dose(self) -> Array:
        """The maintenance dose [n, 1] that the step limit is measured from."""
        return np.maximum(self._yesterday, self._week)[:, None]

    @property
    def _yesterday(self) -> Array:
        return np.asarray(self._doses[(self.time - 1) % WEEK], dtype=np.float64)

    @property
    def _week(self) -> Array:
        """Mean dose of the last seven days, or of the days so far."""
        return np.asarray(self._doses.sum(axis=0) / min(max(self.time, 1), WEEK))

    def _taken_and_sensitivity(self, prescribed: Array) -> tuple[Array, Array]:
        """Doses as they are taken, and EC50 of the day; moves the drift on."""
        if not self._varied:
            return prescribed, self.who.ec50
        dice = self.columns(uniform_blocks(self._noise, 1))[0]
        taken = prescribed * np.where(dice < MISSED, 0.0, np.where(dice >= 1.0 - DOUBLED, 2.0, 1.0))
        ec50 = self.who.ec50 * np.exp(self._drift)
        kept = np.exp(-1.0 / DRIFT_DAYS)
        fresh = self.columns(normal_blocks(self._noise, 1))[0]
        self._drift = kept * self._drift + DRIFT_SD * np.sqrt(1.0 - kept**2) * fresh
        return taken, ec50

    def _measure(self) -> Array:
        """The INR as it would be measured now."""
        if not self._varied:
            return np.asarray(np.clip(self.body.inr, *REPORTED))
        error = self.columns(normal_blocks(self._error, 1))[0]
        return np.asarray(np.clip(self.body.inr * np.exp(ERROR_SD * error), *REPORTED))

    def _result(self, truth: dict[str, AnyArray]) -> VisitResult:
        """Reward, cost and events of the day that has passed, by the true INR."""
        inr, left = truth["INR"], self.steps - self.time
        events = {
            "over_anticoagulated": inr > HIGH,
            "severe": inr >= SEVERE,
            "critical": inr > CRITICAL,
            "under_anticoagulated": (inr < LOW) & (self.time > LOW_FROM),
        }
        over = events["critical"]
        reward = np.maximum(1.0 - np.square((inr - TARGET) / TOLERANCE), WORST) + over * left * WORST
        cost = 1.0 * events["over_anticoagulated"] + events["under_anticoagulated"] + over * left
        return VisitResult(
            self._show(), reward.astype(np.float32), cost.astype(np.float32), events, over, truth
        )

    def _show(self) -> Float32Array:
        """Observations [n, 8]."""
        seen = np.empty((self.n, len(self.entries)), dtype=np.float32)
        seen[:, 0], seen[:, 1], seen[:, 2] = self._measured, self._before, self.time - self._last_day
        seen[:, 3], seen[:, 4], seen[:, 5] = self._yesterday, self._week, self.who.age
        if self.own.hide_genotype:
            apart = max(self._last_day - self._before_day, 1)
            seen[:, 6], seen[:, 7] = self.time, (self._measured - self._before) / apart
        else:
            seen[:, 6], seen[:, 7] = self.who.share, self.who.alleles["A alleles"]
        return seen
