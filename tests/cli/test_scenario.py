"""``--scenario``: any scenario, and a Python file that holds one, from simulation to the evaluated run."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dosing.cli.main import main
from dosing.data.store import read_episodes
from dosing.errors import UserError
from dosing.evaluation.outcomes import read_outcomes
from dosing.runs.files import read_json
from dosing.runs.folder import CARD, DONE, EPISODES, EVALUATION, SCENARIO, RunFolder
from dosing.studies.loading import recommender_of
from dosing.studies.scenarios import factory_of
from simulator.envs import registered
from simulator.envs.insulin import Insulin
from tests.support.registries import own_registries

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "two_compartment.py"
ENV = "example/TwoCompartment-v0"
SHORT = ["--seeds", "2", "--steps", "6", "--batch-size", "16", "--device", "cpu"]


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    with own_registries():
        yield


def trained(tmp_path: Path) -> tuple[Path, Path]:
    """A file of a scenario and the run of two short trainings on its patients, which nothing has loaded."""
    file = shutil.copy(EXAMPLE, tmp_path / "drug.py")
    with own_registries():
        line = ["train", "bc", "--scenario", str(file), "--patients", "6", "--out", str(tmp_path / "study")]
        assert main([*line, *SHORT, "--hidden", "8"]) == 0
    (done,) = (tmp_path / "study").glob(f"*/*/*/{DONE}")
    return file, done.parent


def documented() -> list[list[str]]:
    """The commands of the documentation that name the example, in their order."""
    text = (ROOT / "docs" / "own-scenario.md").read_text(encoding="utf-8")
    lines = re.findall(r"^python -m dosing (.* examples/two_compartment\.py.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_the_documented_commands_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Simulate, train and evaluate, each as in a process of its own; only the training is shortened."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    shutil.copy(EXAMPLE, tmp_path / "examples")
    commands = documented()
    assert [words[0] for words in commands] == ["simulate", "train", "evaluate"]
    for words in commands:
        runs = [str(path) for pattern in words if "*" in pattern for path in tmp_path.glob(pattern)]
        words = [word for word in words if "*" not in word] + runs
        more = [*SHORT, "--hidden", "8"] if words[0] == "train" else []
        more += ["--patients", "4"] if words[0] == "evaluate" else []
        with own_registries():
            assert main([*words, *more]) == 0
    assert "constant dose" in capsys.readouterr().out
    (run,) = tmp_path.rglob(DONE)
    assert (run.parent / EVALUATION).is_file()
    assert read_json(run.parent / CARD)["file"] == {
        "path": "examples/two_compartment.py",
        "sha256": hashlib.sha256(EXAMPLE.read_bytes()).hexdigest(),
    }


def test_a_run_keeps_the_file_and_a_folder_does_not_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not from its path nor from the copy, though hashes of both are right; recommending needs neither."""
    file, run = trained(tmp_path)
    assert (run / SCENARIO).read_bytes() == file.read_bytes()
    monkeypatch.setattr(registered, "_run", lambda *_: pytest.fail("the file was run"))
    with pytest.raises(
        UserError, match=rf"is not loaded.* --scenario {re.escape(str(file))} \(or .*its copy"
    ):
        factory_of(RunFolder(run))
    recommender = recommender_of(RunFolder(run))
    assert recommender.rules.limits.unit == "mg/day"
    assert main(["evaluate", str(run)]) == 2
    assert "if you trust it, add --scenario" in capsys.readouterr().err


def test_the_copy_serves_and_a_changed_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = trained(tmp_path)
    file.write_text(file.read_text() + "# another content\n")
    with own_registries():
        assert main(["evaluate", str(run), "--scenario", str(file), "--patients", "3"]) == 2
    assert f"dosing: the scenario file {file} has changed" in capsys.readouterr().err
    with own_registries():
        assert main(["evaluate", str(run), "--scenario", str(run / SCENARIO), "--patients", "3"]) == 0
    assert read_outcomes(run / EPISODES)["recommended"].returns.shape == (2, 3)
    (run / SCENARIO).write_text("tampered = True\n")
    with pytest.raises(UserError, match="was changed or truncated since the run finished"):
        RunFolder(run).verify()


