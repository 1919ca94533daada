"""Any registered gymnasium environment as a cohort: N whole episodes side by side, on several processes.

MuJoCo's tasks and users' own environments (Towers et al. 2024, arXiv 2407.17032, Gymnasium). Episode p of
a seed is the same start whoever acts, in whatever company and on however many processes. One that is over
stays where it ended, with reward 0, until all are: none is counted twice and none begins anew.

``action`` is called dose here as everywhere in the product; the unit is "1". The safety cost is what the
environment says in ``info["cost"]``, else the number of terminations without success (a fall); never part of
the reward.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from dosing.data.minari_sets import APPLIED
from dosing.errors import UserError
from dosing.safety import DoseLimits, as_dose
from dosing.types import Act, Float32Array
from simulator.engine.rng import COHORTS
from simulator.envs import mazes
from simulator.envs.mujoco import (
    EPISODES,
    REFERENCES,
    Reference,
    keep_warnings,
    take_warnings,
    task_ids,
)
from simulator.envs.registered import is_registered, stamped

Flags = NDArray[np.bool_]

PATIENTS = 100
"""Evaluation episodes per seed of an environment that is no MuJoCo task."""

EPISODES_PER_PROCESS = 25
"""Fewer are stepped before a process has started, which takes half a second."""

EPISODE = 3
"""Spawn key of the streams that start episodes, beside those of patients."""


def make_task(env_id: str, options: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make one registered environment, with its time limit.

    Args:
        env_id: such as ``Hopper-v5``, or ``package.module:Name-v0``, whose module registers it on import.
        options: of ``gymnasium.make``; and ``wrappers``, names and arguments of wrappers, innermost first.

    Raises:
        UserError: no such environment, option or wrapper, MuJoCo or what it needs is not installed, or
            spaces or a length that a dosing policy cannot work with.
    """
    if not is_registered(env_id):
        raise UserError(mazes.missing(env_id) or f"there is no environment {env_id!r}.")
    maze = mazes.package_of(env_id) is not None
    physics = maze or env_id in task_ids()
    if physics:
        keep_warnings(env_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium calls every version but its newest out of date
            own = {name: value for name, value in options.items() if name != "wrappers"}
            made: gymnasium.Env[Any, Any] = gymnasium.make(env_id, disable_env_checker=True, **own)
            if maze:
                made = mazes.as_task(env_id, made)
            for wrapper in options.get("wrappers", ()):
                made = _wrapped(made, wrapper)
            if maze:
                made = mazes.flattened(made)
    except ImportError as error:
        raise UserError(f"{env_id} needs the package {error.name}, which is not installed.") from error
    except UserError:
        raise
    except (TypeError, ValueError, LookupError, OSError) as error:
        raise UserError(f"{env_id} cannot be made with {dict(options)}: {error}.") from error
    if physics:
        take_warnings()  # what compiling the model says about gymnasium's own files
    _check_spaces(env_id, made)
    return made


def _wrapped(task: gymnasium.Env[Any, Any], wrapper: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """A task under a wrapper of gymnasium, by its name and arguments as a spec keeps them."""
    if wrapper["name"] not in APPLIED:
        raise ValueError(f"{wrapper['name']} is none of the wrappers {', '.join(APPLIED)}")
    arguments = {
        name: np.asarray(value) if isinstance(value, list) else value
        for name, value in wrapper["kwargs"].items()
    }
    made: gymnasium.Env[Any, Any] = getattr(gymnasium.wrappers, wrapper["name"])(task, **arguments)
    return made


def _check_spaces(env_id: str, made: gymnasium.Env[Any, Any]) -> None:
    observed, space = made.observation_space, made.action_space
    if not isinstance(observed, Box) or observed.shape is None or len(observed.shape) != 1:
        raise UserError(f"{env_id} observes {observed}; a state must be a Box of one dimension.")
    if not isinstance(space, Box) or len(space.shape) != 1 or not np.isfinite((space.low, space.high)).all():
        raise UserError(f"{env_id} takes {space}; a dose must be a Box of one dimension with finite limits.")
    if made.spec is None or made.spec.max_episode_steps is None:
        raise UserError(f"{env_id} has no longest episode: register it with max_episode_steps.")


def episode_seed(seed: int, cohort: str, number: int) -> int:
    """The seed that one episode is reset with."""
    sequence = np.random.SeedSequence(seed, spawn_key=(EPISODE, COHORTS[cohort], number))
    return int(sequence.generate_state(1)[0])


@dataclass(frozen=True)
class TaskFactory:
    """Vector environments of evaluation episodes of one task.

    Attributes:
        env_id: such as ``Hopper-v5``.
        options: of ``gymnasium.make``.
        limits: those of its action space.
        horizon: its time limit.
        n_obs: width of its observations.
        obs_range: lowest and highest possible observation, where the environment bounds it.
        workers: processes; None is up to one per core, and one in a process that is itself a worker.
        patients: episodes per seed unless another number is asked for; 0 takes the usual number.
        reference: returns between which scores are normalised; None where there are none.
        card: what the environment says of itself in ``env.unwrapped.card``; None where it says nothing.
        searched, clinic_rules: no best constant dose is looked for, and no clinic has a rule.
    """

    env_id: str
    options: dict[str, Any] = field(default_factory=dict)
    limits: DoseLimits = field(init=False)
    horizon: int = field(init=False)
    n_obs: int = field(init=False)
    obs_range: tuple[tuple[float, ...], tuple[float, ...]] = field(init=False)
    reference: Reference | None = field(init=False)
    card: dict[str, Any] | None = field(init=False)
    workers: int | None = None
    patients: int = 0
    searched: int = 0
    clinic_rules: Mapping[str, Act] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look the limits and the time limit up.

        Raises:
            UserError: no such task or option.
        """
        with make_task(self.env_id, self.options) as task:
            space, observed, spec = task.action_space, task.observation_space, task.spec
            said = getattr(task.unwrapped, "card", None)
        assert isinstance(space, Box)
        assert isinstance(observed, Box)
        assert spec is not None
        assert spec.max_episode_steps is not None
        physics = self.env_id in task_ids()
        object.__setattr__(self, "patients", self.patients or (EPISODES if physics else PATIENTS))
        object.__setattr__(self, "reference", REFERENCES.get(self.env_id))
        object.__setattr__(self, "card", stamped(self.env_id, dict(said or {})) or None)
        limits = DoseLimits(tuple(space.low.tolist()), tuple(space.high.tolist()))
        object.__setattr__(self, "limits", limits)
        object.__setattr__(self, "horizon", spec.max_episode_steps)
        object.__setattr__(self, "n_obs", observed.shape[0])
        object.__setattr__(self, "obs_range", (tuple(observed.low.tolist()), tuple(observed.high.tolist())))

    def __call__(self, patients: int, first_patient: int) -> TaskCohort:
        """Environment of evaluation episodes ``first_patient`` and on."""
        return TaskCohort(self.env_id, patients, first_patient, "evaluation", self.options, self.workers)


class TaskCohort(VectorEnv[Float32Array, Float32Array, NDArray[Any]]):
    """N episodes of one task, one per sub-environment, each from its start to its own end and no further."""

    metadata: dict[str, Any] = {  # noqa: RUF012 (gymnasium's own attribute)
        "render_modes": [],
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        first_episode: int = 0,
        cohort: str = "evaluation",
        options: Mapping[str, Any] | None = None,
        workers: int | None = None,
    ) -> None:
        """Make the tasks and the processes that step them.

        Args:
            env_id: such as ``Hopper-v5``.
            num_envs: N.
            first_episode: number of the first; the others follow.
            cohort: ``train`` or ``evaluation``: different starts of the same seed.
            options: of ``gymnasium.make``.
            workers: see :class:`TaskFactory`.

        Raises:
            UserError: no such task or option, no such cohort, or fewer than one episode.
        """
        if num_envs < 1 or first_episode < 0:
            raise UserError(
                f"episodes are numbered from 0 and at least one: {num_envs} from {first_episode}."
            )
        if cohort not in COHORTS:
            raise UserError(f"cohort must be one of {', '.join(COHORTS)}, got {cohort!r}")
        options = dict(options or {})
        self.num_envs, self._first, self._cohort = num_envs, first_episode, cohort
        with make_task(env_id, options) as task:
            observed, self.single_action_space = task.observation_space, task.action_space
        assert isinstance(observed, Box)
        low, high = observed.low.astype(np.float32), observed.high.astype(np.float32)
        self.single_observation_space = Box(low, high)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        assert isinstance(self.single_action_space, Box)
        self.limits = DoseLimits(
            tuple(self.single_action_space.low.tolist()), tuple(self.single_action_space.high.tolist())
        )
        # a process of its own knows gymnasium's ids and those that name their module, no others
        elsewhere = env_id in task_ids() or ":" in env_id or mazes.package_of(env_id) is not None
        most = (_workers(num_envs) if workers is None else workers) if elsewhere else 1
        count = min(most, num_envs)
        parts = [part for part in np.array_split(np.arange(num_envs), count) if len(part)]
        self._offsets = [int(part[0]) for part in parts[1:]]
        made = [(env_id, options, len(part)) for part in parts]
        self._groups: list[_Group | _Worker] = (
            [_Group(*made[0])] if count == 1 else [_Worker(*arguments) for arguments in made]
        )
        self.over: Flags = np.ones(num_envs, dtype=np.bool_)
        self._tells_success = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Bring every episode to its start; ``seed`` and the episode's number decide it."""
        if seed is None:
            raise UserError("episodes are started by reset(seed=...): their numbers do not move on.")
        numbers = range(self._first, self._first + self.num_envs)
        keys = [episode_seed(seed, self._cohort, number) for number in numbers]
        for group, part in zip(self._groups, np.split(np.array(keys), self._offsets), strict=True):
            group.send("reset", part)
        self._obs = np.concatenate([group.receive() for group in self._groups])
        self.over = np.zeros(self.num_envs, dtype=np.bool_)
        return self._obs.copy(), {"patient": np.arange(self._first, self._first + self.num_envs)}

    def step(self, actions: Any) -> tuple[Float32Array, NDArray[Any], Flags, Flags, dict[str, Any]]:
        """Give doses ``[N, A]``, each held at the limits; what is over stays as it is.

        Returns:
            Observations ``[N, O]``, rewards ``[N]`` (double, 0 after the end), terminated and truncated at
            the last visit of an episode alone, and info: ``dose_requested``, ``dose_delivered``,
            ``limited_by``, ``cost`` and, where the environment reports it, ``success``, each with N rows.
        """
        requested = as_dose(actions, self.limits.n_act)
        delivered, limited = self.limits.deliver(requested)
        live = ~self.over
        for group, act, going in zip(
            self._groups, *(np.split(x, self._offsets) for x in (delivered, live)), strict=True
        ):
            group.send("step", (act, going))
        results = [group.receive() for group in self._groups]
        obs, reward, terminated, truncated, cost, success = (
            np.concatenate([r[i] for r in results]) for i in range(6)
        )
        for text in {text for r in results for text in r[6]}:
            warnings.warn(f"MuJoCo says: {text}", RuntimeWarning, stacklevel=2)
        self._obs[live] = obs[live]
        self.over = self.over | terminated | truncated
        info = {
            "dose_requested": requested.copy(),
            "dose_delivered": delivered,
            "limited_by": np.where(live, limited, np.int8(0)),
            "cost": cost.astype(np.float32),
        }
        self._tells_success |= bool(np.isfinite(success).any())
        if self._tells_success:
            info["success"] = np.nan_to_num(success)
        return self._obs.copy(), reward, terminated, truncated & ~terminated, info

    def close_extras(self, **kwargs: Any) -> None:
        """End the processes."""
        for group in self._groups:
            group.close()


class _Group:
    """Some of the episodes, stepped one after the other in this process."""

    def __init__(self, env_id: str, options: Mapping[str, Any], count: int) -> None:
        self.tasks = [make_task(env_id, options) for _ in range(count)]
        self._answer: Any = None

    def send(self, what: str, content: Any) -> None:
        self._answer = getattr(self, what)(content)

    def receive(self) -> Any:
        return self._answer

    def reset(self, seeds: Sequence[int]) -> Float32Array:
        started = [task.reset(seed=int(seed))[0] for task, seed in zip(self.tasks, seeds, strict=True)]
        return np.stack(started).astype(np.float32)

    def step(
        self, content: tuple[Float32Array, Flags]
    ) -> tuple[Float32Array, NDArray[Any], Flags, Flags, NDArray[Any], NDArray[Any], list[str]]:
        acts, live = content
        n = len(self.tasks)
        width = self.tasks[0].observation_space.shape
        assert width is not None
        obs, reward = np.zeros((n, *width), dtype=np.float32), np.zeros(n)
        terminated, truncated = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        cost, success = np.zeros(n), np.full(n, np.nan)
        for k in np.flatnonzero(live):
            obs[k], reward[k], terminated[k], truncated[k], info = self.tasks[k].step(acts[k])
            success[k] = mazes.success_of(info)
            cost[k] = mazes.cost_of(info, bool(terminated[k]))
        return obs, reward, terminated, truncated, cost, success, take_warnings()

    def close(self) -> None:
        for task in self.tasks:
            task.close()


class _Worker:
    """Some of the episodes, in a process of their own."""

    def __init__(self, env_id: str, options: Mapping[str, Any], count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, env_id, options, count), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, what: str, content: Any) -> None:
        try:
            self._pipe.send((what, content))
        except OSError as error:
            raise UserError("a process that stepped episodes was killed; evaluate again.") from error

    def receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError("a process that stepped episodes was killed; evaluate again.") from error

    def close(self) -> None:
        self._pipe.close()  # the process ends when nobody is left to ask
        self._process.join()


def _serve(pipe: Connection, env_id: str, options: Mapping[str, Any], count: int) -> None:
    """Answer until nobody asks."""
    group = _Group(env_id, options, count)
    try:
        while True:
            what, content = pipe.recv()
            group.send(what, content)
            pipe.send(group.receive())
    except (EOFError, KeyboardInterrupt):
        group.close()


def _workers(episodes: int) -> int:
    """Processes to step with: the cores, but no more of them in a process that is one of several itself."""
    if multiprocessing.parent_process() is not None:
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), episodes // EPISODES_PER_PROCESS))
