"""How pages write: sentences are templates of the source, and whatever is put into them is escaped.

No page calls Streamlit's own functions for sentences; see :mod:`app.text`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app.text import escaped, sentence
from app.widgets.glossary import explained


def markdown(template: str, *values: object, place: Any = st, **more: Any) -> None:
    """Text, as ``template.format(*values)``."""
    place.markdown(sentence(template, *values), **more)


def title(template: str, *values: object) -> None:
    """The heading of a page; its terms of art are explained beside it."""
    text = sentence(template, *values)
    st.title(text, help=explained(text))


def subheader(template: str, *values: object) -> None:
    """A heading within a page; its terms of art are explained beside it."""
    text = sentence(template, *values)
    st.subheader(text, help=explained(text))


def caption(template: str, *values: object) -> None:
    """Small text under what it explains."""
    st.caption(sentence(template, *values))


def info(template: str, *values: object, place: Any = st) -> None:
    """What is worth knowing."""
    place.info(sentence(template, *values))


def success(template: str, *values: object) -> None:
    """What went well."""
    st.success(sentence(template, *values))


def warning(template: str, *values: object, place: Any = st) -> None:
    """What needs care."""
    place.warning(sentence(template, *values))


def error(template: str, *values: object) -> None:
    """What is wrong, or is not shown."""
    st.error(sentence(template, *values))


def explain(template: str, *values: object) -> None:
    """How a picture is to be read, as ``template.format(*values)``; behind words that open it."""
    with st.popover("How to read this", type="tertiary"):
        markdown(template, *values)


def nothing_yet(command: str, template: str, *values: object) -> None:
    """Say what is missing, as ``template.format(*values)``, and which command fills it."""
    info(template, *values)
    st.code(command, language=None, wrap_lines=True)


def record(content: Mapping[str, Any]) -> None:
    """A record as the JSON that it is kept as."""
    st.code(json.dumps(content, indent=2, ensure_ascii=False), language=None, wrap_lines=True)


def badge(template: str, *values: object, color: Any, help: str | None = None) -> None:
    """Words that are seen at once; unlike Streamlit's own badge they wrap on a narrow window."""
    words = sentence(":{}-background[{}]", color, sentence(template, *values))
    st.markdown(words, help=help, width="content")


def metric(template: str, *values: object, value: object, help: str | None = None) -> None:
    """A number as large as its importance, under its name."""
    name = sentence(template, *values)
    st.metric(name, escaped(value), help=help or explained(name))


def table(frame: pd.DataFrame) -> None:
    """A whole table; Streamlit reads its cells and heads as markdown."""
    shown = frame.map(lambda cell: escaped(cell) if isinstance(cell, str) else cell)
    st.table(shown.rename(columns=escaped), hide_index=True)
    if meant := explained(*frame.columns):  # a head has no room for it
        st.caption("What the columns mean", help=meant, width="content")


def columns(frame: pd.DataFrame, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of the columns of a table that can be sorted: those given, or words; and what a head means."""
    result = dict(given or {})
    for head in map(str, frame):
        own = result.get(head, head)
        if isinstance(own, str):
            own = st.column_config.Column(own)
        if meant := explained(own.get("label") or head):
            result[head] = {**own, "help": meant}
    return result
