"""Types that every floor shares: arrays, dosing rules, the sizes of a task, and noise. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Float32Array: TypeAlias = NDArray[np.float32]
AnyArray: TypeAlias = NDArray[Any]
Observations: TypeAlias = NDArray[np.float32]
Act: TypeAlias = Callable[[Observations, int], Array]
"""Observations ``[S, P, O]`` and the visit number to requested doses ``[S, P, A]``."""
NoiseKind: TypeAlias = Literal["normal", "uniform"]
"""Distribution of noise: standard normal, or uniform on [0, 1)."""


@runtime_checkable
class Listener(Protocol):
    """A rule that is told what came of every visit, such as ``HistoryPolicy``."""

    def observe(self, delivered: Array, reward: Array) -> None:
        """Take delivered doses ``[S, P, A]`` and rewards ``[S, P]``."""


@runtime_checkable
class Attending(Protocol):
    """A rule that is shown the environments before the first visit, such as a clinic's in a simulation."""

    def attend(self, envs: Sequence[Any]) -> None:
        """Take the vector environments that hold the patients, after their reset."""


@dataclass(frozen=True)
class Problem:
    """Sizes of the task an agent is built for.

    Attributes:
        n_obs: observation width O.
        n_act: action width A; actions inside agents are in [-1, 1].
        horizon: decisions per episode, None if unknown.
    """

    n_obs: int
    n_act: int
    horizon: int | None = None


@dataclass(frozen=True)
class About:
    """Where a method comes from, what its policy is and what its losses were compared with.

    Attributes:
        paper: authors, year, arXiv number.
        family: distribution of its policy.
        support: kind of its dose set (``interval``, ``infinite_clipped``, ...).
        checked: public code its losses were compared with besides its oracle in ``tests/oracles``, and the
            largest relative difference for the same weights, batch and noise in double precision.
    """

    paper: str
    family: str
    support: str
    checked: str


class Noise(NamedTuple):
    """Noise one update needs under one name: a distribution and the shape that follows ``[S]``."""

    distribution: NoiseKind
    shape: tuple[int, ...]
