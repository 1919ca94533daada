"""A continuous glucose sensor: correlated errors of realistic size, read every 15 minutes.

Error model of simglucose 0.2.11 (``simulator.insulin.adults``; after Breton and Kovatchev 2008, J Diabetes
Sci Technol 2:853): e <- 0.7 (e + Normal(0, 1)) every 15 minutes, and the error in mg/dL is
-5.47 + 15.9574 sinh((e + 0.5444)/1.6898). Readings are taken when the error is drawn, so that nothing lies
between two draws.
"""

from __future__ import annotations

import numpy as np

from dosing.types import Array

READING_RANGE = (39.0, 400.0)
"""Lowest and highest reading, mg/dL; beyond them a sensor shows its limit."""

CORRELATION = 0.7


def next_error(e: Array, normal: Array) -> Array:
    """Hidden state of the error 15 minutes later [P], from independent standard normals [P]."""
    return CORRELATION * (e + normal)


def error_mg_dL(e: Array) -> Array:
    """Error of a reading, mg/dL [P], of the hidden state."""
    return -5.47 + 15.9574 * np.sinh((e + 0.5444) / 1.6898)


def reading(glucose_mg_dL: Array, error: Array | float) -> Array:
    """What the sensor shows, mg/dL [P]."""
    return np.clip(glucose_mg_dL + error, *READING_RANGE)
