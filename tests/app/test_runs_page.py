"""Runs: how far a study is, from its folder alone; what cannot be read is named and hides nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from app.readers import progress
from dosing.runs.files import write_checkpoint
from dosing.runs.folder import CHECKPOINT, CONFIG, DONE, METRICS, RunFolder, find_runs
from dosing.studies.ledger import JOBS, Ledger
from dosing.studies.progress import progress_of
from tests.app.test_pages import open_app, words  # noqa: F401

PAGE = "views/runs.py"


@pytest.fixture
def half(full_study: Path, tmp_path: Path) -> Path:
    """A study whose first run has 20 of its updates behind it; four others finished 100 s apart."""
    study = tmp_path / "study"
    shutil.copytree(full_study, study)
    last = find_runs(study)[-1].path
    for copy in range(3):
        shutil.copytree(last, last.with_name(f"{copy}{last.name}"))
    for number, run in enumerate(find_runs(study)):
        os.utime(run.path / DONE, (1000.0 + 100.0 * number,) * 2)
    first = next(run.path for run in find_runs(study) if run.config().updates)
    (first / DONE).unlink()
    write_checkpoint(first / CHECKPOINT, {"x": torch.zeros(1)}, {"step": "20", "seconds": "1.0"})
    for name in (CONFIG, METRICS):
        os.utime(first / name, (5000.0, 5000.0))
    return study


def test_what_has_finished_and_what_is_under_way(half: Path, full_study: Path) -> None:
    now = progress_of(half)
    assert progress_of(full_study).rate is None  # two runs
    assert len(now.finished) == 4 == len(find_runs(full_study)) + 2
    assert (now.begun, now.waiting, now.lost, now.problems) == (1, None, 0, ())
    (run,) = now.unfinished
    assert run.update == 20
    assert run.updates == RunFolder(half / run.path).config().updates
    assert run.silent < 60.0  # the checkpoint has just been written


def test_rate_and_remaining_time_are_those_of_the_last_runs(half: Path) -> None:
    now = progress_of(half)
    assert now.rate == pytest.approx(3.0 / (now.finished[-1] - now.finished[0]))
    assert now.finished[-1] - now.finished[0] in (300.0, 400.0)  # the unfinished one may lie between
    assert now.remaining == pytest.approx(1.0 / now.rate)


def test_jobs_of_a_cluster_count_as_waiting_until_their_run_begins(half: Path) -> None:
    (half / JOBS).mkdir()
    ledger = Ledger(half / JOBS)
    ledger.begin("batch", ["a", "b", "c", "d"])
    ledger.entries["a"].run, ledger.entries["b"].lost = "some/finished/run", 2
    ledger.write()
    now = progress_of(half)
    assert (now.waiting, now.lost) == (2, 2)  # of b, c, d one is the run that has begun
    (half / JOBS / "ledger.json").write_text("{")
    assert len(progress_of(half).problems) == 1


@pytest.mark.long
def test_the_page_shows_them_and_names_what_is_damaged(open_app, half: Path) -> None:  # noqa: F811
    progress._progress.clear()
    at = open_app(half, PAGE)
    shown = {metric.label: metric.value for metric in at.metric}
    assert shown["Begun, not finished"] == "1"
    (table,) = at.dataframe
    assert table.value["updates at the last checkpoint"].tolist() == [20]
    (half / progress_of(half).unfinished[0].path / CONFIG).write_text("{}")
    progress._progress.clear()
    at.run()
    assert "Not shown" in words(at)
    assert not at.exception


def test_an_empty_study_has_nothing_under_way(open_app, empty_study: Path) -> None:  # noqa: F811
    progress._progress.clear()
    at = open_app(empty_study, PAGE)
    assert "No run is under way" in words(at)


@pytest.mark.parametrize(("seconds", "words"), [(42.0, "42 s"), (420.0, "7 min"), (12_600.0, "3.5 h")])
def test_durations_are_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words
