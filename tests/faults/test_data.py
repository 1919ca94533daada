"""Faults of files of visits and of tables of patients: refused in one sentence, or read exactly."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from dosing.cli.main import main
from dosing.data.columns import parse_columns
from dosing.data.external import External
from dosing.data.sources import read_source
from dosing.data.store import read_episodes, write_episodes
from dosing.data.text_table import Refused
from dosing.errors import UserError
from dosing.recommendation import patient_table
from dosing.recommendation.patient_table import numbers, read
from dosing.recommendation.records import StateEntry
from dosing.safety import DoseLimits
from dosing.studies import DataSource
from dosing.studies.data import check_spaces, describe, external_of, obtain_data
from tests.support.samples import ENV, cohort

ROLES = ("obs=age,level", "act=dose", "reward=gain", "episode=who", "terminated=died", "step=visit")
LIMITS = DoseLimits((0.0,), (10.0,))
ENTRIES = [StateEntry("age", "y", 18, 100), StateEntry("level", "mg/L", 0, 100)]
UP = "." * 2
SAME = {"age": "age", "level": "level"}


def visits() -> pd.DataFrame:
    """Three patients, three visits each; one dies."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "who": np.repeat(["01", "1", "1.10"], 3),
            "visit": [1, 2, 3] * 3,
            "age": np.repeat([40.5, 61.0, 52.25], 3),
            "level": rng.uniform(10, 60, 9).round(2),
            "dose": rng.uniform(0, 10, 9).round(2),
            "gain": rng.normal(size=9).round(3),
            "died": [False] * 5 + [True] + [False] * 3,
        }
    )


def train_reads(path: Path, *roles: str, **said: Any) -> Any:
    columns = parse_columns(roles or ROLES)
    return read_source(path, External(**({"limits": LIMITS, "columns": columns} | said)))


def upload_reads(content: bytes, suffix: str = ".csv") -> Any:
    sheet = read(content, suffix, ["age", "level", "dose", "gain", "died", "who", "visit"])
    return numbers(sheet, SAME, ENTRIES)


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def as_csv(frame: pd.DataFrame, **options: Any) -> bytes:
    return frame.to_csv(index=False, **options).encode()


