"""The training page: returns along training and one run's losses, in every state of the page."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dosing.evaluation.statistics import interquartile_mean
from dosing.runs.files import write_table
from dosing.runs.folder import find_runs
from dosing.studies.naming import CURVES
from tests.app.figures import charts, specs
from tests.app.test_pages import words
from tests.app.test_what_if import open_app  # noqa: F401

PAGE = "views/training.py"
UPDATES, SEEDS = (10, 20, 30), range(8)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    write_table(path, {name: [row[name] for row in rows] for name in rows[0]})


def curve_rows(study: Path) -> list[dict[str, Any]]:
    """Curves of eight seeds at three updates, for every run of the study."""
    rng, rows = np.random.default_rng(0), []
    for run in find_runs(study):
        config = run.config()
        about = {
            "agent": config.agent,
            "name": f"{config.agent}, alpha=1",
            "setting": "",
            "policy": "distribution",
            "data": config.data.name,
            "run": str(run.path.relative_to(study)),
        }
        for update in UPDATES:
            for seed in SEEDS:
                means = {"recommended": float(rng.normal(update)), "sampled": float(rng.normal(-update))}
                rows.append(about | {"update": update, "seed": seed} | means)
    return rows


@pytest.fixture
def with_curves(full_study: Path, tmp_path: Path) -> Path:
    study = shutil.copytree(full_study, tmp_path / "curves")
    write_rows(study / CURVES, curve_rows(study))
    return study


def figure(at: AppTest, index: int) -> dict[str, Any]:
    result: dict[str, Any] = charts(at)[index]
    return result


def values(array: Any) -> np.ndarray:
    """An array of a figure, which plotly may have packed."""
    if isinstance(array, dict):
        return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"])
    return np.asarray(array)


@pytest.mark.parametrize("rule", ["recommended", "sampled"])
def test_the_strong_line_is_the_interquartile_mean_of_the_seeds(
    open_app,  # noqa: F811
    with_curves: Path,
    rule: str,
) -> None:
    at = open_app(with_curves, PAGE, along=rule)
    rows = [row for row in curve_rows(with_curves) if row["agent"] == "iql"]
    each = np.array([[r[rule] for r in rows if r["update"] == u] for u in UPDATES])
    *seeds, middle = figure(at, 1)["data"]
    assert len(seeds) == 8
    assert np.allclose(values(middle["y"]), interquartile_mean(each[..., None]))
    assert np.allclose(values(seeds[3]["y"]), each[:, 3])
    assert values(middle["x"]).tolist() == list(map(float, UPDATES))
    assert figure(at, 0)["layout"]["yaxis"]["range"] == figure(at, 1)["layout"]["yaxis"]["range"]
    assert "**iql, alpha=1** · distribution" in words(at)
    assert "interquartile mean over 8 training seeds" in words(at)


@pytest.mark.long
def test_the_losses_of_any_run_are_shown(open_app, with_curves: Path) -> None:  # noqa: F811
    at = open_app(with_curves, PAGE)
    before = len(specs(at))
    at.selectbox(key="run").select("IQL").run()
    assert not at.exception
    assert 3 < len(specs(at)) != before
    assert "interquartile mean over 2 seeds" in words(at)


@pytest.mark.long
def test_only_the_end_or_nothing_names_the_command(open_app, full_study: Path, tmp_path: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE)  # a demo is evaluated at its end alone
    assert "Only the end of training was evaluated" in words(at)
    assert "--evaluate-at" in at.code[0].value
    study = shutil.copytree(full_study, tmp_path / "study")
    (study / CURVES).unlink()
    at = open_app(study, PAGE)
    assert "No run was evaluated along its training yet" in words(at)
    assert specs(at)  # the losses are there all the same


@pytest.mark.long
def test_a_damaged_or_orphaned_file_is_named(open_app, with_curves: Path) -> None:  # noqa: F811
    rows = [r | ({"run": "gone/away/x"} if r["agent"] == "iql" else {}) for r in curve_rows(with_curves)]
    write_rows(with_curves / CURVES, rows)
    at = open_app(with_curves, PAGE)
    assert any("gone/away/x is no longer a readable run" in e.value for e in at.error)
    without = [{k: v for k, v in row.items() if k != "update"} for row in rows]
    write_rows(with_curves / CURVES, without)
    at = open_app(with_curves, PAGE)
    assert any("lacks update" in e.value for e in at.error)


def test_an_empty_study_names_the_command(open_app, empty_study: Path) -> None:  # noqa: F811
    at = open_app(empty_study, PAGE)
    assert at.code[0].value == "python -m dosing demo"
    assert not specs(at)
