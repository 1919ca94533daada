"""Recorded patients as padded arrays, with the density of every dose under the policy that gave it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dosing.data.dataset import Transform
from dosing.data.store import Episodes, concatenate
from dosing.errors import UserError
from dosing.rng import generator
from dosing.types import Array

Behaviour = Literal["recorded", "estimated"]

RECORDED = "density recorded with the data"
ESTIMATED = "estimated: normal around a linear function of the state, one spread per dose dimension"


@dataclass(frozen=True)
class Trajectories:
    """N patients of at most T visits, padded with zeros after the last recorded visit.

    Attributes:
        obs: ``[N, T, O]`` in the world's units.
        act: ``[N, T, A]`` delivered dose on the [-1, 1] axis.
        reward: ``[N, T]`` in the data's unit.
        next_obs: ``[N, T, O]``.
        terminated: ``[N, T]`` 1.0 where nothing follows; never the end of the recording.
        recorded: ``[N, T]`` 1.0 at a recorded visit, 0.0 at padding.
        log_density: ``[N, T]`` log density of the dose on the [-1, 1] axis; NaN where it is not known.
        behaviour: where ``log_density`` comes from, in words.
        transform: standardises observations and maps doses; fitted to these patients, rewards left alone.
    """

    obs: Array
    act: Array
    reward: Array
    next_obs: Array
    terminated: Array
    recorded: Array
    log_density: Array
    behaviour: str
    transform: Transform

    @classmethod
    def from_episodes(cls, episodes: Episodes, *, behaviour: Behaviour = "recorded") -> Trajectories:
        """Lay recorded visits out by patient.

        Args:
            episodes: recorded visits in the world's units.
            behaviour: take the recorded densities, or fit :data:`ESTIMATED` to the doses. A recorded density
                is that of the requested dose: where a limit changed the dose it is not used.

        Raises:
            UserError: no visits, a number that is not finite, no hard limits, a dose outside them, or a dose
                that never varies and so has no density to estimate.
        """
        transform = Transform.fit(episodes, scale_reward=False)
        act = transform.to_unit(episodes.act.astype(np.float64))
        worst = float(np.abs(act).max())
        if worst > 1.0 + 1e-6:  # float32 rounding of a dose at a limit
            raise UserError(
                f"a recorded dose lies outside the hard limits {list(transform.act_low)} to "
                f"{list(transform.act_high)} of the data's own card."
            )
        starts = np.concatenate(([0], np.flatnonzero(np.diff(episodes.episode)) + 1, [len(episodes)]))
        lengths = np.diff(starts)
        patient = np.repeat(np.arange(len(lengths)), lengths)
        visit = np.arange(len(episodes)) - np.repeat(starts[:-1], lengths)

        def lay_out(rows: NDArray[Any]) -> Array:
            padded = np.zeros((len(lengths), int(lengths.max()), *rows.shape[1:]))
            padded[patient, visit] = rows
            return padded

        if behaviour == "estimated":
            log_density = _fitted_log_density(transform, episodes.obs, act)
        else:
            per_dose = episodes.behaviour_log_prob.astype(np.float64)
            width = transform.dose_width(np.ones(act.shape[1]))
            log_density = np.where(episodes.limited_by == 0, per_dose + np.log(width).sum(), np.nan)
        return cls(
            obs=lay_out(episodes.obs),
            act=lay_out(act),
            reward=lay_out(episodes.reward),
            next_obs=lay_out(episodes.next_obs),
            terminated=lay_out(episodes.terminated),
            recorded=lay_out(np.ones(len(episodes))),
            log_density=lay_out(log_density),
            behaviour=ESTIMATED if behaviour == "estimated" else RECORDED,
            transform=transform,
        )

    @property
    def patients(self) -> int:
        """N."""
        return int(self.obs.shape[0])

    @property
    def visits(self) -> int:
        """T, the longest recording."""
        return int(self.obs.shape[1])

    @cached_property
    def complete(self) -> bool:
        """Whether every patient was recorded for T visits or until the process ended."""
        last = self.recorded.sum(1).astype(int) - 1
        ended = self.terminated[np.arange(self.patients), last] > 0
        return bool(((last == self.visits - 1) | ended).all())


def standardise(transform: Transform, obs: NDArray[Any]) -> Array:
    """Observations ``[..., O]`` less their mean, over their standard deviation, in double precision."""
    z: Array = (obs - np.asarray(transform.obs_mean)) / np.asarray(transform.obs_scale)
    return z


def _fitted_log_density(transform: Transform, obs: NDArray[Any], act: Array) -> Array:
    """Log density ``[M]`` of each dose under :data:`ESTIMATED`, by least squares."""
    z = standardise(transform, obs)
    design = np.concatenate((np.ones((len(z), 1)), z), axis=1)
    residual = act - design @ np.linalg.lstsq(design, act, rcond=None)[0]
    spread = np.sqrt((residual**2).mean(0))
    if (spread < 1e-6).any():
        raise UserError(
            "the recorded doses are a function of the state, so no other policy can be weighed against them; "
            "use fitted Q evaluation alone."
        )
    standard = residual / spread
    log_density: Array = (-0.5 * standard**2 - np.log(spread) - 0.5 * math.log(2.0 * math.pi)).sum(1)
    return log_density


def fold_of(patients: int, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Fold ``[N]`` of each patient: random, sizes differing by one at most.

    Raises:
        UserError: fewer than two folds, or more folds than patients.
    """
    if not 2 <= folds <= patients:
        raise UserError(f"{patients} patients can be cut into 2 to {patients} folds, not {folds}.")
    return generator(seed, "split", folds).permutation(np.arange(patients) % folds)


def split_patients(episodes: Episodes, share: float, seed: int = 0) -> tuple[Episodes, Episodes]:
    """Cut recorded visits by patient into two parts: training, and validation with ``share`` of the patients.

    Raises:
        UserError: a part would hold no patient.
    """
    numbers = np.unique(episodes.episode)
    held_out = round(share * len(numbers))
    if not 0 < held_out < len(numbers):
        raise UserError(
            f"holding out {share:g} of {len(numbers)} patients leaves a part without any; give a share "
            "between 0 and 1 that leaves some in both."
        )
    chosen = generator(seed, "split").permutation(numbers)[:held_out]
    validation = np.isin(episodes.episode, chosen)
    training, tested = (_rows(episodes, rows) for rows in (~validation, validation))
    return training, tested


def fold_patients(episodes: Episodes, folds: int, seed: int = 0) -> list[tuple[Episodes, Episodes]]:
    """Cut recorded visits by patient into folds: for each, all other patients to train on, and its own.

    Raises:
        UserError: see :func:`fold_of`.
    """
    numbers, patient = np.unique(episodes.episode, return_inverse=True)
    fold = fold_of(len(numbers), folds, seed)[patient]
    return [(_rows(episodes, fold != k), _rows(episodes, fold == k)) for k in range(folds)]


def _rows(episodes: Episodes, rows: NDArray[np.bool_]) -> Episodes:
    columns: dict[str, Any] = {name: array[rows] for name, array in episodes.arrays().items()}
    part = Episodes(**columns)
    return concatenate([part], replace(episodes.metadata, patients=len(np.unique(part.episode))))


def patient_counts(patients: int, replicates: int, seed: int = 0) -> Array:
    """How often each patient comes up in each bootstrap replicate ``[R + 1, N]``; row 0 is the data."""
    drawn = generator(seed, "split", 0, 0).multinomial(
        patients, np.full(patients, 1 / patients), size=replicates
    )
    counts: Array = np.concatenate((np.ones((1, patients)), drawn.astype(np.float64)))
    return counts
