"""Minari data sets by any program: one group per episode, T + 1 observations around T actions.

Boundaries, next observations and terminations are in the arrays, so nothing has to be recovered. Limits of
the actions are those of the set's action space, the environment is that of its ``env_spec`` with the wrappers
that it names: those of :data:`APPLIED` are options of the environment, in which agents are evaluated as well.

Observations of goal-reaching tasks become vectors (``dosing.data.goals``), their environment is that of
``eval_env_spec`` where there is one, and a visit that reaches the goal terminates: these sets go on after it,
truncated or towards another goal, and no value may be bootstrapped through success.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dosing.data.archives import guarded_minari
from dosing.data.checks import flags, numbers
from dosing.data.external import External, Rows, assemble
from dosing.data.goals import flat, is_goal_observation, repeated
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes
from dosing.errors import UserError

APPLIED = (
    *("RescaleAction", "ClipAction", "RescaleObservation", "FlattenObservation", "TimeAwareObservation"),
    *("DtypeObservation", "ReshapeObservation"),
)
"""Wrappers of gymnasium that can be applied again: the spec says all that they do."""

WITHOUT_EFFECT = (
    *("PassiveEnvChecker", "OrderEnforcing", "RecordEpisodeStatistics", "RecordVideo", "HumanRendering"),
    "RenderCollection",
)
"""Wrappers that change nothing of what an agent sees, does or earns."""

SUCCESS = "success"
"""Name in the infos of a goal-reaching task's set."""

COSTS = ("cost", "costs")
"""Names of a visit's safety cost in the infos of a set."""


def read_minari_set(dataset_id: str, external: External) -> Episodes:
    """Read a local Minari data set.

    Args:
        dataset_id: such as ``mujoco/hopper/medium-v0``; the folder of data sets is ``MINARI_DATASETS_PATH``.
        external: limits and environment where they should not be the set's own.

    Raises:
        UserError: there is no such set or it is damaged, its observations or actions are no vectors of
            numbers, it was recorded under a wrapper that cannot be applied again, or an episode is not what
            it should be.
    """
    return guarded_minari(dataset_id, lambda data: _read(dataset_id, data, external))


def _read(dataset_id: str, data: Any, external: External) -> Episodes:
    source = f"the Minari data set {dataset_id}"
    goals = _observes_goals(source, data.observation_space)
    metadata = data.storage.metadata
    spec = (metadata.get("eval_env_spec") if goals else None) or metadata.get("env_spec")
    low, high = _limits(source, data.action_space)
    about = DatasetMetadata(
        source={"layout": "Minari", "id": dataset_id},
        action_low=low,
        action_high=high,
        **(_environment(source, json.loads(spec), goals) if spec and external.env_id is None else {}),
    )
    parts: dict[str, list[NDArray[Any]]] = {
        k: [] for k in ("obs", "act", "reward", "next_obs", "terminated", "cost")
    }
    lengths = []
    leave_out: bool | None = None
    for number, episode in enumerate(data.iterate_episodes()):
        name = f"{source}, episode {number}"
        observed = episode.observations
        if goals:
            leave_out = repeated(observed) if leave_out is None else leave_out
            observed = flat(observed, leave_out)
        rows = _episode(name, episode, observed)
        if goals:
            rows["terminated"] |= _reached(name, episode, rows["reward"])
        lengths.append(len(rows["reward"]))
        for name, values in rows.items():
            parts[name].append(values)
    if not sum(lengths):
        raise UserError(f"{source} has no rows.")
    ends = np.zeros(sum(lengths), dtype=np.bool_)
    ends[np.cumsum(lengths) - 1] = True
    if len(parts["cost"]) not in (0, len(lengths)):
        raise UserError(f"{source} has costs in {len(parts['cost'])} of {len(lengths)} episodes.")
    columns = {name: np.concatenate(part) for name, part in parts.items() if part}
    return assemble(source, Rows(**columns, ends=ends), about, external)


def _observes_goals(source: str, space: Any) -> bool:
    """Whether observations are those of a goal-reaching task, and no vectors.

    Raises:
        UserError: they are neither.
    """
    if is_goal_observation(space) and all(hasattr(part, "low") for part in space.values()):
        return True
    if not hasattr(space, "low"):
        raise UserError(f"{source} observes a {space}; agents here need vectors of numbers.")
    return False


