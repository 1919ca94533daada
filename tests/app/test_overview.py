"""Overview: what the study holds, how far each run is, and what to do next."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.widgets.page import SHORT_NOTICE
from dosing.runs.files import read_json
from dosing.runs.folder import DONE, EVALUATION
from dosing.studies.comparison_table import Row
from dosing.studies.naming import TABLE
from tests.app.figures import charts, specs
from tests.app.test_pages import run_of, words
from tests.app.test_what_if import open_app  # noqa: F401

PAGE = "views/overview.py"


def test_runs_data_and_table_are_counted_as_they_are(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE)
    assert not at.error
    assert [metric.value for metric in at.metric] == ["2", "0", "1", "2"]
    table = at.table[0].value
    assert table["run"].tolist() == ["FtTPO", "IQL"]
    assert table["seeds"].tolist() == ["2", "2"]
    assert table["updates"].tolist() == ["100", "100"]
    assert table["evaluated on new patients"].tolist() == ["yes", "yes"]
    rows = [Row.from_json(row) for row in read_json(full_study / TABLE)["rows"]]
    verdicts = [row.verdict or "no constant dose" for row in rows[:2]]
    assert table["against the constant dose"].tolist() == verdicts
    assert "3 patients, 72 visits" in words(at)
    (chart,) = charts(at)
    assert chart["layout"]["title"]["text"] == SHORT_NOTICE
    named = [a["text"] for a in chart["layout"]["annotations"]]
    assert any("FtTPO" in text and "exact support" in text for text in named)
    assert any("IQL" in text and "any, central" in text for text in named)


def test_a_stranger_is_told_in_four_sentences(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE)
    (text,) = (element.value for element in at.markdown if "bounded interval" in element.value)
    assert text.count(". ") + text.endswith(".") == 4


def test_what_is_missing_is_named_with_its_command(
    open_app,  # noqa: F811
    full_study: Path,
    tmp_path: Path,
) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    (study / TABLE).unlink()
    (run_of(study, "iql").path / EVALUATION).unlink()
    (run_of(study, "fttpo").path / DONE).unlink()
    at = open_app(study, PAGE)
    table = at.table[0].value
    assert table["run"].tolist() == ["IQL", "fttpo"]
    assert table["evaluated on new patients"].tolist() == ["no", "no"]
    assert table["training"].tolist() == ["finished", "not finished, no checkpoint yet"]
    assert table["against the constant dose"].tolist() == ["not compared"] * 2
    commands = [element.value for element in at.code]
    assert commands[0] == "python -m dosing demo"
    assert commands[1].startswith("python -m dosing compare --agents iql --data ")
    assert commands[1].endswith(f"--out {study}")
    assert commands[2:] == [f"python -m dosing evaluate {run_of(study, 'iql').path}"]
    assert not specs(at)  # no bounded set to show


@pytest.mark.parametrize("state", ["damaged", "empty"])
def test_the_other_states_of_the_page(
    open_app,  # noqa: F811
    damaged_study: Path,
    tmp_path: Path,
    state: str,
) -> None:
    if state == "damaged":
        at = open_app(damaged_study, PAGE)
        assert any("IQL" in e.value and "changed or truncated" in e.value for e in at.error)
        assert len(specs(at)) == 1
    else:
        (tmp_path / "empty").mkdir()
        at = open_app(tmp_path / "empty", PAGE)
        assert at.code[0].value == "python -m dosing demo"
