"""The parts of the patient page: recommendations, the picture beside them, a clinic's rules for reference."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.analysis.recommendations import Answer, Piece, curves, landmarks, sparse_of
from app.charts.ridgeline import ridgeline
from app.text import Markdown, bullets, in_sentences, sentence
from app.theme import (
    CENTRAL_WORDS,
    counted,
    decimals,
    dose_number,
    interval,
    probability,
    with_unit,
)
from app.widgets import page, write
from app.widgets.audit import context_of
from app.widgets.glossary import explained, meaning
from dosing.recommendation.audit_log import Record
from dosing.recommendation.dose_context import DoseContext, status_words, worth_words
from dosing.recommendation.reasons import held_at

SIGNS = {"good": "✓", "caution": "▲", "grey": "✕"}
COLOURS = {"good": "green", "caution": "orange", "grey": "gray"}
"""Of a status, by its kind."""


def card(answer: Answer, context: DoseContext, sparse: Answer | None) -> None:
    """One recommendation: its one status, the number or why there is none, what the policy could give."""
    result, source = answer.result, answer.source
    whose = source.spelled or source.family
    colon = ":" if source.reference else ","
    named = (answer.mark.sign, source.name, colon, whose)
    write.markdown("{} **{}**{} :small[{}]", *named, help=explained(whose))
    kind, status = status_words(result.status, context.evidence)
    places = decimals(max(h - low for low, h in zip(*result.limits, strict=True)))
    lines = [] if result.dose is None else basis(answer, sparse, places)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        write.badge("{} {}", SIGNS[kind], status, color=COLOURS[kind], help=meaning("status"))
        _rests_on(context, lines[1:])
    if kind == "grey":
        default = f" Safe default of this scenario: {result.safe_default}." if result.safe_default else ""
        write.markdown("**Decide without it.** {}{}", in_sentences(result.reasons), default)
    if result.dose is None or result.proposed is None:
        _decided(context)
        return
    dose, proposed = (
        with_unit(_doses(values, answer, places), result.unit) for values in (result.dose, result.proposed)
    )
    if kind == "grey":
        write.caption("Dose the {} would give: {}", "rule" if source.reference else "policy", dose)
        write.markdown("{}", bullets(lines[:1]))
    else:
        left, right = _places(source.reference, result.unit)
        with left:
            words = "Dose by this rule" if source.reference else "Recommended dose"
            write.metric("{}", words, value=dose, help=meaning("recommended dose"))
        with right.container(gap="xxsmall"):
            if result.status == "limited":
                write.markdown("Proposed {}, held at {}.", proposed, held_at(result.codes))
            for line in lines[:1]:
                write.markdown("{}", line, help=explained(line))
            if worth := worth_words(context.evidence):
                write.caption("{}", worth)
    _decided(context)


def _places(narrow: bool, unit: str) -> Sequence[DeltaGenerator]:
    """Where the number and the words on it stand, so that neither it nor its unit is cut."""
    if narrow:
        return st.container(), st.container()
    return st.columns([2, 3] if unit in ("", "1") else [1, 1], gap="xsmall")


def _rests_on(context: DoseContext, more: Sequence[Markdown]) -> None:
    """What the status rests on, and more on the dose, behind words that open it."""
    with st.popover("Why", type="tertiary"):
        for kind, words in context.lines:
            if kind != "decision":
                write.caption("{}", words)
        if more:
            write.markdown("{}", bullets(more), help=explained(*more))


def _decided(context: DoseContext) -> None:
    """The decision in force."""
    for kind, words in context.lines:
        if kind == "decision":
            write.info("{}", words)


def basis(answer: Answer, sparse: Answer | None, places: int) -> list[Markdown]:
    """What a policy could give, one line each."""
    result = answer.result
    assert result.dose is not None, "a dose rests on something"
    if answer.source.reference:
        return [sentence("{}", note) for note in result.notes]
    sets = "; ".join(_words(answer.pieces(d), places) for d in range(len(result.dose)))
    own = "; ".join(
        interval(min(column), max(column), places)
        for column in zip(*(seed.dose for seed in result.seeds), strict=True)
    )
    if answer.point:
        lines = [sentence("Gives **one dose** at each state, no interval (deterministic policy)")]
    elif result.bounded:
        lines = [sentence("Could give **{}** (exact support), and nothing else", sets)]
    else:
        lines = [sentence("Could give any dose; central {}: **{}**", CENTRAL_WORDS, sets)]
    if result.recorded_near is not None:
        near = "; ".join(interval(lo, hi, places) for lo, hi in zip(*result.recorded_near, strict=True))
        lines.append(sentence("Doses recorded near this state: **{}**", with_unit(near, result.unit)))
    lines.append(sentence("Probability outside the hard limits: **{}**", probability(result.mass_outside)))
    if sparse is not None:
        outside = probability(answer.outside_sparse)
        lines.append(sentence("Probability outside {}'s set: **{}**", sparse.source.name, outside))
    lines.append(sentence("{}, own doses {}", counted(len(result.seeds), "training seed"), own))
    return lines + [sentence("{}", note) for note in result.notes]


def _doses(values: Sequence[float], answer: Answer, places: int) -> str:
    """Doses of all dimensions; none is rounded across a hard limit."""
    limits = answer.result.limits
    return ", ".join(dose_number(v, lo, hi, places) for v, lo, hi in zip(values, *limits, strict=True))


def _words(pieces: list[Piece], places: int) -> str:
    """A dose set in words; several intervals are counted, the chart shows them."""
    hull = interval(pieces[0][0], pieces[-1][1], places)
    return hull if len(pieces) == 1 else f"{len(pieces)} separate intervals from {hull}"


Recorded = tuple[list[Answer], list[Record]]
"""Answers with the record of each."""


def cards(result: list[Answer], records: Sequence[Record]) -> None:
    """Recommendations one below the other, in the order of the lanes beside them."""
    sparse = sparse_of(result)
    with st.container(gap="xsmall"):
        for answer, record in zip(result, records, strict=True):
            with st.container(border=True, gap="xxsmall"):
                card(answer, context_of(answer, record), sparse)


def references(rules: list[Answer], records: Sequence[Record]) -> None:
    """What a clinic's own rules say, with the same words as an agent."""
    write.subheader("For reference: how a clinic would dose")
    for column, answer, record in zip(st.columns(len(rules)), rules, records, strict=True):
        with column.container(border=True, height="stretch", gap="xsmall"):
            card(answer, context_of(answer, record), None)
    write.caption(
        "Rules, not agents: nothing was learned, and they know what the clinic knows of the patient even "
        "where no agent is shown it. Each has answered this patient's recorded measurements from the first "
        "visit on, and goes by its own earlier answers, not by the doses that were given. Its dose has "
        "passed the same limits and the same monitor as an agent's, and is on record."
    )


