"""AWAC, advantage-weighted actor-critic. Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359.

Q is that of the policy itself, which is fitted to the recorded doses with a weight that grows with their
advantage over the policy's own dose. With temperature lambda:

    L_Q  = sum_i E [ (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2 ],     a' ~ pi(.|s')
    L_pi = - E [ w ln pi(a | s) ],   A = min_i Q_i(s, a) - min_i Q_i(s, a~),       a~ ~ pi(.|s)
    w    = min(exp(A / lambda), clip)

Drawn doses reach the critics as they would be executed, inside the limits. Both losses are taken at the same
parameters and stepped together; the target critics follow by Polyak averaging.

The weight may instead be normalised over the batch, w_b = B exp(A_b / lambda) / sum_j exp(A_j / lambda),
which needs no clip and does not change when every advantage moves by the same amount. The mean of the
Gaussian policy is tanh(.), where the public reimplementation lets it drift beyond the limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.models.batch import Batch
from dosing.models.critics import Critic
from dosing.models.in_sample import WeightedSettings, imitation, weighted_policy
from dosing.models.losses import target_copy, td_loss, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam_each
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class AWACConfig(WeightedSettings):
    """Settings of AWAC: the common start of the treatment tasks, for which none were published.

    The locomotion experiments of the public reimplementation (CORL) use three layers of 256, a discount of
    0.99, a temperature of 1/3 (0.1 in mazes) and a log scale between -20 and 2.
    """

    temperature: float = 1.0 / 3.0
    """lambda: large imitates, small follows the advantage."""
    weighting: Literal["exp", "softmax"] = "exp"
    """exp clips the weight; softmax normalises it over the batch."""
    weight_clip: float = 100.0
    """Largest weight a recorded dose can have; softmax does without."""


class AWAC(Agent):
    """S stacked seeds of AWAC."""

    about = About(
        paper="Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359",
        family="Gaussian",
        support="infinite_clipped",
        checked="CORL, 0",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: AWACConfig) -> None:
        super().__init__(problem, init.seeds)
        self.config = config
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden)
        self.actor = weighted_policy(init, problem, config)
        self.critic_target = target_copy(self.critic)
        self.optimizers = adam_each(config.learning_rate, critic=self.critic, actor=self.actor)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of the policy's dose at the state and at the next state."""
        shape = (batch_size, self.problem.n_act, self.actor.n_uniforms)
        return {"act": Noise("uniform", shape), "next_act": Noise("uniform", shape)}

    def _drawn(self, obs: Tensor, uniform: Tensor) -> Tensor:
        """Executed doses ``[S, B, A]`` of the policy."""
        return self.actor.distribution(self.actor.trunk(obs)).rsample_from(uniform).clamp(-1.0, 1.0)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``actor``, each ``[S]``."""
        c = self.config
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        with torch.no_grad():
            next_act = self._drawn(batch.next_obs, batch.noise["next_act"])
            bootstrap = self.critic_target.pessimistic(batch.next_obs, next_act)  # [S, B]
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
            baseline = self.critic.pessimistic(batch.obs, self._drawn(batch.obs, batch.noise["act"]))
            advantage = self.scaled(self.critic.lower(q) - baseline)
            if c.weighting == "exp":
                weight = torch.exp(advantage / c.temperature).clamp(max=c.weight_clip)
            else:
                weight = advantage.shape[-1] * torch.softmax(advantage / c.temperature, -1)
        losses = {
            "critic": td_loss(q, target),
            "actor": imitation(self.actor, batch, weight),
        }
        return losses, {"q": q.detach().mean((1, 2)), "advantage": advantage.mean(-1)}
