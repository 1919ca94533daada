"""A figure as it is taken away: settings of Plotly's own button, and its numbers as CSV. No Streamlit."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from dosing import NOT_FOR_PATIENTS

Picture = Literal["png", "svg"]
HEAD = ("axis", "series", "across", "x", "x_low", "x_high", "up", "y", "y_low", "y_high")
"""Columns: titles of the axes as drawn, values, and the ends of their intervals where one is drawn."""


def config(picture: Picture, name: str) -> dict[str, Any]:
    """Plotly's settings on every page: no service is called, and the button that saves a picture is seen.

    Args:
        picture: what the button saves.
        name: of the file, without its suffix.
    """
    return {
        "displaylogo": False,
        "displayModeBar": True,
        "scrollZoom": False,
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": {
            "format": picture,
            "filename": f"{name}-not-for-patients",
            "scale": 2 if picture == "png" else 1,
        },
    }


def as_csv(figure: go.Figure) -> bytes:
    """Every point that a figure draws, a line each, below a first line with the notice.

    A series goes by its name, else by the words of its hover text; text that a spreadsheet would take for a
    formula begins with an apostrophe.

    Returns:
        UTF-8 text with the columns of :data:`HEAD`; an empty cell where a figure draws no such value.
    """
    out = io.StringIO()
    out.write(f"# {NOT_FOR_PATIENTS}\n")
    write = csv.writer(out, lineterminator="\n")
    write.writerow(HEAD)
    for number, trace in enumerate(figure.data, 1):
        x, y = (_values(one) for one in (trace.x, trace.y))
        count = max(len(x), len(y))
        axis, series = trace.yaxis or "y", _series(trace) or f"line {number}"
        titles = [_title(figure, trace.xaxis or "x"), _title(figure, axis)]
        columns = [
            *(_padded(one, count) for one in (x, *_ends(trace.error_x, x))),
            *(_padded(one, count) for one in (y, *_ends(trace.error_y, y))),
        ]
        for row in zip(*columns, strict=True):
            write.writerow([axis, series, titles[0], *row[:3], titles[1], *row[3:]])
    return out.getvalue().encode()


def _values(array: Any) -> list[Any]:
    return [] if array is None else np.asarray(array).tolist()


def _padded(values: list[Any], count: int) -> list[Any]:
    told = ["" if v is None or v != v else _safe(v) if isinstance(v, str) else v for v in values]
    return [*told, *[""] * (count - len(told))]


def _ends(bar: Any, values: list[Any]) -> tuple[list[Any], list[Any]]:
    """Ends of the error bars; empty where there are none."""
    above = _values(bar.array)
    if not above:
        return [], []
    below = _values(bar.arrayminus) or above
    pairs = list(zip(values, below, above, strict=True))
    return [v - b for v, b, _ in pairs], [v + a for v, _, a in pairs]


def _series(trace: Any) -> str:
    """What a trace is called."""
    told = trace.hovertemplate if isinstance(trace.hovertemplate, str) else ""
    return _plain(trace.name or re.split(r"%\{", told)[0])


def _title(figure: go.Figure, axis: str) -> str:
    layout = figure.layout[f"{axis[0]}axis{axis[1:]}"]
    return _plain(layout.title.text or "")


def _plain(text: str) -> str:
    """A label without its tags, and without what led to a value."""
    bare = unescape(re.sub(r"<[^>]*>", "", text.replace("<br>", " ")))
    return _safe(" ".join(bare.split()).strip(" ,:("))


def _safe(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text
