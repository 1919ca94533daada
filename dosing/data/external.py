"""Visits recorded by other programs: what their user has to say about them, and the checks they all pass.

Nothing is guessed and nothing is repaired: a row that cannot be what it says it is is refused, with its
number and what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes, concatenate
from dosing.errors import UserError
from dosing.safety import DoseLimits

Values = NDArray[Any]

TOLERANCE = 1e-6
"""Largest difference between a recorded next observation and the next recorded observation of one episode."""


@dataclass(frozen=True)
class External:
    """What a file of another program does not say itself."""

    limits: DoseLimits | None = None
    """Hard limits of the actions; None takes those that the file states."""
    env_id: str | None = None
    """Environment that the visits come from and in which agents are evaluated; None takes the file's own."""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of that environment."""
    n_obs: int | None = None
    """Width of that environment's observations, where it is known beforehand."""
    horizon: int | None = None
    """Visits after which the recording program cut an episode; needed where a file does not mark it."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column names of a table by role; see ``dosing.data.columns``."""
    split_at_jumps: bool = False
    """An unmarked jump between a next observation and the next row ends an episode, and is no error."""


@dataclass(frozen=True)
class Rows:
    """M visits as another program kept them, in time order, episode after episode."""

    obs: Values
    """``[M, O]``."""
    act: Values
    """``[M, A]``."""
    reward: Values
    """``[M]``."""
    terminated: Values
    """The process ended here: bool, or numbers that are 0 or 1, ``[M]``."""
    ends: Values
    """Last row of its episode, for whatever reason ``[M]``."""
    next_obs: Values | None = None
    """``[M, O]``; None where it was not recorded."""
    log_prob: Values | None = None
    """Log density of the action ``[M]``; None where it was not recorded."""


