"""Entries of a state that only tell whether another one was measured, and what was not.

A state with gaps holds a number in the place of one that was not measured, and beside it a flag. Entry m is a
flag of entry j where, in the recorded visits, m takes two values, j is one and the same number at every visit
with the lower of them, and not at the others. What a flag denies becomes NaN, which response models pass
over. A flag itself has no level; it is replaced by the entry that it tells of, so that nothing else changes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NONE = -1e9
"""In the place of the middle of what is no flag: below every standardised number."""
LEAST = 10
"""Fewest visits without an entry from which a flag is told."""


class Flags(NamedTuple):
    """Of R data sets; ``of`` and ``instead`` are an entry's own number where there is nothing to tell.

    Attributes:
        of: ``[R, O]`` number of the flag of every entry.
        middle: ``[R, O]`` halfway between the two values of a flag, ``NONE`` of other entries.
        instead: ``[R, O]`` number of the entry that stands in the place of a flag.
    """

    of: Tensor
    middle: Tensor
    instead: Tensor

    @classmethod
    def none(cls, sets: int, n_obs: int, like: Tensor) -> Flags:
        """States without flags."""
        own = torch.arange(n_obs, device=like.device).repeat(sets, 1)
        return cls(own, like.new_full((sets, n_obs), NONE), own.clone())

    @classmethod
    def unknown(cls, sets: int, n_obs: int, like: Tensor) -> Flags:
        """Before any data was seen: no flag either, and no number that :func:`flags` gives."""
        nowhere = torch.full((sets, n_obs), -1, device=like.device)
        return cls(nowhere, like.new_full((sets, n_obs), 2.0 * NONE), nowhere.clone())

    @property
    def are(self) -> Tensor:
        """Which entries are flags, ``[R, O]``."""
        return self.middle > NONE

    def recorded(self, obs: Tensor) -> Tensor:
        """States ``[R, ..., O]`` with NaN for what was not measured, and no flags."""
        shape = (len(obs), *[1] * (obs.dim() - 2), obs.shape[-1])
        of, instead = (x.view(shape).expand_as(obs) for x in (self.of, self.instead))
        denied = obs.gather(-1, of) < self.middle.gather(1, self.of).view(shape)
        return torch.where(denied, torch.nan, obs).gather(-1, instead)


def flags(obs: Tensor) -> Flags:
    """The flags among the entries of recorded states ``[R, N, V, O]``; NaN where no visit was recorded."""
    n_obs = obs.shape[-1]
    found = Flags.none(len(obs), n_obs, obs)
    for r, rows in enumerate(obs.flatten(1, 2)):
        rows = rows[rows.isfinite().all(1)]
        tells = torch.zeros(n_obs, n_obs, dtype=torch.bool, device=obs.device)  # [flag, entry]
        for m in range(n_obs):
            values = rows[:, m].unique()
            if len(values) == 2:
                at_low = rows[:, m] == values[0]
                found.middle[r, m] = values.mean()
                tells[m] = _constant(rows[at_low]) & ~_constant(rows[~at_low]) & (int(at_low.sum()) >= LEAST)
        found.middle[r].masked_fill_(~tells.any(1), NONE)
        for rank, m in enumerate(tells.any(1).nonzero()[:, 0].tolist()):
            told = tells[m].nonzero()[:, 0]
            found.instead[r, m] = told[rank % len(told)]
        told_of = tells.any(0)
        found.of[r, told_of] = tells.int().argmax(0)[told_of]
    return found


def _constant(rows: Tensor) -> Tensor:
    """Which columns of ``[M, O]`` are one and the same number."""
    return (rows == rows[:1]).all(0)
