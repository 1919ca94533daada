"""A decision on a recommendation: accept, modify, reject; into the audit log first, then shown back."""

from __future__ import annotations

import re
from collections.abc import Sequence

import streamlit as st

from app.analysis.recommendations import Answer
from app.theme import decimals, interval, number, unit_words, with_unit
from app.widgets import page
from app.widgets.audit import log
from app.widgets.state_picker import pick
from dosing.errors import UserError
from dosing.recommendation.audit_log import ACTIONS, Action, Record, decisions_on, record_override

LONGEST = 300
"""Characters of a reason."""


def decide(answers: Sequence[Answer], records: Sequence[Record]) -> None:
    """Ask for a decision on one of the recommendations on show, and show what was decided on it.

    Args:
        answers: what the policies say.
        records: of each answer in the audit log.
    """
    st.subheader("Your decision")
    names = [answer.source.name for answer in answers]
    name = names[0] if len(names) == 1 else pick(st, "On the recommendation of", names, "decide_on")
    answer, record = answers[names.index(name)], records[names.index(name)]
    problem = _form(answer, record)
    try:
        decided = decisions_on(log(), record.content)
    except UserError as error:
        page.problems([str(error)])
        return
    if problem:
        write.error("**Not recorded:** {}", problem)
    for one in decided:
        st.success(_words(one, answer))
    if not decided:
        write.caption("Nothing was decided on record {} yet.", record.number)


def _form(answer: Answer, record: Record) -> str:
    """The form; returns why what was sent could not be recorded, empty if it was, or nothing was sent."""
    result, limits = answer.result, answer.source.limits
    spans = list(zip(limits.low, limits.high, strict=True))
    places = decimals(max(high - low for low, high in spans))
    labels: dict[Action, str] = dict(zip(ACTIONS, ("Accept", "Give another dose", "Reject"), strict=True))
    if result.dose is not None:
        dose = with_unit(", ".join(number(v, places) for v in result.dose), result.unit)
        labels["accept"] += f" {dose}{' (deferred)' if result.status == 'deferred' else ''}"
    actions = [a for a in ACTIONS if a != "accept" or result.dose is not None]
    key = f"{record.number}_{record.line_hash[:8]}"  # another question starts with an empty form
    with st.form(f"decision{key}"):
        action = st.radio(
            "Decision",
            actions,
            index=None,
            format_func=lambda a: labels[a],
            horizontal=True,
            key=f"action{key}",
        )
        left, right = st.columns([1, 2])
        doses = [
            left.number_input(
                f"Other dose{'' if len(spans) == 1 else f' {k + 1}'} ({unit_words(limits.unit)}), "
                f"{interval(low, high, places)}",
                value=None,
                step=(high - low) / 100,
                format=f"%.{places}f",
                key=f"given{k}_{key}",
            )
            for k, (low, high) in enumerate(spans)
        ]
        reason = right.text_input(
            "Reason, in words (no names or numbers of patients)", max_chars=LONGEST, key=f"reason{key}"
        )
        sent = st.form_submit_button("Record the decision")
    write.caption(
        "Another dose needs a reason, and so does accepting a dose that was deferred. "
        "The hard limits cannot be overridden. Audit record {}; what is recorded cannot "
        "be taken back.",
        record.number,
    )
    if not sent:
        return ""
    if action is None:
        return "choose a decision first."
    typed = [dose for dose in doses if dose is not None]
    try:
        record_override(log(), record.number, action, typed or None, reason)
    except UserError as error:
        return str(error)
    return ""


def _words(record: Record, answer: Answer) -> str:
    """One decision in a sentence; what a person typed is not read as markdown."""
    content, limits, result = record.content, answer.source.limits, answer.result
    places = decimals(max(high - low for low, high in zip(limits.low, limits.high, strict=True)))
    what = {"accept": "accepted", "modify": "another dose", "reject": "rejected"}[content["action"]]
    if content["dose"] is not None:
        what += f", {with_unit(', '.join(number(v, places) for v in content['dose']), limits.unit)}"
    if content["action"] == "modify" and result.dose is not None:
        what += f" instead of {with_unit(', '.join(number(v, places) for v in result.dose), limits.unit)}"
    reason = f" Reason: {escaped(content['reason'])}" if content["reason"] else ""
    when = record.time[:19].replace("T", " ")
    return f"**Recorded: {what}.**{reason} (audit record {record.number}, {when} UTC)"


def escaped(text: str) -> str:
    """A text of a person as markdown shows it letter by letter: no link, no picture, no colour."""
    return re.sub(r"([^\w\s])", r"\\\1", " ".join(text.split()))