def _reached(source: str, episode: Any, reward: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the goal was reached at each visit ``[T]``: by the infos, else where all rewards are 0 or 1."""
    said = (episode.infos or {}).get(SUCCESS)
    if said is None:
        sparse = np.isin(reward, (0.0, 1.0)).all()
        return np.asarray(reward == 1.0) if sparse else np.zeros(len(reward), dtype=np.bool_)
    reached = flags(source, f"infos/{SUCCESS}", said)
    if len(reached) == len(reward) + 1:  # the first is that of the reset
        reached = reached[1:]
    if len(reached) != len(reward):
        raise UserError(f"{source}: {len(reward)} visits need as many {SUCCESS}, got {len(reached)}.")
    return reached


def _environment(source: str, spec: dict[str, Any], goals: bool) -> dict[str, Any]:
    """Id and options of the environment; a time limit that is not the registered one is an option.

    That of a goal-reaching task is one in any case: its package may not be imported yet.
    """
    if ":" in str(spec["id"]):
        raise UserError(
            f"{source} names the module of its environment, {spec['id']}; none is imported for data."
        )
    ours, options, limit = False, dict(spec.get("kwargs") or {}), spec.get("max_episode_steps")
    registered = gymnasium.registry.get(spec["id"])
    if registered is not None:
        options = {name: value for name, value in options.items() if (name, value) != ("env_id", spec["id"])}
        ours = str(registered.entry_point).startswith("simulator.")  # its length is an option of its own
        if limit not in (None, registered.max_episode_steps) and not ours:
            options["max_episode_steps"] = limit
    if goals and limit is not None:
        options["max_episode_steps"] = limit
    if wrappers := _wrappers(source, spec.get("additional_wrappers") or ()):
        if ours:
            raise UserError(
                f"{source} was recorded under the wrapper {wrappers[0]['name']}; patients of {spec['id']} "
                "are simulated without wrappers, so agents cannot be evaluated under it."
            )
        options["wrappers"] = wrappers
    return {"env_id": spec["id"], "env_options": options}


def _wrappers(source: str, recorded: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Names and arguments of the wrappers to apply again, innermost first."""
    applied = []
    for wrapper in recorded:
        name = str(wrapper["name"])
        if name in WITHOUT_EFFECT:
            continue
        if name not in APPLIED or wrapper.get("kwargs") is None:
            raise UserError(
                f"{source} was recorded under the wrapper {name}, which cannot be applied again (its spec "
                f"does not say all that it did); these can: {', '.join(APPLIED)}. If agents should be "
                "evaluated without it, name the environment (--env)."
            )
        applied.append({"name": name, "kwargs": dict(wrapper["kwargs"])})
    return applied


def _limits(source: str, space: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Limits of a bounded box of actions; empty where it has none."""
    if not hasattr(space, "low") or len(space.shape) != 1:
        raise UserError(f"{source} has the actions {space}; agents here need vectors of numbers.")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return (), ()
    return tuple(space.low.tolist()), tuple(space.high.tolist())


def _episode(source: str, episode: Any, observed: Any) -> dict[str, NDArray[Any]]:
    """One episode's rows; T actions, rewards and flags need T + 1 observations."""
    double = np.float64
    obs = numbers(source, "observations", observed, width=True, kind=double)
    rows = {
        "act": numbers(source, "actions", episode.actions, width=True, kind=double),
        "reward": numbers(source, "rewards", episode.rewards, width=False, kind=double),
        "terminated": flags(source, "terminations", episode.terminations),
        "truncated": flags(source, "truncations", episode.truncations),
    }
    lengths = {name: len(values) for name, values in rows.items()}
    if set(lengths.values()) != {len(obs) - 1}:
        words = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"{source}: {len(obs)} observations need {len(obs) - 1} of each of: {words}.")
    over = rows["terminated"] | rows["truncated"]
    if over[:-1].any():
        raise UserError(f"{source} goes on after it ended at visit {int(over.argmax()) + 1}.")
    del rows["truncated"]
    if name := next((name for name in COSTS if name in (episode.infos or {})), None):
        cost = numbers(source, name, episode.infos[name], width=False)
        if len(cost) == len(obs):  # the first is that of the reset
            cost = cost[1:]
        if len(cost) != len(obs) - 1:
            raise UserError(f"{source}: {len(obs) - 1} visits need as many costs, got {len(cost)}.")
        rows["cost"] = cost
    return rows | {"obs": obs[:-1], "next_obs": obs[1:]}
