"""Minari data sets by any program: one group per episode, T + 1 observations around T actions.

Boundaries, next observations and terminations are in the arrays, so nothing has to be recovered. Limits of
the actions are those of the set's action space, the environment is that of its ``env_spec``.
"""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dosing.data.archives import open_minari
from dosing.data.external import External, Rows, assemble, flags, numbers
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes
from dosing.errors import UserError


def read_minari_set(dataset_id: str, external: External) -> Episodes:
    """Read a local Minari data set.

    Args:
        dataset_id: such as ``mujoco/hopper/medium-v0``; the folder of data sets is ``MINARI_DATASETS_PATH``.
        external: limits and environment where they should not be the set's own.

    Raises:
        UserError: there is no such set, its observations or actions are no vectors of numbers, or an episode
            is not what it should be.
    """
    data = open_minari(dataset_id)
    source = f"the Minari data set {dataset_id}"
    spec = data.storage.metadata.get("env_spec")
    low, high = _limits(source, data.action_space)
    about = DatasetMetadata(
        source={"layout": "Minari", "id": dataset_id},
        action_low=low,
        action_high=high,
        **(_environment(json.loads(spec)) if spec else {}),
    )
    if not hasattr(data.observation_space, "low"):
        raise UserError(f"{source} observes a {data.observation_space}; agents here need vectors of numbers.")
    parts: dict[str, list[NDArray[Any]]] = {k: [] for k in ("obs", "act", "reward", "next_obs", "terminated")}
    lengths = []
    for number, episode in enumerate(data.iterate_episodes()):
        rows = _episode(f"{source}, episode {number}", episode)
        lengths.append(len(rows["reward"]))
        for name, part in parts.items():
            part.append(rows[name])
    if not sum(lengths):
        raise UserError(f"{source} has no rows.")
    ends = np.zeros(sum(lengths), dtype=np.bool_)
    ends[np.cumsum(lengths) - 1] = True
    columns = {name: np.concatenate(part) for name, part in parts.items()}
    return assemble(source, Rows(**columns, ends=ends), about, external)


def _environment(spec: dict[str, Any]) -> dict[str, Any]:
    """Id and options of the environment; a time limit that is not the registered one is an option."""
    options, limit = dict(spec.get("kwargs") or {}), spec.get("max_episode_steps")
    registered = gymnasium.registry.get(spec["id"])
    if registered is not None and limit not in (None, registered.max_episode_steps):
        options["max_episode_steps"] = limit
    return {"env_id": spec["id"], "env_options": options}


def _limits(source: str, space: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Limits of a bounded box of actions; empty where it has none."""
    if not hasattr(space, "low") or len(space.shape) != 1:
        raise UserError(f"{source} has the actions {space}; agents here need vectors of numbers.")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return (), ()
    return tuple(space.low.tolist()), tuple(space.high.tolist())


def _episode(source: str, episode: Any) -> dict[str, NDArray[Any]]:
    """One episode's rows; T actions, rewards and flags need T + 1 observations."""
    obs = numbers(source, "observations", episode.observations, width=True)
    rows = {
        "act": numbers(source, "actions", episode.actions, width=True),
        "reward": numbers(source, "rewards", episode.rewards, width=False),
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
    return rows | {"obs": obs[:-1], "next_obs": obs[1:]}
