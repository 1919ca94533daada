"""Roll out a behaviour policy on simulated patients and keep every visit.

Patients are simulated in chunks that fit a constant memory. Chunks are independent of each other because
every patient belongs to a stream of its own block, so neither their size nor the number of workers changes
a bit.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing import NOT_FOR_PATIENTS, __version__
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes, EpisodeWriter, concatenate, write_episodes
from dosing.errors import UserError
from simulator.behaviour_policies import BehaviourPolicy, parse_policy
from simulator.card import scenario_card
from simulator.cohorts.task_episodes import task_episodes
from simulator.engine.rng import BLOCK, POLICY, block_streams
from simulator.environment import CohortEnv, observed_range, whole_number
from simulator.envs import SCENARIOS, scenario_class
from simulator.envs.registered import is_registered
from simulator.progress import progress_bar

CHUNK_VISITS = 100_000
"""Visits held in memory at once, per worker: about 10 MB for eight states."""

GAMMA = 0.9
"""Discount with which the published work learns on these scenarios; a hint for learners, stored with the
data."""


def plan_of(
    env_id: str,
    *,
    patients: int,
    policy: str | BehaviourPolicy | None = None,
    seed: int = 0,
    cohort: str = "train",
    steps: int | None = None,
    **env_options: Any,
) -> "SimulationPlan":
    """A request for patients that can be simulated in parts; arguments as of :func:`simulate`.

    Raises:
        UserError: as :func:`simulate`, and for an environment that is none of our scenarios: its patients are
            simulated together.
    """
    if _is_foreign(env_id):
        raise UserError(f"{env_id} is simulated whole: write its visits to one file, without parts.")
    policy = policy or usual_policy(env_id)
    return SimulationPlan(env_id, patients, steps, policy, seed, cohort, env_options)


def _is_foreign(env_id: str) -> bool:
    """Whether it is an environment that is none of our scenarios; loads files that were named."""
    return is_registered(env_id) and env_id not in SCENARIOS


def usual_policy(env_id: str) -> str:
    """By which policy visits of a scenario are recorded unless another one is asked for."""
    return scenario_class(env_id).recorded_by if env_id in SCENARIOS else "uniform"


def simulate(
    env_id: str,
    *,
    patients: int,
    steps: int | None = None,
    policy: str | BehaviourPolicy | None = None,
    seed: int = 0,
    cohort: str = "train",
    progress: bool = False,
    workers: int = 1,
    **env_options: Any,
) -> Episodes:
    """Simulate ``patients`` under a behaviour policy and return all their visits.

    Args:
        env_id: A registered id, for example ``dosing/Treatment-v0``. Of an environment that is none of our
            scenarios, ``uniform`` and ``constant:DOSE`` are the policies, and ``cohort`` is ``train``.
        patients: Number of patients, from ``first_patient`` (an environment option, default 0) on.
        steps: Visits per patient; None for the scenario's own number.
        policy: A policy object or the text that names one (``simulator.behaviour_policies.parse_policy``);
            None for the scenario's usual one.
        seed: Seed of the replication; together with ``cohort`` it fixes every patient.
        cohort: ``train`` or ``evaluation``.
        progress: Show a progress bar on a terminal.
        workers: Threads that simulate chunks side by side.
        **env_options: Options of the environment, such as ``variant`` or ``realism``.

    Raises:
        UserError: For an unknown id, option or policy and for numbers out of range.
    """
    foreign = _is_foreign(env_id)
    policy = policy or usual_policy(env_id)
    if foreign:
        if cohort != "train":
            raise UserError(f"visits of {env_id} are recorded on the cohort train alone, got {cohort!r}.")
        limit = {} if steps is None else {"max_episode_steps": steps}
        count, first = whole_number("patients", patients, 1), whole_number("seed", seed, 0)
        return task_episodes(
            env_id, patients=count, policy=policy, seed=first, options={**env_options, **limit}
        )
    plan = SimulationPlan(env_id, patients, steps, policy, seed, cohort, env_options)
    return concatenate(plan.chunks(workers, progress), plan.metadata)


def simulate_to(
    path: str | Path,
    env_id: str,
    *,
    patients: int,
    steps: int | None = None,
    policy: str | BehaviourPolicy | None = None,
    seed: int = 0,
    cohort: str = "train",
    progress: bool = False,
    workers: int = 1,
    **env_options: Any,
) -> DatasetMetadata:
    """As :func:`simulate`, but stream to ``path`` in constant memory; returns the stored metadata.

    Visits of an environment that is none of our scenarios are written once all are simulated.
    """
    foreign = _is_foreign(env_id)
    policy = policy or usual_policy(env_id)
    if foreign:
        request: dict[str, Any] = {"patients": patients, "steps": steps, "policy": policy, "seed": seed}
        return write_episodes(simulate(env_id, **request, cohort=cohort, **env_options), path)
    plan = SimulationPlan(env_id, patients, steps, policy, seed, cohort, env_options)
    with EpisodeWriter(path, plan.metadata) as writer:
        for chunk in plan.chunks(workers, progress):
            writer.write(chunk)
    return writer.metadata


class SimulationPlan:
    """A checked request: which patients, under which policy, seen how."""

    def __init__(
        self,
        env_id: str,
        patients: int,
        steps: int | None,
        policy: str | BehaviourPolicy,
        seed: int,
        cohort: str,
        env_options: dict[str, Any],
    ) -> None:
        """Check everything before the first patient; arguments as of :func:`simulate`."""
        self.env_id = env_id
        self.patients = whole_number("patients", patients, 1)
        self.seed = whole_number("seed", seed, 0)
        self.options: dict[str, Any] = {**env_options, "cohort": cohort}
        if steps is not None:
            self.options["steps"] = steps
        self.first = whole_number("first_patient", self.options.pop("first_patient", 0), 0)
        probe = CohortEnv(env_id, num_envs=1, **self.options).visits
        self.policy = parse_policy(policy, probe.options.scenario.policies)
        self.steps = probe.options.steps
        entries = probe.treated.entries
        low, high = observed_range(probe.treated)
        card = scenario_card(env_id, **self.options)
        self.metadata = DatasetMetadata(
            env_id=env_id,
            env_options={**self.options, "variant": probe.options.scenario.variant, "steps": self.steps},
            seed=self.seed,
            first_patient=self.first,
            patients=self.patients,
            policy=self.policy.name,
            scenario_version=card["version"],
            code_version=__version__,
            notice=NOT_FOR_PATIENTS,
            obs_names=tuple(entry.name for entry in entries),
            obs_units=tuple(entry.unit for entry in entries),
            obs_low=tuple(low.tolist()),
            obs_high=tuple(high.tolist()),
            action_low=probe.limits.low,
            action_high=probe.limits.high,
            dose_name=card["dose"]["name"],
            dose_unit=probe.limits.unit,
            gamma=GAMMA,
            card=card,
        )

    def part(self, first: int, patients: int) -> "SimulationPlan":
        """The same request for ``patients`` of its patients, from number ``first`` on."""
        result = copy(self)
        result.first, result.patients = first, patients
        result.metadata = replace(self.metadata, first_patient=first, patients=patients)
        return result

    def chunks(self, workers: int, progress: bool, visits: int | None = None) -> Iterator[Episodes]:
        """Yield the episodes chunk by chunk, of about so many visits, in order of patient."""
        workers = whole_number("workers", workers, 1, 256)
        size = max((visits or CHUNK_VISITS) // self.steps, 1)
        size = size // BLOCK * BLOCK or size  # whole blocks where possible: nothing is drawn twice
        end = self.first + self.patients
        starts = range(self.first // BLOCK * BLOCK, end, size)
        jobs = [(max(low, self.first), min(low + size, end)) for low in starts if low + size > self.first]
        with progress_bar(progress, total=self.patients * self.steps, unit="visit", unit_scale=True) as bar:
            for chunk in self._in_order(jobs, workers):
                yield chunk
                bar.update(len(chunk))

    def _in_order(self, jobs: list[tuple[int, int]], workers: int) -> Iterator[Episodes]:
        """Run the jobs on ``workers`` threads (NumPy releases the lock) and yield their results in order."""
        if workers == 1:
            for job in jobs:
                yield self.roll_out(*job)
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque[Future[Episodes]] = deque()
            for job in jobs:
                waiting.append(pool.submit(self.roll_out, *job))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def roll_out(self, first: int, end: int) -> Episodes:
        """Simulate patients ``first`` to ``end - 1`` through all visits."""
        n, steps = end - first, self.steps
        env = CohortEnv(self.env_id, num_envs=n, first_patient=first, **self.options)
        limits, treated = env.visits.limits, env.visits.treated
        act = self.policy.begin(treated.clinic(), n)
        streams = block_streams(self.seed, str(self.options["cohort"]), POLICY, first, n)
        dice = np.empty((len(streams), limits.n_act + 1, BLOCK))
        obs, _ = env.reset(seed=self.seed)

        def rows(width: int, kind: type = np.float32) -> NDArray[Any]:
            return np.empty((n, steps, width) if width else (n, steps), dtype=kind)

        o, a = obs.shape[1], limits.n_act
        out = {"obs": rows(o), "next_obs": rows(o), "act": rows(a), "act_requested": rows(a)}
        out |= {name: rows(0) for name in ("reward", "cost", "behaviour_log_prob")}
        out |= {
            "limited_by": rows(0, np.int8),
            "terminated": rows(0, np.bool_),
            "truncated": rows(0, np.bool_),
        }
        last: NDArray[np.float32] | None = None
        kept = np.zeros((n, steps), dtype=np.bool_)
        for t in range(steps):
            for stream, block in zip(streams, dice, strict=True):
                stream.random(out=block)
            kept[:, t] = ~env.visits.ended
            dose, log_prob = act(treated.view(obs, last, treated.rows(dice)))
            out["obs"][:, t] = obs
            obs, out["reward"][:, t], terminated, truncated, info = env.step(dose.astype(np.float32))
            out["next_obs"][:, t] = obs
            out["act"][:, t], out["act_requested"][:, t] = info["dose_delivered"], info["dose_requested"]
            out["terminated"][:, t], out["truncated"][:, t] = terminated, truncated
            out["limited_by"][:, t], out["cost"][:, t] = info["limited_by"], info["cost"]
            out["behaviour_log_prob"][:, t] = log_prob
            last = info["dose_delivered"]
            if env.visits.over:
                break
        flat: dict[str, Any] = out | {
            "episode": np.repeat(np.arange(first, end, dtype=np.int64), steps).reshape(n, steps),
            "step": np.tile(np.arange(steps, dtype=np.int32), n).reshape(n, steps),
        }
        return Episodes(
            **{
                name: array.reshape(n * steps, *array.shape[2:]) if kept.all() else array[kept]
                for name, array in flat.items()
            }
        )
