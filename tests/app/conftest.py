"""Study folders for the pages: empty, complete, and with one damaged run; made by a tiny real training."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agents
from dosing.runs.folder import WEIGHTS
from dosing.studies import Cohort, DataSource, Resources, TrainingSettings, comparison
from tests.app.served import FLAGS, server

PATIENTS, SEEDS = 3, (0, 1)


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """A page under test takes the place of the main module, which a process started later would run."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before


@pytest.fixture(scope="session")
def full_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents of two seeds, trained for a progress, evaluated on a few patients: small, nothing faked."""
    study = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dosing.studies.references.SEARCH_PATIENTS", 50)
        patch.setattr("dosing.studies.launch.os.cpu_count", lambda: 1)  # in this process: no workers to start
        comparison.compare(
            study,
            agents.DEMO,
            DataSource("dosing/Treatment-v0", Cohort(PATIENTS, options={"variant": "corrected"})),
            seeds=SEEDS,
            training=TrainingSettings(steps=100),
            evaluation_patients=4,
            resources=Resources("cpu"),
        )
    return study


@pytest.fixture
def damaged_study(full_study: Path, tmp_path: Path) -> Path:
    """The same study, in which the weights of IQL were cut short."""
    study = tmp_path / "damaged"
    shutil.copytree(full_study, study)
    (weights,) = study.glob(f"iql/*/*/{WEIGHTS}")
    weights.write_bytes(weights.read_bytes()[:-100])
    return study


@pytest.fixture
def empty_study(tmp_path: Path) -> Path:
    """A folder without a run."""
    return tmp_path


@pytest.fixture(scope="module")
def address(full_study: Path) -> Iterator[str]:
    """Where the dashboard of the complete study is served."""
    with server(full_study) as result:
        yield result


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A Chromium to open pages in."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield launched
        launched.close()
