"""FtTPO as released (github.com/lingweizhu/fat2thin), defects included, to measure what they do.

Part of :mod:`agents.fttpo`, which makes it where ``reproduce`` is ``published``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from agents.fttpo import LOG_STD, LOG_VARIANCE, MAX_RATIO, FtTPO, FtTPOConfig
from dosing.agent import Batch
from dosing.distributions import fat2thin
from dosing.distributions.q_exponential import exp_q
from dosing.distributions.q_gaussian import QGaussian, support_radius
from dosing.errors import UserError
from dosing.models.losses import td_target
from dosing.models.networks import Initialiser, Linear
from dosing.models.optimisers import adam
from dosing.models.regularisation import PLAIN
from dosing.types import Noise, Problem


class PublishedFtTPO(FtTPO):
    """The released code with its defects: four losses stepped one after another, each by its own Adam.

    What differs from FtTPO beside the distributions of :mod:`dosing.distributions.fat2thin`:

    * the critic bootstraps from the proposal, not from the actor that is deployed;
    * trunk and mean are copied into the actor before its step; the step moves them away again, its moments
      accumulate, and draws for V come from the moved actor;
    * the actor's loss r - 1 - ln r takes ln pi_phi as a constant: no gradient of the mean, one and the same
      derivative for every axis, and a width decided by the constant of the proposal's density;
    * weights are at least 1e-8.

    ``losses_and_metrics`` has the four losses at the present parameters.
    """

    FLOOR = 1e-8
    LOG_SIGMA = (-14.0, math.log(fat2thin.EDGE))

    def __init__(self, init: Initialiser, problem: Problem, config: FtTPOConfig) -> None:
        super().__init__(init, problem, config)
        if (config.actor_loss, config.actor) != ("reverse_kl", "sparse") or config.proposal == "student_t":
            raise UserError(
                "reproduce 'published' has its own actor loss: leave actor_loss and actor as they are, and "
                "take the proposal q_gaussian or squashed_gaussian."
            )
        if init.regularisation != PLAIN:
            raise UserError("reproduce 'published' is the released code as it is: without regularisation.")
        if config.proposal == "q_gaussian" and config.q_proposal == 1.0:
            raise UserError("reproduce 'published' needs q_proposal above 1.")
        self._copy(self.actor.trunk, self.proposal.trunk)
        self._copy(self.actor.mean, self.proposal.mean)
        self._copy(self.actor.width, self._scale_head())
        modules = {
            "value": self.value,
            "critic": self.critic,
            "proposal": self.proposal,
            "actor": self.actor,
        }
        self.optimizers = {name: adam(module, config.learning_rate) for name, module in modules.items()}

    @staticmethod
    def _copy(source: nn.Module, target: nn.Module) -> None:
        target.load_state_dict(source.state_dict())

    def _scale_head(self) -> Linear:
        q_gaussian = self.config.proposal == "q_gaussian"
        return self.proposal.log_variance if q_gaussian else self.proposal.log_std

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
        features = self.actor.trunk(obs)
        mean = fat2thin.EDGE * torch.tanh(self.actor.mean(features)).clamp(-fat2thin.EDGE, fat2thin.EDGE)
        sigma = torch.exp(self.actor.width(features).clamp(*self.LOG_SIGMA))
        return fat2thin.Bounded(mean, sigma, self.config.q_actor)

    def _fat(self, obs: Tensor) -> fat2thin.HeavyTailed | fat2thin.Squashed:
        features = self.proposal.trunk(obs)
        raw = self._scale_head()(features)
        if self.config.proposal == "squashed_gaussian":
            scale = torch.exp(raw.clamp(*LOG_STD["squashed_gaussian"]))
            return fat2thin.Squashed(self.proposal.mean(features), scale)
        mean = fat2thin.EDGE * torch.tanh(self.proposal.mean(features))
        sigma = torch.exp(raw.clamp(-LOG_VARIANCE, LOG_VARIANCE))
        return fat2thin.HeavyTailed(mean, sigma, self.config.q_proposal)

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

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """Nothing: what the released code calls the proposal's density does not integrate to 1."""
        del obs
        return {}

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
        q = self.critic(batch.obs, batch.act)
        loss: Tensor = 0.25 * (q - target.unsqueeze(1)).square().mean(-1).sum(-1)
        return loss

    @torch.no_grad()
    def _weight(self, batch: Batch) -> Tensor:
        advantage = self.critic(batch.obs, batch.act).amin(1) - self.value(batch.obs)
        return exp_q(advantage / self.config.temperature, 0.0).clamp(self.FLOOR, self.config.weight_clip)

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
        floored = self._weight(batch) == self.FLOOR
        return {
            "weight/zero_share": floored.to(batch.reward.dtype).mean(-1),
            "half_width": self._thin(batch.obs).half_width.mean((1, 2)),
        }

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Step value, critic, proposal and actor in turn, each on what the ones before it have become."""
        result = {}
        for name, loss in self.STEPS.items():
            if name == "actor":
                self._copy(self.proposal.trunk, self.actor.trunk)
                self._copy(self.proposal.mean, self.actor.mean)
            value = loss(self, batch)
            self.descend([value], [self.optimizers[name]])
            result[f"loss/{name}"] = value.detach()
        self.update_targets()
        return result | self._metrics(batch)

    STEPS: ClassVar[dict[str, Callable[[PublishedFtTPO, Batch], Tensor]]] = {
        "value": _value_loss,
        "critic": _critic_loss,
        "proposal": _proposal_loss,
        "actor": _actor_loss,
    }
