"""Batches for S seeds: indices and noise drawn per seed, many updates at once, addressed by update number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.rng import draw, draw_indices
from dosing.training.regularised import noise_plan, prepare
from dosing.training.rows import packed, unpacked
from dosing.types import Noise

BLOCK = 64
"""Updates whose indices and noise are drawn together; part of the definition of the random streams."""


VISITS = 1 << 20
"""Number of the noise that draws visits, whatever an agent draws besides."""


def noise_block(
    seeds: Sequence[int],
    plan: Mapping[str, Noise],
    block: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """What the updates of one block draw, by name: ``[BLOCK, S, ...]``."""
    return {
        name: draw(seeds, distribution, (BLOCK, *rest), (block, number), device=device, dtype=dtype)
        for number, (name, (distribution, rest)) in enumerate(plan.items())
    }


@dataclass(frozen=True)
class Lookahead:
    """Over how many visits rewards are summed before a target bootstraps; one is the usual target.

    With ``trace`` below 1 the number is drawn anew for every row of every batch, so that the mean target is
    the lambda-return (Sutton, Barto 2018, equations 12.2 and 12.3), truncated after ``n_step`` visits and at
    the end of the record. Nothing corrects for the behaviour policy: the summed rewards are its own.

    Attributes:
        n_step: most visits.
        trace: lambda, the probability of one more visit.
    """

    n_step: int = 1
    trace: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: fewer than one visit, or a probability outside [0, 1].
        """
        if self.n_step < 1:
            raise UserError(f"n-step must be at least 1, got {self.n_step}.")
        if not 0.0 <= self.trace <= 1.0:
            raise UserError(f"trace must be between 0 and 1, got {self.trace}.")

    @property
    def draws(self) -> bool:
        """Whether the number of visits is drawn."""
        return self.n_step > 1 and self.trace < 1.0

    def visits(self, remaining: Tensor, uniform: Tensor | None) -> Tensor:
        """How many visits ``[M]``, given those left in the record and, where it is drawn, uniform noise."""
        most = remaining.clamp(max=self.n_step)
        if uniform is None:
            return most
        if self.trace == 0.0:
            return torch.ones_like(most)
        further = torch.floor(torch.log1p(-uniform.double()) / math.log(self.trace))
        return torch.minimum(most, 1 + further.clamp(max=self.n_step).long())


ONE_STEP = Lookahead()


def _next_act(dataset: Dataset) -> Tensor:
    """Recorded action of the next visit ``[M, A]``; 0 at the last visit of an episode."""
    following = torch.zeros_like(dataset.act)
    following[:-1] = dataset.act[1:]
    return following * _has_next(dataset)


def _has_next(dataset: Dataset) -> Tensor:
    """1.0 where the next visit of the same episode was recorded, ``[M, 1]``."""
    has = torch.ones_like(dataset.reward)
    has[dataset.starts[1:] - 1] = 0.0
    return has[:, None]


def _return_to_go(dataset: Dataset, discount: float = 1.0) -> Tensor:
    """Sum of the rewards from the visit to the end of its episode, ``[M, 1]``.

    Nothing is added for what may have followed where a time limit ended the episode.
    """
    return _to_go(dataset, dataset.reward, discount)


def _to_go(dataset: Dataset, values: Tensor, discount: float) -> Tensor:
    """Sum of values ``[M]`` from the visit to the end of its episode, ``[M, 1]``."""
    total, lengths = values.double().clone(), dataset.starts.diff()
    for left in range(2, int(lengths.max()) + 1):  # all episodes at once, from their ends
        rows = (dataset.starts[1:] - left)[lengths >= left]
        total[rows] += discount * total[rows + 1]
    return total.to(dataset.reward.dtype)[:, None]


def _cost(dataset: Dataset) -> Tensor:
    """Recorded safety cost of the visit, ``[M, 1]``, in the world's unit.

    Raises:
        UserError: there is none.
    """
    if dataset.cost is None:
        raise UserError("the data set has no column cost.")
    return dataset.cost[:, None]


