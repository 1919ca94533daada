"""IQL, implicit Q-learning. Kostrikov, Nair, Levine 2022, arXiv 2110.06169.

Q is fitted to V of the next state, V to an upper expectile of Q at recorded doses only, and a Gaussian policy
to the recorded doses by advantage-weighted regression. With expectile kappa and inverse temperature beta:

    L_V  = E [ |kappa - 1{u < 0}| u^2 ],          u = min_i Qbar_i(s, a) - V(s)                     (eq. 5)
    L_Q  = sum_i E [ (r + gamma (1 - d) V(s') - Q_i(s, a))^2 ]                                      (eq. 6)
    L_pi = - E [ min(exp(beta u), clip) ln pi(a | s) ]                                              (eq. 7)

The three losses are taken at the same parameters and stepped together; the target critics follow by Polyak
averaging. The policy is N(tanh(m(s)), diag(sigma^2)) with a state-independent sigma: it has a density on the
whole real line, so the executed dose is clipped, and that clipping is counted. Other distributions are a
setting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.in_sample import (
    InSampleSettings,
    build_networks,
    build_optimisers,
    decay_policy_step,
    in_sample_values,
)
from dosing.models.losses import expectile_loss, target_copy, td_loss
from dosing.models.networks import Initialiser
from dosing.types import About, Problem


@dataclass(frozen=True)
class IQLConfig(InSampleSettings):
    """Settings of IQL: step size, expectile, beta of FtTPO's treatment experiment, the rest as IQL's paper.

    The paper's locomotion experiments use a step size of 3e-4 with cosine decay, an expectile of 0.7 and a
    discount of 0.99.
    """

    learning_rate: float = 3e-5
    """Adam step size of every network."""
    expectile: float = 0.9
    """kappa: 0.5 learns the value of the recorded policy, towards 1 the best recorded dose."""
    inverse_temperature: float = 3.0
    """beta: 0 imitates, large follows the advantage."""


class IQL(Agent):
    """S stacked seeds of IQL with a clipped Gaussian policy."""

    about = About(
        paper="Kostrikov, Nair, Levine 2022, arXiv 2110.06169",
        family="Gaussian",
        support="infinite_clipped",
        checked="CORL, 1e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: IQLConfig) -> None:
        super().__init__(problem, init.seeds)
        if not 0.0 < config.expectile < 1.0:
            raise UserError(f"expectile must be above 0 and below 1, got {config.expectile}.")
        self.config = config
        self.critic, self.value, self.actor = build_networks(init, problem, config)
        self.critic_target = target_copy(self.critic)
        self.optimizers = build_optimisers(self.critic, self.value, self.actor, config.learning_rate)

    def schedule(self, step: int) -> None:
        """Cosine decay of the policy's step size, if asked for."""
        decay_policy_step(self.optimizers, self.config, step)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``actor``, each ``[S]``."""
        c = self.config
        x = in_sample_values(batch, self.critic, self.critic_target, self.value, c.discount)
        losses = {
            "critic": td_loss(x.q, x.target),
            "value": expectile_loss(x.advantage, c.expectile).mean(-1),
            "actor": self.regression(batch.obs, batch.act, x.advantage.detach()).mean(-1),
        }
        return losses, x.metrics()

    def regression(self, obs: Tensor, act: Tensor, advantage: Tensor) -> Tensor:
        """The terms of L_pi ``[S, B]`` at doses ``act [S, B, A]`` of ``advantage [S, B]``."""
        c = self.config
        weight = torch.exp(c.inverse_temperature * self.scaled(advantage)).clamp(max=c.weight_clip)
        log_prob: Tensor = self.actor.log_prob(obs, act)
        return -weight * log_prob