def numbers(source: str, name: str, values: Any, width: bool, kind: type = np.float32) -> Values:
    """Check one column of finite numbers and return it as ``[M, width]`` or ``[M]``.

    Args:
        source: where it comes from, for the message.
        name: what it is called there.
        values: the column; ``[M, 1]`` passes for ``[M]``, as some releases of D4RL have it.
        width: whether it has a second axis.
        kind: type of the result.

    Raises:
        UserError: not numbers, another shape, or a number that is not finite in single precision.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{source}: {name} must be numbers, got {array.dtype}.")
    if not width and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != (2 if width else 1) or (width and array.shape[1] == 0):
        wanted = "[rows, width]" if width else "[rows]"
        raise UserError(f"{source}: {name} must have shape {wanted}, got {list(array.shape)}.")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=kind)
    bad = ~np.isfinite(array).reshape(len(array), -1).all(1)
    if bad.any():
        row = int(bad.argmax())
        raise UserError(f"{source}: {name} of row {row} is {array[row].tolist()}; it must be finite.")
    return array


def flags(source: str, name: str, values: Any) -> NDArray[np.bool_]:
    """Check one column of yes and no and return it as bool ``[M]``.

    Raises:
        UserError: another shape, or a value that is neither 0 nor 1.
    """
    array = numbers(source, name, values, width=False, kind=np.float64)
    odd = (array != 0.0) & (array != 1.0)
    if odd.any():
        row = int(odd.argmax())
        raise UserError(f"{source}: {name} of row {row} is {array[row]:g}; it must be true or false, 0 or 1.")
    return array.astype(np.bool_)


def same_length(source: str, columns: Mapping[str, Values]) -> int:
    """Number of rows of columns of one length.

    Raises:
        UserError: their lengths differ, or there are no rows.
    """
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        words = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"{source}: columns must have one length, got {words} rows.")
    rows = next(iter(lengths.values()))
    if not rows:
        raise UserError(f"{source} has no rows.")
    return rows


def jumps(source: str, obs: Values, next_obs: Values) -> NDArray[np.bool_]:
    """Whether the next row does not begin where this one ends ``[M]``; False for the last row.

    Raises:
        UserError: the two have different shapes.
    """
    if obs.shape != next_obs.shape:
        raise UserError(
            f"{source}: next observations have shape {list(next_obs.shape)}, observations {list(obs.shape)}."
        )
    result = np.zeros(len(obs), dtype=np.bool_)
    result[:-1] = (np.abs(obs[1:].astype(np.float64) - next_obs[:-1]) > TOLERANCE).any(1)
    return result


def assemble(source: str, rows: Rows, metadata: DatasetMetadata, external: External) -> Episodes:
    """Check rows and return them as episodes.

    A last visit of an episode that did not terminate is truncated: agents bootstrap from its next
    observation. Where next observations were not recorded they are the next row's; a truncated last visit
    then has none and is left out (as by ``d4rl.qlearning_dataset``), which truncates the episode one visit
    earlier; a terminated one keeps its own observation as next, from which no agent bootstraps.

    Args:
        source: where the rows come from, for messages.
        rows: the rows.
        metadata: what the source says about itself.
        external: what the user says; it wins.

    Raises:
        UserError: the rows are not what they should be, or limits of the actions are missing.
    """
    obs = numbers(source, "observations", rows.obs, width=True)
    act = numbers(source, "actions", rows.act, width=True)
    reward = numbers(source, "rewards", rows.reward, width=False)
    terminated = flags(source, "terminations", rows.terminated)
    ends = flags(source, "ends of episodes", rows.ends) | terminated
    columns: dict[str, Values] = {"observations": obs, "actions": act, "rewards": reward, "ends": ends}
    next_obs = None
    if rows.next_obs is not None:
        next_obs = columns["next observations"] = numbers(
            source, "next observations", rows.next_obs, width=True
        )
    same_length(source, columns)
    if external.n_obs not in (None, obs.shape[1]):
        raise UserError(
            f"{source} has {obs.shape[1]} numbers per observation, {external.env_id} {external.n_obs}: "
            "it comes from another environment or version of it."
        )
    limits = _limits(source, metadata, external, act)
    if next_obs is None:
        next_obs, keep, ends = _follow(source, obs, terminated, ends)
    else:
        ends = _linked(source, obs, next_obs, ends, external)
        keep = np.ones(len(obs), dtype=np.bool_)
    ends[-1] = True
    m = int(keep.sum())
    last = ends[keep]
    starts = np.r_[True, last[:-1]]
    episode = np.cumsum(starts) - 1
    unknown = np.full(m, np.nan, dtype=np.float32)
    log_prob = unknown if rows.log_prob is None else _log_prob(source, rows.log_prob, len(obs))[keep]
    whole = Episodes(
        obs=obs[keep],
        act=act[keep],
        act_requested=act[keep],
        limited_by=np.zeros(m, dtype=np.int8),
        reward=reward[keep],
        next_obs=next_obs[keep],
        terminated=terminated[keep],
        truncated=last & ~terminated[keep],
        cost=unknown,
        behaviour_log_prob=log_prob,
        episode=episode.astype(np.int64),
        step=(np.arange(m) - np.flatnonzero(starts)[episode]).astype(np.int32),
    )
    if external.env_id is not None:
        metadata = replace(metadata, env_id=external.env_id, env_options=dict(external.env_options))
    about = replace(
        metadata,
        action_low=limits.low,
        action_high=limits.high,
        dose_unit=limits.unit,
        patients=int(episode[-1]) + 1,
        rows_left_out=len(obs) - m,
    )
    return concatenate([whole], about)


def _limits(source: str, metadata: DatasetMetadata, external: External, act: Values) -> DoseLimits:
    """Hard limits from the user, else from the source; every recorded action lies within them."""
    limits = external.limits
    if limits is None and metadata.action_low:
        limits = metadata.limits
    if limits is None:
        raise UserError(
            f"{source} does not state the limits of its {act.shape[1]} action(s): name its environment "
            "(--env) or give them (--dose-low, --dose-high)."
        )
    if limits.n_act != act.shape[1]:
        raise UserError(
            f"{source} has {act.shape[1]} action(s) per visit, the limits are for {limits.n_act}."
        )
    low, high = np.asarray(limits.low, dtype=act.dtype), np.asarray(limits.high, dtype=act.dtype)
    outside = ((act < low) | (act > high)).any(1)
    if outside.any():
        row = int(outside.argmax())
        raise UserError(
            f"{source}: the action {act[row].tolist()} of row {row} lies outside the limits "
            f"{list(limits.low)} to {list(limits.high)}; {int(outside.sum())} of {len(act)} rows do."
        )
    return limits


def _linked(
    source: str, obs: Values, next_obs: Values, ends: NDArray[np.bool_], external: External
) -> NDArray[np.bool_]:
    """Ends of episodes, after checking that inside them every row begins where the one before it ends."""
    jump = jumps(source, obs, next_obs) & ~ends
    if jump.any() and not external.split_at_jumps:
        row = int(jump.argmax())
        raise UserError(
            f"{source}: the next observation of row {row} is not the observation of row {row + 1}, and no "
            f"end of an episode is marked there; {int(jump.sum())} rows are like that. If episodes do end "
            "there unmarked, say so with --split-at-jumps."
        )
    return ends | jump


def _follow(
    source: str, obs: Values, terminated: NDArray[np.bool_], ends: NDArray[np.bool_]
) -> tuple[Values, NDArray[np.bool_], NDArray[np.bool_]]:
    """Next observations ``[M, O]`` from the rows that follow, which rows have one, and ends among these."""
    ends = ends.copy()
    ends[-1] = True
    next_obs = np.concatenate((obs[1:], obs[-1:]))
    next_obs[terminated] = obs[terminated]
    keep = ~ends | terminated
    if not keep.any():
        raise UserError(f"{source} has no visit whose next observation is known.")
    before = np.r_[(ends & ~terminated)[1:], False]  # the last visit that is kept of such an episode
    return next_obs, keep, ends | before


def _log_prob(source: str, values: Values, rows: int) -> NDArray[np.float32]:
    """Log densities ``[M]``; they may be unknown or infinite."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "fiu" or array.shape != (rows,):
        raise UserError(
            f"{source}: log densities of actions must be numbers of shape [{rows}], got {array.dtype} of "
            f"shape {list(array.shape)}."
        )
    return array.astype(np.float32)
