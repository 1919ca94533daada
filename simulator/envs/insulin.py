"""Insulin pump rates for adults with type 1 diabetes, decided every 15 minutes of a day.

Sources: UVA/Padova type 1 diabetes simulator, form S2008 (``simulator.insulin.adults``); oref0's safety
multipliers of the basal rate; consensus targets of Battelino et al. 2019, Diabetes Care 42:1593.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from dosing.safety import BaselineLimit, DoseLimits
from simulator.engine.scenario import Choice, NamedPolicy, Scenario, Target
from simulator.insulin.on_board import insulin_left
from simulator.insulin.patients import (
    BASAL,
    CHOICES,
    ENTRIES,
    GLUCOSE,
    LARGEST_RATE,
    ON_BOARD,
    STEP_MIN,
    STEPS_PER_DAY,
    InsulinOptions,
    InsulinPatients,
)
from simulator.insulin.policies import POLICIES

BASAL_MULTIPLE = 4.0
"""Highest rate as a multiple of the scheduled basal rate, as in oref0."""

HOURS_ON_BOARD = 3.4
"""Insulin beyond the scheduled basal rate, boluses included, past which no rate above basal adds, in hours of
the scheduled basal rate: about 0.05 U/kg, but in what is observed. Our choice, without a published source."""


class Insulin(Scenario):
    """One day of an insulin pump, in two variants.

    - ``adults``: patients varied round the ten published adults.
    - ``published``: the ten published adults themselves; patient k is adult k modulo 10.
    """

    env_id = "dosing/Insulin-v0"
    title = "Insulin pump rate in type 1 diabetes (UVA/Padova S2008)"
    variants: ClassVar[tuple[str, ...]] = ("adults", "published")
    version = "1.0"
    sources: ClassVar[tuple[str, ...]] = (
        "Dalla Man, Rizza, Cobelli 2007, IEEE Trans Biomed Eng 54:1740, meal simulation model",
        "Kovatchev et al. 2009, J Diabetes Sci Technol 3:44, form S2008",
        "simglucose 0.2.11, Copyright (c) 2017 Jinyu Xie, MIT licence: adults, sensor error, random meals",
        "oref0 (OpenAPS): at most four times the basal rate",
        "Battelino et al. 2019, Diabetes Care 42:1593, thresholds",
        "Kovatchev et al. 1997, Diabetes Care 20:1655, risk of glucose",
    )
    option_names = tuple(InsulinOptions.__dataclass_fields__)
    choices: ClassVar[Mapping[str, Choice]] = CHOICES
    decision_interval = "15 min"
    terminates = True
    motion_text = "13 states of glucose and insulin, classical Runge-Kutta of order four, steps of 1 min"
    reward_text = (
        "max(1 - RI/7.755, -10), RI = 10 (1.509 (ln(G)^1.084 - 5.381))^2, G the true glucose at the end of "
        "the step, mg/dL; at an early end charged for every step that is lost"
    )
    cost_text = (
        "1 where G < 70 mg/dL, 5 where G < 54 mg/dL, else 0; at an early end charged for every step that is "
        "lost; never part of the reward"
    )
    events: ClassVar[Mapping[str, str]] = {
        "below_70": "G < 70 mg/dL at the end of the step (level 1; Battelino 2019: less than 4 % of time)",
        "below_54": "G < 54 mg/dL at the end of the step (level 2; Battelino 2019: less than 1 % of time)",
        "above_180": "G > 180 mg/dL at the end of the step (Battelino 2019: less than 25 % of time)",
        "above_250": "G > 250 mg/dL at the end of the step (Battelino 2019: less than 5 % of time)",
        "hypoglycaemia_level_1": "an event begins: 15 min in a row below 70 mg/dL (Battelino 2019)",
        "hypoglycaemia_level_2": "an event begins: 15 min in a row below 54 mg/dL (Battelino 2019)",
    }
    target: ClassVar[Target | None] = Target(
        ENTRIES[GLUCOSE].name,
        "glucose_mg_dL",
        "mg/dL",
        70.0,
        180.0,
        "Battelino et al. 2019: more than 70 % of time",
    )
    budget: ClassVar[float | None] = STEPS_PER_DAY * (0.04 + 4 * 0.01)
    policies: ClassVar[Mapping[str, NamedPolicy]] = POLICIES
    recorded_by = "protocol"
    clinic_rules = ("basal:0", "protocol:0")
    searched = 200
    dose_name = "insulin rate"
    safe_default = "the scheduled basal rate"
    model_limits_text = (
        "Adults only. No counter-regulation: glucose below about 40 mg/dL is not meaningful. No exercise, "
        "illness, daily rhythm of sensitivity, pump or site failure."
    )
    start_text = "06:00, fasting, at the steady state of the scheduled basal rate"
    noise_text = (
        "meals at random times and of random size, counted with an error of 20 %, 5 % of them missed; sensor "
        "error e <- 0.7 (e + Normal(0, 1)), -5.47 + 15.9574 sinh((e + 0.5444)/1.6898) mg/dL"
    )

    def __init__(self, variant: str) -> None:
        """Take one variant; raises UserError for an unknown one."""
        self.variant = self.checked(variant)
        self.visits = STEPS_PER_DAY
        self.limits = DoseLimits((0.0,), (LARGEST_RATE,), "U/h")
        adds = float(insulin_left(np.arange(float(STEP_MIN))).sum()) / 60  # U of one U/h for a step
        self.baseline_limit = BaselineLimit(
            ENTRIES[BASAL].name, ENTRIES[ON_BOARD].name, BASAL_MULTIPLE, HOURS_ON_BOARD, adds
        )

    def own_options(self, given: Mapping[str, Any]) -> InsulinOptions:
        """Check how meals come and how glucose is seen; raises UserError for a bad value."""
        return InsulinOptions(**given)

    def patients(self, n: int, cohort: str, own: InsulinOptions, steps: int) -> InsulinPatients:
        """``n`` adults of a cohort."""
        return InsulinPatients(self, n, cohort, own, steps)
