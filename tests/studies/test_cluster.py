"""Jobs of a cluster: submitted once, found by any command, lost ones again, bad input in one sentence."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dosing.errors import UserError
from dosing.runs.files import read_json
from dosing.runs.folder import DONE, RunBusyError, RunFolder
from dosing.studies import Resources, cluster
from dosing.studies.cluster import Cluster, Outcome, Task
from dosing.studies.launch import JobLostError
from dosing.studies.ledger import LEDGER, Ledger, only_command
from dosing.training.offline import TrainingDivergedError
from dosing.typed_json import typed


@dataclass(frozen=True)
class Small:
    """A job that is killed in its first so many tries."""

    study: Path
    name: str
    killed: int = 0
    refused: bool = False


def small(job: Small, position: int) -> RunFolder:
    """Note the try in the study; then make a run that verifies nothing but is there, or do not."""
    with (job.study / job.name).open("a") as notes:
        notes.write("x")
    if (job.study / job.name).stat().st_size <= job.killed:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.refused:
        raise UserError(f"{job.name} is no good.")
    return RunFolder(job.study / "runs" / job.name)


@pytest.mark.long
def test_jobs_that_are_lost_come_again_and_finished_ones_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "GRACE", 0.0)
    monkeypatch.setattr(cluster, "TRIES", 1)
    monkeypatch.setattr(RunFolder, "verify", lambda run: None)
    for name in "abc":
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / DONE).touch()
    jobs = [Small(tmp_path, "a"), Small(tmp_path, "b", killed=9), Small(tmp_path, "c", killed=1)]
    launcher = Cluster(tmp_path, "local", {"parallel": 3})
    first, lost, third = launcher.map(small, jobs)
    assert (first, third) == (RunFolder(tmp_path / "runs/a"), RunFolder(tmp_path / "runs/c"))
    assert isinstance(lost, JobLostError)
    assert "left the queue 2 times" in str(lost)
    assert {name: (tmp_path / name).stat().st_size for name in "abc"} == {"a": 1, "b": 2, "c": 2}

    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.move(tmp_path, moved)
    there = Cluster(moved, "local", {"parallel": 1})
    assert list(there.map(small, [Small(moved, "a"), Small(moved, "c", killed=1)])) == [
        RunFolder(moved / "runs/a"),
        RunFolder(moved / "runs/c"),
    ]
    assert (moved / "a").stat().st_size == 1  # nothing was submitted again
    with pytest.raises(UserError, match="d is no good"):
        list(there.map(small, [Small(moved, "d", refused=True)]))
    assert len(Ledger(moved / "jobs").entries) == 2  # what was refused is asked again


def test_a_job_has_the_same_name_wherever_its_study_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "deep" / "there"
    task = Task.of(small, Small(here, "a"), here)
    assert task == Task.of(small, Small(there, "a"), there)
    assert task.job.study == Path(".")
    assert task.key != Task.of(small, Small(here, "b"), here).key
    monkeypatch.chdir(tmp_path)
    assert task.key == Task.of(small, Small(Path("here"), "a"), Path("here")).key
    monkeypatch.setenv("SUBMITIT_FOLDER", str(there / "jobs" / "batch"))
    (there / "jobs" / "batch").mkdir(parents=True)
    task()
    outcome = there / "jobs" / "batch" / f"{task.key}.json"
    assert typed(Outcome, read_json(outcome), "") == Outcome(run="runs/a")
    assert (there / "a").read_text() == "x"


def other(job: Small, position: int) -> object:
    """What is no run: numbers, or how training diverged."""
    if job.refused:
        return TrainingDivergedError(f"{job.name} has NaN.")
    return [{"seed": 1, "return": 0.5}]


@pytest.mark.long
def test_no_pickle_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("submitit.core.utils.pickle_load", none)
    monkeypatch.setattr("pickle.load", none)
    launcher = Cluster(tmp_path, "local", {"parallel": 2})
    rows, diverged = launcher.map(other, [Small(tmp_path, "a"), Small(tmp_path, "b", refused=True)])
    assert rows == [{"seed": 1, "return": 0.5}]
    assert isinstance(diverged, TrainingDivergedError)
    assert "b has NaN" in str(diverged)


def test_a_batch_without_numbers_is_told_from_one_with(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin("one", ["a", "b"])
    ledger.identify(["a", "b"], ["7_0", "7_1"])
    ledger.begin("two", ["c", "a"])
    again = Ledger(tmp_path)
    assert again.begun() == {"two": ["c", "a"]}  # in the order of submission
    assert {key: entry.id for key, entry in again.entries.items()} == {"a": "", "b": "7_1", "c": ""}
    (tmp_path / LEDGER).write_text('{"a": {"batch": 1}}')
    with pytest.raises(UserError, match=LEDGER):
        Ledger(tmp_path)


def test_a_second_command_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entered = threading.Event()

    def second() -> None:
        with only_command(tmp_path):
            entered.set()

    with only_command(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.5)
    assert entered.wait(10)
    thread.join()
    assert "this one waits" in capsys.readouterr().err


def test_a_file_system_without_a_lock_is_told_from_a_lock_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    with run.lock(), pytest.raises(RunBusyError, match="another process is writing"), run.lock():
        pass

    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(UserError, match=r"no working lock.*No locks available"), run.lock():
        pass
    with pytest.raises(UserError, match="no working lock"), only_command(tmp_path):
        pass


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        (Resources(cluster="local", cluster_options={"parallel": 0}), "parallel must be a whole number"),
        (Resources(cluster="local", cluster_options={"colour": 1}), "--cluster-option: .*colour"),
        (Resources(cluster="local", cluster_options={"timeout_min": "long"}), "timeout_min"),
        (Resources(cluster="local", cluster_options={"nodes": 2}), "nodes: it is set for you"),
        (Resources(cluster="cloud"), "one of local, slurm, got cloud"),
        (Resources(cluster="local", workers=2), "--workers is for this machine"),
        (Resources(cluster_options={"parallel": 2}), "goes with --cluster"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_submitted(
    resources: Resources, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        resources.launcher(tmp_path)


def test_without_slurm_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Slurm commands"):
        Resources(cluster="slurm").launcher(tmp_path)
