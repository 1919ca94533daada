"""What a rule of dosing is to whoever follows it: states in, doses out. Free of torch."""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Observations: TypeAlias = NDArray[np.float32]
Act: TypeAlias = Callable[[Observations, int], Array]
"""Observations ``[S, P, O]`` and the visit number to requested doses ``[S, P, A]``."""


@runtime_checkable
class Listener(Protocol):
    """A rule that is told what came of every visit, such as ``dosing.policy.Course``."""

    def hear(self, delivered: Array, reward: Array) -> None:
        """Take delivered doses ``[S, P, A]`` and rewards ``[S, P]``."""
