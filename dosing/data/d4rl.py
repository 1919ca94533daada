"""Data sets in the D4RL layout by any program: flat HDF5 arrays, one per key, episode after episode.

Fu, Kumar, Nachum, Tucker, Levine 2020, arXiv 2004.07219. ``observations``, ``actions``, ``rewards`` and
``terminals`` are there always; ``next_observations``, ``timeouts`` and safety ``costs`` in some releases. An
episode ends where ``terminals`` or ``timeouts`` is true; bootstrapping stops at ``terminals`` only.

- With next observations every row is kept, the one at a time-out too: its value is bootstrapped.
- Without them the next row is the next observation, as in ``d4rl.qlearning_dataset``, which leaves out the
  row at a time-out since its successor is lost. Unlike there, the boundary stays marked, and a row that
  terminates is kept even where the time limit coincides with it or the file ends.
- Without time-outs either, episodes are cut after the environment's time limit, counted from their own first
  row (``qlearning_dataset`` counts from the row before it after a termination).

Where the environment that is named observes the goal, ``infos/goal`` is put behind every observation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.data.archives import check_storable
from dosing.data.checks import flags, jumps, numbers, same_length
from dosing.data.external import External, Rows, assemble
from dosing.data.metadata import DatasetMetadata
from dosing.data.sinks import need
from dosing.data.store import Episodes
from dosing.errors import UserError

NEEDED = ("observations", "actions", "rewards", "terminals")
OWN = "infos/limited_by"
"""An array that only files of this program have."""
_BOTH = ("observations", "next_observations")
OPTIONAL = ("next_observations", "timeouts", "costs", "infos/action_log_probs")
GOAL = "infos/goal"
NEAR = 1.0
"""Farthest that a visit with the sparse reward of success can begin from its goal."""


def read_d4rl(path: Path, external: External) -> Episodes:
    """Read a data set.

    Args:
        path: HDF5 file.
        external: its limits of actions; its time limit, where the file marks none; its environment.

    Raises:
        UserError: a key is missing or is no array, or the rows are not what they should be.
        OSError: it is not a whole HDF5 file.
    """
    h5py = need("h5py", "HDF5")
    source = str(path)
    with h5py.File(path, "r") as file:
        if OWN in file:
            raise UserError(
                f"{path} was written by this program and lost what it said about itself; it is damaged."
            )
        if missing := [key for key in NEEDED if key not in file]:
            raise UserError(
                f"{path} lacks {', '.join(missing)}; the D4RL layout has the arrays {', '.join(NEEDED)}."
            )
        result = {key: file[key] for key in (*NEEDED, *OPTIONAL, GOAL) if key in file}
        if not _observes_goal(result, external):
            result.pop(GOAL, None)
        if groups := [key for key, entry in result.items() if not isinstance(entry, h5py.Dataset)]:
            raise UserError(f"{path}: {groups[0]} must be an array, it is a group.")
        check_storable(source, result.values())
        arrays: dict[str, NDArray[Any]] = {key: np.atleast_1d(entry[()]) for key, entry in result.items()}
    rows = same_length(source, arrays)
    if GOAL in arrays:
        _append_goal(source, arrays)
    terminated = flags(source, "terminals", arrays["terminals"])
    obs, next_obs = arrays["observations"], arrays.get("next_observations")
    if "timeouts" in arrays:
        ends = terminated | flags(source, "timeouts", arrays["timeouts"])
    elif next_obs is not None:
        ends = terminated | jumps(source, *(numbers(source, key, arrays[key], width=True) for key in _BOTH))
    elif external.horizon is not None:
        ends = _cut(terminated, external.horizon)
    else:
        raise UserError(
            f"{path} has neither timeouts nor next_observations, so its time limit is unknown: name its "
            "environment (--env) or give the number of visits (--horizon)."
        )
    content = Rows(
        obs=obs,
        act=arrays["actions"],
        reward=arrays["rewards"],
        terminated=terminated,
        ends=ends,
        next_obs=next_obs,
        cost=arrays.get("costs"),
        log_prob=arrays.get("infos/action_log_probs"),
    )
    about = DatasetMetadata(source={"layout": "D4RL", "file": path.name, "rows": rows})
    return assemble(source, content, about, external)


def _observes_goal(arrays: Any, external: External) -> bool:
    """Whether the environment observes the goal that the file keeps apart."""
    if GOAL not in arrays or external.n_obs is None:
        return False
    shapes = [arrays[key].shape for key in ("observations", GOAL)]
    return all(len(shape) == 2 for shape in shapes) and shapes[0][1] + shapes[1][1] == external.n_obs


def _append_goal(source: str, arrays: dict[str, NDArray[Any]]) -> None:
    """Put the goal behind each observation, in place; a next observation has the goal of its visit.

    Raises:
        UserError: visits earn the sparse reward of success far from their goal: it is not what rewards are
            of, as in files whose rewards were computed anew for another goal.
    """
    goal, obs = arrays[GOAL], arrays["observations"]
    reward = np.asarray(arrays["rewards"]).reshape(len(obs), -1)[:, 0]
    if np.isin(reward, (0.0, 1.0)).all():
        far = (reward == 1.0) & (np.linalg.norm(obs[:, : goal.shape[1]] - goal, axis=1) > NEAR)
        if far.any():
            raise UserError(
                f"{source}: row {int(far.argmax()) + 1} earns the reward of success far from its {GOAL}, as "
                f"{int(far.sum())} rows do; the rewards are of another goal than that, so it cannot be "
                "observed with them."
            )
    for key in _BOTH:
        if key in arrays:
            arrays[key] = np.concatenate((arrays[key], goal), axis=1)


def _cut(terminated: NDArray[np.bool_], horizon: int) -> NDArray[np.bool_]:
    """Ends of episodes that terminate or reach ``horizon`` visits ``[M]``."""
    row = np.arange(len(terminated))
    first = np.unique(np.r_[0, np.flatnonzero(terminated) + 1])  # row after a termination, and the first
    start = first[np.searchsorted(first, row, side="right") - 1]
    ends: NDArray[np.bool_] = terminated | ((row - start) % horizon == horizon - 1)
    return ends
