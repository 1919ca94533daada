"""Figures of trials: one line per method over the visits of live treatment. No Streamlit here."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from app.charts.base import BOTTOM, finish
from app.text import label
from app.theme import GREY, OTHER, SHADE, Mark
from dosing.evaluation.statistics import Estimate

TOP, PLOT, ROW, LETTER, LETTERS = 30, 330, 15, 6.8, 16
"""Pixels above the plotting area, of it, of a line of a label, of a letter of it; letters in a line."""


@dataclass(frozen=True)
class LearningCurve:
    """One method in a picture.

    Attributes:
        name: of the method.
        mark: its look; :data:`app.theme.OTHER` is drawn thin and without a band.
        visits: ``[T]``.
        band: mean over seeds at each, with an interval.
    """

    name: str
    mark: Mark
    visits: npt.NDArray[np.int64]
    band: tuple[Estimate, ...]

    @property
    def values(self) -> list[float]:
        """The means."""
        return [estimate.value for estimate in self.band]


def over_visits(
    curves: Sequence[LearningCurve],
    title: str,
    last: int,
    starts: Sequence[tuple[str, Estimate]] = (),
    least: int = PLOT,
) -> go.Figure:
    """Means over the visits of a trial, named at the end of the lines.

    The band of a method with a colour is that of its estimates. The vertical axis shows every mean and every
    offline policy; bands are cut at the frame, since few seeds make them wide.

    Args:
        curves: at least one, each with at least one point.
        title: of the vertical axis, with its unit.
        last: visits of the whole trial.
        starts: name and return of offline policies, drawn as grey bands along all visits.
        least: height of the plotting area in pixels; it grows with the labels.
    """
    labels = [(_label(c.name, c.mark), c.values[-1]) for c in curves]
    labels += [
        ([label(part) for part in textwrap.wrap(name, LETTERS)], estimate.value) for name, estimate in starts
    ]
    letters = max(len(re.sub("<.*?>", "", line)) for lines, _ in labels for line in lines)
    rows = [ROW * len(lines) + 3 for lines, _ in labels]
    plot = max(least, sum(rows))
    low, high = frame_of(curves, [estimate for _, estimate in starts])
    figure = finish(
        go.Figure(),
        plot + TOP + BOTTOM,
        xaxis={"title": "visits of treatment per seed", "range": [0, last], "zeroline": False, "nticks": 6},
        yaxis={"title": {"text": label(title), "standoff": 4}, "range": [low, high], "zerolinecolor": GREY},
    )
    figure.update_layout(margin={"r": 24 + LETTER * letters})
    for name, estimate in starts:
        figure.add_hrect(y0=estimate.low, y1=estimate.high, fillcolor=SHADE, line_width=0, layer="below")
        figure.add_trace(
            go.Scatter(
                x=[0, last],
                y=[estimate.value] * 2,
                mode="lines",
                line={"color": GREY, "width": 1.5, "dash": "dot"},
                hovertemplate=f"{label(name)}: {estimate} ({label(estimate.basis)})<extra></extra>",
            )
        )
    for curve in sorted(curves, key=lambda c: c.mark != OTHER):  # colours on top
        _draw(figure, curve)
    offsets = [(value - low) / (high - low) * plot for _, value in labels]
    _name_lines(figure, labels, offsets, stack(offsets, rows, plot))
    return figure


def _name_lines(
    figure: go.Figure,
    labels: Sequence[tuple[list[str], float]],
    offsets: Sequence[float],
    places: Sequence[float],
) -> None:
    """Names at the ends of lines, drawn at ``places`` and pointing to ``offsets``, both in pixels."""
    for (lines, value), own, place in zip(labels, offsets, places, strict=True):
        figure.add_annotation(
            x=1,
            xref="paper",
            y=value,
            text="<br>".join(lines),
            align="left",
            xanchor="left",
            yanchor="middle",
            ax=12,
            ay=own - place,
            showarrow=True,
            arrowhead=0,
            arrowwidth=1,
            arrowcolor=GREY,
            font={"size": 11.5},
        )


def frame_of(curves: Sequence[LearningCurve], starts: Sequence[Estimate]) -> tuple[float, float]:
    """Ends of the vertical axis: all means, and some room for the bands."""
    means = [value for curve in curves for value in curve.values] + [e.value for e in starts]
    low, high = min(means), max(means)
    room = 0.2 * (high - low) or 1.0
    return low - room, high + room


def stack(offsets: Sequence[float], rows: Sequence[int], height: float) -> list[float]:
    """Middles of labels near their lines, none over another and none outside the plotting area.

    Args:
        offsets: of the lines' ends above the foot of the plotting area, in pixels.
        rows: heights of the labels.
        height: of the plotting area, at least that of all labels.
    """
    order = np.argsort(offsets, kind="stable")
    places = [0.0] * len(offsets)
    floor = 0.0
    for index in order:  # from the foot up
        places[index] = max(offsets[index], floor + 0.5 * rows[index])
        floor = places[index] + 0.5 * rows[index]
    ceiling = height
    for index in order[::-1]:  # and down again, where they went through the top
        places[index] = min(places[index], ceiling - 0.5 * rows[index])
        ceiling = places[index] - 0.5 * rows[index]
    return places


def _label(name: str, mark: Mark) -> list[str]:
    """A name in short lines, behind its mark."""
    first, *rest = map(label, textwrap.wrap(name, LETTERS, initial_indent=2 * " "))
    return [f'<span style="color:{mark.colour}">{mark.glyph}</span> {first.strip()}', *rest]


def _draw(figure: go.Figure, curve: LearningCurve) -> None:
    """One line, and its band where it has a colour."""
    mark, named = curve.mark, curve.mark != OTHER
    if named and len(curve.band) > 1:
        ends = [e.high for e in curve.band] + [e.low for e in curve.band][::-1]
        figure.add_trace(
            go.Scatter(
                x=[*curve.visits.tolist(), *curve.visits[::-1].tolist()],
                y=ends,
                fill="toself",
                fillcolor=mark.faint(0.14),
                mode="lines",
                line={"width": 1, "color": mark.faint(0.45)},
                hoverinfo="skip",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=curve.visits.tolist(),
            y=curve.values,
            mode="lines+markers" if named else "lines" if len(curve.band) > 1 else "markers",
            line={"color": mark.colour, "width": 2.4 if named else 1.2, "dash": mark.dash},
            marker={"symbol": mark.symbol, "size": 7, "color": mark.colour},
            cliponaxis=False,
            customdata=[f"{e} ({label(e.basis)})" for e in curve.band],
            hovertemplate=f"{label(curve.name)}, visit %{{x:,}}: %{{customdata}}<extra></extra>",
        )
    )
