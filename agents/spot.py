"""SPOT, supported policy optimization. Wu, Wu, Qiu, Wang, Long 2022, arXiv 2202.06239 (NeurIPS 2022).

TD3 whose policy is kept where recorded doses are likely, by the density of a conditional variational
auto-encoder (CVAE) that is fitted first and then frozen. Its decoder distribution is p(a | z, s) =
N(decoder(s, z), beta/4), its prior N(0, I), its posterior q(z | a, s) = N(mean, diag(sigma^2)); the latent
has twice as many dimensions as the dose, n. With z_l drawn from q:

    D(s, a) = mean_l |decoder(s, z_l) - a|^2 / n + beta KL(q(z | a, s) || N(0, I)) / 2n
    L_vae   = E [ D(s, a) ]                                                   the first vae_steps updates
    a'      = clip(pi_bar(s') + clip(sigma eps, -c, c), -1, 1),   eps ~ N(0, 1)
    L_Q     = sum_i E [ (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2 ]
    L_pi    = - E [ Q_1(s, pi(s)) ] / E |Q_1(s, pi(s))| + lambda E [ P(s, pi(s)) ]

The penalty P is D, which is beta/2n times the negative evidence lower bound (ELBO) of ln p(a | s), up to a
constant; or, in the same unit, the tighter estimate by importance sampling over L draws,

    P = - beta/2n [ ln 1/L sum_l exp(ln p(a | z_l, s) + ln p(z_l) - ln q(z_l | a, s)) - constant ].

Gradients pass through the CVAE into pi(s) and stop there. After the CVAE's updates the critics are updated
every time; every second time the policy is too, at the same parameters, and then both target networks follow.
Dropout works on pi(s) in L_pi alone: neither the target policy nor the executed one ever has any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.deterministic import DelayedSettings, critic_losses, smoothed_target
from dosing.models.losses import target_copy
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.policy_heads import PointPolicy
from dosing.models.vae import ConditionalVae, vae_loss
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class SPOTConfig(DelayedSettings):
    """Settings of SPOT: step size and lambda of FtTPO's treatment experiment, the rest near SPOT's paper.

    The paper's experiments use a step size of 3e-4, a discount of 0.99, a CVAE with two hidden layers of 750
    and 1e5 updates, one draw per estimate, and lambda per data set (medium-expert, medium, medium-replay):
    HalfCheetah 1, 0.05, 0.05; Hopper 0.2, 0.1, 0.1; Walker2d 0.5, 0.2, 0.2. Mazes: no dropout, a policy step
    size of 1e-4, lambda 0.25 (umaze, umaze-diverse), 0.05 (medium-play), 0.025 (medium-diverse and both
    large).
    """

    learning_rate: float = 1e-3
    """Adam step size of policy and critics."""
    penalty: float = 0.05
    """lambda: 0 follows the critic anywhere, large stays where recorded doses are dense."""
    density: Literal["elbo", "importance"] = "elbo"
    """Estimate of the recorded doses' density: the lower bound, or importance sampling, tighter with L."""
    n_samples: int = 4
    """L, draws of the latent per estimate; the paper's 1 is noisy where there are few dose dimensions."""
    normalise_q: bool = True
    """Divide the critic's value by its mean size, so that lambda does not depend on the reward's scale."""
    dropout: float = 0.1
    """Share of the policy's hidden units that are dropped in its own loss; 0.1 on MuJoCo."""
    vae_steps: int = 1000
    """First updates, which fit the CVAE and nothing else; a training must be longer than these."""
    vae_hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of the CVAE's encoder and decoder."""
    vae_learning_rate: float = 1e-3
    """Adam step size of the CVAE."""
    vae_beta: float = 0.5
    """beta: weight of the KL term; also four times the variance of the decoder's distribution."""


