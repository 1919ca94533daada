"""Checks of recorded columns: what is not exactly what it should be is refused, with its row (from 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.errors import UserError

Values = NDArray[Any]

TOLERANCE = 1e-6
"""Largest difference between a recorded next observation and the next recorded observation of one episode."""


PRECISION = 0.01
"""Most that single precision may change of a typical step of a state, or of the spread of a column."""


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
        raise UserError(f"{source}: {name} of row {row + 1} is {array[row].tolist()}; it must be finite.")
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
        raise UserError(
            f"{source}: {name} of row {row + 1} is {array[row]:g}; it must be true or false, 0 or 1."
        )
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


def tell_apart(source: str, names: Sequence[str], exact: Values, scale: Values) -> Values:
    """Numbers ``[M, K]`` in single precision, if it can tell them apart.

    Args:
        source: where they come from, for the message.
        names: of the K columns.
        exact: in double precision.
        scale: what of each column has to stay visible ``[K]``: a typical step, or the spread.

    Raises:
        UserError: rounding changes a column by more than :data:`PRECISION` of its scale.
    """
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(exact, dtype=np.float32)
    if not len(exact) or not np.isfinite(single).all():
        return single
    error = np.abs(exact - single).max(axis=0)
    noise = 1e-13 * np.abs(exact).max(axis=0)  # of arithmetic, not of measurements
    lost = (scale > noise) & (error > PRECISION * scale)
    if lost.any():
        place = int(lost.argmax())
        before, after = len(np.unique(exact[:, place])), len(np.unique(single[:, place]))
        raise UserError(
            f"{source}: {names[place]} ({exact[0, place]:.17g} in row 1) has {before:,} different values, of "
            f"which single precision tells {after:,} apart; subtract a constant near them first, such as the "
            "smallest."
        )
    return single


def typical_steps(values: Values, ends: NDArray[np.bool_]) -> Values:
    """Mean absolute change from a row to the next of its episode ``[K]``; the spread of what never moves."""
    spread: Values = values.std(axis=0)
    following = ~ends[:-1]
    if not following.any():
        return spread
    moved = np.abs(np.diff(values, axis=0))[following].mean(axis=0)
    return np.where(moved > 0, np.minimum(moved, spread), spread)


def numbered(name: str, width: int) -> list[str]:
    """Names for ``width`` columns that have none."""
    return [f"{name} {k + 1}" for k in range(width)]


def varies(source: str, names: Sequence[str], values: Values) -> None:
    """Refuse a column that is the same number in all of several rows."""
    if len(values) < 2:
        return
    same = (values == values[0]).all(axis=0)
    if same.any():
        place = int(same.argmax())
        raise UserError(
            f"{source}: {names[place]} is {values[0, place]:g} in every row, so nothing can be learned from "
            "it; leave it out, or check that it is the column that is meant."
        )


def possible(
    source: str, names: Sequence[str], obs: Values, span: tuple[tuple[float, ...], tuple[float, ...]]
) -> None:
    """Refuse observations that the environment's card calls impossible, as in another unit."""
    low, high = (np.asarray(end, dtype=np.float32) for end in span)
    outside = (obs < low) | (obs > high)
    if outside.any():
        row, place = (int(index[0]) for index in np.nonzero(outside))
        raise UserError(
            f"{source}: {names[place]} of row {row + 1} is {obs[row, place]:g}, possible are {low[place]:g} "
            f"to {high[place]:g}; {int(outside[:, place].sum())} of {len(obs)} rows are like that. Is it in "
            "another unit, or another column?"
        )
