"""What is learned from while patients are treated: recorded visits and new ones, mixed in stated shares.

New visits stand in a ring as episodes side by side, because some of their columns
(``dosing.training.sampler``) are known only once an episode goes on or ends. What update ``step`` draws is a
pure function of (seed, step, rows kept), and the ring is saved and restored bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.rng import check_seeds, draw
from dosing.training.regularised import noise_plan
from dosing.training.rows import unpacked
from dosing.training.sampler import BLOCK, columns_for, noise_block

ROWS = 1 << 21
"""Number of the noise that draws rows, whatever an agent draws besides."""
KNOWN_LATER = ("next_act", "has_next", "return_to_go", "discounted_return")
"""Columns of a visit that are known at the next one, or once its episode has ended."""
OF_THE_EPISODE = frozenset({"return_to_go", "discounted_return"})
"""Those of them that wait for the end of the episode."""


class ReplayBuffer:
    """The last visits of S x P episodes side by side, with the columns that are known only later.

    All episodes make one visit at a time, and one that ends is followed by another at the same place. A row
    can be drawn once every column that was asked for is known for it and for all older rows of its seed: a
    return to go waits for the end of its episode, the next dose for the next visit.

    Args:
        seeds: the S seeds.
        capacity: most rows per seed, rounded down to whole visits of P rows; the oldest make room.
        n_obs: observation width O.
        n_act: action width A.
        num_envs: P, episodes side by side.
        needs: further columns, of ``dosing.training.sampler.columns_for``.
        discount: that of ``discounted_return``.
        device: where the rows live.
        dtype: their type.

    Raises:
        UserError: no room for one visit of every episode.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        capacity: int,
        n_obs: int,
        n_act: int,
        *,
        num_envs: int = 1,
        needs: Iterable[str] = (),
        discount: float = 1.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seeds, self.num_envs, self.visits = check_seeds(seeds), num_envs, capacity // max(num_envs, 1)
        if num_envs < 1 or self.visits < 1:
            raise UserError(
                f"a replay buffer of {num_envs} episode(s) needs room for a visit of each, got {capacity}."
            )
        self.needs, self.discount = sorted(needs), discount
        self.widths = [n_obs, n_act, n_obs, 1, 1, *(n_act if n == "next_act" else 1 for n in self.needs)]
        shape = (len(self.seeds), self.visits, num_envs, sum(self.widths))
        self._rows = torch.zeros(shape, device=device, dtype=dtype)
        self._begun = torch.zeros(shape[0], num_envs, dtype=torch.long, device=device)
        self.made = 0

    @property
    def rows(self) -> Tensor:
        """Every row of each seed ``[S, capacity, W]``: obs, act, next_obs, reward, terminated, ``needs``."""
        return self._rows.flatten(1, 2)

    @property
    def oldest(self) -> int:
        """Number of the oldest visit that is kept; visit t at place p is row t P + p, by the capacity."""
        return max(self.made - self.visits, 0)

    @property
    def count(self) -> Tensor:
        """Rows of each seed that can be drawn, the oldest first, ``[S]``."""
        if OF_THE_EPISODE & set(self.needs):
            known = self._begun.amin(1)
        elif set(KNOWN_LATER) & set(self.needs):
            known = self.made - (self._begun < self.made).any(1).long()
        else:
            known = torch.full_like(self._begun[:, 0], self.made)
        return (known - self.oldest).clamp(min=0) * self.num_envs

    def remember(
        self, obs: Tensor, act: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor, ended: Tensor
    ) -> None:
        """Keep one visit of every episode.

        Args:
            obs: ``[S, P, O]``.
            act: ``[S, P, A]`` in [-1, 1].
            reward: ``[S, P]``.
            next_obs: ``[S, P, O]``.
            terminated: ``[S, P]``, 1 where the episode ended for good; never the time limit.
            ended: ``[S, P]``, where the episode ended, for good or by time.
        """
        slot, ended = self.made % self.visits, ended.to(self._rows.device, torch.bool)
        now = self._rows[:, slot]
        now.zero_()
        columns = (obs, act, next_obs, reward.unsqueeze(-1), terminated.unsqueeze(-1))
        basic = torch.cat([column.to(self._rows) for column in columns], -1)
        now[..., : basic.shape[-1]] = basic
        if "mask" in self.needs:
            self._column("mask", now).fill_(1.0)
        if "time_step" in self.needs:
            self._column("time_step", now).copy_((self.made - self._begun).unsqueeze(-1))
        if self.made > 0 and self.visits > 1:
            before, goes_on = self._rows[:, slot - 1], (self._begun < self.made).unsqueeze(-1)
            if "has_next" in self.needs:
                self._column("has_next", before).copy_(goes_on)
            if "next_act" in self.needs:
                self._column("next_act", before).copy_(act.to(now) * goes_on)
        self.made += 1
        if bool(ended.any()):
            for name in OF_THE_EPISODE & set(self.needs):
                self._add_up(name, ended)
        self._begun = torch.where(ended, self.made, self._begun)

    def _column(self, name: str, rows: Tensor) -> Tensor:
        """One extra column of rows ``[..., W]``, a view."""
        at = 5 + self.needs.index(name)
        start = sum(self.widths[:at])
        return rows[..., start : start + self.widths[at]]

    def _add_up(self, name: str, ended: Tensor) -> None:
        """Write the returns of the episodes that have just ended, back from their last visit."""
        discount = self.discount if name == "discounted_return" else 1.0
        own = self.widths[0] + self.widths[1] + self.widths[2]
        total = torch.zeros(ended.shape, dtype=torch.float64, device=ended.device)
        first = int(self._begun[ended].min())
        for visit in range(self.made - 1, max(first, self.oldest) - 1, -1):
            rows, theirs = self._rows[:, visit % self.visits], ended & (self._begun <= visit)
            total = torch.where(theirs, rows[..., own].double() + discount * total, total)
            column = self._column(name, rows)
            column.copy_(torch.where(theirs.unsqueeze(-1), total.unsqueeze(-1).to(column), column))

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as named tensors."""
        kept = self._rows[:, : min(self.made, self.visits)]
        return {"replay.rows": kept, "replay.begun": self._begun, "replay.made": torch.tensor(self.made)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state` exactly.

        Raises:
            UserError: it is of another number of seeds or episodes, capacity or width.
        """
        try:
            rows, begun, made = state["replay.rows"], state["replay.begun"], int(state["replay.made"])
        except KeyError as error:
            raise UserError(f"the checkpoint holds no replay buffer: {error} is missing.") from error
        wanted = (len(self.seeds), min(made, self.visits), *self._rows.shape[2:])
        if tuple(rows.shape) != wanted or begun.shape != self._begun.shape:
            raise UserError(f"the checkpoint's replay buffer is {list(rows.shape)}, not {list(wanted)}.")
        self._rows[:, : rows.shape[1]] = rows.to(self._rows)
        self._begun, self.made = begun.to(self._begun), made


