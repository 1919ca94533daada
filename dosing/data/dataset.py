"""A data set as agents see it: standardised observations, doses mapped to [-1, 1], scaled rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.safety import DoseLimits
from dosing.types import Array

RewardScale = bool | float | Literal["return_range"]
"""What rewards are divided by; see :meth:`Transform.fit`."""


@dataclass(frozen=True)
class Moments:
    """What a transform takes of the recorded visits."""

    obs_mean: tuple[float, ...]
    """``[O]``"""
    obs_std: tuple[float, ...]
    """``[O]``, divisor M."""
    reward_std: float
    return_range: float
    """Largest less smallest undiscounted return of an episode."""

    @classmethod
    def of(cls, episodes: Episodes) -> Moments:
        """Of visits in memory."""
        _, returns = episode_returns(episodes)
        return cls(
            tuple(episodes.obs.mean(0, dtype=np.float64).tolist()),
            tuple(episodes.obs.std(0, dtype=np.float64).tolist()),
            float(episodes.reward.std(dtype=np.float64)),
            float(returns.max() - returns.min()),
        )


@dataclass(frozen=True)
class Transform:
    """The one map between the world's units and the agents' units, kept with every run.

    Attributes:
        obs_mean: ``[O]``, subtracted from an observation.
        obs_scale: ``[O]``, an observation is divided by it (standard deviation + 1e-3).
        act_low: ``[A]`` hard lower dose limits, mapped to -1.
        act_high: ``[A]`` hard upper dose limits, mapped to +1.
        reward_scale: agents see reward plus ``reward_shift``, divided by it.
        reward_shift: 0 but in mazes, where -1 makes every visit before success cost one.
    """

    obs_mean: tuple[float, ...]
    obs_scale: tuple[float, ...]
    act_low: tuple[float, ...]
    act_high: tuple[float, ...]
    reward_scale: float = 1.0
    reward_shift: float = 0.0

    @classmethod
    def fit(
        cls,
        episodes: Episodes,
        *,
        standardise_obs: bool = True,
        scale_reward: RewardScale = True,
        shift_reward: float = 0.0,
    ) -> Transform:
        """Fit to the recorded visits; the dose limits come from the data's own card.

        Args:
            episodes: the visits.
            standardise_obs: bring observations to mean 0 and standard deviation 1.
            scale_reward: divide rewards by their standard deviation; or, with ``return_range``, by a
                thousandth of the range of the episodes' undiscounted returns, as IQL does on locomotion
                (Kostrikov, Nair, Levine 2022, arXiv 2110.06169, appendix); or by a number.
            shift_reward: is added to every reward first, such as the -1 of sparse rewards there.

        Raises:
            UserError: there are no visits, a number is not finite, the card names no hard limits, all
                episodes have the same return where its range is asked for, or the options contradict another.
        """
        check_visits(episodes)
        options: dict[str, Any] = {"standardise_obs": standardise_obs, "scale_reward": scale_reward}
        options["shift_reward"] = shift_reward
        return cls.of_moments(Moments.of(episodes), dose_limits(episodes), **options)

    @classmethod
    def of_moments(
        cls,
        moments: Moments,
        limits: DoseLimits,
        *,
        standardise_obs: bool = True,
        scale_reward: RewardScale = True,
        shift_reward: float = 0.0,
    ) -> Transform:
        """As :meth:`fit`, to moments of the visits that are at hand.

        Raises:
            UserError: as there.
        """
        width = len(moments.obs_mean)
        _check_reward(scale_reward, shift_reward)
        mean, scale = (0.0,) * width, (1.0,) * width
        if standardise_obs:
            mean, scale = moments.obs_mean, tuple(std + 1e-3 for std in moments.obs_std)
        spread = moments.reward_std
        if scale_reward == "return_range":
            spread = moments.return_range / 1000.0
            if spread == 0.0:
                raise UserError(
                    "all episodes have the same return: rewards cannot be scaled by the range of returns."
                )
        if not isinstance(scale_reward, bool | str):
            spread = float(scale_reward)
        return cls(
            obs_mean=mean,
            obs_scale=scale,
            act_low=limits.low,
            act_high=limits.high,
            reward_scale=spread if scale_reward and spread > 0 else 1.0,
            reward_shift=float(shift_reward),
        )

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Transform:
        """Inverse of :meth:`to_json`."""
        lists = {k: tuple(fields[k]) for k in ("obs_mean", "obs_scale", "act_low", "act_high")}
        shift = float(fields.get("reward_shift", 0.0))
        return cls(**lists, reward_scale=float(fields["reward_scale"]), reward_shift=shift)

    def to_json(self) -> dict[str, Any]:
        """Plain fields, without a shift that is none; JSON keeps every bit of a float."""
        fields = asdict(self)
        if self.reward_shift == 0.0:
            del fields["reward_shift"]
        return fields

    def obs(self, raw: Tensor) -> Tensor:
        """Standardise observations ``[..., O]``."""
        mean = torch.tensor(self.obs_mean, dtype=raw.dtype, device=raw.device)
        scale = torch.tensor(self.obs_scale, dtype=raw.dtype, device=raw.device)
        return (raw - mean) / scale

    def to_unit(self, dose: Array) -> Array:
        """Map doses ``[..., A]`` to [-1, 1]."""
        middle, half = self._affine()
        unit: Array = (dose - middle) / half
        return unit

    def to_dose(self, unit: Array) -> Array:
        """Map agent actions ``[..., A]`` in [-1, 1] to doses; the inverse of :meth:`to_unit`."""
        middle, half = self._affine()
        dose: Array = middle + half * unit
        return dose

    def scaled(self, reward: Array) -> Array:
        """Rewards in the world's unit as agents see them; returns too where no shift is set."""
        scaled: Array = (reward + self.reward_shift) / self.reward_scale
        return scaled

    def to_reward(self, scaled: Array) -> Array:
        """Agents' rewards in the world's unit; the inverse of :meth:`scaled`."""
        reward: Array = self.reward_scale * scaled - self.reward_shift
        return reward

    def dose_width(self, unit_width: Array) -> Array:
        """Map a width on the [-1, 1] axis ``[..., A]`` to dose units."""
        width: Array = self._affine()[1] * unit_width
        return width

    def _affine(self) -> tuple[Array, Array]:
        """Middle and half-width of the dose range, ``[A]`` each."""
        low, high = np.asarray(self.act_low), np.asarray(self.act_high)
        return 0.5 * (low + high), 0.5 * (high - low)


