"""Simulated patients in parts: the same patients however cut, resumable, and refused when damaged."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dosing.cli.main import main
from dosing.data.manifest import MANIFEST, read_manifest
from dosing.data.store import Episodes, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.studies import partition
from dosing.studies.launch import LocalProcesses
from dosing.studies.partition import Request, simulate_parts
from simulator.cohorts.generate import simulate

ENV = "dosing/Treatment-v0"
HERE = LocalProcesses("cpu", 1)
PATIENTS = 600
"""More than two blocks of random streams, so that parts begin within a block."""


def same(a: Episodes, b: Episodes) -> None:
    for (name, left), right in zip(a.arrays().items(), b.arrays().values(), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    simulate_parts(tmp_path / "cohort", Request(ENV, 30, seed=4), 3, HERE)
    return tmp_path / "cohort"


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_a_patient_is_the_same_in_any_partition(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "GROUP_VISITS", 256 * 5)  # several row groups in a part
    request = Request(ENV, PATIENTS, seed=2, options={"steps": 5, "realism": 5, "first_patient": 7})
    manifest = simulate_parts(tmp_path / "cohort", request, parts, HERE)
    whole = simulate(ENV, patients=PATIENTS, seed=2, steps=5, realism=5, first_patient=7)
    result = read_episodes(tmp_path / "cohort")
    same(result, whole)
    assert [part.first_patient for part in manifest.parts] == [7 + 600 * k // parts for k in range(parts)]
    assert sum(part.patients for part in manifest.parts) == PATIENTS
    assert sum(sum(part.groups) for part in manifest.parts) == len(whole) == manifest.metadata.rows
    for part in manifest.parts:
        assert len(part.groups) > 1 or parts > 1
        rows = (result.episode >= part.first_patient) & (result.episode < part.first_patient + part.patients)
        own = {name: array[rows] for name, array in whole.arrays().items()}
        assert Episodes(**own).content_hash() == part.content_hash
    assert result.metadata.patients == PATIENTS
    assert result.metadata.first_patient == 7


@pytest.mark.long
def test_several_processes_write_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    simulate_parts(tmp_path / "two", Request(ENV, 30, seed=4), 3, LocalProcesses("cpu", 2))
    for file in sorted(folder.iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


@pytest.mark.long
def test_a_killed_command_goes_on_with_the_parts_that_are_missing(tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    words = ["simulate", "--out", str(out), "--parts", "6", "--patients", "24000", "--workers", "1"]
    command = subprocess.Popen([sys.executable, "-m", "dosing", *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.parquet"))) < 2 and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    command.send_signal(signal.SIGKILL)
    command.wait()
    finished = {file: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    assert 2 <= len(finished) < 6, "the command was not killed between its parts"
    with pytest.raises(UserError, match=r"has no manifest\.json\. The same simulate command goes on"):
        read_episodes(out)
    simulate_parts(out, Request(ENV, 24000), 6, HERE)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert {file.name for file in out.iterdir()} == {part.name for part in read_manifest(out).parts} | {
        MANIFEST
    }
    assert read_episodes(out).episode[-1] == 23999


def test_a_missing_or_changed_part_is_named(folder: Path, tmp_path: Path) -> None:
    second = folder / "part-00001-of-00003.parquet"
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(UserError, match=r"lacks its part part-00001-of-00003\.parquet"):
        read_episodes(folder)
    shutil.copy(folder / "part-00000-of-00003.parquet", second)
    with pytest.raises(UserError, match=r"part-00001-of-00003\.parquet is not the part that manifest\.json"):
        read_episodes(folder)
    second.write_bytes(kept[:-100])
    with pytest.raises(UserError, match=r"part-00001-of-00003\.parquet"):
        read_episodes(folder)
    middle = bytearray(kept)
    middle[len(kept) // 3] ^= 1  # one bit of the visits: size and footer are as before
    second.write_bytes(middle)
    with pytest.raises(UserError, match=r"part-00001-of-00003\.parquet"):
        read_episodes(folder)
    second.write_bytes(kept)
    same(read_episodes(folder), simulate(ENV, patients=30, seed=4))


def test_an_edited_manifest_is_refused(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | {"parts": content["parts"][:2]}))
    with pytest.raises(UserError, match=r"manifest\.json was edited"):
        read_episodes(folder)
    (folder / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        read_episodes(folder)


@pytest.mark.parametrize(
    ("request_", "parts", "sentence"),
    [
        (Request(ENV, 30, seed=5), 3, r"part-00000-of-00003\.parquet holds visits of another request"),
        (Request(ENV, 30, "constant:0", seed=4), 3, "another request"),
        (Request(ENV, 30, seed=4), 4, r"holds part-00000-of-00003\.parquet, which is none of these 4 parts"),
        (Request(ENV, 30, seed=4), 0, "--parts must be from 1 to the number of patients, 30; got 0"),
        (Request(ENV, 30, seed=4), 31, "--parts must be from 1"),
    ],
)
def test_what_cannot_be_written_there_is_refused(
    folder: Path, request_: Request, parts: int, sentence: str
) -> None:
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match=sentence):
        simulate_parts(folder, request_, parts, HERE)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_damaged_part_is_written_again(folder: Path) -> None:
    part = folder / "part-00002-of-00003.parquet"
    kept = part.read_bytes()
    part.write_bytes(kept[:50])
    simulate_parts(folder, Request(ENV, 30, seed=4), 3, HERE)
    assert part.read_bytes() == kept


@pytest.mark.long
def test_the_command_writes_parts_and_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, study = tmp_path / "cohort", tmp_path / "study"
    words = f"simulate --out {out} --parts 2 --patients 12 --workers 1"
    assert main(words.split()) == 0
    assert f"288 visits of 12 patients in {out}" in capsys.readouterr().out
    assert len(pq.read_table(out / "part-00001-of-00002.parquet")) == 144
    assert main(f"train iql --data {out} --seeds 1 --steps 3 --device cpu --out {study}".split()) == 0
    text = capsys.readouterr().out
    assert "12 patients, 288 visits" in text
    run = text.splitlines()[-1]
    assert main(["evaluate", run, "--patients", "20"]) == 0
    assert "IQL" in capsys.readouterr().out
    for wrong, sentence in (
        (f"simulate --out {out}.parquet --parts 2", "names a file"),
        (f"simulate --out {tmp_path / 'a.parquet'} --workers 2", "go with --parts"),
        (f"train iql --data {tmp_path} --out {study}", "no data set in parts"),
    ):
        assert main(wrong.split()) == 2
        assert sentence in capsys.readouterr().err


def test_a_whole_file_and_parts_learn_the_same(tmp_path: Path, folder: Path) -> None:
    from dosing.runs.files import sha256
    from dosing.runs.folder import WEIGHTS
    from dosing.studies import TrainingSettings, train

    file = tmp_path / "whole.parquet"
    write_episodes(simulate(ENV, patients=30, seed=4), file)
    runs = [
        train(tmp_path / "study", "iql", data, seeds=(0,), training=TrainingSettings(steps=5), device="cpu")
        for data in (file, folder)
    ]
    assert sha256(runs[0].path / WEIGHTS) == sha256(runs[1].path / WEIGHTS)


@pytest.mark.long
def test_jobs_of_a_cluster_write_the_same_parts(folder: Path, tmp_path: Path) -> None:
    words = f"simulate --out {tmp_path / 'jobs'} --parts 3 --patients 30 --data-seed 4 --cluster local"
    assert main(words.split()) == 0
    for part in folder.iterdir():
        assert part.read_bytes() == (tmp_path / "jobs" / part.name).read_bytes(), part.name
