"""What one update of an agent sees: transitions with the noise that it will use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Transitions of S seeds, with every random number the update will use.

    An update is a deterministic function of its batch; that is what makes a stacked seed equal to the seed
    alone, a resumed run equal to an uninterrupted one, and a diverged update reproducible.

    Attributes:
        obs: ``[S, B, O]``.
        act: ``[S, B, A]`` in [-1, 1].
        reward: ``[S, B]``.
        next_obs: ``[S, B, O]``.
        terminated: ``[S, B]``, 1.0 where the episode ended for good; never the time limit.
        noise: one tensor ``[S, ...]`` per name in the agent's ``noise``.
        extra: what the agent asked for in ``needs``, such as ``next_act`` or ``return_to_go``.
        step: number of this update, counted from 0; delayed steps read it.
        length: rows of one episode that stand together in time order; 1 where rows were drawn one by one. A
            window that is longer than what is left of its episode begins with rows of zeros.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    noise: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    length: int = 1
