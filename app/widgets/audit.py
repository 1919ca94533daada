"""What the dashboard writes to the study's audit log, and the one way in which a page gets doses to show.

A policy's dose for a patient has passed the recommender and is on record, or is not shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.analysis.recommendations import Answer, Source, ask
from app.readers import study
from app.widgets import write
from dosing.errors import UserError
from dosing.recommendation.audit_log import AuditLog, Kind, Record, log_of, shown
from dosing.recommendation.decisions import Decision, decisions_on
from dosing.recommendation.dose_context import DoseContext
from dosing.recommendation.records import EarlierVisit


def log() -> AuditLog:
    """The log of the study on show, or the one that DOSING_AUDIT chooses."""
    return log_of(study.study())


def once(kind: Kind, content: Mapping[str, Any]) -> Record:
    """Record this, unless this session has recorded just the same: a page is drawn again and again.

    The log must be whole all the same.

    Raises:
        UserError: the log cannot be written, or is broken.
    """
    kept: dict[str, tuple[int, Record]] = st.session_state.setdefault("recorded", {})
    book, key = log(), json.dumps([kind, content])
    if key not in kept or not book.path.is_file() or kept[key][0] != book.path.stat().st_ino:
        record = book.append(kind, content)  # also where the log was moved aside meanwhile
        kept[key] = (book.path.stat().st_ino, record)
    else:
        book.check()
    return kept[key][1]


def on_record(
    sources: Sequence[Source],
    state: Sequence[Any],
    visit: tuple[str, int] | None,
    earlier: Sequence[EarlierVisit] | None = None,
) -> tuple[list[Answer], list[Record]]:
    """Ask policies about one state; what they say is in the log before anything of it is shown.

    Args:
        sources: the policies.
        state: as many numbers as the scenario observes.
        visit: patient and visit (from 1) of the recorded data that the state is of; None for typed numbers.
        earlier: the recorded visits of this patient before it; None for typed numbers.

    Returns:
        The answers and the record of each; none, after a sentence on the page, where nothing can be recorded.
    """
    return recorded(ask(sources, state, earlier), visit)


def recorded(answers: list[Answer], visit: tuple[str, int] | None) -> tuple[list[Answer], list[Record]]:
    """Put answers on record, with the runs that gave them; see :func:`on_record`."""
    try:
        for answer in answers:
            if not answer.source.reference:  # a rule is no run
                once("run loaded", answer.source.recommender.provenance)
        return answers, [once(*shown(answer.result.to_json(), visit=visit)) for answer in answers]
    except UserError as error:
        nothing_recorded(error)
        return [], []


def nothing_recorded(error: UserError) -> None:
    """Say why no dose is on the page."""
    write.error(
        "**NO DOSE IS SHOWN: nothing can be recorded.** {} A policy's dose is shown when it is on record, "
        "and not before.",
        error,
    )


def context_of(answer: Answer, record: Record) -> DoseContext:
    """What following the policy was worth, and the decision in force on what it said.

    Raises:
        UserError: the log cannot be read.
    """
    return DoseContext(answer.source.evidence, in_force(record))


def in_force(record: Record) -> Decision | None:
    """The decision in force on a recorded recommendation; None if nothing was decided.

    Raises:
        UserError: the log cannot be read.
    """
    return next(reversed(decisions_on(log(), record.content)), None)


def beside(context: DoseContext) -> None:
    """Show what stands beside a dose."""
    for kind, words in context.lines:
        if kind == "good":
            write.success("{}", words)
        elif kind == "caution":
            write.warning("{}", words)
        else:
            write.info("{}", words)
