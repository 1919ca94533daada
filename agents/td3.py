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

import torch
from torch import Tensor
from torch.distributions import Distribution

from dosing.agent import Agent, Batch
from dosing.models.critics import Critic, frozen
from dosing.models.losses import polyak, smoothed, target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.policy_heads import PointPolicy
from dosing.types import Noise, Problem


@dataclass(frozen=True)
class TD3Config:
    """Settings of TD3: those of the authors' code, with the discount of the treatment simulators.

    Their locomotion experiments use a discount of 0.99 and everything else as here.
    """

    hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of every network."""
    learning_rate: float = 3e-4
    """Adam step size of every network."""
    discount: float = 0.9
    """gamma: 0.9 on the treatment simulators, 0.99 on MuJoCo."""
    target_rate: float = 0.005
    """Polyak rate of the target networks."""
    target_noise: float = 0.2
    """sigma of the noise on the target policy's action."""
    noise_clip: float = 0.5
    """c, the largest such noise."""
    actor_every: int = 2
    """Critic updates per update of the policy and of the target networks."""


class TD3(Agent):
    """S stacked seeds of TD3."""

    def __init__(self, init: Initialiser, problem: Problem, config: TD3Config) -> None:
        super().__init__(problem, init.seeds)
        self.config = config
        self.actor = PointPolicy(init, problem, config.hidden)
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden)
        self.actor_target, self.critic_target = target_copy(self.actor), target_copy(self.critic)
        self.optimizers = {
            "critic": adam(self.critic, config.learning_rate),
            "actor": adam(self.actor, config.learning_rate),
        }

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise on the target policy's action."""
        return {"target": Noise("normal", (batch_size, self.problem.n_act))}

    def policy(self, obs: Tensor) -> Distribution:
        """The distribution of one dose."""
        distribution: Distribution = self.actor(obs)
        return distribution

    def phase(self, step: int) -> int:
        """1 where the policy and the target networks move as well, else 0."""
        return int((step + 1) % self.config.actor_every == 0)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic`` and, in the policy's turn, ``actor``, each ``[S]``."""
        c = self.config
        with torch.no_grad():
            next_act = self.actor_target.action(batch.next_obs)
            next_act = smoothed(next_act, batch.noise["target"], c.target_noise, c.noise_clip)
            bootstrap = self.critic_target.pessimistic(batch.next_obs, next_act)  # [S, B]
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        losses = {"critic": (q - target.unsqueeze(1)).square().mean(-1).sum(-1)}
        metrics = {"q": q.detach().mean((1, 2))}
        if self.phase(batch.step):
            act = self.actor.action(batch.obs)
            losses["actor"] = -frozen(self.critic, batch.obs, act, members=1).mean((1, 2))
        return losses, metrics

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Critics every time; policy and target networks every ``actor_every``-th time."""
        report = super().update(batch)
        if self.phase(batch.step):
            polyak(self.critic_target, self.critic, self.config.target_rate)
            polyak(self.actor_target, self.actor, self.config.target_rate)
        return report
