"""Training on more visits than memory holds: batches drawn from a buffer of row groups that moves on.

The row groups of a data set in parts stand in a shuffled order, anew in every pass. The buffer holds G of
them that follow each other in that order, and batches are drawn uniformly with replacement from all rows in
it. As many rows enter as a batch draws, and the oldest leave: in one pass every visit is drawn once on
average, as often as by uniform draws from memory. Two rows of a batch come from the same group with
probability 1 / G.

Order and buffer are functions of the update number alone, and the same for every seed; rows are drawn by each
seed's own stream (``dosing.rng``). So a run that is resumed, or replayed, or has another seed beside it, sees
the same batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.data.row_groups import RowGroups
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.rng import draw_indices, generator
from dosing.training.regularised import noise_plan, prepare
from dosing.training.rows import packed, unpacked
from dosing.training.sampler import (
    BLOCK,
    OF_THE_VISIT,
    ONE_STEP,
    Lookahead,
    Sampler,
    columns_for,
    noise_block,
)

BUFFER_VISITS = 1 << 21
"""Visits that batches are drawn from at a time, about."""


class Batches(Protocol):
    """Batches by update number, the same whenever they are asked for."""

    def __call__(self, step: int) -> Batch:
        """Batch of update number ``step``, counted from 0."""


@dataclass(frozen=True)
class Stream:
    """Visits in agents' units that are read while they are learned from.

    Attributes:
        groups: where they are recorded.
        sample: some of them in memory, on the device of the training: what an agent takes from the data
            before its first update it takes from these, and one that cannot learn from a stream learns from
            them alone.
        buffer_visits: visits that batches are drawn from at a time, about.
    """

    groups: RowGroups
    sample: Dataset
    buffer_visits: int = BUFFER_VISITS

    @property
    def transform(self) -> Transform:
        """The map to agents' units."""
        return self.sample.transform


def not_streamed(agent: Agent, lookahead: Lookahead = ONE_STEP) -> str | None:
    """Why an agent learns from a sample alone; None for one that learns from transitions drawn one by one.

    Args:
        agent: the stack.
        lookahead: over how many visits rewards are summed.
    """
    if agent.episodes is not None:
        return "it learns from whole episodes"
    if agent.looks_back:
        return "it learns from several visits at a time"
    if lookahead.n_step > 1:
        return "its targets look several visits ahead"
    if "episode" in agent.columns:
        return "it tells patients apart"
    if type(agent).view is not Agent.view:
        return "it learns from what it makes of the visits of a patient"
    if type(agent).rows is not Agent.rows:
        return "it chooses among all visits"
    return None


def batches(
    data: Dataset | Stream,
    agent: Agent,
    batch_size: int,
    *,
    in_place: bool = False,
    lookahead: Lookahead = ONE_STEP,
) -> Batches:
    """What an agent learns from: all visits in memory, a stream of them or, where it cannot, their sample.

    Args:
        data: visits in agents' units.
        agent: the stack, which is shown the data once.
        batch_size: B.
        in_place: write every batch into the same memory.
        lookahead: over how many visits rewards are summed.

    Raises:
        UserError: as of :class:`dosing.training.sampler.Sampler` and :class:`StreamSampler`.
    """
    if isinstance(data, Stream):
        if not_streamed(agent, lookahead) is None:
            return StreamSampler(data, agent, batch_size, in_place=in_place)
        data = data.sample
    return Sampler(data, agent, batch_size, in_place=in_place, lookahead=lookahead)


