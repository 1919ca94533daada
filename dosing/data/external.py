"""Visits recorded by other programs: what their user has to say about them, and the checks they all pass.

Nothing is guessed and nothing is repaired: a row that cannot be what it says it is is refused, with its
number and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.data.checks import (
    Values,
    flags,
    jumps,
    numbered,
    numbers,
    possible,
    same_length,
    tell_apart,
    typical_steps,
    varies,
)
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes, concatenate
from dosing.errors import UserError
from dosing.safety import DoseLimits

ROUNDING = 1e-6
"""Most that rounding moves an action, as a share of the range of its limits."""


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
    obs_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Lowest and highest possible numbers of an observation, by the card of that environment."""
    clip_rounding: bool = False
    """An action beyond its limit by no more than :data:`ROUNDING` of their range is put at the limit."""
    relabel: Callable[[Mapping[str, Values]], tuple[Values, Values]] | None = None
    """Rewards of that environment's task, and where it ends, by states; None where files have rewards."""
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
    cost: Values | None = None
    """Safety cost ``[M]``; None where it was not recorded."""
    log_prob: Values | None = None
    """Log density of the action ``[M]``; None where it was not recorded."""


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
        UserError: the rows are not what they should be, single precision cannot tell them apart, the doses or
            (without an environment) a state never change, or limits of the actions are missing.
    """
    with np.errstate(over="ignore"):  # what is too large is refused
        obs, next_obs, act, reward = _measured(source, rows, metadata, external)
    terminated = flags(source, "terminations", rows.terminated)
    ends = flags(source, "ends of episodes", rows.ends) | terminated
    cost = np.full(len(obs), np.nan, dtype=np.float32)
    if rows.cost is not None:
        cost = numbers(source, "costs", rows.cost, width=False)
    columns = {"observations": obs, "actions": act, "rewards": reward, "ends": ends, "costs": cost}
    same_length(source, columns if next_obs is None else columns | {"next observations": next_obs})
    limits = _limits(source, metadata, external, act)
    act, clipped = _within(source, limits, act, external.clip_rounding)
    if next_obs is None:
        next_obs, keep, ends = _follow(source, obs, terminated, ends)
    else:
        ends = _linked(source, obs, next_obs, ends, external)
        keep = np.ones(len(obs), dtype=np.bool_)
    ends[-1] = True
    log_prob = None if rows.log_prob is None else _log_prob(source, rows.log_prob, len(obs))
    whole = _visits(obs, next_obs, act, reward, terminated, ends, cost, log_prob, keep)
    if external.env_id is not None:
        metadata = replace(metadata, env_id=external.env_id, env_options=dict(external.env_options))
    about = replace(
        metadata,
        action_low=limits.low,
        action_high=limits.high,
        dose_unit=limits.unit,
        patients=int(whole.episode[-1]) + 1,
        rows_left_out=len(obs) - len(whole),
        doses_clipped=clipped,
    )
    return concatenate([whole], about)


def _visits(
    obs: Values,
    next_obs: Values,
    act: Values,
    reward: Values,
    terminated: NDArray[np.bool_],
    ends: NDArray[np.bool_],
    cost: Values,
    log_prob: Values | None,
    keep: NDArray[np.bool_],
) -> Episodes:
    """The rows that are kept, numbered by episode and visit."""
    m = int(keep.sum())
    last = ends[keep]
    starts = np.r_[True, last[:-1]]
    episode = np.cumsum(starts) - 1
    return Episodes(
        obs=obs[keep],
        act=act[keep],
        act_requested=act[keep],
        limited_by=np.zeros(m, dtype=np.int8),
        reward=reward[keep],
        next_obs=next_obs[keep],
        terminated=terminated[keep],
        truncated=last & ~terminated[keep],
        cost=cost[keep],
        behaviour_log_prob=np.full(m, np.nan, dtype=np.float32) if log_prob is None else log_prob[keep],
        episode=episode.astype(np.int64),
        step=(np.arange(m) - np.flatnonzero(starts)[episode]).astype(np.int32),
    )


def _measured(
    source: str, rows: Rows, metadata: DatasetMetadata, external: External
) -> tuple[Values, Values | None, Values, Values]:
    """Observations, next observations and rewards in single precision; actions in double precision."""
    double = np.float64
    obs = numbers(source, "observations", rows.obs, width=True, kind=double)
    act = numbers(source, "actions", rows.act, width=True, kind=double)
    reward = numbers(source, "rewards", rows.reward, width=False, kind=double)[:, None]
    if external.n_obs not in (None, obs.shape[1]):
        raise UserError(
            f"{source} has {obs.shape[1]} numbers per observation, {external.env_id} {external.n_obs}: "
            "it comes from another environment or version of it."
        )
    names = list(metadata.obs_names or numbered("observation", obs.shape[1]))
    actions = metadata.dose_name.split(", ")
    if len(actions) != act.shape[1] or not actions[0]:
        actions = numbered("action", act.shape[1])
    if external.obs_range is not None:
        possible(source, names, obs, external.obs_range)
    if external.env_id is None and metadata.env_id is None:
        varies(source, names, obs)
    varies(source, actions, act)
    ends = np.asarray(rows.ends, dtype=np.bool_)
    steps = typical_steps(obs, ends) if len(ends) == len(obs) else obs.std(axis=0)
    next_obs = None
    if rows.next_obs is not None:
        next_obs = numbers(source, "next observations", rows.next_obs, width=True, kind=double)
        if next_obs.shape[1] == obs.shape[1]:
            next_obs = tell_apart(source, names, next_obs, steps)
        next_obs = numbers(source, "next observations", next_obs, width=True)
    obs = numbers(source, "observations", tell_apart(source, names, obs, steps), width=True)
    tell_apart(source, actions, act, act.std(axis=0))
    reward = numbers(
        source, "rewards", tell_apart(source, ["the reward"], reward, reward.std(axis=0)), width=False
    )
    return obs, next_obs, act, reward


def _limits(source: str, metadata: DatasetMetadata, external: External, act: Values) -> DoseLimits:
    """Hard limits from the user, else from the source."""
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
    return limits


def _within(source: str, limits: DoseLimits, act: Values, clip: bool) -> tuple[Values, int]:
    """Actions within the limits in single precision ``[M, A]``, and how many rows had to be put there."""
    low, high = np.asarray(limits.low), np.asarray(limits.high)
    within = act.astype(np.float32)
    single = low.astype(np.float32), high.astype(np.float32)
    beyond = ((act < low) | (act > high)) & (act != within)  # what was recorded in single precision is that
    outside = ((within < single[0]) | (within > single[1]) | beyond).any(1)
    if not outside.any():
        return within, 0
    slack = ROUNDING * (high - low)
    far = ((act < low - slack) | (act > high + slack)).any(1)
    if clip and not far.any():
        return np.clip(within, *single), int(outside.sum())
    row = int((far if far.any() else outside).argmax())
    what = f"{int(outside.sum())} of {len(act)} rows do"
    if not far.any():
        what += ", none by more than rounding; --clip-rounding puts these at the limit"
    elif clip:
        what += f", {int(far.sum())} of them by more than rounding"
    raise UserError(
        f"{source}: the action {act[row].tolist()} of row {row + 1} lies outside the limits "
        f"{list(limits.low)} to {list(limits.high)}; {what}."
    )


def _linked(
    source: str, obs: Values, next_obs: Values, ends: NDArray[np.bool_], external: External
) -> NDArray[np.bool_]:
    """Ends of episodes, after checking that inside them every row begins where the one before it ends."""
    jump = jumps(source, obs, next_obs) & ~ends
    if jump.any() and not external.split_at_jumps:
        row = int(jump.argmax())
        raise UserError(
            f"{source}: the next observation of row {row + 1} is not the observation of row {row + 2}, and "
            f"no end of an episode is marked there; {int(jump.sum())} rows are like that. If episodes do end "
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
