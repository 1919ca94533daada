"""Tables of other programs, whose columns the user names."""

from __future__ import annotations

from dataclasses import replace
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
from dosing.studies import DataSource
from dosing.studies.data import obtain_data

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
    assert result.metadata.obs_names == ("age", "level")
    assert result.metadata.dose_name == "dose"
    assert result.metadata.rows_left_out == 2


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


IDENTIFIERS = {
    "leading zeros": ["01", "1", "001"],
    "dots": ["1.1", "1.10", "1.100"],
    "exponents": ["1e2", "100", "1E2"],
    "twenty digits": ["12345678901234567890", "12345678901234567891", "12345678901234567892"],
    "dates": ["2024-01-02", "2024-1-2", "02.01.2024"],
    "words": ["true", "True", "NaN"],
}


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
@pytest.mark.parametrize("kind", IDENTIFIERS)
def test_identifiers_are_texts_whatever_they_look_like(tmp_path: Path, kind: str, name: str) -> None:
    frame = pd.DataFrame({"who": np.repeat(IDENTIFIERS[kind], 2), "age": range(6), "level": range(6)})
    frame = frame.assign(dose=[1.0, 2, 3, 4, 5, 6], gain=range(6), died=[0] * 6)
    for typed in (frame, frame.astype({"who": "category"}) if name.endswith("parquet") else frame):
        result = read_source(save(typed, tmp_path / name), external())
        np.testing.assert_array_equal(result.obs[:, 0], [0, 2, 4])
        np.testing.assert_array_equal(result.next_obs[:, 0], [1, 3, 5])  # never that of another patient
        assert result.metadata.patients == 3


def test_identifiers_that_were_rounded_before_are_refused(tmp_path: Path) -> None:
    for values in ([1.1] * 2 + [1.5] * 4, [1e17] * 2 + [1e18] * 4):
        frame = table().drop(columns="note").assign(who=values)
        with pytest.raises(UserError, match="identifiers must be texts or whole numbers"):
            read_source(save(frame, tmp_path / "x.parquet"), external())
    whole = table().drop(columns="note").assign(who=[1.0, 1, 2, 2, 2, 3])  # pandas makes them of gaps
    assert read_source(save(whole, tmp_path / "x.parquet"), external()).metadata.patients == 2


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
@pytest.mark.parametrize(("no", "yes"), [("False", "True"), ("no", "yes"), ("0", "1"), ("NO", "Yes")])
def test_flags_are_words_of_their_role(tmp_path: Path, name: str, no: str, yes: str) -> None:
    frame = table().drop(columns="note").assign(died=[no, yes, no, no, no, no])
    assert read_source(save(frame, tmp_path / name), external()).terminated.tolist() == [
        False,
        True,
        False,
        False,
    ]
    frame.loc[3, "died"] = "maybe"
    with pytest.raises(UserError, match="died of row 4 is 'maybe'; it must be true or false, yes or no"):
        read_source(save(frame, tmp_path / name), external())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([True, False] * 3, "must be numbers, it holds bool"),
        (pd.Categorical(["male", "female"] * 3), "must be numbers, it holds"),
        (pd.date_range("2024-01-01", periods=6), "must be numbers, it holds timestamp"),
        ([str(k) for k in range(6)], "must be numbers, it holds"),
    ],
    ids=["flags", "categories", "dates", "texts"],
)
def test_a_state_is_a_number_and_never_a_guess(tmp_path: Path, values: Any, message: str) -> None:
    frame = table().drop(columns="note").assign(level=values)
    with pytest.raises(UserError, match=f"level {message}"):
        read_source(save(frame, tmp_path / "x.parquet"), external())
    codes = pd.Categorical([1.5, 2.5, 1.5, 2.5, 3.5, 1.5])  # categories of numbers are these numbers
    result = read_source(save(frame.assign(level=codes), tmp_path / "x.parquet"), external())
    np.testing.assert_array_equal(result.obs[:, 1], [1.5, 2.5, 1.5, 2.5])


def test_names_with_commas_stand_in_quotes() -> None:
    assert parse_columns(['reward="Gewinn, roh"', 'obs="a, b",c']) == {
        "reward": ("Gewinn, roh",),
        "obs": ("a, b", "c"),
    }


