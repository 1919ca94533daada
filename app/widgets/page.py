"""What every page shares: banner, the sentence for an empty study, problems in words, one way to draw."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.charts import saved
from app.charts.base import NOTICE_AT
from app.readers import study
from app.text import Markdown, code, sentence
from app.theme import template
from app.widgets import write
from app.widgets.chart import chart
from dosing import NOT_FOR_PATIENTS


def open_page(
    title: str, *, needs_runs: bool = True, beside: Callable[[], None] | None = None
) -> study.Listing:
    """Title, banner and what the study holds; stops with a sentence where it holds no finished run.

    Args:
        title: of the page.
        beside: writes what stands beside the title.
        needs_runs: whether the page has nothing to say of a study without a finished run.
    """
    with st.container(gap="xxsmall"):
        if beside is None:
            write.title("{}", title)
        else:
            left, right = st.columns([1, 7], vertical_alignment="center")
            with left:
                write.title("{}", title)
            with right:
                beside()
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
    for problem in sentences:
        write.error("**Not shown:** {}", problem)


@contextlib.contextmanager
def fold(label: Markdown, key: str) -> Iterator[bool]:
    """What is below the first screen, and made only once it is asked for.

    Args:
        label: of the fold.
        key: of the fold.

    Yields:
        Whether it is open; what is drawn within the context stands in it.
    """
    with st.expander(sentence("{}", label), key=key, on_change="rerun") as within:
        yield bool(within.open)


PAPER = {False: "#FFFFFF", True: "#14171A"}
"""Behind a figure, in the light and in the dark: a saved picture is read on any other page."""
SHORT_NOTICE, SHORTER = "Simulation, not for patients", 14
"""At the foot of a figure, as it may be saved; the whole sentence stands once, on top of the page. And by how
many pixels it needs less room than that."""


def draw(figure: go.Figure, key: str, alt: str, saving: DeltaGenerator | None = None) -> None:
    """Show a figure at the width of its place, in the colours of the page's theme, and let it be saved.

    Args:
        figure: what is shown.
        key: of the chart, and the name of what is saved.
        alt: the picture in words.
        saving: where the words that open how it is saved stand; None is below the figure.
    """
    dark = st.context.theme.type == "dark"
    drawn = figure.to_dict()  # plotly's own updates go through everything, ten times as slowly
    layout = drawn["layout"]
    height = layout["height"] - SHORTER
    drawn["layout"] = {
        **layout,
        "template": template(dark),
        "paper_bgcolor": PAPER[dark],
        "title": {**layout["title"], "text": SHORT_NOTICE, "y": (NOTICE_AT - SHORTER) / height},
        "height": height,
        "margin": {**layout["margin"], "b": layout["margin"]["b"] - SHORTER},
    }
    picture: saved.Picture = "svg" if st.session_state.get(f"{key}_svg") else "png"
    chart(drawn, key, alt, saved.config(picture, key))
    place = st if saving is None else saving
    with place.popover("Save", type="tertiary", key=f"{key}_save", on_change="rerun") as save:
        if not save.open:  # nothing is made of it until it is asked for
            return
        st.caption("The camera at the upper right of the chart saves it as a picture.")
        st.toggle("As SVG, for print, instead of PNG", key=f"{key}_svg")
        st.download_button(
            "Numbers as CSV",
            functools.partial(saved.as_csv, figure),
            file_name=f"{key}-not-for-patients.csv",
            mime="text/csv",
            on_click="ignore",
            key=f"{key}_csv",
        )
