"""Visits that are too many for memory: when they are streamed, and what rests on a sample of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dosing.cli.main import main
from dosing.data.manifest import read_manifest
from dosing.data.store import read_episodes, write_episodes
from dosing.errors import UserError
from dosing.recommendation.novelty import monitor_of
from dosing.runs.files import sha256
from dosing.runs.folder import WEIGHTS, RunFolder
from dosing.studies import Folds, TrainingSettings, compare, evaluate, select, train, visits
from dosing.studies.data import describe, episodes_of
from dosing.studies.launch import LocalProcesses
from dosing.studies.partition import Request, simulate_parts
from dosing.studies.settings import Resources
from dosing.studies.visits import is_streamed, size_of, visits_of

ENV = "dosing/Treatment-v0"
PATIENTS, SAMPLE = 40, 16 * 24
STREAMED = TrainingSettings(steps=4, stream=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parts") / "cohort"
    simulate_parts(out, Request(ENV, PATIENTS), 4, LocalProcesses("cpu", 1))
    return out


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "SAMPLE_VISITS", SAMPLE)


def test_many_visits_are_streamed_unless_asked_otherwise(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_episodes(folder)
    size = sum(array.nbytes for array in whole.arrays().values())
    assert size_of(read_manifest(folder).metadata) == size == 99 * len(whole)
    assert [is_streamed(folder, stream) for stream in (None, True, False)] == [False, True, False]
    monkeypatch.setattr(visits, "LARGE", size)
    assert [is_streamed(folder, stream) for stream in (None, True, False)] == [True, True, False]
    file = tmp_path / "whole.parquet"
    write_episodes(whole, file)
    assert not is_streamed(file, None)
    with pytest.raises(
        UserError, match="is one file: a data set is streamed from parts, see simulate --parts"
    ):
        is_streamed(file, True)


def test_the_pass_over_the_data_is_made_once_and_its_sample_checked(folder: Path, tmp_path: Path) -> None:
    first = visits_of(folder, tmp_path, True)
    (kept,) = (tmp_path / "data").glob("*-sample.parquet")
    written = kept.stat().st_mtime_ns
    second = visits_of(folder, tmp_path, True)
    assert kept.stat().st_mtime_ns == written
    assert first.moments == second.moments
    assert (first.count, first.patients, len(first.sample)) == (PATIENTS * 24, PATIENTS, SAMPLE)
    assert first.sample.metadata == read_manifest(folder).metadata
    write_episodes(read_episodes(folder), kept)  # other visits under its name: the pass is made again
    third = visits_of(folder, tmp_path, True)
    assert len(third.sample) == SAMPLE
    for part in list(folder.glob("*.parquet"))[:1]:
        kept_bytes = part.read_bytes()
        part.unlink()
        with pytest.raises(UserError, match=f"lacks its part {part.name}"):
            visits_of(folder, tmp_path, True)
        part.write_bytes(kept_bytes)


@pytest.mark.long
def test_a_run_states_what_it_learned_from(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"--data {folder} --seeds 1 --steps 4 --device cpu --out {tmp_path}"
    texts = {}
    for name, words in {"memory": "iql", "stream": "iql --stream", "best": "pct_bc --stream"}.items():
        assert main(f"train {words} {line}".split()) == 0
        texts[name] = capsys.readouterr().out
    runs = {name: RunFolder(Path(text.splitlines()[-1])) for name, text in texts.items()}
    assert len(texts["memory"].splitlines()) == 2  # what the visits are, and the run
    assert "40 patients, 960 visits, read while they are learned from; worst reward" in texts["stream"]
    sample = "a sample of 384 visits of 16 patients"
    assert "all 960 visits of cohort are streamed" in texts["stream"]
    assert f"the monitor of unfamiliar states and dose sets rest on {sample}" in texts["stream"]
    assert f"{sample} of cohort is learned from, since it chooses among all visits" in texts["best"]
    assert len({sha256(run.path / WEIGHTS) for run in runs.values()}) == 3
    told = {name: run.config().data for name, run in runs.items()}
    assert told["memory"].sample is None
    assert "sample" not in (runs["memory"].config().to_json()["data"])
    assert told["stream"].sample is not None
    assert told["stream"].sample.instead == ""
    for name in ("stream", "best"):
        data = told[name]
        assert (data.visits, data.patients) == (960, 40)
        assert data.sample is not None
        assert (data.sample.visits, data.sample.patients) == (SAMPLE, 16)
        visited = episodes_of(runs[name])
        assert len(visited) == SAMPLE
        assert visited.metadata.content_hash == data.content_hash
        monitor, _ = monitor_of(runs[name].path)
        assert monitor is not None
        assert monitor.data == data.content_hash
        assert monitor.patients == 16
    kinds = describe(folder, tmp_path, False).removeprefix(f"{folder}: 40 patients, 960 visits")
    assert kinds in texts["stream"].replace("visits, read while they are learned from", "visits")
    assert "16 patients" in str(evaluate(runs["stream"], 20))


def test_a_sample_that_was_exchanged_is_refused(folder: Path, tmp_path: Path) -> None:
    run = train(tmp_path, "iql", folder, seeds=(0,), training=STREAMED, device="cpu")
    (kept,) = (tmp_path / "data").glob("*-sample.parquet")
    write_episodes(read_episodes(folder), kept)
    with pytest.raises(UserError, match="is not the sample that the run was trained with"):
        episodes_of(run)


@pytest.mark.long
def test_studies_stream_and_say_so(folder: Path, tmp_path: Path) -> None:
    resources = Resources("cpu", 1)
    result = compare(
        tmp_path / "compare",
        ["iql", "pct_bc"],
        folder,
        seeds=(0,),
        training=STREAMED,
        evaluation_patients=20,
        resources=resources,
    )
    notes = "\n".join(result.notes)
    assert "all 960 visits of cohort are streamed" in notes
    assert "is learned from, since it chooses among all visits" in notes
    selected = select(
        tmp_path / "select",
        "iql",
        folder,
        folds=Folds(2),
        seeds=(0,),
        training=dataclasses.replace(STREAMED, steps=20),
        resources=resources,
    )
    assert f"rest on a sample of cohort: {SAMPLE} of 960 visits, those of 16 patients" in selected.notes[0]
    if selected.run is not None:
        told = selected.run.config().data
        assert told.visits == 960
        assert told.sample is not None


def test_seeds_and_stacks_do_not_change_a_stream(folder: Path, tmp_path: Path) -> None:
    from dosing.runs.files import read_tensors

    runs = [
        train(tmp_path, "iql", folder, seeds=seeds, training=STREAMED, device="cpu")
        for seeds in ((0, 1), (1,))
    ]
    both, alone = (read_tensors(run.path / WEIGHTS)[0] for run in runs)
    for name, value in alone.items():
        if value.dim() and both[name].shape[0] == 2:
            np.testing.assert_allclose(both[name][1].numpy(), value[0].numpy(), rtol=1e-4, atol=1e-6)
