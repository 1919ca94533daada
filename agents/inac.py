"""InAC, in-sample actor-critic. Xiao, Wang, Pan, White, White 2023, arXiv 2302.14372 (ICLR 2023).

The goal is pi(a|s) proportional to exp(Q(s, a) / tau) over the doses that the data hold, however often they
hold them: the density of the recorded doses is divided out of the weight. With temperature tau and a fitted
estimate pi_b of the recorded policy:

    L_b  = - E ln pi_b(a | s)
    L_V  = E_s 1/2 (V(s) - [min_i Qbar_i(s, a~) - tau ln pi(a~|s)])^2,               a~ ~ pi(.|s)
    L_Q  = 1/2 sum_i E 1/2 (y - Q_i(s, a))^2,
           y = r + gamma (1 - d) [min_j Qbar_j(s', a') - tau ln pi(a'|s')],          a' ~ pi(.|s')
    L_pi = - E [ w ln pi(a | s) ],   w = min(exp((min_i Q_i(s, a) - V(s)) / tau - ln pi_b(a|s)), clip)

Drawn doses reach the critics as they would be executed, inside the limits, while ln pi is taken where they
were drawn, so that its mean stays the entropy of the distribution. (The released code hands doses beyond the
limits, which no data hold, to the critics.) The losses are taken at the same parameters and stepped together;
the target critics follow by Polyak averaging.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from dosing.agent import Agent
from dosing.models.batch import Batch
from dosing.models.critics import Critic, Value
from dosing.models.in_sample import WeightedSettings, imitation, weighted_policy
from dosing.models.losses import target_copy, td_loss, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class InACConfig(WeightedSettings):
    """Settings of InAC: the common start of the treatment tasks, for which none were published.

    The paper's locomotion experiments use a discount of 0.99 and a temperature of 0.5 on replayed data, 0.1
    to 0.5 on medium (halfcheetah and walker2d 0.33) and 0.01 to 0.1 on expert data.
    """

    temperature: float = 0.5
    """tau: large spreads the policy over all recorded doses, small follows the value."""
    weight_clip: float = 1e4
    """Largest weight a recorded dose can have; rare doses reach it first."""
    log_std_min: float = -6.0
    """Lower bound of the log scale of both distributions, as published."""
    log_std_max: float = 2.0
    """Upper bound of the same; the released code bends it into (-6, 0), where a clip at 0 would get stuck."""


class InAC(Agent):
    """S stacked seeds of InAC."""

    about = About(
        paper="Xiao, Wang, Pan, White, White 2023, arXiv 2302.14372",
        family="Gaussian",
        support="infinite_clipped",
        checked="inac_pytorch, 7e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: InACConfig) -> None:
        super().__init__(problem, init.seeds)
        self.config = config
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden, scheme="xavier")
        self.value = Value(init, problem.n_obs, config.hidden, scheme="xavier")
        self.actor, self.behaviour = (weighted_policy(init, problem, config, "xavier") for _ in range(2))
        self.critic_target = target_copy(self.critic)
        self.optimizers = {
            "critic": adam([*self.critic.parameters(), *self.value.parameters()], config.learning_rate),
            "actor": adam([*self.actor.parameters(), *self.behaviour.parameters()], config.learning_rate),
        }

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of the policy's dose at the state and at the next state."""
        shape = (batch_size, self.problem.n_act, self.actor.n_uniforms)
        return {"act": Noise("uniform", shape), "next_act": Noise("uniform", shape)}

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """The estimate of the recorded policy."""
        return {"behaviour": self.behaviour(obs)}

    def _soft_value(self, obs: Tensor, uniform: Tensor) -> Tensor:
        """min_i Qbar_i(s, a) - tau ln pi(a|s) at one dose of the policy, ``[S, B]``."""
        distribution = self.actor.distribution(self.actor.trunk(obs))
        act, log_prob = distribution.rsample_with_log_prob(uniform)  # [S, B, A]
        q: Tensor = self.critic_target.pessimistic(obs, act.clamp(-1.0, 1.0))
        return q - self.config.temperature * log_prob.sum(-1)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``behaviour``, ``actor``, each ``[S]``."""
        c = self.config
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        v = self.value(batch.obs)  # [S, B]
        log_behaviour = self.behaviour.log_prob(batch.obs, batch.act)
        with torch.no_grad():
            soft_value = self._soft_value(batch.obs, batch.noise["act"])
            bootstrap = self._soft_value(batch.next_obs, batch.noise["next_act"])
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
            advantage = self.scaled(self.critic.lower(q) - v)
            weight = torch.exp(advantage / c.temperature - log_behaviour).clamp(max=c.weight_clip)
        losses = {
            "critic": 0.25 * td_loss(q, target),
            "value": 0.5 * (v - soft_value).square().mean(-1),
            "behaviour": -log_behaviour.mean(-1),
            "actor": imitation(self.actor, batch, weight),
        }
        metrics = {
            "q": q.detach().mean((1, 2)),
            "advantage": advantage.mean(-1),
            "weight/clipped_share": (weight == c.weight_clip).to(q.dtype).mean(-1),
        }
        return losses, metrics
