"""The visits before a state, in the world's units: what a policy that looks back is told. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dosing.errors import UserError
from dosing.types import AnyArray, Array


class Past(NamedTuple):
    """The visits before each of B states that have equally many.

    Attributes:
        obs: ``[B, T, O]`` observed at the T visits before the one at hand.
        dose: ``[B, T, A]`` delivered then.
        reward: ``[B, T]`` received for them, NaN where it was not recorded.
    """

    obs: Array
    dose: Array
    reward: Array


@dataclass(frozen=True)
class EarlierVisits:
    """The visits before each of M states; those of one state stand together, in order, among N visits.

    States of one patient share the visits, so that a table of whole episodes holds each visit once.

    Attributes:
        obs: ``[N, O]``.
        dose: ``[N, A]`` delivered; NaN where there is none yet.
        reward: ``[N]``, NaN where it was not recorded.
        first: ``[M]`` where the visits before a state begin.
        count: ``[M]`` how many there are; 0 at a first visit.
    """

    obs: Array
    dose: Array
    reward: Array
    first: NDArray[np.int64]
    count: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse columns of different lengths, and visits that are not there."""
        visits = len(self.obs)
        sound = len(self.dose) == len(self.reward) == visits and self.first.shape == self.count.shape
        if not sound or (self.first < 0).any() or (self.count < 0).any() or (self._end > visits).any():
            raise UserError("the earlier visits of a state must lie within the table of visits.")

    @property
    def _end(self) -> NDArray[np.int64]:
        return self.first + self.count

    @classmethod
    def none(cls, states: int, n_obs: int, n_act: int) -> EarlierVisits:
        """Of states that are first visits."""
        zero = np.zeros(states, dtype=np.int64)
        return cls(np.empty((0, n_obs)), np.empty((0, n_act)), np.empty(0), zero, zero)

    @classmethod
    def of_episodes(
        cls, obs: AnyArray, dose: AnyArray, reward: AnyArray, starts: NDArray[np.int64]
    ) -> EarlierVisits:
        """Of every visit of whole episodes, which stand one after the other.

        Args:
            obs: ``[N, O]``.
            dose: ``[N, A]``.
            reward: ``[N]``.
            starts: row of each episode's first visit, ascending, the first 0.
        """
        row = np.arange(len(obs))
        first = starts[np.searchsorted(starts, row, side="right") - 1]
        seen, given, paid = (np.asarray(column, dtype=np.float64) for column in (obs, dose, reward))
        return cls(seen, given, paid, first, row - first)

    def __len__(self) -> int:
        """Number of states M."""
        return len(self.first)

    def __getitem__(self, states: AnyArray | slice) -> EarlierVisits:
        """Those of some of the states."""
        return replace(self, first=self.first[states], count=self.count[states])

    def past(self) -> Past:
        """The visits as one block, of states that have equally many.

        Raises:
            UserError: they do not.
        """
        if len(self) and (self.count != self.count[0]).any():
            raise UserError("these states have different numbers of earlier visits.")
        rows = self.first[:, None] + np.arange(int(self.count[0]) if len(self) else 0)  # [B, T]
        return Past(self.obs[rows], self.dose[rows], self.reward[rows])

    def alike(self, states: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The states in groups that have equally many earlier visits."""
        order = np.argsort(self.count[states], kind="stable")
        cuts = np.flatnonzero(np.diff(self.count[states][order])) + 1
        return iter(np.split(states[order], cuts))

    def any_before(self, bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether any visit before each state ``[M]`` is one of the bad ones ``[N]``."""
        so_far = np.concatenate([[0], np.cumsum(bad)])
        before: NDArray[np.bool_] = so_far[self._end] > so_far[self.first]
        return before

    def last_dose(self, otherwise: Array) -> Array:
        """The dose delivered last ``[M, A]``; at a first visit what stands in ``otherwise``."""
        later = self.count > 0
        result = otherwise.copy()
        result[later] = self.dose[self._end[later] - 1]
        return result
