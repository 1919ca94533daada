"""Ceilings as measured, to stand beside every result of their scenario without computing them again.

Made by ``python -m simulator ceiling dosing/Treatment-v0 --cohort evaluation --patients 2000 --trained`` with
``--variant``: patients 0 to 1,999 of the evaluation cohort of seed 0, 24 visits, undiscounted. A slow test
computes the untrained ones again.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One ceiling of a scenario."""

    policy: str
    """What kind of policy."""
    knows: str
    """What it may look at."""
    value: float
    """Mean expected return."""
    half_width: float
    """Half-width of its 95 % interval over patients."""
    patients: int = 2000
    """Patients it was measured on."""


_TREATMENT = {
    "corrected": (
        Measured("clairvoyant", "mean, covariance", 7.76, 0.20),
        Measured("recurrent", "states and doses so far", 6.51, 0.19),
        Measured("myopic, true mean", "mean, covariance", 5.63, 0.13),
        Measured("memoryless", "state", 5.50, 0.12),
    ),
    "simenv3": (
        Measured("clairvoyant", "mean, covariance", 8.04, 0.20),
        Measured("recurrent", "states and doses so far", 6.69, 0.19),
        Measured("myopic, true mean", "mean, covariance", 5.74, 0.14),
        Measured("memoryless", "state", 5.67, 0.13),
    ),
}


def measured(env_id: str, options: dict[str, Any]) -> tuple[Measured, ...]:
    """Return the measured ceilings of a scenario; none where its options change what they stand for."""
    same = {"steps": 24, "noise": 0.0, "history": 0, "latent": False, "missing": 0.0}
    free = ("variant", "cohort", "first_patient", "out_of_range")
    changed = [name for name, value in options.items() if name not in free and value != same.get(name)]
    if env_id != "dosing/Treatment-v0" or changed:
        return ()
    return _TREATMENT.get(options.get("variant", "corrected"), ())
