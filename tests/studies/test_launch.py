"""Launchers: results in the jobs' order as they are ready, whatever the number of processes."""

from __future__ import annotations

import os
import time

import pytest
import torch

from dosing.errors import UserError
from dosing.studies.launch import LocalProcesses


def measured(job: tuple[float, float], position: int) -> tuple[float, int, int]:
    """Sleep, and say in how many threads of which process; a job below zero fails, one above nine dies."""
    seconds, value = job
    time.sleep(seconds)
    if value < 0:
        raise UserError(f"job {value:g} failed.")
    if value > 9:
        os._exit(1)
    return value, torch.get_num_threads(), os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    jobs = [(0.2, 1.0), (0.0, 2.0), (0.0, 3.0)]
    results = list(LocalProcesses("cpu", workers).map(measured, jobs))
    assert [value for value, _, _ in results] == [1.0, 2.0, 3.0]
    assert {threads for _, threads, _ in results} == {1}
    assert (os.getpid() in {process for _, _, process in results}) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_done_is_there_before_another_job_fails(workers: int) -> None:
    results = LocalProcesses("cpu", workers).map(measured, [(0.0, 1.0), (0.1, -1.0)])
    assert next(results)[0] == 1.0
    with pytest.raises(UserError, match="job -1 failed"):
        next(results)


def test_a_killed_worker_is_told_in_one_sentence() -> None:
    with pytest.raises(UserError, match="a worker was killed; the same command continues"):
        list(LocalProcesses("cpu", 2).map(measured, [(0.0, 10.0), (0.0, 1.0)]))


def test_no_jobs_are_no_results() -> None:
    assert list(LocalProcesses("cpu").map(measured, [])) == []
