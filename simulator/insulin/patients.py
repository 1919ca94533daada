"""n adults on an insulin pump, from one 15-minute decision to the next.

In each step the pump infuses the rate that was decided, meals begin at their minute with the bolus that the
calculator gives for what was counted, and the sensor is read at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dosing.types import AnyArray, Array, Float32Array
from simulator.behaviour_policies import Clinic
from simulator.engine.rng import MEASUREMENT, NOISE, PATIENT
from simulator.engine.scenario import (
    Choice,
    Flags,
    ObservedEntry,
    OwnDraws,
    OwnOptions,
    Scenario,
    VisitResult,
    normal_blocks,
    uniform_blocks,
)
from simulator.insulin.adults import CANDIDATES, VARIED, Adults, published_adults, varied_adults
from simulator.insulin.glucose import GlucoseModel
from simulator.insulin.meals import (
    LARGEST_BOLUS,
    LARGEST_ENTRY,
    NORMALS,
    START_HOUR,
    UNIFORMS,
    Meals,
    bolus_U,
    fixed_meals,
    random_meals,
)
from simulator.insulin.on_board import (
    CARBOHYDRATE_MIN,
    DURATION_MIN,
    OnBoard,
    carbohydrate_left,
    insulin_left,
)
from simulator.insulin.outcomes import Hypoglycaemia, cost, reward
from simulator.insulin.sensor import READING_RANGE, error_mg_dL, next_error, reading

STEP_MIN = 15
"""Minutes from one decision to the next."""

STEPS_PER_DAY = 96

LARGEST_RATE = 12.0
"""Largest infusion rate of anybody: four times the largest scheduled basal rate, U/h."""

ALIVE = (20.0, 600.0)
"""True glucose outside which an episode ends, mg/dL."""

ENTRIES = (
    ObservedEntry("sensor glucose", "mg/dL", *READING_RANGE),
    ObservedEntry("glucose slope", "mg/dL/min", -25.0, 25.0),
    ObservedEntry("insulin on board", "U", -10.0, 4 * LARGEST_BOLUS + 20.0),
    ObservedEntry("carbohydrate on board", "g", 0.0, 3 * LARGEST_ENTRY),
    ObservedEntry("last rate", "U/h", 0.0, LARGEST_RATE),
    ObservedEntry("scheduled basal", "U/h", 0.3, 3.0),
    ObservedEntry("sine of time of day", "1", -1.0, 1.0),
    ObservedEntry("cosine of time of day", "1", -1.0, 1.0),
)
"""Observation. Insulin on board counts boluses and what was infused beyond the scheduled basal rate; it is
negative after less. At most four boluses act at once, and three announced meals."""

GLUCOSE, SLOPE, ON_BOARD, BASAL = 0, 1, 2, 5
"""Places in the observation that policies read."""


CHOICES = {
    "meals": Choice("Meals", ("random", "unannounced", "fixed")),
    "sensor": Choice("Glucose sensor", ("cgm", "perfect")),
}
"""Options and their values."""


@dataclass(frozen=True)
class InsulinOptions(OwnOptions):
    """How meals come and how glucose is seen."""

    meals: str = "random"
    """``random`` days; ``unannounced``: the same days, none counted and no bolus; ``fixed``: 45 g at 07:00,
    70 g at 12:00, 80 g at 18:00, counted without error."""
    sensor: str = "cgm"
    """``cgm`` with correlated errors, or ``perfect``."""

    def __post_init__(self) -> None:
        """Refuse values that are none of these."""
        for name, choice in CHOICES.items():
            choice.check(name, getattr(self, name))


class InsulinPatients(OwnDraws):
    """n adults in step.

    Attributes:
        course_within: true glucose after each minute of the last step [15, n], mg/dL; NaN before the first.
    """

    course_within: Array

    def __init__(self, scenario: Scenario, n: int, cohort: str, own: InsulinOptions, steps: int) -> None:
        """Hold ``n`` adults for ``steps`` decisions; no patient exists before ``start``."""
        super().__init__(scenario, n, cohort)
        self.own, self.steps = own, steps

    @property
    def entries(self) -> tuple[ObservedEntry, ...]:
        """The eight entries of an observation."""
        return ENTRIES

    def start(self, seed: int, first: int) -> Float32Array:
        """Bring patients ``first`` on to 06:00, fasting, at the steady state of their basal rates."""
        self.first, self.time = first, 0
        self.model = GlucoseModel(self._adults(seed))
        # What the pump shows is what it infuses: a rate that is observed and asked for again is no other.
        self.basal = self.model.adults.basal_U_per_h.astype(np.float32).astype(np.float64)
        self.meals = self._meals(seed)
        self.insulin = OnBoard(insulin_left(np.arange(float(DURATION_MIN))), self.n)
        self.carbohydrate = OnBoard(carbohydrate_left(np.arange(float(CARBOHYDRATE_MIN))), self.n)
        self.hypoglycaemia = Hypoglycaemia(self.n)
        self._errors = self.streams(seed, MEASUREMENT)
        self._error = self.columns(normal_blocks(self._errors))
        self.last_rate = self.basal
        self.course_within = np.full((STEP_MIN, self.n), np.nan)
        self.seen_glucose = self._read()
        return self._observe(np.zeros(self.n))

    def step(self, dose: Float32Array) -> VisitResult:
        """Infuse rates [n, 1], U/h, for 15 minutes."""
        rate = dose[:, 0].astype(np.float64)
        given, counted, eaten, begun = self._advance(rate)
        self.insulin.give(given)
        self.carbohydrate.give(counted)
        self.last_rate, self.time = rate, self.time + 1
        glucose = self.model.plasma_mg_dL
        before = self.seen_glucose
        self._error = next_error(self._error, self.columns(normal_blocks(self._errors)))
        self.seen_glucose = self._read()
        seen = self._observe((self.seen_glucose - before) / STEP_MIN)
        over = (glucose < ALIVE[0]) | (glucose > ALIVE[1])
        charged = np.where(over, 1 + self.steps - self.time, 1)  # this step and those that are lost
        events = {
            "below_70": glucose < 70,
            "below_54": glucose < 54,
            "above_180": glucose > 180,
            "above_250": glucose > 250,
            **begun,
        }
        truth = {
            "glucose_mg_dL": glucose,
            "eaten_g": eaten.sum(axis=0),
            "counted_g": counted.sum(axis=0),
            "bolus_U": (given - (rate - self.basal) / 60).sum(axis=0),
        }
        return VisitResult(
            seen,
            (reward(glucose) * charged).astype(np.float32),
            (cost(glucose) * charged).astype(np.float32),
            events,
            over,
            truth,
        )

    def _advance(self, rate: Array) -> tuple[Array, Array, Array, dict[str, Flags]]:
        """Advance by one step at ``rate`` [n], U/h.

        Returns:
            Insulin beyond the basal rate, U, counted and eaten carbohydrate, g, of each minute [15, n]; and
            which events began.
        """
        adults, nothing = self.model.adults, np.zeros(self.n)
        given = np.empty((STEP_MIN, self.n))
        counted, eaten = np.zeros((STEP_MIN, self.n)), np.zeros((STEP_MIN, self.n))
        begun = {name: np.zeros(self.n, dtype=np.bool_) for name in Hypoglycaemia.NAMES}
        start = self.time * STEP_MIN
        any_meal = self.meals.any_from(start, STEP_MIN)
        self.course_within = np.empty((STEP_MIN, self.n))
        for minute in range(STEP_MIN):
            bolus = nothing
            if any_meal:
                eaten[minute], counted[minute] = self.meals.at(start + minute)
                bolus = bolus_U(counted[minute], self.seen_glucose, adults.CR, adults.CF)
            self.model.minute(eaten[minute], rate / 60 + bolus)
            given[minute] = (rate - self.basal) / 60 + bolus
            self.course_within[minute] = glucose = self.model.plasma_mg_dL
            for name, flags in self.hypoglycaemia.minute(glucose).items():
                begun[name] |= flags
        return given, counted, eaten, begun

    @property
    def covariate(self) -> Float32Array:
        """None acts here: 0."""
        return np.zeros(self.n, dtype=np.float32)

    def clinic(self) -> Clinic:
        """Titration moves the rate by 0.002 U/h for every mg/dL and step towards 112.5 mg/dL."""
        return Clinic(self.scenario.limits, 112.5, -0.002, 1.0, 0.0)

    def marker(self, seen: Float32Array) -> Array:
        """Sensor glucose, mg/dL."""
        return seen[:, GLUCOSE].astype(np.float64)

    def baseline_and_load(self) -> Array:
        """Scheduled basal rate, U/h, and insulin on board, U, as observed [n, 2]."""
        return self._seen[:, [BASAL, ON_BOARD]].astype(np.float64)

    def traits(self) -> Mapping[str, AnyArray]:
        """Weight, what a pump is set to, and basal glucose."""
        adults = self.model.adults
        return {
            "weight (kg)": adults.BW,
            "scheduled basal (U/h)": adults.basal_U_per_h,
            "correction factor (mg/dL per U)": adults.CF,
            "basal glucose (mg/dL)": adults.Gb,
        }

    def _adults(self, seed: int) -> Adults:
        if self.scenario.variant == "published":
            numbers = np.arange(self.first, self.first + self.n // self.copies)
            return published_adults().columns(np.tile(numbers, self.copies) % len(published_adults().BW))
        who = self.streams(seed, PATIENT)
        which = self.columns(uniform_blocks(who))
        return varied_adults(which, self.columns(normal_blocks(who, CANDIDATES, len(VARIED))))

    def _meals(self, seed: int) -> Meals:
        days = -(-self.steps // STEPS_PER_DAY)
        if self.own.meals == "fixed":
            return fixed_meals(days, self.n)
        streams = self.streams(seed, NOISE)
        dice = [
            (uniform_blocks(streams, 6, UNIFORMS), normal_blocks(streams, 6, NORMALS)) for _ in range(days)
        ]
        uniforms, normals = (
            np.stack([self.columns(part) for part in parts]) for parts in zip(*dice, strict=True)
        )
        meals = random_meals(uniforms, normals)
        return meals.uncounted() if self.own.meals == "unannounced" else meals

    def _read(self) -> Array:
        error = 0.0 if self.own.sensor == "perfect" else error_mg_dL(self._error)
        return reading(self.model.sensor_site_mg_dL, error)

    def _observe(self, slope: Array) -> Float32Array:
        angle = 2 * np.pi * (START_HOUR / 24 + self.time / STEPS_PER_DAY)
        seen = np.empty((self.n, len(ENTRIES)), dtype=np.float32)
        columns = (
            *(self.seen_glucose, slope, self.insulin.total(), self.carbohydrate.total()),
            *(self.last_rate, self.basal, np.sin(angle), np.cos(angle)),
        )
        for place, column in enumerate(columns):
            seen[:, place] = column
        self._seen = seen
        return seen
