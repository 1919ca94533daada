"""Imagined patients: the random numbers with which they follow response models.

    x_0 ~ N(mu, p),   y_t = x_t + e_t,   x_(t+1) = f(x_t, a_t) + N(0, q)

The residuals e of an imagined patient are those of one recorded patient, in a random order and with random
signs: whatever ties the markers of a visit together is kept. ``dosing.ope.model_based`` lets them be dosed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dosing.models.response import ResponseModel

FIRST_RESIDUAL = 6
"""Visit from which on residuals are taken: the belief has settled."""


class Imagined(NamedTuple):
    """What n roll-outs in each of K = S E models need beside the models.

    ``level [K, n, O]`` and ``process [K, n, T, O]`` are standard normal, ``residual [K, n, T + 1, O]`` is
    added to the level at each visit.
    """

    level: Tensor
    process: Tensor
    residual: Tensor


@torch.no_grad()
def imagine(model: ResponseModel, obs: Tensor, act: Tensor, noise: Mapping[str, Tensor]) -> Imagined:
    """The numbers of n roll-outs in each of E models, residuals from n recorded patients of each seed.

    Args:
        model: one of each seed, which filters the recorded patients.
        obs: ``[S, n, T + 1, O]``.
        act: ``[S, n, T, A]``.
        noise: ``level [S, n, E, O]`` and ``process [S, n, E, T, O]``, normal; ``order [S, n, E, T + 1]`` and
            ``sign [S, n, E, 1, 1]``, or one of each visit, uniform.
    """
    _, innovations = model.filter(obs, act)
    settled = innovations[min(FIRST_RESIDUAL, act.shape[2] // 2) :]
    residual = torch.stack([i.error * (model.noise / i.variance).sqrt() for i in settled], 2)  # [S, n, V, O]
    members = noise["order"].shape[2]
    flat = {name: values.transpose(1, 2).flatten(0, 1) for name, values in noise.items()}  # [K, n, ...]
    order = (flat["order"] * residual.shape[2]).long().clamp(max=residual.shape[2] - 1)
    lent = residual.repeat_interleave(members, 0)
    chosen = lent.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, lent.shape[-1]))
    sign = torch.where(flat["sign"] < 0.5, -1.0, 1.0).to(chosen)
    return Imagined(flat["level"], flat["process"], chosen * sign)
