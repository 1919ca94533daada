"""Benchmarks that train studies compute their runs where the command line's options say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import pytest

from benchmarks.experiments import clinical, density, learning, locomotion, suite
from dosing.errors import UserError
from dosing.runs.files import read_json
from dosing.studies import Resources, compare, references
from dosing.studies.cluster import Cluster
from dosing.studies.launch import LocalProcesses, device_of

CLUSTER = ["--device", "cpu", "--cluster", "local", "--cluster-option", "parallel=3", "timeout_min=7"]


class AskedError(Exception):
    """Ends a benchmark where its study would begin."""


@pytest.fixture
def resources_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Resources]:
    """With what resources a benchmark asks for its study, by the words on its command line."""

    def ask(benchmark: ModuleType, *words: str) -> Resources:
        asked: list[Resources] = []

        def record(*_: Any, resources: Resources | None = None, **__: Any) -> None:
            asked.append(resources or Resources())
            raise AskedError

        h5py.File(tmp_path / "hopper-medium-1k.hdf5", "w").close()
        monkeypatch.setattr(getattr(benchmark, "mujoco", benchmark), "compare", record)
        own = {
            clinical: ["--study", str(tmp_path), "--out", str(tmp_path)],
            density: ["--fit", "1", "--seeds", "1"],
            locomotion: ["--data", str(tmp_path)],
        }
        monkeypatch.setattr(sys, "argv", ["benchmark", *own.get(benchmark, []), *words])
        with pytest.raises(AskedError):
            benchmark.main()
        return asked[0]

    return ask


@pytest.mark.long
@pytest.mark.parametrize("benchmark_", [clinical, density, learning, locomotion, suite])
def test_options_reach_the_launcher(
    benchmark_: ModuleType, resources_for: Callable[..., Resources], tmp_path: Path
) -> None:
    asked = resources_for(benchmark_, *CLUSTER)
    assert asked.device == "cpu"
    cluster = asked.launcher(tmp_path)
    assert isinstance(cluster, Cluster)
    assert (cluster.kind, cluster.options) == ("local", {"parallel": 3, "timeout_min": 7})
    assert cluster.parallel == 3
    assert resources_for(benchmark_, "--workers", "2").launcher(tmp_path) == LocalProcesses(
        asked_device := resources_for(benchmark_).device, 2
    )
    assert device_of(asked_device)
    with pytest.raises(UserError, match="--workers must be at least 1"):
        resources_for(benchmark_, "--workers", "0")


@pytest.mark.long
def test_lines_of_one_study_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines in one study have the numbers that each has in a study of its own."""
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 20)
    for name, value in {"SEEDS": range(2), "UPDATES": 3, "PATIENTS": 10}.items():
        monkeypatch.setattr(clinical, name, value)
    lines = [clinical.LINES[2], clinical.LINES[6]]
    env_id, here = next(iter(clinical.SCENARIOS)), Resources("cpu", 1)
    both = clinical.measured(env_id, 6, lines, tmp_path / "both", here)
    assert [row["line"] for row in both[:2]] == [line.name for line in lines]
    assert both[2]["line"] == "uniform dosing"
    assert both[0]["cost"] != both[2]["cost"]
    for k, line in enumerate(lines):
        alone = clinical.measured(env_id, 6, [line], tmp_path / str(k), here)
        assert alone[0] == both[k]
        assert alone[1:] == both[2:]
    text = clinical.page(both, "command")
    assert text.index(lines[0].name) < text.index(lines[1].name) < text.index("uniform dosing")
    assert len(read_json(tmp_path / "both" / "table.json")["runs"]) == len(lines)
    monkeypatch.setattr(
        clinical, "compare", lambda study, grids, *_, **more: compare(study, grids[:1], *_, **more)
    )
    with pytest.raises(UserError, match="not every line"):
        clinical.measured(env_id, 6, lines, tmp_path / "both", here)