class StreamSampler:
    """Minibatches of transitions for every seed from a :class:`Stream`; see the module.

    ``sampler(step)`` is a function of the step alone: at another block of updates the buffer is filled with
    the groups that belong there.

    Args:
        stream: the visits.
        agent: says which seeds, noise and extra columns; it is shown the sample once.
        batch_size: B.
        in_place: write every batch into the same memory, as a captured graph needs; a batch is then valid
            until the next one is drawn.

    Raises:
        UserError: the batch size is not positive, or the agent needs a column that cannot be served.
    """

    def __init__(self, stream: Stream, agent: Agent, batch_size: int, *, in_place: bool = False) -> None:
        if batch_size < 1:
            raise UserError(f"batch size must be at least 1, got {batch_size}.")
        columns = columns_for(agent)
        if unknown := sorted(agent.columns - columns.keys()):
            raise UserError(f"the sampler cannot serve {unknown}; it has {sorted(columns)}.")
        prepare(agent, stream.sample)
        self.seeds, self.batch_size = agent.seeds, batch_size
        self._groups, self._transform = stream.groups, stream.transform
        self._extras = sorted(agent.columns, key=lambda name: (name in OF_THE_VISIT, name))
        self._columns = [columns[name] for name in self._extras]
        self._noise_plan = noise_plan(agent, batch_size)
        rows = stream.groups.rows
        self.count = min(len(rows), max(round(stream.buffer_visits / rows.mean()), 1))
        self._mean_rows, self._slot = float(rows.mean()), int(rows.max())
        like = stream.sample.obs
        first, self._widths = self._read(int(self.order(0)[0]), like.dtype)
        self._buffer = like.new_empty(self.count * self._slot, first.shape[1])
        self._held = [-1] * self.count
        self._counts = [0] * self.count
        self._reader, self._coming = ThreadPoolExecutor(1), dict[int, Future[tuple[Tensor, list[int]]]]()
        self._block, self._index = -1, torch.empty(0, dtype=torch.long)
        self._noise: Mapping[str, Tensor] = {}
        self._static: tuple[Tensor, dict[str, Tensor]] | None = None
        if in_place:
            noise = {
                name: like.new_empty((len(self.seeds), *plan.shape))
                for name, plan in self._noise_plan.items()
            }
            self._static = (like.new_empty(len(self.seeds) * batch_size, first.shape[1]), noise)

    @lru_cache(maxsize=3)  # noqa: B019 - a run has one sampler
    def order(self, number: int) -> Sequence[int]:
        """Groups in the order of pass ``number``, counted from 0."""
        shuffled: list[int] = generator(0, "order", number).permutation(len(self._groups)).tolist()
        return shuffled

    def held(self, block: int) -> range:
        """Places in the order of all passes that the buffer holds in a block of updates."""
        if self.count == len(self._groups):
            return range(self.count)
        first = int(block * BLOCK * self.batch_size / self._mean_rows)
        return range(first, first + self.count)

    def group(self, place: int) -> int:
        """Which group stands at a place in the order of all passes."""
        number, within = divmod(place, len(self._groups))
        return self.order(number)[within]

    def _read(self, group: int, dtype: torch.dtype) -> tuple[Tensor, list[int]]:
        """The rows of one group in agents' units, in the memory of the processor."""
        episodes = self._groups.read(group)
        rows, widths = packed(Dataset.from_episodes(episodes, self._transform, dtype=dtype), self._columns)
        return rows, widths

    def _fill(self, block: int) -> None:
        """Bring the groups of a block into the buffer, and have those of the next one read meanwhile."""
        places = self.held(block)
        on_gpu = self._buffer.device.type == "cuda"
        for place in places:
            slot = place % self.count
            if self._held[slot] != place:
                coming = self._coming.pop(place, None)
                rows, _ = coming.result() if coming else self._read(self.group(place), self._buffer.dtype)
                rows = rows.pin_memory() if on_gpu else rows
                start = slot * self._slot
                self._buffer[start : start + len(rows)].copy_(rows, non_blocking=on_gpu)
                self._held[slot], self._counts[slot] = place, len(rows)
        self._coming = {
            place: self._reader.submit(self._read, self.group(place), self._buffer.dtype)
            for place in self.held(block + 1)
            if place not in places
        }

    def _refill(self, block: int) -> None:
        """Draw rows ``[BLOCK, S * B]`` of the buffer and noise ``[BLOCK, S, ...]`` of a block of updates."""
        self._fill(block)
        device, dtype = self._buffer.device, self._buffer.dtype
        ends = torch.tensor(self._counts, device=device).cumsum(0)
        shape = (BLOCK, self.batch_size)
        index = draw_indices(self.seeds, sum(self._counts), shape, block, device=device).view(BLOCK, -1)
        slot = torch.searchsorted(ends, index, right=True)
        begins = torch.arange(self.count, device=device) * self._slot - ends.roll(1).index_fill_(
            0, ends.new_zeros(1), 0
        )
        self._index = index + begins[slot]
        self._noise = noise_block(self.seeds, self._noise_plan, block, device=device, dtype=dtype)
        self._block = block

    def __call__(self, step: int) -> Batch:
        """Batch of update number ``step``, counted from 0."""
        block, offset = divmod(step, BLOCK)
        if block != self._block:
            self._refill(block)
        noise = {name: values[offset] for name, values in self._noise.items()}
        if self._static is None:
            rows = self._buffer.index_select(0, self._index[offset])
        else:
            rows, kept = self._static
            torch.index_select(self._buffer, 0, self._index[offset], out=rows)
            for name, values in noise.items():
                kept[name].copy_(values)
            noise = kept
        rows = rows.view(len(self.seeds), self.batch_size, -1)
        return unpacked(rows, self._widths, self._extras, noise, step)
