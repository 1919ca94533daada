"""Warfarin and the INR: the model of Hamberg et al. 2010 and the patients it was fitted to.

Source: Hamberg et al. 2010, Clin Pharmacol Ther 87:727, doi 10.1038/clpt.2010.37, final parameter set.
Tablets are racemic; half the dose is S-warfarin, and only S acts in this model. Time in hours, amounts in mg:

    dA_g/dt = -k_a A_g;    dA_c/dt = k_a A_g - (CL/V) A_c;    C = A_c/V;    E = C^g / (EC50^g + C^g)
    two chains of three compartments, rates k1 = 3/MTT1 (fast factors F) and k2 = 3/MTT2 (slow factors H):
        dF1/dt = k1 (1 - E - F1);   dF2/dt = k1 (F1 - F2);   dF3/dt = k1 (F2 - F3);   H likewise with k2
    INR = INR0 + 20 (1 - (F3 + H3)/2)
    CL = (sum over the CYP2C9 alleles) (1 - 0.00571 (age - 71)) exp(eta_CL);   V = 14.3 exp(eta_V)
    EC50 = (sum over the VKORC1 -1639 alleles) exp(eta_EC50)

The published table of between-patient variability is read as variances (0.089, 0.054, 0.34), which fits the
coefficients of variation of the model of 2007 (31, 26 and 41 %); read as standard deviations it would make
the cohort far too uniform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dosing.types import AnyArray, Array

CL_ALLELE = {"*1": 0.174, "*2": 0.0879, "*3": 0.0422}
"""Clearance of S-warfarin per CYP2C9 allele (L/h)."""
EC50_ALLELE = {"G": 2.05, "A": 0.96}
"""Concentration of half the effect per VKORC1 -1639 allele (mg/L)."""
AGE_EFFECT, AGE_CENTRE = -0.00571, 71.0
"""Relative change of the clearance per year of age above the centre (y): clearance falls with age."""
VOLUME = 14.3
"""Volume of distribution (L)."""
ABSORPTION = 2.0
"""Rate k_a of absorption (1/h)."""
HILL = 1.15
"""Exponent g of the effect."""
TRANSIT = (28.6, 118.3)
"""Mean transit times of the chains of fast and slow factors (h)."""
INR_BASE, INR_SPAN = 1.0, 20.0
VARIANCES = (0.089, 0.054, 0.34)
"""Variances of eta_CL, eta_V and eta_EC50 between patients."""

CYP2C9 = (("*1", "*1"), ("*1", "*2"), ("*1", "*3"), ("*2", "*2"), ("*2", "*3"), ("*3", "*3"))
CYP2C9_SHARES = (0.587, 0.173, 0.167, 0.033, 0.027, 0.013)
"""Shares of the genotypes (Hamberg et al. 2007, table 1, doi 10.1038/sj.clpt.6100084)."""
VKORC1 = (("G", "G"), ("A", "G"), ("A", "A"))
VKORC1_SHARES = (0.39, 0.41, 0.20)
"""Shares of the genotypes with 0, 1 and 2 A alleles (same source)."""

AGE, SURFACE = (68.0, 12.0, 22.0, 90.0), (1.9, 0.2, 1.3, 2.6)
"""Mean, standard deviation and ends of the age (y) and of the body surface (m2); our choice."""
DRIFT_SD, DRIFT_DAYS = 0.35, 10.0
"""Standard deviation and time constant (days) of the drift of log EC50 within a patient."""
INTERACTION, INTERACTION_DAYS, INTERACTION_FROM = 0.15, 14.0, (20.0, 90.0)
"""Share of patients who take an interacting drug, for how long, and between which days that begins."""
INTERACTION_LOG = (-0.25, 0.25)
"""Mean and standard deviation of the log factor on the clearance under it."""
NORMALS, DICE = 7, 4
"""Standard normals and uniforms that a patient is drawn from."""

STEPS = (*(0.25,) * 8, *(0.5,) * 4, *(2.0,) * 10)
"""Steps of the integration over one day (h): short while a tablet is absorbed, long after."""


def clearance(alleles: ArrayLike, age: ArrayLike) -> Array:
    """Typical clearance (L/h) of a sum of allele clearances (L/h) at an age (y)."""
    return np.asarray(alleles) * (1.0 + AGE_EFFECT * (np.asarray(age) - AGE_CENTRE))


def steady_dose(inr: float, cl: ArrayLike, ec50: ArrayLike) -> Array:
    """Dose (mg/day) under which the average concentration holds an INR, for CL (L/h) and EC50 (mg/L)."""
    effect = (inr - INR_BASE) / INR_SPAN
    concentration = np.asarray(ec50) * (effect / (1.0 - effect)) ** (1.0 / HILL)
    return np.asarray(48.0 * np.asarray(cl) * concentration)


def _day(rate: float) -> tuple[Array, Array]:
    """One day of a chain by classical Runge-Kutta steps, which are matrices because the chain is linear.

    Args:
        rate: k of the chain (1/h).

    Returns:
        The day's propagator [3, 3], and the weight of the input 1 - E at each node [3, 2 * steps + 1]: the
        ends and the middle of every step.
    """
    chain, enter = rate * (np.eye(3, k=-1) - np.eye(3)), np.array([rate, 0.0, 0.0])

    def advance(x: Array, inputs: tuple[float, float, float], h: float) -> Array:
        def slope(x: Array, u: float) -> Array:
            return chain @ x + (enter if x.ndim == 1 else enter[:, None]) * u

        begin, middle, end = inputs
        a = slope(x, begin)
        b = slope(x + h / 2 * a, middle)
        c = slope(x + h / 2 * b, middle)
        return np.asarray(x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, end)))

    through, weights = np.eye(3), np.zeros((3, len(NODES)))
    for step, h in enumerate(STEPS):
        nothing = (0.0, 0.0, 0.0)
        through, weights = advance(through, nothing, h), advance(weights, nothing, h)
        for place in range(3):
            unit = (float(place == 0), float(place == 1), float(place == 2))
            weights[:, 2 * step + place] += advance(np.zeros(3), unit, h)
    return through, weights


NODES = np.concatenate(
    [[0.0], np.repeat(np.cumsum(STEPS), 2) - np.tile([0.5, 0.0], len(STEPS)) * np.repeat(STEPS, 2)]
)
"""Times at which the effect is computed within a day (h): the ends and the middle of every step."""

_CHAINS = tuple(_day(3.0 / transit) for transit in TRANSIT)
_THROUGH = np.zeros((6, 6))
_THROUGH[:3, :3], _THROUGH[3:, 3:] = _CHAINS[0][0], _CHAINS[1][0]
_WEIGHTS = np.concatenate([_CHAINS[0][1], _CHAINS[1][1]])  # [6, nodes]


@dataclass
class Physiology:
    """P patients' bodies, moved on one day at a time; every operation is elementwise along the patients.

    Amounts are exact between doses, since absorption and elimination are linear; the chains are integrated by
    classical Runge-Kutta steps (:data:`STEPS`).

    Attributes:
        volume: V (L) [P].
        gut: amount A_g of S-warfarin (mg) [P].
        body: amount A_c (mg) [P].
        chains: F1, F2, F3, H1, H2, H3 [6, P].
        base: INR without warfarin [P].
    """

    volume: Array
    gut: Array
    body: Array
    chains: Array
    base: Array

    @classmethod
    def untreated(cls, volume: Array, base: float = INR_BASE) -> Physiology:
        """Patients who never had a dose, from their volumes (L) [P]."""
        none = np.zeros_like(volume)
        return cls(volume, none, none.copy(), np.ones((6, len(volume))), np.full_like(volume, base))

    def day(self, dose: Array, cl: Array, ec50: Array) -> None:
        """Take a dose and live 24 hours.

        Args:
            dose: racemic warfarin that is taken now (mg) [P].
            cl: clearance of this day (L/h) [P].
            ec50: concentration of half the effect of this day (mg/L) [P].
        """
        gut, rate = self.gut + 0.5 * dose, cl / self.volume
        absorbed = gut * ABSORPTION / (ABSORPTION - rate)  # rate is far below k_a: 1.2 L/h over 5 L at most
        half = (ec50 * self.volume) ** HILL
        chains = np.zeros_like(self.chains)
        for row, parts in zip(chains, _THROUGH, strict=True):
            for share, part in zip(parts, self.chains, strict=True):
                if share:
                    row += share * part
        left, decay = self.body + absorbed, {h: np.exp(-rate * 0.5 * h) for h in set(STEPS)}
        for node, (time, weights) in enumerate(zip(NODES, _WEIGHTS.T, strict=True)):
            if node:
                left = left * decay[STEPS[(node - 1) // 2]]
            body = left - absorbed * np.exp(-ABSORPTION * time)
            power = np.maximum(body, 0.0) ** HILL
            chains += weights[:, None] * (half / (power + half))  # 1 - E
        self.body, self.gut, self.chains = np.maximum(body, 0.0), gut * np.exp(-ABSORPTION * 24.0), chains

    @property
    def inr(self) -> Array:
        """True INR now [P]."""
        return np.asarray(self.base + INR_SPAN * (1.0 - (self.chains[2] + self.chains[5]) / 2.0))


@dataclass(frozen=True)
class Traits:
    """Who P patients are; arrays [P].

    Attributes:
        age: in years.
        surface: body surface (m2).
        alleles: numbers of CYP2C9 ``*2`` and ``*3`` and VKORC1 ``A`` alleles, named ``"A alleles"`` etc.
        share: sum of the allele clearances over that of the wild type.
        cl: clearance (L/h).
        volume: V (L).
        ec50: concentration of half the effect (mg/L), before any drift.
        drift: first value of the drift of its logarithm.
        interacts_from: day on which an interacting drug is begun; infinity where none is.
        slowed: factor on the clearance under it.
    """

    age: Array
    surface: Array
    alleles: dict[str, AnyArray]
    share: Array
    cl: Array
    volume: Array
    ec50: Array
    drift: Array
    interacts_from: Array
    slowed: Array

    @classmethod
    def of(cls, normal: Array, dice: Array) -> Traits:
        """From standard normals [7, P] and uniforms [4, P]."""
        two, three, a, alleles_cl, alleles_ec50 = _genotypes(*dice[:2])
        eta = np.sqrt(np.asarray(VARIANCES))[:, None] * normal[:3]
        age, surface = (
            np.clip(mean + sd * z, low, high)
            for (mean, sd, low, high), z in zip((AGE, SURFACE), normal[3:5], strict=True)
        )
        begin, end = INTERACTION_FROM
        mean, sd = INTERACTION_LOG
        return cls(
            age=age,
            surface=surface,
            alleles={"*2 alleles": two, "*3 alleles": three, "A alleles": a},
            share=alleles_cl / (2 * CL_ALLELE["*1"]),
            cl=clearance(alleles_cl, age) * np.exp(eta[0]),
            volume=VOLUME * np.exp(eta[1]),
            ec50=alleles_ec50 * np.exp(eta[2]),
            drift=DRIFT_SD * normal[6],
            interacts_from=np.where(dice[2] < INTERACTION, np.floor(begin + (end - begin) * dice[3]), np.inf),
            slowed=np.exp(mean + sd * normal[5]),
        )


def _genotypes(cyp2c9: Array, vkorc1: Array) -> tuple[AnyArray, ...]:
    """Numbers of *2, *3 and A alleles, sums of allele clearances and of allele EC50s, from uniforms [P]."""

    def of(pairs: Any, shares: tuple[float, ...], dice: Array, value: Callable[[Any], float]) -> AnyArray:
        place = np.minimum(np.searchsorted(np.cumsum(shares), dice, side="right"), len(shares) - 1)
        return np.array([value(pair) for pair in pairs])[place]

    first, second = (CYP2C9, CYP2C9_SHARES, cyp2c9), (VKORC1, VKORC1_SHARES, vkorc1)
    return (
        of(*first, lambda pair: pair.count("*2")),
        of(*first, lambda pair: pair.count("*3")),
        of(*second, lambda pair: pair.count("A")),
        of(*first, lambda pair: sum(CL_ALLELE[allele] for allele in pair)),
        of(*second, lambda pair: sum(EC50_ALLELE[allele] for allele in pair)),
    )
