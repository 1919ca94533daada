"""FtTPO as released (github.com/lingweizhu/fat2thin), defects included, to measure what they do.

Zhu, Wang, Nagai 2025, arXiv 2501.14373 (ICLR 2025). A heavy-tailed proposal pi_phi is fitted to recorded
doses with a weight, and a bounded actor pi_theta follows it. The released code differs from the paper
beside the distributions, which are those of ``dosing.distributions.fat2thin``. With tau the temperature:

    L_V     = E_s 1/2 (V(s) - min_i Qbar_i(s, a~))^2,                                   a~ ~ pi_theta(.|s)
    L_Q     = 1/2 sum_i E 1/2 (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2,   a' ~ pi_phi(.|s')
    L_phi   = - E_D [ w ln pi_phi(a|s) ],   w = clip([1 + (min_i Q_i(s, a) - V(s)) / tau]_+, 1e-8, clip)
    L_theta = E [ r - 1 - ln r ],           r = pi_phi / pi_theta at a draw of pi_theta, ln pi_phi a constant

* the four losses are stepped one after another, each by its own Adam;
* the critic bootstraps from the proposal, not from the actor that is deployed;
* trunk and mean are copied into the actor before its step; the step moves them away again, its moments
  accumulate, and draws for V come from the moved actor;
* in L_theta there is no gradient of the mean, one and the same derivative for every axis, and a width decided
  by the constant of the proposal's density.

``losses_and_metrics`` has the four losses at the present parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from dosing.agent import Agent
from dosing.distributions import fat2thin
from dosing.distributions.q_exponential import exp_q
from dosing.distributions.q_gaussian import QGaussian, support_radius
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, Value
from dosing.models.losses import target_copy, td_loss, td_target
from dosing.models.networks import Initialiser, Linear, Mlp
from dosing.models.optimisers import adam
from dosing.models.regularisation import PLAIN
from dosing.models.settings import CriticSettings
from dosing.types import About, Noise, Problem

FLOOR = 1e-8
"""Least weight of a recorded dose."""
MAX_RATIO = 1e4
"""Largest density ratio in the actor's loss."""
LOG_SIGMA = {
    "actor": (-14.0, math.log(fat2thin.EDGE)),
    "q_gaussian": (-math.log(1000.0), math.log(1000.0)),
    "squashed_gaussian": (-20.0, 2.0),
}
"""Bounds of the logarithm of Sigma, a squared scale; of a squashed Gaussian its scale."""


@dataclass(frozen=True)
class FtTPOReleasedConfig(CriticSettings):
    """Settings of FtTPO as released; defaults from the paper's treatment experiment."""

    temperature: float = 0.1
    """tau: recorded doses whose advantage is below -tau get the least weight; large imitates, small is
    greedy."""
    q_proposal: float = 2.0
    """Index of the q-Gaussian proposal, above 1 and below 3."""
    q_actor: float = 0.0
    """Index of the actor, below 1; 0 is a parabola, towards 1 bell-shaped, below 0 flatter."""
    weight_clip: float = 1e4
    """Largest weight a recorded dose can have."""
    proposal: Literal["q_gaussian", "squashed_gaussian"] = "q_gaussian"
    """Distribution of the proposal: q_gaussian of index q_proposal, or squashed_gaussian (FtTPO-SG)."""


