"""FtTPO, fat-to-thin policy optimization. Zhu, Wang, Nagai 2025, arXiv 2501.14373 (ICLR 2025).

A policy of bounded support cannot be fitted to recorded doses by likelihood: one dose outside makes it -inf.
So a heavy-tailed *proposal* pi_phi (q-Gaussian, q > 1) is fitted to the data with a weight that cuts off bad
doses, and a bounded *actor* pi_theta (q-Gaussian, q < 1) of the same mean follows the proposal by reverse KL,
on its own samples only. With tau the temperature and exp_0(x) = [1 + x]_+:

    L_V     = E_s 1/2 (V(s) - min_i Qbar_i(s, a~))^2,                                   a~ ~ pi_theta(.|s)
    L_Q     = 1/2 sum_i E 1/2 (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2,   a' ~ pi_theta(.|s')
    L_phi   = - E_D [ w ln pi_phi(a|s) ],   w = min(exp_0((min_i Q_i(s, a) - V(s)) / tau), clip)
    L_theta = E_s [ - H(pi_theta(.|s)) - E_{a ~ pi_theta} ln pi_phi(a|s) ],   phi frozen, path through a kept

All four are taken at the same parameters and stepped together; target critics follow by Polyak averaging.

The support [m - h, m + h] stays inside the hard limits by parametrisation: m = tanh(.), and the half-width is
h = u (1 - |m|) with u in (0, 1), so nothing is ever clipped and the density is exact. With ``share_mean`` the
actor reads the proposal's trunk and mean and owns its width only; that is the limit of copying trunk and mean
before every actor step, without the discarded step in between. The entropy H is in closed form.

Where this differs from the released code (its behaviour stays available by name): the reverse KL keeps the
action path and a normalised proposal (``actor_loss``), and critics bootstrap from the policy that will be
deployed (``bootstrap``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from dosing.agent import Agent, Batch, Noise, Problem, adam
from dosing.distributions.q_exponential import exp_q
from dosing.distributions.q_gaussian import QGaussian, n_uniforms, support_radius
from dosing.errors import UserError
from dosing.networks import Critic, Initialiser, Linear, Mlp, Value
from dosing.targets import polyak, target_copy, td_target

MEAN_LIMIT = 0.999
"""Largest |mean| on the [-1, 1] axis; leaves room for a support of positive width at every mean."""
MIN_WIDTH = 1e-3
"""Smallest half-width, as a fraction of the room between the mean and the nearer limit."""
LOG_VARIANCE = math.log(1000.0)
"""Bound of the proposal's log squared scale, as published."""


@dataclass(frozen=True)
class FtTPOConfig:
    """Settings of FtTPO; defaults from the paper's treatment experiment (temperature of its figure)."""

    hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of every network."""
    learning_rate: float = 3e-4
    """Adam step size of every network."""
    discount: float = 0.9
    """gamma: 0.9 on the treatment simulators, 0.99 on MuJoCo."""
    target_rate: float = 0.005
    """Polyak rate of the target critics."""
    temperature: float = 0.1
    """tau: recorded doses whose advantage is below -tau get weight zero; large imitates, small is greedy."""
    q_proposal: float = 2.0
    """Index of the heavy-tailed proposal, 1 < q < 3 (2 is a Cauchy); 1 is a Gaussian."""
    q_actor: float = 0.0
    """Index of the bounded actor, q < 1; 0 is a parabola, towards 1 bell-shaped, below 0 flatter."""
    weight_clip: float = 1e4
    """Largest weight a recorded dose can have."""
    bootstrap: Literal["actor", "proposal"] = "actor"
    """Policy whose action the critic target uses; the released code uses the proposal."""
    actor_loss: Literal["reverse_kl", "detached_k3"] = "reverse_kl"
    """reverse_kl, or the released code's ratio loss with the proposal's density detached from the action."""
    share_mean: bool = True
    """The actor shares the proposal's trunk and mean; otherwise it owns both."""


class Proposal(nn.Module):
    """Heavy-tailed policy: trunk, mean tanh(.), squared scale exp(.)."""

    def __init__(self, init: Initialiser, problem: Problem, config: FtTPOConfig) -> None:
        super().__init__()
        self.q = config.q_proposal
        width = config.hidden[-1]
        self.trunk = Mlp(init, [problem.n_obs, *config.hidden], scheme="xavier", activate_last=True)
        self.mean = Linear(init, width, problem.n_act, scheme="xavier")
        self.log_variance = Linear(init, width, problem.n_act, scheme="xavier")

    def location(self, features: Tensor) -> Tensor:
        """Mean ``[S, B, A]`` inside the box."""
        return MEAN_LIMIT * torch.tanh(self.mean(features))

    def law(self, features: Tensor) -> QGaussian:
        """Per-dimension law with batch shape ``[S, B, A]``."""
        log_variance = self.log_variance(features).clamp(-LOG_VARIANCE, LOG_VARIANCE)
        return QGaussian(self.location(features), torch.exp(0.5 * log_variance), self.q, validate_args=False)


