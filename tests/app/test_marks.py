"""A run has one colour and symbol: on every page, in the same order, whatever else is chosen."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

from app.readers import study as readers_study
from app.theme import GREY, MARKS
from dosing.runs.files import read_json, write_json
from dosing.studies.naming import TABLE
from tests.app.figures import charts
from tests.app.test_pages import open_app, run_of  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
AGENTS = ("FtTPO", "IQL")


@pytest.fixture(scope="module")
def six_runs(full_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More runs than a page shows at once: three copies of each of the two."""
    study = tmp_path_factory.mktemp("six") / "study"
    shutil.copytree(full_study, study)
    for agent in ("fttpo", "iql"):
        run = run_of(full_study, agent).path
        for k in (1, 2):
            shutil.copytree(run, study / run.parent.relative_to(full_study) / f"{k}{run.name}")
    return study


def listing(study: Path, monkeypatch: pytest.MonkeyPatch) -> readers_study.Listing:
    monkeypatch.setenv("DOSING_STUDY", str(study))
    return readers_study.listing()


def test_marks_go_by_the_place_in_the_whole_list(six_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = listing(six_runs, monkeypatch).runs
    assert [run.mark for run in runs] == list(MARKS[:6])
    one = listing(six_runs, monkeypatch)
    assert one.mark_of(str(runs[4].folder.path.relative_to(six_runs))) == MARKS[4]
    assert one.mark_of("nobody/here/0").colour == GREY
    assert one.free_mark(0) == MARKS[6]


@pytest.mark.parametrize(
    "page", ["views/patient.py", "views/dose_response.py", "views/cohort.py", "views/ope.py"]
)
def test_a_chosen_part_keeps_its_colours(
    open_app,  # noqa: F811
    six_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
) -> None:
    chosen = [listing(six_runs, monkeypatch).runs[k] for k in (1, 5)]
    at = open_app(six_runs, page, agents=[run.label for run in chosen])
    first = json.dumps(charts(at))
    others = {mark.colour for mark in MARKS} - {run.mark.colour for run in chosen}
    assert MARKS[1].colour == MARKS[5].colour  # the symbol tells them apart
    assert {MARKS[k].symbol for k in (1, 5)} == {"circle", "star"}
    assert MARKS[1].colour in first
    assert not [colour for colour in others if colour in first]


def test_who_follows_a_run_has_its_mark(open_app, full_study: Path) -> None:  # noqa: F811
    link = {"choices": "3", "rule1": "follow IQL", "rule2": "constant dose", "rule3": "follow FtTPO"}
    at = open_app(full_study, "views/what_if.py", **link)
    signs = {
        name: element.value.split()[0]
        for element in at.markdown
        for name in (*AGENTS, "dose 0.000 at every visit")
        if f"**{name}**\n" in element.value
    }
    assert signs["FtTPO"] == MARKS[0].sign
    assert signs["IQL"] == MARKS[1].sign
    assert signs["dose 0.000 at every visit"] == MARKS[3].sign  # the second column, after two runs


def test_the_table_stands_in_the_order_of_the_runs(
    full_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    content = read_json(study / TABLE)
    rows, runs = content["rows"], content["runs"]
    write_json(study / TABLE, content | {"rows": [rows[1], rows[0], *rows[2:]], "runs": runs[::-1]})
    one = listing(study, monkeypatch)
    table = readers_study.table()
    assert table is not None
    assert [row.name for row in table[0]] == [row["name"] for row in rows]
    assert [one.mark_of(path) for path in table[1]] == [run.mark for run in one.runs]


def test_no_page_counts_colours_of_its_own() -> None:
    """A mark by the place in a part of the runs swaps colours; only the whole list may be counted."""
    counted = set()
    for path in sorted((ROOT / "app").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("mark", "theme.mark"):
                counted.add(str(path.relative_to(ROOT)))
    assert counted == {"app/readers/study.py", "app/views/live_treatment.py"}  # runs, and ways to go on