class Head(nn.Module):
    """Trunk, mean and logarithm of a scale, which is called ``scale``, with Glorot weights."""

    def __init__(self, init: Initialiser, problem: Problem, hidden: tuple[int, ...], scale: str) -> None:
        super().__init__()
        width = (problem.n_obs, *hidden)[-1]
        self.trunk = Mlp(init, [problem.n_obs, *hidden], scheme="xavier", activate_last=True)
        self.mean = Linear(init, width, problem.n_act, scheme="xavier")
        self.add_module(scale, Linear(init, width, problem.n_act, scheme="xavier"))
        self.last = scale

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the scale, ``[S, B, A]`` each and unbounded, at ``obs [S, B, O]``."""
        features = self.trunk(obs)
        return self.mean(features), self.get_submodule(self.last)(features)


class FtTPOReleased(Agent):
    """S stacked seeds of FtTPO as released: four losses stepped one after another, each by its own Adam."""

    about = About(
        paper="Zhu, Wang, Nagai 2025, arXiv 2501.14373",
        family="sparse q-Gaussian",
        support="interval",
        checked="released code, 5e-14",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: FtTPOReleasedConfig) -> None:
        super().__init__(problem, init.seeds)
        if not config.q_actor < 1.0:
            raise UserError(f"q_actor must be below 1 for a bounded dose set, got {config.q_actor}.")
        if not 1.0 < config.q_proposal < 3.0:
            raise UserError(f"q_proposal must be above 1 and below 3, got {config.q_proposal}.")
        if init.regularisation != PLAIN:
            given = ", ".join(init.regularisation.changed())
            raise UserError(f"FtTPO as released is the released code, without regularisation; got {given}.")
        self.config = config
        scale = "log_variance" if config.proposal == "q_gaussian" else "log_std"
        self.proposal = Head(init, problem, config.hidden, scale)
        self.actor = Head(init, problem, config.hidden, "width")
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden, scheme="xavier")
        self.value = Value(init, problem.n_obs, config.hidden, scheme="xavier")
        self.critic_target = target_copy(self.critic)
        _copy(self.actor.trunk, self.proposal.trunk)
        _copy(self.actor.mean, self.proposal.mean)
        _copy(self.actor.get_submodule("width"), self.proposal.get_submodule(scale))
        modules = {
            "value": self.value,
            "critic": self.critic,
            "proposal": self.proposal,
            "actor": self.actor,
        }
        self.optimizers = {name: adam(module, config.learning_rate) for name, module in modules.items()}

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of two draws of the actor, for V and for its own loss, and one of the proposal."""
        n_act = self.problem.n_act
        columns = 2 if self.config.proposal == "q_gaussian" else 1
        return {
            "value_act": Noise("uniform", (batch_size, n_act + 1)),
            "act": Noise("uniform", (batch_size, n_act + 1)),
            "next_act": Noise("uniform", (batch_size, n_act, columns)),
        }

    def _thin(self, obs: Tensor) -> fat2thin.Bounded:
        raw_mean, raw = self.actor(obs)
        mean = fat2thin.EDGE * torch.tanh(raw_mean).clamp(-fat2thin.EDGE, fat2thin.EDGE)
        return fat2thin.Bounded(mean, torch.exp(raw.clamp(*LOG_SIGMA["actor"])), self.config.q_actor)

    def _fat(self, obs: Tensor) -> fat2thin.HeavyTailed | fat2thin.Squashed:
        raw_mean, raw = self.proposal(obs)
        scale = torch.exp(raw.clamp(*LOG_SIGMA[self.config.proposal]))
        if self.config.proposal == "squashed_gaussian":
            return fat2thin.Squashed(raw_mean, scale)
        return fat2thin.HeavyTailed(fat2thin.EDGE * torch.tanh(raw_mean), scale, self.config.q_proposal)

    def policy(self, obs: Tensor) -> Distribution:
        """The actor; in several dimensions the product of its marginals, of the same mode and edges.

        The marginals of an elliptical q-Gaussian are q-Gaussians of a higher index, and depend on each other.
        """
        distribution, n = self._thin(obs), self.problem.n_act
        q = 1.0 - 1.0 / (1.0 / (1.0 - distribution.q) + 0.5 * (n - 1))
        marginal = QGaussian(
            distribution.loc, distribution.half_width / support_radius(q), q, validate_args=False
        )
        return Independent(marginal, 1, validate_args=False)

    def _value_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            act = self._thin(batch.obs).sample(batch.noise["value_act"])
            baseline = self.critic_target(batch.obs, act).amin(1)
        loss: Tensor = 0.5 * (self.value(batch.obs) - baseline).square().mean(-1)
        return loss

    def _critic_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            next_act = self._fat(batch.next_obs).sample(batch.noise["next_act"])
            bootstrap = self.critic_target(batch.next_obs, next_act).amin(1)
            target = td_target(batch.reward, batch.terminated, self.config.discount, bootstrap)
        return 0.25 * td_loss(self.critic(batch.obs, batch.act), target)

    @torch.no_grad()
    def _weight(self, batch: Batch) -> Tensor:
        advantage = self.critic(batch.obs, batch.act).amin(1) - self.value(batch.obs)
        return exp_q(advantage / self.config.temperature, 0.0).clamp(FLOOR, self.config.weight_clip)

    def _proposal_loss(self, batch: Batch) -> Tensor:
        return -(self._weight(batch) * self._fat(batch.obs).log_prob(batch.act)).mean(-1)

    def _actor_loss(self, batch: Batch) -> Tensor:
        distribution = self._thin(batch.obs)
        act = distribution.sample(batch.noise["act"])
        with torch.no_grad():
            log_fat = self._fat(batch.obs).log_prob(act)
        log_ratio = log_fat - distribution.log_prob(act)
        return (log_ratio.exp().clamp(max=MAX_RATIO) - 1.0 - log_ratio).mean(-1)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``value``, ``critic``, ``proposal``, ``actor``, each ``[S]``, at the same parameters."""
        return {name: loss(self, batch) for name, loss in self.STEPS.items()}, self._metrics(batch)

    @torch.no_grad()
    def _metrics(self, batch: Batch) -> dict[str, Tensor]:
        floored = self._weight(batch) == FLOOR
        return {
            "weight/zero_share": floored.to(batch.reward.dtype).mean(-1),
            "half_width": self._thin(batch.obs).half_width.mean((1, 2)),
        }

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Step value, critic, proposal and actor in turn, each on what the ones before it have become."""
        result = {}
        for name, loss in self.STEPS.items():
            if name == "actor":
                _copy(self.proposal.trunk, self.actor.trunk)
                _copy(self.proposal.mean, self.actor.mean)
            value = loss(self, batch)
            self.descend([value], [self.optimizers[name]])
            result[f"loss/{name}"] = value.detach()
        self.update_targets(batch.step)
        return result | self._metrics(batch)

    STEPS: ClassVar[dict[str, Callable[[FtTPOReleased, Batch], Tensor]]] = {
        "value": _value_loss,
        "critic": _critic_loss,
        "proposal": _proposal_loss,
        "actor": _actor_loss,
    }


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())
