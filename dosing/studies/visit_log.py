"""Visits that were made one after the other while somebody acted, as recorded episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from dosing.data.store import Episodes
from dosing.training.online import OnlineStep


class VisitLog:
    """The visits of one seed, in order of time: at most ``count`` of them."""

    def __init__(self, count: int, n_obs: int, n_act: int) -> None:
        self.rows: dict[str, np.ndarray[Any, Any]] = {
            "obs": np.empty((count, n_obs), dtype=np.float32),
            "dose": np.empty((count, n_act), dtype=np.float32),
            "reward": np.empty(count),
            "next_obs": np.empty((count, n_obs), dtype=np.float32),
            "terminated": np.empty(count, dtype=np.bool_),
            "truncated": np.empty(count, dtype=np.bool_),
        }
        self._count = 0

    def add(self, made: OnlineStep) -> None:
        """Keep a visit: the first row of what was made."""
        for name, column in self.rows.items():
            column[self._count] = getattr(made, name)[0]
        self._count += 1

    def returns(self) -> list[float]:
        """Returns of the episodes that were not cut by the end of recording."""
        ends = np.flatnonzero(self.rows["terminated"] | self.rows["truncated"])
        bounds = zip(np.r_[0, ends[:-1] + 1], ends + 1, strict=True) if len(ends) else ()
        return [float(self.rows["reward"][low:high].sum()) for low, high in bounds]

    def episodes(self, first: int, falls: bool = True) -> Episodes:
        """The visits as episodes; the last is truncated where recording ended.

        Args:
            first: number of the first episode.
            falls: a termination is a fall, which costs 1; else it is success, and nothing costs.
        """
        terminated, act = self.rows["terminated"], self.rows["dose"]
        ends = terminated | self.rows["truncated"]
        ends[-1] = True
        starts = np.r_[True, ends[:-1]]
        episode = np.cumsum(starts) - 1
        m = len(ends)
        return Episodes(
            obs=self.rows["obs"],
            act=act,
            act_requested=act,
            limited_by=np.zeros(m, dtype=np.int8),
            reward=self.rows["reward"].astype(np.float32),
            next_obs=self.rows["next_obs"],
            terminated=terminated,
            truncated=ends & ~terminated,
            cost=(terminated & falls).astype(np.float32),
            behaviour_log_prob=np.full(m, np.nan, dtype=np.float32),  # clipped noise has no density
            episode=(first + episode).astype(np.int64),
            step=(np.arange(m) - np.flatnonzero(starts)[episode]).astype(np.int32),
        )
