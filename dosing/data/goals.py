"""Observations of goal-reaching tasks as one vector, the same in recorded visits and in an environment.

Such tasks observe ``observation``, ``achieved_goal`` (where one is) and ``desired_goal`` (where to go),
Gymnasium-Robotics' convention. The vector is achieved goal, observation, desired goal; the achieved goal is
left out where the observation begins with it, as a point's does and an ant's does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PARTS = ("achieved_goal", "observation", "desired_goal")
"""In the order in which they stand in the vector."""


def is_goal_observation(parts: Any) -> bool:
    """Whether something with names, such as a space or recorded arrays, has the three parts and no others."""
    return hasattr(parts, "keys") and set(parts.keys()) == set(PARTS)


def repeated(parts: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the observation begins with the achieved goal; ``[..., K]`` each."""
    achieved, observation = parts["achieved_goal"], parts["observation"]
    return bool(np.array_equal(observation[..., : achieved.shape[-1]], achieved))


def flat(parts: Mapping[str, NDArray[Any]], leave_out: bool) -> NDArray[Any]:
    """The vector ``[..., O]`` of the parts ``[..., K]``.

    Args:
        parts: by the names of :data:`PARTS`.
        leave_out: the achieved goal, because it is :func:`repeated`.
    """
    return np.concatenate([parts[name] for name in PARTS[int(leave_out) :]], axis=-1)