@dataclass(frozen=True)
class Dataset:
    """M transitions in agents' units, whole on one device, in episode-major, time order.

    Attributes:
        obs: ``[M, O]`` standardised.
        act: ``[M, A]`` in [-1, 1].
        reward: ``[M]`` scaled.
        next_obs: ``[M, O]`` standardised.
        terminated: ``[M]`` 1.0 where bootstrapping stops; the time limit is not here.
        starts: ``[N + 1]`` first row of each of the N episodes, then M.
        transform: the map to and from the world's units.
        metadata: the card of the data, with its content hash.
        replicates: 1, or the number of data sets of one length that stand here one after the other, one for
            each seed of a stack; see :meth:`join`.
        cost: ``[M]`` safety cost of the visit in the world's unit, NaN where it was not recorded; None where
            nothing is known of it.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    starts: Tensor
    transform: Transform
    metadata: DatasetMetadata = field(default_factory=DatasetMetadata)
    replicates: int = 1
    cost: Tensor | None = None

    @classmethod
    def join(cls, datasets: Sequence[Dataset]) -> Dataset:
        """One data set per seed of a stack: seed k draws from the k-th alone.

        Transform and card are those of the first; every data set keeps its own for whoever needs it.

        Raises:
            UserError: they differ in the number of visits or in width, or there are none.
        """
        shapes = {(len(d), d.obs.shape[1], d.act.shape[1]) for d in datasets}
        if len(shapes) != 1:
            raise UserError(
                f"replicates need the same number of visits, states and doses, got {sorted(shapes)}."
            )
        columns = ("obs", "act", "reward", "next_obs", "terminated")
        joined = {name: torch.cat([getattr(d, name) for d in datasets]) for name in columns}
        offsets = [k * len(datasets[0]) for k in range(len(datasets))]
        starts = [d.starts[:-1] + offset for d, offset in zip(datasets, offsets, strict=True)]
        end = datasets[-1].starts[-1:] + offsets[-1]
        first, costs = datasets[0], [d.cost for d in datasets if d.cost is not None]
        return cls(
            **joined,
            cost=torch.cat(costs) if len(costs) == len(datasets) else None,
            starts=torch.cat((*starts, end)),
            transform=first.transform,
            metadata=first.metadata,
            replicates=len(datasets),
        )

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        transform: Transform | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Dataset:
        """Build the agents' view of recorded visits.

        Args:
            episodes: recorded visits in the world's units.
            transform: the map to use; fitted to the data if None.
            device: where the tensors live.
            dtype: their type.

        Raises:
            UserError: there are no visits, a number is not finite, or a recorded dose lies outside the hard
                limits.
        """
        check_visits(episodes)
        transform = transform or Transform.fit(episodes)
        check_doses(episodes, DoseLimits(transform.act_low, transform.act_high))
        act = transform.to_unit(episodes.act.astype(np.float64))

        def tensor(values: npt.NDArray[Any]) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), dtype=dtype, device=device)

        raw = torch.float64
        change = np.flatnonzero(np.diff(episodes.episode)) + 1
        starts = np.concatenate(([0], change, [len(episodes.reward)]))
        return cls(
            obs=transform.obs(torch.as_tensor(episodes.obs, dtype=raw)).to(device, dtype),
            act=tensor(np.clip(act, -1.0, 1.0)),  # rounding of float32 doses only, see the check above
            reward=tensor(transform.scaled(episodes.reward.astype(np.float64))),
            next_obs=transform.obs(torch.as_tensor(episodes.next_obs, dtype=raw)).to(device, dtype),
            terminated=tensor(episodes.terminated),
            cost=tensor(episodes.cost.astype(np.float64)),
            starts=torch.as_tensor(starts, device=device),
            transform=transform,
            metadata=episodes.metadata,
        )

    def __len__(self) -> int:
        """Return the number of transitions M."""
        return self.obs.shape[0]


def _check_reward(scale: RewardScale, shift: float) -> None:
    """Refuse what rewards cannot be scaled or shifted by.

    Raises:
        UserError: no finite numbers, a scale that is not above 0, or a shift under which the range of returns
            would depend on the episodes' lengths.
    """
    if isinstance(scale, str):
        if scale != "return_range":
            raise UserError(f"scale_reward must be yes, no, return_range or a number, got {scale!r}.")
        if shift:
            raise UserError(
                "rewards are shifted by a number or scaled by the range of returns, not both: under a shift "
                "that range depends on how long the episodes are."
            )
    elif not (isinstance(scale, bool) or (math.isfinite(scale) and scale > 0.0)):
        raise UserError(f"scale_reward must be a finite number above 0, got {scale}.")
    if not math.isfinite(shift):
        raise UserError(f"shift_reward must be a finite number, got {shift}.")


def episode_returns(episodes: Episodes) -> tuple[npt.NDArray[np.int64], Array]:
    """First row of each of the N episodes, and its undiscounted return, ``[N]`` each."""
    starts = np.concatenate(([0], np.flatnonzero(np.diff(episodes.episode)) + 1))
    returns: Array = np.add.reduceat(episodes.reward.astype(np.float64), starts)
    return starts, returns


def dose_limits(episodes: Episodes) -> DoseLimits:
    """Hard dose limits from the card of recorded visits.

    Raises:
        UserError: the card names none, or not one per dose dimension.
    """
    limits = episodes.metadata.limits
    if limits.n_act != episodes.act.shape[1]:
        raise UserError(
            f"the data set has {episodes.act.shape[1]} dose(s) per visit, its card limits {limits.n_act}."
        )
    return limits


def check_visits(episodes: Episodes) -> None:
    """Refuse an empty table and any number that is not finite.

    Raises:
        UserError: there is one; its row is named.
    """
    if len(episodes) == 0:
        raise UserError("the data set has no rows; simulate or load at least one visit.")
    for name in ("obs", "act", "reward", "next_obs"):
        values = getattr(episodes, name).reshape(len(episodes), -1)
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            row = int(bad.argmax())
            raise UserError(
                f"{name} of row {row} of the data set is {values[row].tolist()}; every number must be finite."
            )


def check_doses(episodes: Episodes, limits: DoseLimits) -> None:
    """Refuse a recorded dose outside the hard limits, in the precision in which doses are recorded.

    Raises:
        UserError: there is one; its row is named.
    """
    low, high = (np.asarray(x, dtype=np.float32) for x in (limits.low, limits.high))
    outside = ((episodes.act < low) | (episodes.act > high)).any(1)
    if outside.any():
        row = int(outside.argmax())
        raise UserError(
            f"the recorded dose {episodes.act[row].tolist()} of row {row} lies outside the hard limits "
            f"{list(limits.low)} to {list(limits.high)} of the data's own card."
        )
