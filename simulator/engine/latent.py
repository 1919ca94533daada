"""What a synthetic scenario round a latent mean must say about itself, so that one batched core can run it.

All arrays are float32 with the patients last: [k, P] for vectors of k entries, [P] for scalars. Every method
works elementwise along P, so a patient's numbers do not depend on the neighbours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from numpy.random import Generator

from dosing.errors import UserError
from dosing.types import Float32Array
from simulator.engine.scenario import Scenario

LARGEST_NORMAL = 8.25
"""No float32 normal of NumPy's ziggurat is larger: 3.6542 + 24 ln(2) / 3.6542 = 8.2065."""

EXTREME = 0.9
"""Share of the largest allowed |dose| above which a delivered dose counts as the event ``extreme_dose``."""


@dataclass(frozen=True)
class Marker:
    """What a titrating clinician looks at: a weighted sum of observed states with a target."""

    weights: tuple[float, ...]
    """Weight of each observed state entry."""
    target: float
    """Value at which the clinician leaves the dose alone."""
    gain: float
    """Change of the dose per unit that the marker lies below the target."""
    start: float
    """First dose."""


@dataclass(frozen=True)
class PatientDraws:
    """What is drawn once per patient, for the P patients of whole blocks."""

    mean: Float32Array
    """Latent mean at the first visit [k, P]."""
    rows: tuple[Float32Array, ...]
    """Rows of each patient's own noise factor (``simulator.engine.covariance``); empty when all share one."""


class LatentScenario(Scenario):
    """A scenario of k states around a latent mean: its dynamics and its reward."""

    n_state: ClassVar[int]
    """Entries k of the state and of the latent mean."""
    state_names: ClassVar[tuple[str, ...]]
    marker: ClassVar[Marker]
    expected_reward_form: ClassVar[Literal["quadratic", "cubic"] | None] = None
    """Closed form of the expected reward (``simulator.bounds.expected_reward``); None where there is none."""
    decision_interval = "one visit (no unit of time)"
    cost_text = "number of events of the visit; never part of the reward"
    events: ClassVar[Mapping[str, str]] = {
        "extreme_dose": f"|delivered dose| > {EXTREME:g} of the largest allowed |dose|"
    }
    safe_default = "no dose (0)"
    model_limits_text = "Synthetic: no drug, no disease and no unit of dose or time is meant."

    lag: bool = False
    """Whether the state is drawn around the mean before the dose, as in the published evaluation."""
    state_bound: float
    """Bound on the absolute value of an observed state entry."""
    mean_bound: float
    """Bound on the absolute value of a latent mean entry."""

    @abstractmethod
    def draw(self, generators: list[Generator]) -> PatientDraws:
        """Draw who the patients of whole blocks are."""

    @abstractmethod
    def shared_factor(self, seed: int) -> Float32Array | None:
        """Return the noise factor [k, k] that all patients of a seed share, or None when each has one."""

    def first_mean_density(self, mean: Float32Array) -> Float32Array | None:
        """Density [P] of the first latent ``mean`` [k, P] over its largest; None where all start from one.

        It is what a state at the first visit says about a patient (``simulator.cohorts.posterior``).

        Raises:
            UserError: If the scenario does not know it.
        """
        raise UserError(f"{self.env_id} cannot tell which of its patients could show a given state.")

    @abstractmethod
    def advance(
        self, mean: Float32Array, state: Float32Array, dose: Float32Array, noise: Float32Array
    ) -> None:
        """Move latent ``mean`` and ``state`` [k, P] in place by one visit under ``dose`` [P]."""

    @abstractmethod
    def reward(self, state: Float32Array, dose: Float32Array) -> Float32Array:
        """Return the reward [P] of ``dose`` [P] from the *next* state [k, P]."""

    def policy_texts(self) -> dict[str, str]:
        """Behaviour policies as they are written, with what they do."""
        weights = zip(self.marker.weights, self.state_names, strict=True)
        marker = " + ".join(f"{weight:g} {name}" for weight, name in weights)
        titration = f"towards marker = {self.marker.target:g}, marker = {marker}"
        return super().policy_texts() | {"titration:SPREAD": titration}
