"""Glucose and insulin in the body, form S2008 of the UVA/Padova simulator: 13 states, time in minutes.

Inputs: carbohydrate eaten d (mg/min), insulin u (pmol/kg/min). x1 to x13 are ``state[0]`` to ``state[12]``::

    stomach, solid    dx1 = -kmax x1 + d                        liquid  dx2 = kmax x1 - kgut x2
    gut               dx3 = kgut x2 - kabs x3                   Ra = f kabs x3 / BW
    plasma glucose    dx4 = EGP + Ra - Fcns - Ren - k1 x4 + k2 x5
    tissue glucose    dx5 = -(Vm0 + Vmx x7) x5 / (Km0 + x5) + k1 x4 - k2 x5                         (mg/kg)
    plasma insulin    dx6 = -(m2 + m4) x6 + m1 x10 + ka1 x11 + ka2 x12,  I = x6 / Vi                (pmol/L)
    insulin action    dx7 = p2u (I - Ib - x7)        delayed  dx8 = -ki (x8 - I)    dx9 = -ki (x9 - x8)
    liver insulin     dx10 = -(m1 + m30) x10 + m2 x6
    under the skin    dx11 = u - (ka1 + kd) x11      dx12 = kd x11 - ka2 x12
    sensor site       dx13 = -ksc (x13 - x4)
    EGP = max(kp1 - kp2 x4 - kp3 x9, 0)       Ren = max(ke1 (x4 - ke2), 0)
    kgut = kmin + (kmax - kmin)/2 (tanh(aa (q - b D)) - tanh(cc (q - dd D)) + 2),  q = x1 + x2,
           aa = 5 / (2 D (1 - b)),  cc = 5 / (2 D dd);  kgut = kmax before the first meal

D, in mg, is what the stomach held when eating began and what has been eaten since; it keeps its last value
after the meal. A mass that reaches zero stops falling. The 2008 parameters carry no counter-regulation, so
that glucose below about 40 mg/dL is not meaningful. Sources: ``simulator.insulin.adults``.
"""

from __future__ import annotations

import numpy as np

from dosing.types import Array
from simulator.insulin.adults import (
    INSULIN_INDEPENDENT_USE,
    PMOL_PER_UNIT,
    RENAL_THRESHOLD,
    Adults,
)

ABSORBED = 0.9
"""f: share of eaten carbohydrate that reaches the blood."""

RENAL_LOSS = 0.0005
"""ke1: loss through the kidney above its threshold, 1/min."""

EATING_G_PER_MIN = 5.0
"""How fast a meal is eaten."""

MG_PER_G = 1000.0


class GlucoseModel:
    """P adults, advanced together minute by minute; each operation is elementwise along the patients."""

    def __init__(self, adults: Adults) -> None:
        """Put the adults at the steady state of their scheduled basal rates, with empty stomachs."""
        self.adults = adults
        self.state: Array = adults.steady_state()
        """x1 to x13 of each patient [13, P]."""
        size = adults.BW.shape[0]
        self._planned_g = np.zeros(size)
        self._eating = np.zeros(size, dtype=np.bool_)
        self._in_stomach_mg = np.zeros(size)
        self._eaten_mg = np.zeros(size)
        self._flow = _Flow(adults)

    @property
    def plasma_mg_dL(self) -> Array:
        """Glucose in plasma, mg/dL [P]."""
        return np.asarray(self.state[3] / self.adults.Vg)

    @property
    def sensor_site_mg_dL(self) -> Array:
        """Glucose where a sensor sits, mg/dL [P]."""
        return np.asarray(self.state[12] / self.adults.Vg)

    def minute(self, meal_g: Array | float, insulin_U_per_min: Array) -> None:
        """Advance by one minute: one step of the classical Runge-Kutta method of order four.

        Args:
            meal_g: Carbohydrate of meals that begin now [P], g; eaten at 5 g/min, after what is on the plate.
            insulin_U_per_min: Insulin infused during this minute [P], U/min.
        """
        eaten = self._eat(meal_g)
        meal_mg = self._in_stomach_mg + self._eaten_mg
        flow, x = self._flow, self.state
        flow.set_minute(eaten, meal_mg, insulin_U_per_min * PMOL_PER_UNIT / self.adults.BW)
        first = flow(x)
        second = flow(x + 0.5 * first)
        third = flow(x + 0.5 * second)
        second += third
        third += x
        fourth = flow(third)
        second += second
        second += first
        second += fourth
        second *= 1 / 6
        x += second

    def _eat(self, meal_g: Array | float) -> Array:
        """Take this minute's bites from the plates; returns them, mg [P]."""
        self._planned_g += meal_g
        bite = np.minimum(EATING_G_PER_MIN, self._planned_g)
        self._planned_g -= bite
        eating = bite > 0
        begins = eating & ~self._eating
        self._in_stomach_mg = np.where(begins, self.state[0] + self.state[1], self._in_stomach_mg)
        self._eaten_mg = np.where(begins, 0.0, self._eaten_mg) + MG_PER_G * bite
        self._eating = eating
        return MG_PER_G * bite


