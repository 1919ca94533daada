"""D4RL files of other programs: boundaries, bootstrapping, and one clear sentence for every broken file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from dosing.data.dataset import Dataset
from dosing.data.external import External
from dosing.data.sources import read_source
from dosing.data.store import Episodes, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.safety import DoseLimits

UNIT = External(limits=DoseLimits((-1.0, -1.0), (1.0, 1.0)))
Arrays = dict[str, np.ndarray[Any, Any]]

LENGTHS = (("terminated", 4), ("timeout", 5), ("timeout", 1), ("terminated", 1), ("cut", 3))
"""Episodes of the small file: how each ends, and its visits; the last is cut by the end of the file."""


def walk(lengths: tuple[tuple[str, int], ...] = LENGTHS, n_obs: int = 3, n_act: int = 2) -> Arrays:
    """A file's arrays in the v2 layout; observation j of episode e is 100 e + j in every entry."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {
        k: [] for k in ("observations", "next_observations", "terminals", "timeouts")
    }
    for number, (ending, length) in enumerate(lengths):
        for j in range(length):
            rows["observations"].append(np.full(n_obs, 100 * number + j))
            rows["next_observations"].append(np.full(n_obs, 100 * number + j + 1))
            rows["terminals"].append(ending == "terminated" and j == length - 1)
            rows["timeouts"].append(ending == "timeout" and j == length - 1)
    arrays: Arrays = {k: np.array(v, dtype=bool if k[0] == "t" else np.float32) for k, v in rows.items()}
    count = len(arrays["terminals"])
    arrays["actions"] = rng.uniform(-1, 1, (count, n_act)).astype(np.float32)
    arrays["rewards"] = rng.standard_normal(count).astype(np.float32)
    return arrays


def write(path: Path, arrays: Arrays, leave_out: tuple[str, ...] = ()) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if name not in leave_out:
                file[name] = values
    return path


def qlearning_dataset(arrays: Arrays, horizon: int | None = None) -> list[tuple[int, int, bool]]:
    """Row, row of the next observation and termination of every transition, one row after the other.

    As d4rl/__init__.py describes it (``terminate_on_end=False``), episodes counted from their own first row.
    """
    result, step = [], 0
    for i in range(len(arrays["rewards"]) - 1):
        final = bool(arrays["timeouts"][i]) if horizon is None else step == horizon - 1
        done = bool(arrays["terminals"][i])
        if final and not done:
            step = 0
            continue
        result.append((i, i + 1, done))
        step = 0 if done else step + 1
    return result


def test_next_observations_are_used_and_a_time_out_bootstraps(tmp_path: Path) -> None:
    arrays = walk()
    result = read_source(write(tmp_path / "x.hdf5", arrays), UNIT)
    np.testing.assert_array_equal(result.obs, arrays["observations"])
    np.testing.assert_array_equal(result.next_obs, arrays["next_observations"])
    np.testing.assert_array_equal(result.act, arrays["actions"])
    np.testing.assert_array_equal(result.reward, arrays["rewards"])
    np.testing.assert_array_equal(np.bincount(result.episode), [4, 5, 1, 1, 3])
    np.testing.assert_array_equal(np.flatnonzero(result.terminated), [3, 10])
    np.testing.assert_array_equal(np.flatnonzero(result.truncated), [8, 9, 13])
    np.testing.assert_array_equal(result.step[result.episode == 1], range(5))
    dataset = Dataset.from_episodes(result)
    assert dataset.starts.tolist() == [0, 4, 9, 10, 11, 14]
    assert torch.equal(dataset.terminated, torch.as_tensor(arrays["terminals"], dtype=torch.float32))
    assert np.isnan(result.cost).all()  # a file of another program tells none
    assert result.metadata.rows_left_out == 0


def test_without_next_observations_the_next_row_is_next_and_a_time_out_is_left_out(tmp_path: Path) -> None:
    arrays = walk()
    path = write(tmp_path / "x.hdf5", arrays, ("next_observations",))
    result = read_source(path, UNIT)
    expected = qlearning_dataset(arrays)
    rows = [i for i, _, _ in expected]
    np.testing.assert_array_equal(result.obs, arrays["observations"][rows])
    np.testing.assert_array_equal(result.act, arrays["actions"][rows])
    np.testing.assert_array_equal(result.terminated, [done for _, _, done in expected])
    for k, (_, following, done) in enumerate(expected):
        if not done:
            np.testing.assert_array_equal(result.next_obs[k], arrays["observations"][following])
    inside = result.episode[1:] == result.episode[:-1]
    np.testing.assert_array_equal(result.obs[1:][inside], result.next_obs[:-1][inside])  # never merged
    np.testing.assert_array_equal(np.bincount(result.episode), [4, 4, 1, 2])
    np.testing.assert_array_equal(np.flatnonzero(result.truncated), [7, 10])
    assert result.metadata.rows_left_out == 3