def _cost_to_go(dataset: Dataset, discount: float) -> Tensor:
    """As :func:`_return_to_go`, of the cost."""
    return _to_go(dataset, _cost(dataset).squeeze(1), discount)


def _time_step(dataset: Dataset) -> Tensor:
    """Number of the visit within its episode, from 0, ``[M, 1]``."""
    lengths = dataset.starts.diff()
    first = torch.repeat_interleave(dataset.starts[:-1], lengths)
    return (torch.arange(len(dataset), device=first.device) - first).to(dataset.reward.dtype)[:, None]


def _episode(dataset: Dataset) -> Tensor:
    """Number of the visit's episode within its data set, from 0, ``[M, 1]``."""
    lengths = dataset.starts.diff()
    number = torch.arange(len(lengths), device=lengths.device) % (len(lengths) // dataset.replicates)
    return torch.repeat_interleave(number, lengths).to(dataset.reward.dtype)[:, None]


def _mask(dataset: Dataset) -> Tensor:
    """1.0 at every visit, ``[M, 1]``; 0.0 in the rows that pad a window."""
    return torch.ones_like(dataset.reward)[:, None]


EXTRAS: Mapping[str, Callable[[Dataset], Tensor]] = {
    "next_act": _next_act,
    "has_next": _has_next,
    "cost": _cost,
    "return_to_go": _return_to_go,
    "time_step": _time_step,
    "episode": _episode,
    "mask": _mask,
}
"""Columns an agent can ask for in ``needs``, each ``[M, width]``; beside them ``discounted_return``, which is
``return_to_go`` with the agent's discount, and ``discounted_cost``, the same of the cost."""


def columns_for(agent: Agent) -> dict[str, Callable[[Dataset], Tensor]]:
    """Every column that can be served to an agent, by name."""
    sums = {"discounted_return": _return_to_go, "discounted_cost": _cost_to_go}
    return {**EXTRAS, **{name: partial(column, discount=agent.discount) for name, column in sums.items()}}


OF_THE_VISIT = frozenset(
    {"return_to_go", "discounted_return", "discounted_cost", "time_step", "episode", "mask"}
)
"""Those that belong to the visit itself, however far a target looks ahead; the others to what follows."""


def _episode_length(dataset: Dataset, *, padded: bool) -> int:
    """Visits of the longest episode.

    Raises:
        UserError: the lengths differ, and shorter ones are not to be padded.
    """
    lengths = dataset.starts.diff()
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest != longest and not padded:
        raise UserError(
            f"this agent learns from whole episodes of one length; the data set's have {shortest} to "
            f"{longest} visits."
        )
    return longest


class Sampler:
    """Uniform minibatches for every seed: of transitions or, as the agent asks, whole episodes or windows.

    A window is ``agent.context`` consecutive visits of one episode from a uniformly drawn visit on, as in
    Chen et al. 2021 (arXiv 2106.01345): episodes count by their length, and a visit is seen with histories of
    every length, none included. Where the episode ends before the window does, rows of zeros come first, in
    every column; the extra column ``mask`` tells them from visits. Whole episodes shorter than the longest
    are padded after their last visit, for an agent that asks for ``mask``.

    ``sampler(step)`` is a function of the step alone, so a resumed or replayed run sees the same batches. The
    agent is shown the data set once (:meth:`~dosing.agent.Agent.prepare`).

    Args:
        dataset: transitions in agents' units; of one with replicates, seed k draws from the k-th.
        agent: says which seeds, which noise and which extra columns, and whether it learns from whole
            episodes; these are drawn with replacement and their rows stand together in time order.
        batch_size: B; with whole episodes it has no say, B is then ``agent.episodes`` times their length;
            with windows it is rounded down to whole ones, of which there is at least one.
        in_place: write every batch into the same memory, as a captured graph needs; a batch is then valid
            until the next one is drawn.
        lookahead: over how many visits rewards are summed. ``reward`` is then their discounted sum, as
            ``cost`` is that of the costs; ``next_obs`` and the extra columns, but for ``OF_THE_VISIT``, are
            those after the last; and ``terminated`` is 1 - gamma^(n - 1) (1 - d), so that a one-step target
            of the batch is the n-step target of the data.

    Raises:
        UserError: the batch size is not positive, the agent needs a column this sampler cannot serve, or it
            learns from whole episodes without ``mask`` and theirs is not one length, or it would have to look
            ahead or choose among rows in episodes or windows; there are replicates, but not one per seed, or
            the agent chooses among rows.
    """

    def __init__(
        self,
        dataset: Dataset,
        agent: Agent,
        batch_size: int,
        *,
        in_place: bool = False,
        lookahead: Lookahead = ONE_STEP,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch size must be at least 1, got {batch_size}.")
        columns = columns_for(agent)
        unknown = sorted(agent.columns - columns.keys())
        if unknown:
            raise UserError(f"the sampler cannot serve {unknown}; it has {sorted(columns)}.")
        prepare(agent, dataset)
        self.dataset = dataset = agent.view(dataset)
        self.seeds = agent.seeds
        self.windows = agent.context > 1
        self.length, self._episodes = agent.context, agent.episodes is not None
        if self._episodes:
            self.length = _episode_length(dataset, padded="mask" in agent.needs)
        blocks = max(batch_size // self.length, 1) if agent.episodes is None else agent.episodes
        self.batch_size = batch_size = blocks * self.length
        self._noise_plan = noise_plan(agent, batch_size)
        self._extras = sorted(agent.columns, key=lambda name: (name in OF_THE_VISIT, name))
        self._rows, self._widths = packed(dataset, [columns[name] for name in self._extras])
        self.lookahead = lookahead
        self._choose(agent, agent.rows(dataset))
        if self.windows or self._episodes:  # behind the last visit, the row that pads
            self._rows = torch.cat((self._rows, torch.zeros_like(self._rows[:1])))
        self._block = -1
        self._static: tuple[Tensor, dict[str, Tensor]] | None = None
        if in_place:
            shape = (len(self.seeds) * batch_size, self._rows.shape[1])
            noise = {
                name: self._rows.new_empty((len(self.seeds), *plan.shape))
                for name, plan in self._noise_plan.items()
            }
            self._static = (self._rows.new_empty(shape), noise)
        self._index = self._visits = torch.empty(0, dtype=torch.long)
        self._noise: Mapping[str, Tensor] = {}

    def _choose(self, agent: Agent, chosen: Tensor | None) -> None:
        """Which rows are drawn from, and what is needed to look ahead of them.

        Raises:
            UserError: what the agent asks for does not go together.
        """
        dataset, lookahead = self.dataset, self.lookahead
        whole = agent.episodes is not None or self.windows
        if chosen is not None and whole:
            raise UserError("an agent that learns from whole episodes or windows cannot choose among rows.")
        if dataset.replicates not in (1, len(self.seeds)) or (dataset.replicates > 1 and chosen is not None):
            raise UserError(
                f"{dataset.replicates} replicates need an agent of as many seeds that learns from all rows."
            )
        self._chosen = None
        self._count = (len(self._rows) if chosen is None else len(chosen)) // dataset.replicates
        if lookahead.n_step == 1:
            self._rows = self._rows if chosen is None else self._rows[chosen]
        elif whole:
            raise UserError("an agent that learns from whole episodes or windows takes one step at a time.")
        else:
            self._chosen = chosen  # rows are left where they are: those that follow must be found
            steps = torch.arange(lookahead.n_step, device=dataset.obs.device)
            self._steps, self._powers = steps, agent.discount ** steps.to(dataset.reward.dtype)
        if self.windows or lookahead.n_step > 1:
            ends = torch.repeat_interleave(dataset.starts[1:], dataset.starts.diff())
            self._remaining = ends - torch.arange(len(dataset), device=ends.device)

    def _refill(self, block: int) -> None:
        """Draw indices ``[BLOCK, S * B]`` and noise ``[BLOCK, S, ...]`` of one block of updates."""
        device, dtype = self._rows.device, self._rows.dtype
        shape = (BLOCK, self.batch_size // self.length)
        count = (len(self.dataset.starts) - 1) // self.dataset.replicates if self._episodes else self._count
        first = draw_indices(self.seeds, count, shape, block, device=device)
        if self.dataset.replicates > 1:
            own = torch.arange(len(self.seeds), device=device) * count
            first = first + own.unsqueeze(-1)  # [BLOCK, S, B]
        if self.windows:
            first = self._window(first)
        elif self._episodes:
            first = self._episode(first)
        self._index = first.view(BLOCK, -1)
        if self._chosen is not None:
            self._index = self._chosen[self._index]
        self._noise = noise_block(self.seeds, self._noise_plan, block, device=device, dtype=dtype)
        if self.lookahead.n_step > 1:
            uniform = None
            if self.lookahead.draws:
                uniform = draw(self.seeds, "uniform", shape, (block, VISITS), device=device, dtype=dtype)
                uniform = uniform.reshape(BLOCK, -1)
            self._visits = self.lookahead.visits(self._remaining[self._index], uniform)
        self._block = block

    def _window(self, first: Tensor) -> Tensor:
        """Rows ``[..., K]`` of the windows that start at ``first``; padding comes before the first visit."""
        missing = (self.length - self._remaining[first]).clamp(min=0).unsqueeze(-1)
        place = torch.arange(self.length, device=first.device) - missing
        return torch.where(place >= 0, first.unsqueeze(-1) + place, len(self.dataset))

    def _episode(self, number: Tensor) -> Tensor:
        """Rows ``[..., K]`` of whole episodes; padding comes after the last visit."""
        starts, ends = self.dataset.starts[number], self.dataset.starts[number + 1]
        rows = starts.unsqueeze(-1) + torch.arange(self.length, device=number.device)
        return torch.where(rows < ends.unsqueeze(-1), rows, len(self.dataset))

    def _look_ahead(self, rows: Tensor, index: Tensor, visits: Tensor) -> None:
        """Write into ``rows`` what the target sees: summed rewards, and what follows the last of them."""
        n_obs, n_act = self._widths[:2]
        own = n_obs + n_act
        rewards = self._rows[:, own + n_obs]
        live = self._steps < visits.unsqueeze(-1)  # [S * B, n_step]
        following = torch.where(live, index.unsqueeze(-1) + self._steps, index.unsqueeze(-1))
        last = self._rows.index_select(0, index + visits - 1)
        kept = sum(name in OF_THE_VISIT for name in self._extras)  # the last columns, of width 1 each
        rows[:, own : rows.shape[1] - kept] = last[:, own : rows.shape[1] - kept]
        rows[:, own + n_obs] = (rewards[following] * self._powers * live).sum(-1)
        if "cost" in self._extras:
            at = sum(self._widths[: 5 + self._extras.index("cost")])
            rows[:, at] = (self._rows[:, at][following] * self._powers * live).sum(-1)
        rows[:, own + n_obs + 1] = 1.0 - self._powers[visits - 1] * (1.0 - last[:, own + n_obs + 1])

    def __call__(self, step: int) -> Batch:
        """Batch of update number ``step``, counted from 0."""
        block, offset = divmod(step, BLOCK)
        if block != self._block:
            self._refill(block)
        noise = {name: values[offset] for name, values in self._noise.items()}
        if self._static is None:
            rows = self._rows.index_select(0, self._index[offset])
        else:
            rows, kept = self._static
            torch.index_select(self._rows, 0, self._index[offset], out=rows)
            for name, values in noise.items():
                kept[name].copy_(values)
            noise = kept
        if self.lookahead.n_step > 1:
            self._look_ahead(rows, self._index[offset], self._visits[offset])
        rows = rows.view(len(self.seeds), self.batch_size, -1)
        return unpacked(rows, self._widths, self._extras, noise, step, self.length)
