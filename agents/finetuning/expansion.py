"""What methods share that put a learnable policy beside frozen ones: who proposes, what it is worth.

Every member proposes a dose at every visit: a frozen one the mode of its distribution, the one that learns a
draw. The critics of the learner value the proposals as they would be executed, inside the dose limits; which
one is requested is the method's own (:meth:`Expanded.probabilities`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from agents.iql import IQL, IQLConfig
from dosing.agent import Agent, value_of
from dosing.data.dataset import Transform
from dosing.distributions.draws import Draws
from dosing.errors import UserError
from dosing.finetuning.method import Behaviour, Start, TrialProgress
from dosing.models.batch import Batch
from dosing.models.flows import points, spread
from dosing.policy import DosePolicy, Observations
from dosing.rng import generator
from dosing.runs.files import read_tensors
from dosing.runs.folder import WEIGHTS, RunFolder
from dosing.training.regularised import prepare
from dosing.types import Array, Noise


def held(agent: Agent) -> Agent:
    """The agent, its parameters constant from now on.

    Raises:
        UserError: its dose depends on more than the state.
    """
    if agent.looks_back:
        raise UserError(
            f"{type(agent).__name__} doses by the episode so far; a frozen policy sees the state alone."
        )
    agent.requires_grad_(False)
    return agent.eval()


def refused(*needed: Callable[[], object]) -> str | None:
    """The sentence of the first that refuses with a ``UserError``; None if all can be done."""
    for need in needed:
        try:
            need()
        except UserError as error:
            return str(error)
    return None


def not_thin(start: Start) -> None:
    """Refuse a run with a thin law: the policy that a method adds to it would have none, and be wider.

    Raises:
        UserError: it is one.
    """
    if start.regularisation.thin is not None:
        raise UserError(
            "the run gives doses by a thin law, which a new policy beside it would not have: use a method "
            "that goes on with the run's own, such as direct."
        )


def newcomer(start: Start, **changes: Any) -> IQL:
    """An implicit-Q-learner with new weights: with the run's settings if it is one, else IQL's own.

    IQL's own step size here is 3e-4, as in PEX's study; discount and widths are the run's where it has them.
    What the run's agent had beyond its method, the newcomer has too. A setting of None is left as it is.

    Raises:
        UserError: the run has a thin law, see :func:`not_thin`.
    """
    not_thin(start)
    config = start.config
    if not isinstance(config, IQLConfig):
        own = {name: getattr(config, name) for name in ("discount", "hidden") if hasattr(config, name)}
        config = IQLConfig(learning_rate=3e-4, **own)
    changes = {name: value for name, value in changes.items() if value is not None}
    agent = start.fresh("iql", replace(config, actor_decay_steps=None, **changes), start.regularisation)
    if not isinstance(agent, IQL):
        raise TypeError(f"the suite's iql is {type(agent).__name__}")
    prepare(agent, start.dataset)
    return agent


def take_over(agent: IQL, offline: Agent) -> None:
    """Q, V and the target critics of the offline run, bit by bit; the policy stays as it is.

    Raises:
        UserError: the offline run is not one of IQL.
    """
    if not isinstance(offline, IQL):
        raise UserError(f"critics are taken over from a run of iql, not from {type(offline).__name__}.")
    for name in ("critic", "value", "critic_target"):
        getattr(agent, name).load_state_dict(getattr(offline, name).state_dict())


def further(start: Start, count: int) -> list[Agent]:
    """Stacks of the run's seeds that do not take part, ``count`` for each that does, none used twice.

    Raises:
        UserError: the run has not so many.
    """
    seeds = len(start.seeds)
    have = max((len(x) for x in start.further.values() if x.dim()), default=0)
    if have < count * seeds:
        raise UserError(
            f"{count} further offline policies for each of {seeds} seeds take a run of {seeds * (count + 1)} "
            f"seeds and --seeds {seeds}; beyond those of the trial this run has {have}."
        )
    stacks = []
    for number in range(count):
        agent = start.transferred()
        rows = torch.arange(seeds) * count + number  # seed k's are rows k count, ..., (k + 1) count - 1
        agent.load_state_dict({**start.weights, **{name: x[rows] for name, x in start.further.items()}})
        stacks.append(agent)
    return stacks


def of_run(path: Path, start: Start) -> Agent:
    """The agent of another finished run, for the same seeds, problem and units.

    Raises:
        UserError: the run is unfinished, damaged, or differs in one of these.
    """
    run = RunFolder(path)
    config = run.verify().config
    if config.transform != start.transform:
        raise UserError(f"{path} has other units of state, dose or reward than the offline run.")
    every = list(config.seeds)
    if missing := [seed for seed in start.seeds if seed not in every]:
        raise UserError(f"{path} lacks the seeds {missing} of the trial.")
    like = start.dataset.obs
    agent = start.build(
        config.agent,
        config.agent_config,
        start.problem,
        start.seeds,
        device=like.device,
        dtype=like.dtype,
        regularisation=config.regularisation,
    )
    weights, _ = read_tensors(run.path / WEIGHTS)
    rows = [every.index(seed) for seed in start.seeds]
    agent.load_state_dict(
        {name: x[rows] if x.dim() and len(x) == len(every) else x for name, x in weights.items()}
    )
    return agent


def executed(act: Tensor) -> Tensor:
    """Doses on the [-1, 1] axis as they are given."""
    return act.clamp(-1.0, 1.0)


def _base(distribution: Distribution) -> Any:
    """The distribution of one dose dimension; that of every policy is an ``Independent`` over it."""
    return cast("Independent[Any]", distribution).base_dist


def uniforms(distribution: Distribution) -> int:
    """Uniform numbers that one draw of all dose dimensions uses."""
    base = _base(distribution)
    return int(base.batch_shape[-1] * base.n_uniforms)


def drawn(distribution: Distribution, uniform: Tensor) -> Tensor:
    """Draws ``[..., S, B, A]`` by uniform numbers ``[..., S, B, uniforms(distribution)]``."""
    base = _base(distribution)
    act: Tensor = base.rsample_from(uniform.unflatten(-1, (-1, base.n_uniforms)))
    return act


def fixed_draws(distribution: Distribution, count: int) -> Tensor:
    """M quasi-random draws ``[S, B, M, A]``, by the same numbers for every state and seed."""
    base = _base(distribution)
    like: Tensor = base.mode
    uniform = torch.special.ndtr(points(count, uniforms(distribution), like))  # [M, U]
    each = uniform[:, None, None].expand(-1, *like.shape[:2], -1)
    return drawn(distribution, each).movedim(0, 2)


def by_weight(probability: Tensor, uniform: Tensor) -> Tensor:
    """Index ``[...]`` of the choice that ``uniform [...]`` falls on, by probabilities ``[..., K]``."""
    reached = probability.cumsum(-1) <= uniform.unsqueeze(-1)
    return reached.sum(-1).clamp(max=probability.shape[-1] - 1)


def pick(act: Tensor, index: Tensor) -> Tensor:
    """Doses ``[S, B, A]`` of ``act [S, B, K, A]`` by their numbers ``[S, B]``."""
    return act.gather(2, index[..., None, None].expand(*index.shape, 1, act.shape[-1])).squeeze(2)


def point_set(doses: Tensor, weights: Tensor, loc: Tensor) -> Distribution:
    """Doses ``[S, B, K, A]`` with probabilities ``[S, B, K]``, of which ``loc [S, B, A]`` is recommended."""
    values = doses.transpose(-1, -2)
    finite = Draws(values, weights.unsqueeze(-2), loc, "point_set", validate_args=False)
    return Independent(finite, 1, validate_args=False)


class Expanded(Agent):
    """An implicit-Q-learner beside F frozen policies.

    Members are numbered frozen ones first; the learner is the last.

    Args:
        online: what learns.
        frozen: constant agents of the same seeds and sizes, at least one.
        draws: M >= 1, draws of the learner that stand for its distribution in :meth:`policy`.
    """

    def __init__(self, online: IQL, frozen: Sequence[Agent], draws: int) -> None:
        super().__init__(online.problem, online.seeds)
        self.regularisation = online.regularisation
        self.online, self.frozen, self.draws = online, nn.ModuleList(frozen), draws
        self.optimizers = dict(online.optimizers)

    @property
    def discount(self) -> float:
        """That of the learner."""
        return self.online.discount

    @abstractmethod
    def probabilities(self, values: Tensor) -> Tensor:
        """Probability ``[S, ..., K]`` of every member's dose, given their values ``[S, ..., K]``."""

    def offers(self, obs: Tensor) -> Tensor:
        """Doses ``[S, B, F, A]`` that the frozen members propose."""
        modes = [cast("Agent", agent).policy(obs).mode for agent in self.frozen]
        return torch.stack(modes, 2)

    def worth(self, obs: Tensor, act: Tensor) -> Tensor:
        """Value ``[S, B, K]``, by the learner's critics, of doses ``[S, B, K, A]`` as executed."""
        return spread(self.online.critic.pessimistic, obs, executed(act))

    def proposed(self, obs: Tensor, uniform: Tensor) -> Tensor:
        """One dose of every member ``[S, B, K, A]``; the learner's by ``uniform [S, B, U]``."""
        own = drawn(self.online.policy(obs), uniform)
        return torch.cat((self.offers(obs), own.unsqueeze(2)), 2)

    @torch.no_grad()
    def requested(self, obs: Tensor, uniform: Tensor, choice: Tensor) -> Tensor:
        """A dose ``[S, B, A]`` of the composite policy, by uniform numbers ``[S, B, U]`` and ``[S, B]``."""
        act = self.proposed(obs, uniform)
        return pick(act, by_weight(self.probabilities(self.worth(obs, act)), choice))

    def policy(self, obs: Tensor) -> Distribution:
        """The composite policy: its doses with the probabilities of their being chosen.

        M fixed draws stand for the learner's distribution. Recommended is, of the modes of all members, that
        of the highest value; the learner's mode is none of its draws and need not lie between those that are
        chosen.
        """
        distribution = self.online.policy(obs)
        offers, own = self.offers(obs), fixed_draws(distribution, self.draws)
        count, modes = offers.shape[2], torch.cat((offers, distribution.mode.unsqueeze(2)), 2)
        with torch.no_grad():
            worth = self.worth(obs, torch.cat((modes, own), 2))
        of_modes, of_draws = worth.split((count + 1, self.draws), -1)
        frozen = of_modes[..., :count]  # [S, B, F]
        each = torch.cat((frozen.unsqueeze(2).expand(-1, -1, self.draws, -1), of_draws.unsqueeze(-1)), -1)
        chosen = self.probabilities(each)  # [S, B, M, F + 1]
        weights = torch.cat((chosen[..., :-1].mean(2), chosen[..., -1] / self.draws), -1)
        loc = pick(modes, of_modes.argmax(-1))
        return point_set(torch.cat((offers, own), 2), weights, loc)

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """The learner's own distribution."""
        return {"online": self.online.policy(obs)}

    def value_of(self, obs: Tensor, act: Tensor) -> Tensor | None:
        """By the learner's critics."""
        return value_of(self.online, obs, act)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """That of the learner."""
        return self.online.noise(batch_size)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Those of the learner."""
        return self.online.losses_and_metrics(batch)

    def update_targets(self, step: int) -> None:
        """Target critics of the learner."""
        self.online.update_targets(step)


class Composing(Behaviour):
    """Doses of the composite policy, the learner's share drawn from its distribution itself."""

    def __init__(self, agent: Expanded, transform: Transform) -> None:
        super().__init__(DosePolicy(agent, transform))
        self.agent = agent

    def __call__(self, obs: Observations, trial_progress: TrialProgress) -> Array:
        """Requested doses ``[S, P, A]`` at ``obs [S, P, O]``."""
        return self.composed(obs, trial_progress)

    def composed(self, obs: Observations, trial_progress: TrialProgress) -> Array:
        """What the composite policy requests."""
        like = next(self.agent.parameters())
        seen = self.policy.transform.obs(torch.from_numpy(obs.astype(np.float64))).to(like)
        with torch.no_grad():
            width = uniforms(self.agent.online.policy(seen))
        seeds, shape = self.agent.seeds, (obs.shape[1], width + 1)
        numbers = np.stack([generator(s, "exploration", trial_progress.number).random(shape) for s in seeds])
        uniform = torch.from_numpy(numbers).to(like)
        result = self.agent.requested(seen, uniform[..., :-1], uniform[..., -1])
        return self.policy.transform.to_dose(result.double().cpu().numpy())
