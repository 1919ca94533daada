"""From a run folder to a recommendation: every file is read once, and only checked ones are used."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dosing.data.store import write_episodes
from dosing.runs.folder import CONFIG, DONE, RunFolder
from dosing.studies import AgentSetup, TrainingSettings, recommend, train
from tests.support.samples import cohort, small

OPENED: list[str] = []
LISTENING = [False]


def listen(event: str, arguments: tuple[Any, ...]) -> None:
    if LISTENING[0] and event == "open" and isinstance(arguments[0], str):
        OPENED.append(Path(arguments[0]).name)


sys.addaudithook(listen)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("study")
    data = folder / "visits.parquet"
    write_episodes(cohort(), data)
    return train(
        folder, AgentSetup("bc", small("bc")), data, seeds=(0, 1), training=TrainingSettings(steps=3)
    )


def test_one_answer_reads_the_configuration_and_the_hashes_once(run: RunFolder) -> None:
    OPENED.clear()
    LISTENING[0] = True
    try:
        result = recommend(RunFolder(run.path), cohort().obs[0].tolist())
    finally:
        LISTENING[0] = False
    assert result.dose is not None
    counts = Counter(OPENED)
    assert (counts[CONFIG], counts[DONE]) == (1, 1)
