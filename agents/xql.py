"""XQL, extreme Q-learning. Garg, Hejna, Geist, Ermon 2023, arXiv 2301.02328 (ICLR 2023).

V is fitted to the soft maximum beta ln E exp(Q / beta) over recorded doses by Gumbel regression, the maximum
likelihood of Gumbel noise in Q; the policy follows by advantage-weighted regression. With Gumbel temperature
beta, inverse temperature t and Huber's loss H (a parabola up to delta, then a line):

    L_V  = E [ exp(z) - z - 1 ],                     z = (min_i Qbar_i(s, a) - V(s)) / beta
    L_Q  = sum_i E [ H(r + gamma (1 - d) V(s') - Q_i(s, a)) ]
    L_pi = - E [ min(exp(t (min_i Qbar_i(s, a) - V(s))), clip) ln pi(a | s) ]

The three losses are taken at the same parameters and stepped together; the target critics follow by Polyak
averaging. V has layer normalisation.

For stability L_V is multiplied by exp(-M), M = max(-1, largest z of the batch) held constant, or the
logarithm ln E [exp(z) - z] is taken (``value_loss``); beyond z = ``max_clip`` the exponential continues as a
straight line: V still rises, at a bounded rate. The released code cuts z itself off there (``beyond_clip``),
and a value that far below Q stays where it is; its logarithm, like the line, keeps the slope. Two published
options smooth L_V over doses that were not recorded: noise on the doses, and random doses beside them. (For
some mazes the released code takes several steps of V per update; here it is always one.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

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
from dosing.models.losses import target_copy
from dosing.models.networks import Initialiser
from dosing.types import About, Noise, Problem

MAX_NOISE = 0.5
"""Largest change that noise makes to a dose, on the [-1, 1] axis."""


@dataclass(frozen=True)
class XQLConfig(InSampleSettings):
    """Settings of XQL: step size and beta of FtTPO's treatment experiment, the rest as XQL's paper.

    Nothing else was published for the treatment tasks, though what bears the name XQL in that experiment is
    expectile regression. The paper's locomotion experiments use a step size of 3e-4 with cosine decay, a
    discount of 0.99, a beta of 1 on halfcheetah, 2 or 5 on hopper and 2, 5 or 10 on walker2d, and a
    ``max_clip`` of 5 or 7.
    """

    learning_rate: float = 1e-4
    """Adam step size of every network."""
    beta: float = 5.0
    """Gumbel temperature: large learns the value of the recorded policy, small the best recorded dose."""
    value_loss: Literal["rescaled", "log"] = "rescaled"
    """rescaled multiplies the loss by exp(-M); log takes its logarithm."""
    max_clip: float = 7.0
    """Exponent beyond which the value loss is no longer exponential."""
    beyond_clip: Literal["line", "flat"] = "line"
    """How it continues: line keeps the slope, flat is the released code where the loss is rescaled."""
    action_noise: float = 0.0
    """Standard deviation of the noise on the doses of the value loss; 0.1 where the paper has it."""
    random_actions: int = 0
    """Uniform doses beside every recorded one in the value loss; 1 where the paper has it."""
    huber_delta: float = 20.0
    """Error of the critic up to which its loss is a parabola."""
    inverse_temperature: float = 3.0
    """t of the policy: 0 imitates, large follows the advantage; 3 on MuJoCo, 10 in mazes."""
    value_layer_norm: bool = True
    """Layer normalisation in V."""


class XQL(Agent):
    """S stacked seeds of XQL."""

    about = About(
        paper="Garg, Hejna, Geist, Ermon 2023, arXiv 2301.02328",
        family="Gaussian",
        support="infinite_clipped",
        checked="Div99/XQL, 1e-15",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: XQLConfig) -> None:
        super().__init__(problem, init.seeds)
        for name in ("beta", "huber_delta"):
            if not getattr(config, name) > 0.0:
                raise UserError(f"{name} must be above 0, got {getattr(config, name)}.")
        for name in ("action_noise", "random_actions"):
            if getattr(config, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(config, name)}.")
        self.config = config
        self.critic, self.value, self.actor = build_networks(init, problem, config, config.value_layer_norm)
        self.critic_target = target_copy(self.critic)
        self.optimizers = build_optimisers(self.critic, self.value, self.actor, config.learning_rate)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """What the smoothing options need; without them the update is deterministic given the batch."""
        c, n_act = self.config, self.problem.n_act
        plan = {}
        if c.action_noise > 0.0:
            plan["action_noise"] = Noise("normal", (batch_size, n_act))
        if c.random_actions > 0:
            plan["random_act"] = Noise("uniform", (batch_size, c.random_actions, n_act))
        return plan

    def schedule(self, step: int) -> None:
        """Cosine decay of the policy's step size, if asked for."""
        decay_policy_step(self.optimizers, self.config, step)

    @torch.no_grad()
    def _values_around(self, batch: Batch, q_target: Tensor) -> Tensor:
        """Smaller target values of the doses in the value loss, ``[S, 1 + K, B]``: recorded, then random."""
        c = self.config
        if c.action_noise > 0.0:
            shift = (c.action_noise * batch.noise["action_noise"]).clamp(-MAX_NOISE, MAX_NOISE)
            q_target = self.critic_target.pessimistic(batch.obs, (batch.act + shift).clamp(-1.0, 1.0))
        values = [q_target]
        for k in range(c.random_actions):
            random_act = 2.0 * batch.noise["random_act"][:, :, k] - 1.0
            values.append(self.critic_target.pessimistic(batch.obs, random_act))
        return torch.stack(values, 1)

    def _value_loss(self, exponent: Tensor) -> Tensor:
        """Gumbel regression on the exponents z ``[S, M]``, one loss per seed."""
        c = self.config
        exponential, scale, top = rescaled_exponential(exponent, c.max_clip, c.beyond_clip)
        if c.beyond_clip == "flat":
            exponent = exponent.clamp(max=c.max_clip)
        if c.value_loss == "rescaled":
            return (exponential - scale * (exponent + 1.0)).mean(-1)
        return (exponential - scale * exponent).mean(-1).log() + top.squeeze(-1)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``actor``, each ``[S]``."""
        c = self.config
        x = in_sample_values(batch, self.critic, self.critic_target, self.value, c.discount)
        exponent = ((self._values_around(batch, x.q_target) - x.v.unsqueeze(1)) / c.beta).flatten(1)
        advantage = self.scaled(x.advantage.detach())
        weight = torch.exp(c.inverse_temperature * advantage).clamp(max=c.weight_clip)
        target = x.target.unsqueeze(1).expand_as(x.q)
        losses = {
            "critic": huber_loss(x.q, target, reduction="none", delta=c.huber_delta).mean(-1).sum(-1),
            "value": self._value_loss(exponent),
            "actor": imitation(self.actor, batch, weight),
        }
        clipped = (exponent.detach() > c.max_clip).to(x.q.dtype).mean(-1)
        return losses, x.metrics() | {"advantage": advantage.mean(-1), "value/clipped_share": clipped}
