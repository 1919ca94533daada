"""Recorded patients once more: what the record does not hold, from the simulator that made it.

Patient k of a seed is the same patient whenever it is simulated, so the recorded doses given again lead
through the recorded visits again. On the way the simulator tells what was not kept: adverse events, the
truth behind the measurements, and what the clinic's own rules would have given at each visit, had they
answered this patient's measurements from the first visit on. A patient whose visits do not come out as they
were recorded is left out: nothing is said about another course than the recorded one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.types import Act, AnyArray, Array, Listener
from simulator.card import scenario_card
from simulator.cohorts.clinic_rules import clinic_rules
from simulator.engine.rng import BLOCK
from simulator.engine.scenario import Flags, TellsCourseWithin
from simulator.environment import CohortEnv
from simulator.envs import SCENARIOS

TOLERANCE = 1e-4
"""Largest difference, relative or absolute, between a recorded number and the same number simulated again."""


@dataclass(frozen=True)
class Replayed:
    """What the record of one patient's T visits does not hold.

    Attributes:
        events: each event of the scenario's card at each visit ``[T]``.
        target: true value after each visit ``[T]`` of what the scenario's clinicians keep in a range; None
            where there is no such quantity.
        within: the same within each visit ``[T, M]``, at M times of equal distance, the last at its end; None
            where the scenario's patients do not tell it.
        clinic: dose ``[T, A]`` that each of the clinic's rules asks for at each visit, before any limit.
    """

    events: Mapping[str, Flags]
    target: AnyArray | None
    within: AnyArray | None
    clinic: Mapping[str, Array]


def block_of(patient: int) -> int:
    """Number of the block of 256 that a patient is simulated with."""
    return patient // BLOCK


def replay(episodes: Episodes, patient: int) -> dict[int, Replayed]:
    """Give a recorded patient, and those of the same block of 256, their recorded doses again.

    Args:
        episodes: recorded visits of one of our scenarios.
        patient: number of a recorded patient.

    Returns:
        What came of it, by number of the patient; without those whose visits come out otherwise.

    Raises:
        UserError: the visits are of no scenario here, of another version of it, or of no known seed.
    """
    meta = episodes.metadata
    seed = _seed(meta)
    first = block_of(patient) * BLOCK
    rows = np.flatnonzero((episodes.episode >= first) & (episodes.episode < first + BLOCK))
    numbers = np.unique(episodes.episode[rows])
    n = int(numbers[-1] - numbers[0]) + 1
    options = {name: value for name, value in meta.env_options.items() if name != "first_patient"}
    env = CohortEnv(str(meta.env_id), num_envs=n, first_patient=int(numbers[0]), **options)
    run = _Run.of(env, seed, _requested(episodes, rows, int(numbers[0]), env))
    place = (episodes.episode[rows] - numbers[0], episodes.step[rows])
    same = np.ones(n, dtype=np.bool_)
    same[place[0][~_as_recorded(run, episodes, rows, place)]] = False
    return {
        int(k): run.of_patient(int(k - numbers[0]), episodes.step[rows[episodes.episode[rows] == k]])
        for k in numbers
        if same[k - numbers[0]]
    }


@dataclass(frozen=True)
class Onward:
    """One recorded patient from a visit on, under other doses: K visits until the episode is over.

    Attributes:
        seen: observations ``[K + 1, O]``; the first is that of the visit.
        dose: doses delivered ``[K, A]``.
        limited: code of the limit that held each requested dose ``[K]``, 0 where none did.
        reward: ``[K]``.
        cost: safety cost ``[K]``.
        events: each event at each visit ``[K]``.
        target: true value after each visit ``[K]`` of what is kept in a range; None where there is none.
        within: the same within each visit ``[K, M]``, as of :class:`Replayed`.
        ended: whether the episode ended before its time.
    """

    seen: AnyArray
    dose: AnyArray
    limited: AnyArray
    reward: AnyArray
    cost: AnyArray
    events: Mapping[str, Flags]
    target: AnyArray | None
    within: AnyArray | None
    ended: bool


def go_on(episodes: Episodes, row: int, act: Act) -> Onward:
    """Bring a recorded patient to a recorded visit again, and follow a rule from there on.

    The patient and all noise are those of the record: what differs from it comes of the doses.

    Args:
        episodes: recorded visits of one of our scenarios.
        row: of the visit.
        act: the rule, asked about ``[1, 1, O]``; visits count from 0 at the recorded one.

    Raises:
        UserError: as :func:`replay`; or the visits before come out otherwise than they were recorded.
    """
    meta = episodes.metadata
    seed = _seed(meta)
    rows = np.flatnonzero(episodes.episode[: row + 1] == episodes.episode[row])
    options = {name: value for name, value in meta.env_options.items() if name != "first_patient"}
    env = CohortEnv(str(meta.env_id), num_envs=1, first_patient=int(episodes.episode[row]), **options)
    obs, _ = env.reset(seed=seed)
    for place in rows:
        if not np.allclose(obs[0], episodes.obs[place], TOLERANCE, TOLERANCE, equal_nan=True):
            raise UserError("gone through again, these visits come out otherwise than they were recorded.")
        if place != row:
            obs = env.step(episodes.act_requested[place, None])[0]
    seen, reward, ended = [obs[0]], [], False
    infos: list[dict[str, Any]] = []
    within: list[Array] = []
    treated = env.visits.treated
    while not env.visits.over:
        asked = np.asarray(act(obs[None], len(infos)), dtype=np.float64)[0]
        obs, gained, over, _, info = env.step(asked)
        if isinstance(act, Listener):
            act.observe(info["dose_delivered"][None].astype(np.float64), gained[None].astype(np.float64))
        seen.append(obs[0])
        infos.append(info)
        if isinstance(treated, TellsCourseWithin):
            within.append(treated.course_within[:, 0])
        reward.append(gained[0])
        ended = bool(over[0])
    target = env.visits.options.scenario.target
    return Onward(
        seen=np.stack(seen),
        dose=np.stack([info["dose_delivered"][0] for info in infos]),
        limited=np.array([info["limited_by"][0] for info in infos]),
        reward=np.array(reward),
        cost=np.array([info["cost"][0] for info in infos]),
        events={name: np.array([i["events"][name][0] for i in infos]) for name in infos[0]["events"]},
        target=None if target is None else np.array([i["truth"][target.truth][0] for i in infos]),
        within=np.stack(within) if within else None,
        ended=ended,
    )


def _seed(meta: DatasetMetadata) -> int:
    """The seed of recorded visits that can be simulated again; raises UserError for others."""
    if meta.env_id not in SCENARIOS or meta.seed is None:
        raise UserError("these visits were recorded elsewhere: no simulator here can go through them again.")
    here = scenario_card(meta.env_id, **meta.env_options)["version"]
    if meta.scenario_version != here:
        raise UserError(
            f"these visits are of version {meta.scenario_version} of {meta.env_id}, here is version {here}: "
            "they cannot be gone through again."
        )
    return meta.seed


def _requested(episodes: Episodes, rows: NDArray[np.int64], first: int, env: CohortEnv) -> AnyArray:
    """Recorded requested doses [T, n, A]; the lowest dose where nothing was recorded."""
    steps, limits = env.visits.options.steps, env.visits.limits
    if int(episodes.step[rows].max()) >= steps:
        raise UserError(
            f"these visits go beyond the {steps} of an episode: they cannot be gone through again."
        )
    doses = np.tile(np.asarray(limits.low, dtype=np.float32), (steps, env.num_envs, 1))
    doses[episodes.step[rows], episodes.episode[rows] - first] = episodes.act_requested[rows]
    return doses


@dataclass(frozen=True)
class _Run:
    """All that was simulated: arrays have visits first, then patients."""

    seen: AnyArray
    """Observations [T + 1, n, O]."""
    dose: AnyArray
    """Doses delivered [T, n, A]."""
    reward: AnyArray
    events: Mapping[str, Flags]
    target: AnyArray | None
    within: AnyArray | None
    """True values within each visit [T, M, n]."""
    clinic: Mapping[str, Array]

    @classmethod
    def of(cls, env: CohortEnv, seed: int, requested: AnyArray) -> _Run:
        """Give the requested doses [T, n, A] visit by visit."""
        obs, _ = env.reset(seed=seed)
        rules, treated = clinic_rules(env.visits.options.scenario), env.visits.treated
        for rule in rules.values():
            rule.attend([env])
        seen, dose, reward, infos, within = [obs], [], [], [], []
        clinic: dict[str, list[Array]] = {name: [] for name in rules}
        for visit, asked in enumerate(requested):
            for name, rule in rules.items():
                clinic[name].append(rule(obs[None], visit)[0])
            obs, gained, _, _, info = env.step(asked)
            seen.append(obs)
            reward.append(gained)
            dose.append(info["dose_delivered"])
            infos.append(info)
            if isinstance(treated, TellsCourseWithin):
                within.append(treated.course_within)
            if env.visits.over:
                break
        target = env.visits.options.scenario.target
        return cls(
            np.stack(seen),
            np.stack(dose),
            np.stack(reward),
            {name: np.stack([info["events"][name] for info in infos]) for name in infos[0]["events"]},
            None if target is None else np.stack([info["truth"][target.truth] for info in infos]),
            np.stack(within) if within else None,
            {name: np.stack(doses) for name, doses in clinic.items()},
        )

    def of_patient(self, place: int, steps: NDArray[np.int32]) -> Replayed:
        """What came of one patient at these visits."""
        return Replayed(
            {name: flags[steps, place] for name, flags in self.events.items()},
            None if self.target is None else self.target[steps, place],
            None if self.within is None else self.within[steps, :, place],
            {name: doses[steps, place] for name, doses in self.clinic.items()},
        )


def _as_recorded(
    run: _Run, episodes: Episodes, rows: NDArray[np.int64], place: tuple[AnyArray, AnyArray]
) -> Flags:
    """Which recorded visits [M] came out as they were recorded."""
    patient, step = place
    result = np.zeros(len(rows), dtype=np.bool_)
    lived = step < len(run.dose)
    at, who, kept = step[lived], patient[lived], rows[lived]
    pairs = (
        (run.seen[at, who], episodes.obs[kept]),
        (run.seen[at + 1, who], episodes.next_obs[kept]),
        (run.dose[at, who], episodes.act[kept]),
        (run.reward[at, who, None], episodes.reward[kept, None]),
    )
    alike = [np.isclose(a, b, TOLERANCE, TOLERANCE, equal_nan=True).all(axis=1) for a, b in pairs]
    result[lived] = np.all(alike, axis=0)
    return result
