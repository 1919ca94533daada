"""Batches for S seeds: indices and noise drawn per seed, many updates at once, addressed by update number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dosing.agent import Agent, Batch
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.streams import draw, draw_indices

BLOCK = 64
"""Updates whose indices and noise are drawn together; part of the definition of the random streams."""


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


EXTRAS: Mapping[str, Callable[[Dataset], Tensor]] = {"next_act": _next_act, "has_next": _has_next}
"""Columns an agent can ask for in ``needs``, each ``[M, width]``."""


def _episode_length(dataset: Dataset) -> int:
    """Visits per episode, the same in every episode.

    Raises:
        UserError: the lengths differ.
    """
    lengths = dataset.starts.diff()
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest != longest:
        raise UserError(
            f"this agent learns from whole episodes of one length; the data set's have {shortest} to "
            f"{longest} visits."
        )
    return longest


class Sampler:
    """Uniform minibatches for every seed of an agent: of transitions or, if it asks for them, whole episodes.

    ``sampler(step)`` is a function of the step alone, so a resumed or replayed run sees the same batches. The
    agent is shown the data set once (:meth:`~dosing.agent.Agent.prepare`).

    Args:
        dataset: transitions in agents' units.
        agent: says which seeds, which noise and which extra columns, and whether it learns from whole
            episodes; these are drawn with replacement and their rows stand together in time order.
        batch_size: B; with whole episodes it has no say, B is then ``agent.episodes`` times their length.
        in_place: write every batch into the same memory, as a captured graph needs; a batch is then valid
            until the next one is drawn.

    Raises:
        UserError: the batch size is not positive, the agent needs a column this sampler cannot serve, or it
            learns from whole episodes and theirs is not one length.
    """

    def __init__(self, dataset: Dataset, agent: Agent, batch_size: int, *, in_place: bool = False) -> None:
        if batch_size < 1:
            raise UserError(f"batch size must be at least 1, got {batch_size}.")
        unknown = sorted(agent.needs - EXTRAS.keys())
        if unknown:
            raise UserError(f"the sampler cannot serve {unknown}; it has {sorted(EXTRAS)}.")
        agent.prepare(dataset)
        self.dataset = dataset
        self.seeds = agent.seeds
        self.length = 1 if agent.episodes is None else _episode_length(dataset)
        self.batch_size = batch_size = batch_size if agent.episodes is None else agent.episodes * self.length
        self._noise_plan = agent.noise(batch_size)
        n_obs, n_act = dataset.obs.shape[1], dataset.act.shape[1]
        self._extras = sorted(agent.needs)
        extras = [EXTRAS[name](dataset) for name in self._extras]
        self._widths = [n_obs, n_act, n_obs, 1, 1, *(column.shape[1] for column in extras)]
        # One row per transition, so that a batch is one gather instead of five.
        self._rows = torch.cat(
            (
                dataset.obs,
                dataset.act,
                dataset.next_obs,
                dataset.reward[:, None],
                dataset.terminated[:, None],
                *extras,
            ),
            dim=1,
        )
        chosen = agent.rows(dataset)
        if chosen is not None and agent.episodes is not None:
            raise UserError("an agent that learns from whole episodes cannot choose among their rows.")
        if chosen is not None:
            self._rows = self._rows[chosen]
        self._block = -1
        self._static: tuple[Tensor, dict[str, Tensor]] | None = None
        if in_place:
            shape = (len(self.seeds) * batch_size, self._rows.shape[1])
            noise = {
                name: self._rows.new_empty((len(self.seeds), *plan.shape))
                for name, plan in self._noise_plan.items()
            }
            self._static = (self._rows.new_empty(shape), noise)
        self._index = torch.empty(0)
        self._noise: Mapping[str, Tensor] = {}

    def _refill(self, block: int) -> None:
        """Draw indices ``[BLOCK, S * B]`` and noise ``[BLOCK, S, ...]`` of one block of updates."""
        device, dtype = self._rows.device, self._rows.dtype
        shape = (BLOCK, self.batch_size // self.length)
        first = draw_indices(self.seeds, len(self._rows) // self.length, shape, block, device=device)
        within = torch.arange(self.length, device=device)
        self._index = (first.unsqueeze(-1) * self.length + within).view(BLOCK, -1)
        self._noise = {
            name: draw(self.seeds, law, (BLOCK, *rest), (block, number), device=device, dtype=dtype)
            for number, (name, (law, rest)) in enumerate(self._noise_plan.items())
        }
        self._block = block

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
        columns = rows.view(len(self.seeds), self.batch_size, -1).split(self._widths, dim=-1)
        obs, act, next_obs, reward, terminated, *extras = columns
        return Batch(
            obs=obs,
            act=act,
            reward=reward.squeeze(-1),
            next_obs=next_obs,
            terminated=terminated.squeeze(-1),
            noise=noise,
            extra=dict(zip(self._extras, extras, strict=True)),
            step=step,
            length=self.length,
        )