def picture(
    result: list[Answer], given: Sequence[float] | None = None, previous: Sequence[float] | None = None
) -> None:
    """Every policy and rule in a lane of its own, one picture per dose dimension.

    Args:
        result: what they say.
        given: dose delivered at this visit ``[A]``, as recorded; None where there is none.
        previous: likewise at the visit before.
    """
    limits = result[0].source.limits
    drawn = [curves(result, dimension) for dimension in range(limits.n_act)]
    place = st.container()
    below = st.container(horizontal=True, vertical_alignment="center")
    with below:
        log = st.toggle("Log scale", key="log", bind="query-params", help=LOG)
        extras = any(curve.extra for curve in drawn[0] if curve is not None) and st.toggle(
            "Proposals, dotted", key="proposals", bind="query-params", help=meaning("proposal")
        )
        if min(limits.low) < 0 and limits.unit in ("", "1"):
            st.caption("Doses below 0 are possible here", help=meaning("dose below 0"), width="content")
        write.explain(READ)
    with place:
        for dimension, lines in enumerate(drawn):
            name = "dose" if limits.n_act == 1 else f"dose {dimension + 1} of {limits.n_act}"
            around = landmarks(result, dimension, given, previous)
            figure = ridgeline(result, lines, around, dimension, name=name, log=log, extras=extras)
            alt = f"What every policy could give, a lane each, over the {name}"
            page.draw(figure, f"axis{dimension}", alt, saving=below)


LOG = "Shows tails: each lane spans six powers of ten below its own peak. A density of 0 is a gap."
READ = (
    "A lane for each policy. The hill shows how likely the policy holds each dose: the mean over training "
    "seeds, **scaled to its own peak**, so that a wide one is seen beside a narrow one. Heights of two lanes "
    "do not compare, and a spike is cut at four times the mean. Red: what lies beyond the hard limits, "
    "before any clipping, with its probability. The band below: the doses it could ever give, union over "
    "seeds; solid where the ends are exact and the density outside is zero, dashed for a central 99 % of a "
    "distribution that gives every dose some probability. Ticks: each training seed's own dose. Large mark: "
    "the recommended dose; small and grey: deferred. On top, to compare: doses given at this visit and the "
    "one before, the constant dose for everyone (dotted line), and the range recorded near this state, far "
    "from which a dose is deferred. Dotted hill: the proposal that a policy was learned from."
)
