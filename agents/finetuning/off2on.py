"""Off2On: balanced replay and a pessimistic ensemble of critics.

Lee, Seo, Lee, Abbeel, Shin 2021, arXiv 2107.00702 (CoRL 2021). E agents trained offline by CQL become one
soft actor-critic. Its policy is the squashed Gaussian with the members' mean and variance before tanh,

    m = mean_e m_e,    v = mean_e (m_e^2 + sigma_e^2) - m^2,

and all members learn through it. Every member's critics keep targets of their own; the policy follows the
mean of the members' lower values. With a' and a~ drawn from the policy, temperature alpha and n dimensions:

    y_e     = r + gamma (1 - d) (min_i Qbar_ei(s', a') - alpha ln pi(a'|s'))
    L_Q     = sum_e sum_i E [ (y_e - Q_ei(s, a))^2 ]
    L_pi    = E [ alpha ln pi(a~|s) - mean_e min_i Q_ei(s, a~) ]
    L_alpha = - ln alpha E [ ln pi(a~|s) - n ]

The conservative term is dropped. What is replayed is weighted by how much it looks like new visits: a
network w(s, a) >= 0 estimates the ratio d_on / d_off of their densities from the bound of the Jensen-Shannon
divergence by its least

    L_w = E_off [ - ln(2 / (w + 1)) ] - E_on [ ln(2 w / (w + 1)) ],

and a transition that is drawn gets the priority clip(w^(1/T) / E_off [w^(1/T)], 1e-3, 1e3). A recorded visit
starts at 1, a new one at the largest priority so far, which starts so that a share f of a batch is new at the
first update.

Rows are drawn by inverting the cumulative sum of all priorities: exact, and linear in their number, where a
tree is logarithmic. Not taken over: seeds of the members that are written in the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from agents.cql import CQL
from agents.finetuning.expansion import further, not_thin, refused
from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.distributions.bounded import TanhNormal
from dosing.errors import UserError
from dosing.finetuning.method import Behaviour, Learner, Start, TrialSettings
from dosing.models.batch import Batch
from dosing.models.critics import frozen
from dosing.models.losses import td_target
from dosing.models.networks import Initialiser, Mlp
from dosing.models.optimisers import adam
from dosing.policy import DosePolicy
from dosing.rng import draw
from dosing.training.checkpoint import load_moments, moments
from dosing.training.replay import ROWS, ReplaySampler
from dosing.training.sampler import BLOCK
from dosing.types import Noise

SMALLEST_LOG = 1e-10
"""Added within both logarithms of L_w, as published: where w is 0 they are finite."""
PRIORITIES = (1e-3, 1e3)
"""Least and largest priority."""


@dataclass(frozen=True)
class Off2OnConfig:
    """Settings of Off2On, as published."""

    members: int = 5
    """E, offline agents per seed; those beyond the first are seeds of the run that take no part in the trial,
    each used once."""
    learning_rate: float = 3e-4
    """Adam step size of critics, policies, temperature and density ratio."""
    online_share: float = 0.5
    """f, share of new visits in a batch at the first update; the examples of the released code have 0.75."""
    priority_temperature: float = 5.0
    """T: 1 is the estimated ratio itself, large ones bring priorities near to 1."""
    ratio_width: int = 256
    """Width of both hidden layers of the density ratio."""

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            UserError: one of the settings is out of range.
        """
        for name in ("members", "ratio_width"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0.0 < self.online_share < 1.0:
            raise UserError(f"online_share must be above 0 and below 1, got {self.online_share}.")
        if not self.priority_temperature > 0.0:
            raise UserError(f"priority_temperature must be above 0, got {self.priority_temperature}.")


class Off2OnAgent(Agent):
    """S stacked seeds of the pessimistic ensemble.

    Args:
        members: E stacks of CQL of the same seeds and settings.
        config: settings.
    """

    def __init__(self, members: Sequence[CQL], config: Off2OnConfig) -> None:
        first = members[0]
        super().__init__(first.problem, first.seeds)
        self.config, self.regularisation = config, first.regularisation
        self.members = nn.ModuleList(members)
        self.log_temperature = nn.Parameter(torch.zeros_like(first.log_temperature))
        critics = [p for member in members for p in member.critic.parameters()]
        actors = [p for member in members for p in member.actor.parameters()]
        self.optimizers = {
            "critic": adam(critics, config.learning_rate),
            "actor": adam(actors, config.learning_rate),
            "temperature": adam([self.log_temperature], config.learning_rate),
        }

    @property
    def stacks(self) -> list[CQL]:
        """The members."""
        return [cast(CQL, member) for member in self.members]

    @property
    def discount(self) -> float:
        """That of the members."""
        return self.stacks[0].discount

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of the policy's dose at both states."""
        shape = (batch_size, self.problem.n_act, 1)
        return {"act": Noise("uniform", shape), "next_act": Noise("uniform", shape)}

    def distribution(self, obs: Tensor) -> TanhNormal:
        """Per-dimension distribution ``[S, B, A]`` of the matched moments."""
        distributions = [cast(TanhNormal, m.actor.distribution(m.actor.trunk(obs))) for m in self.stacks]
        means, scales = (
            torch.stack([getattr(distribution, name) for distribution in distributions])
            for name in ("loc", "scale")
        )
        mean = means.mean(0)
        variance = (means - mean).square().mean(0) + scales.square().mean(0)
        return TanhNormal(mean, variance.sqrt(), validate_args=False)

    def policy(self, obs: Tensor) -> Distribution:
        """The squashed Gaussian of the matched moments; its mode is tanh of the mean."""
        return Independent(self.distribution(obs), 1, validate_args=False)

    def value_of(self, obs: Tensor, act: Tensor) -> Tensor:
        """Mean over members of the lower value ``[S, B]``."""
        return torch.stack([member.critic.pessimistic(obs, act) for member in self.stacks]).mean(0)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``actor`` and ``temperature``, each ``[S]``."""
        temperature = self.log_temperature.detach().exp()  # [S, 1]
        with torch.no_grad():
            ahead, log_ahead = self._drawn(batch.next_obs, batch.noise["next_act"])
        act, log_prob = self._drawn(batch.obs, batch.noise["act"])
        errors, worths, values = [], [], []
        for member in self.stacks:
            with torch.no_grad():
                bootstrap = member.critic_target.pessimistic(batch.next_obs, ahead) - temperature * log_ahead
                target = td_target(batch.reward, batch.terminated, self.discount, bootstrap)
            q = member.critic(batch.obs, batch.act)  # [S, 2, B]
            errors.append((q - target.unsqueeze(1)).square().mean(-1).sum(-1))
            worths.append(member.critic.lower(frozen(member.critic, batch.obs, act)))
            values.append(q.detach().mean((1, 2)))
        missing = (log_prob.detach() - self.problem.n_act).mean(-1)  # target entropy, -n, less the entropy
        losses = {
            "critic": torch.stack(errors).sum(0),
            "actor": (temperature * log_prob - torch.stack(worths).mean(0)).mean(-1),
            "temperature": -self.log_temperature.squeeze(-1) * missing,
        }
        metrics = {
            "q": torch.stack(values).mean(0),
            "entropy": -log_prob.detach().mean(-1),
            "alpha": temperature.squeeze(-1),
        }
        return losses, metrics

    def _drawn(self, obs: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's doses ``[S, B, A]`` and their log-densities ``[S, B]``."""
        act, log_prob = self.distribution(obs).rsample_with_log_prob(uniform)
        return act, log_prob.sum(-1)

    def update_targets(self, step: int) -> None:
        """Target critics of every member by Polyak averaging."""
        for member in self.stacks:
            member.update_targets(step)


class DensityRatio(nn.Module):
    """w(s, a) >= 0, of two hidden layers; 1 where the last of them is 0.

    Args:
        init: initialiser of the S seeds.
        n_in: width of state and dose together.
        width: of the hidden layers.
    """

    def __init__(self, init: Initialiser, n_in: int, width: int) -> None:
        super().__init__()
        self.net = Mlp(init, [n_in, width, width, 1])
        with torch.no_grad():
            cast(nn.Parameter, self.net.layers[-1].bias).fill_(1.0)

    def forward(self, rows: Tensor) -> Tensor:
        """Ratio ``[S, B]`` at states and doses ``[S, B, O + A]``."""
        ratio: Tensor = torch.relu(self.net(rows).squeeze(-1))
        return ratio


def ratio_loss(recorded: Tensor, new: Tensor) -> Tensor:
    """L_w ``[S]`` of the ratios ``[S, B]`` of recorded and of new visits."""
    off = -torch.log(2.0 / (recorded + 1.0) + SMALLEST_LOG)
    on = torch.log(2.0 * new / (new + 1.0) + SMALLEST_LOG)
    return off.mean(-1) - on.mean(-1)


def priority(ratio: Tensor, recorded: Tensor, temperature: float) -> Tensor:
    """Priorities ``[S, B]`` of the ratios ``[S, B]``, relative to those of recorded visits ``[S, N]``."""
    root = 1.0 / temperature
    mean = (recorded**root).mean(-1, keepdim=True).clamp(min=torch.finfo(recorded.dtype).tiny)
    return (ratio**root / mean).clamp(*PRIORITIES)


class BalancedReplay(ReplaySampler):
    """Recorded and new visits, drawn by priorities that a density ratio sets.

    With every batch the ratio takes one step on as many recorded and as many new visits, drawn uniformly; the
    batch is then drawn by the priorities as they are, and those of its rows are set anew.

    Args:
        agent: says which noise; it must learn from single transitions.
        dataset: the recorded visits in agents' units.
        batch_size: B.
        config: settings.
        expected: new visits of a seed at the first update.
        capacity: most new visits per seed.
        num_envs: P, episodes side by side.

    Raises:
        UserError: as of ``ReplaySampler``; or the agent's batches need more than a visit itself.
    """

    def __init__(
        self,
        agent: Agent,
        dataset: Dataset,
        batch_size: int,
        config: Off2OnConfig,
        *,
        expected: int,
        capacity: int = 1_000_000,
        num_envs: int = 1,
    ) -> None:
        super().__init__(agent, dataset, batch_size, None, capacity=capacity, num_envs=num_envs)
        if agent.needs:
            raise UserError(f"{type(agent).__name__} needs {sorted(agent.needs)} in a batch by priorities.")
        self.config, rows = config, self.buffer.rows
        self.recorded = cast(Tensor, self._recorded)
        self.held = len(self.recorded)
        self._wide = agent.problem.n_obs + agent.problem.n_act
        init = Initialiser(agent.seeds, rows.device, rows.dtype)
        self.ratio = DensityRatio(init, self._wide, config.ratio_width)
        self.optimizer = adam(self.ratio, config.learning_rate)
        seeds, share = len(agent.seeds), config.online_share
        ones = torch.ones(seeds, 1, dtype=torch.float64, device=rows.device)
        self.priorities = ones.repeat(1, self.held + rows.shape[1])
        largest = self.held * share / ((1.0 - share) * expected)
        self.largest = largest * ones
        self._pairs = torch.empty(0)

    @property
    def ready(self) -> bool:
        """Whether there are new visits."""
        return self.buffer.made > 0

    @property
    def filled(self) -> int:
        """Rows of each seed, recorded and new; new ones stand where the ring of the buffer has them."""
        return self.held + min(self.buffer.made, self.buffer.visits) * self.buffer.num_envs

    def remember(self, *visit: Tensor) -> None:
        """Keep one visit of every episode, at the largest priority so far."""
        num_envs = self.buffer.num_envs
        first = self.held + (self.buffer.made % self.buffer.visits) * num_envs
        super().remember(*visit)
        self.priorities[:, first : first + num_envs] = self.largest

    def _refill(self, block: int) -> None:
        """As of ``ReplaySampler``; besides, uniform numbers ``[BLOCK, S, 2, B]`` of the ratio's visits."""
        super()._refill(block)
        shape, device = (BLOCK, 2, self.batch_size), self.priorities.device
        self._pairs = draw(
            self.seeds, "uniform", shape, (block, ROWS + 1), device=device, dtype=torch.float64
        )

    def __call__(self, step: int) -> Batch:
        """Batch of update number ``step``, which also moves the ratio and the priorities."""
        block, offset = divmod(step, BLOCK)
        if block != self._block:
            self._refill(block)
        self._learn(self._pairs[offset])
        return super().__call__(step)

    def rows_at(self, index: Tensor) -> Tensor:
        """Rows ``[S, B, W]`` by their numbers ``[S, B]``, recorded ones first."""
        new = self.buffer.rows
        seed = torch.arange(len(self.seeds), device=new.device).unsqueeze(-1)
        of_new = new[seed, (index - self.held).clamp(min=0)]
        of_recorded = self.recorded[index.clamp(max=self.held - 1)]
        return torch.where((index < self.held).unsqueeze(-1), of_recorded, of_new)

    def _learn(self, uniform: Tensor) -> None:
        """One step of the ratio, on visits by uniform numbers ``[S, 2, B]``."""
        counts = torch.tensor([[self.held], [self.filled - self.held]], device=uniform.device)
        index = (uniform * counts).long() + torch.tensor([[0], [self.held]], device=uniform.device)
        seen = self.rows_at(index.flatten(1))[..., : self._wide]
        recorded, new = self.ratio(seen).split(self.batch_size, -1)
        self.optimizer.zero_grad()
        ratio_loss(recorded, new).sum().backward()
        self.optimizer.step()
        with torch.no_grad():
            self._base = self.ratio(seen[:, : self.batch_size])  # [S, B], of recorded visits

    @torch.no_grad()
    def _drawn(self, uniform: Tensor) -> Tensor:
        """Rows ``[S, B, W]`` by priorities, for uniform numbers ``[S, B]``; their priorities are set anew."""
        reached = self.priorities[:, : self.filled].cumsum(-1)
        wanted = uniform * reached[:, -1:]
        index = torch.searchsorted(reached, wanted, right=True).clamp(max=self.filled - 1)
        rows = self.rows_at(index)
        result = priority(self.ratio(rows[..., : self._wide]), self._base, self.config.priority_temperature)
        self.priorities.scatter_(1, index, result.double())
        self.largest = torch.maximum(self.largest, result.double().amax(-1, keepdim=True))
        return rows

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed trial needs, as named tensors."""
        state = self.buffer.state() | {
            "priority.rows": self.priorities[:, : self.filled],
            "priority.largest": self.largest,
        }
        state |= {f"ratio.{name}": value for name, value in self.ratio.state_dict().items()}
        return state | moments(self.optimizer, "ratio.adam.")

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state` exactly.

        Raises:
            UserError: it is of another number of seeds or visits, or lacks something.
        """
        self.buffer.load(state)
        try:
            rows, self.largest = state["priority.rows"], state["priority.largest"].to(self.largest)
            weights = {name: state[f"ratio.{name}"] for name in self.ratio.state_dict()}
        except KeyError as error:
            raise UserError(f"the checkpoint holds no priorities of visits: {error} is missing.") from error
        if rows.shape != (len(self.seeds), self.filled):
            raise UserError(
                f"the checkpoint's priorities are {list(rows.shape)}, of other visits than these."
            )
        self.priorities[:, : self.filled] = rows.to(self.priorities)
        self.ratio.load_state_dict(weights)
        load_moments(self.optimizer, state, "ratio.adam.")


@dataclass(frozen=True)
class OfflineToOnline:
    """The method.

    Attributes:
        config: settings.
    """

    config: Off2OnConfig = field(default_factory=Off2OnConfig)

    def refusal(self, start: Start) -> str | None:
        """Why a trial cannot start from this run, in a sentence; None if it can."""
        if start.name != "cql":
            return f"it goes on from a run of cql, this is one of {start.name}."
        return refused(
            self.config.check, lambda: not_thin(start), lambda: further(start, self.config.members - 1)
        )

    def learner(self, start: Start, settings: TrialSettings) -> Learner:
        """Make what the loop needs.

        Raises:
            UserError: as :meth:`refusal`.
        """
        if sentence := self.refusal(start):
            raise UserError(sentence)
        stacks = [start.transferred(), *further(start, self.config.members - 1)]
        agent = Off2OnAgent([cast(CQL, stack) for stack in stacks], self.config)
        replay = BalancedReplay(
            agent,
            start.dataset,
            settings.batch_size,
            self.config,
            expected=max(settings.start, settings.patients),
            capacity=settings.remembered,
            num_envs=settings.patients,
        )
        behaviour = Behaviour(DosePolicy(agent, start.transform))
        return Learner(agent, replay, behaviour, start.updates)


OFF2ON = OfflineToOnline()
