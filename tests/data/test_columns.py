"""Tables of other programs, whose columns the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dosing.data.columns import parse_columns
from dosing.data.external import External
from dosing.data.sources import read_source
from dosing.errors import UserError
from dosing.safety import DoseLimits

NAMES = ("obs=age,level", "act=dose", "reward=gain", "episode=who", "terminated=died")
LIMITS = DoseLimits((0.0,), (10.0,))


def table() -> pd.DataFrame:
    """Three patients: one dies, one is seen three times, one once."""
    return pd.DataFrame(
        {
            "who": ["b", "b", "a", "a", "a", "c"],
            "visit": [1, 2, 1, 2, 5, 1],
            "age": [60.0, 60.0, 41.0, 41.0, 42.0, 70.0],
            "level": [1, 2, 3, 4, 5, 6],
            "dose": [0.0, 10.0, 2.5, 2.5, 5.0, 1.0],
            "gain": [1.0, -1.0, 0.5, 0.25, 0.0, 2.0],
            "died": [False, True, False, False, False, False],
            "note": ["", "x", "", "", "", ""],
        }
    )


def save(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


def external(*extra: str, names: tuple[str, ...] = NAMES) -> External:
    return External(limits=LIMITS, columns=parse_columns([*names, *extra]))


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_columns_become_visits(tmp_path: Path, name: str) -> None:
    result = read_source(save(table(), tmp_path / name), external("step=visit"))
    # the last visit of a and the only one of c have no next observation
    np.testing.assert_array_equal(result.obs, [[60, 1], [60, 2], [41, 3], [41, 4]])
    np.testing.assert_array_equal(result.next_obs, [[60, 2], [60, 2], [41, 4], [42, 5]])
    np.testing.assert_array_equal(result.act[:, 0], [0, 10, 2.5, 2.5])
    np.testing.assert_array_equal(result.reward, [1, -1, 0.5, 0.25])
    np.testing.assert_array_equal(result.terminated, [False, True, False, False])
    np.testing.assert_array_equal(result.truncated, [False, False, False, True])
    np.testing.assert_array_equal(result.episode, [0, 0, 1, 1])
    assert result.metadata["obs_names"] == ["age", "level"]
    assert result.metadata["dose_name"] == "dose"
    assert result.metadata["rows_left_out"] == 2


def test_next_observations_of_their_own_keep_every_row(tmp_path: Path) -> None:
    frame = table()
    frame["then_age"] = [60.0, 60.0, 41.0, 42.0, 42.0, 70.0]
    frame["then_level"] = [2, 9, 4, 5, 7, 8]
    path = save(frame, tmp_path / "x.parquet")
    result = read_source(path, external("next_obs=then_age,then_level"))
    np.testing.assert_array_equal(result.next_obs[:, 1], [2, 9, 4, 5, 7, 8])
    np.testing.assert_array_equal(np.flatnonzero(result.truncated), [4, 5])
    with pytest.raises(UserError, match="obs has 2 columns, next_obs 1"):
        read_source(path, external("next_obs=then_age"))


def test_nobody_dies_only_if_the_user_says_so(tmp_path: Path) -> None:
    path = save(table(), tmp_path / "x.csv")
    with pytest.raises(UserError, match="name its columns of terminated"):
        read_source(path, external(names=NAMES[:4]))
    result = read_source(path, external("terminated=", names=NAMES[:4]))
    assert not result.terminated.any()
    np.testing.assert_array_equal(np.bincount(result.episode), [1, 2])


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("who", 5, "b", "episode b goes on at row 6 after another one"),
        ("visit", 4, 2, "visit does not rise at row 5"),
        ("died", 2, True, "goes on after it terminated at row 3"),
        ("dose", 3, 10.5, r"action \[10.5\] of row 4 lies outside the limits \[0.0\] to \[10.0\]"),
        ("gain", 1, None, "gain of row 2 is empty"),
        ("age", 0, np.inf, "age of row 1 is inf"),
    ],
)
def test_a_broken_row_is_refused(tmp_path: Path, column: str, row: int, value: Any, message: str) -> None:
    frame = table().drop(columns="note")
    frame.loc[row, column] = value
    with pytest.raises(UserError, match=message):
        read_source(save(frame, tmp_path / "x.parquet"), external("step=visit"))


def test_names_are_asked_for_and_checked(tmp_path: Path) -> None:
    path = save(table(), tmp_path / "x.csv")
    with pytest.raises(UserError, match=r"name its columns of obs, act, reward, episode, terminated \(--col"):
        read_source(path)
    with pytest.raises(UserError, match="has no column 'weight'; it has: who, visit"):
        read_source(path, external(names=("obs=weight", *NAMES[1:])))
    with pytest.raises(UserError, match="note of row 1 is empty"):
        read_source(path, external(names=("obs=note", *NAMES[1:])))
    with pytest.raises(UserError, match="does not state the limits"):
        read_source(path, External(columns=parse_columns(NAMES)))
    with pytest.raises(UserError, match="has no rows"):
        read_source(save(table()[:0], tmp_path / "empty.parquet"), external())


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["obs"], "ROLE=NAME"),
        (["state=x"], "with a role of obs, act"),
        (["obs=x", "obs=y"], "named twice"),
        (["reward=a,b"], "reward is one column"),
        (["reward="], "reward is one column"),
        (["obs="], "obs needs at least one column"),
    ],
)
def test_a_wrong_map_of_columns_is_refused(pairs: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_columns(pairs)
