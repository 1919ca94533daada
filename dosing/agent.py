"""What an agent is to the rest of the product: a stack of seeds that updates on a batch and has a policy.

The training loop, evaluation, recommendation and the dashboard know agents through this module only; none of
them asks for an agent's name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dosing.errors import UserError
from dosing.models.critics import Critic
from dosing.models.networks import Mlp
from dosing.models.prior import Centred
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.models.settings import check_settings
from dosing.types import Noise, Problem

UNITS = "dropped_units"
"""Name of the noise that leaves out hidden units."""
SMALLEST_SCALE = 1e-6
"""Added to a standard deviation that advantages are divided by."""


@dataclass(frozen=True)
class Batch:
    """Transitions of S seeds, with every random number the update will use.

    An update is a deterministic function of its batch; that is what makes a stacked seed equal to the seed
    alone, a resumed run equal to an uninterrupted one, and a diverged update reproducible.

    Attributes:
        obs: ``[S, B, O]``.
        act: ``[S, B, A]`` in [-1, 1].
        reward: ``[S, B]``.
        next_obs: ``[S, B, O]``.
        terminated: ``[S, B]``, 1.0 where the episode ended for good; never the time limit.
        noise: one tensor ``[S, ...]`` per name in :meth:`Agent.noise`.
        extra: what the agent asked for in ``needs``, such as ``next_act`` or ``return_to_go``.
        step: number of this update, counted from 0; delayed steps read it.
        length: rows of one episode that stand together in time order; 1 where rows were drawn one by one. A
            window that is longer than what is left of its episode begins with rows of zeros.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    noise: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    length: int = 1


