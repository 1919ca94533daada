"""FQL, flow Q-learning. Park, Li, Levine 2025, arXiv 2502.02538 (ICML 2025).

A flow imitates the recorded doses; a one-step map of noise to a dose is distilled from it while it climbs the
critics, so that no gradient ever passes through the flow's steps. With v the flow's velocity, F_10(s, eps)
the end of its ten Euler steps from eps, f the one-step map and all noise standard normal, t uniform:

    a'     = clip(f(s', eps'), -1, 1)
    L_Q    = mean_i E [ (r + gamma (1 - d) agg_j Qbar_j(s', a') - Q_i(s, a))^2 ]             agg: mean or min
    L_flow = E |v(s, (1 - t) x_0 + t a, t) - (a - x_0)|^2 / n
    L_pi   = alpha E |f(s, eps) - F_10(s, eps)|^2 / n - E [ mean_i Q_i(s, clip(f(s, eps), -1, 1)) ]

n is the number of dose dimensions. One Adam step is taken on the sum; then the target critics follow by
Polyak averaging. Where Q falls off as c |a - a*|^2, every draw of the flow is drawn towards a* by the share
c n / (alpha + c n).

The policy is the distribution of clip(f(s, eps)): it has no density, and is known by a fixed set of draws.
The published rule executes one draw of noise, which is the ``sampled`` dose; the recommended dose is the draw
with most others near it. Not inherited from the released code: its target critics follow the parameters of
before the step, one update late.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Aggregate, Critic, frozen
from dosing.models.flows import OneStep, Velocity, euler, matching_loss
from dosing.models.losses import target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.settings import CriticSettings
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class FQLConfig(CriticSettings):
    """Settings of FQL: widths, discount and alpha of the treatment simulators, the rest as the paper.

    The paper's experiments use four hidden layers of 512, a discount of 0.99 (0.995 where episodes are long)
    and alpha per task: 3 or 10 in D4RL's mazes, 3000 to 30000 in Adroit (with ``aggregate`` min), 10 to 1000
    in OGBench.
    """

    alpha: float = 3.0
    """alpha, in rewards per squared dose: 0 follows the critics alone, large imitates the recorded doses."""
    aggregate: Aggregate = "mean"
    """What the target takes of the two target critics."""
    normalise_q: bool = False
    """Divide the critics' value by its mean size, so that alpha does not depend on the reward's scale."""
    layer_norm: bool = True
    """Layer normalisation in the critics."""
    flow_steps: int = 10
    """Euler steps of the flow that is distilled."""


class FQL(Agent):
    """S stacked seeds of FQL."""

    about = About(
        paper="Park, Li, Levine 2025, arXiv 2502.02538",
        family="flow, one step",
        support="samples",
        checked="fql, 4e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: FQLConfig) -> None:
        super().__init__(problem, init.seeds)
        if config.alpha < 0.0:
            raise UserError(f"alpha must be at least 0, got {config.alpha}.")
        if config.flow_steps < 1:
            raise UserError(f"flow_steps must be at least 1, got {config.flow_steps}.")
        self.config = config
        self.critic = Critic(
            init,
            problem.n_obs,
            problem.n_act,
            config.hidden,
            scheme="xavier",
            activation="gelu",
            layer_norm=config.layer_norm,
            norm_after=True,
            aggregate=config.aggregate,
        )
        self.flow = Velocity(init, problem, config.hidden)
        self.actor = OneStep(init, problem, config.hidden)
        trained = [*self.critic.parameters(), *self.flow.parameters(), *self.actor.parameters()]
        self.critic_target = target_copy(self.critic)
        self.optimizers = {"joint": adam(trained, config.learning_rate)}

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise of the next dose, of the flow's start and of the dose; uniform times of the flow."""
        normal = Noise("normal", (batch_size, self.problem.n_act))
        time = Noise("uniform", (batch_size, 1))
        return {"next": normal, "start": normal, "time": time, "dose": normal}

    def policy(self, obs: Tensor) -> Distribution:
        """The distribution of the clipped one-step map, by its draws."""
        return self.actor.distribution(obs)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``flow`` and ``actor``, each ``[S]``."""
        c, noise = self.config, batch.noise
        with torch.no_grad():
            next_act = self.actor(batch.next_obs, noise["next"]).clamp(-1.0, 1.0)
            bootstrap = self.critic_target.pessimistic(batch.next_obs, next_act)  # [S, B]
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
            imitated = euler(self.flow, batch.obs, noise["dose"], c.flow_steps)  # [S, B, A]
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        dose = self.actor(batch.obs, noise["dose"])
        distance = (dose - imitated).square().mean((-2, -1))
        value = frozen(self.critic, batch.obs, dose.clamp(-1.0, 1.0)).mean(1)  # [S, B]
        size = value.detach().abs().mean(-1) if c.normalise_q else 1.0
        losses = {
            "critic": (q - target.unsqueeze(1)).square().mean((1, 2)),
            "flow": matching_loss(self.flow, batch.obs, batch.act, noise["start"], noise["time"]),
            "actor": c.alpha * distance - value.mean(-1) / size,
        }
        return losses, {"q": q.detach().mean((1, 2)), "distance": distance.detach()}
