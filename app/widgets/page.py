"""What every page shares: banner, the sentence for an empty study, problems in words, one way to draw."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import streamlit as st

from app.charts.base import CONFIG
from app.readers import study
from app.text import code
from app.theme import template
from app.widgets import write
from dosing import NOT_FOR_PATIENTS


def open_page(title: str, *, needs_runs: bool = True) -> study.Listing:
    """Title, banner and what the study holds; stops with a sentence where it holds no finished run.

    Args:
        title: of the page.
        needs_runs: whether the page has nothing to say of a study without a finished run.
    """
    write.title("{}", title)
    write.warning("**Simulation, not for patients.** {}", NOT_FOR_PATIENTS)
    result = study.listing()
    problems(result.problems)
    if result.unfinished and needs_runs:
        count = len(result.unfinished)
        write.info(
            "{} run{} in {} {} not finished and not shown; the train command that started "
            "a run continues it.",
            count,
            "s" if count > 1 else "",
            code(study.study()),
            "are" if count > 1 else "is",
        )
    if needs_runs and not result.runs:
        write.nothing_yet(
            "python -m dosing demo",
            "There is no finished run in {} yet. This command simulates patients, trains two agents and "
            "shows them here:",
            code(study.study()),
        )
        st.stop()
    return result


def problems(sentences: Sequence[str]) -> None:
    """Name what could not be read; everything else still shows."""
    for sentence in sentences:
        write.error("**Not shown:** {}", sentence)


def draw(figure: go.Figure, key: str, alt: str) -> None:
    """Show a figure at the width of its place, in the colours of the page's theme."""
    figure.update_layout(template=template(st.context.theme.type == "dark"))
    st.plotly_chart(figure, width="stretch", theme=None, config=CONFIG, key=key, alt=alt)
