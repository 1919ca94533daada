"""A cost budget: reward less lambda times cost, lambda by dual ascent, and a critic of the cost.

With c the safety cost of a visit, gamma the agent's discount and pi its policy by recommended doses, the
agent learns from r - lambda c, beside which two things are learned from the same batches:

    C(s, a)  =  (1 - gamma) E[ c + gamma c' + gamma^2 c'' + ... | a at s, then pi ]        (cost critic)
    lambda  <-  [ lambda + eta (T E_D C(s, pi(s)) - B) ]_+                                 (dual ascent)

C is a cost per visit, that of the visits to come. T, the mean number of visits of a recorded episode, makes
it a cost per episode, comparable with the budget B; the mean is over recorded states, as in Xu, Zhan, Zhu
2022 (CPQ, arXiv 2107.09003). Dual ascent finds the multiplier of the constrained problem (Altman 1999,
Constrained Markov decision processes, chapter 3; Tessler, Mankowitz, Mannor 2019, arXiv 1805.11074), where
the policy follows its rewards.

C is fitted by fitted Q evaluation with a target network and is quadratic in the dose, C = c(s) + b(s) a +
a' A(s) a, with coefficients from a network: the doses whose predicted cost keeps the budget then have exact
ends (:func:`admissible`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from dosing.data.dataset import Dataset
from dosing.distributions.truncated import Truncated
from dosing.distributions.univariate import Univariate
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic
from dosing.models.losses import polyak, target_copy, td_loss, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.regularisation import Regularisation
from dosing.types import Problem

HIDDEN = (64, 64)
"""Hidden widths of the cost critic."""
LEARNING_RATE = 1e-3
"""Step size of its Adam."""
TARGET_RATE = 0.02
"""Polyak rate of its target: with a discount of 0.9 it has the costs to come after some 500 updates."""
DUAL_RATE = 0.02
"""eta: step of the multiplier for each standard deviation of the recorded costs that a visit is over."""
NARROW = 1e-3
"""Share of the support that is left, around the dose of least cost, where no dose keeps the budget."""
CHARGED = {"discounted_return": "discounted_cost"}
"""Columns that sum rewards, and the column of the costs that each is charged with."""


class Piece(NamedTuple):
    """An interval of doses ``[S, B, 1]``; ``empty`` where none is admissible: around that of least cost."""

    low: Tensor
    high: Tensor
    empty: Tensor


class CostBudget(nn.Module):
    """What a stack of S seeds has beside its method where costs have a budget.

    Everything kept is per seed and part of ``state_dict``; nothing is drawn.

    Args:
        init: initialiser of the S seeds, after the agent's own networks.
        problem: sizes of the task.
        budget: B, cost per episode.
        discount: gamma.
    """

    multiplier: Tensor
    visits: Tensor
    scale: Tensor
    reward_scale: Tensor
    known: Tensor

    def __init__(self, init: Initialiser, problem: Problem, budget: float, discount: float) -> None:
        super().__init__()
        self.budget, self.discount, self.one_dose = budget, discount, problem.n_act == 1
        own = copy.copy(init)  # goes on with the streams of the seeds
        own.regularisation = Regularisation(dose_quadratic=True)
        self.critic = Critic(own, problem.n_obs, problem.n_act, HIDDEN, members=1)
        self.critic_target = target_copy(self.critic)
        self.optimizer = adam(self.critic, LEARNING_RATE)
        for name, value in (("multiplier", 0.0), ("visits", 1.0), ("scale", 1.0), ("reward_scale", 1.0)):
            self.register_buffer(name, init.constant(value, 1).detach())
        self.register_buffer("known", torch.zeros_like(self.scale, dtype=torch.bool))

    @staticmethod
    def columns(needs: frozenset[str]) -> frozenset[str]:
        """Batch columns that are needed beside those of the method."""
        return frozenset({"cost"} | {cost for column, cost in CHARGED.items() if column in needs})

    @torch.no_grad()
    def prepare(self, dataset: Dataset) -> None:
        """Take the number of visits of an episode and the spread of their costs, once.

        Raises:
            UserError: a recorded visit has no cost, or one below 0.
        """
        if dataset.cost is None or not bool(dataset.cost.isfinite().all()):
            missing = 0 if dataset.cost is None else int((~dataset.cost.isfinite()).int().argmax())
            raise UserError(
                f"a cost budget needs the cost of every recorded visit, and row {missing} of the data set "
                "has none: give a column cost, or train without --cost-budget."
            )
        if bool((dataset.cost < 0.0).any()):
            row = int((dataset.cost < 0.0).int().argmax())
            raise UserError(
                f"the cost of row {row} of the data set is {float(dataset.cost[row]):g}; a cost must be at "
                "least 0: is its sign flipped?"
            )
        if bool(self.known.all()):
            return
        spread = dataset.cost.unflatten(0, (dataset.replicates, -1)).std(1, correction=0, keepdim=True)
        self.scale.copy_(torch.where(spread > 0.0, spread, 1.0))
        starts, rows = dataset.starts[:-1], len(dataset) // dataset.replicates
        self.visits.copy_(rows / torch.bincount(starts // rows, minlength=dataset.replicates).unsqueeze(1))
        self.reward_scale.fill_(dataset.transform.reward_scale)
        self.known.fill_(True)

    @property
    def price(self) -> Tensor:
        """The multiplier lambda ``[S]``: reward per unit of cost, both in the world's units."""
        return (self.multiplier * self.reward_scale / self.scale).squeeze(-1)

    def charged(self, batch: Batch) -> Batch:
        """The batch with reward less lambda times cost, also where rewards are summed."""
        price = self.multiplier / self.scale  # [S, 1], in agents' reward unit
        extra = dict(batch.extra)
        for column, cost in CHARGED.items():
            if column in extra:
                extra[column] = extra[column] - price.unsqueeze(-1) * extra[cost]
        return replace(batch, reward=batch.reward - price * extra["cost"].squeeze(-1), extra=extra)

    def update(
        self, batch: Batch, policy: Callable[[Tensor], Distribution], *, moves: bool = True
    ) -> dict[str, Tensor]:
        """One step of the cost critic, then of the multiplier; returns metrics ``[S]`` in the world's units.

        Args:
            batch: with the column ``cost``.
            policy: of the agent, at states ``[S, B, O]``.
            moves: whether the multiplier takes its step, or the cost critic alone.
        """
        with torch.no_grad():
            following = policy(batch.next_obs).mode.clamp(-1.0, 1.0)  # as executed
            cost = (1.0 - self.discount) * batch.extra["cost"].squeeze(-1) / self.scale
            bootstrap = self.critic_target(batch.next_obs, following).squeeze(1)
            target = td_target(cost, batch.terminated, self.discount, bootstrap)
        loss = td_loss(self.critic(batch.obs, batch.act), target)  # [S]
        self.optimizer.zero_grad()
        loss.sum().backward()
        self.optimizer.step()
        polyak(self.critic_target, self.critic, TARGET_RATE)
        with torch.no_grad():
            expected = self._per_visit(batch.obs, policy(batch.obs).mode).mean(-1, keepdim=True)  # [S, 1]
            if moves:
                over = expected - self.allowed
                self.multiplier.copy_((self.multiplier + DUAL_RATE * over).clamp(min=0.0))
            predicted = (self.visits * self.scale * expected).squeeze(-1)
        return {
            "cost/loss": loss.detach(),
            "cost/predicted": predicted,
            "cost/multiplier": self.price.clone(),
        }

    @property
    def allowed(self) -> Tensor:
        """The budget as the critic counts: per visit, over the spread of recorded costs, ``[S, 1]``."""
        return self.budget / (self.visits * self.scale)

    def _per_visit(self, obs: Tensor, act: Tensor) -> Tensor:
        cost: Tensor = self.critic(obs, act.clamp(-1.0, 1.0)).squeeze(1)
        return cost

    def predicted(self, obs: Tensor, act: Tensor) -> Tensor:
        """Predicted cost per episode ``[S, B]`` of ``act [S, B, A]`` at ``obs [S, B, O]``, then policy."""
        return self.visits * self.scale * self._per_visit(obs, act)

    def trims(self, distribution: Distribution) -> bool:
        """Whether a policy's support can be trimmed: one dose, from an exact interval of doses."""
        law: Any = getattr(distribution, "base_dist", None)
        return self.one_dose and isinstance(law, Univariate) and law.kind == "interval"

    def trimmed(self, distribution: Distribution, obs: Tensor) -> Distribution:
        """The distribution ``[S, B]`` at ``obs`` without doses whose predicted cost exceeds the budget.

        The predicted cost is that of the dose followed by the policy as it is untrimmed, so that trimming
        improves on that policy at every visit. Where no dose of the support keeps the budget, what is left is
        ``NARROW`` of the support, around the dose of least predicted cost. A policy whose support is no exact
        interval, or of several doses, is returned as it is.
        """
        if not self.trims(distribution):
            return distribution
        law = _doubled(distribution.base_dist)  # type: ignore[attr-defined]
        piece = self.admissible(law, obs)
        return Independent(Truncated(law, piece.low, piece.high, validate_args=False), 1, validate_args=False)

    def without_dose(self, distribution: Distribution, obs: Tensor) -> Tensor:
        """At which states no dose of the support keeps the budget, ``[S, B]``; nowhere if none is trimmed."""
        if not self.trims(distribution):
            return torch.zeros(obs.shape[:2], dtype=torch.bool, device=obs.device)
        return self.admissible(_doubled(distribution.base_dist), obs).empty.squeeze(-1)  # type: ignore[attr-defined]

    def admissible(self, law: Univariate, obs: Tensor) -> Piece:
        """The doses of a law's support that are left at ``obs [S, B, O]``; see :func:`admissible`."""
        c, b, a = self.critic.net(obs).squeeze(1).double().split(1, -1)  # [S, B, 1] each
        return admissible(law, c - self.allowed.double().unsqueeze(-1), b, a)


