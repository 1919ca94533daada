"""The comparison: sorted, filtered, with the columns asked for; its pictures and its file."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from app.analysis import compared
from app.charts.comparison import Measure, forest
from app.theme import MARKS
from dosing import NOT_FOR_PATIENTS
from dosing.evaluation.statistics import Estimate
from dosing.runs.files import read_json, write_json
from dosing.studies.baseline import Baseline
from dosing.studies.comparison_table import Row
from dosing.studies.naming import TABLE
from tests.app.figures import specs
from tests.app.test_pages import words
from tests.app.test_what_if import open_app  # noqa: F401

PAGE = "views/comparison.py"


@pytest.mark.long
def test_the_comparison_shows_the_table_as_it_is_asked_for(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE)
    (table,) = [frame.value for frame in at.dataframe]
    rows = [Row.from_json(line) for line in read_json(full_study / TABLE)["rows"]]
    assert table["agent or rule"].tolist()[:4] == ["FtTPO", "IQL", "uniform dosing", "no dose"]
    assert table["return, recommended dose"].tolist() == [line.recommended.value for line in rows]
    assert "No difference from a constant dose is shown." in words(at)  # of three patients none is told
    assert "2 seeds" in words(at)
    assert len(specs(at)) == 1
    at = open_app(full_study, PAGE, kinds="agents", sorted="return, sampled dose", named="q")
    (table,) = [frame.value for frame in at.dataframe]
    assert table["agent or rule"].tolist() == ["IQL"]
    at = open_app(full_study, PAGE, named="nobody")
    assert "No agent or rule is left" in words(at)
    for picture in ("small multiples", "cost against return"):
        at = open_app(full_study, PAGE, picture=picture)
        assert len(specs(at)) == 1
        assert not at.error


def difference(name: str, value: float | None, cost: float = 0.0) -> Row:
    def estimate(x: float) -> Estimate:
        return Estimate(x, x - 0.5, x + 1.0, 0.95, 40, 2, "t")

    told = None if value is None else estimate(value)
    baseline = Baseline(0.4, 50)
    return Row(
        name,
        "sparse",
        estimate(1.0),
        estimate(0.5),
        told,
        told and "worse",
        0.1,
        "exact support",
        0.0,
        None,
        estimate(cost),
        baseline,
    )


def test_rows_are_sorted_by_what_is_good_and_told_in_full() -> None:
    rows = [difference("a", -1.0, 3.0), difference("b", None, 1.0), difference("=c", 2.0, 2.0)]
    assert [row.name for row in compared.ordered(rows, compared.DIFFERENCE)] == ["=c", "a", "b"]
    assert [row.name for row in compared.ordered(rows, compared.COST)] == ["b", "=c", "a"]  # less is better
    assert compared.ordered(rows, None) == rows
    frame = compared.frame(rows, [compared.DIFFERENCE])
    assert frame[compared.DIFFERENCE].tolist()[0] == -1.0
    assert frame[compared.interval_of(compared.DIFFERENCE)].tolist()[:2] == [
        "[\N{MINUS SIGN}1.50, 0.00]",
        "\N{EM DASH}",
    ]
    first, head, *lines = compared.as_csv(rows).decode().splitlines()
    assert NOT_FOR_PATIENTS in first
    table = [dict(zip(next(csv.reader([head])), line, strict=True)) for line in csv.reader(lines)]
    assert [row[f"{compared.DIFFERENCE}, low"] for row in table] == ["-1.5", "", "1.5"]
    assert table[0][f"{compared.COST}, high"] == "4.0"
    assert table[0]["outside hard limits (%)"] == "0.0"


def test_the_forest_shows_every_interval_in_its_lane_with_the_line_it_is_judged_by() -> None:
    rows = [difference("a", -1.0), difference("b", 2.0)]
    lanes = [(row.name, look, row.verdict or "") for row, look in zip(rows, MARKS, strict=False)]
    judged = Measure("difference", [row.difference for row in rows], 0.0)
    costs = Measure("cost", [rows[0].cost, None])
    figure = forest(lanes, [judged, costs])
    assert [(t.x[0], t.xaxis) for t in figure.data] == [(-1.0, "x"), (2.0, "x"), (0.0, "x2")]
    assert [(t.error_x.arrayminus[0], t.error_x.array[0]) for t in figure.data] == [(0.5, 1.0)] * 3
    assert figure.data[0].y[0] == figure.data[2].y[0] > figure.data[1].y[0]
    assert {(s.xref, s.x0) for s in figure.layout.shapes} == {("x", 0.0)}
    assert [t.marker.color for t in figure.data] == [MARKS[k].colour for k in (0, 1, 0)]
    low, high = figure.layout.xaxis.range
    assert low < -1.5 < 3.0 < high


def test_data_sets_are_compared_one_by_one(open_app, full_study: Path, tmp_path: Path) -> None:  # noqa: F811
    study = shutil.copytree(full_study, tmp_path / "study")
    content = read_json(study / TABLE)
    other = [row | {"data": "other visits"} for row in content["rows"][2:]]
    write_json(study / TABLE, content | {"rows": content["rows"] + other})
    at = open_app(study, PAGE)
    assert "Trained on other visits" in words(at)
    assert [len(table.value) for table in at.dataframe] == [len(content["rows"]), len(other)]
