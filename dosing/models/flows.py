"""Policies that push noise forward to a dose: flow matching, Euler steps, one-step maps, sets of draws.

A flow carries x_0 ~ N(0, I) along dx/dt = v(s, x, t) to a dose x_1; v is fitted to recorded doses by
conditional flow matching on straight lines (Lipman et al. 2023, arXiv 2210.02747; Liu, Gong, Liu 2023, arXiv
2209.03003). Nothing here has a density.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from dosing.distributions.draws import Draws
from dosing.models.networks import Initialiser, Linear, Mlp
from dosing.models.prior import Centred
from dosing.types import Problem

DRAWS = 64
"""Draws by which the distribution of a push-forward is known outside of training; a power of two."""
FAR = 1e3
"""Largest distance from 0 of a flow on its way, on the [-1, 1] axis."""
CHUNK = 1 << 17
"""Most rows that are pushed forward at once where no gradient is wanted."""


class Velocity(nn.Module):
    """Velocity v(s, x, t) of a flow of doses; GELU units, Glorot weights, a linear output.

    Args:
        init: initialiser of the S seeds.
        problem: sizes.
        hidden: hidden widths.
        layer_norm: normalise after every activation.
    """

    def __init__(
        self, init: Initialiser, problem: Problem, hidden: Sequence[int], *, layer_norm: bool = False
    ) -> None:
        super().__init__()
        widths = [problem.n_obs + problem.n_act + 1, *hidden, problem.n_act]
        self.net = Mlp(
            init, widths, scheme="xavier", activation="gelu", layer_norm=layer_norm, norm_after=True
        )

    def forward(self, obs: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Velocity ``[S, B, A]`` at ``obs [S, B, O]``, ``x [S, B, A]`` and ``time [S, B, 1]`` in [0, 1]."""
        velocity: Tensor = self.net(torch.cat((obs, x, time), -1))
        return velocity


class OneStep(nn.Module):
    """One-step map f(s, eps) of noise to a dose; GELU units, Glorot weights, a linear output.

    The output is executed clipped to [-1, 1]; its caller clips where the method does. A prior dose of the
    initialiser's regularisation is added to it as it is.
    """

    def __init__(self, init: Initialiser, problem: Problem, hidden: Sequence[int]) -> None:
        super().__init__()
        self.n_act = problem.n_act
        widths = [problem.n_obs + problem.n_act, *hidden, problem.n_act]
        self.net = Mlp(init, widths, scheme="xavier", activation="gelu")
        bias = cast(Linear, self.net.layers[-1]).bias
        self.prior = Centred(init, problem.n_act, bias, squashed=False)

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Doses ``[S, B, A]``, not yet clipped, at ``obs [S, B, O]`` from ``noise [S, B, A]``."""
        dose: Tensor = self.prior(self.net(torch.cat((obs, noise), -1)))
        return dose

    def distribution(self, obs: Tensor) -> Distribution:
        """Distribution of the executed dose at ``obs [S, B, O]``, by ``DRAWS`` points; ``[S, B]``, ``[A]``.

        A published rule that executes one draw is to sample from it; the dose recommended is its densest.
        """
        doses = spread(self, obs, points(DRAWS, self.n_act, obs)).clamp(-1.0, 1.0)  # [S, B, M, A]
        return Independent(Draws(doses.transpose(-1, -2), validate_args=False), 1, validate_args=False)


def matching_loss(velocity: Velocity, obs: Tensor, act: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Conditional flow matching: mean over batch and dimensions of (v(s, x_t, t) - (a - x_0))^2, ``[S]``.

    Args:
        velocity: the field v.
        obs: ``[S, B, O]``.
        act: recorded doses a, ``[S, B, A]``.
        noise: x_0, standard normal, ``[S, B, A]``; x_t = (1 - t) x_0 + t a.
        time: t, uniform on [0, 1], ``[S, B, 1]``.
    """
    error: Tensor = velocity(obs, torch.lerp(noise, act, time), time) - (act - noise)
    return error.square().mean((-2, -1))


def euler(velocity: Callable[..., Tensor], obs: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Follow the flow from t = 0 to 1 in equal Euler steps; clipped to [-1, 1] at the end, ``[S, B, A]``.

    Few steps narrow the distribution by themselves: ten steps of the exact flow to N(m, s^2) end with a
    deviation of 0.88 s for s = 1, 0.77 s for 0.2, 0.40 s for 0.05. On the way x is held within ``FAR``, which
    no flow reaches that leads to the box: one that diverges ends at a limit, and not beyond the largest
    number.

    Args:
        velocity: the field, called as ``velocity(obs, x, time)``.
        obs: ``[S, B, O]``.
        noise: where the flow starts, ``[S, B, A]``.
        steps: how many.
    """
    x = noise
    for step in range(steps):
        time = torch.full_like(x[..., :1], step / steps)
        x = (x + velocity(obs, x, time) / steps).clamp(-FAR, FAR)
    return x.clamp(-1.0, 1.0)


@cache
def _points(count: int, width: int) -> np.ndarray:
    from scipy.stats import qmc  # takes half a second, and only some agents need it

    sobol = qmc.Sobol(width, scramble=True, rng=np.random.default_rng(0))
    uniform = sobol.random_base2((count - 1).bit_length())[:count]
    normal: np.ndarray = ndtri(np.clip(uniform, 1e-9, 1.0 - 1e-9))
    return normal


def points(count: int, width: int, like: Tensor) -> Tensor:
    """Fixed quasi-random standard normal points ``[count, width]``, in the type and place of ``like``.

    The same for every state and seed, so that a policy's set of doses moves smoothly with the state.
    """
    return torch.as_tensor(_points(count, width), dtype=like.dtype, device=like.device)


def spread(push: Callable[[Tensor, Tensor], Tensor], obs: Tensor, noise: Tensor) -> Tensor:
    """Push several points of noise forward at every state.

    Args:
        push: ``push(obs [S, N, O], noise [S, N, A])`` gives ``[S, N, ...]``, row by row.
        obs: ``[S, B, O]``.
        noise: ``[M, A]`` for all states, or ``[S, B, M, A]``.

    Returns:
        ``[S, B, M, ...]``. Without gradient, few rows are held in memory at a time.
    """
    seeds, batch, width = obs.shape
    count = noise.shape[-2]
    noise = noise.expand(seeds, batch, -1, -1)
    size = batch if torch.is_grad_enabled() else max(1, CHUNK // (count * seeds))
    parts = []
    for rows, points_ in zip(obs.split(size, 1), noise.split(size, 1), strict=True):
        states = rows.unsqueeze(2).expand(-1, -1, count, -1).reshape(seeds, -1, width)
        pushed = push(states, points_.reshape(seeds, -1, points_.shape[-1]))
        parts.append(pushed.view(seeds, rows.shape[1], count, *pushed.shape[2:]))
    return torch.cat(parts, 1)