def test_fault_01_every_missing_column_is_named_at_once(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.csv", as_csv(visits().drop(columns=["level", "gain"])))
    with pytest.raises(UserError, match="has no column 'level', 'gain'; it has: who, visit, age, dose, died"):
        train_reads(path)
    with pytest.raises(Refused, match="No column was chosen for age, level"):
        numbers(read(b"x,y\n1,2\n", ".csv"), {}, ENTRIES)
    assert len(train_reads(saved(tmp_path / "more.csv", as_csv(visits().assign(note="x"))))) == 7


def test_fault_02_duplicate_columns_and_visits_are_refused(tmp_path: Path) -> None:
    twice = as_csv(visits()).replace(b"\n", b",1\n").replace(b"died,1", b"died,level", 1)
    for reads in (lambda: train_reads(saved(tmp_path / "x.csv", twice)), lambda: upload_reads(twice)):
        with pytest.raises(UserError, match="'level'"):
            reads()
    frame = visits()
    frame.loc[2, "visit"] = 2
    with pytest.raises(UserError, match="visit does not rise at row 3"):
        train_reads(saved(tmp_path / "y.csv", as_csv(frame)))


@pytest.mark.parametrize(
    "written",
    [
        as_csv(visits()),
        b"\xef\xbb\xbf" + as_csv(visits()),
        as_csv(visits(), lineterminator="\r\n"),
        as_csv(visits(), sep=";", decimal=","),
        as_csv(visits(), sep="\t", decimal=","),
        b"sep=;\n" + as_csv(visits(), sep=";"),
        as_csv(visits(), quoting=csv.QUOTE_ALL) + b"\n\n",
    ],
    ids=["plain", "mark", "windows", "semicolons", "tabs", "sep", "quotes"],
)
def test_fault_03_what_spreadsheets_write_is_read_alike_by_training_and_upload(
    written: bytes, tmp_path: Path
) -> None:
    for name in ("x.csv", "x.CSV"):
        result = train_reads(saved(tmp_path / name, written))
        np.testing.assert_array_equal(
            result.act[:, 0], visits()["dose"].to_numpy(np.float32)[[0, 1, 3, 4, 5, 6, 7]]
        )
    for suffix in (".csv", ".CSV"):
        np.testing.assert_array_equal(upload_reads(written, suffix), visits()[["age", "level"]])


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            b"who;age;level\n1;40;1,000\n",
            "'1,000' may have a decimal comma or a mark between thousands",
        ),
        (b"who;age;level\n1;40,5;1.5\n", "'1.5' has a decimal point where other numbers"),
        (b'who,age,level\n1,40,"2,5"\n', "'2,5' has a comma; write a decimal point"),
        (b"who,age,level\n1,40,2,5\n", "Row 1 has 4 values, the header 3: are there decimal commas"),
        ("who,age,Höhe,level\n1,40,1,2\n".encode("latin-1"), "Line 1 holds byte 0xf6: not UTF-8"),
        ("who,age,level\n1,40,2\n".encode("utf-16"), "in UTF-16"),
        (b'who,age,level\n1,40,"2\n3,41,3\n', "no CSV file"),
    ],
    ids=["thousands", "mixed", "quoted comma", "bare comma", "latin-1", "utf-16", "open quote"],
)
def test_fault_03_what_could_be_read_in_two_ways_is_refused_by_both(
    written: bytes, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        upload_reads(written)
    roles = ("obs=level", "act=age", "reward=level", "episode=who", "terminated=")
    with pytest.raises(UserError, match=says):
        train_reads(saved(tmp_path / "x.csv", written), *roles)


@pytest.mark.parametrize("word", ["<1.1", ">600", "HI", "LO", "NULL", "1_0", "0x10", "=1+1", "2,5"])
def test_fault_04_text_in_a_column_of_numbers_is_refused_with_row_and_value(
    word: str, tmp_path: Path
) -> None:
    frame = visits().astype({"level": object})
    frame.loc[4, "level"] = word
    content = as_csv(frame)
    with pytest.raises(UserError, match=f"level of row 5: '{word}'".replace("+", r"\+")):
        train_reads(saved(tmp_path / "x.csv", content))
    with pytest.raises(Refused, match=f"Row 5, level: '{word}'".replace("+", r"\+")):
        upload_reads(content)


def test_fault_05_a_column_in_another_unit_is_refused(tmp_path: Path) -> None:
    frame = visits().assign(level=visits()["level"] * 1000)
    path = saved(tmp_path / "x.csv", as_csv(frame))
    with pytest.raises(
        UserError, match=r"level of row 1 is .*possible are 0 to 100; 9 of 9 rows.*another unit"
    ):
        train_reads(path, obs_range=((18.0, 0.0), (100.0, 100.0)))
    data = cohort()
    names = [f"s{k}" for k in range(1, 9)]
    table = pd.DataFrame(data.obs * 1000, columns=names)
    table = table.assign(dose=data.act[:, 0], gain=data.reward, who=data.episode)
    table.to_parquet(tmp_path / "x.parquet")
    columns = ["obs=" + ",".join(names), "act=dose", "reward=gain", "episode=who", "terminated="]
    with pytest.raises(UserError, match="Is it in another unit"):
        read_source(tmp_path / "x.parquet", external_of(ENV, {}, columns=columns))


@pytest.mark.parametrize(
    ("value", "says"),
    [(np.nan, "gain of row 2 is (empty|nan)"), (np.inf, "gain of row 2 is inf"), (1e300, "is inf")],
)
def test_fault_16_rewards_that_are_no_numbers_never_reach_training(
    value: float, says: str, tmp_path: Path
) -> None:
    frame = visits()
    frame.loc[1, "gain"] = value
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=says):
        train_reads(tmp_path / "x.parquet")


