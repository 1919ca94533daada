"""Features of a state and a dose in which a value is linear, and the dose in which it is quadratic.

With z the standardised state and a the dose on the [-1, 1] axis:

* ``linear``: (1, z) x (1, a), and a^2;
* ``quadratic``: (1, z, z_i z_j for i <= j) x (1, a, a^2).

The features 1, a and a^2 are not penalised by ridge regression: with a growing penalty the value tends to one
that is the same in every state, and not to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from dosing.errors import UserError
from dosing.types import Array

StateFeatures = Literal["linear", "quadratic"]


@dataclass(frozen=True)
class Features:
    """The feature map of one data set.

    Attributes:
        n_obs: observation width O.
        n_act: dose dimensions A.
        state: which features; see the module.
    """

    n_obs: int
    n_act: int
    state: StateFeatures = "linear"

    def __post_init__(self) -> None:
        """Refuse unknown features."""
        if self.state not in get_args(StateFeatures):
            raise UserError(f"state features are {' or '.join(get_args(StateFeatures))}, not {self.state!r}.")

    @property
    def n_state(self) -> int:
        """F, the features of a state alone, the constant included."""
        squares = self.n_obs * (self.n_obs + 1) // 2 if self.state == "quadratic" else 0
        return 1 + self.n_obs + squares

    @property
    def size(self) -> int:
        """D, the features of a state and a dose."""
        curved = self.n_state if self.state == "quadratic" else 1
        return self.n_state * (1 + self.n_act) + curved * self.n_act

    def of_state(self, z: Array) -> Array:
        """Features ``[..., F]`` of standardised states ``[..., O]``."""
        parts = [np.ones((*z.shape[:-1], 1)), z]
        if self.state == "quadratic":
            i, j = np.triu_indices(self.n_obs)
            parts.append(z[..., i] * z[..., j])
        return np.concatenate(parts, axis=-1)

    def combine(self, phi: Array, first: Array, second: Array) -> Array:
        """Features ``[..., D]`` from state features ``[..., F]``, doses and squared doses ``[..., A]``.

        The map is linear in (1, a, a^2), so the first two moments of a random dose give the expected
        features.
        """
        curved = phi if self.state == "quadratic" else phi[..., :1]
        parts = [phi]
        parts += [phi * first[..., k, None] for k in range(self.n_act)]
        parts += [curved * second[..., k, None] for k in range(self.n_act)]
        shape = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return np.concatenate([np.broadcast_to(p, (*shape, p.shape[-1])) for p in parts], axis=-1)

    def penalised(self) -> Array:
        """1.0 for every feature that ridge regression shrinks, 0.0 for 1, a and a^2: ``[D]``."""
        flags = np.ones(self.size)
        flags[[k * self.n_state for k in range(1 + self.n_act)]] = 0.0
        curved = self.n_state if self.state == "quadratic" else 1
        flags[[(1 + self.n_act) * self.n_state + k * curved for k in range(self.n_act)]] = 0.0
        return flags

    def dose_coefficients(self, phi: Array, theta: Array) -> tuple[Array, Array, Array]:
        """Coefficients of 1, a and a^2 of the value at state features ``[..., F]``; one dose dimension.

        Args:
            phi: ``[..., B, F]``.
            theta: ``[..., D]``.

        Raises:
            UserError: the dose has more than one dimension.
        """
        if self.n_act != 1:
            raise UserError("the greedy dose in closed form is for one dose dimension only.")
        f = self.n_state
        curved = phi if self.state == "quadratic" else phi[..., :1]
        parts = (phi, theta[..., :f]), (phi, theta[..., f : 2 * f]), (curved, theta[..., 2 * f :])
        c0, c1, c2 = ((p @ t[..., None])[..., 0] for p, t in parts)
        return c0, c1, c2