class SPOT(Agent):
    """S stacked seeds of SPOT."""

    about = About(
        paper="Wu, Wu, Qiu, Wang, Long 2022, arXiv 2202.06239",
        family="deterministic",
        support="point",
        checked="thuml/SPOT and CORL, 3e-16",
    )
    target_phase = 2

    def __init__(self, init: Initialiser, problem: Problem, config: SPOTConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config, self.warm_up = config, config.vae_steps
        self.vae = ConditionalVae(init, problem, config.vae_hidden)
        self.actor = PointPolicy(init, problem, config.hidden)
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden)
        self.actor_target, self.critic_target = target_copy(self.actor), target_copy(self.critic)
        self.optimizers = {
            "vae": adam(self.vae, config.vae_learning_rate),
            "critic": adam(self.critic, config.learning_rate),
            "actor": adam(self.actor, config.learning_rate),
        }

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise of the target action and of the latents; uniform noise of the dropout."""
        c, n_act = self.config, self.problem.n_act
        plan = {
            "vae": Noise("normal", (batch_size, 1, 2 * n_act)),
            "target": Noise("normal", (batch_size, n_act)),
            "latent": Noise("normal", (batch_size, c.n_samples, 2 * n_act)),
        }
        if c.dropout > 0.0:
            plan["dropout"] = Noise("uniform", (batch_size, sum(c.hidden)))
        return plan

    def phase(self, step: int) -> int:
        """0 while the CVAE is fitted; then 1 for the critics alone, 2 for critics, policy and targets."""
        done = step - self.config.vae_steps
        return 0 if done < 0 else 1 + int(self.config.moves(done))

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of the phase, each ``[S]``: ``vae``; or ``critic`` and, in the policy's turn, ``actor``."""
        c, phase = self.config, self.phase(batch.step)
        if phase == 0:
            coded = self.vae(batch.obs, batch.act, batch.noise["vae"])
            return {"vae": vae_loss(batch.act, *coded, beta=c.vae_beta)}, {}
        target = smoothed_target(self.actor_target, self.critic_target, batch, c)
        losses, metrics = critic_losses(self.critic, batch, target)
        if phase == 2:
            act = self._dropped_action(batch)
            q_act = frozen(self.critic, batch.obs, act, members=1).squeeze(1)  # [S, B]
            size = q_act.detach().abs().mean(-1) if c.normalise_q else 1.0
            coded = frozen(self.vae, batch.obs, act, batch.noise["latent"])
            if c.density == "elbo":
                penalty = vae_loss(act, *coded, beta=c.vae_beta)
            else:
                unit = c.vae_beta / (2.0 * self.problem.n_act)
                penalty = -unit * self._log_mean_weight(act, batch.noise["latent"], *coded).mean(-1)
            losses["actor"] = c.penalty * penalty - q_act.mean(-1) / size
            metrics["penalty"] = penalty.detach()
        return losses, metrics

    def _dropped_action(self, batch: Batch) -> Tensor:
        """pi(s) ``[S, B, A]`` with dropout after every hidden layer, by the batch's noise."""
        rate = self.config.dropout
        if rate == 0.0:
            return self.actor.action(batch.obs)
        uniform = batch.noise["dropout"].split(self.config.hidden, -1)
        return self.actor.action(batch.obs, [(u >= rate).to(u.dtype) / (1.0 - rate) for u in uniform])

    def _log_mean_weight(
        self, act: Tensor, noise: Tensor, decoded: Tensor, z: Tensor, mean: Tensor, log_std: Tensor
    ) -> Tensor:
        """Importance-sampling estimate ``[S, B]`` of ln p(a | s), without the decoder's constant."""
        error = (decoded - act.unsqueeze(2)).square().sum(-1)  # [S, B, L]
        log_ratio = 0.5 * (noise.square() - z.square()).sum(-1) + log_std.sum(-1).unsqueeze(-1)
        log_weight = log_ratio - 2.0 / self.config.vae_beta * error
        return torch.logsumexp(log_weight, -1) - math.log(noise.shape[2])


def _check(config: SPOTConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name, low in (("penalty", 0.0), ("n_samples", 1)):
        if getattr(config, name) < low:
            raise UserError(f"{name} must be at least {low:g}, got {getattr(config, name)}.")
    if not 0.0 <= config.dropout < 1.0:
        raise UserError(f"dropout must be at least 0 and below 1, got {config.dropout}.")