@dataclass(frozen=True)
class History:
    """Episodes of B patients under each of S seeds up to the visit at hand, in agents' units.

    Attributes:
        obs: ``[S, B, T, O]`` at the T visits so far, the one at hand last.
        act: ``[S, B, T - 1, A]`` delivered at the visits before it.
        reward: ``[S, B, T - 1]`` received for them.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor


class Agent(nn.Module):
    """A stack of S seeds of one method: networks with a leading seed axis, and their optimisers.

    A method's file defines ``noise``, ``losses_and_metrics``, ``policy`` and, where there is something to do
    after the gradient step, ``update_targets``. Losses are per seed, ``[S]``, and are *summed* over seeds
    before the gradient (a mean would scale each seed's gradient by 1/S). A method that alternates its steps
    overrides ``update`` and tells its alternatives apart by ``phase``.

    Attributes:
        seeds: the S seeds.
        problem: the sizes it was built for.
        context: number of visits the policy looks at (1 unless it is a sequence agent). A batch of a sequence
            agent is windows of so many visits.
        needs: extra batch columns, served by ``dosing.training.sampler``.
        episodes: whole episodes in a batch of each seed, for a method whose loss spans episodes; None where a
            batch is transitions drawn one by one.
        warm_up: first updates that leave the policy as it is; a training of no more than these is refused.
        regularisation: what the agent was built with beyond the method.
    """

    context: int = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    episodes: int | None = None
    warm_up: int = 0
    regularisation: Regularisation = PLAIN

    def __init__(self, problem: Problem, seeds: tuple[int, ...]) -> None:
        super().__init__()
        self.problem = problem
        self.seeds = seeds
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    @abstractmethod
    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Noise that one update draws, by name."""

    @property
    def discount(self) -> float:
        """Discount of the method's targets; 1 for a method that has none."""
        return float(getattr(getattr(self, "config", None), "discount", 1.0))

    def noise_plan(self, batch_size: int) -> dict[str, Noise]:
        """Everything that one update draws: the method's :meth:`noise`, and hidden units to leave out."""
        units = sum(network.masks[0].numel() for network in self._dropping())
        dropped = {UNITS: Noise("uniform", (units,))} if units else {}
        return self.noise(batch_size) | dropped

    def _dropping(self) -> list[Mlp]:
        """Trained networks with dropout, in the order in which they were built."""
        if self.regularisation.dropout == 0.0:
            return []
        networks = [module for module in self.modules() if isinstance(module, Mlp) and module.dropout > 0.0]
        return [network for network in networks if next(network.parameters()).requires_grad]

    def prepare(self, dataset: Any) -> None:
        """Take from the ``dosing.data.dataset.Dataset`` what the method fixes before its first update.

        Called whenever a sampler is made for the agent. What it takes is part of ``state_dict``, and a method
        that has taken it keeps it, so that neither loading nor further data changes what a weight means.
        """
        if self.regularisation.prior == "constant_dose":
            from dosing.models.prior import constant_dose  # whose package evaluates agents

            split = (dataset.replicates, len(dataset) // dataset.replicates)
            act = dataset.act.double().cpu().unflatten(0, split).mT.numpy()  # [R, A, M], one dose at a time
            reward = dataset.reward.double().cpu().unflatten(0, split).unsqueeze(1).expand(act.shape)
            lengths = dataset.starts.diff().cpu()
            patient = torch.arange(len(lengths)).repeat_interleave(lengths).unflatten(0, split)
            best = constant_dose(act, reward.numpy(), patient.unsqueeze(1).expand(act.shape).numpy())
            for module in self.modules():
                if isinstance(module, Centred):
                    module.centre(torch.as_tensor(best.dose))

    def scaled(self, advantage: Tensor) -> Tensor:
        """Advantage ``[S, B]``, by ``scale_advantage`` divided by its standard deviation over the batch."""
        if not self.regularisation.scale_advantage:
            return advantage
        return advantage / (advantage.detach().std(-1, keepdim=True) + SMALLEST_SCALE)

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

    def reconfigure(self, **settings: Any) -> None:
        """Change settings that the losses read anew at every update, such as a penalty that decays online.

        Raises:
            UserError: the method has no such setting, or the value is out of range.
        """
        config: Any = getattr(self, "config", None)
        if unknown := [name for name in settings if not hasattr(config, name)]:
            raise UserError(f"{type(self).__name__} has no setting {unknown[0]!r}.")
        changed = replace(config, **settings)
        check_settings(changed)
        object.__setattr__(self, "config", changed)

    def schedule(self, step: int) -> None:
        """Set what changes with the update number, such as a step size; called before every update."""

    def phase(self, step: int) -> int:
        """Which of the method's alternating updates number ``step`` is; each is one static computation."""
        del step
        return 0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Take :meth:`update` with the hidden units left out that the batch says."""
        networks = self._dropping()
        if not networks:
            return self.update(batch)
        parts = batch.noise[UNITS].split([network.masks[0].numel() for network in networks], -1)
        for network, part in zip(networks, parts, strict=True):
            network.drop(part.view_as(network.masks))
        try:
            return self.update(batch)
        finally:
            for network in networks:
                network.masks.fill_(1.0)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one training step; returns metrics ``[S]`` that stay on the device."""
        losses, metrics = self.losses_and_metrics(batch)
        self.descend(list(losses.values()), self.optimizers.values())
        self.update_targets()
        return {f"loss/{name}": loss.detach() for name, loss in losses.items()} | metrics

    def descend(self, losses: list[Tensor], optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """One gradient step on the sum of the losses ``[S]`` over seeds."""
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    def update_targets(self) -> None:
        """What comes after the gradient step: target networks."""

    @abstractmethod
    def policy(self, obs: Tensor) -> Distribution:
        """Distribution of the action at ``obs [S, B, O]``: batch_shape ``[S, B]``, event_shape ``[A]``."""

    def policy_after(self, history: History) -> Distribution:
        """Distribution of the action at the visit at hand; without memory, of its state alone."""
        return self.policy(history.obs[:, :, -1])

    @property
    def targets(self) -> Tensor | None:
        """Returns ``[S, 3]`` in agents' units: lowest recorded, aimed at by default, highest recorded.

        None for a method that is not conditioned on the return it shall reach.
        """
        return None

    @property
    def looks_back(self) -> bool:
        """Whether the action at a visit depends on the episode before it, not on the state alone."""
        return self.context > 1 or self.targets is not None

    def policy_for(self, obs: Tensor, target: Tensor) -> Distribution:
        """As :meth:`policy`, aiming at the returns ``target [S, B]``; for a method with :attr:`targets`."""
        raise NotImplementedError(f"{type(self).__name__} is not conditioned on a return")

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """Further distributions worth drawing beside the policy, such as its proposal."""
        del obs
        return {}

    def value_of(self, obs: Tensor, act: Tensor) -> Tensor | None:
        """What the method believes the discounted return of ``act [S, B, A]`` at ``obs [S, B, O]`` to be.

        With the method's own charges, such as a penalty, and with its pessimism: a belief, no measurement.

        Returns:
            ``[S, B]`` in agents' reward unit: the mean of :meth:`returns` where a distribution is learned,
            else the pessimistic value of ``critic``; None for a method without a critic of state and dose.
        """
        distribution = self.returns(obs, act)
        if distribution is not None:
            return distribution.mean(-1)
        critic = getattr(self, "critic", None)
        return critic.pessimistic(obs, act) if isinstance(critic, Critic) else None

    def returns(self, obs: Tensor, act: Tensor) -> Tensor | None:
        """The learned distribution of the discounted return of ``act [S, B, A]`` at ``obs [S, B, O]``.

        Returns:
            K equally likely returns ``[S, B, K]`` in agents' reward unit: draws, or quantiles at the middle
            of K equal parts. None for an agent that learns no more than a mean.
        """
        del obs, act
        return None

    def admissible(self, obs: Tensor, count: int = 256) -> Tensor | None:
        """Doses a generator that the policy is confined to could propose at ``obs [S, B, O]``.

        Args:
            obs: the states.
            count: M fixed points that the generator is looked at.

        Returns:
            ``[S, B, M, A]`` on the [-1, 1] axis; None for a method without such a generator. They are points
            of a set and no draws, and their ends are no support.
        """
        del obs, count
        return None

    def training_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs as named tensors: weights, targets, optimiser moments."""
        state = {f"agent.{name}": value for name, value in self.state_dict().items()}
        for label, optimizer in self.optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                for name, value in moments.items():
                    state[f"optimizer.{label}.{index}.{name}"] = torch.as_tensor(value)
        return state

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`training_state` exactly; refuses a state of another agent or size.

        Raises:
            UserError: names are missing or shapes differ.
        """
        weights = {name[6:]: value for name, value in state.items() if name.startswith("agent.")}
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise UserError(f"the checkpoint does not fit this agent: {first}") from error
        for label, optimizer in self.optimizers.items():
            prefix = f"optimizer.{label}."
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            moments: dict[int, dict[str, Any]] = {}
            for name, value in state.items():
                if name.startswith(prefix):
                    index, key = name[len(prefix) :].split(".", 1)
                    if int(index) >= len(parameters) or value.shape not in ((), parameters[int(index)].shape):
                        raise UserError(f"the checkpoint does not fit this agent: {name} has no place in it.")
                    moments.setdefault(int(index), {})[key] = value.clone()
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": moments, "param_groups": groups})
