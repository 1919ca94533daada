"""What the dashboard writes to the study's audit log: runs loaded, answers shown, tables answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.analysis.recommendations import Answer
from app.readers import study
from dosing.errors import UserError
from dosing.recommendation.audit_log import AuditLog, Kind, Record, log_of, shown


def log() -> AuditLog:
    """The log of the study on show, or the one that DOSING_AUDIT chooses."""
    return log_of(study.study())


def once(kind: Kind, content: Mapping[str, Any]) -> Record:
    """Record this, unless this session has recorded just the same: a page is drawn again and again.

    Raises:
        UserError: the log cannot be written.
    """
    kept: dict[str, tuple[int, Record]] = st.session_state.setdefault("recorded", {})
    book, key = log(), json.dumps([kind, content])
    if key not in kept or not book.path.is_file() or kept[key][0] != book.path.stat().st_ino:
        record = book.append(kind, content)  # also where the log was moved aside meanwhile
        kept[key] = (book.path.stat().st_ino, record)
    return kept[key][1]


def note(answers: Sequence[Answer]) -> list[Record] | None:
    """Record what is about to be shown, one record per answer.

    Returns:
        The records; None, after a sentence on the page, where nothing can be recorded.
    """
    try:
        for answer in answers:
            once("run loaded", answer.source.recommender.provenance)
        return [once(*shown(answer.result.to_json())) for answer in answers]
    except UserError as error:
        nothing_recorded(error)
        return None


def nothing_recorded(error: UserError) -> None:
    """Say that what is on the page is in no log."""
    write.warning("**Nothing is being recorded:** {} Answers still show; decisions cannot be made.", error)