@pytest.mark.long
def test_workers_find_the_file_again(tmp_path: Path) -> None:
    """Two processes that this one starts evaluate both agents on the file's patients."""
    file = shutil.copy(EXAMPLE, tmp_path / "drug.py")
    line = ["compare", "--agents", "bc", "iql", "--scenario", str(file), "--patients", "6", "--workers", "2"]
    line += ["--evaluation-patients", "4", "--out", str(tmp_path / "study"), "--set", "hidden=[8]"]
    assert main([*line, *SHORT]) == 0
    runs = [done.parent for done in (tmp_path / "study").glob(f"*/*/*/{DONE}")]
    assert len(runs) == 2
    for run in runs:
        assert RunFolder(run).config().problem.horizon == 14
        assert (run / SCENARIO).is_file()
        assert np.isfinite(read_outcomes(run / EPISODES)["recommended"].returns).all()


def test_data_that_name_an_unloaded_file_are_trained_on_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "visits.parquet"
    with own_registries():
        assert main(["simulate", str(EXAMPLE), "--patients", "6", "--out", str(data)]) == 0
    line = ["train", "bc", "--data", str(data), "--out", str(tmp_path / "study"), *SHORT, "--hidden", "8"]
    assert main(line) == 0
    assert "cannot be evaluated. example/TwoCompartment-v0 is the scenario of" in capsys.readouterr().out
    (done,) = (tmp_path / "study").glob(f"*/*/*/{DONE}")
    assert not (done.parent / SCENARIO).exists()


def test_its_visits_go_through_minari_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class in a file has no name that Minari could store: its data set names spaces and no environment."""
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    line = ["simulate", "--scenario", str(EXAMPLE), "--patients", "3"]
    assert main([*line, "--out", "minari:mine/drug-v0"]) == 0
    assert main([*line, "--out", str(tmp_path / "drug.parquet")]) == 0
    one, other = read_episodes("minari:mine/drug-v0"), read_episodes(tmp_path / "drug.parquet")
    assert one.content_hash() == other.content_hash()
    assert one.metadata.card == other.metadata.card
    loaded = minari.load_dataset("mine/drug-v0")
    assert loaded.env_spec is None
    assert loaded.action_space.high.tolist() == [1500.0]


@pytest.mark.long
@pytest.mark.parametrize("option", ["--scenario", "--env"])
def test_without_data_the_scenario_is_simulated(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either name of the option, with options of the environment."""
    monkeypatch.setattr(Insulin, "searched", 0)  # no best constant dose is looked for, which takes a minute
    line = ["compare", "--agents", "bc", option, "dosing/Insulin-v0", "--patients", "2", "--workers", "1"]
    line += ["--env-option", "variant=published", "--evaluation-patients", "2", "--out", str(tmp_path)]
    assert main([*line, *SHORT, "--set", "hidden=[8]"]) == 0
    (data,) = (tmp_path / "data").glob("*.parquet")
    metadata = read_episodes(data).metadata
    assert (metadata.env_id, metadata.patients) == ("dosing/Insulin-v0", 2)
    assert metadata.env_options["variant"] == "published"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train bc --out {out}", "train needs --data, a file or an environment id"),
        ("select --agents bc --out {out}", "name the visits: --data with a file, or --scenario"),
        ("simulate dosing/LiI-v0 --scenario dosing/LiII-v0 --out {out}.csv", "two scenarios are named"),
        ("simulate --scenario {out}.py --out {out}.csv", "cannot read the scenario file"),
        ("demo --scenario {out}.py --out {out}", "cannot read the scenario file"),
        ("evaluate {out} --scenario {out}.py", "cannot read the scenario file"),
        ("app --out {parent} --scenario {out}.py", "cannot read the scenario file"),
        ("compare --scenario dosing/LiI-v0 --horizon 3 --out {out}", "leave the description out"),
    ],
)
def test_what_names_no_scenario_is_told(
    words: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places: dict[str, Any] = {"out": tmp_path / "out", "parent": tmp_path}
    assert main(words.format(**places).split()) == 2
    assert told in capsys.readouterr().err
