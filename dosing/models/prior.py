"""Pulling a policy towards one constant dose that is estimated from the recorded visits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dosing.errors import UserError
from dosing.models.networks import Initialiser, decays
from dosing.types import Array


def constant_dose(act: Array, reward: Array) -> tuple[Array, Array]:
    """Best constant dose on the [-1, 1] axis by least squares of the reward on the dose and its square.

    Args:
        act: doses ``[..., M]`` on the [-1, 1] axis; leading axes are data sets.
        reward: ``[..., M]``.

    Returns:
        The dose ``[...]``, at a limit where the parabola has no maximum between them, and the estimated
        reward per visit there ``[...]``; optimistic, since it is the maximum of an estimate.

    Raises:
        UserError: fewer than three different doses in a data set.
    """
    design = np.stack((np.ones_like(act), act, act**2), axis=-1)  # [..., M, 3]
    gram = np.swapaxes(design, -1, -2) @ design
    if (np.linalg.cond(gram) > 1e12).any():
        raise UserError("a parabola needs at least three different recorded doses.")
    moments = np.swapaxes(design, -1, -2) @ reward[..., None]
    c = np.asarray(np.linalg.solve(gram, moments), dtype=np.float64)[..., 0]
    best = greedy(c[..., 1], c[..., 2])
    return best, c[..., 0] + c[..., 1] * best + c[..., 2] * best**2


class Centred(nn.Module):
    """What a policy adds to the output that becomes its mean, before any tanh: nothing, or a prior dose.

    Args:
        init: initialiser of the S seeds; by its regularisation's ``prior``, and with it the bias given here
            decays like a weight.
        n_act: action width.
        bias: the bias of the output it is added to.
        squashed: whether tanh follows; else the output is the dose itself.
    """

    offset: Tensor
    known: Tensor

    def __init__(self, init: Initialiser, n_act: int, bias: nn.Parameter, *, squashed: bool = True) -> None:
        super().__init__()
        self.squashed = squashed
        self.active = init.regularisation.prior == "constant_dose"
        if self.active:
            decays(bias, init.regularisation.weight_decay)
            zeros = torch.zeros(len(init.seeds), 1, n_act, dtype=init.dtype, device=init.device)
            self.register_buffer("offset", zeros)
            known = torch.zeros(len(init.seeds), 1, dtype=torch.bool, device=init.device)
            self.register_buffer("known", known)

    def centre(self, unit: Tensor) -> None:
        """Take the prior dose ``[A]`` on the [-1, 1] axis, or ``[S, A]``; the first one stays."""
        if self.active and not bool(self.known.all()):
            inverse = torch.atanh(unit.clamp(-PRIOR_LIMIT, PRIOR_LIMIT)) if self.squashed else unit
            self.offset.copy_(inverse.unsqueeze(-2))
            self.known.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        """Add the prior to ``x [S, B, A]``."""
        return x + self.offset if self.active else x


PRIOR_LIMIT = 0.99
"""Largest |prior dose| on the [-1, 1] axis: beyond, tanh hardly moves."""


def greedy(c1: Array, c2: Array) -> Array:
    """Dose in [-1, 1] that maximises c1 a + c2 a^2, elementwise."""
    inside = c2 < 0
    top = np.clip(-c1 / np.where(inside, 2.0 * c2, -1.0), -1.0, 1.0)
    return np.where(inside, top, np.where(c1 >= 0, 1.0, -1.0))