class ReplaySampler:
    """Batches of recorded visits and of those made since, and the noise that an agent's update uses.

    Args:
        agent: says which noise and which columns; it must learn from single transitions.
        dataset: the recorded visits in agents' units, None to learn from new ones alone.
        batch_size: B.
        share: share of recorded rows in every batch, rounded to whole rows, which come first; the others are
            new ones. None draws from all rows alike, recorded and new. A seed without new rows yet draws
            recorded ones in their place.
        capacity: most new rows per seed.
        num_envs: P, episodes side by side.

    Raises:
        UserError: the batch size is not positive, the share is out of range or of no recorded visits, or the
            agent learns from something other than single transitions.
    """

    def __init__(
        self,
        agent: Agent,
        dataset: Dataset | None,
        batch_size: int,
        share: float | None,
        *,
        capacity: int = 1_000_000,
        num_envs: int = 1,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch size must be at least 1, got {batch_size}.")
        if share is not None and not 0.0 <= share < 1.0:
            raise UserError(f"the share of recorded visits must be at least 0 and below 1, got {share}.")
        if dataset is None and share != 0.0:
            raise UserError("without recorded visits their share in a batch is 0.")
        check_single(agent, dataset)
        parameter = next(agent.parameters())
        self.seeds, self.batch_size, self.share = agent.seeds, batch_size, share
        self.buffer = ReplayBuffer(
            agent.seeds,
            capacity,
            agent.problem.n_obs,
            agent.problem.n_act,
            num_envs=num_envs,
            needs=agent.needs,
            discount=agent.discount,
            device=parameter.device,
            dtype=parameter.dtype,
        )
        self._recorded: Tensor | None = None
        if dataset is not None and share != 0.0:
            columns = columns_for(agent)
            extras = [columns[name](dataset) for name in self.buffer.needs]
            basic = [dataset.obs, dataset.act, dataset.next_obs, dataset.reward[:, None]]
            rows = torch.cat((*basic, dataset.terminated[:, None], *extras), 1)
            self._recorded = rows.to(self.buffer.rows)
        self._plan = noise_plan(agent, batch_size)
        self._block = -1
        self._uniform = torch.empty(0)
        self._noise: Mapping[str, Tensor] = {}

    def remember(self, *visit: Tensor) -> None:
        """Keep one visit of every episode; see :meth:`ReplayBuffer.remember`."""
        self.buffer.remember(*visit)

    @property
    def ready(self) -> bool:
        """Whether there are rows for every seed to draw."""
        return self._recorded is not None or bool((self.buffer.count > 0).all())

    def _refill(self, block: int) -> None:
        """Draw what the updates of one block use: uniform numbers ``[BLOCK, S, B]`` and noise."""
        device, dtype = self.buffer.rows.device, self.buffer.rows.dtype
        shape = (BLOCK, self.batch_size)
        self._uniform = draw(self.seeds, "uniform", shape, (block, ROWS), device=device, dtype=torch.float64)
        self._noise = noise_block(self.seeds, self._plan, block, device=device, dtype=dtype)
        self._block = block

    def __call__(self, step: int) -> Batch:
        """Batch of update number ``step``; a function of the step and of the rows kept.

        Raises:
            UserError: there is nothing to draw.
        """
        if not self.ready:
            raise UserError("there is nothing to learn from yet: no visit can be drawn.")
        block, offset = divmod(step, BLOCK)
        if block != self._block:
            self._refill(block)
        rows = self._drawn(self._uniform[offset])
        noise = {name: values[offset] for name, values in self._noise.items()}
        return unpacked(rows, self.buffer.widths, self.buffer.needs, noise, step)

    def _drawn(self, uniform: Tensor) -> Tensor:
        """Rows ``[S, B, W]`` for uniform numbers ``[S, B]``."""
        buffer, recorded = self.buffer, self._recorded
        count = buffer.count.unsqueeze(-1)  # [S, 1]
        if recorded is None:
            return self._new((uniform * count).long())
        held = len(recorded)
        if self.share is None:
            place = (uniform * (held + count)).long()  # [S, B]
        else:
            first = torch.arange(self.batch_size, device=uniform.device) < round(self.share * self.batch_size)
            old = first | (count == 0)  # [S, B]
            place = torch.where(old, uniform * held, held + uniform * count).long()
        index = place.clamp(max=held - 1)
        new = (place - held).clamp(min=0)
        return torch.where((place < held).unsqueeze(-1), recorded[index], self._new(new))

    def _new(self, number: Tensor) -> Tensor:
        """New rows ``[S, B, W]`` by their numbers ``[S, B]``, the oldest that is kept being 0."""
        rows = self.buffer.rows
        index = (self.buffer.oldest * self.buffer.num_envs + number) % rows.shape[1]
        seed = torch.arange(len(self.seeds), device=rows.device).unsqueeze(-1)
        return rows[seed, index]

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as named tensors."""
        return self.buffer.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state` exactly."""
        self.buffer.load(state)


def check_single(agent: Agent, dataset: Dataset | None = None) -> None:
    """Refuse an agent whose update takes more than single transitions drawn from all rows.

    Raises:
        UserError: as said, naming the agent's class.
    """
    name = type(agent).__name__
    unknown = sorted(agent.needs - columns_for(agent).keys())
    if unknown:
        raise UserError(f"{name} needs {unknown}, which a replay buffer cannot serve.")
    if agent.budget is not None:
        raise UserError(f"{name} was built with a cost budget; a trial does not replay costs.")
    if agent.episodes is not None or agent.looks_back:
        raise UserError(f"{name} learns from whole episodes; a trial replays single visits.")
    if dataset is not None and agent.rows(dataset) is not None:
        raise UserError(f"{name} chooses among recorded visits; a trial replays all of them.")
    if dataset is not None and dataset.replicates != 1:
        raise UserError("a trial starts from one data set for all seeds.")