def admissible(law: Univariate, c: Tensor, b: Tensor, a: Tensor) -> Piece:
    """Doses x of a law's support with c + b x + a x^2 <= 0: the connected part of highest density.

    Args:
        law: of one maximum and bounded support, in double precision.
        c: constant, of the law's batch shape.
        b: slope.
        a: curvature; below 0, the admissible doses may be two intervals.
    """
    support: Any = law.support
    low, high = support.lower_bound, support.upper_bound
    inside = b * b - 4.0 * a * c
    q = -0.5 * (b + torch.where(b < 0.0, -1.0, 1.0) * inside.clamp(min=0.0).sqrt())  # without cancellation
    flat = a == 0.0
    one, two = q / torch.where(flat, 1.0, a), c / torch.where(q == 0.0, 1.0, q)
    two = torch.where(q == 0.0, one, two)
    left, right = torch.minimum(one, two), torch.maximum(one, two)
    left, right = torch.where(flat, two, left), torch.where(flat, two, right)
    real = (inside > 0.0) & ~(flat & (b == 0.0))
    always = ~real & torch.where(flat, c <= 0.0, a < 0.0)  # a law without crossing is admissible, or nowhere
    between, rising, falling = real & (a > 0.0), real & flat & (b > 0.0), real & flat & (b < 0.0)
    beyond = real & (a < 0.0)
    nowhere = torch.full_like(low, torch.inf)
    starts = torch.where(between, left, torch.where(falling, right, nowhere))
    starts = torch.where(always | rising | beyond, -torch.inf, starts)
    ends = torch.where(between, right, torch.where(always | falling, torch.inf, -nowhere))
    ends = torch.where(rising | beyond, left, ends)
    first = _cut(law, starts, ends, low, high)
    second = _cut(law, torch.where(beyond, right, nowhere), nowhere, low, high)
    better = second[2] > first[2]
    start, end = torch.where(better, second[0], first[0]), torch.where(better, second[1], first[1])
    empty = torch.maximum(first[2], second[2]) == -torch.inf
    least, most = _cheapest(b, a, low, high)
    return Piece(torch.where(empty, least, start), torch.where(empty, most, end), empty)


def _cut(
    law: Univariate, start: Tensor, end: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """An interval within [low, high], with the highest log-density in it; -inf where hardly any is left."""
    start, end = torch.maximum(start, low), torch.minimum(end, high)
    left = end - start > 1e-9 * (high - low)
    mode = torch.maximum(torch.minimum(law.mode, end), torch.where(left, start, low))
    highest = torch.where(left, law.log_prob(torch.where(left, mode, law.mode)), -torch.inf)
    return start, end, highest


def _cheapest(b: Tensor, a: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """``NARROW`` of [low, high] around the dose x there at which b x + a x^2 is least."""
    bottom = torch.maximum(torch.minimum(-b / (2.0 * torch.where(a > 0.0, a, 1.0)), high), low)
    cheaper_end = torch.where(low * (b + a * low) <= high * (b + a * high), low, high)
    best, width = torch.where(a > 0.0, bottom, cheaper_end), NARROW * (high - low)
    start = torch.minimum(torch.maximum(best - 0.5 * width, low), high - width)
    return start, start + width


def _doubled(law: Univariate) -> Univariate:
    """The law with its parameters in double precision."""
    result = copy.copy(law)
    for name in law.arg_constraints:
        setattr(result, name, getattr(law, name).double())
    return result
