"""TAWAC, Tsallis advantage-weighted actor-critic. Zhu, Shah, Wang, Nagai, White 2025, arXiv 2408.07245.

AWAC with Tsallis' exponential in place of the ordinary one, and a fitted value as the baseline. With
temperature tau, index q' and exp_q(x) = [1 + (1 - q) x]_+^(1 / (1 - q)):

    L_V  = E_s 1/2 (V(s) - min_i Qbar_i(s, a~))^2,                                      a~ ~ pi(.|s)
    L_Q  = 1/2 sum_i E 1/2 (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2,      a' ~ pi(.|s')
    L_pi = - E [ w ln pi(a | s) ],   w = min(exp_q'((min_i Q_i(s, a) - V(s)) / tau), clip)

At q' = 0 the weight is [1 + x]_+: doses whose advantage is below -tau get weight zero exactly. This is
FtTPO's proposal as a method of its own: the policy that is fitted also bootstraps and is deployed.

Drawn doses reach the critics as they would be executed, inside the limits. The losses are taken at the same
parameters and stepped together; the target critics follow by Polyak averaging.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.distributions.q_exponential import exp_q
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, Value
from dosing.models.in_sample import WeightedSettings, build_optimisers, imitation, weighted_policy
from dosing.models.losses import target_copy, td_loss, td_target
from dosing.models.networks import Initialiser
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class TAWACConfig(WeightedSettings):
    """Settings of TAWAC: step size and temperature of the published treatment experiment.

    That experiment records the best step size of its sweep and its place in the sweep, which means a
    temperature of 0.5 (of 1, 0.5, 0.1 and 0.01) and a squashed Gaussian policy. 0.5 is also the most frequent
    choice on MuJoCo, where the step size is 3e-4 or 1e-3, the discount 0.99, and the policy a squashed
    Gaussian or a heavy-tailed q-Gaussian by turns. Here it is the clipped Gaussian of the other agents.
    """

    learning_rate: float = 3e-5
    """Adam step size of every network."""
    temperature: float = 0.5
    """tau: recorded doses whose advantage is below -tau / (1 - q') get weight zero; large imitates."""
    q_weight: float = 0.0
    """q' of the weight: 0 is [1 + x]_+, 1 the exponential; above 1 the weight has a pole at 1 / (q' - 1)."""
    weight_clip: float = 1e4
    """Largest weight a recorded dose can have."""
    weight_floor: float = 0.0
    """Smallest weight; 0 filters bad doses exactly, the released code keeps 1e-8 of them."""


class TAWAC(Agent):
    """S stacked seeds of TAWAC."""

    about = About(
        paper="Zhu, Shah, Wang, Nagai, White 2025, arXiv 2408.07245",
        family="Gaussian",
        support="infinite_clipped",
        checked="the authors' formulas, 3e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: TAWACConfig) -> None:
        super().__init__(problem, init.seeds)
        if not 0.0 <= config.weight_floor <= config.weight_clip:
            raise UserError(
                f"weight_floor must be at least 0 and not above weight_clip, got {config.weight_floor}."
            )
        self.config = config
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden, scheme="xavier")
        self.value = Value(init, problem.n_obs, config.hidden, scheme="xavier")
        self.actor = weighted_policy(init, problem, config, "xavier", free_scale=False)
        self.critic_target = target_copy(self.critic)
        self.optimizers = build_optimisers(self.critic, self.value, self.actor, config.learning_rate)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of the policy's dose at the state and at the next state."""
        shape = (batch_size, self.problem.n_act, self.actor.n_uniforms)
        return {"act": Noise("uniform", shape), "next_act": Noise("uniform", shape)}

    def _value_of_draw(self, obs: Tensor, uniform: Tensor) -> Tensor:
        """Smaller target value ``[S, B]`` of one executed dose of the policy."""
        act = self.actor.distribution(self.actor.trunk(obs)).rsample_from(uniform).clamp(-1.0, 1.0)
        values: Tensor = self.critic_target.pessimistic(obs, act)
        return values

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``actor``, each ``[S]``."""
        c = self.config
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        v = self.value(batch.obs)  # [S, B]
        with torch.no_grad():
            baseline = self._value_of_draw(batch.obs, batch.noise["act"])
            bootstrap = self._value_of_draw(batch.next_obs, batch.noise["next_act"])
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
            advantage = self.scaled(self.critic.lower(q) - v)
            weight = exp_q(advantage / c.temperature, c.q_weight).clamp(c.weight_floor, c.weight_clip)
        losses = {
            "critic": 0.25 * td_loss(q, target),
            "value": 0.5 * (v - baseline).square().mean(-1),
            "actor": imitation(self.actor, batch, weight),
        }
        metrics = {
            "q": q.detach().mean((1, 2)),
            "advantage": advantage.mean(-1),
            "weight/zero_share": (weight == 0.0).to(q.dtype).mean(-1),
        }
        return losses, metrics
