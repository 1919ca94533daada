"""What every figure has, whatever its axes say: no dragging, titles of one size, the notice at its foot."""

import plotly.graph_objects as go

from app.charts.base import finish
from app.theme import NOTICE


def test_every_axis_has_what_all_have_and_keeps_its_own() -> None:
    traces = [{"type": "scatter", "x": [1, 2], "y": [3, 4]}]
    figure = finish(
        go.Figure(data=traces),
        300,
        xaxis={"title": "visit", "range": [0, 9]},
        yaxis={"title": {"text": "dose", "standoff": 7, "font": {"color": "#123456", "size": 30}}},
        yaxis2={"domain": [0, 0.4], "visible": False},
        shapes=[{"type": "line", "x0": 0, "x1": 1, "y0": 2, "y1": 2}],
        annotations=[{"text": "note", "x": 1, "y": 1}],
    )
    layout = figure.layout
    for axis in (layout.xaxis, layout.yaxis, layout.yaxis2):
        assert axis.fixedrange is True
        assert axis.automargin is True
        assert axis.title.font.size == 13
    assert (layout.xaxis.title.text, layout.xaxis.title.standoff, layout.xaxis.range) == ("visit", 4, (0, 9))
    assert (layout.yaxis.title.text, layout.yaxis.title.standoff) == ("dose", 7)
    assert layout.yaxis.title.font.color == "#123456"
    assert (layout.yaxis2.domain, layout.yaxis2.visible) == ((0, 0.4), False)
    assert (len(layout.shapes), layout.annotations[0].text) == (1, "note")
    assert (layout.title.text, layout.height, layout.showlegend) == (NOTICE, 300, False)
    assert tuple(figure.data[0].y) == (3, 4)


def test_a_figure_without_axes_of_its_own_cannot_be_dragged_either() -> None:
    layout = finish(go.Figure(), 200).layout
    assert layout.dragmode is False
    assert layout.xaxis.fixedrange is True
    assert layout.yaxis.fixedrange is True
