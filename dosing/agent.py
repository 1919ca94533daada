"""What an agent is to the rest of the product: a stack of seeds that updates on a batch and has a policy.

The training loop, evaluation, recommendation and the dashboard know agents through this module only; none of
them asks for an agent's name. What only some methods can do is a protocol here: a method has the capability
by having its methods.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dosing.models.batch import Batch
from dosing.models.cost_budget import CostBudget
from dosing.models.critics import Critic
from dosing.models.losses import polyak
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.types import About, Noise, Problem

SMALLEST_SCALE = 1e-6
"""Added to a standard deviation that advantages are divided by."""
Rewards = Literal["any", "fixed", "none"]
"""What a method makes of rewards, see :class:`Agent`."""
TARGET = "_target"
"""End of the name of a target network; before it stands the name of the network that it follows."""


class Agent(nn.Module):
    """A stack of S seeds of one method: networks with a leading seed axis, and their optimisers.

    A method's file defines ``losses_and_metrics`` and, where it draws, ``noise``. Losses are per seed,
    ``[S]``, and are *summed* over seeds before the gradient (a mean would scale each seed's gradient by 1/S).
    Two names of networks are known here: ``actor`` gives the policy's distribution, and ``NAME_target``
    follows the network ``NAME``. A method that alternates its steps tells them apart by ``phase``.

    Attributes:
        about: the method's paper, distribution and dose set, and what its losses were compared with.
        seeds: the S seeds.
        problem: the sizes it was built for.
        context: number of visits the policy looks at (1 unless it is a sequence agent). A batch of a sequence
            agent is windows of so many visits.
        needs: extra batch columns, served by ``dosing.training.sampler``.
        episodes: whole episodes in a batch of each seed, for a method whose loss spans episodes; None where a
            batch is transitions drawn one by one.
        warm_up: first updates that leave the policy as it is; a training of no more than these is refused.
        target_phase: the phase in which target networks move; None for every one.
        rewards: what the method makes of rewards. ``fixed`` where it takes something from the recorded ones
            before its first update, so that they cannot change in training; ``none`` where it learns from
            doses alone.
        regularisation: what the agent was built with beyond the method.
        budget: what keeps the cost of its doses within a budget; None without one.
    """

    about: ClassVar[About]
    context: int = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    episodes: int | None = None
    warm_up: int = 0
    target_phase: ClassVar[int | None] = None
    rewards: ClassVar[Rewards] = "any"
    regularisation: Regularisation = PLAIN

    def __init__(self, problem: Problem, seeds: tuple[int, ...]) -> None:
        super().__init__()
        self.problem = problem
        self.seeds = seeds
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.budget: CostBudget | None = None

    @property
    def discount(self) -> float:
        """Discount of the method's targets; 1 for a method that has none."""
        return float(getattr(getattr(self, "config", None), "discount", 1.0))

    @property
    def looks_back(self) -> bool:
        """Whether the action at a visit depends on the episode before it, not on the state alone."""
        return self.context > 1 or isinstance(self, RemembersEpisode)

    @property
    def columns(self) -> frozenset[str]:
        """Extra batch columns: the method's ``needs``, and those of a cost budget."""
        return self.needs | (frozenset() if self.budget is None else self.budget.columns(self.needs))

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Noise that one update draws, by name; none where the update is deterministic given the batch."""
        del batch_size
        return {}

    def prepare(self, dataset: Any) -> None:
        """Take from the ``dosing.data.dataset.Dataset`` what the method fixes before its first update.

        Called whenever a sampler is made for the agent. What it takes is part of ``state_dict``, and a method
        that has taken it keeps it, so that neither loading nor further data changes what a weight means.
        """

    def view(self, dataset: Any) -> Any:
        """The ``dosing.data.dataset.Dataset`` that is learned from, made of the recorded one."""
        return dataset

    def rows(self, dataset: Any) -> Tensor | None:
        """Rows of the ``dosing.data.dataset.Dataset`` this method trains on; None for all of them."""
        del dataset
        return None

    @abstractmethod
    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses and further metrics of update ``batch.step`` by name, each ``[S]``; changes nothing."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of update number ``batch.step``, each ``[S]``."""
        return self.losses_and_metrics(batch)[0]

    def scaled(self, advantage: Tensor) -> Tensor:
        """Advantage ``[S, B]``, by ``scale_advantage`` divided by its standard deviation over the batch."""
        if not self.regularisation.scale_advantage:
            return advantage
        return advantage / (advantage.detach().std(-1, keepdim=True) + SMALLEST_SCALE)

    def schedule(self, step: int) -> None:
        """Set what changes with the update number, such as a step size; called before every update."""

    def phase(self, step: int) -> int:
        """Which of the method's alternating updates number ``step`` is; each is one static computation."""
        del step
        return 0

    def settled(self, step: int) -> bool:
        """Whether updates from number ``step`` on change nothing: they are taken only where one is logged."""
        del step
        return False

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one training step; returns metrics ``[S]`` that stay on the device."""
        losses, metrics = self.losses_and_metrics(batch)
        self.descend(list(losses.values()), self.optimizers.values())
        self.update_targets(batch.step)
        return {f"loss/{name}": loss.detach() for name, loss in losses.items()} | metrics

    def descend(self, losses: list[Tensor], optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """One gradient step on the sum of the losses ``[S]`` over seeds."""
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        self.adjust_gradients()
        for optimizer in optimizers:
            optimizer.step()

    def adjust_gradients(self) -> None:
        """What is done to the gradients before the step, such as a bound of their norm."""

    def update_targets(self, step: int) -> None:
        """What comes after the gradient step: target networks, by Polyak averaging at ``target_rate``."""
        if self.target_phase in (None, self.phase(step)):
            for name, target in self.named_children():
                if name.endswith(TARGET):
                    online = cast(nn.Module, getattr(self, name.removesuffix(TARGET)))
                    polyak(target, online, cast(Any, self).config.target_rate)

    def policy(self, obs: Tensor) -> Distribution:
        """Distribution of the action at ``obs [S, B, O]``: batch_shape ``[S, B]``, event_shape ``[A]``."""
        distribution: Distribution = cast(Any, self).actor(obs)
        return distribution


@dataclass(frozen=True)
class History:
    """Episodes of B patients under each of S seeds up to the visit at hand, in agents' units.

    Attributes:
        obs: ``[S, B, T, O]`` at the T visits so far, the one at hand last.
        act: ``[S, B, T - 1, A]`` delivered at the visits before it.
        reward: ``[S, B, T - 1]`` received for them; NaN where it is not known, which only an agent that does
            without rewards is told (:func:`needs_rewards`).
    """

    obs: Tensor
    act: Tensor
    reward: Tensor

    @classmethod
    def at_first_visit(cls, obs: Tensor, n_act: int) -> History:
        """Episodes that begin with the states ``obs [S, B, O]``."""
        none = obs.new_zeros(*obs.shape[:2], 0)
        return cls(obs.unsqueeze(2), none.unsqueeze(-1).expand(-1, -1, -1, n_act), none)


@runtime_checkable
class RemembersEpisode(Protocol):
    """A policy that sees the episode before a visit, not the state alone."""

    def policy_after(self, history: History) -> Distribution:
        """Distribution of the action at the visit at hand, as of :meth:`Agent.policy`."""


@runtime_checkable
class AimsAtReturn(Protocol):
    """A policy that is conditioned on the return it shall reach."""

    @property
    def targets(self) -> Tensor:
        """Returns ``[S, 3]`` in agents' units: lowest recorded, aimed at by default, highest recorded."""

    def policy_for(self, history: History, target: Tensor) -> Distribution:
        """As :func:`policy_after`, aiming at the returns ``target [S, B]`` of the whole episode."""


@runtime_checkable
class HasFurtherDensities(Protocol):
    """A method with distributions worth drawing beside the policy, such as its proposal."""

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """These distributions by name, at ``obs [S, B, O]``."""


@runtime_checkable
class ValuesDoses(Protocol):
    """A method whose belief about a dose is something else than its ``critic``'s pessimistic value."""

    def value_of(self, obs: Tensor, act: Tensor) -> Tensor | None:
        """See :func:`value_of`."""


@runtime_checkable
class LearnsReturns(Protocol):
    """A method that learns the distribution of the discounted return, not its mean alone."""

    def returns(self, obs: Tensor, act: Tensor) -> Tensor:
        """That of ``act [S, B, A]`` at ``obs [S, B, O]``.

        Returns:
            K equally likely returns ``[S, B, K]`` in agents' reward unit: draws, or quantiles at the middle
            of K equal parts.
        """


@runtime_checkable
class ConfinedToGenerator(Protocol):
    """A policy that is confined to the doses that a generator could propose."""

    def admissible(self, obs: Tensor, count: int = 256) -> Tensor:
        """Doses that the generator could propose at ``obs [S, B, O]``.

        Args:
            obs: the states.
            count: M fixed points that the generator is looked at.

        Returns:
            ``[S, B, M, A]`` on the [-1, 1] axis. They are points of a set and no draws, and their ends are no
            support.
        """


@dataclass(frozen=True)
class EpisodeBelief:
    """What an agent believes about B patients under each of S seeds, in agents' units.

    Attributes:
        level_mean: ``[S, B, T, O]`` level behind every observed marker after each of the T visits so far.
        level_sd: its standard deviation, likewise.
        forecast_mean: ``[S, B, K, O]`` observation at each of the K coming visits.
        forecast_sd: its standard deviation, noise of the observation included.
        recorded: ``[S, B, T, O]``, False where a marker was not measured.

    Entries of the state that only tell whether another was measured have no level: all of theirs is NaN.
    """

    level_mean: Tensor
    level_sd: Tensor
    forecast_mean: Tensor
    forecast_sd: Tensor
    recorded: Tensor


@dataclass(frozen=True)
class HeldOutForecasts:
    """How well the model behind a belief forecast patients that it was not fitted to, one number per seed.

    Attributes:
        of_last_value: ``[S]`` mean squared error, as a share of that of a patient's last value.
        of_mean: ``[S]`` the same, of the mean of the other patients.
        coverage: ``[S]`` share of observations within the 90 % intervals.
        outlying: ``[S]`` share of the recorded numbers that the fit passed over as outliers.
    """

    of_last_value: Tensor
    of_mean: Tensor
    coverage: Tensor
    outlying: Tensor


@runtime_checkable
class HoldsBelief(Protocol):
    """A method that doses by a belief about the patient, from a model of how patients respond."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """For every seed why its model is not used and the constant dose is given; empty where it is used."""

    @property
    def constant_dose(self) -> Tensor:
        """The constant dose ``[S, A]`` that stands in for a model that is not used."""

    @property
    def held_out(self) -> HeldOutForecasts:
        """How good the model's forecasts are."""

    def belief_after(self, history: History, coming: Tensor) -> EpisodeBelief:
        """The belief at every visit of a history, and what it forecasts.

        Args:
            history: visits of B patients.
            coming: ``[S, B, K, A]`` doses at the visit at hand and the K - 1 after it.
        """


def needs_rewards(agent: Agent) -> bool:
    """Whether the rewards of earlier visits have a say: in the return that is still to be reached."""
    return agent.looks_back and isinstance(agent, AimsAtReturn)


def policy_after(agent: Agent, history: History) -> Distribution:
    """Distribution of the action at the visit at hand; without memory, of its state alone."""
    if isinstance(agent, RemembersEpisode):
        return agent.policy_after(history)
    return agent.policy(history.obs[:, :, -1])


def value_of(agent: Agent, obs: Tensor, act: Tensor) -> Tensor | None:
    """What a method believes the discounted return of ``act [S, B, A]`` at ``obs [S, B, O]`` to be.

    With the method's own charges, such as a penalty, and with its pessimism: a belief, no measurement.

    Returns:
        ``[S, B]`` in agents' reward unit: the mean of the returns where a distribution is learned, else the
        pessimistic value of ``critic``; None for a method without a critic of state and dose.
    """
    if isinstance(agent, ValuesDoses):
        return agent.value_of(obs, act)
    if isinstance(agent, LearnsReturns):
        return agent.returns(obs, act).mean(-1)
    critic = getattr(agent, "critic", None)
    return critic.pessimistic(obs, act) if isinstance(critic, Critic) else None