@pytest.mark.parametrize("next_obs", [True, False])
def test_files_without_time_outs(tmp_path: Path, next_obs: bool) -> None:
    arrays = walk((("terminated", 3), ("timeout", 5), ("timeout", 5), ("terminated", 2), ("timeout", 5)))
    drop = ("timeouts",) if next_obs else ("timeouts", "next_observations")
    path = write(tmp_path / "x.hdf5", arrays, drop)
    if next_obs:  # the jump between rows is the boundary
        result = read_source(path, UNIT)
        np.testing.assert_array_equal(np.bincount(result.episode), [3, 5, 5, 2, 5])
        np.testing.assert_array_equal(np.flatnonzero(result.truncated), [7, 12, 19])
        return
    with pytest.raises(UserError, match="neither timeouts nor next_observations"):
        read_source(path, UNIT)
    result = read_source(path, External(limits=UNIT.limits, horizon=5))
    rows = [i for i, _, _ in qlearning_dataset(arrays, horizon=5)]
    np.testing.assert_array_equal(result.obs, arrays["observations"][rows])
    np.testing.assert_array_equal(np.bincount(result.episode), [3, 4, 4, 2, 4])


def test_a_last_row_that_terminates_is_kept(tmp_path: Path) -> None:
    arrays = walk((("timeout", 2), ("terminated", 3)))
    result = read_source(write(tmp_path / "x.hdf5", arrays, ("next_observations",)), UNIT)
    np.testing.assert_array_equal(result.terminated, [False, False, False, True])
    np.testing.assert_array_equal(result.next_obs[-1], result.obs[-1])


def test_a_termination_at_the_time_limit_is_a_termination(tmp_path: Path) -> None:
    arrays = walk((("terminated", 4), ("terminated", 4)))
    arrays["timeouts"][3] = True
    for left_out in ((), ("next_observations",)):
        result = read_source(write(tmp_path / "x.hdf5", arrays, left_out), UNIT)
        np.testing.assert_array_equal(np.flatnonzero(result.terminated), [3, 7])
        assert not result.truncated.any()


def test_columns_of_width_one_log_densities_and_limits(tmp_path: Path) -> None:
    arrays = walk()
    arrays["infos/action_log_probs"] = np.linspace(-2, 0, len(arrays["rewards"]))
    arrays["rewards"], arrays["terminals"] = arrays["rewards"][:, None], arrays["terminals"][:, None]
    result = read_source(write(tmp_path / "x.hdf5", arrays), UNIT)
    assert result.reward.shape == result.terminated.shape == (14,)
    np.testing.assert_allclose(result.behaviour_log_prob, np.linspace(-2, 0, 14), rtol=1e-6)
    with pytest.raises(UserError, match="name its environment"):
        read_source(tmp_path / "x.hdf5")
    with pytest.raises(UserError, match=r"has 2 action\(s\) per visit, the limits are for 1"):
        read_source(tmp_path / "x.hdf5", External(limits=DoseLimits((-1.0,), (1.0,))))


def test_what_was_read_can_be_kept_and_read_again(tmp_path: Path) -> None:
    result = read_source(
        write(tmp_path / "x.hdf5", walk()),
        External(limits=UNIT.limits, env_id="Some-v5", env_options={"a": 1}),
    )
    for name in ("own.hdf5", "own.parquet", "own.csv"):
        write_episodes(result, tmp_path / name)
        again = read_source(tmp_path / name)
        assert again.content_hash() == result.content_hash()
        assert again.metadata.env_id == "Some-v5"
        assert again.metadata.source["layout"] == "D4RL"
        with pytest.raises(UserError, match="was made by this program"):
            read_source(tmp_path / name, UNIT)


def test_unmarked_jumps_split_only_when_asked(tmp_path: Path) -> None:
    arrays = walk()
    arrays["next_observations"][1] += 1.0
    path = write(tmp_path / "x.hdf5", arrays)
    with pytest.raises(UserError, match=r"next observation of row 2 is not the observation of row 3.*1 rows"):
        read_source(path, UNIT)
    result = read_source(path, External(limits=UNIT.limits, split_at_jumps=True))
    np.testing.assert_array_equal(np.bincount(result.episode), [2, 2, 5, 1, 1, 3])
    assert result.truncated[1]


