"""BCQ, batch-constrained Q-learning. Fujimoto, Meger, Precup 2019, arXiv 1812.02900 (ICML 2019).

Doses come from a conditional variational auto-encoder (CVAE) of the recorded ones, moved by a perturbation
xi that is at most phi, and the critics choose among N of them. With D of ``dosing.models.vae`` and every
latent normal, clipped to +-c:

    a_k  = clip(g + xi(s, g), -1, 1),   g = decoder(s, z_k)              at s' with the target copy of xi
    L_vae = E [ D(s, a) ]
    L_Q  = sum_i E [ (r + gamma (1 - d) max_k V(s', a'_k) - Q_i(s, a))^2 ],
           V = lambda min_j Qbar_j + (1 - lambda) max_j Qbar_j           (soft clipped double Q)
    L_xi = - E [ Q_1(s, a_1) ]
    pi(s) = the best by Q_1 of a_1, ..., a_M

All losses are taken at the same parameters; then both target networks follow. The decoder is moved by L_vae
alone. The executed dose is the best of M candidates drawn anew; the policy's distribution is that of the best
of M draws from fixed candidates, and the recommended dose is the best of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from dosing.agent import Agent
from dosing.distributions.draws import best_candidate
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.flows import points, spread
from dosing.models.losses import soft_clipped, target_copy, td_loss, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.settings import CriticSettings
from dosing.models.vae import ConditionalVae, Perturbation, vae_loss
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class BCQConfig(CriticSettings):
    """Settings of BCQ: widths and discount of the treatment simulators, the rest as the authors' code.

    That code uses hidden layers of 400 and 300 for perturbation and critics, two of 750 for the CVAE, a
    discount of 0.99 and batches of 100.
    """

    learning_rate: float = 1e-3
    """Adam step size of perturbation and critics."""
    reach: float = 0.05
    """phi: largest move of a generated dose, as a share of half the dose range; 0 leaves it as it is."""
    least_weight: float = 0.75
    """lambda: weight of the least critic in the target; the greatest has the rest."""
    noise_clip: float = 0.5
    """c: latents of generated doses are clipped to +-c."""
    target_candidates: int = 10
    """N, doses that the target's maximum is taken over."""
    candidates: int = 100
    """M, doses that the executed one is the best of."""
    vae_hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of the CVAE's encoder and decoder."""
    vae_learning_rate: float = 1e-3
    """Adam step size of the CVAE."""
    vae_beta: float = 0.5
    """Weight of the KL term; also four times the variance of the decoder's distribution."""


class BCQ(Agent):
    """S stacked seeds of BCQ."""

    about = About(
        paper="Fujimoto, Meger, Precup 2019, arXiv 1812.02900",
        family="best of generated doses",
        support="point_set",
        checked="sfujim/BCQ, 4e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: BCQConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config = config
        self.vae = ConditionalVae(init, problem, config.vae_hidden, centred=True)
        self.actor = Perturbation(init, problem, config.hidden, config.reach)
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden)
        self.actor_target, self.critic_target = target_copy(self.actor), target_copy(self.critic)
        self.optimizers = {
            "vae": adam(self.vae, config.vae_learning_rate),
            "critic": adam(self.critic, config.learning_rate),
            "actor": adam(self.actor, config.learning_rate),
        }

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise of the latents: of the CVAE's own draw, the target's candidates, and the policy's."""
        width = self.vae.n_latent
        return {
            "vae": Noise("normal", (batch_size, 1, width)),
            "target": Noise("normal", (batch_size, self.config.target_candidates, width)),
            "latent": Noise("normal", (batch_size, width)),
        }

    def policy(self, obs: Tensor) -> Distribution:
        """The distribution of the best of M candidates."""
        m, c = self.config.candidates, self.config.noise_clip
        z = points(m, self.vae.n_latent, obs).clamp(-c, c)
        values = spread(lambda rows, latent: self.actor(rows, self._generated(rows, latent)), obs, z)
        with torch.no_grad():
            worth = spread(self._first_value, obs, values)  # [S, B, M]
        return Independent(best_candidate(values, worth, m), 1, validate_args=False)

    def admissible(self, obs: Tensor, count: int = 256) -> Tensor:
        """Doses of the decoder for latents within +-c, moved by at most phi, ``[S, B, M, A]``."""
        return self.vae.image(obs, count, self.config.noise_clip, self.config.reach)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``vae``, ``critic`` and ``actor``, each ``[S]``."""
        c = self.config
        coded = self.vae(batch.obs, batch.act, batch.noise["vae"])
        with torch.no_grad():
            z = batch.noise["target"].clamp(-c.noise_clip, c.noise_clip)
            bootstrap = spread(self._target_value, batch.next_obs, z).amax(-1)  # [S, B, N] -> [S, B]
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
            generated = self._generated(batch.obs, batch.noise["latent"].clamp(-c.noise_clip, c.noise_clip))
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        act = self.actor(batch.obs, generated)
        losses = {
            "vae": vae_loss(batch.act, *coded, beta=c.vae_beta),
            "critic": td_loss(q, target),
            "actor": -self._first_value(batch.obs, act).mean(-1),
        }
        return losses, {"q": q.detach().mean((1, 2)), "move": (act - generated).detach().abs().mean((1, 2))}

    def _generated(self, obs: Tensor, z: Tensor) -> Tensor:
        """The decoder's dose, ``[S, B, A]``."""
        return torch.tanh(self.vae.decode(obs, z))

    def _first_value(self, obs: Tensor, act: Tensor) -> Tensor:
        """Q_1 ``[S, B]`` as a function of the dose alone."""
        value: Tensor = frozen(self.critic, obs, act, members=1).squeeze(1)
        return value

    def _target_value(self, obs: Tensor, z: Tensor) -> Tensor:
        """V ``[S, B]`` of the dose that the target networks make of a latent."""
        act = self.actor_target(obs, self._generated(obs, z))
        return soft_clipped(self.critic_target, obs, act, self.config.least_weight)


def _check(config: BCQConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name in ("target_candidates", "candidates"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}.")
    if config.reach < 0.0:
        raise UserError(f"reach must be at least 0, got {config.reach}.")
    if not 0.0 <= config.least_weight <= 1.0:
        raise UserError(f"least_weight must be between 0 and 1, got {config.least_weight}.")
