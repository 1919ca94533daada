"""Faults of training and of what it stands on: numbers that diverge, loaders, devices, libraries."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dosing.cli.main import main
from dosing.runs.files import read_json
from dosing.runs.folder import RunFolder
from dosing.training.offline import TrainingDivergedError, TrainingSettings, train
from tests.support.samples import ENV, dataset, stack

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("dosing", "simulator", "agents", "app")


def test_fault_17_a_loss_that_is_no_number_stops_training_and_says_where(tmp_path: Path) -> None:
    data = dataset()
    reward = data.reward.clone()
    reward[3] = float("nan")
    run = RunFolder(tmp_path / "bc")
    run.path.mkdir()
    with pytest.raises(TrainingDivergedError, match="diverged at update") as caught:
        train(stack("iql"), replace(data, reward=reward), run, TrainingSettings(steps=200, batch_size=32))
    assert "\n" not in str(caught.value)
    assert not run.done
    assert read_json(run.path / "diverged.json")["not_finite"]


@pytest.mark.long
def test_fault_20_nothing_in_the_product_unpacks_a_pickle() -> None:
    found = []
    for path in (path for name in PRODUCT for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.split(".")[0] for name in names} & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}:
                found.append(path.name)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "np.load",
                "numpy.load",
            ):
                safe = {word.arg: ast.unparse(word.value) for word in node.keywords}
                unsafe = safe.get("weights_only") != "True" if "torch" in ast.unparse(node.func) else False
                found += [path.name] * (unsafe or safe.get("allow_pickle") == "True")
    assert not found


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_fault_38_a_gpu_that_is_not_there_is_named_and_the_processor_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "bc", "--data", ENV, "--patients", "2", "--seeds", "1", "--steps", "2", "--hidden", "4"]
    assert main([*words, "--out", str(tmp_path), "--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert "cuda" in said.lower() or "gpu" in said.lower()
    assert said.count("\n") == 1
    assert main([*words, "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert "2 patients, 48 visits" in capsys.readouterr().out


def test_fault_39_every_library_has_a_lower_bound_and_one_version_that_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = dict(
        re.findall(r"^([a-z0-9_.-]+)==([\d.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    )
    for line in project["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<[\d.]+)?", line).groups()  # type: ignore[union-attr]
        at_least, tested = (tuple(map(int, text.split("."))) for text in (bound, pinned[name.lower()]))
        assert tested >= at_least, line
    assert all(name in pinned for name in ("torch", "numpy", "gymnasium", "streamlit"))
