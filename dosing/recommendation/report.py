"""One printable page on the recommendations for one state: HTML that needs nothing but itself.

Styles and drawings are inline, there is no script and no address of anything else, and the page forbids the
browser to fetch any. Every number is that of the recommendation, four significant digits, as on the command
line; every text is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from dosing import __version__
from dosing.errors import UserError
from dosing.recommendation.dose_context import DoseContext, status_words
from dosing.recommendation.printed import document
from dosing.recommendation.reasons import held_at
from dosing.recommendation.records import (
    Limits,
    NearVisit,
    Recommendation,
    StateEntry,
    dose_words,
    span_words,
)
from dosing.recommendation.units import headed
from dosing.safety import dose_text

SIGNS = {"good": "\u2713", "caution": "\u25b2", "deferred": "\u25a0", "refused": "\u2715"}
FEW = 3
"""Most seeds whose doses are listed; of more, the lowest and the highest."""
WIDTH, LANE = 460, 34
"""Size of the drawing of one dose dimension in pixels: its width, and the height of its one lane."""


@dataclass(frozen=True)
class Said:
    """One agent's answer on the page.

    Attributes:
        name: of the agent.
        distribution: of its policy, in words.
        result: what it says.
        context: what following it was worth, and the decision in force.
    """

    name: str
    distribution: str
    result: Recommendation
    context: DoseContext


def report(
    said: Sequence[Said],
    entries: Sequence[StateEntry] = (),
    about: str = "",
    reference: Sequence[Said] = (),
) -> str:
    """Return the page as HTML.

    Args:
        said: answers of one agent or more to the same state.
        entries: names and units of the observed entries; empty where nothing is known of them.
        about: which patient and visit this is, in words.
        reference: answers of rules that are no agents, to compare with.

    Raises:
        UserError: there is no answer, or they are on different states.
    """
    if not said:
        raise UserError("a report needs at least one recommendation.")
    first = said[0].result
    others = [*said[1:], *reference]
    if any((one.result.state, one.result.current) != (first.state, first.current) for one in others):
        raise UserError("a report is on one state; these recommendations are on several.")
    parts = [
        f'<p class="small">{_text(" · ".join(filter(None, [about, f"made {first.time}"])))}</p>',
        "<h2>State</h2>",
        _state(first, entries),
        "<h2>Recommendation per agent</h2>",
        f'<section class="agents">{"".join(map(_article, said))}</section>',
        *_reference(reference),
        *_near(said, entries),
        "<h2>What this rests on</h2>",
        _provenance(said),
        f'<p class="small">Written by dosing {_text(__version__)}. Interval: union over training seeds. Mass '
        "outside: probability outside the hard limits before any clipping, mean over seeds. Filled bar: "
        "exact support; dashed outline: central 99 %, not a support; ticks: each seed's dose; line below: "
        "doses recorded near this state.</p>",
    ]
    return document("Dose recommendation of a research simulator", parts)


def _state(result: Recommendation, entries: Sequence[StateEntry]) -> str:
    """Every observed entry with its unit, and the dose given now."""
    known = len(entries) == len(result.state)
    names = [e.name for e in entries] if known else [f"entry {k + 1}" for k in range(len(result.state))]
    units = [e.unit for e in entries] if known else [""] * len(result.state)
    pairs = list(zip(names, (_number(v) for v in result.state), units, strict=True))
    if result.current is not None:
        pairs.append(("current dose", _numbers(result.current), result.unit))
    cells = (f"<div><dt>{_text(n)}</dt> <dd>{_text(v + _after(u))}</dd></div>" for n, v, u in pairs)
    return f'<dl class="state">{"".join(cells)}</dl>'


def _status(one: Said) -> tuple[str, str]:
    """The one status of a dose: how it looks, and its words behind a sign."""
    kind, words = status_words(one.result.status, one.context.evidence)
    look = one.result.status if kind == "grey" else kind
    return look, f"{SIGNS[look]} {words}"


def _article(one: Said) -> str:
    """One agent: status first, number second, then what the policy could give."""
    result = one.result
    unit = _after(result.unit)
    look, words = _status(one)
    parts = [
        f'<h3>{_text(one.name)} <span class="small">{_text(one.distribution)}</span></h3>',
        f'<p class="status {look}">{_text(words)}</p>',
    ]
    if result.status == "limited" and result.proposed is not None:
        held = f"{_doses(result.proposed, result.limits)}{unit}, held at {held_at(result.codes)}"
        parts.append(f"<p>Proposed {_text(held)}</p>")
    beside = [f'<p class="{kind}">{_text(words)}</p>' for kind, words in one.context.lines]
    lines = []
    if result.dose is not None:
        label = (
            "Dose the policy would give, not advice" if result.status == "deferred" else "Recommended dose"
        )
        label += "" if unit else " (no unit)"
        parts.append(
            f'<p>{label} <span class="dose">{_text(_doses(result.dose, result.limits) + unit)}</span></p>'
        )
        beside += [_drawing(result, dimension) for dimension in range(len(result.dose))]
        lines = list(_lines(result, unit))
    if result.dose is None:
        lines.append(f"Hard limits: {_span(result.limits, result.limits)}{unit}")
    reasons = [f'<li class="reason">{_text(reason)}</li>' for reason in result.reasons]
    if result.status in ("deferred", "refused") and result.safe_default:
        reasons.append(f'<li class="reason">{_text(f"Safe default: {result.safe_default}.")}</li>')
    items = [*reasons, *(f"<li>{_text(line)}</li>" for line in (*lines, *result.notes))]
    basis = [f'<ul class="lines">{"".join(items)}</ul>']
    whole = parts + (basis + beside if result.dose is None else beside + basis)
    return f"<article>{''.join(whole)}</article>"


def _lines(result: Recommendation, unit: str) -> Iterator[str]:
    """The basis of a dose, one line each."""
    assert result.support is not None
    assert result.mass_outside is not None
    yield f"Could give: {_span(result.support, result.limits)}{unit} ({result.support_words})"
    if result.central is not None:
        yield f"Central 90 %: {_span(result.central, result.limits)}{unit}"
    none = "0 (exactly)" if result.bounded else "0 (as computed)"
    mass = none if result.mass_outside == 0.0 else _number(result.mass_outside)
    yield f"Mass outside the hard limits, {_span(result.limits, result.limits)}{unit}: {mass}"
    own = [seed.dose for seed in result.seeds]
    seeds = "; ".join(_doses(dose, result.limits) for dose in own)
    if len(own) > FEW:
        columns = list(zip(*own, strict=True))
        seeds = _span((tuple(map(min, columns)), tuple(map(max, columns))), result.limits)
    spread = f" (standard deviation {_numbers(result.spread)}{unit})" if result.spread else ""
    plural = "" if len(result.seeds) == 1 else "s"
    yield f"Doses of {len(result.seeds)} training seed{plural}: {seeds}{spread}"
    if result.step is not None:
        yield f"Step limit: {_span(result.step, result.limits)}{unit}"
    if result.recorded_near is not None:
        near, usual = f"{result.dose_distance:.3g}", f"{result.dose_threshold:.3g}"
        yield (
            f"Doses recorded near this state: {_span(result.recorded_near, result.limits)}{unit}; distance "
            f"of this dose {near}, unrecorded beyond {usual}"
        )
    if result.distance is not None and result.threshold is not None:
        far = f"{result.distance:.3g}, unfamiliar beyond {result.threshold:.3g}"
        yield f"Distance from the training visits: {far}"


def _drawing(result: Recommendation, dimension: int) -> str:
    """One dose dimension: hard limits, interval, seeds and dose on one axis."""
    assert result.dose is not None
    assert result.support is not None
    low, high = (ends[dimension] for ends in result.limits)
    left, right = low - 0.15 * (high - low), high + 0.15 * (high - low)

    def x(dose: float) -> float:
        return round(WIDTH * (min(max(dose, left), right) - left) / (right - left), 1)

    def words(dose: float) -> str:
        return _minus(dose_text(dose, low, high))

    ends = [ends[dimension] for ends in result.support]
    dash = "" if result.bounded else ' stroke-dasharray="4 3"'
    fill = "#cfe3f1" if result.bounded else "none"
    name = "" if len(result.dose) == 1 else f"{dimension + 1}: "
    shapes = [
        f'<rect x="{x(ends[0])}" y="5" width="{max(round(x(ends[1]) - x(ends[0]), 1), 1)}" height="14" '
        f'fill="{fill}" stroke="#0072B2" stroke-width="1.5"{dash}/>',
        *_recorded(result, dimension, x),
        *(
            f'<path d="M{x(edge)} 1V23" stroke="#767676" stroke-width="2.5"/>'
            f'<text x="{x(edge)}" y="{LANE - 1}" text-anchor="middle">{_text(name + words(edge))}</text>'
            for edge in (low, high)
        ),
        *(
            f'<path d="M{x(s.dose[dimension])} 5V19" stroke="#0072B2" stroke-width="1.5"/>'
            for s in result.seeds
        ),
        f'<path d="M{x(result.dose[dimension])} 4l7 8l-7 8l-7-8z" fill="#0072B2" stroke="#fff"/>',
        f'<text x="{_room(x(result.dose[dimension]), x(low), x(high))}" y="{LANE - 1}" '
        f'text-anchor="middle" font-weight="700">{_text(words(result.dose[dimension]))}</text>',
        *(
            f'<text x="{edge}" y="16" text-anchor="{anchor}">{sign}</text>'
            for edge, anchor, sign, beyond in (
                (0, "start", "\u25c2", ends[0] < left),
                (WIDTH, "end", "\u25b8", ends[1] > right),
            )
            if beyond
        ),
    ]
    limits, dose, interval = (
        _span(result.limits, result.limits),
        _doses(result.dose, result.limits),
        _span(result.support, result.limits),
    )
    label = f"hard limits {limits}, dose {dose}, interval {interval}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {LANE}" role="img" aria-label="{_text(label)}" font-size="12.5">'
        f"{''.join(shapes)}</svg>"
    )


def _recorded(result: Recommendation, dimension: int, x: Callable[[float], float]) -> Iterator[str]:
    """The range of the doses recorded near the state, as a line below the interval."""
    if result.recorded_near is not None:
        ends = [x(ends[dimension]) for ends in result.recorded_near]
        yield f'<path class="recorded" d="M{ends[0]} 21.5H{ends[1]}" stroke="#009E73" stroke-width="3"/>'


def _room(x: float, low: float, high: float) -> float:
    """Where the number of a dose stands so that it covers no number of a limit."""
    return min(max(x, low + 42), high - 42)


def _reference(said: Sequence[Said]) -> Iterator[str]:
    """Rules that are no agents, a line each: status, dose, reasons, and what following them was worth."""
    if not said:
        return
    yield f"<h2>For reference: {_text(said[0].distribution)}</h2>"
    rows = []
    for one, before in zip(said, (None, *said), strict=False):
        result, context = one.result, one.context
        dose = "none" if result.dose is None else _doses(result.dose, result.limits) + _after(result.unit)
        worth = [words for _, words in context.lines]
        if before is not None and before.context.lines == context.lines:
            worth = ["Worth: as above."]
        words = " ".join((*result.reasons, *worth))
        rows.append([one.name, _status(one)[1], dose, words])
    yield f'<div class="wide">{_table(["rule", "status", "dose", "reasons and worth"], rows)}</div>'


def _near(said: Sequence[Said], entries: Sequence[StateEntry]) -> Iterator[str]:
    """The nearest training visits; once for agents that were trained on the same visits."""
    groups: dict[tuple[NearVisit, ...], list[Said]] = {}
    for one in said:
        if one.result.nearest:
            groups.setdefault(one.result.nearest, []).append(one)
    for visits, of in groups.items():
        whose = "" if len(groups) == 1 else f" of {', '.join(one.name for one in of)}"
        yield f"<h2>Nearest training visits{_text(whose)}</h2>"
        known = len(entries) == len(visits[0].state)
        names = [headed(e.name, e.unit) for e in entries]
        names = names if known else [f"entry {k + 1}" for k in range(len(visits[0].state))]
        dose = headed("dose then", of[0].result.unit)
        head = ["patient", "visit", "distance", dose, "reward then", *(names if len(names) <= 10 else ())]
        rows = [
            [
                str(visit.patient),
                str(visit.visit + 1),
                f"{visit.distance:.3g}",
                _doses(visit.dose, of[0].result.limits),
                _number(visit.reward),
                *(map(_number, visit.state) if len(names) <= 10 else ()),
            ]
            for visit in visits
        ]
        yield f'<div class="wide">{_table(head, rows)}</div>'


def _provenance(said: Sequence[Said]) -> str:
    """Run folders, hashes and versions; what is common to all agents stands once."""
    told: dict[tuple[str, str], list[str]] = {}
    for one in said:
        result = one.result.provenance
        for what, value in {
            "run and weights": " ".join(str(result[k]) for k in ("run", "weights") if k in result) or None,
            "data": result.get("data"),
            "scenario card": result.get("card"),
            "monitor": result.get("monitor"),
            "environment": result.get("env"),
            "versions": result.get("versions"),
        }.items():
            if value is not None:
                told.setdefault((what, _flat(value)), []).append(one.name)
    rows = []
    for (what, value), names in told.items():
        whose = "" if len(names) == len(said) else f" of {', '.join(names)}"
        rows.append(f'<tr><th>{_text(what + whose)}</th><td class="hash">{_text(value)}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def _flat(value: Any) -> str:
    """A value with its parts by name, in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(part)}" for name, part in value.items())
    return str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{line}</tr>{body}</table>"


def _text(value: str) -> str:
    """Text that no browser reads as markup."""
    return escape(value, quote=True)


def _number(value: Any) -> str:
    """A number with four significant digits and a real minus sign; any other echo as it came."""
    if isinstance(value, int | float):
        return _minus(f"{value:.4g}")
    return str(value)


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _numbers(values: Sequence[Any]) -> str:
    return ", ".join(map(_number, values))


def _doses(values: Sequence[float], limits: Limits) -> str:
    """Doses, no rounding of which crosses a limit."""
    return _minus(dose_words(values, limits))


def _span(ends: Sequence[Sequence[float]], limits: Limits) -> str:
    return _minus(span_words(ends, limits))


def _after(unit: str) -> str:
    """A unit to stand after a number; nothing for a quantity without unit."""
    return "" if unit in ("", "1") else f" {unit}"
