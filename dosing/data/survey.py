"""One pass over a data set in parts: every hash checked, moments, and a sample that fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dosing.data.dataset import Moments, check_doses, check_visits, dose_limits, episode_returns
from dosing.data.manifest import changed
from dosing.data.row_groups import RowGroups
from dosing.data.store import ContentHash, Episodes, concatenate
from dosing.errors import UserError
from dosing.types import Array

SAMPLE_VISITS = 250_000
"""Visits of the sample, about: whole patients, evenly spaced over the data set."""


@dataclass(frozen=True)
class Extreme:
    """A visit with the worst or the best reward."""

    reward: float
    visit: int
    """From 1, in the order of the data set."""
    dose: tuple[float, ...]


@dataclass(frozen=True)
class Survey:
    """What a pass over all visits of a data set in parts found."""

    content_hash: str
    """Of the data set."""
    visits: int
    patients: int
    moments: Moments
    worst: Extreme
    best: Extreme
    sample: str
    """Content hash of the sample."""
    sample_visits: int
    sample_patients: int


class Running:
    """Mean and standard deviation of rows that come in pieces, in float64.

    Chan, Golub, LeVeque 1983, The American Statistician 37:242: each piece has its own mean and sum of
    squared deviations, and two of these are joined without cancellation.
    """

    def __init__(self) -> None:
        """Start with no rows."""
        self.count = 0
        self.mean: Array = np.zeros(())
        self._squares: Array = np.zeros(())

    def add(self, values: NDArray[Any]) -> None:
        """Take in the rows ``[M]`` or ``[M, K]`` of one piece."""
        n, total = len(values), self.count + len(values)
        mean = values.mean(0, dtype=np.float64)
        squares = np.square(values - mean, dtype=np.float64).sum(0)
        apart = mean - self.mean
        self._squares = self._squares + squares + apart**2 * (self.count * n / total)
        self.mean = self.mean + apart * (n / total)
        self.count = total

    @property
    def std(self) -> Array:
        """Standard deviation, divisor M."""
        return np.asarray(np.sqrt(self._squares / self.count))


def survey(
    groups: RowGroups, *, sample_visits: int = SAMPLE_VISITS, progress: tqdm[Any] | None = None
) -> tuple[Survey, Episodes]:
    """Pass once over all visits in constant memory.

    Args:
        groups: the data set.
        sample_visits: most visits of the sample, but for one patient there always is.
        progress: a bar to advance by visits, or None.

    Returns:
        What was found, and the sample.

    Raises:
        UserError: a part is not what the manifest states, no limits are known, a number is not finite, a dose
            lies outside the limits, or a patient's visits are torn apart; the part is named.
    """
    meta = groups.manifest.metadata
    patients = sum(part.patients for part in groups.manifest.parts)
    count = min(max(sample_visits * patients // meta.rows, 1), patients)
    chosen = (2 * np.arange(count) + 1) * patients // (2 * count)
    obs, reward = Running(), Running()
    kept: list[Episodes] = []
    low, high = np.inf, -np.inf
    worst: Extreme | None = None
    best: Extreme | None = None
    rows = seen = 0
    for episodes in _checked(groups):
        obs.add(episodes.obs)
        reward.add(episodes.reward)
        starts, returns = episode_returns(episodes)
        low, high = min(low, float(returns.min())), max(high, float(returns.max()))
        worst = _extreme(worst, episodes, int(episodes.reward.argmin()), rows, -1)
        best = _extreme(best, episodes, int(episodes.reward.argmax()), rows, 1)
        own = np.isin(np.arange(seen, seen + len(starts)), chosen)
        kept.append(_rows(episodes, np.repeat(own, np.diff(np.append(starts, len(episodes))))))
        rows, seen = rows + len(episodes), seen + len(starts)
        if progress is not None:
            progress.update(len(episodes))
    assert worst is not None  # a manifest has rows
    assert best is not None
    sample = concatenate(kept, replace(meta, patients=count))
    means, spreads = np.atleast_1d(obs.mean), np.atleast_1d(obs.std)
    moments = Moments(tuple(map(float, means)), tuple(map(float, spreads)), float(reward.std), high - low)
    hash_ = sample.metadata.content_hash
    found = Survey(meta.content_hash, rows, seen, moments, worst, best, hash_, len(sample), count)
    return found, sample


def _checked(groups: RowGroups) -> Iterator[Episodes]:
    """Every group in order, each part compared with its content hash and every number checked.

    Raises:
        UserError: as of :func:`survey`.
    """
    last, digest = -1, ContentHash()
    limits = None
    for number in range(len(groups)):
        episodes = groups.read(number)
        part = groups.manifest.parts[int(groups.part[number])]
        file = groups.folder / part.name
        limits = limits or dose_limits(episodes)
        try:
            check_visits(episodes)
            check_doses(episodes, limits)
        except UserError as error:
            raise UserError(f"{file}, row group {number}: {error}") from error
        if episodes.episode[0] == last:
            raise UserError(f"{file}: the visits of patient {last} lie in two row groups.")
        last = int(episodes.episode[-1])
        digest.update(episodes.arrays())
        if number + 1 == len(groups) or groups.part[number + 1] != groups.part[number]:
            if digest.hexdigest() != part.content_hash:
                raise changed(file)
            digest = ContentHash()
        yield episodes


def _extreme(held: Extreme | None, episodes: Episodes, row: int, before: int, sign: int) -> Extreme:
    """The more extreme of the one so far and a row of a group that ``before`` rows precede."""
    reward = float(episodes.reward[row])
    if held is not None and sign * reward <= sign * held.reward:
        return held
    return Extreme(reward, before + row + 1, tuple(episodes.act[row].tolist()))


def _rows(episodes: Episodes, chosen: NDArray[np.bool_]) -> Episodes:
    """Some rows."""
    kept: dict[str, Any] = {name: array[chosen] for name, array in episodes.arrays().items()}
    return Episodes(**kept)
