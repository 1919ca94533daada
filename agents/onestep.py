"""Onestep RL. Brandfonbrener, Whitney, Ranganath, Bruna 2021, arXiv 2106.08909 (NeurIPS 2021).

One step of policy improvement on the value of the recorded policy: no critic is ever asked what a learned
policy would be worth afterwards. Three phases, one after the other:

    1. the recorded policy:  L_beta = - E ln beta(a | s)
    2. its value (SARSA):    L_Q = sum_i E [ (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2 ]
    3. the improvement, from pi = beta on, with Q = min_i Q_i fixed:
         exp_weight   L_pi = - E [ min(exp(t (Q(s, a) - V(s))), clip) ln pi(a | s) ],    V(s) = E_beta Q(s, .)
         reverse_kl   L_pi = E [ kappa KL(pi(.|s) || beta(.|s)) - Q(s, a~) ],            a~ ~ pi(.|s)
         easy_bcq     nothing to learn: the dose is the best of N draws of beta by Q

a' is the recorded next dose; the last visit of a record that did not end for good has none, and beta's draw
takes its place. V and the divergence are averages over N draws. Both policies are normal distributions
truncated to the limits.

With easy_bcq the critics' phase goes on to the end, and the distribution is a finite set of beta's quantiles,
each with its probability of being the best of N draws; the dose given is the best of its first N.

Not taken over from released code: critics that bootstrap from the online networks and judge doses by the
targets, whose names are swapped there. The released code also leaves visits out that a time limit ended, and
gives the mean of pi, which lies nearer the middle of the limits; here its mode is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from dosing.agent import Agent
from dosing.distributions.draws import Draws, best_of
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.losses import polyak, target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.policy_heads import Policy
from dosing.models.settings import CriticSettings
from dosing.types import About, Noise, Problem

CANDIDATES = 64
"""Draws of the recorded policy that stand for it in the distribution of easy BCQ; a power of two."""


@dataclass(frozen=True)
class OnestepConfig(CriticSettings):
    """Settings of Onestep RL: short phases, and weights for rewards of unit spread, on the treatment tasks.

    The released code's locomotion experiments use networks of two hidden layers of 1024, a step size of 1e-4,
    batches of 512, a discount of 0.99, 5e5 updates of beta, 2e6 of the critics, whose targets follow every
    second time, 1e5 of the policy, a log scale bent into (-5, 0), and per data set the inverse temperature
    (0.01 unless tuned), the weight of the divergence (1) or the number of draws (10).
    """

    behaviour_steps: int = 500
    """First updates, which fit the recorded policy; a training must be longer than all fitting before."""
    critic_steps: int = 1000
    """Updates after those, which fit the critics; easy_bcq fits them to the end instead."""
    improvement: Literal["exp_weight", "reverse_kl", "easy_bcq"] = "exp_weight"
    """exp_weight imitates better doses more, and asks the critics about recorded doses and beta's draws
    alone; reverse_kl climbs the critics near beta; easy_bcq chooses among beta's draws."""
    inverse_temperature: float = 1.0
    """t of exp_weight: 0 imitates, large follows the advantage."""
    weight_clip: float = 100.0
    """Largest weight a recorded dose can have; exp_weight."""
    divergence_weight: float = 1.0
    """kappa of reverse_kl: large imitates, small follows the critic."""
    n_samples: int = 10
    """N, draws: behind V, the divergence, or the choice of easy_bcq, where 1 imitates and large is greedy."""
    log_std_min: float = -5.0
    """Lower bound of the log scale of both distributions."""
    log_std_max: float = 0.0
    """Upper bound of the same. Where doses fill the limits a much larger sigma would leave beta's peak, from
    which the improvement starts, to chance."""


