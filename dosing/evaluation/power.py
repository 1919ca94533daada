"""What a study of this size can tell, before it is run: the least difference it would find.

Source: the noncentral t distribution, Owen 1968, Technometrics 10:445.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import stdtrit

from dosing.errors import UserError


def standard_error(patient_sd: float, seed_sd: float, *, seeds: int, patients: int) -> float:
    """Return the standard error of a mean paired difference: sqrt(seed_sd^2 / S + patient_sd^2 / (S P)).

    Args:
        patient_sd: standard deviation of the difference between patients of one seed.
        seed_sd: standard deviation of a seed's expected difference between trainings; 0 with one seed, which
            cannot see it.
        seeds: S, each with patients of its own.
        patients: P for each seed.

    Raises:
        UserError: a spread that is negative or not finite, or a size below 1.
    """
    if not all(math.isfinite(sd) and sd >= 0.0 for sd in (patient_sd, seed_sd)):
        raise UserError(f"a spread is a finite number of at least 0, got {patient_sd} and {seed_sd}")
    if seeds < 1 or patients < 1:
        raise UserError(f"a study has 1 or more seeds and patients, got {seeds} and {patients}")
    return math.sqrt((seed_sd**2 + patient_sd**2 / patients) / seeds)


def minimum_detectable_difference(
    patient_sd: float,
    seed_sd: float,
    *,
    seeds: int,
    patients: int,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Return the true difference that a two-sided t test at alpha finds with this power, in units of the sds.

    The test is that of ``dosing.evaluation.statistics.paired_difference``: S - 1 degrees of freedom, or P - 1
    with one seed. It finds a true difference d with the probability that a noncentral t with noncentrality d
    / standard error lies beyond the critical t on its own side.

    Raises:
        UserError: alpha or power no probability, a power below alpha, or no degree of freedom; as
            :func:`standard_error`.
    """
    from scipy.stats import nct  # takes half a second

    if not 0.0 < alpha < power < 1.0:
        raise UserError(f"a test needs 0 < alpha < power < 1, got alpha {alpha} and power {power}")
    error = standard_error(patient_sd, seed_sd, seeds=seeds, patients=patients)
    dof = (seeds if seeds > 1 else patients) - 1
    if dof < 1:
        raise UserError("one patient of one seed has no spread to make an interval from")
    critical = float(stdtrit(dof, 1.0 - alpha / 2.0))

    def missing(shift: float) -> float:
        return float(nct.sf(critical, dof, shift)) - power

    high = critical + 1.0
    while missing(high) < 0.0:
        high *= 2.0
    return error * float(brentq(missing, 0.0, high, xtol=1e-10))
