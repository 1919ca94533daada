"""EQL, exponential Q-learning. Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv 2303.15810 (ICLR 2023).

Implicit value regularisation with the reverse KL divergence: reward is exchanged for distance from the
recorded policy at rate alpha. Only recorded doses are ever valued:

    L_V  = E [ exp(x) + V(s) / alpha ],              x = (min_i Qbar_i(s, a) - V(s)) / alpha
    L_Q  = sum_i E [ (r + gamma (1 - d) V(s') - Q_i(s, a))^2 ]
    L_pi = - E [ min(exp(x), clip) ln pi(a | s) ]

L_V is least where E exp(x) = 1, that is V = alpha ln E exp(Q / alpha), so exp(x) is the density of the best
policy relative to the recorded one. The three losses are taken at the same parameters and stepped together;
the target critics follow by Polyak averaging. V has layer normalisation.

For stability L_V is multiplied by exp(-M), M = max(-1, largest x of the batch) held constant, and beyond
x = ``max_clip`` the exponential continues as a straight line: V still rises, at a bounded rate. The released
code keeps it constant there (``beyond_clip``), which leaves only V / alpha: the further V is below Q, the
further it is pushed down, and L_V has no lower bound. Its policy weight is exp(10 x) (``actor_weight``), ten
times colder than the equations.
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

RELEASED_FACTOR = 10.0
"""Factor of the advantage in the released code's policy weight."""


@dataclass(frozen=True)
class EQLConfig:
    """Settings of EQL: the common start of the treatment tasks, for which none were published.

    The paper's locomotion experiments use the same step size with cosine decay, an alpha of 2 and a discount
    of 0.99; its mazes 2e-4 and an alpha of 0.5 (5 in umaze-diverse).
    """

    hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of every network."""
    learning_rate: float = 3e-4
    """Adam step size of every network."""
    discount: float = 0.9
    """gamma: 0.9 on the treatment simulators, 0.99 on MuJoCo."""
    target_rate: float = 0.005
    """Polyak rate of the target critics."""
    alpha: float = 2.0
    """Price of leaving the recorded policy: large imitates, small follows the best recorded dose."""
    max_clip: float = 5.0
    """Exponent beyond which the value loss is no longer exponential."""
    beyond_clip: Literal["line", "flat"] = "line"
    """How it continues: line keeps the slope, flat is the released code."""
    actor_weight: Literal["derived", "released"] = "derived"
    """derived is exp(x) of the equations; released is exp(10 x)."""
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


class EQL(Agent):
    """S stacked seeds of EQL."""

    def __init__(self, init: Initialiser, problem: Problem, config: EQLConfig) -> None:
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
        """EQL's update is deterministic given the batch."""
        return {}

    def policy(self, obs: Tensor) -> Distribution:
        """The fitted distribution; a clipped Gaussian unless ``policy_family`` says otherwise."""
        distribution: Distribution = self.actor(obs)
        return distribution

    def schedule(self, step: int) -> None:
        """Cosine decay of the policy's step size, if asked for."""
        c = self.config
        decay_learning_rate(self.optimizers["actor"], c.learning_rate, step, c.actor_decay_steps)

    def _value_loss(self, v: Tensor, exponent: Tensor) -> Tensor:
        """exp(-M) (exp(x) + V / alpha) averaged over the batch, ``[S]``."""
        c = self.config
        capped = exponent.clamp(max=c.max_clip)
        top = capped.detach().amax(-1, keepdim=True).clamp(min=-1.0)  # [S, 1]
        exponential = torch.exp(capped - top)
        if c.beyond_clip == "line":
            exponential = exponential * (1.0 + exponent - capped)
        return (exponential + torch.exp(-top) * v / c.alpha).mean(-1)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``actor``, each ``[S]``."""
        c = self.config
        with torch.no_grad():
            q_target = self.critic_target.pessimistic(batch.obs, batch.act)  # [S, B]
            target = td_target(batch.reward, batch.terminated, c.discount, self.value(batch.next_obs))
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        v = self.value(batch.obs)  # [S, B]
        exponent = (q_target - v) / c.alpha
        factor = 1.0 if c.actor_weight == "derived" else RELEASED_FACTOR
        weight = torch.exp(factor * self.scaled(q_target - v.detach()) / c.alpha).clamp(max=c.weight_clip)
        losses = {
            "critic": (q - target.unsqueeze(1)).square().mean(-1).sum(-1),
            "value": self._value_loss(v, exponent),
            "actor": -(weight * self.actor.log_prob(batch.obs, batch.act)).mean(-1),
        }
        metrics = {
            "q": q.detach().mean((1, 2)),
            "advantage": (q_target - v.detach()).mean(-1),
            "value/clipped_share": (exponent.detach() > c.max_clip).to(q.dtype).mean(-1),
        }
        return losses, metrics

    def update_targets(self) -> None:
        """Target critics by Polyak averaging."""
        polyak(self.critic_target, self.critic, self.config.target_rate)