class Onestep(Agent):
    """S stacked seeds of Onestep RL."""

    about = About(
        paper="Brandfonbrener, Whitney, Ranganath, Bruna 2021, arXiv 2106.08909",
        family="truncated normal",
        support="full_box",
        checked="onestep-rl, 3e-16",
    )
    target_phase = 1
    rewards = "fixed"  # the critic is fitted to the recorded policy once

    needs: ClassVar[frozenset[str]] = frozenset({"next_act", "has_next"})
    candidates: Tensor

    def __init__(self, init: Initialiser, problem: Problem, config: OnestepConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config = config
        self.warm_up = config.behaviour_steps
        log_std = (config.log_std_min, config.log_std_max)
        self.behaviour, actor = (
            Policy(init, problem, config.hidden, "truncated_normal", log_std=log_std) for _ in range(2)
        )
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden)
        self.critic_target = target_copy(self.critic)
        self.optimizers = {
            "behaviour": adam(self.behaviour, config.learning_rate),
            "critic": adam(self.critic, config.learning_rate),
        }
        if config.improvement == "easy_bcq":
            sobol = torch.quasirandom.SobolEngine(problem.n_act)
            points = sobol.draw(CANDIDATES, dtype=init.dtype) + 0.5 / CANDIDATES  # [M, A], no two the same
            self.register_buffer("candidates", points.to(init.device), persistent=False)
        else:
            self.warm_up += config.critic_steps
            self.actor = actor  # becomes beta with every update of the first phase
            self.optimizers["actor"] = adam(self.actor, config.learning_rate)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of a next dose; of N doses and, for reverse_kl, of the dose that is judged."""
        n_act, c = self.problem.n_act, self.config
        plan = {"next_act": Noise("uniform", (batch_size, n_act, 1))}
        if c.improvement != "easy_bcq":
            plan["draws"] = Noise("uniform", (batch_size, c.n_samples, n_act, 1))
        if c.improvement == "reverse_kl":
            plan["act"] = Noise("uniform", (batch_size, n_act, 1))
        return plan

    def phase(self, step: int) -> int:
        """0 while the recorded policy is fitted, 1 while its value is, 2 while the policy is improved."""
        return int(step >= self.config.behaviour_steps) + int(
            self.config.improvement != "easy_bcq" and step >= self.warm_up
        )

    def policy(self, obs: Tensor) -> Distribution:
        """The truncated normal distribution or, for easy BCQ, the set of candidates."""
        if self.config.improvement != "easy_bcq":
            distribution: Distribution = self.actor(obs)
            return distribution
        noise = self.candidates.view(CANDIDATES, 1, 1, -1, 1).expand(-1, *obs.shape[:2], -1, -1)
        values = self.behaviour.distribution(self.behaviour.trunk(obs)).rsample_from(noise)  # [M, S, B, A]
        values = values.permute(1, 2, 3, 0)
        worth = self._worth(obs, values.mT)  # [S, B, M]
        n = self.config.n_samples
        best = worth[..., :n].argmax(-1, keepdim=True).unsqueeze(-2)  # [S, B, 1, 1]
        chosen = values.gather(-1, best.expand(*values.shape[:-1], 1)).squeeze(-1)
        weights = best_of(worth, n).unsqueeze(-2)
        return Independent(Draws(values, weights, chosen, "point_set", validate_args=False), 1, False)

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """The estimate of the recorded policy."""
        return {"behaviour": self.behaviour(obs)}

    def _worth(self, obs: Tensor, acts: Tensor) -> Tensor:
        """min_i Q_i ``[S, B, K]`` of K doses ``[S, B, K, A]``, as a function of the doses alone."""
        each = obs.unsqueeze(2).expand(-1, -1, acts.shape[2], -1).flatten(1, 2)
        values = self.critic.lower(frozen(self.critic, each, acts.flatten(1, 2)))
        return values.view(acts.shape[:3])

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss of the phase, ``[S]``: ``behaviour``, ``critic`` or ``actor``."""
        phase = self.phase(batch.step)
        if phase == 0:
            return {"behaviour": -self.behaviour.log_prob(batch.obs, batch.act).mean(-1)}, {}
        if phase == 1:
            q = self.critic(batch.obs, batch.act)  # [S, E, B]
            error = (q - self._target(batch).unsqueeze(1)).square()
            return {"critic": error.mean(-1).sum(-1)}, {"q": q.detach().mean((1, 2))}
        return self._weighted(batch) if self.config.improvement == "exp_weight" else self._divergence(batch)

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        """What the critics regress on, ``[S, B]``."""
        distribution = self.behaviour.distribution(self.behaviour.trunk(batch.next_obs))
        drawn = distribution.rsample_from(batch.noise["next_act"])
        next_act = torch.where(batch.extra["has_next"] > 0.0, batch.extra["next_act"], drawn)
        bootstrap = self.critic_target.pessimistic(batch.next_obs, next_act)
        return td_target(batch.reward, batch.terminated, self.config.discount, bootstrap)

    def _weighted(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Exponentially weighted imitation."""
        c = self.config
        with torch.no_grad():
            distribution = self.behaviour.distribution(self.behaviour.trunk(batch.obs))
            draws = distribution.rsample_from(batch.noise["draws"].movedim(2, 0)).movedim(
                0, 2
            )  # [S, B, N, A]
            acts = torch.cat((batch.act.unsqueeze(2), draws), 2)
            worth = self._worth(batch.obs, acts)
            advantage = self.scaled(worth[..., 0] - worth[..., 1:].mean(-1))
            weight = torch.exp(c.inverse_temperature * advantage).clamp(max=c.weight_clip)
        loss = -(weight * self.actor.log_prob(batch.obs, batch.act)).mean(-1)
        return {"actor": loss}, {"advantage": advantage.mean(-1)}

    def _divergence(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The critic's value less the divergence from the recorded policy."""
        distribution = self.actor.distribution(self.actor.trunk(batch.obs))
        act = distribution.rsample_from(batch.noise["act"])
        draws, log_prob = distribution.rsample_with_log_prob(
            batch.noise["draws"].movedim(2, 0)
        )  # [N, S, B, A]
        with torch.no_grad():
            behaviour = self.behaviour.distribution(self.behaviour.trunk(batch.obs))
        divergence = (log_prob - behaviour.log_prob(draws)).sum(-1).mean(0)  # [S, B]
        worth = self._worth(batch.obs, act.unsqueeze(2)).squeeze(2)
        loss = (self.config.divergence_weight * divergence - worth).mean(-1)
        return {"actor": loss}, {"divergence": divergence.detach().mean(-1)}

    def update_targets(self, step: int) -> None:
        """The policy becomes beta in the first phase, the target critics follow in the second."""
        super().update_targets(step)
        if self.phase(step) == 0 and self.config.improvement != "easy_bcq":
            polyak(self.actor, self.behaviour, 1.0)


def _check(config: OnestepConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name, low in (
        ("behaviour_steps", 1),
        ("critic_steps", 1),
        ("n_samples", 1),
        ("divergence_weight", 0),
    ):
        if getattr(config, name) < low:
            raise UserError(f"{name} must be at least {low}, got {getattr(config, name)}.")
    if config.improvement == "easy_bcq" and config.n_samples > CANDIDATES:
        raise UserError(f"n_samples must be at most {CANDIDATES} for easy_bcq, got {config.n_samples}.")
