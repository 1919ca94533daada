"""A replay buffer per seed: a preallocated ring of transitions, sampled by counter-addressed streams.

Rows are packed as in ``dosing.training.sampler``, so a batch is one gather. What update ``step`` draws is a
pure function of (seed, step, rows in the buffer), and the buffer is saved and restored bit by bit: a resumed
run sees the batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.rng import check_seeds, draw
from dosing.training.regularised import noise_plan

BLOCK = 64
"""Updates whose numbers are drawn together; part of the definition of the random streams."""

ROWS = 1 << 21
"""Number of the noise that draws rows, whatever an agent draws besides."""


class ReplayBuffer:
    """The last ``capacity`` transitions of each of S seeds, in agents' units.

    Args:
        seeds: the S seeds; all of them grow by the same number of rows at a time.
        capacity: most rows per seed; the oldest make room.
        n_obs: observation width O.
        n_act: action width A.
        device: where the rows live.
        dtype: their type.

    Raises:
        UserError: no room for a row.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        capacity: int,
        n_obs: int,
        n_act: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity < 1:
            raise UserError(f"a replay buffer needs room for at least one row, got {capacity}.")
        self.seeds, self.capacity = check_seeds(seeds), capacity
        self._widths = [n_obs, n_act, n_obs, 1, 1]
        self._rows = torch.zeros(len(self.seeds), capacity, sum(self._widths), device=device, dtype=dtype)
        self.device, self.dtype = self._rows.device, self._rows.dtype
        self.added = 0

    def __len__(self) -> int:
        """Rows of each seed that can be drawn."""
        return min(self.added, self.capacity)

    def add(self, obs: Tensor, act: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor) -> None:
        """Append N rows per seed, as that many calls with one row each would.

        Args:
            obs: ``[S, N, O]``.
            act: ``[S, N, A]`` in [-1, 1].
            reward: ``[S, N]``.
            next_obs: ``[S, N, O]``.
            terminated: ``[S, N]``, 1 where the episode ended for good; never the time limit.
        """
        columns = (obs, act, next_obs, reward.unsqueeze(-1), terminated.unsqueeze(-1))
        rows = torch.cat([column.to(self._rows) for column in columns], dim=-1)
        count = rows.shape[1]
        kept = rows[:, -self.capacity :]
        first = self.added + count - kept.shape[1]
        index = torch.arange(first, first + kept.shape[1], device=rows.device) % self.capacity
        self._rows[:, index] = kept
        self.added += count

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Rows ``index [S, B]`` of each seed: obs, act, reward, next_obs, terminated, ``[S, B, ...]``."""
        seed = torch.arange(len(self.seeds), device=index.device).unsqueeze(-1)
        obs, act, next_obs, reward, terminated = self._rows[seed, index].split(self._widths, dim=-1)
        return obs, act, reward.squeeze(-1), next_obs, terminated.squeeze(-1)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as named tensors."""
        return {"replay.rows": self._rows[:, : len(self)], "replay.added": torch.tensor(self.added)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state` exactly.

        Raises:
            UserError: it is of another number of seeds, capacity or width.
        """
        try:
            rows, added = state["replay.rows"], int(state["replay.added"])
        except KeyError as error:
            raise UserError(f"the checkpoint holds no replay buffer: {error} is missing.") from error
        wanted = (len(self.seeds), min(added, self.capacity), self._rows.shape[2])
        if tuple(rows.shape) != wanted:
            raise UserError(f"the checkpoint's replay buffer is {list(rows.shape)}, not {list(wanted)}.")
        self._rows[:, : rows.shape[1]] = rows.to(self._rows)
        self.added = added


class ReplaySampler:
    """Uniform minibatches of a buffer, with replacement, and the noise that an agent's update uses.

    Args:
        buffer: what to draw from; it may grow between batches.
        agent: says which noise; it must learn from single transitions.
        batch_size: B.

    Raises:
        UserError: the batch size is not positive, the seeds are not the agent's, or the agent learns from
            something other than single transitions.
    """

    def __init__(self, buffer: ReplayBuffer, agent: Agent, batch_size: int) -> None:
        if batch_size < 1:
            raise UserError(f"batch size must be at least 1, got {batch_size}.")
        if agent.seeds != buffer.seeds:
            raise UserError(f"the buffer is of the seeds {list(buffer.seeds)}, not {list(agent.seeds)}.")
        if agent.needs or agent.episodes is not None or agent.context > 1:
            raise UserError("this agent learns from recorded episodes, online learning from single visits.")
        self.buffer, self.batch_size = buffer, batch_size
        self._plan = noise_plan(agent, batch_size)
        self._block = -1
        self._uniform = torch.empty(0)
        self._noise: Mapping[str, Tensor] = {}

    def _refill(self, block: int) -> None:
        """Draw what the updates of one block use: uniform numbers ``[BLOCK, S, B]`` and noise."""
        seeds, device, dtype = self.buffer.seeds, self.buffer.device, self.buffer.dtype
        shape = (BLOCK, self.batch_size)
        self._uniform = draw(seeds, "uniform", shape, (block, ROWS), device=device, dtype=torch.float64)
        self._noise = {
            name: draw(seeds, distribution, (BLOCK, *rest), (block, number), device=device, dtype=dtype)
            for number, (name, (distribution, rest)) in enumerate(self._plan.items())
        }
        self._block = block

    def __call__(self, step: int) -> Batch:
        """Batch of update number ``step``, counted from 0.

        Raises:
            UserError: the buffer is empty.
        """
        if not len(self.buffer):
            raise UserError("the replay buffer is empty: collect at least one transition before an update.")
        block, offset = divmod(step, BLOCK)
        if block != self._block:
            self._refill(block)
        index = (self._uniform[offset] * len(self.buffer)).long()  # [S, B]; below len, since u < 1
        obs, act, reward, next_obs, terminated = self.buffer.gather(index)
        noise = {name: values[offset] for name, values in self._noise.items()}
        return Batch(obs, act, reward, next_obs, terminated, noise=noise, step=step)