class Actor(nn.Module):
    """Bounded policy: a width of its own, and a trunk and mean of its own unless it shares the proposal's."""

    def __init__(self, init: Initialiser, problem: Problem, config: FtTPOConfig) -> None:
        super().__init__()
        self.q = config.q_actor
        width = config.hidden[-1]
        if not config.share_mean:
            self.trunk = Mlp(init, [problem.n_obs, *config.hidden], scheme="xavier", activate_last=True)
            self.mean = Linear(init, width, problem.n_act, scheme="xavier")
        self.width = Linear(init, width, problem.n_act, scheme="xavier")

    def law(self, features: Tensor, mean: Tensor) -> QGaussian:
        """Per-dimension law around ``mean [S, B, A]`` whose support lies inside the open box."""
        fraction = MIN_WIDTH + (1.0 - 2.0 * MIN_WIDTH) * torch.sigmoid(self.width(features))
        half_width = fraction * (1.0 - mean.abs())
        return QGaussian(mean, half_width / support_radius(self.q), self.q, validate_args=False)


class FtTPO(Agent):
    """S stacked seeds of FtTPO."""

    def __init__(self, init: Initialiser, problem: Problem, config: FtTPOConfig) -> None:
        super().__init__(problem, init.seeds)
        if not config.q_actor < 1.0:
            raise UserError(f"q_actor must be below 1 for a bounded dose set, got {config.q_actor}.")
        if not 1.0 <= config.q_proposal < 3.0:
            raise UserError(f"q_proposal must be at least 1 and below 3, got {config.q_proposal}.")
        if not config.temperature > 0.0:
            raise UserError(f"temperature must be positive, got {config.temperature}.")
        self.config = config
        n_obs, n_act, hidden = problem.n_obs, problem.n_act, config.hidden
        self.proposal = Proposal(init, problem, config)
        self.actor = Actor(init, problem, config)
        self.critic = Critic(init, n_obs, n_act, hidden, scheme="xavier")
        self.value = Value(init, n_obs, hidden, scheme="xavier")
        self.critic_target = target_copy(self.critic)
        trained = [self.proposal, self.actor, self.critic, self.value]
        self.optimizers = {
            "all": adam([p for module in trained for p in module.parameters()], config.learning_rate)
        }

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of the actor's action for V and L_theta, and of the next action for the critic."""
        n_act, c = self.problem.n_act, self.config
        next_q = c.q_actor if c.bootstrap == "actor" else c.q_proposal
        return {
            "act": Noise("uniform", (batch_size, n_act, n_uniforms(c.q_actor))),
            "next_act": Noise("uniform", (batch_size, n_act, n_uniforms(next_q))),
        }

    def _actor_law(self, obs: Tensor, features: Tensor) -> QGaussian:
        """The actor's law at ``obs``, given the proposal's trunk ``features`` there."""
        if self.config.share_mean:
            return self.actor.law(features.detach(), self.proposal.location(features).detach())
        own = self.actor.trunk(obs)
        return self.actor.law(own, MEAN_LIMIT * torch.tanh(self.actor.mean(own)))

    def policy(self, obs: Tensor) -> Distribution:
        """The bounded actor: exactly zero density outside [m - h, m + h], which lies inside the limits."""
        return Independent(self._actor_law(obs, self.proposal.trunk(obs)), 1, validate_args=False)

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """The heavy-tailed proposal the actor was distilled from."""
        law = self.proposal.law(self.proposal.trunk(obs))
        return {"proposal": Independent(law, 1, validate_args=False)}

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``proposal``, ``actor``, each ``[S]``."""
        c = self.config
        features = self.proposal.trunk(batch.obs)
        proposal = self.proposal.law(features)
        actor = self._actor_law(batch.obs, features)
        act, log_actor = actor.rsample_with_log_prob(batch.noise["act"])  # [S, B, A], pathwise

        with torch.no_grad():
            next_features = self.proposal.trunk(batch.next_obs)
            if c.bootstrap == "actor":
                next_law = self._actor_law(batch.next_obs, next_features)
            else:
                next_law = self.proposal.law(next_features)
            next_act = next_law.rsample_from(batch.noise["next_act"]).clamp(-1.0, 1.0)  # as executed
            bootstrap = self.critic_target(batch.next_obs, next_act).amin(1)  # [S, B]
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
            baseline = self.critic_target(batch.obs, act.detach()).amin(1)

        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        v = self.value(batch.obs)  # [S, B]
        with torch.no_grad():
            weight = exp_q((q.amin(1) - v) / c.temperature, 0.0).clamp(max=c.weight_clip)

        # phi frozen, but the path from the action into ln pi_phi kept
        frozen = QGaussian(proposal.loc.detach(), proposal.scale.detach(), c.q_proposal, validate_args=False)
        if c.actor_loss == "reverse_kl":
            actor_loss = -(actor.entropy() + frozen.log_prob(act)).sum(-1)
        else:
            log_ratio = (frozen.log_prob(act.detach()) - log_actor).sum(-1)
            actor_loss = torch.exp(log_ratio).clamp(max=1e4) - 1.0 - log_ratio
        losses = {
            "critic": 0.25 * (q - target.unsqueeze(1)).square().mean(-1).sum(-1),
            "value": 0.5 * (v - baseline).square().mean(-1),
            "proposal": -(weight * proposal.log_prob(batch.act).sum(-1)).mean(-1),
            "actor": actor_loss.mean(-1),
        }
        half_width = actor.scale.detach() * support_radius(c.q_actor)
        metrics = {
            "q": q.detach().mean((1, 2)),
            "weight/zero_share": (weight == 0.0).to(q.dtype).mean(-1),
            "half_width": half_width.mean((1, 2)),
        }
        return losses, metrics

    def follow(self) -> None:
        """Target critics by Polyak averaging."""
        polyak(self.critic_target, self.critic, self.config.target_rate)
