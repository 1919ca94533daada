"""Tables by other programs: parquet and CSV files whose columns the user names.

Roles of columns: ``obs`` and ``act`` (one or more each, numbers), ``reward`` (numbers), ``episode``
(identifiers: texts, two being one only where they are the same text; the rows of an episode together),
``terminated`` (yes or no: the process ended here), and where they exist ``step`` (rising within an episode:
numbers, dates, or times with their zone), ``next_obs``, ``cost`` and ``log_prob`` (numbers). ``terminated=``
with no column says that no episode terminates. The last row of an episode that did not terminate was where
recording ended.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.data.checks import flags, numbers
from dosing.data.external import External, Rows, assemble
from dosing.data.formats import format_of
from dosing.data.identifying import identifying
from dosing.data.metadata import DatasetMetadata
from dosing.data.roles import CsvTable, ParquetTable, Table
from dosing.data.store import Episodes
from dosing.errors import UserError

NEEDED = ("obs", "act", "reward", "episode", "terminated")
OPTIONAL = ("step", "next_obs", "cost", "log_prob")
WIDE = ("obs", "act", "next_obs")
NUMBERS = ("obs", "act", "reward", "next_obs", "cost")
"""Roles whose columns hold what was measured or given, and name nobody."""


def parse_columns(pairs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read ``role=name`` or ``role=name,name`` into column names by role; ``"a, b"`` in quotes is one name.

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
        result[role] = tuple(name for name in next(csv.reader([names]), []) if name)
        if len(result[role]) != 1 and role not in WIDE and (result[role] or role != "terminated"):
            raise UserError(
                f"{role} is one column, got {pair!r}; a name with a comma in it stands in quotes."
            )
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
    wanted = list(dict.fromkeys(name for entries in names.values() for name in entries))
    source = str(path)
    _no_people(source, names)
    table = _opened(path, wanted, names)

    def wide(role: str) -> NDArray[Any]:
        parts = [
            numbers(source, name, table.numbers(name), width=False, kind=np.float64) for name in names[role]
        ]
        return np.stack(parts, axis=1)

    def single(role: str) -> NDArray[Any] | None:
        return table.numbers(names[role][0]) if role in names else None

    if "next_obs" in names and len(names["next_obs"]) != len(names["obs"]):
        raise UserError(f"obs has {len(names['obs'])} columns, next_obs {len(names['next_obs'])}.")
    ends = _ends(table, names["episode"][0], names["step"][0] if "step" in names else None)
    terminated: NDArray[Any] = np.zeros(table.rows, dtype=np.bool_)
    if names["terminated"]:
        (name,) = names["terminated"]
        terminated = flags(source, name, table.flags(name))
    _check_ended(source, terminated, ends)
    rows = Rows(
        obs=wide("obs"),
        act=wide("act"),
        reward=numbers(source, names["reward"][0], single("reward"), width=False, kind=np.float64),
        terminated=terminated,
        ends=ends,
        next_obs=wide("next_obs") if "next_obs" in names else None,
        cost=single("cost"),
        log_prob=single("log_prob"),
    )
    about = DatasetMetadata(
        source={"layout": "table", "file": path.name, "columns": _plain(names)},
        obs_names=names["obs"],
        dose_name=", ".join(names["act"]),
    )
    return assemble(source, rows, about, external)


def _opened(path: Path, wanted: Sequence[str], names: Mapping[str, tuple[str, ...]]) -> Table:
    """The wanted columns of a file; UserError where it has no rows."""
    table: Table
    if format_of(path) == ".parquet":
        table = ParquetTable(path, wanted)
    else:
        table = CsvTable(path, wanted, [name for role in NUMBERS for name in names.get(role, ())])
    if not table.rows:
        raise UserError(f"{path} has no rows.")
    return table


def _no_people(source: str, names: Mapping[str, tuple[str, ...]]) -> None:
    if people := [name for role in NUMBERS for name in names.get(role, ()) if identifying(name)]:
        raise UserError(
            f"{source}: {', '.join(map(repr, people))} looks as if it identified people; states, doses and "
            "rewards are measured. Leave it out, or rename it if it is a measurement."
        )


def _plain(names: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {role: list(entries) for role, entries in names.items()}


def _ends(table: Table, name: str, step: str | None) -> NDArray[np.bool_]:
    """Last row of every episode ``[M]``, after checking that its rows stand together and in order."""
    source = table.source
    episode, labels = table.identifiers(name)
    change = episode[1:] != episode[:-1]
    starts = np.r_[0, np.flatnonzero(change) + 1]
    _, first = np.unique(episode[starts], return_index=True)
    if len(first) < len(starts):
        again = sorted(set(range(len(starts))) - set(first.tolist()))[0]
        raise UserError(
            f"{source}: episode {labels[episode[starts[again]]]} goes on at row {starts[again] + 1} after "
            "another one; the rows of an episode have to stand together, in order of time."
        )
    if step is not None:
        order = table.order(step)
        back = (order[1:] <= order[:-1]) & ~change
        if back.any():
            row = int(back.argmax()) + 1
            raise UserError(
                f"{source}: {step} does not rise at row {row + 1}: the visits of an episode have to stand in "
                "order of time, each once."
            )
    ends: NDArray[np.bool_] = np.r_[change, True]
    return ends


def _check_ended(source: str, terminated: NDArray[np.bool_], ends: NDArray[np.bool_]) -> None:
    """Refuse an episode that goes on after it terminated."""
    going_on = terminated & ~ends
    if going_on.any():
        raise UserError(
            f"{source}: the episode goes on after it terminated at row {int(going_on.argmax()) + 1}."
        )
