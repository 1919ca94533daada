"""Roll-outs of response models: imagined patients under a policy on the belief, or under a constant dose.

    x_0 ~ N(mu, p),   y_t = x_t + e_t,   a_t = policy(b_t, t, a_(t-1)),   x_(t+1) = f(x_t, a_t) + N(0, q)
    return = sum_t r(y_(t+1), a_t)

The policy sees the belief b of one model's filter, whichever model the patients come from. The residuals e of
an imagined patient are those of one recorded patient, in a random order and with a random sign: whatever ties
the markers of a visit together is kept. Every operation can be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dosing.models.response import ResponseModel
from dosing.models.reward_model import RewardModel

FIRST_RESIDUAL = 6
"""Visit from which on residuals are taken: the belief has settled."""
Dose = Callable[[Tensor, int, Tensor], Tensor]
"""Doses ``[S, B, A]`` from the belief's mean ``[S, B, O]``, the visit and the doses before ``[S, B, A]``."""


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


def returns(
    world: ResponseModel,
    reward: RewardModel,
    imagined: Imagined,
    constant: Tensor,
    own: ResponseModel | None = None,
    dose: Dose | None = None,
) -> Tensor:
    """Return ``[K, n]`` of every imagined patient.

    Args:
        world: K = S E models that the patients follow, the E models of a seed next to each other.
        reward: K reward models.
        imagined: see :func:`imagine`.
        constant: dose ``[S, 1, A]`` that is given where there is no policy.
        own: S models whose filter makes the belief; the visits it sees are complete.
        dose: the policy.
    """
    seeds, (patients, visits) = len(constant), imagined.process.shape[1:3]
    level = world.prior(patients).mean + world.start_variance.sqrt() * imagined.level
    shake, total = world.process.sqrt(), imagined.level.new_zeros(imagined.level.shape[:2])
    everyone = world.count // seeds * patients
    given = constant.expand(-1, everyone, -1)
    before = torch.zeros_like(given)
    belief = None if own is None else own.prior(everyone)
    for visit in range(visits):
        if own is not None and belief is not None and dose is not None:
            seen = level + imagined.residual[:, :, visit]  # [K, n, O], for the policy [S, E n, O]
            belief, _ = own.correct(belief, seen.reshape(seeds, everyone, -1))
            given = dose(belief.mean, visit, before)
            belief, before = own.predict(belief, given), given
        act = given.reshape(world.count, patients, -1)
        level = world.move(level, act) + shake * imagined.process[:, :, visit]
        total = total + reward(level + imagined.residual[:, :, visit + 1], act)
    return total
