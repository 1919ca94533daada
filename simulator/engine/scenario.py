"""What a synthetic scenario must say about itself, so that one batched core can run it.

All arrays are float32 with the patients last: [k, P] for vectors of k entries, [P] for scalars. Every method
works elementwise along P, so a patient's numbers do not depend on the neighbours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dosing.errors import UserError
from dosing.safety import DoseLimits
from dosing.types import Float32Array
from simulator.engine.rng import BLOCK

LARGEST_NORMAL = 8.25
"""No float32 normal of NumPy's ziggurat is larger: 3.6542 + 24 ln(2) / 3.6542 = 8.2065."""


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


class Scenario(ABC):
    """One environment: its dynamics, its reward and its limits."""

    env_id: ClassVar[str]
    title: ClassVar[str]
    variants: ClassVar[tuple[str, ...]]
    n_state: ClassVar[int]
    """Entries k of the state and of the latent mean."""
    state_names: ClassVar[tuple[str, ...]]
    marker: ClassVar[Marker]
    version: ClassVar[str]
    """Raised whenever a number that the scenario produces changes."""
    sources: ClassVar[tuple[str, ...]]
    expected_reward_form: ClassVar[Literal["quadratic", "cubic"] | None] = None
    """Closed form of the expected reward (``simulator.bounds.expected_reward``); None where there is none."""
    motion_text: ClassVar[str]
    reward_text: ClassVar[str]

    variant: str
    lag: bool = False
    """Whether the state is drawn around the mean before the dose, as in the published evaluation."""
    limits: DoseLimits
    visits: int
    """Published number of visits of one episode."""
    state_bound: float
    """Bound on the absolute value of an observed state entry."""
    mean_bound: float
    """Bound on the absolute value of a latent mean entry."""
    start_text: str
    noise_text: str

    @abstractmethod
    def __init__(self, variant: str) -> None:
        """Take the numbers of one variant; raises UserError where there is no such variant."""

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


def normal_blocks(generators: list[Generator], *shape: int) -> Float32Array:
    """Draw standard normals [*shape, P], the 256 columns of each block from its own generator."""
    out = np.empty((len(generators), *shape, BLOCK), dtype=np.float32)
    for generator, block in zip(generators, out, strict=True):
        generator.standard_normal(dtype=np.float32, out=block)
    return patients_last(out)


def uniform_blocks(generators: list[Generator], *shape: int) -> Float32Array:
    """Draw uniforms on [0, 1) as [*shape, P], the 256 columns of each block from its own generator."""
    out = np.empty((len(generators), *shape, BLOCK), dtype=np.float32)
    for generator, block in zip(generators, out, strict=True):
        generator.random(dtype=np.float32, out=block)
    return patients_last(out)


def patients_last(blocks: NDArray[Any]) -> NDArray[Any]:
    """Turn draws [B, ..., 256] into [..., B * 256]."""
    return np.moveaxis(blocks, 0, -2).reshape(*blocks.shape[1:-1], -1)
