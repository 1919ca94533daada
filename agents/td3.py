"""TD3. Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477 (ICML 2018).

A deterministic policy against two critics, with smoothed targets:

    a'   = clip(pi_bar(s') + clip(sigma eps, -c, c), -1, 1),      eps ~ N(0, 1)      (section 5.3)
    L_Q  = sum_i E [ (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2 ]        (algorithm 1)
    L_pi = - E [ Q_1(s, pi(s)) ]

The critics are updated every time; every second time the policy is too, at the same parameters, and then both
target networks follow. It is an online method: nothing holds the policy near recorded doses, so on recorded
visits alone it goes where the critics err upwards. Here it makes data and starts online training; offline it
is what TD3+BC and ReBRAC are measured against. The step size is that of the authors' code, 3e-4; their table
has 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dosing.agent import Agent
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.deterministic import Delayed, DelayedSettings, critic_losses, smoothed_target
from dosing.models.losses import target_copy
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam_each
from dosing.models.policy_heads import PointPolicy
from dosing.types import About, Problem


@dataclass(frozen=True)
class TD3Config(DelayedSettings):
    """Settings of TD3: those of the authors' code, with the discount of the treatment simulators.

    Their locomotion experiments use a discount of 0.99 and everything else as here.
    """


class TD3(Delayed, Agent):
    """S stacked seeds of TD3."""

    about = About(
        paper="Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477",
        family="deterministic",
        support="point",
        checked="CORL, 3e-16",
    )
    config: TD3Config

    def __init__(self, init: Initialiser, problem: Problem, config: TD3Config) -> None:
        super().__init__(problem, init.seeds)
        self.config = config
        self.actor = PointPolicy(init, problem, config.hidden)
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden)
        self.actor_target, self.critic_target = target_copy(self.actor), target_copy(self.critic)
        self.optimizers = adam_each(config.learning_rate, critic=self.critic, actor=self.actor)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic`` and, in the policy's turn, ``actor``, each ``[S]``."""
        target = smoothed_target(self.actor_target, self.critic_target, batch, self.config)
        losses, metrics = critic_losses(self.critic, batch, target)
        if self.phase(batch.step):
            act = self.actor.action(batch.obs)
            losses["actor"] = -frozen(self.critic, batch.obs, act, members=1).mean((1, 2))
        return losses, metrics
