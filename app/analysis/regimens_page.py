"""Regimens side by side on one page to print: HTML that needs nothing but itself. No Streamlit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

import numpy as np

from app.analysis.regimens import Tried
from app.text import JOINER, Markdown
from app.theme import number, unit_words
from dosing.recommendation.printed import document
from dosing.types import AnyArray

WIDTH, HEIGHT, LEFT = 640, 92, 52
"""Size in pixels of one quantity's drawing, and the room left of it for the numbers of its axis."""
DASHES = {
    "solid": "",
    "dash": 'stroke-dasharray="8 4"',
    "dashdot": 'stroke-dasharray="8 3 2 3"',
    "longdash": 'stroke-dasharray="14 5"',
}
"""Dashes of the marks, as SVG writes them."""


def as_html(tried: Sequence[Tried], lines: Sequence[Sequence[Markdown]], about: str, explained: str) -> str:
    """The page.

    Args:
        tried: the regimens, with the same quantities in the same order.
        lines: facts in words of each.
        about: whose course this is.
        explained: what the drawings show.
    """
    cells = [_regimen(one, told) for one, told in zip(tried, lines, strict=True)]
    parts = [
        f'<p class="small">{escape(about)}</p>',
        "<h2>Regimens</h2>",
        f'<section class="agents">{"".join(cells)}</section>',
        "<h2>Courses</h2>",
        *(_quantity(tried, row) for row in range(len(tried[0].outcome.strips))),
        f'<p class="small">Across: visits from the chosen state. {escape(explained)}</p>',
    ]
    return document("What if: regimens in a research simulator", parts)


def _sign(one: Tried) -> str:
    return f'<span style="color:{one.mark.colour}">{one.mark.glyph}</span>'


def _regimen(one: Tried, lines: Sequence[Markdown]) -> str:
    told = "".join(f"<li>{_html(line)}</li>" for line in lines)
    return f'<article><h3>{_sign(one)} {escape(one.name)}</h3><ul class="lines">{told}</ul></article>'


def _html(line: Markdown) -> str:
    """A sentence with bold words, and without the escapes that markdown needs."""
    inside = [escape(part) for part in re.sub(r"\\(?=\W)", "", line.replace(JOINER, "")).split("**")]
    return "".join(f"<b>{part}</b>" if at % 2 else part for at, part in enumerate(inside))


def _quantity(tried: Sequence[Tried], row: int) -> str:
    """One quantity of every regimen on common axes."""
    strips = [one.outcome.strips[row] for one in tried]
    first = strips[0]
    values = np.concatenate([np.r_[s.bands.ravel(), s.limits, s.target or ()] for s in strips])
    low, high = float(values.min()), float(values.max())
    last = max(float(s.visits[-1]) for s in strips)

    def x(visits: AnyArray) -> AnyArray:
        return np.asarray(LEFT + (WIDTH - LEFT) * visits / last)

    def y(levels: AnyArray) -> AnyArray:
        return np.asarray(HEIGHT - 14 - (HEIGHT - 20) * (levels - low) / ((high - low) or 1.0))

    shapes = [f'<path d="M{LEFT} 4V{HEIGHT - 14}H{WIDTH}" fill="none" stroke="#767676"/>']
    if first.target is not None:
        bottom, top = (float(y(np.asarray(end))) for end in first.target)
        size = f'x="{LEFT}" y="{top:.1f}" width="{WIDTH - LEFT}" height="{bottom - top:.1f}"'
        shapes.append(f'<rect class="target" {size} fill="#009E73" fill-opacity="0.18"/>')
    for one, strip in zip(tried, strips, strict=True):
        across = x(strip.visits)
        if strip.percent is not None:
            ends = [_path(across, y(strip.bands[0])), _path(across[::-1], y(strip.bands[-1])[::-1])]
            area = f"M{ends[0]}L{ends[1]}Z"
            shapes.append(f'<path d="{area}" fill="{one.mark.colour}" fill-opacity="0.14"/>')
        line = f'fill="none" stroke="{one.mark.colour}" stroke-width="2" {DASHES[one.mark.dash]}'
        shapes.append(f'<path class="regimen" d="M{_path(across, y(strip.middle))}" {line}/>')
    shapes += [
        f'<text x="{at:.0f}" y="{height}" text-anchor="{anchor}">{escape(text)}</text>'
        for at, height, anchor, text in (
            (LEFT - 4, HEIGHT - 14, "end", number(low, 2)),
            (LEFT - 4, 12, "end", number(high, 2)),
            (LEFT, HEIGHT - 2, "start", "0"),
            (WIDTH, HEIGHT - 2, "end", f"{last:.0f}"),
        )
    ]
    target = "" if first.target is None else ", shaded: target {:g} to {:g}".format(*first.target)
    name = escape(f"{first.name} ({unit_words(first.unit)}){target}")
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}" font-size="10">'
    return f"<h3>{name}</h3>{picture}{''.join(shapes)}</svg>"


def _path(across: AnyArray, up: AnyArray) -> str:
    """Points of a path."""
    return "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(across.tolist(), up.tolist(), strict=True))
