"""Meals: when they come, how much is eaten, and what of it the person counts.

The random day is that of simglucose 0.2.11 (``simulator.insulin.adults``): breakfast, lunch, dinner and three
snacks. A plan begins at 06:00; a breakfast drawn before 06:00 is the last meal of its 24 hours. How meals are
counted is our choice, without a published source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from dosing.types import Array

START_HOUR = 6
"""Time of day at which an episode begins, h."""

MINUTES_PER_DAY = 1440

PROBABILITY = np.array([0.95, 0.3, 0.95, 0.3, 0.95, 0.3])
HOUR = np.array([7, 9.5, 12, 15, 18, 21.5])
HOUR_SPREAD = np.array([1, 0.5, 1, 0.5, 1, 0.5])
EARLIEST_HOUR = np.array([5, 9, 10, 14, 16, 20])
LATEST_HOUR = np.array([9, 10, 14, 16, 20, 23])
GRAMS = np.array([45, 10, 70, 10, 80, 10])
GRAMS_SPREAD = np.array([10, 5, 10, 5, 10, 5])

FIXED_DAY = ((7, 45.0), (12, 70.0), (18, 80.0))
"""Hour and grams of each meal of the day that is always the same."""

COUNT_ERROR = 0.2
"""Standard deviation of the factor between counted and eaten carbohydrate."""

MISSED = 0.05
"""Probability that a meal is neither counted nor covered by a bolus."""

BOLUS_TARGET = 140.0
"""Glucose to which the bolus calculator corrects, mg/dL."""

BOLUS_CORRECTS_ABOVE = 150.0
"""Sensor glucose above which it corrects, mg/dL."""

LARGEST_ENTRY = 250.0
"""Most carbohydrate that the calculator takes for one meal, g: a larger entry is a mistake."""

LARGEST_BOLUS = 25.0
"""Largest single bolus that the pump gives, U."""

UNIFORMS, NORMALS = 3, 2
"""Dice of one meal: whether, when, whether missed; how much, and the error of the count."""


@dataclass(frozen=True)
class Meals:
    """Meals of P patients, M places each; a place of 0 g is no meal."""

    minute: Array
    """Minute since the start of the episode [M, P]."""
    eaten_g: Array
    """Carbohydrate that is eaten [M, P], g."""
    counted_g: Array
    """Carbohydrate that is announced [M, P], g; 0 for a missed meal."""

    def at(self, minute: int) -> tuple[Array, Array]:
        """Carbohydrate eaten and counted of the meals that begin at a minute, g, each [P]."""
        now = self.minute == minute
        return (self.eaten_g * now).sum(axis=0), (self.counted_g * now).sum(axis=0)

    def uncounted(self) -> Meals:
        """The same meals, none of them announced."""
        return Meals(self.minute, self.eaten_g, np.zeros_like(self.eaten_g))

    def any_from(self, minute: int, minutes: int) -> bool:
        """Whether anybody's meal begins within some ``minutes``."""
        return bool(((self.minute >= minute) & (self.minute < minute + minutes)).any())


def random_meals(uniforms: Array, normals: Array) -> Meals:
    """Meals of random days.

    Args:
        uniforms: on [0, 1) [days, 6, UNIFORMS, P].
        normals: [days, 6, NORMALS, P].

    Returns:
        M = 6 days meals of P patients.
    """
    column = np.s_[:, None]
    low, high = ((edge - HOUR) / HOUR_SPREAD for edge in (EARLIEST_HOUR, LATEST_HOUR))
    below, above = ndtr(low)[column], ndtr(high)[column]
    hour = HOUR[column] + HOUR_SPREAD[column] * ndtri(below + (above - below) * uniforms[:, :, 1])
    day = MINUTES_PER_DAY * np.arange(len(uniforms))[:, None, None]
    minute = day + (np.rint(60 * hour) - 60 * START_HOUR) % MINUTES_PER_DAY
    amount = np.maximum(GRAMS[column] + GRAMS_SPREAD[column] * normals[:, :, 0], 0.0)
    eaten = np.where(uniforms[:, :, 0] < PROBABILITY[column], amount, 0.0)
    factor = np.maximum(1 + COUNT_ERROR * normals[:, :, 1], 0.0)
    counted = np.where(uniforms[:, :, 2] < MISSED, 0.0, np.minimum(eaten * factor, LARGEST_ENTRY))
    patients = uniforms.shape[-1]
    return Meals(*(np.ascontiguousarray(part.reshape(-1, patients)) for part in (minute, eaten, counted)))


def fixed_meals(days: int, patients: int) -> Meals:
    """The fixed day of everyone, repeated, counted without error."""
    start = [MINUTES_PER_DAY * day + 60 * (hour - START_HOUR) for day in range(days) for hour, _ in FIXED_DAY]
    grams = [grams for _ in range(days) for _, grams in FIXED_DAY]
    minute, eaten = (
        np.repeat(np.array(part, dtype=np.float64)[:, None], patients, axis=1) for part in (start, grams)
    )
    return Meals(minute, eaten, eaten.copy())


def bolus_U(counted_g: Array, sensor_mg_dL: Array, CR: Array, CF: Array) -> Array:
    """Bolus for a counted meal, with a correction of high sensor glucose, U [P]; 0 where nothing is counted.

    Args:
        counted_g: Announced carbohydrate [P], g.
        sensor_mg_dL: Last sensor reading [P], mg/dL.
        CR: Carbohydrate ratio [P], g/U.
        CF: Correction factor [P], mg/dL per U.
    """
    correction = np.where(sensor_mg_dL > BOLUS_CORRECTS_ABOVE, (sensor_mg_dL - BOLUS_TARGET) / CF, 0.0)
    bolus = np.minimum(counted_g / CR + correction, LARGEST_BOLUS)
    return np.where(counted_g > 0, bolus, 0.0)
