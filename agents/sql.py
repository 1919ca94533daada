"""SQL, sparse Q-learning. Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv 2303.15810 (ICLR 2023).

Implicit value regularisation with the chi-squared divergence: reward is exchanged for distance from the
recorded policy at rate alpha, and the best policy leaves doses of low value out altogether. Only recorded
doses are ever valued:

    L_V  = E [ 1{u > 0} u^2 + V(s) / alpha ],        u = 1 + (min_i Qbar_i(s, a) - V(s)) / (2 alpha)
    L_Q  = sum_i E [ (r + gamma (1 - d) V(s') - Q_i(s, a))^2 ]
    L_pi = - E [ min([u]_+, clip) ln pi(a | s) ]

L_V is least where E [u]_+ = 1, so [u]_+ is the density of the best policy relative to the recorded one. The
three losses are taken at the same parameters and stepped together; the target critics follow by Polyak
averaging. V has layer normalisation.

The released code weights with [min_i Qbar_i - V]_+ instead (``actor_weight``), which also drops the doses
slightly below the value; the two agree up to scale as alpha goes to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from dosing.agent import Agent, Batch
from dosing.errors import UserError
from dosing.models.critics import Critic, Value
from dosing.models.losses import polyak, target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam, decay_learning_rate
from dosing.models.policy_heads import Family, Policy
from dosing.types import Noise, Problem


@dataclass(frozen=True)
class SQLConfig:
    """Settings of SQL: step size and alpha of FtTPO's treatment experiment, the rest as SQL's paper.

    That experiment used the released weight; with the derived one its alpha stays close to imitation. The
    paper's locomotion experiments use a step size of 3e-4 with cosine decay, an alpha of 1 and a discount of
    0.99; its mazes 2e-4 and an alpha of 0.1 (3 in umaze-diverse).
    """

    hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of every network."""
    learning_rate: float = 3e-3
    """Adam step size of every network."""
    discount: float = 0.9
    """gamma: 0.9 on the treatment simulators, 0.99 on MuJoCo."""
    target_rate: float = 0.005
    """Polyak rate of the target critics."""
    alpha: float = 5.0
    """Price of leaving the recorded policy: large imitates, small leaves out all but the best doses."""
    actor_weight: Literal["derived", "released"] = "derived"
    """derived is [u]_+ of the equations; released is the positive part of the advantage."""
    weight_clip: float = 100.0
    """Largest weight a recorded dose can have."""
    value_layer_norm: bool = True
    """Layer normalisation in V."""
    policy_family: Family = "clipped_gaussian"
    """Distribution of the policy; any whose density is positive on the whole box."""
    log_std_min: float = -5.0
    """Lower bound of the policy's log scale."""
    log_std_max: float = 2.0
    """Upper bound of the policy's log scale."""
    actor_decay_steps: int | None = None
    """Cosine decay of the policy's step size to 0 over this many updates; None keeps it constant."""


class SQL(Agent):
    """S stacked seeds of SQL."""

    def __init__(self, init: Initialiser, problem: Problem, config: SQLConfig) -> None:
        super().__init__(problem, init.seeds)
        if not config.alpha > 0.0:
            raise UserError(f"alpha must be above 0, got {config.alpha}.")
        self.config = config
        n_obs, n_act, hidden = problem.n_obs, problem.n_act, config.hidden
        self.critic = Critic(init, n_obs, n_act, hidden, scheme="orthogonal")
        self.value = Value(init, n_obs, hidden, scheme="orthogonal", layer_norm=config.value_layer_norm)
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
        """SQL's update is deterministic given the batch."""
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
        ratio = (1.0 + advantage / (2.0 * c.alpha)).clamp(min=0.0)  # [u]_+
        weight = self.scaled(advantage.detach())
        if c.actor_weight == "derived":
            weight = 1.0 + weight / (2.0 * c.alpha)
        weight = weight.clamp(0.0, c.weight_clip)
        losses = {
            "critic": (q - target.unsqueeze(1)).square().mean(-1).sum(-1),
            "value": (ratio.square() + v / c.alpha).mean(-1),
            "actor": -(weight * self.actor.log_prob(batch.obs, batch.act)).mean(-1),
        }
        metrics = {
            "q": q.detach().mean((1, 2)),
            "advantage": advantage.detach().mean(-1),
            "weight/zero_share": (weight == 0.0).to(q.dtype).mean(-1),
        }
        return losses, metrics

    def update_targets(self) -> None:
        """Target critics by Polyak averaging."""
        polyak(self.critic_target, self.critic, self.config.target_rate)
