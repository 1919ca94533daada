"""Patients of scenarios round a latent mean: the batched core, seen through the observation options."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from dosing.types import AnyArray, Array, Float32Array
from simulator.behaviour_policies import Clinic
from simulator.engine.batch import Core
from simulator.engine.latent import EXTREME, LatentScenario
from simulator.engine.observation import OPTION_NAMES, REALISM, Observation, ObservationOptions
from simulator.engine.scenario import Choice, Flags, ObservedEntry, TreatedPatients, VisitResult


class SyntheticScenario(LatentScenario):
    """A scenario round a latent mean that an environment can be made of."""

    option_names: ClassVar[tuple[str, ...]] = ("realism", *OPTION_NAMES)
    choices: ClassVar[Mapping[str, Choice]] = {"realism": Choice("Realism, 1 is ideal", tuple(REALISM))}

    def own_options(self, given: Mapping[str, Any]) -> ObservationOptions:
        """Check how the patients are observed and differ; raises UserError for a bad value."""
        shown = {name: value for name, value in given.items() if name != "realism"}
        return ObservationOptions.of(given.get("realism"), **shown)

    def patients(self, n: int, cohort: str, own: ObservationOptions, steps: int) -> SyntheticPatients:
        """``n`` patients under observation options."""
        return SyntheticPatients(self, n, cohort, own)


class SyntheticPatients(TreatedPatients):
    """n patients in the batched core."""

    scenario: LatentScenario

    def __init__(self, scenario: LatentScenario, n: int, cohort: str, shown: ObservationOptions) -> None:
        """Lay everything out; no patient exists before ``start``."""
        super().__init__(scenario, n, cohort)
        self.shown = shown
        self.core = Core(scenario, n, cohort, shown.variation, shown.confounding)
        self.observation = Observation(shown, scenario, n)
        largest = np.maximum(np.abs(scenario.limits.low), np.abs(scenario.limits.high))
        self._extreme = (EXTREME * largest).astype(np.float32)
        self._weights = np.asarray(scenario.marker.weights)

    @cached_property
    def entries(self) -> tuple[ObservedEntry, ...]:
        """Entries as the options show them; none has a unit."""
        seen = self.observation
        ends = zip(seen.names, seen.low.tolist(), seen.high.tolist(), strict=True)
        return tuple(ObservedEntry(name, "1", low, high) for name, low, high in ends)

    def start(self, seed: int, first: int) -> Float32Array:
        """Bring patients ``first`` on to their first visit."""
        self.first = first
        self.core.start(seed, first)
        return self.observation.start(self.core, seed)

    def step(self, dose: Float32Array) -> VisitResult:
        """Give doses [n, 1]; the one event is an extreme dose, which costs 1."""
        reward = self.core.step(dose[:, 0])
        extreme: Flags = np.asarray((np.abs(dose) > self._extreme).any(axis=1))
        seen = self.observation.next(self.core, dose)
        cost: Float32Array = extreme.astype(np.float32)
        return VisitResult(seen, reward, cost, {"extreme_dose": extreme})

    @property
    def covariate(self) -> Float32Array:
        """Hidden covariate, which acts only through ``confounding``."""
        return self.core.covariates()

    def traits(self) -> Mapping[str, AnyArray]:
        """Latent means, and the sensitivity where patients differ in it."""
        means = self.core.means()
        found = {f"latent mean of {name}": means[:, k] for k, name in enumerate(self.scenario.state_names)}
        if self.shown.variation or self.shown.confounding:
            found["sensitivity to the dose"] = self.core.sensitivities()
        return found

    def clinic(self) -> Clinic:
        """Limits, and the marker by which doses are titrated."""
        marker = self.scenario.marker
        return Clinic(self.scenario.limits, marker.target, marker.gain, marker.start, self.shown.confounding)

    def marker(self, seen: Float32Array) -> Array:
        """Weighted sum of the measured state."""
        return self.observation.marker(seen, self._weights)
