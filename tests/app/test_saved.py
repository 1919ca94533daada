"""What is taken away of a figure: the button's settings, and the numbers as CSV, read back."""

from __future__ import annotations

import csv
import io

import numpy as np
import plotly.graph_objects as go

from app.charts.base import intervals
from app.charts.saved import HEAD, as_csv, config
from dosing import NOT_FOR_PATIENTS
from tests.app.test_charts import LOOKS, ROWS


def read(figure: go.Figure) -> list[dict[str, str]]:
    first, rest = as_csv(figure).decode().split("\n", 1)
    assert first == f"# {NOT_FOR_PATIENTS}"
    table = csv.DictReader(io.StringIO(rest))
    assert tuple(table.fieldnames or ()) == HEAD
    return list(table)


def test_points_come_back_with_intervals_titles_and_names() -> None:
    figure = go.Figure(
        [
            go.Scatter(
                x=[1.0, 2.5], y=np.array([3, np.nan]), name="=SUM(A1)", error_x={"array": [0.5, 0.25]}
            ),
            go.Scatter(
                y=[7.0],
                yaxis="y2",
                error_y={"array": [2.0], "arrayminus": [1.0]},
                hovertemplate="<b>IQL</b> &amp; others: %{y:.3f}<extra></extra>",
            ),
            go.Bar(x=["a", "b"], y=[1, 2]),
        ],
        {"xaxis": {"title": "dose (mg)"}, "yaxis2": {"title": {"text": "<b>INR</b> (no unit)"}}},
    )
    table = read(figure)
    assert len(table) == 5
    assert (table[0]["x"], table[0]["x_low"], table[0]["x_high"]) == ("1.0", "0.5", "1.5")
    assert (table[1]["y"], table[1]["x_high"]) == ("", "2.75")
    assert table[0]["series"] == "'=SUM(A1)"  # no formula in a spreadsheet
    assert table[0]["across"] == "dose (mg)"
    second = table[2]
    assert (second["series"], second["axis"], second["up"]) == ("IQL & others", "y2", "INR (no unit)")
    assert (second["x"], second["y_low"], second["y_high"]) == ("", "6.0", "9.0")
    assert [(r["series"], r["x"], r["y"]) for r in table[3:]] == [("line 3", "a", "1"), ("line 3", "b", "2")]


def test_every_estimate_of_the_comparison_is_in_the_file() -> None:
    drawn = ROWS
    table = read(intervals(drawn, LOOKS))
    wanted = [e for row in drawn for e in (row.recommended, row.sampled) if e is not None]
    assert [float(r["x"]) for r in table] == [e.value for e in wanted]
    np.testing.assert_allclose([float(r["x_low"]) for r in table], [e.low for e in wanted])
    np.testing.assert_allclose([float(r["x_high"]) for r in table], [e.high for e in wanted])


def test_the_button_is_seen_and_saves_the_kind_that_is_asked_for() -> None:
    png, svg = config("png", "axis"), config("svg", "axis")
    assert png["displayModeBar"] is True
    assert png["modeBarButtons"] == [["toImage"]]
    assert png["toImageButtonOptions"]["format"] == "png"
    assert svg["toImageButtonOptions"]["format"] == "svg"
    assert svg["toImageButtonOptions"]["filename"] == "axis-not-for-patients"
