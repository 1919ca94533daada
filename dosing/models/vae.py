"""Conditional variational auto-encoder (CVAE) of recorded doses, and doses generated with it.

With a latent z of twice as many dimensions as the dose, n, and its posterior q(z | a, s) = N(mean,
diag(sigma^2)), it is fitted by the least

    D(s, a) = mean_l |decoder(s, z_l) - a|^2 / n + beta KL(q(z | a, s) || N(0, I)) / 2n,     z_l ~ q,

which is beta/2n times the negative evidence lower bound (ELBO) of ln p(a | s), up to a constant, where
p(a | z, s) = N(decoder(s, z), beta/4). Sohn, Lee, Yan 2015 (NeurIPS); Fujimoto, Meger, Precup 2019, arXiv
1812.02900.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from dosing.models.flows import points, spread
from dosing.models.networks import Initialiser, Linear, Mlp
from dosing.models.prior import Centred
from dosing.types import Problem

LOG_STD = (-4.0, 15.0)
"""Bounds of ln sigma of the posterior, as published."""


class ConditionalVae(nn.Module):
    """Conditional variational auto-encoder of recorded actions, with a latent of twice their dimension.

    Args:
        init: initialiser of the S seeds.
        problem: sizes.
        hidden: hidden widths of encoder and decoder.
        centred: start the decoder at the prior dose of the initialiser's regularisation, where there is one;
            for a method whose policy is the decoder.
    """

    def __init__(
        self, init: Initialiser, problem: Problem, hidden: tuple[int, ...], *, centred: bool = False
    ) -> None:
        super().__init__()
        n_obs, n_act, self.n_latent = problem.n_obs, problem.n_act, 2 * problem.n_act
        self.encoder = Mlp(init, [n_obs + n_act, *hidden], activate_last=True)
        self.mean = Linear(init, hidden[-1], self.n_latent)
        self.log_std = Linear(init, hidden[-1], self.n_latent)
        self.decoder = Mlp(init, [n_obs + self.n_latent, *hidden, n_act])
        last = cast(Linear, self.decoder.layers[-1])
        self.prior = Centred(init, n_act, last.bias) if centred else nn.Identity()

    def forward(self, obs: Tensor, act: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode, draw and decode.

        Args:
            obs: ``[S, B, O]``.
            act: ``[S, B, A]``.
            noise: standard normal, ``[S, B, L, Z]``.

        Returns:
            The L decoded actions ``[S, B, L, A]`` and latents ``[S, B, L, Z]``; mean and ln sigma of the
            posterior, ``[S, B, Z]`` each.
        """
        features = self.encoder(torch.cat((obs, act), -1))
        mean, log_std = self.mean(features), self.log_std(features).clamp(*LOG_STD)
        z = mean.unsqueeze(2) + log_std.exp().unsqueeze(2) * noise
        conditioned = obs.unsqueeze(2).expand(-1, -1, noise.shape[2], -1)
        decoded = torch.tanh(self.decode(conditioned.flatten(1, 2), z.flatten(1, 2)))
        return decoded.view(*noise.shape[:3], -1), z, mean, log_std

    def decode(self, obs: Tensor, z: Tensor) -> Tensor:
        """What becomes the action by tanh, ``[S, B, A]``, at ``obs [S, B, O]`` and latent ``z [S, B, Z]``."""
        raw: Tensor = self.prior(self.decoder(torch.cat((obs, z), -1)))
        return raw

    def image(self, obs: Tensor, count: int, radius: float, reach: float = 0.0) -> Tensor:
        """Actions that the decoder gives for |z_i| <= ``radius``, each moved by at most ``reach``.

        Args:
            obs: ``[S, B, O]``.
            count: M fixed points of that cube, its faces and corners included.
            radius: half the edge of the cube of latents.
            reach: half the edge of the cube that the action is moved in.

        Returns:
            ``[S, B, M, A]`` within [-1, 1].
        """
        n_act = self.n_latent // 2
        cube = points(count, self.n_latent + n_act, obs).clamp(-1.0, 1.0)
        z, shift = cube.split((self.n_latent, n_act), -1)
        decoded = spread(lambda rows, latent: torch.tanh(self.decode(rows, latent)), obs, radius * z)
        moved: Tensor = (decoded + reach * shift).clamp(-1.0, 1.0)
        return moved


def vae_loss(
    act: Tensor, decoded: Tensor, z: Tensor, mean: Tensor, log_std: Tensor, *, beta: float
) -> Tensor:
    """Mean over the batch of D(s, a), ``[S]``, from ``act [S, B, A]`` and what the CVAE returned for it."""
    del z
    error = (decoded - act.unsqueeze(2)).square().mean((1, 2, 3))
    divergence = -0.5 * (1.0 + 2.0 * log_std - mean.square() - (2.0 * log_std).exp()).mean((1, 2))
    return error + beta * divergence


class Perturbation(nn.Module):
    """A dose moved towards a better one: a + reach tanh(network(s, a)), kept within [-1, 1].

    Args:
        init: initialiser of the S seeds.
        problem: sizes.
        hidden: hidden widths.
        reach: phi, the largest move.
    """

    def __init__(self, init: Initialiser, problem: Problem, hidden: tuple[int, ...], reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.net = Mlp(init, [problem.n_obs + problem.n_act, *hidden, problem.n_act])

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        """Moved action ``[S, B, A]`` of ``obs [S, B, O]`` and ``act [S, B, A]``."""
        move = self.reach * torch.tanh(self.net(torch.cat((obs, act), -1)))
        return (act + move).clamp(-1.0, 1.0)
