"""PLAS, policy in the latent action space. Zhou, Bajracharya, Held 2020, arXiv 2011.07213 (CoRL 2020).

A conditional variational auto-encoder (CVAE) of the recorded doses is fitted first and then frozen. The
policy chooses its latent, within +-c, so that every dose is one that the decoder can give; optionally a
perturbation xi moves it by at most phi. With D of ``dosing.models.vae``:

    L_vae = E [ D(s, a) ]                                                     the first vae_steps updates
    pi(s) = clip(g + xi(s, g), -1, 1),   g = decoder(s, c tanh(h(s)))
    L_Q   = sum_i E [ (r + gamma (1 - d) V(s', pi_bar(s')) - Q_i(s, a))^2 ],
            V = lambda min_j Qbar_j + (1 - lambda) max_j Qbar_j               (soft clipped double Q)
    L_pi  = - E [ Q_1(s, pi(s)) ]

Gradients pass through the decoder into the latent and stop there. After the CVAE's updates critics and policy
are updated at the same parameters every time, and then both target networks follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from dosing.agent import Agent
from dosing.distributions.point import Point
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.losses import soft_clipped, target_copy, td_loss, td_target
from dosing.models.networks import Initialiser, Mlp
from dosing.models.optimisers import adam
from dosing.models.settings import CriticSettings
from dosing.models.vae import ConditionalVae, Perturbation, vae_loss
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class PLASConfig(CriticSettings):
    """Settings of PLAS: widths and discount of the treatment simulators, the rest near the authors' code.

    That code uses hidden layers of 400 and 300 for policy and critics, two of 750 for the CVAE, which is
    fitted in 5e5 updates of step size 1e-4; a discount of 0.99, batches of 100, and where it perturbs, a
    reach of 0.05.
    """

    learning_rate: float = 1e-3
    """Adam step size of the critics."""
    actor_learning_rate: float = 1e-4
    """Adam step size of policy and perturbation."""
    largest_latent: float = 2.0
    """c: latents of the policy are within +-c; large reaches doses that were hardly recorded."""
    reach: float = 0.0
    """phi: largest move of a generated dose, as a share of half the dose range; 0 builds no perturbation."""
    least_weight: float = 0.75
    """lambda: weight of the least critic in the target; the greatest has the rest."""
    vae_steps: int = 1000
    """First updates, which fit the CVAE and nothing else; a training must be longer than these."""
    vae_hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of the CVAE's encoder and decoder."""
    vae_learning_rate: float = 1e-3
    """Adam step size of the CVAE."""
    vae_beta: float = 0.5
    """Weight of the KL term; also four times the variance of the decoder's distribution."""


class LatentPolicy(nn.Module):
    """The latent of a state and, where ``reach`` is above 0, a perturbation of the dose decoded from it."""

    def __init__(self, init: Initialiser, problem: Problem, config: PLASConfig) -> None:
        super().__init__()
        self.largest = config.largest_latent
        self.net = Mlp(init, [problem.n_obs, *config.hidden, 2 * problem.n_act])
        perturbed = config.reach > 0.0
        self.move = Perturbation(init, problem, config.hidden, config.reach) if perturbed else None

    def forward(self, obs: Tensor, vae: ConditionalVae) -> Tensor:
        """Action ``[S, B, A]`` at ``obs [S, B, O]``; gradients do not reach the decoder's weights."""
        z = self.largest * torch.tanh(self.net(obs))
        act = torch.tanh(vae.prior(frozen(vae.decoder, torch.cat((obs, z), -1))))
        return act if self.move is None else self.move(obs, act)


class PLAS(Agent):
    """S stacked seeds of PLAS."""

    about = About(
        paper="Zhou, Bajracharya, Held 2020, arXiv 2011.07213",
        family="deterministic",
        support="point",
        checked="Wenxuan-Zhou/PLAS, 4e-16",
    )
    target_phase = 1

    def __init__(self, init: Initialiser, problem: Problem, config: PLASConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config, self.warm_up = config, config.vae_steps
        self.vae = ConditionalVae(init, problem, config.vae_hidden, centred=True)
        self.actor = LatentPolicy(init, problem, config)
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden)
        self.actor_target, self.critic_target = target_copy(self.actor), target_copy(self.critic)
        self.optimizers = {
            "vae": adam(self.vae, config.vae_learning_rate),
            "critic": adam(self.critic, config.learning_rate),
            "actor": adam(self.actor, config.actor_learning_rate),
        }

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise of the CVAE's latent."""
        return {"vae": Noise("normal", (batch_size, 1, self.vae.n_latent))}

    def policy(self, obs: Tensor) -> Distribution:
        """The distribution of one dose."""
        return Independent(Point(self.actor(obs, self.vae), validate_args=False), 1, validate_args=False)

    def admissible(self, obs: Tensor, count: int = 256) -> Tensor:
        """Doses of the decoder for latents within +-c, moved by at most phi, ``[S, B, M, A]``."""
        return self.vae.image(obs, count, self.config.largest_latent, self.config.reach)

    def phase(self, step: int) -> int:
        """0 while the CVAE is fitted, then 1."""
        return int(step >= self.config.vae_steps)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of the phase, each ``[S]``: ``vae``, or ``critic`` and ``actor``."""
        c = self.config
        if self.phase(batch.step) == 0:
            coded = self.vae(batch.obs, batch.act, batch.noise["vae"])
            return {"vae": vae_loss(batch.act, *coded, beta=c.vae_beta)}, {}
        with torch.no_grad():
            next_act = self.actor_target(batch.next_obs, self.vae)
            bootstrap = soft_clipped(self.critic_target, batch.next_obs, next_act, c.least_weight)
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        q_act = frozen(self.critic, batch.obs, self.actor(batch.obs, self.vae), members=1)  # [S, 1, B]
        losses = {
            "critic": td_loss(q, target),
            "actor": -q_act.mean((1, 2)),
        }
        return losses, {"q": q.detach().mean((1, 2))}


def _check(config: PLASConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name in ("largest_latent", "actor_learning_rate"):
        if not getattr(config, name) > 0.0:
            raise UserError(f"{name} must be above 0, got {getattr(config, name)}.")
    if config.reach < 0.0:
        raise UserError(f"reach must be at least 0, got {config.reach}.")
    if not 0.0 <= config.least_weight <= 1.0:
        raise UserError(f"least_weight must be between 0 and 1, got {config.least_weight}.")
