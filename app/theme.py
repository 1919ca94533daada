"""Colours, marks and number formats of the dashboard: one place, so that words and charts agree.

Colours are those of Okabe and Ito that keep a contrast of 3:1 for lines on the light and on the dark
background; they are never the only sign: every policy also has a dash and a marker. A run keeps its mark on
every page, whatever else is shown there, see :class:`app.readers.study.Run`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.text import Markdown
from dosing import NOT_FOR_PATIENTS
from dosing.policy import CENTRAL
from dosing.recommendation import dose_context
from dosing.safety import dose_text

decimals, number = dose_context.decimals, dose_context.fixed

GREY = "#767676"
SHADE = "rgba(118,118,118,0.16)"
TARGET = "rgba(0,158,115,0.18)"
"""Fills the range in which a quantity is to be kept."""
HARM = "#D03B2F"
"""Of adverse events: 3:1 on the light and on the dark background; a name always stands beside it."""
NBSP = "\N{NO-BREAK SPACE}"
CENTRAL_WORDS = f"{100 * CENTRAL:.0f}{NBSP}%"
"""Mass of the interval that stands in for a support where there is none."""
HIGHLIGHTS = 4
"""Most policies in one chart."""


@dataclass(frozen=True)
class Mark:
    """How one policy looks everywhere.

    Attributes:
        colour: of lines and markers.
        dash: of its density.
        symbol: plotly's name of its marker.
        sign: the same marker as text, coloured, in Streamlit's markdown.
        glyph: the same marker as plain text.
    """

    colour: str
    dash: str
    symbol: str
    sign: Markdown
    glyph: str

    def faint(self, alpha: float) -> str:
        """The colour as rgba with the given opacity."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{alpha})"


COLOURS = (
    ("#0072B2", "solid", "blue"),
    ("#D55E00", "dash", "orange"),
    ("#009E73", "dashdot", "green"),
    ("#CC79A7", "longdash", "violet"),
)
"""Colour, dash, and the colour's name in Streamlit's markdown."""
SYMBOLS = (
    ("diamond", "◆"),
    ("circle", "●"),
    ("square", "■"),
    ("triangle-up", "▲"),
    ("triangle-down", "▼"),
    ("star", "★"),
    ("cross", "✚"),
    ("pentagon", "⬟"),
    ("hexagon", "⬢"),
)
"""Plotly's name of a marker and the same as text; their number shares no factor with that of the colours."""


def _made(place: int) -> Mark:
    colour, dash, name = COLOURS[place % len(COLOURS)]
    symbol, glyph = SYMBOLS[place % len(SYMBOLS)]
    return Mark(colour, dash, symbol, Markdown(f":{name}[{glyph}]"), glyph)


MARKS = tuple(map(_made, range(len(COLOURS) * len(SYMBOLS))))
"""Every pair of a colour and a symbol, neighbours of different colours."""
OTHER = Mark(GREY, "solid", "x-thin", Markdown(":gray[✕]"), "✕")
"""What is no policy of the study: reference rules, and what is not highlighted."""

NOTICE = "<br>".join(textwrap.wrap(NOT_FOR_PATIENTS, 56))
"""The sentence as the last lines of every figure, narrow enough for a telephone."""


def template(dark: bool) -> dict[str, Any]:
    """The one plotly template: text, grid and labels that are read on the light or on the dark page."""
    text = "#E8EAED" if dark else "#1F2328"
    axis = {"gridcolor": SHADE, "zerolinecolor": SHADE, "linecolor": GREY}
    return {
        "layout": {
            "font": {"color": text, "family": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", "size": 13},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hoverlabel": {
                "bgcolor": "#22272C" if dark else "#FFFFFF",
                "bordercolor": GREY,
                "font": {"color": text},
            },
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": text},
            "xaxis": axis,
            "yaxis": axis,
        }
    }


def mark(place: int) -> Mark:
    """Mark of the run at this place of the study's whole list, never of a part of it."""
    return MARKS[place % len(MARKS)]


def dose_number(value: float, low: float, high: float, places: int) -> str:
    """A dose as :func:`number`, with more decimals where rounding would carry it across a hard limit."""
    return minus(dose_text(value, low, high, places))


def minus(text: object) -> str:
    """A text of numbers with real minus signs."""
    return str(text).replace("-", "\N{MINUS SIGN}")


def interval(low: float, high: float, places: int = 3) -> str:
    """``low to high``: a dash between two numbers would read as a minus."""
    return f"{number(low, places)}{NBSP}to{NBSP}{number(high, places)}"


def unit_words(unit: str) -> str:
    """A unit for an axis title: ``mg``, or ``no unit`` for a synthetic quantity."""
    return "no unit" if unit in ("", "1") else unit


def per_unit(unit: str) -> str:
    """The unit of a density over a quantity with this unit."""
    return "no unit" if unit in ("", "1") else f"per {unit}"


def with_unit(text: str, unit: str) -> str:
    """A number's text followed by its unit, if it has one."""
    return text if unit in ("", "1") else f"{text} {unit}"


def counted(count: int, noun: str) -> str:
    """``1 seed``, ``1,000 patients``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def probability(value: float | None) -> str:
    """A probability as per cent; only an exact zero is written as zero, only an exact one as 100 %."""
    if value is None:
        return "not measured"
    if value == 0.0:
        return f"0{NBSP}(exactly)"
    if value < 1e-3:
        return f"{100 * value:.1e}{NBSP}%".replace("-", "\N{MINUS SIGN}")
    if 0.999 < value < 1.0:
        return f"more than 99.9{NBSP}%"
    return f"{100 * value:.1f}{NBSP}%"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
