"""Virtual adults with type 1 diabetes: ten published parameter sets, and patients varied around them.

``adults.csv`` holds the ten adults of the UVA/Padova type 1 diabetes simulator, form S2008 (Dalla Man, Rizza,
Cobelli 2007, IEEE Trans Biomed Eng 54:1740; Kovatchev et al. 2009, J Diabetes Sci Technol 3:44), as published
with simglucose 0.2.11: Copyright (c) 2017 Jinyu Xie, MIT licence, github.com/jxx123/simglucose. Symbols are
those of the publications, units per kg of body weight.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from dosing.types import AnyArray, Array

PMOL_PER_UNIT = 6000.0
"""Insulin in one unit U, pmol: the convention of this model."""

MINUTES_PER_HOUR = 60.0

HEPATIC_EXTRACTION = 0.6
"""HEb: share of insulin that the liver removes."""

INSULIN_INDEPENDENT_USE = 1.0
"""Fcns: glucose used whatever the insulin, mg/kg/min."""

RENAL_THRESHOLD = 339.0
"""ke2: plasma glucose above which the kidney loses some, mg/kg."""

VARIATION = 0.10
"""Standard deviation of the log of each varied parameter. Our choice, without a published source."""

CANDIDATES = 8
"""Patients drawn for each patient that is kept: the first that can live is taken. 3 in 100 cannot, so that
eight in a row fail once in 10^12; then the published adult stands unvaried."""

BASAL_RANGE = (0.3, 3.0)
"""Scheduled basal rates that a varied patient may have, U/h."""

PARAMETERS = (
    *("BW", "EGPb", "Gb", "Ib", "kabs", "kmax", "kmin", "b", "dd", "Vg", "Vi", "Vmx", "Km0", "k2", "k1"),
    *("p2u", "m1", "m4", "ki", "kp2", "kp3", "kd", "ksc", "ka1", "ka2", "CR", "CF", "TDI"),
)
"""Rows of ``adults.csv``: the fields of :class:`Adults` in their order."""

VARIED = (
    *("BW", "kabs", "kmax", "kmin", "Vg", "Vi", "Vmx", "k1", "k2", "p2u", "m1", "m4", "ki", "kp2", "kp3"),
    *("kd", "ka1", "ka2", "Ib"),
)
"""Parameters that differ between a varied patient and its published adult."""


@dataclass(frozen=True)
class Adults:
    """Parameters of P adults, each an array [P], and what follows from them at basal steady state."""

    BW: Array
    """Body weight, kg."""
    EGPb: Array
    """Basal endogenous glucose production, mg/kg/min."""
    Gb: Array
    """Basal plasma glucose, mg/dL."""
    Ib: Array
    """Basal plasma insulin, pmol/L."""
    kabs: Array
    """Absorption from the gut, 1/min."""
    kmax: Array
    """Fastest gastric emptying, 1/min."""
    kmin: Array
    """Slowest gastric emptying, 1/min."""
    b: Array
    """Share of the meal in the stomach at which emptying slows, 1."""
    dd: Array
    """Share of the meal in the stomach at which emptying is fast again, 1."""
    Vg: Array
    """Volume of glucose, dL/kg."""
    Vi: Array
    """Volume of insulin, L/kg."""
    Vmx: Array
    """Growth of glucose use with insulin action, mg/kg/min per pmol/L."""
    Km0: Array
    """Tissue glucose at half the greatest use, mg/kg."""
    k2: Array
    """Glucose from tissue to plasma, 1/min."""
    k1: Array
    """Glucose from plasma to tissue, 1/min."""
    p2u: Array
    """Rate of insulin action on glucose use, 1/min."""
    m1: Array
    """Insulin from liver to plasma, 1/min."""
    m4: Array
    """Loss of insulin from plasma, 1/min."""
    ki: Array
    """Rate of the delayed insulin signal, 1/min."""
    kp2: Array
    """Fall of glucose production with glucose, 1/min."""
    kp3: Array
    """Fall of glucose production with delayed insulin, mg/kg/min per pmol/L."""
    kd: Array
    """From the first to the second form of insulin under the skin, 1/min."""
    ksc: Array
    """Rate at which glucose at the sensor follows plasma, 1/min."""
    ka1: Array
    """Absorption of the first form of insulin, 1/min."""
    ka2: Array
    """Absorption of the second form of insulin, 1/min."""
    CR: Array
    """Carbohydrate ratio, g covered by one U."""
    CF: Array
    """Correction factor, fall of glucose by one U, mg/dL."""
    TDI: Array
    """Total daily insulin, U/day."""

    @property
    def m2(self) -> Array:
        """Insulin from plasma to liver, 1/min [P]."""
        return 2.5 * self.m4

    @property
    def m30(self) -> Array:
        """Loss of insulin in the liver, 1/min [P]."""
        return HEPATIC_EXTRACTION * self.m1 / (1 - HEPATIC_EXTRACTION)

    @property
    def Gpb(self) -> Array:
        """Basal plasma glucose, mg/kg [P]."""
        return self.Gb * self.Vg

    @property
    def Ipb(self) -> Array:
        """Basal plasma insulin, pmol/kg [P]."""
        return self.Ib * self.Vi

    @property
    def Ilb(self) -> Array:
        """Basal insulin in the liver, pmol/kg [P]."""
        return self.m2 * self.Ipb / (self.m1 + self.m30)

    @property
    def Gtb(self) -> Array:
        """Basal tissue glucose, mg/kg [P]."""
        return (INSULIN_INDEPENDENT_USE - self.EGPb + self.k1 * self.Gpb) / self.k2

    @property
    def Vm0(self) -> Array:
        """Greatest glucose use without insulin action, mg/kg/min [P]."""
        return (self.EGPb - INSULIN_INDEPENDENT_USE) * (self.Km0 + self.Gtb) / self.Gtb

    @property
    def kp1(self) -> Array:
        """Glucose production without glucose and insulin, mg/kg/min [P]."""
        return self.EGPb + self.kp2 * self.Gpb + self.kp3 * self.Ib

    @property
    def u2ss(self) -> Array:
        """Insulin that keeps the basal steady state, pmol/kg/min [P]."""
        return (self.m2 + self.m4) * self.Ipb - self.m1 * self.Ilb

    @property
    def basal_U_per_h(self) -> Array:
        """Scheduled basal rate, U/h [P]."""
        return self.u2ss * self.BW * (MINUTES_PER_HOUR / PMOL_PER_UNIT)

    def steady_state(self) -> Array:
        """State [13, P] that the scheduled basal rate keeps as it is (``simulator.insulin.glucose``)."""
        nothing = np.zeros_like(self.BW)
        depot = self.u2ss / (self.kd + self.ka1)
        plasma = [self.Gpb, self.Gtb, self.Ipb, nothing, self.Ib, self.Ib, self.Ilb]
        return np.stack([nothing] * 3 + plasma + [depot, self.kd * depot / self.ka2, self.Gpb])

    def columns(self, which: slice | AnyArray) -> Adults:
        """The adults at some places."""
        return Adults(**{name: getattr(self, name)[which] for name in PARAMETERS})


@cache
def published_adults() -> Adults:
    """The ten published adults, A001 to A010."""
    text = (files("simulator.insulin") / "adults.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))[1:]
    return Adults(**{row[0]: np.array(row[1:], dtype=np.float64) for row in rows})


def varied_adults(which: Array, normals: Array) -> Adults:
    """Patients around published adults: each parameter in ``VARIED`` times exp(Normal(0, 0.1)).

    A candidate cannot live, and the next is taken, where the kidney would lose glucose at steady state, where
    glucose use without insulin would not be positive, or where the basal rate leaves 0.3 to 3 U/h.

    Args:
        which: Uniforms on [0, 1) that choose the published adult [P].
        normals: Standard normals [CANDIDATES, len(VARIED), P].

    Returns:
        P adults.
    """
    base = published_adults().columns((which * len(published_adults().BW)).astype(np.int64))
    chosen = {name: getattr(base, name).copy() for name in PARAMETERS}
    open_places = np.ones(which.shape, dtype=np.bool_)
    for normal in normals:
        factors = dict(zip(VARIED, np.exp(VARIATION * normal), strict=True))
        tried = {name: getattr(base, name) * factors.get(name, 1.0) for name in PARAMETERS}
        taken = open_places & _can_live(Adults(**tried))
        for name in VARIED:
            chosen[name] = np.where(taken, tried[name], chosen[name])
        open_places &= ~taken
    return Adults(**chosen)


def _can_live(adults: Adults) -> NDArray[np.bool_]:
    basal = adults.basal_U_per_h
    steady = (adults.Gpb < RENAL_THRESHOLD) & (adults.Vm0 > 0)
    return np.asarray(steady & (basal >= BASAL_RANGE[0]) & (basal <= BASAL_RANGE[1]))
