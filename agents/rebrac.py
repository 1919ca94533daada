"""ReBRAC. Tarasov, Kurenkov, Nikulin, Kolesnikov 2023, arXiv 2305.09836 (NeurIPS 2023).

TD3+BC's penalty, decoupled: one weight where the policy is improved, another where it is valued. With a'_D
the recorded next dose:

    a'   = clip(pi_bar(s') + clip(sigma eps, -c, c), -1, 1),      eps ~ N(0, 1)
    L_Q  = sum_i E [ (r + gamma (1 - d) (min_j Qbar_j(s', a') - beta_2 |a' - a'_D|^2) - Q_i(s, a))^2 ]
    L_pi = E [ beta_1 |pi(s) - a|^2 - lambda min_j Q_j(s, pi(s)) ],   lambda = 1 / E |min_j Q_j(s, pi(s))|

Squared norms are sums over dose dimensions; lambda is no part of the gradient. The critics have layer
normalisation behind every ReLU. They are updated every time; every second time the policy is too, at the
same parameters, and then both target networks follow. The last visit of an episode has no recorded next dose,
so no penalty there. The lower bound of the target by the recorded return, which the authors' code adds to the
paper's equations, is not part of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.deterministic import Delayed, DelayedSettings, critic_losses, smoothed
from dosing.models.losses import target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam_each
from dosing.models.policy_heads import PointPolicy
from dosing.types import About, Problem


@dataclass(frozen=True)
class ReBRACConfig(DelayedSettings):
    """Settings of ReBRAC: widths, step size and discount of the treatment simulators, the rest as the paper.

    The paper's locomotion experiments use three hidden layers of 256, a step size of 1e-3, batches of 1024, a
    discount of 0.99, and (beta_1, beta_2) per data set (medium-expert, medium, medium-replay): HalfCheetah
    (0.01, 0.1), (0.001, 0.01), (0.01, 0.001); Hopper (0.1, 0.01), (0.01, 0.01), (0.05, 0.5); Walker2d (0.01,
    0.01), (0.05, 0.1), (0.05, 0.01).
    """

    actor_penalty: float = 0.01
    """beta_1: distance from the recorded dose in the policy's loss; large imitates."""
    critic_penalty: float = 0.01
    """beta_2: distance from the recorded next dose in the critics' target; large mistrusts other doses."""
    normalise_q: bool = True
    """Divide the critic's value by its mean size, lambda; otherwise lambda is 1."""
    layer_norm: bool = True
    """Layer normalisation in the critics."""


class ReBRAC(Delayed, Agent):
    """S stacked seeds of ReBRAC."""

    about = About(
        paper="Tarasov, Kurenkov, Nikulin, Kolesnikov 2023, arXiv 2305.09836",
        family="deterministic",
        support="point",
        checked="CORL, 3e-16",
    )
    config: ReBRACConfig

    needs: ClassVar[frozenset[str]] = frozenset({"next_act", "has_next"})

    def __init__(self, init: Initialiser, problem: Problem, config: ReBRACConfig) -> None:
        super().__init__(problem, init.seeds)
        if config.actor_penalty < 0.0 or config.critic_penalty < 0.0:
            raise UserError(
                "actor_penalty and critic_penalty must be at least 0, got "
                f"{config.actor_penalty} and {config.critic_penalty}."
            )
        self.config = config
        self.actor = PointPolicy(init, problem, config.hidden, scheme="edac", last_bound=1e-3)
        self.critic = Critic(
            init,
            problem.n_obs,
            problem.n_act,
            config.hidden,
            scheme="edac",
            layer_norm=config.layer_norm,
            norm_after=True,
            last_bound=3e-3,
        )
        self.actor_target, self.critic_target = target_copy(self.actor), target_copy(self.critic)
        self.optimizers = adam_each(config.learning_rate, critic=self.critic, actor=self.actor)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic`` and, in the policy's turn, ``actor``, each ``[S]``."""
        c = self.config
        with torch.no_grad():
            next_act = self.actor_target.action(batch.next_obs)
            next_act = smoothed(next_act, batch.noise["target"], c.target_noise, c.noise_clip)
            away = (next_act - batch.extra["next_act"]).square().sum(-1) * batch.extra["has_next"].squeeze(-1)
            bootstrap = self.critic_target.pessimistic(batch.next_obs, next_act) - c.critic_penalty * away
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
        losses, metrics = critic_losses(self.critic, batch, target)
        if self.phase(batch.step):
            act = self.actor.action(batch.obs)
            q_act = self.critic.lower(frozen(self.critic, batch.obs, act))  # [S, B]
            size = q_act.detach().abs().mean(-1) if c.normalise_q else 1.0
            distance = (act - batch.act).square().sum(-1).mean(-1)
            losses["actor"] = c.actor_penalty * distance - q_act.mean(-1) / size
            metrics["distance"] = distance.detach()
        return losses, metrics