WRONG_CONTENT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "another kind": lambda content: b"PK\x03\x04" + content,
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
}


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.hdf5"])
@pytest.mark.parametrize("damage", WRONG_CONTENT)
def test_fault_22_a_file_of_the_right_name_and_wrong_content_is_one_sentence(
    name: str, damage: str, tmp_path: Path
) -> None:
    write_episodes(cohort(), tmp_path / name)
    saved(tmp_path / name, WRONG_CONTENT[damage]((tmp_path / name).read_bytes()))
    for reads in (read_episodes, lambda path: train_reads(path, limits=DoseLimits((-1.0,), (1.0,)))):
        with pytest.raises(UserError) as caught:
            reads(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_fault_22_a_small_file_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for key, shape in (("observations", (40_000_000, 30)), ("actions", (40_000_000, 1))):
            file.create_dataset(key, shape=shape, dtype="f8", chunks=(1024, shape[1]), compression="gzip")
        for key in ("rewards", "terminals"):
            file.create_dataset(key, shape=(40_000_000,), dtype="f4", chunks=(1024,), compression="gzip")
    assert (tmp_path / "x.hdf5").stat().st_size < 10_000
    with pytest.raises(UserError, match=r"declares 9\.5 GiB of numbers and stores 0 bytes"):
        train_reads(tmp_path / "x.hdf5", columns={})


FULL_DISK = """
import resource, signal, sys
from dosing.data.store import write_episodes
from dosing.errors import UserError
from simulator.cohorts.generate import simulate
data = simulate("dosing/Treatment-v0", patients=300)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_episodes(data, sys.argv[1])
except UserError as error:
    print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.hdf5"])
def test_fault_24_a_full_disk_is_one_sentence_and_the_old_file_stays(name: str, tmp_path: Path) -> None:
    saved(tmp_path / name, b"what was there")
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert f"{name} cannot be written: " in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"what was there"


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.hdf5"])
def test_fault_24_what_a_killed_process_left_is_removed_and_what_lives_is_not(
    name: str, tmp_path: Path
) -> None:
    for left in (f".{name}.0123.partial", f".{name}.0123.partial.rows"):
        saved(tmp_path / left, b"half")
    other = saved(tmp_path / f".other-{name}.0123.partial", b"half")
    from dosing.data.formats import open_sink

    writing = open_sink(tmp_path / name, {})
    write_episodes(cohort(), tmp_path / name)
    assert len(list(tmp_path.glob(f".{name}.*.partial"))) == 1  # that of the sink that is open
    writing.discard()
    assert {path.name for path in tmp_path.iterdir()} == {name, other.name}


@pytest.mark.parametrize(
    "name", [f"{UP}/x", "/etc/x-v0", f"a/{UP}/{UP}/x-v0", "C:\\x-v0", "a\\b-v0", f"a/b-v0/{UP}/c-v1"]
)
def test_fault_26_a_name_never_leaves_its_folder(name: str, tmp_path: Path) -> None:
    pytest.importorskip("minari")
    with pytest.raises(UserError, match="no local Minari data set"):
        read_source(f"minari:{name}")
    with pytest.raises(UserError, match="is not a Minari id"):
        write_episodes(cohort(), f"minari:{name}")


def test_fault_27_a_huge_table_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_table, "MOST_ROWS", 3)
    with pytest.raises(Refused, match="more than 3 rows"):
        upload_reads(as_csv(visits()))
    monkeypatch.setattr(patient_table, "MOST_BYTES", 20)
    with pytest.raises(Refused, match="at most 20 are read"):
        upload_reads(as_csv(visits()))
    wide = ",".join(f"x{k}" for k in range(30_000)).encode()
    path = saved(tmp_path / "x.csv", wide + b"\n" + b"not a row\n" * 3)
    with pytest.raises(UserError, match="has 30,000 columns; at most 10,000 are read"):
        train_reads(path)


def test_fault_28_no_cell_of_a_csv_file_of_ours_is_a_formula(tmp_path: Path) -> None:
    data = cohort()
    names = ["=1+1", "+cmd", "-x", "@y", *(f"s{k}" for k in range(4))]
    write_episodes(replace(data, metadata=replace(data.metadata, obs_names=tuple(names))), tmp_path / "x.csv")
    lines = (tmp_path / "x.csv").read_text().splitlines()
    for cell in next(csv.reader(lines[1:2])) + list(next(csv.reader(lines[2:3]))):
        assert cell[:1] not in ("=", "+", "@")
        assert cell[:1] != "-" or float(cell) < 0
    assert lines[0].startswith("# dosing ")


def test_fault_33_evaluation_patients_are_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "bc",
        "--data",
        ENV,
        "--env-option",
        "cohort=evaluation",
        "--patients",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert main(["train", *words, "--seeds", "1", "--steps", "2", "--device", "cpu"]) == 2
    assert "holds evaluation patients" in capsys.readouterr().err


def test_fault_34_the_best_and_the_worst_reward_are_shown_with_their_doses(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.csv", as_csv(visits()))
    roles = list(ROLES)
    external = external_of(None, {}, low=[0.0], high=[10.0], columns=roles)
    kept = obtain_data(DataSource(str(path), external=external), tmp_path)
    data = read_episodes(kept)
    worst, best = int(data.reward.argmin()), int(data.reward.argmax())
    told = describe(kept, tmp_path)
    assert "3 patients, 9 visits, 2 of them left out" in told
    assert f"worst reward {data.reward[worst]:g} (visit {worst + 1}, dose {data.act[worst, 0]:g})" in told
    assert f"best reward {data.reward[best]:g} (visit {best + 1}, dose {data.act[best, 0]:g})" in told
    alike = dataclasses.replace(data, reward=np.full_like(data.reward, 2.0))
    write_episodes(alike, tmp_path / "alike.parquet")
    told = describe(tmp_path / "alike.parquet", tmp_path)
    assert told.endswith("every reward is 2: these rewards say nothing about doses")


def test_fault_36_the_end_of_a_process_and_of_a_recording_stay_two_things(tmp_path: Path) -> None:
    result = train_reads(saved(tmp_path / "x.csv", as_csv(visits())))
    np.testing.assert_array_equal(np.flatnonzero(result.terminated), [4])
    np.testing.assert_array_equal(np.flatnonzero(result.truncated), [1, 6])
    with pytest.raises(UserError, match="name its columns of terminated"):
        train_reads(tmp_path / "x.csv", *ROLES[:4])
    late = visits()
    late.loc[0, "died"] = True
    with pytest.raises(UserError, match="goes on after it terminated at row 1"):
        train_reads(saved(tmp_path / "y.csv", as_csv(late)))


def test_fault_37_no_dose_is_learned_from_what_was_measured_after_it(tmp_path: Path) -> None:
    frame = visits()
    result = train_reads(saved(tmp_path / "x.csv", as_csv(frame)), *ROLES)
    rows = [0, 1, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(result.obs[:, 1], frame["level"].to_numpy(np.float32)[rows])
    going_on = ~result.terminated
    np.testing.assert_array_equal(
        result.next_obs[going_on, 1], frame["level"].to_numpy(np.float32)[np.array(rows)[going_on] + 1]
    )
    swapped = frame.iloc[[1, 0, *range(2, 9)]]
    with pytest.raises(UserError, match="have to stand in order of time"):
        train_reads(saved(tmp_path / "y.csv", as_csv(swapped)))


def test_fault_41_times_need_their_zone_and_order_is_that_of_instants(tmp_path: Path) -> None:
    local = pd.date_range(
        "2024-10-27 01:30", periods=3, freq="30min", tz="Europe/Berlin"
    )  # the clock goes back
    frame = visits().assign(visit=list(local) * 3)
    frame.to_parquet(tmp_path / "x.parquet")
    written = saved(tmp_path / "x.csv", as_csv(frame.assign(visit=frame["visit"].astype(str))))
    for path in (tmp_path / "x.parquet", written):
        assert len(train_reads(path)) == 7
    naive = frame.assign(visit=[time.replace(tzinfo=None) for time in frame["visit"]])
    naive.to_parquet(tmp_path / "y.parquet")
    with pytest.raises(UserError, match="have no zone"):
        train_reads(tmp_path / "y.parquet")
    with pytest.raises(UserError, match="times with their zone"):
        train_reads(saved(tmp_path / "y.csv", as_csv(naive.assign(visit=naive["visit"].astype(str)))))


@pytest.mark.parametrize("name", ["patient_name", "birth_date", "MRN", "e-mail"])
def test_behaviour_20_columns_that_name_people_are_rejected_by_name(name: str, tmp_path: Path) -> None:
    frame = visits().assign(**{name: range(9)})
    path = saved(tmp_path / "x.csv", as_csv(frame))
    with pytest.raises(UserError, match=f"'{name}' looks as if it identified people"):
        train_reads(path, f"obs=age,{name}", *ROLES[1:])
    with pytest.raises(Refused, match=f"identified people: '{name}'"):
        upload_reads(path.read_bytes())


def test_data_of_another_environment_are_refused_before_training() -> None:
    data = cohort()
    check_spaces("x", data)
    wide = replace(data.metadata, card={}, action_low=(-2.0,), action_high=(2.0,))
    with pytest.raises(UserError, match=r"x has actions from \[-2.0\] to \[2.0\].*under a wrapper"):
        check_spaces("x", replace(data, metadata=wide))
    with pytest.raises(UserError, match=r"x has 8 numbers per observation, dosing/LiI-v0 2"):
        check_spaces(
            "x",
            replace(data, metadata=replace(data.metadata, card={}, env_id="dosing/LiI-v0", env_options={})),
        )
