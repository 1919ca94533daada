"""How far a state is from the visits a policy was trained on: the monitor behind the status ``deferred``.

The distance of a state is that to its K-th nearest training visit (Ramaswamy, Rastogi, Shim 2000, SIGMOD),
each entry divided by its interquartile range over the training visits. Visits of one patient resemble each
other, so the threshold is calibrated on whole patients: the patients are cut into parts, the visits of each
part are measured against the visits of the other parts alone, and the threshold is the conformal quantile for
hierarchical data (Lee, Barber, Willett 2023, arXiv 2306.06342, HCP) over the K' patients::

    sum_i 1/((K'+1) N_i) sum_j 1[distance_ij <= threshold]  >=  1 - level

A visit of a new patient who comes from where the training patients came from is then beyond it with
probability at most ``level`` (up to the difference that the left-out part makes to the training visits). With
few patients no level below 1/(K'+1) can be promised, and none is: the level is then 1/(K'+1), the threshold
the largest distance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtri

from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.runs.files import read_json, read_tensors, write_json, write_tensors
from dosing.runs.folder import NOVELTY, NOVELTY_VISITS
from dosing.types import Array

SCHEMA = 1
NEIGHBOURS = 5
"""K: a state is as far as its K-th nearest training visit, so that no single odd visit makes it familiar."""
LEVEL = 0.01
"""Probability with which a usual visit may be called unfamiliar."""
PARTS = 20
"""Most parts that the patients are cut into for calibration."""
VISITS = 5000
"""Most training visits that are kept, evenly spaced over the data."""
IQR_OF_NORMAL = 1.3489795003921634
"""Interquartile range of the standard normal distribution: makes scales comparable with standard
deviations."""
CONSTANT = 1e-3
"""Scale of an entry that never changes in training, relative to its size: any other value is far."""


class Rate(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Monitor:
    """What was learned of R training visits, and the distance beyond which a state is unfamiliar.

    Attributes:
        centre: ``[O]``, median of each entry over the training visits.
        scale: ``[O]``, its interquartile range / 1.349, or standard deviation where that range is 0.
        obs: ``[R, O]`` states of the kept visits, in the world's units.
        act: ``[R, A]`` doses given then.
        reward: ``[R]`` reward that followed.
        episode: ``[R]`` patient.
        step: ``[R]`` visit of the patient, from 0.
        threshold: distance beyond which a state is unfamiliar.
        level: probability of calling a visit of a new, usual patient unfamiliar, at most.
        patients: how many the threshold rests on.
        false_alarms: share of a left-out patient's visits beyond the threshold of all other patients, mean
            over patients, with Wilson's interval.
        dose_spread: ``[A]`` standard deviation of the recorded doses.
        data: content hash of the training data.
        neighbours: K.
    """

    centre: Array
    scale: Array
    obs: NDArray[np.float32]
    act: NDArray[np.float32]
    reward: NDArray[np.float32]
    episode: NDArray[np.int64]
    step: NDArray[np.int32]
    threshold: float
    level: float
    patients: int
    false_alarms: Rate
    dose_spread: tuple[float, ...]
    data: str
    neighbours: int = NEIGHBOURS

    @classmethod
    def fit(cls, episodes: Episodes, *, level: float = LEVEL, neighbours: int = NEIGHBOURS) -> Monitor:
        """Fit to recorded visits; the same visits give the same monitor.

        Args:
            episodes: recorded visits, all numbers finite.
            level: probability of a false alarm to aim at; see the module for what few patients allow.
            neighbours: K.

        Raises:
            UserError: fewer than 2 patients, or too few visits to have K neighbours among other patients.
        """
        if not 0.0 < level < 1.0 or neighbours < 1:
            raise UserError(f"a monitor needs 0 < level < 1 and neighbours >= 1, got {level}, {neighbours}.")
        kept = np.unique(np.linspace(0, len(episodes) - 1, min(len(episodes), VISITS)).astype(np.int64))
        obs = episodes.obs[kept].astype(np.float64)
        _, patient = np.unique(episodes.episode[kept], return_inverse=True)
        patients = int(patient.max()) + 1
        if patients < 2:
            raise UserError("a monitor of unfamiliar states needs the visits of at least 2 patients, got 1.")
        centre, scale = _robust(obs)
        distance = _left_out((obs - centre) / scale, patient, neighbours)
        threshold, attained = conformal_threshold(distance, patient, level)
        return cls(
            centre=centre,
            scale=scale,
            obs=episodes.obs[kept],
            act=episodes.act[kept],
            reward=episodes.reward[kept],
            episode=episodes.episode[kept],
            step=episodes.step[kept],
            threshold=threshold,
            level=attained,
            patients=patients,
            false_alarms=_false_alarms(distance, patient, level),
            dose_spread=tuple(float(x) for x in episodes.act.std(0, dtype=np.float64)),
            data=episodes.metadata.content_hash,
            neighbours=neighbours,
        )

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree((self.obs.astype(np.float64) - self.centre) / self.scale)

    def nearest(self, states: Array, *, workers: int = 1) -> tuple[Array, NDArray[np.int64]]:
        """Distances ``[M, K]`` of finite states ``[M, O]`` to the nearest kept visits, and their rows.

        Nearest first; the last distance is the one that is compared with ``threshold``.

        Raises:
            UserError: the states have another width than the training visits.
        """
        states = np.asarray(states, dtype=np.float64)
        if states.ndim != 2 or states.shape[1] != len(self.centre):
            raise UserError(
                f"the monitor was fitted to states of {len(self.centre)} entries, got shape {states.shape}."
            )
        wanted = np.arange(1, self.neighbours + 1)
        distance, row = self._tree.query((states - self.centre) / self.scale, k=wanted, workers=workers)
        return np.asarray(distance), np.asarray(row, dtype=np.int64)

    def __str__(self) -> str:
        """Return one sentence on the threshold and its false alarms."""
        rate = self.false_alarms
        return (
            f"a state is unfamiliar beyond distance {self.threshold:.3g}: at most {self.level:.1%} of usual "
            f"visits by calibration on {self.patients} patients, {rate.value:.1%} [{rate.low:.1%}, "
            f"{rate.high:.1%}] on patients left out"
        )

    def write(self, folder: Path) -> None:
        """Keep the monitor in a run folder, each of its two files atomically."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        write_tensors(
            folder / NOVELTY_VISITS,
            {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()},
            {"data": self.data},
        )
        numbers = {name: value for name, value in asdict(self).items() if name not in _ARRAYS}
        write_json(folder / NOVELTY, {"schema": SCHEMA} | numbers)

    @classmethod
    def read(cls, folder: Path) -> Monitor:
        """Read a run's monitor.

        Raises:
            UserError: it is missing, damaged, of another schema, or its two files are not of the same data.
        """
        fields = read_json(folder / NOVELTY)
        if fields.pop("schema", None) != SCHEMA:
            raise UserError(f"{folder / NOVELTY} has another schema than {SCHEMA}, which this version reads.")
        tensors, metadata = read_tensors(folder / NOVELTY_VISITS)
        try:
            arrays = {name: tensors[name].numpy() for name in _ARRAYS}
            result = cls(
                **arrays
                | fields
                | {
                    "false_alarms": Rate(*fields["false_alarms"]),
                    "dose_spread": tuple(fields["dose_spread"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / NOVELTY} cannot be read ({error}); the file is damaged.") from error
        if metadata.get("data") != result.data:
            raise UserError(f"{folder / NOVELTY_VISITS} is not of the data that {NOVELTY} names.")
        return result


def keep_monitor(folder: Path, episodes: Episodes) -> None:
    """Fit a monitor and keep it in a run folder, or keep the sentence that says why there is none."""
    try:
        Monitor.fit(episodes).write(folder)
    except UserError as error:
        (folder / NOVELTY_VISITS).unlink(missing_ok=True)
        write_json(folder / NOVELTY, {"missing": str(error)})


def monitor_of(folder: Path) -> tuple[Monitor | None, str]:
    """The monitor that a run folder keeps; or None, and the sentence that says why it has none.

    Raises:
        UserError: as :meth:`Monitor.read`.
    """
    missing = read_json(folder / NOVELTY).get("missing")
    return (None, str(missing)) if missing is not None else (Monitor.read(folder), "")


_ARRAYS = ("centre", "scale", "obs", "act", "reward", "episode", "step")


def conformal_threshold(distance: Array, patient: NDArray[np.int64], level: float) -> tuple[float, float]:
    """Return the threshold of the module's formula, and the level that it is for.

    Args:
        distance: ``[R]`` distance of each visit from the visits of other patients.
        patient: ``[R]`` number of its patient, 0 to K' - 1, each with a visit.
        level: as asked for; raised to 1/(K'+1) where the patients allow no less.
    """
    visits = np.bincount(patient)
    attained = max(level, 1.0 / (len(visits) + 1))
    order = np.argsort(distance, kind="stable")
    reached = np.cumsum((1.0 / ((len(visits) + 1) * visits))[patient[order]])
    first = int(
        np.searchsorted(reached, 1.0 - attained - 1e-12)
    )  # sums of many shares fall short by rounding
    return float(distance[order[min(first, len(order) - 1)]]), attained


def _robust(obs: Array) -> tuple[Array, Array]:
    """Median and scale of each entry."""
    low, centre, high = np.quantile(obs, (0.25, 0.5, 0.75), axis=0)
    scale = (high - low) / IQR_OF_NORMAL
    scale = np.where(scale > 0.0, scale, obs.std(0))
    return centre, np.where(scale > 0.0, scale, CONSTANT * np.maximum(np.abs(centre), 1.0))


def _left_out(scaled: Array, patient: NDArray[np.int64], neighbours: int) -> Array:
    """Distance ``[R]`` of each visit to its K-th nearest among the visits of the other parts' patients."""
    parts = min(int(patient.max()) + 1, PARTS)
    part = np.random.default_rng(0).permutation(int(patient.max()) + 1)[patient] % parts
    distance = np.empty(len(scaled))
    for number in range(parts):
        own = part == number
        if (others := int((~own).sum())) < neighbours:
            raise UserError(
                f"a monitor of unfamiliar states needs {neighbours} visits of other patients, got {others}."
            )
        result, _ = cKDTree(scaled[~own]).query(scaled[own], k=[neighbours])
        distance[own] = np.asarray(result)[:, 0]
    return distance


def _false_alarms(distance: Array, patient: NDArray[np.int64], level: float) -> Rate:
    """Mean over patients of the share of visits beyond the threshold of all other patients.

    Wilson's interval over patients: a share in [0, 1] varies at most as a coin with its mean.
    """
    patients = int(patient.max()) + 1
    share = np.empty(patients)
    for number in range(patients):
        own = patient == number
        others = patient[~own]
        threshold, _ = conformal_threshold(distance[~own], others - (others > number), level)
        share[number] = (distance[own] > threshold).mean()
    return wilson(float(share.mean()), patients)


def wilson(share: float, n: int) -> Rate:
    """Wilson's 95 % score interval (1927, JASA 22:209) of a mean of ``n`` values in [0, 1]."""
    z = float(ndtri(0.975))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Rate(share, max(float(middle - half), 0.0), min(float(middle + half), 1.0))
