"""CQL, conservative Q-learning, and Cal-QL, its calibrated version.

Kumar, Zhou, Tucker, Levine 2020, arXiv 2006.04779 (NeurIPS 2020); Nakamoto, Zhai, Singh, Mark, Ma, Finn,
Kumar, Levine 2023, arXiv 2303.05479 (NeurIPS 2023).

A soft actor-critic whose critics are pushed down at all doses and up at the recorded ones. From N doses each
of U ~ uniform on the box, P ~ pi(.|s) and P' ~ pi(.|s'), every one weighted by the density it was drawn from,
the integral of exp Q is estimated and with it the gap C between its logarithm and the value of the recorded
dose. In n dose dimensions, with entropy temperature alpha and conservative weight w:

    C_i  = ln sum_k [ exp(Q_i(s, U_k)) 2^n + exp(Q_i(s, P_k)) / pi(P_k|s) + exp(Q_i(s, P'_k)) / pi(P'_k|s') ]
           - Q_i(s, a)
    L_Q  = sum_i E [ (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2 + w C_i ],      a' ~ pi(.|s')
    L_pi = E [ alpha ln pi(a~|s) - min_i Q_i(s, a~) ],                                      a~ ~ pi(.|s)
    L_alpha = - ln alpha E [ ln pi(a~|s) - n ]

C is the estimate of ln int exp Q_i(s, x) dx - Q_i(s, a) plus the constant ln 3N. Densities and drawn doses
carry no gradient into the critics' loss. With ``backup = "max"`` the value of s' is the largest of N drawn
doses'. With ``lagrange`` the weight is w e^theta, where theta descends on - w e^theta sum_i E [C_i - target]
/ 2. In the first ``bc_steps`` updates the policy imitates: L_pi has ln pi(a|s) in place of min_i Q_i(s, a~).
All losses are taken at the same parameters and stepped together; the target critics follow by Polyak
averaging.

Cal-QL puts max(Q_i(s, .), G) for Q_i(s, P) and Q_i(s, P') into the gap, where G is the discounted return that
was recorded from s on: a policy's dose is not pushed below what the data have shown to be reached. U is not
bounded.

Not taken over from released code: a policy's log-density that ignores the dose it is asked for (CORL, in the
imitation); a multiplier without slope once it is cut off at its limit; a temperature of the logarithm, which
is always 1 and would have to leave the densities alone; a learned factor and offset of the log-scale (CORL),
of which ``small_start`` has the offset's first value, -1, as a bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.losses import target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.policy_heads import SMALL_GAIN, Policy
from dosing.models.settings import CriticSettings
from dosing.types import About, Noise, Problem

LARGEST_MULTIPLIER = 1e6
"""Limit of e^theta, as published."""


@dataclass(frozen=True)
class CQLConfig(CriticSettings):
    """Settings of CQL for the treatment simulators; target rate, samples and multiplier as published.

    The released code's locomotion experiments use critics of three hidden layers of 256, a policy of as
    many, a discount of 0.99, a policy step size of 3e-5, a weight of 10 without the multiplier, a log
    scale from -20 and ``small_start``; its mazes critics of five layers, a policy step size of 1e-4, a
    weight of 5 with the multiplier at a target gap of 0.8, the largest of 10 doses in the backup and no
    gap below -200. The original code imitates for its first 40,000 updates.
    """

    learning_rate: float = 3e-4
    """Adam step size of the critics and of the multiplier."""
    actor_learning_rate: float = 3e-4
    """Adam step size of the policy and of its temperature."""
    conservative_weight: float = 1.0
    """w, in the unit of the reward: 0 is a soft actor-critic, large prefers recorded doses. Where these fill
    the limits, the 5 and more of the released code make critics nearly flat in the dose."""
    n_samples: int = 10
    """N, drawn doses of each kind in the gap, and in the backup where it takes the largest."""
    lagrange: bool = False
    """Adapt the weight so that the mean gap is target_gap."""
    target_gap: float = 5.0
    """Gap that the multiplier aims at. The least gap that critics can have is ln 3N plus the entropy of the
    recorded doses, 4.1 for doses uniform over one dimension's limits: below it the multiplier grows to its
    limit of 1e6."""
    gap_floor: float | None = None
    """Least gap of a visit that is still made smaller; None is no such limit."""
    backup: Literal["min", "max"] = "min"
    """Value of the next state: of one drawn dose, or the largest of N; by the less critic either way."""
    backup_entropy: bool = False
    """Subtract alpha ln pi(a'|s') in the target, as a soft actor-critic does."""
    bc_steps: int = 0
    """First updates in which the policy imitates the recorded doses while the critics learn already."""
    log_std_min: float = -5.0
    """Lower bound of the policy's log scale before tanh; -20 in the released code."""
    log_std_max: float = 2.0
    """Upper bound of the same."""
    small_start: bool = False
    """The critics' last layer starts with gain 0.01, the policy's heads near 0 and its scale at 1/e, as
    released for locomotion (CORL); otherwise last layers start as the others do, and the scale near 1."""


