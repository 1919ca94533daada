"""What a glucose value is worth, what it costs, and when hypoglycaemia begins.

Thresholds: consensus for adults with type 1 diabetes, Battelino et al. 2019, Diabetes Care 42:1593. Risk:
Kovatchev et al. 1997, Diabetes Care 20:1655.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from dosing.types import Array
from simulator.engine.scenario import Flags

RISK_AT_70 = 7.755
"""Risk of 70 mg/dL, at which the reward is 0."""

EVENT_MIN = 15
"""Minutes below a threshold that make an event, and minutes at 70 mg/dL or above that end it."""


def risk(glucose_mg_dL: Array) -> Array:
    """Kovatchev's risk of glucose: 0 at 112.5 mg/dL, growing towards both sides."""
    log = np.log(np.maximum(glucose_mg_dL, 1.0))
    value: Array = 10 * (1.509 * (log**1.084 - 5.381)) ** 2
    return value


def reward(glucose_mg_dL: Array) -> Array:
    """1 at 112.5 mg/dL, about 0 at 70 and 180 mg/dL, at least -10."""
    return np.clip(1 - risk(glucose_mg_dL) / RISK_AT_70, -10.0, 1.0)


def cost(glucose_mg_dL: Array) -> Array:
    """1 below 70 mg/dL, 5 below 54 mg/dL."""
    return (glucose_mg_dL < 70) + 4.0 * (glucose_mg_dL < 54)


class Hypoglycaemia:
    """Which of n patients enters an event of hypoglycaemia, minute by minute.

    An event of level 1 (level 2) begins with the 15th minute in a row below 70 (54) mg/dL and ends with the
    15th in a row at 70 mg/dL or above.
    """

    LEVELS: ClassVar[dict[str, float]] = {"hypoglycaemia_level_1": 70.0, "hypoglycaemia_level_2": 54.0}
    NAMES: ClassVar[tuple[str, ...]] = tuple(LEVELS)

    def __init__(self, n: int) -> None:
        """Begin with nobody in an event."""
        self._low = {name: np.zeros(n, dtype=np.int64) for name in self.NAMES}
        self._inside = {name: np.zeros(n, dtype=np.bool_) for name in self.NAMES}
        self._safe = np.zeros(n, dtype=np.int64)

    def minute(self, glucose_mg_dL: Array) -> dict[str, Flags]:
        """Take the glucose of one more minute [n]; returns who enters an event of each level now [n]."""
        self._safe = (self._safe + 1) * (glucose_mg_dL >= 70)
        begins = {}
        for name, threshold in self.LEVELS.items():
            self._low[name] = (self._low[name] + 1) * (glucose_mg_dL < threshold)
            begins[name] = (self._low[name] >= EVENT_MIN) & ~self._inside[name]
            self._inside[name] = (self._inside[name] | begins[name]) & (self._safe < EVENT_MIN)
        return begins
