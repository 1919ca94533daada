"""The course of what a scenario keeps in a range: curve, time in range, adverse events, cost."""

from __future__ import annotations

import streamlit as st

from app.analysis.course import Course, TimeInRange, course_of
from app.charts.course import course, event_words
from app.readers.replayed import replayed
from app.text import Markdown, bullets, sentence
from app.theme import counted, listed, with_unit
from app.widgets import page, write
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.types import AnyArray
from simulator.cohorts.replay import Replayed


def course_panel(episodes: Episodes, rows: AnyArray, current: int, key: str) -> None:
    """Draw and tell one patient's course; nothing where the scenario names no range.

    Args:
        episodes: recorded visits.
        rows: those of the patient, in order.
        current: which of them is on show.
        key: of the chart.
    """
    if course_of(episodes, rows, None) is None:
        return
    patient = int(episodes.episode[rows[0]])
    found: Replayed | None = None
    missing = ""
    try:
        found = replayed(episodes, patient)
    except UserError as error:
        missing = str(error)
    one = course_of(episodes, rows, found)
    assert one is not None, "the same card as above"
    write.markdown("{}", bullets(told(one, missing)))
    visits = episodes.step[rows].astype(float) + 1
    alt = f"{one.target.name} of patient {patient} over the visits, with its target range and adverse events"
    page.draw(course(visits, one, current), key, alt)
    write.explain("{}", _legend(one))
    if one.definitions:
        with st.expander("What the adverse events mean"):
            lines = [sentence("**{}**: {}", event_words(n), text) for n, text in one.definitions.items()]
            write.markdown("{}", bullets(lines))


def told(one: Course, missing: str = "", first: int = 1) -> list[Markdown]:
    """Time in range, events and cost, one line each.

    Args:
        one: the course.
        missing: why truth and events are not known; empty where they are.
        first: number of the first of these visits, from 1.
    """
    target, share = one.target, one.judged
    where = with_unit(f"{target.low:g} to {target.high:g}", target.unit)
    what = "as seen" if one.true is None else "by the true value after each visit"
    lines = [
        sentence(
            "**Time in range ({}): {}** of {}, {}: {} within {}, {} below, {} above",
            *(target.name, percent(share), counted(share.visits, "visit"), what),
            *(share.within, where, share.below, share.above),
        )
    ]
    if one.true is not None:
        seen = TimeInRange.of(one.seen[1:], target.low, target.high)
        lines.append(
            sentence("As seen by the clinic, last value carried forward: {} in range", percent(seen))
        )
    if missing:
        lines.append(sentence("True value and adverse events are not known: {}", missing))
    elif one.events:
        lines.append(_events(one))
    budget = "" if one.budget is None else f" (budget of an episode: {one.budget:g})"
    lines.append(sentence("Safety cost of these visits: **{:g}**{}", one.cost, budget))
    if one.ended:
        lines.append(sentence("**The episode ended early**, at visit {}", first + len(one.seen) - 2))
    return lines


def percent(share: TimeInRange) -> str:
    """Time in range in per cent."""
    return f"{100 * share.within / share.visits:.0f}\N{NO-BREAK SPACE}%" if share.visits else "not measured"


def _events(one: Course) -> Markdown:
    """How often each event happened, in words."""
    some = [f"{event_words(name)} at {counted(n, 'visit')}" for name, n in one.counts.items() if n]
    none = [event_words(name) for name, n in one.counts.items() if not n]
    if not some:
        return sentence("**No adverse events** of {}", listed(none))
    never = f"; never {listed(none)}" if none else ""
    return sentence("Adverse events: **{}**{}", listed(some), never)


def _legend(one: Course) -> str:
    lines = "Open dots: as seen, where it changed; held until then."
    if one.true is not None:
        fine = "" if one.within is None else f", {one.within.shape[1]} times a visit"
        lines = (
            f"Line: the true value{fine}, which nobody saw: the recorded doses given again to the same "
            f"simulated patient, whose visits came out as recorded. {lines} Events go by the true value."
        )
    dose = "Dotted upright line: the visit on show."
    return f"{lines} Shaded: target range ({one.target.basis}). {dose}"
