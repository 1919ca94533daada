"""Pulling a policy towards one constant dose that is estimated from the recorded visits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import fdtrc
from torch import Tensor, nn

from dosing.errors import UserError
from dosing.models.networks import Initialiser, decays
from dosing.types import Array

SIGNIFICANCE = 0.05
"""Level of the test of whether rewards say anything about doses."""


@dataclass(frozen=True)
class ConstantDose:
    """The best constant dose as recorded visits see it; every array is ``[...]``, one entry per data set.

    Attributes:
        dose: on the [-1, 1] axis, within ``[low, high]``: where the estimated parabola is highest between
            them; where rewards say nothing about doses, the median recorded dose.
        reward: estimated reward per visit there; optimistic, since it is the maximum of an estimate.
        low: lowest recorded dose.
        high: highest recorded dose.
        p: p value of "rewards say nothing about doses"; see :func:`dose_effect`.
    """

    dose: Array
    reward: Array
    low: Array
    high: Array
    p: Array

    @property
    def identified(self) -> NDArray[np.bool_]:
        """Whether the rewards say anything about doses."""
        return np.asarray(self.p < SIGNIFICANCE)


def constant_dose(act: Array, reward: Array, patient: NDArray[np.int64]) -> ConstantDose:
    """Best constant dose by least squares of the reward on the dose and its square, within recorded doses.

    Args:
        act: doses ``[..., M]`` on the [-1, 1] axis; leading axes are data sets.
        reward: ``[..., M]``.
        patient: ``[..., M]`` number of each visit's patient, from 0.

    Raises:
        UserError: fewer than three different doses in a data set, or all within rounding of each other.
    """
    design = np.stack((np.ones_like(act), act, act**2), axis=-1)  # [..., M, 3]
    gram = np.swapaxes(design, -1, -2) @ design
    if (np.linalg.cond(gram) > 1e12).any():
        raise UserError(
            "a parabola needs at least three different recorded doses that are further apart than rounding."
        )
    moments = np.swapaxes(design, -1, -2) @ reward[..., None]
    c = np.asarray(np.linalg.solve(gram, moments), dtype=np.float64)[..., 0]
    low, high = act.min(-1), act.max(-1)
    p = np.empty(act.shape[:-1])
    for one in np.ndindex(p.shape):
        p[one] = dose_effect(act[one], reward[one], patient[one])
    told = p < SIGNIFICANCE
    middle = np.sort(act, axis=-1)[..., (act.shape[-1] - 1) // 2]  # a dose that somebody was given
    best = np.where(told, greedy(c[..., 1], c[..., 2], low, high), middle)
    value = np.where(told, c[..., 0] + c[..., 1] * best + c[..., 2] * best**2, reward.mean(-1))
    return ConstantDose(best, value, low, high, p)


def dose_effect(act: Array, reward: Array, patient: NDArray[np.int64]) -> float:
    """P value of "slope and curvature of the reward over the dose are 0", where patients are independent.

    Wald's test with the covariance of the estimates that leave one patient out (jackknife over clusters:
    MacKinnon, Nielsen, Webb 2023, Journal of Applied Econometrics 38:671, CV3), compared with the
    distribution of Hotelling's T^2 (1931, Annals of Mathematical Statistics 2:360). Visits of one patient may
    depend on each other in any way. 1 where rewards are all equal, patients fewer than 3, or one of them
    alone had the doses that make a parabola.

    Args:
        act: ``[M]`` doses, two different ones at least.
        reward: ``[M]``.
        patient: ``[M]``, from 0.
    """
    number = np.unique(patient, return_inverse=True)[1]
    n = int(number.max()) + 1
    if n < 3 or np.ptp(reward) == 0.0:
        return 1.0
    t = (2.0 * act - act.max() - act.min()) / np.ptp(act)  # in [-1, 1], so that t and t^2 are of one size
    design = np.stack((np.ones_like(t), t, t**2), axis=-1)
    gram, moments = np.zeros((n, 3, 3)), np.zeros((n, 3))
    np.add.at(gram, number, design[:, :, None] * design[:, None, :])
    np.add.at(moments, number, design * (reward - reward.mean())[:, None])
    rest = gram.sum(0) - gram
    if (np.linalg.cond(rest) > 1e10).any():
        return 1.0
    whole = np.linalg.solve(gram.sum(0), moments.sum(0))[1:]
    without = np.linalg.solve(rest, (moments.sum(0) - moments)[..., None])[:, 1:, 0]
    spread, axes = np.linalg.eigh((n - 1) / n * (without - whole).T @ (without - whole))
    along = (axes.T @ whole) ** 2
    squared = float((along / np.maximum(spread, 1e-20 * along.sum() + TINY)).sum())  # T^2
    return float(fdtrc(2, n - 2, (n - 2) / (2 * (n - 1)) * squared))


def constant_doses(act: Tensor, reward: Tensor, filled: Tensor) -> Tensor:
    """Estimated constant dose ``[R, A]`` of every data set, one dose dimension at a time.

    Args:
        act: ``[R, N, T, A]``.
        reward: ``[R, N, T]``.
        filled: ``[R, N, T]``, False where there is no visit.
    """
    patient = torch.arange(act.shape[1], device=act.device).unsqueeze(1).expand(filled.shape[1:])
    best = []
    for doses, paid, own in zip(act, reward, filled, strict=True):
        given = doses[own].mT.double().cpu().numpy()  # [A, M]
        told, whose = paid[own].double().cpu().numpy(), patient[own].cpu().numpy()
        best.append(
            constant_dose(given, np.broadcast_to(told, given.shape), np.broadcast_to(whose, given.shape)).dose
        )
    return torch.as_tensor(np.stack(best)).to(act)


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
TINY = np.finfo(np.float64).tiny


def greedy(c1: Array, c2: Array, low: Array | float = -1.0, high: Array | float = 1.0) -> Array:
    """Dose in [low, high] that maximises c1 a + c2 a^2, elementwise."""
    inside = c2 < 0
    with np.errstate(over="ignore"):  # the top of an almost straight line is infinitely far: at a limit
        top = np.clip(-c1 / np.where(inside, 2.0 * c2, -1.0), low, high)
    return np.where(inside, top, np.where(c1 + c2 * (low + high) >= 0, high, low))
