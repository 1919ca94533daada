"""What a synthetic scenario must say about itself, so that one batched core can run it.

All arrays are float32 in block layout: [B blocks, k entries, W patients] for vectors, [B, W] for scalars.
Every method works elementwise along B and W, so a patient's numbers do not depend on the neighbours.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dosing.safety import DoseLimits
from simulator.streams import BLOCK

Array = NDArray[np.float32]

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
class Draws:
    """What is drawn once per patient: whole blocks [B, ..., 256]."""

    mean: Array
    """Latent mean at the first visit [B, k, 256]."""
    factor: Array | None
    """Noise factor per patient [B, k, k, 256]; None when the replication shares one."""


class Scenario(ABC):
    """One environment: its law of motion, its reward and its limits."""

    env_id: ClassVar[str]
    title: ClassVar[str]
    variants: ClassVar[tuple[str, ...]]
    n_state: ClassVar[int]
    """Entries k of the state, of the latent mean and of the noise."""
    state_names: ClassVar[tuple[str, ...]]
    marker: ClassVar[Marker]
    version: ClassVar[str]
    """Raised whenever a number that the scenario produces changes."""
    sources: ClassVar[tuple[str, ...]]
    motion_text: ClassVar[str]
    reward_text: ClassVar[str]

    variant: str
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
    def draw(self, generators: list[Generator]) -> Draws:
        """Draw who the patients of whole blocks are."""

    @abstractmethod
    def shared_factor(self, seed: int) -> Array | None:
        """Return the noise factor [k, k] of the replication, or None when each patient has one."""

    @abstractmethod
    def advance(self, mean: Array, state: Array, dose: Array, noise: Array) -> None:
        """Move latent ``mean`` and ``state`` [B, k, W] in place by one visit under ``dose`` [B, W]."""

    @abstractmethod
    def reward(self, state: Array, dose: Array) -> Array:
        """Return the reward [B, W] of ``dose`` [B, W] from the *next* state [B, k, W]."""


def normal_blocks(generators: list[Generator], *shape: int) -> Array:
    """Draw standard normals [B, *shape, 256], each block from its own generator."""
    out = np.empty((len(generators), *shape, BLOCK), dtype=np.float32)
    for generator, block in zip(generators, out, strict=True):
        generator.standard_normal(dtype=np.float32, out=block)
    return out


def uniform_blocks(generators: list[Generator], *shape: int) -> Array:
    """Draw uniforms on [0, 1) as [B, *shape, 256], each block from its own generator."""
    out = np.empty((len(generators), *shape, BLOCK), dtype=np.float32)
    for generator, block in zip(generators, out, strict=True):
        generator.random(dtype=np.float32, out=block)
    return out
