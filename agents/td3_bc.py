"""TD3+BC. Fujimoto, Gu 2021, arXiv 2106.06860 (NeurIPS 2021).

TD3 (Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477) with one term that holds the deterministic policy near
the recorded doses:

    a'   = clip(pi_bar(s') + clip(sigma eps, -c, c), -1, 1),      eps ~ N(0, 1)
    L_Q  = sum_i E [ (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2 ]
    L_pi = - lambda E [ Q_1(s, pi(s)) ] + E [ (pi(s) - a)^2 ],    lambda = alpha / E |Q_1(s, pi(s))|    (3, 5)

lambda is no part of the gradient, and (pi(s) - a)^2 is a mean over dose dimensions, so that the balance of
the two terms depends neither on the scale of the reward nor on the number of doses. The critics are updated
every time; every second time the policy is too, at the same parameters, and then both target networks follow.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.deterministic import Delayed, DelayedSettings, critic_losses, smoothed_target
from dosing.models.losses import target_copy
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam_each
from dosing.models.policy_heads import PointPolicy
from dosing.types import About, Problem


@dataclass(frozen=True)
class TD3BCConfig(DelayedSettings):
    """Settings of TD3+BC: the paper's, with the discount of the treatment simulators.

    The paper's locomotion experiments use a discount of 0.99 and everything else as here, on every data set.
    """

    alpha: float = 2.5
    """Weight of the critic against imitation: 0 imitates, large follows the critic."""


class TD3BC(Delayed, Agent):
    """S stacked seeds of TD3+BC."""

    about = About(
        paper="Fujimoto, Gu 2021, arXiv 2106.06860",
        family="deterministic",
        support="point",
        checked="CORL, 2e-16",
    )
    config: TD3BCConfig

    def __init__(self, init: Initialiser, problem: Problem, config: TD3BCConfig) -> None:
        super().__init__(problem, init.seeds)
        if config.alpha < 0.0:
            raise UserError(f"alpha must be at least 0, got {config.alpha}.")
        self.config = config
        self.actor = PointPolicy(init, problem, config.hidden)
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden)
        self.actor_target, self.critic_target = target_copy(self.actor), target_copy(self.critic)
        self.optimizers = adam_each(config.learning_rate, critic=self.critic, actor=self.actor)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic`` and, in the policy's turn, ``actor``, each ``[S]``."""
        c = self.config
        target = smoothed_target(self.actor_target, self.critic_target, batch, c)
        losses, metrics = critic_losses(self.critic, batch, target)
        if self.phase(batch.step):
            act = self.actor.action(batch.obs)
            q_act = frozen(self.critic, batch.obs, act, members=1).squeeze(1)  # [S, B]
            weight = c.alpha / q_act.detach().abs().mean(-1)
            distance = (act - batch.act).square().mean((1, 2))
            losses["actor"] = distance - weight * q_act.mean(-1)
            metrics["distance"] = distance.detach()
        return losses, metrics
