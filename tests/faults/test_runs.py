"""Faults of run folders and of what stands in them; what a run owes whoever reads it later."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from app.analysis.model_card import card_of
from app.readers import study as reader
from dosing import NOT_FOR_PATIENTS
from dosing.cli.main import main
from dosing.ope.importance import WeightDiagnostics
from dosing.recommendation.audit_log import FILE, AuditLog
from dosing.recommendation.decisions import count
from dosing.runs import files
from dosing.runs.folder import CONFIG, DONE, METRICS, WEIGHTS, RunFolder
from tests.support.samples import ENV

TINY = ["--patients", "4", "--steps", "4", "--batch-size", "8", "--device", "cpu", "--hidden", "4"]
STATE = ["0.1", "-0.2", "0", "1", "-1", "0.5", "0.25", "0.3"]


def train(out: Path, *more: str) -> int:
    return main(["train", "bc", "--data", ENV, "--out", str(out), *TINY, *more])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    assert train(path, "--seeds", "1") == 0
    return path


@pytest.fixture
def run(study: Path, tmp_path: Path) -> Path:
    """A finished run, to damage."""
    shutil.copytree(study, tmp_path / "copy")
    (done,) = (tmp_path / "copy").glob(f"*/*/*/{DONE}")
    return done.parent


def refused(capsys: pytest.CaptureFixture[str], run: Path) -> str:
    """The one sentence with which a dose is refused."""
    capsys.readouterr()
    assert main(["recommend", str(run), "--state", *STATE]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def replaced(run: Path, name: str, content: bytes, *, recorded: bool) -> None:
    """Another content of a file; with ``recorded``, the run's own record of hashes says so too."""
    old = hashlib.sha256((run / name).read_bytes()).hexdigest()
    (run / name).write_bytes(content)
    if recorded:
        record = (run / DONE).read_text()
        assert old in record
        (run / DONE).write_text(record.replace(old, hashlib.sha256(content).hexdigest()))


class Payload:
    """What a pickle runs when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("recorded", [False, True])
def test_fault_19_a_pickle_in_place_of_weights_is_never_run(
    recorded: bool, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(run, WEIGHTS, pickle.dumps(Payload(tmp_path / "ran")), recorded=recorded)
    assert WEIGHTS in refused(capsys, run)
    assert not (tmp_path / "ran").exists()


def test_fault_21_sound_weights_of_another_run_are_refused(
    run: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "other", "--seeds", "1", "--data-seed", "7") == 0
    (other,) = (tmp_path / "other").glob(f"*/*/*/{WEIGHTS}")
    replaced(run, WEIGHTS, other.read_bytes(), recorded=False)
    assert WEIGHTS in refused(capsys, run)


def test_fault_23_a_write_that_is_cut_off_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"old": 1})

    def killed(*names: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_fault_25_a_second_writer_of_a_run_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / DONE).unlink()
    with RunFolder(run).lock():
        assert train(run.parents[2], "--seeds", "1") == 2
    assert "another process is writing the run" in capsys.readouterr().err


def test_fault_35_estimates_without_overlap_are_refused_with_their_sample_size() -> None:
    weights = np.full((1, 200, 3), 1e-9)
    weights[:, 0] = 1.0
    said = WeightDiagnostics.of(weights, weights.reshape(1, -1)).refusal()
    assert said is not None
    assert "effective sample size at visit 1 is 1.0 patients" in said
    assert WeightDiagnostics.of(np.ones((1, 200, 3)), np.ones((1, 600))).refusal() is None


def test_fault_43_a_run_that_is_being_written_is_no_error_of_the_dashboard(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOSING_STUDY", str(run.parents[2]))
    assert len(reader.listing().runs) == 1
    (run / DONE).unlink()
    metrics = (run / METRICS).read_bytes()
    for cut in (0, len(metrics) // 2):
        (run / METRICS).write_bytes(metrics[:cut])
        assert reader.listing().runs == ()


def test_behaviour_12_a_dose_carries_the_hashes_of_all_it_rests_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["recommend", str(run), "--state", *STATE, "--json"]) in (0, 3)
    provenance = json.loads(capsys.readouterr().out)["provenance"]
    assert hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest() in json.dumps(provenance)
    config = json.loads((run / CONFIG).read_text())
    assert config["data"]["content_hash"] in json.dumps(provenance)
    changed = json.dumps(config).replace(config["data"]["content_hash"], "0" * 64)
    replaced(run, CONFIG, changed.encode(), recorded=False)
    assert CONFIG in refused(capsys, run)


def test_behaviour_13_weights_are_numbers_and_everything_else_is_json(run: Path) -> None:
    with safe_open(run / WEIGHTS, "np") as weights:
        assert list(weights.keys())
    kinds = {path.suffix for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert kinds <= {".safetensors", ".json", ".parquet", ""}
    assert json.loads((run / DONE).read_text())


def test_behaviour_14_a_policy_card_says_what_a_run_is_rests_on_and_may_not_be_used_for(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOSING_STUDY", str(study))
    (one,) = reader.listing().runs
    card = card_of(one, reader.recommender(one), reader.episodes(one), None, None)
    assert card["notice"] == NOT_FOR_PATIENTS
    assert card["agent"]["seeds"] == [0]
    assert card["data"]["patients"] == 4
    assert card["dose"]["hard_limits"] == [(-1.0,), (1.0,)]
    assert card["at_recorded_visits"]["visits"] == 96
    assert card["known_limits"]
    assert card["provenance"]["weights"]
    assert card["evaluation"] is None  # it was not evaluated, and says so


def test_behaviour_16_alerts_and_decisions_against_them_are_counted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / FILE)
    for status in ("ok", "deferred", "ok", "refused"):
        log.append("recommendation", {"status": status})
    log.append("batch", {"statuses": {"ok": 5, "deferred": 2}})
    counts = count(log.verify().records)
    assert (counts.shown, counts.tabled) == ({"ok": 2, "deferred": 1, "refused": 1}, {"ok": 5, "deferred": 2})
    assert (counts.alerts, counts.overrides) == (2, 0)
