"""How far a state is from the visits a policy was trained on, and its dose from those recorded there.

The monitor behind the status ``deferred``. The distance of a state is that to its K-th nearest training visit
(Ramaswamy, Rastogi, Shim 2000, SIGMOD), each entry divided by its interquartile range over the training
visits; that of a dose is from the doses of the visits nearest to its state (``dosing.data.dose_support``).
Both thresholds are calibrated on held-out patients as that module says: a visit of a new patient who comes
from where the training patients came from, and is dosed as they were, is beyond either with probability at
most ``level``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from dosing.data.dose_support import (
    ALIKE,
    LEVEL,
    DoseRule,
    DoseSupport,
    calibrated,
    conformal_threshold,
    evenly,
    left_out,
    most_apart,
    robust,
    visits_near,
)
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.runs.files import read_json, read_tensors, write_json, write_tensors
from dosing.runs.folder import NOVELTY, NOVELTY_VISITS
from dosing.types import Array

SCHEMA = 2
NEIGHBOURS = 5
"""K: a state is as far as its K-th nearest training visit, so that no single odd visit makes it familiar."""


class Rate(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it in per cent."""
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] on patients left out"


class Look(NamedTuple):
    """What a monitor says of M states and the doses meant for them.

    Attributes:
        distance: ``[M, K]`` of the states from the nearest training visits, nearest first.
        nearest: ``[M, K]`` rows of these visits.
        dose_distance: ``[M]`` of the doses from those recorded near the states.
        recorded_low: ``[M, A]`` lowest dose recorded near the state.
        recorded_high: ``[M, A]`` highest.
    """

    distance: Array
    nearest: NDArray[np.int64]
    dose_distance: Array
    recorded_low: Array
    recorded_high: Array


@dataclass(frozen=True)
class Monitor:
    """What was learned of R training visits, and the distances beyond which states and doses are unfamiliar.

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
        doses: when a dose counts as recorded at states like one.
        dose_false_alarms: as ``false_alarms``, of recorded doses called unrecorded.
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
    doses: DoseRule
    dose_false_alarms: Rate
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
        kept = evenly(len(episodes))
        obs = episodes.obs[kept].astype(np.float64)
        _, patient = np.unique(episodes.episode[kept], return_inverse=True)
        centre, scale = robust(obs)
        near = max(visits_near(len(obs)), neighbours)
        apart, row = left_out((obs - centre) / scale, patient, max(neighbours, ALIKE), near)
        distance = apart[:, neighbours - 1]
        threshold, attained = conformal_threshold(distance, patient, level)
        act = episodes.act[kept]
        rule, from_doses = calibrated(act, act[row], patient, level)
        return cls(
            centre=centre,
            scale=scale,
            obs=episodes.obs[kept],
            act=act,
            reward=episodes.reward[kept],
            episode=episodes.episode[kept],
            step=episodes.step[kept],
            threshold=threshold,
            level=attained,
            patients=int(patient.max()) + 1,
            false_alarms=_false_alarms(distance, patient, level),
            dose_spread=tuple(float(x) for x in episodes.act.std(0, dtype=np.float64)),
            doses=rule,
            dose_false_alarms=_false_alarms(from_doses, patient, level, most_apart(act.shape[1])),
            data=episodes.metadata.content_hash,
            neighbours=neighbours,
        )

    @cached_property
    def _support(self) -> DoseSupport:
        return DoseSupport(self.centre, self.scale, self.obs, self.act, self.doses)

    def nearest(self, states: Array, *, workers: int = 1) -> tuple[Array, NDArray[np.int64]]:
        """Distances ``[M, K]`` of finite states ``[M, O]`` to the nearest kept visits, and their rows.

        Nearest first; the last distance is the one that is compared with ``threshold``.

        Raises:
            UserError: the states have another width than the training visits.
        """
        return self._support.nearest(self._states(states), self.neighbours, workers)

    def look(self, states: Array, doses: Array, *, workers: int = 1) -> Look:
        """Compare finite states ``[M, O]`` and doses ``[M, A]`` with the training visits; see :class:`Look`.

        Raises:
            UserError: states or doses have another width than the training visits.
        """
        doses = np.asarray(doses, dtype=np.float64)
        if doses.ndim != 2 or doses.shape[1] != self.act.shape[1]:
            raise UserError(
                f"the monitor was fitted to doses of {self.act.shape[1]} number(s), got shape {doses.shape}."
            )
        k = self.neighbours
        count = max(k, self.doses.near)
        distance, row = self._support.nearest(self._states(states), count, workers)
        recorded = self.act[row[:, : self.doses.near]].astype(np.float64)
        away = self.doses.distance(doses, recorded)
        return Look(distance[:, :k], row[:, :k], away, recorded.min(1), recorded.max(1))

    def _states(self, states: Array) -> Array:
        states = np.asarray(states, dtype=np.float64)
        if states.ndim != 2 or states.shape[1] != len(self.centre):
            raise UserError(
                f"the monitor was fitted to states of {len(self.centre)} entries, got shape {states.shape}."
            )
        return states

    def __str__(self) -> str:
        """Return one sentence on the thresholds and their false alarms."""
        state, dose = self.false_alarms, self.dose_false_alarms
        return (
            f"a state is unfamiliar beyond distance {self.threshold:.3g}: at most {self.level:.1%} of usual "
            f"visits by calibration on {self.patients} patients, {state}; a dose is unrecorded beyond "
            f"distance {self.doses.threshold:.3g} from those of the {self.doses.near} visits nearest to its "
            f"state: at most {self.doses.level:.1%} likewise, {dose}"
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
        if (schema := fields.pop("schema", None)) == 1:
            raise UserError(
                f"{folder / NOVELTY} knows states and no doses, as earlier versions wrote it; train the run "
                "anew."
            )
        if schema != SCHEMA:
            raise UserError(f"{folder / NOVELTY} has another schema than {SCHEMA}, which this version reads.")
        tensors, metadata = read_tensors(folder / NOVELTY_VISITS)
        try:
            arrays = {name: tensors[name].numpy() for name in _ARRAYS}
            result = cls(**arrays | fields | _typed(fields))
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


def _typed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON holds as lists and plain fields, as it was."""
    rule = fields["doses"]
    sizes = {name: tuple(rule[name]) for name in ("low", "high", "scale", "tolerance")}
    return {
        "false_alarms": Rate(*fields["false_alarms"]),
        "dose_false_alarms": Rate(*fields["dose_false_alarms"]),
        "dose_spread": tuple(fields["dose_spread"]),
        "doses": DoseRule(**rule | sizes),
    }


def _false_alarms(distance: Array, patient: NDArray[np.int64], level: float, most: float = np.inf) -> Rate:
    """Mean over patients of the share of visits beyond the threshold of all other patients, ``most`` at most.

    Wilson's interval over patients: a share in [0, 1] varies at most as a coin with its mean.
    """
    patients = int(patient.max()) + 1
    share = np.empty(patients)
    for number in range(patients):
        own = patient == number
        others = patient[~own]
        threshold, _ = conformal_threshold(distance[~own], others - (others > number), level)
        share[number] = (distance[own] > min(threshold, most)).mean()
    return wilson(float(share.mean()), patients)


def wilson(share: float, n: int) -> Rate:
    """Wilson's 95 % score interval (1927, JASA 22:209) of a mean of ``n`` values in [0, 1]."""
    z = float(ndtri(0.975))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Rate(share, max(float(middle - half), 0.0), min(float(middle + half), 1.0))
