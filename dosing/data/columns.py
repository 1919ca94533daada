"""Tables by other programs: parquet and CSV files whose columns the user names.

Roles of columns: ``obs`` and ``act`` (one or more each), ``reward``, ``episode`` (any values, the rows of an
episode together), ``terminated`` (the process ended here), and where they exist ``step`` (rising within an
episode), ``next_obs`` and ``log_prob``. ``terminated=`` with no column says that no episode terminates. The
last row of an episode that did not terminate was where recording ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.data.external import External, Rows, assemble, numbers
from dosing.data.metadata import DatasetMetadata
from dosing.data.sinks import need
from dosing.data.store import Episodes
from dosing.errors import UserError

NEEDED = ("obs", "act", "reward", "episode", "terminated")
OPTIONAL = ("step", "next_obs", "log_prob")
WIDE = ("obs", "act", "next_obs")


def parse_columns(pairs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read ``role=name`` or ``role=name,name`` into column names by role.

    Raises:
        UserError: not of that form, an unknown role, a role given twice, or too few or many names for it.
    """
    result: dict[str, tuple[str, ...]] = {}
    for pair in pairs:
        role, separator, names = pair.partition("=")
        if not separator or role not in NEEDED + OPTIONAL:
            roles = ", ".join(NEEDED + OPTIONAL)
            raise UserError(f"columns are named as ROLE=NAME[,NAME...] with a role of {roles}; got {pair!r}.")
        if role in result:
            raise UserError(f"the columns of {role} are named twice.")
        result[role] = tuple(name for name in names.split(",") if name)
        if len(result[role]) != 1 and role not in WIDE and (result[role] or role != "terminated"):
            raise UserError(f"{role} is one column, got {pair!r}.")
        if role in WIDE and not result[role]:
            raise UserError(f"{role} needs at least one column, got {pair!r}.")
    return result


def read_table_of(path: Path, external: External) -> Episodes:
    """Read a table by its column names.

    Args:
        path: parquet or CSV file.
        external: the columns, the limits of the actions, the environment if there is one.

    Raises:
        UserError: a column is not named or not there, or the rows are not what they should be.
    """
    names = external.columns
    if missing := [role for role in NEEDED if role not in names]:
        raise UserError(
            f"{path} is a table of another program: name its columns of {', '.join(missing)} "
            "(--columns obs=x1,x2 act=dose reward=r episode=id terminated=died; `terminated=` if none does)."
        )
    table = _table(path)
    wanted = [name for entries in names.values() for name in entries]
    if absent := [name for name in wanted if name not in table.column_names]:
        raise UserError(f"{path} has no column {absent[0]!r}; it has: {', '.join(table.column_names)}.")
    if empty := [name for name in wanted if table.column(name).null_count]:
        gaps = table.column(empty[0]).is_null().to_numpy()
        raise UserError(f"{path}: {empty[0]} of row {int(gaps.argmax())} is empty.")
    source = str(path)

    def wide(role: str) -> NDArray[Any]:
        parts = [numbers(source, name, _values(table, name), width=False) for name in names[role]]
        return np.stack(parts, axis=1)

    def single(role: str) -> NDArray[Any]:
        return _values(table, names[role][0])

    if not len(table):
        raise UserError(f"{path} has no rows.")
    if "next_obs" in names and len(names["next_obs"]) != len(names["obs"]):
        raise UserError(f"obs has {len(names['obs'])} columns, next_obs {len(names['next_obs'])}.")
    ends = _ends(source, single("episode"), single("step") if "step" in names else None)
    terminated = single("terminated") if names["terminated"] else np.zeros(len(table), dtype=np.bool_)
    _check_ended(source, numbers(source, "terminated", terminated, width=False) != 0.0, ends)
    rows = Rows(
        obs=wide("obs"),
        act=wide("act"),
        reward=numbers(source, names["reward"][0], single("reward"), width=False),
        terminated=terminated,
        ends=ends,
        next_obs=wide("next_obs") if "next_obs" in names else None,
        log_prob=single("log_prob") if "log_prob" in names else None,
    )
    about = DatasetMetadata(
        source={"layout": "table", "file": path.name, "columns": _plain(names)},
        obs_names=names["obs"],
        dose_name=", ".join(names["act"]),
    )
    return assemble(source, rows, about, external)


def _plain(names: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {role: list(entries) for role, entries in names.items()}


def _table(path: Path) -> Any:
    if path.suffix == ".parquet":
        return need("pyarrow.parquet", "parquet").read_table(path)
    return need("pyarrow.csv", "CSV").read_csv(path)


def _values(table: Any, name: str) -> NDArray[Any]:
    values: NDArray[Any] = table.column(name).to_numpy()
    return values


def _ends(source: str, episode: NDArray[Any], step: NDArray[Any] | None) -> NDArray[np.bool_]:
    """Last row of every episode ``[M]``, after checking that its rows stand together and in order."""
    change = episode[1:] != episode[:-1]
    starts = np.r_[0, np.flatnonzero(change) + 1]
    labels, first = np.unique(episode[starts].astype(str), return_index=True)
    if len(labels) < len(starts):
        again = sorted(set(range(len(starts))) - set(first.tolist()))[0]
        raise UserError(
            f"{source}: episode {episode[starts[again]]} goes on at row {starts[again]} after another one; "
            "the rows of an episode have to stand together, in order of time."
        )
    if step is not None:
        order = numbers(source, "step", step, width=False, kind=np.float64)
        back = (order[1:] <= order[:-1]) & ~change
        if back.any():
            row = int(back.argmax()) + 1
            raise UserError(
                f"{source}: step {order[row]:g} of row {row} follows step {order[row - 1]:g} of its episode."
            )
    ends: NDArray[np.bool_] = np.r_[change, True]
    return ends


def _check_ended(source: str, terminated: NDArray[np.bool_], ends: NDArray[np.bool_]) -> None:
    """Refuse an episode that goes on after it terminated."""
    going_on = terminated & ~ends
    if going_on.any():
        raise UserError(f"{source}: the episode goes on after it terminated at row {int(going_on.argmax())}.")
