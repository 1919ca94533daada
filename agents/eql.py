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

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.in_sample import (
    InSampleSettings,
    build_networks,
    build_optimisers,
    decay_policy_step,
    imitation,
    in_sample_values,
    rescaled_exponential,
)
from dosing.models.losses import target_copy, td_loss
from dosing.models.networks import Initialiser
from dosing.types import About, Problem

RELEASED_FACTOR = 10.0
"""Factor of the advantage in the released code's policy weight."""


@dataclass(frozen=True)
class EQLConfig(InSampleSettings):
    """Settings of EQL: the common start of the treatment tasks, for which none were published.

    The paper's locomotion experiments use the same step size with cosine decay, an alpha of 2 and a discount
    of 0.99; its mazes 2e-4 and an alpha of 0.5 (5 in umaze-diverse).
    """

    alpha: float = 2.0
    """Price of leaving the recorded policy: large imitates, small follows the best recorded dose."""
    max_clip: float = 5.0
    """Exponent beyond which the value loss is no longer exponential."""
    beyond_clip: Literal["line", "flat"] = "line"
    """How it continues: line keeps the slope, flat is the released code."""
    actor_weight: Literal["derived", "released"] = "derived"
    """derived is exp(x) of the equations; released is exp(10 x)."""
    value_layer_norm: bool = True
    """Layer normalisation in V."""


class EQL(Agent):
    """S stacked seeds of EQL."""

    about = About(
        paper="Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv 2303.15810",
        family="Gaussian",
        support="infinite_clipped",
        checked="IVR, 4e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: EQLConfig) -> None:
        super().__init__(problem, init.seeds)
        if not config.alpha > 0.0:
            raise UserError(f"alpha must be above 0, got {config.alpha}.")
        self.config = config
        self.critic, self.value, self.actor = build_networks(init, problem, config, config.value_layer_norm)
        self.critic_target = target_copy(self.critic)
        self.optimizers = build_optimisers(self.critic, self.value, self.actor, config.learning_rate)

    def _value_loss(self, v: Tensor, exponent: Tensor) -> Tensor:
        """exp(-M) (exp(x) + V / alpha) averaged over the batch, ``[S]``."""
        c = self.config
        exponential, scale, _ = rescaled_exponential(exponent, c.max_clip, c.beyond_clip)
        return (exponential + scale * v / c.alpha).mean(-1)

    def schedule(self, step: int) -> None:
        """Cosine decay of the policy's step size, if asked for."""
        decay_policy_step(self.optimizers, self.config, step)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``actor``, each ``[S]``."""
        c = self.config
        x = in_sample_values(batch, self.critic, self.critic_target, self.value, c.discount)
        exponent = x.advantage / c.alpha
        factor = 1.0 if c.actor_weight == "derived" else RELEASED_FACTOR
        weight = torch.exp(factor * self.scaled(x.advantage.detach()) / c.alpha).clamp(max=c.weight_clip)
        losses = {
            "critic": td_loss(x.q, x.target),
            "value": self._value_loss(x.v, exponent),
            "actor": imitation(self.actor, batch, weight),
        }
        clipped = (exponent.detach() > c.max_clip).to(x.q.dtype).mean(-1)
        return losses, x.metrics() | {"value/clipped_share": clipped}