class CQL(Agent):
    """S stacked seeds of CQL."""

    about = About(
        paper="Kumar, Zhou, Tucker, Levine 2020, arXiv 2006.04779",
        family="squashed Gaussian",
        support="full_box",
        checked="CORL, 2e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: CQLConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config = config
        log_std = (config.log_std_min, config.log_std_max)
        small = config.small_start
        self.actor = Policy(
            init, problem, config.hidden, "squashed_gaussian", log_std=log_std, small_start=small
        )
        self.critic = Critic(
            init,
            problem.n_obs,
            problem.n_act,
            config.hidden,
            scheme="orthogonal",
            last_gain=SMALL_GAIN if small else None,
        )
        self.critic_target = target_copy(self.critic)
        self.log_temperature = init.constant(0.0, 1)
        self.optimizers = {
            "critic": adam(self.critic, config.learning_rate),
            "actor": adam([*self.actor.parameters(), self.log_temperature], config.actor_learning_rate),
        }
        if config.lagrange:
            self.log_multiplier = init.constant(1.0, 1)
            self.optimizers["multiplier"] = adam([self.log_multiplier], config.learning_rate)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of the policy's dose at both states, and of the 3N doses of the gap."""
        n_act, n_samples = self.problem.n_act, self.config.n_samples
        tries = n_samples if self.config.backup == "max" else 1
        return {
            "act": Noise("uniform", (batch_size, 1, n_act)),
            "next_act": Noise("uniform", (batch_size, tries, n_act)),
            "anywhere": Noise("uniform", (batch_size, n_samples, n_act)),
            "current": Noise("uniform", (batch_size, n_samples, n_act)),
            "ahead": Noise("uniform", (batch_size, n_samples, n_act)),
        }

    def phase(self, step: int) -> int:
        """0 while the policy imitates, then 1."""
        return int(step >= self.config.bc_steps)

    def _drawn(self, obs: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's K doses ``[S, B, K, A]`` by noise of that shape; their log-densities ``[S, B, K]``."""
        distribution = self.actor.distribution(self.actor.trunk(obs))
        act, log_prob = distribution.rsample_with_log_prob(
            uniform.movedim(2, 0).unsqueeze(-1)
        )  # [K, S, B, A]
        return act.movedim(0, 2), log_prob.sum(-1).movedim(0, 2)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``actor``, ``temperature`` and, with it, ``multiplier``, each ``[S]``."""
        c = self.config
        temperature = self.log_temperature.detach().exp()  # [S, 1]
        with torch.no_grad():
            target = self._target(batch, temperature)
        values, gap = self._values_and_gap(batch)  # [S, E, B] each
        error = (values - target.unsqueeze(1)).square().mean(-1).sum(-1)
        if c.gap_floor is not None:
            gap = gap.clamp(min=c.gap_floor)
        gap = gap.mean(-1)  # [S, E]
        act, log_prob = self._drawn(batch.obs, batch.noise["act"])
        if self.phase(batch.step) == 0:
            worth = self.actor.log_prob(batch.obs, batch.act)
        else:
            worth = self.critic.lower(frozen(self.critic, batch.obs, act.squeeze(2)))  # [S, B]
        log_prob = log_prob.squeeze(2)
        missing = (log_prob.detach() - self.problem.n_act).mean(-1)  # target entropy, -n, less the entropy
        losses = {
            "actor": (temperature * log_prob - worth).mean(-1),
            "temperature": -self.log_temperature.squeeze(-1) * missing,
        }
        metrics = {
            "q": values.detach().mean((1, 2)),
            "gap": gap.detach().mean(-1),
            "entropy": -log_prob.detach().mean(-1),
            "alpha": temperature.squeeze(-1),
        }
        if c.lagrange:
            multiplier = self.log_multiplier.exp()  # [S, 1]
            excess = c.conservative_weight * (gap - c.target_gap)
            losses["critic"] = error + (multiplier.detach() * excess).sum(-1)
            losses["multiplier"] = -0.5 * (multiplier * excess.detach()).sum(-1)
            metrics["multiplier"] = multiplier.detach().squeeze(-1)
        else:
            losses["critic"] = error + c.conservative_weight * gap.sum(-1)
        return losses, metrics

    def _target(self, batch: Batch, temperature: Tensor) -> Tensor:
        """What the critics regress on, ``[S, B]``."""
        c = self.config
        act, log_prob = self._drawn(batch.next_obs, batch.noise["next_act"])
        value = self.critic_target.lower(_at_many(self.critic_target, batch.next_obs, act).flatten(2))
        value, best = value.view_as(log_prob).max(-1)  # of the one dose, or of all N
        if c.backup_entropy:
            log_prob = log_prob.gather(-1, best.unsqueeze(-1)).squeeze(-1)
            value = value - temperature * log_prob
        return td_target(batch.reward, batch.terminated, c.discount, value)

    def _values_and_gap(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values of the recorded doses and the gap, ``[S, E, B]`` each, in one call of the critics."""
        n = self.config.n_samples
        anywhere = 2.0 * batch.noise["anywhere"] - 1.0
        with torch.no_grad():
            current, log_current = self._drawn(batch.obs, batch.noise["current"])
            ahead, log_ahead = self._drawn(batch.next_obs, batch.noise["ahead"])
        acts = torch.cat((batch.act.unsqueeze(2), anywhere, current, ahead), 2)  # [S, B, 1 + 3N, A]
        values = _at_many(self.critic, batch.obs, acts)  # [S, E, B, 1 + 3N]
        recorded, at_anywhere, at_policy = values.split((1, n, 2 * n), -1)
        log_density = torch.cat((log_current, log_ahead), -1).unsqueeze(1)
        everywhere = torch.cat(
            (
                at_anywhere + self.problem.n_act * math.log(2.0),
                self._bounded(at_policy, batch) - log_density,
            ),
            -1,
        )
        recorded = recorded.squeeze(-1)
        return recorded, torch.logsumexp(everywhere, -1) - recorded

    def _bounded(self, values: Tensor, batch: Batch) -> Tensor:
        """The values ``[S, E, B, 2N]`` of the policy's doses as the gap sees them."""
        del batch
        return values

    def update_targets(self, step: int) -> None:
        """Target critics by Polyak averaging; the multiplier goes no further than its limit."""
        super().update_targets(step)
        if self.config.lagrange:
            with torch.no_grad():
                self.log_multiplier.clamp_(max=math.log(LARGEST_MULTIPLIER))


def _at_many(critic: Critic, obs: Tensor, acts: Tensor) -> Tensor:
    """Values ``[S, E, B, K]`` of K doses ``[S, B, K, A]`` at each of ``obs [S, B, O]``."""
    each = obs.unsqueeze(2).expand(-1, -1, acts.shape[2], -1)
    values: Tensor = critic(each.flatten(1, 2), acts.flatten(1, 2))
    return values.view(*values.shape[:2], *acts.shape[1:3])


def _check(config: CQLConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name, low in (("conservative_weight", 0.0), ("n_samples", 1), ("bc_steps", 0)):
        if getattr(config, name) < low:
            raise UserError(f"{name} must be at least {low:g}, got {getattr(config, name)}.")
    if not config.actor_learning_rate > 0.0:
        raise UserError(f"actor_learning_rate must be above 0, got {config.actor_learning_rate}.")


@dataclass(frozen=True)
class CalQLConfig(CQLConfig):
    """Settings of Cal-QL: those of CQL.

    The paper's mazes use critics of four hidden layers of 256, a policy of two, a weight of 5 with the
    multiplier at a target gap of 0.8, and the largest of 10 doses in the backup. Its code has a small start
    as CQL's, with an orthogonal policy; CORL's version of it has none, but for the policy's scale.
    """


class CalQL(CQL):
    """S stacked seeds of Cal-QL.

    A return that the end of the record cut short counts as it is: where no reward is below 0 it is a lower
    bound of the return itself, so that less is bounded than could be; rewards below 0 that were cut off make
    it too large. The critics' target bootstraps past such an end all the same.
    """

    about = About(
        paper="Nakamoto et al. 2023, arXiv 2303.05479",
        family="squashed Gaussian",
        support="full_box",
        checked="CORL, 3e-16",
    )

    needs: ClassVar[frozenset[str]] = frozenset({"discounted_return"})

    def _bounded(self, values: Tensor, batch: Batch) -> Tensor:
        return torch.maximum(values, batch.extra["discounted_return"].unsqueeze(1))  # [S, 1, B, 1]