class _Flow:
    """Time derivative of the state, with what stays the same within a minute."""

    def __init__(self, adults: Adults) -> None:
        a = self.adults = adults
        self.gut_half = 0.5 * (a.kmax - a.kmin)
        self.appearance = ABSORBED * a.kabs / a.BW
        self.plasma_out, self.liver_out = a.m2 + a.m4, a.m1 + a.m30
        self.skin_out = a.ka1 + a.kd
        self.kp1, self.m2, self.Vm0 = a.kp1, a.m2, a.Vm0

    def set_minute(self, eaten_mg: Array, meal_mg: Array, insulin: Array) -> None:
        """Set d (mg/min), D (mg) and u (pmol/kg/min), each [P]."""
        a = self.adults
        self.eaten, self.insulin = eaten_mg, insulin
        self.empty = meal_mg <= 0
        full = np.where(self.empty, 1.0, meal_mg)
        self.bend = full * np.stack([a.b, a.dd])
        self.steep = 2.5 / (full * np.stack([1 - a.b, a.dd]))

    def __call__(self, x: Array) -> Array:
        """Derivative [13, P] of states [13, P], per minute."""
        a, out = self.adults, np.empty_like(x)
        self._stomach(x, out)
        glucose, tissue = x[3], x[4]
        made = np.maximum(self.kp1 - a.kp2 * glucose - a.kp3 * x[8], 0.0)
        lost = np.maximum(RENAL_LOSS * (glucose - RENAL_THRESHOLD), 0.0)
        to_tissue = a.k1 * glucose - a.k2 * tissue
        used = (self.Vm0 + a.Vmx * x[6]) * tissue / (a.Km0 + tissue)
        out[3] = made + self.appearance * x[2] - INSULIN_INDEPENDENT_USE - lost - to_tissue
        out[4] = to_tissue - used
        out[5] = a.m1 * x[9] + a.ka1 * x[10] + a.ka2 * x[11] - self.plasma_out * x[5]
        concentration = x[5] / a.Vi
        out[6] = a.p2u * (concentration - a.Ib - x[6])
        out[7] = a.ki * (concentration - x[7])
        out[8] = a.ki * (x[7] - x[8])
        out[9] = self.m2 * x[5] - self.liver_out * x[9]
        out[10] = self.insulin - self.skin_out * x[10]
        out[11] = a.kd * x[10] - a.ka2 * x[11]
        out[12] = a.ksc * (glucose - x[12])
        out[3:6] *= x[3:6] >= 0
        out[9:] *= x[9:] >= 0
        return out

    def _stomach(self, x: Array, out: Array) -> None:
        """Write the derivative of stomach and gut into ``out``."""
        slow = np.tanh(self.steep * (x[0] + x[1] - self.bend))
        emptying = self.adults.kmin + self.gut_half * (slow[0] - slow[1] + 2.0)
        if self.empty.any():
            emptying = np.where(self.empty, self.adults.kmax, emptying)
        ground, passed = self.adults.kmax * x[0], emptying * x[1]
        out[0], out[1] = self.eaten - ground, ground - passed
        out[2] = passed - self.adults.kabs * x[2]
