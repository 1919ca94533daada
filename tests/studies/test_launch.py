"""Launchers: results in the jobs' order as they are ready, whatever the number of processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from dosing.errors import UserError
from dosing.studies.launch import TRIES, JobLostError, LocalProcesses, none_lost


def measured(job: tuple[float, float], position: int) -> tuple[float, int, int]:
    """Sleep, and say in how many threads of which process; a job below zero fails."""
    seconds, value = job
    time.sleep(seconds)
    if value < 0:
        raise UserError(f"job {value:g} failed.")
    return value, torch.get_num_threads(), os.getpid()


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    jobs = [(0.2, 1.0), (0.0, 2.0), (0.0, 3.0)]
    results = list(LocalProcesses("cpu", workers).map(measured, jobs))
    assert [value for value, _, _ in results] == [1.0, 2.0, 3.0]
    assert {threads for _, threads, _ in results} == {1}
    assert (os.getpid() in {process for _, _, process in results}) == (workers == 1)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_done_is_there_before_another_job_fails(workers: int) -> None:
    results = LocalProcesses("cpu", workers).map(measured, [(0.0, 1.0), (0.1, -1.0)])
    assert next(results)[0] == 1.0
    with pytest.raises(UserError, match="job -1 failed"):
        next(results)


def dies(job: tuple[Path, int], position: int) -> int:
    """Note the try, and be killed in the first so many of them."""
    file, times = job
    with file.open("a") as notes:
        notes.write("x")
    time.sleep(0.3)
    if file.stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return file.stat().st_size


@pytest.mark.long
def test_a_killed_worker_loses_its_own_job_only_and_that_is_tried_again(tmp_path: Path) -> None:
    jobs = [(tmp_path / f"{times}-{k}", times) for k, times in enumerate((TRIES + 1, 0, 1))]
    lost, *rest = LocalProcesses("cpu", 2).map(dies, jobs)
    assert isinstance(lost, JobLostError)
    assert "killed each of the 4 times" in str(lost)
    assert rest == [1, 2]
    assert jobs[0][0].stat().st_size == TRIES + 1
    with pytest.raises(JobLostError):
        list(none_lost([1, lost]))


def test_no_jobs_are_no_results() -> None:
    assert list(LocalProcesses("cpu").map(measured, [])) == []