def epochs(start: float, step: float) -> pd.DataFrame:
    frame = pd.DataFrame({"who": np.repeat(["a", "b"], 24), "age": np.repeat([40.0, 50.0], 24)})
    rng = np.random.default_rng(0)
    frame = frame.assign(dose=rng.uniform(0, 10, 48), gain=rng.normal(size=48), died=0)
    return frame.assign(level=start + step * np.arange(48))


@pytest.mark.parametrize("start", [1.7e9, -1.7e9, 1e13])
def test_states_that_single_precision_cannot_tell_apart_are_refused(tmp_path: Path, start: float) -> None:
    path = save(epochs(start, 60.0), tmp_path / "x.parquet")
    with pytest.raises(
        UserError, match=r"level .* has 48 different values, of which single .*subtract a const"
    ):
        read_source(path, external())
    near = save(epochs(start, 60.0).assign(level=lambda f: f["level"] - start), tmp_path / "y.parquet")
    assert len(np.unique(read_source(near, external()).obs[:, 1])) == 46


@pytest.mark.parametrize(("start", "step"), [(1.7e9, 86400.0), (310.15, 0.25), (2.5e11, 1e9), (0.0, 1e-30)])
def test_states_that_it_can_tell_apart_are_read(tmp_path: Path, start: float, step: float) -> None:
    result = read_source(save(epochs(start, step), tmp_path / "x.parquet"), external())
    assert len(np.unique(result.obs[:, 1])) == 46


def test_arithmetic_noise_on_a_constant_is_no_measurement(tmp_path: Path) -> None:
    frame = epochs(1.0, 1e-15).assign(more=np.arange(48.0))
    names = ("obs=level,more", *NAMES[1:])
    with pytest.raises(UserError, match=r"level is 1 in every row"):
        read_source(save(frame.assign(level=1.0), tmp_path / "x.parquet"), external(names=names))
    assert len(read_source(save(frame, tmp_path / "x.parquet"), external(names=names))) == 46


@pytest.mark.parametrize(("column", "name"), [("dose", "dose"), ("level", "level")])
def test_a_column_that_never_changes_teaches_nothing(tmp_path: Path, column: str, name: str) -> None:
    path = save(table().assign(**{column: 2.5}), tmp_path / "x.csv")
    with pytest.raises(UserError, match=f"{name} is 2.5 in every row"):
        read_source(path, external())


def test_doses_beyond_a_limit_by_rounding_are_put_there_when_asked_and_counted(tmp_path: Path) -> None:
    frame = table()
    frame.loc[[1, 4], "dose"] = [10.0000003, -1e-7]
    path = save(frame, tmp_path / "x.csv")
    with pytest.raises(UserError, match=r"2 of 6 rows do, none by more than rounding; --clip-rounding"):
        read_source(path, external())
    result = read_source(path, replace(external(), clip_rounding=True))
    assert result.metadata.doses_clipped == 2
    np.testing.assert_array_equal(result.act[:, 0], [0, 10, 2.5, 2.5])
    frame.loc[2, "dose"] = 12.0
    with pytest.raises(
        UserError, match=r"action \[12.0\] of row 3 .* 3 of 6 rows do, 1 of them by more than"
    ):
        read_source(save(frame, tmp_path / "x.csv"), replace(external(), clip_rounding=True))


def test_recorded_costs_are_kept(tmp_path: Path) -> None:
    frame = table().assign(harm=[0, 1, 0, 0.5, 7, 8])
    result = read_source(save(frame, tmp_path / "x.csv"), external("cost=harm"))
    np.testing.assert_array_equal(result.cost, [0, 1, 0, 0.5])
    assert np.isnan(read_source(tmp_path / "x.csv", external()).cost).all()


def test_a_column_of_another_name_makes_another_copy(tmp_path: Path) -> None:
    path = save(table().assign(weight=lambda f: f["level"]), tmp_path / "x.csv")
    kept = {
        obtain_data(DataSource(str(path), external=external(names=names)), tmp_path)
        for names in (NAMES, NAMES, ("obs=age,weight", *NAMES[1:]))
    }
    assert len(kept) == 2
