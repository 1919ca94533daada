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
)
from dosing.models.losses import target_copy, td_loss
from dosing.models.networks import Initialiser
from dosing.types import About, Problem


@dataclass(frozen=True)
class SQLConfig(InSampleSettings):
    """Settings of SQL: step size and alpha of FtTPO's treatment experiment, the rest as SQL's paper.

    That experiment used the released weight; with the derived one its alpha stays close to imitation. The
    paper's locomotion experiments use a step size of 3e-4 with cosine decay, an alpha of 1 and a discount of
    0.99; its mazes 2e-4 and an alpha of 0.1 (3 in umaze-diverse).
    """

    learning_rate: float = 3e-3
    """Adam step size of every network."""
    alpha: float = 5.0
    """Price of leaving the recorded policy: large imitates, small leaves out all but the best doses."""
    actor_weight: Literal["derived", "released"] = "derived"
    """derived is [u]_+ of the equations; released is the positive part of the advantage."""
    value_layer_norm: bool = True
    """Layer normalisation in V."""


class SQL(Agent):
    """S stacked seeds of SQL."""

    about = About(
        paper="Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv 2303.15810",
        family="Gaussian",
        support="infinite_clipped",
        checked="IVR, 4e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: SQLConfig) -> None:
        super().__init__(problem, init.seeds)
        if not config.alpha > 0.0:
            raise UserError(f"alpha must be above 0, got {config.alpha}.")
        self.config = config
        self.critic, self.value, self.actor = build_networks(init, problem, config, config.value_layer_norm)
        self.critic_target = target_copy(self.critic)
        self.optimizers = build_optimisers(self.critic, self.value, self.actor, config.learning_rate)

    def schedule(self, step: int) -> None:
        """Cosine decay of the policy's step size, if asked for."""
        decay_policy_step(self.optimizers, self.config, step)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``actor``, each ``[S]``."""
        c = self.config
        x = in_sample_values(batch, self.critic, self.critic_target, self.value, c.discount)
        ratio = (1.0 + x.advantage / (2.0 * c.alpha)).clamp(min=0.0)  # [u]_+
        weight = self.scaled(x.advantage.detach())
        if c.actor_weight == "derived":
            weight = 1.0 + weight / (2.0 * c.alpha)
        weight = weight.clamp(0.0, c.weight_clip)
        losses = {
            "critic": td_loss(x.q, x.target),
            "value": (ratio.square() + x.v / c.alpha).mean(-1),
            "actor": imitation(self.actor, batch, weight),
        }
        return losses, x.metrics() | {"weight/zero_share": (weight == 0.0).to(x.q.dtype).mean(-1)}
