"""Plain SVG: lines, words and round numbers, from which figures are put together."""

from __future__ import annotations

import math
from html import escape

COLOURS, DASHES = ("#0072B2", "#D55E00", "#009E73"), ("", "6 3", "2 2")
"""Of the groups, in order; Okabe and Ito's colours that can be told apart on white."""
GREY = "#767676"


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 11, fill: str = "#222") -> str:
    """One line of words."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{fill}">{escape(words)}</text>'


def stroke(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> str:
    """One straight line."""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"/>'


def sheet(width: float, height: float) -> list[str]:
    """The opening of a picture of this size, and its white ground."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, DejaVu Sans, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between the ends."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def minus(words: str) -> str:
    """Numbers with a real minus sign."""
    return words.replace("-", "\N{MINUS SIGN}")
