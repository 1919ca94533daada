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
from torch.distributions import Distribution

from dosing.agent import Agent, Batch
from dosing.errors import UserError
from dosing.models.critics import Critic, Value
from dosing.models.losses import expectile_loss, polyak, target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam, decay_learning_rate
from dosing.models.policy_heads import Family, Policy
from dosing.types import Noise, Problem


@dataclass(frozen=True)
class IQLConfig:
    """Settings of IQL: step size, expectile, beta of FtTPO's treatment experiment, the rest as IQL's paper.

    The paper's locomotion experiments use a step size of 3e-4 with cosine decay, an expectile of 0.7 and a
    discount of 0.99.
    """

    hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of every network."""
    learning_rate: float = 3e-5
    """Adam step size of every network."""
    discount: float = 0.9
    """gamma: 0.9 on the treatment simulators, 0.99 on MuJoCo."""
    target_rate: float = 0.005
    """Polyak rate of the target critics."""
    expectile: float = 0.9
    """kappa: 0.5 learns the value of the recorded policy, towards 1 the best recorded dose."""
    inverse_temperature: float = 3.0
    """beta: 0 imitates, large follows the advantage."""
    weight_clip: float = 100.0
    """Largest weight a recorded dose can have."""
    policy_family: Family = "clipped_gaussian"
    """Distribution of the policy; any whose density is positive on the whole box."""
    log_std_min: float = -5.0
    """Lower bound of the policy's log scale."""
    log_std_max: float = 2.0
    """Upper bound of the policy's log scale."""
    actor_decay_steps: int | None = None
    """Cosine decay of the policy's step size to 0 over this many updates; None keeps it constant."""


class IQL(Agent):
    """S stacked seeds of IQL with a clipped Gaussian policy."""

    def __init__(self, init: Initialiser, problem: Problem, config: IQLConfig) -> None:
        super().__init__(problem, init.seeds)
        if not 0.0 < config.expectile < 1.0:
            raise UserError(f"expectile must be above 0 and below 1, got {config.expectile}.")
        self.config = config
        n_obs, n_act, hidden = problem.n_obs, problem.n_act, config.hidden
        self.critic = Critic(init, n_obs, n_act, hidden, scheme="orthogonal")
        self.value = Value(init, n_obs, hidden, scheme="orthogonal")
        self.actor = Policy(
            init,
            problem,
            hidden,
            config.policy_family,
            scheme="orthogonal",
            log_std=(config.log_std_min, config.log_std_max),
            free_scale=True,
        )
        self.critic_target = target_copy(self.critic)
        self.optimizers = {
            "critic": adam([*self.critic.parameters(), *self.value.parameters()], config.learning_rate),
            "actor": adam(self.actor, config.learning_rate),
        }

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """IQL's update is deterministic given the batch."""
        return {}

    def policy(self, obs: Tensor) -> Distribution:
        """The fitted distribution; a clipped Gaussian unless ``policy_family`` says otherwise."""
        distribution: Distribution = self.actor(obs)
        return distribution

    def schedule(self, step: int) -> None:
        """Cosine decay of the policy's step size, if asked for."""
        c = self.config
        decay_learning_rate(self.optimizers["actor"], c.learning_rate, step, c.actor_decay_steps)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``actor``, each ``[S]``."""
        c = self.config
        with torch.no_grad():
            q_target = self.critic_target.pessimistic(batch.obs, batch.act)  # [S, B]
            target = td_target(batch.reward, batch.terminated, c.discount, self.value(batch.next_obs))
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        v = self.value(batch.obs)  # [S, B]
        advantage = q_target - v
        losses = {
            "critic": (q - target.unsqueeze(1)).square().mean(-1).sum(-1),
            "value": expectile_loss(advantage, c.expectile).mean(-1),
            "actor": self.regression(batch.obs, batch.act, advantage.detach()).mean(-1),
        }
        return losses, {"q": q.detach().mean((1, 2)), "advantage": advantage.detach().mean(-1)}

    def regression(self, obs: Tensor, act: Tensor, advantage: Tensor) -> Tensor:
        """The terms of L_pi ``[S, B]`` at doses ``act [S, B, A]`` of ``advantage [S, B]``."""
        c = self.config
        weight = torch.exp(c.inverse_temperature * self.scaled(advantage)).clamp(max=c.weight_clip)
        log_prob: Tensor = self.actor.log_prob(obs, act)
        return -weight * log_prob

    def update_targets(self) -> None:
        """Target critics by Polyak averaging."""
        polyak(self.critic_target, self.critic, self.config.target_rate)
