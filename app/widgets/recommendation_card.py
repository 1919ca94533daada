"""The parts of the patient page: recommendations side by side, the dose axis, the recorded episode."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.analysis.recommendations import Answer, Piece, curves, sparse_of
from app.charts.dose import dose_axis
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
from dosing.recommendation.audit_log import Record
from dosing.recommendation.dose_context import DoseContext, status_words
from dosing.recommendation.reasons import held_at

SIGNS = {"good": "✓", "caution": "▲", "grey": "✕"}
COLOURS = {"good": "green", "caution": "orange", "grey": "gray"}
"""Of a status, by its kind."""


def card(answer: Answer, context: DoseContext, sparse: Answer | None) -> None:
    """One recommendation: its one status, the number or why there is none, what the policy could give."""
    result, source = answer.result, answer.source
    write.markdown("{} **{}** · {}", answer.mark.sign, source.name, source.family)
    kind, status = status_words(result.status, context.evidence)
    write.badge("{} {}", SIGNS[kind], status, color=COLOURS[kind])
    if kind == "grey":
        default = f" Safe default of this scenario: {result.safe_default}." if result.safe_default else ""
        write.markdown("**Decide without it.** {}{}", in_sentences(result.reasons), default)
    if result.dose is None or result.support is None or result.proposed is None:
        _worth(context)
        return
    places = decimals(max(h - low for low, h in zip(*result.limits, strict=True)))
    dose, proposed = (
        with_unit(_doses(values, answer, places), result.unit) for values in (result.dose, result.proposed)
    )
    whose = "rule" if source.reference else "policy"
    if kind == "grey":
        write.caption("Dose the {} would give: {}", whose, dose)
    else:
        write.metric("{}", "Dose by this rule" if source.reference else "Recommended dose", value=dose)
    if result.status == "limited":
        write.markdown("Proposed {}, held at {}.", proposed, held_at(result.codes))
    _worth(context)
    write.markdown("{}", bullets(basis(answer, sparse, places)))


def _worth(context: DoseContext) -> None:
    """The decision in force, and in small letters what the status rests on."""
    for kind, words in context.lines:
        if kind == "decision":
            write.info("{}", words)
        else:
            write.caption("{}", words)


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
        lines = [sentence("Could give **{}** (exact support)", sets)]
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


def answers(result: list[Answer], records: Sequence[Record], rules: Recorded) -> None:
    """Recommendations side by side, then every policy on one dose axis per dose dimension.

    Args:
        result: what agents say.
        records: of that in the audit log.
        rules: what a clinic's own rules say at the same visit, for reference.
    """
    sparse = sparse_of(result)
    for column, answer, record in zip(st.columns(len(result)), result, records, strict=True):
        with column.container(border=True, height="stretch"):
            card(answer, context_of(answer, record), sparse)
    if any(answer.result.dose for answer in [*result, *rules[0]]):
        _dose_axes([*result, *rules[0]])
    if rules[0]:
        _references(*rules)


def _references(rules: list[Answer], records: Sequence[Record]) -> None:
    """What a clinic's own rules say, with the same words as an agent."""
    write.subheader("For reference: how a clinic would dose")
    for column, answer, record in zip(st.columns(len(rules)), rules, records, strict=True):
        with column.container(border=True, height="stretch"):
            card(answer, context_of(answer, record), None)
    write.caption(
        "Rules, not agents: nothing was learned, and they know what the clinic knows of the patient even "
        "where no agent is shown it. Each has answered this patient's recorded measurements from the first "
        "visit on, and goes by its own earlier answers, not by the doses that were given. Its dose has "
        "passed the same limits and the same monitor as an agent's, and is on record."
    )


def _dose_axes(result: list[Answer]) -> None:
    """Every policy and rule on one dose axis per dose dimension."""
    st.subheader("What each policy could give")
    with st.container(horizontal=True):
        log = st.toggle("Log scale: shows tails", key="log", bind="query-params")
        extras = st.toggle("Proposals, dotted", key="proposals", bind="query-params")
    dimensions = result[0].source.limits.n_act
    columns = st.columns(min(dimensions, 2))
    for dimension in range(dimensions):
        name = "dose" if dimensions == 1 else f"dose {dimension + 1} of {dimensions}"
        drawn = curves(result, dimension)
        figure = dose_axis(result, drawn, dimension, name=name, log=log, extras=extras)
        with columns[dimension % len(columns)]:
            page.draw(figure, f"axis{dimension}", f"Densities and intervals of {name} for each policy")
    st.caption(
        "Density: mean over training seeds. Bars: union over seeds. Solid: exact support, the density is "
        "zero outside. Hatched and dashed: central 99 %, not a support. Thin lines and ticks: each seed's "
        "own interval and dose. Large marker: recommended dose, the mean of the seeds' modes. Grey: outside "
        "the hard limits; probabilities there are before any clipping. Line below a bar: doses recorded near "
        "this state; a dose far from them is deferred. Dotted: the proposal that a policy "
        "was learned from, which gives no doses itself. Worth: mean difference in return, paired by "
        "patient, with its 95 % interval in brackets."
    )