def put(name: str, row: int, value: float, kind: type = np.float32) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = arrays[name].astype(kind)
        arrays[name][row] = value

    return change


BROKEN: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "a missing key": (lambda a: a.pop("rewards"), "lacks rewards; the D4RL layout has"),
    "lengths that differ": (lambda a: a.update(actions=a["actions"][:-1]), "one length, got .*actions 13"),
    "a NaN": (put("observations", 5, np.nan), r"observations of row 6 is \[nan.*must be finite"),
    "an infinite reward": (put("rewards", 2, np.inf), "rewards of row 3 is inf"),
    "a number beyond single precision": (put("rewards", 3, 1e300, np.float64), "rewards of row 4 is inf"),
    "a wrong shape": (
        lambda a: a.update(observations=a["observations"][:, 0]),
        r"observations must have shape \[rows, width\], got \[14\]",
    ),
    "an image": (
        lambda a: a.update(actions=np.zeros((14, 2, 2), np.float32)),
        r"actions must have shape \[rows, width\], got \[14, 2, 2\]",
    ),
    "text": (lambda a: a.update(rewards=np.array([b"one"] * 14)), "rewards must be numbers"),
    "actions outside the limits": (put("actions", 7, 1.5), r"action \[1.5, 1.5\] of row 8 .* 1 of 14 rows"),
    "terminals that are not yes or no": (put("terminals", 4, 0.5), "terminals of row 5 is 0.5; it must be"),
    "timeouts that are not yes or no": (put("timeouts", 4, 2, np.int8), "timeouts of row 5 is 2; it must be"),
    "no rows": (lambda a: a.update({k: v[:0] for k, v in a.items()}), "has no rows"),
    "next observations of another width": (
        lambda a: a.update(next_observations=a["next_observations"][:, :2]),
        r"next observations have shape \[14, 2\], observations \[14, 3\]",
    ),
    "next observations that are not next": (
        lambda a: a.update(next_observations=a["observations"]),
        "next observation of row 1 is not the observation of row 2",
    ),
    "log densities of another shape": (
        lambda a: a.update({"infos/action_log_probs": np.zeros((14, 2))}),
        r"log densities of actions must be numbers of shape \[14\]",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_with_what_is_wrong_in_it(tmp_path: Path, what: str) -> None:
    arrays = walk()
    break_it, message = BROKEN[what]
    break_it(arrays)
    with pytest.raises(UserError, match=message) as caught:
        read_source(write(tmp_path / "x.hdf5", arrays), UNIT)
    assert "x.hdf5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_whole_hdf5_file_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.hdf5", walk()).read_bytes()
    for name, content in (("text", b"observations\n"), ("nothing", b""), ("cut", whole[: len(whole) // 2])):
        path = tmp_path / f"{name}.hdf5"
        path.write_bytes(content)
        with pytest.raises(UserError, match="truncated or not an episode file"):
            read_source(path, UNIT)
    with pytest.raises(UserError, match="does not exist"):
        read_source(tmp_path / "absent.hdf5", UNIT)
    with h5py.File(tmp_path / "group.hdf5", "w") as file:
        for name in walk():
            file.create_group(name)
    with pytest.raises(UserError, match="must be an array, it is a group"):
        read_source(tmp_path / "group.hdf5", UNIT)


def real_files() -> list[Path]:
    folder = os.environ.get("DOSING_MUJOCO_DATA")
    return sorted(Path(folder).glob("*.hdf5")) if folder else []


@pytest.mark.skipif(not real_files(), reason="DOSING_MUJOCO_DATA names no folder with D4RL files")
@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.stem)
def test_real_files_lose_no_row_and_no_boundary(path: Path) -> None:
    with h5py.File(path) as file:
        arrays: Arrays = {name: file[name][()] for name in walk() if name in file}
    n_act = arrays["actions"].shape[1]
    external = External(limits=DoseLimits((-1.0,) * n_act, (1.0,) * n_act))
    result = read_source(path, external)
    ends = arrays["terminals"] | arrays["timeouts"]
    ends[-1] = True
    np.testing.assert_array_equal(result.terminated | result.truncated, ends)
    np.testing.assert_array_equal(result.terminated, arrays["terminals"])
    np.testing.assert_array_equal(result.next_obs, arrays["next_observations"])


def test_the_store_reads_its_own_files_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another program"):
        read_episodes(write(tmp_path / "x.hdf5", walk()))
    assert isinstance(read_source(tmp_path / "x.hdf5", UNIT), Episodes)
