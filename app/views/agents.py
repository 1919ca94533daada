"""Agents: a policy card per trained run, then everything the registry offers."""

from __future__ import annotations

import functools
import json
from typing import Any

import pandas as pd
import streamlit as st

from app.analysis import agent_table
from app.analysis.model_card import as_html, card_of, in_words
from app.readers import evaluation, study
from app.text import bullets, code, sentence
from app.theme import counted
from app.widgets import page, write
from app.widgets.state_picker import pick
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.runs.folder import EVALUATION


@st.cache_data(show_spinner="Reading the registry")
def _suite() -> pd.DataFrame:
    return pd.DataFrame(agent_table.table())


@st.cache_data(show_spinner="Asking the policy at recorded visits", max_entries=32)
def _card(key: tuple[str, ...], _run: study.Run, _outcomes: dict[str, Outcomes] | None) -> dict[str, Any]:
    """The card of a run; the key names everything that decides it."""
    del key
    return card_of(_run, study.recommender(_run), study.episodes(_run), _outcomes, study.measured(_run))


def card_for(run: study.Run) -> dict[str, Any] | None:
    """The card of a run, without an evaluation where that cannot be read; None where the run is damaged."""
    outcomes = None
    try:
        outcomes = evaluation.outcomes(run)
    except UserError as error:
        page.problems([f"the evaluation of {run.label}: {error}"])
    try:
        record = run.folder.path / EVALUATION
        measured = record.read_text(encoding="utf-8") if outcomes is not None else ""
        weights = str(study.recommender(run).provenance["weights"])
        return _card((str(run.folder.path), weights, measured, repr(study.measured(run))), run, outcomes)
    except UserError as error:
        page.problems([f"{run.label}: {error}"])
        return None


def take_away(run: study.Run, card: dict[str, Any]) -> None:
    """The card as files."""
    name = f"policy-card-{run.config.agent}-{run.folder.path.name}"
    with st.container(horizontal=True):
        for suffix, mime, make in (
            ("json", "application/json", functools.partial(json.dumps, card, indent=1)),
            ("html", "text/html", functools.partial(as_html, card)),
        ):
            st.download_button(
                sentence("Download {}", suffix),
                make,
                file_name=f"{name}.{suffix}",
                mime=mime,
                key=f"download_{suffix}",
                on_click="ignore",
            )
    st.caption("Both files carry the sentence that they are not for patients, and need no other file.")


@st.fragment
def cards(listing: study.Listing) -> None:
    """One run's card; a fragment, so that a choice redraws nothing else."""
    write.subheader("Policy card")
    runs = {run.label: run for run in listing.runs}
    run = runs[pick(st, "Trained run", list(runs), "run")]
    card = card_for(run)
    if card is None:
        return
    for index, (heading, lines) in enumerate(in_words(card)):
        with st.expander(sentence("{}", heading), expanded=index == 0):
            write.markdown("{}", bullets(f"{name}: {text}" for name, text in lines))
    take_away(run, card)


PINNED = st.column_config.TextColumn("agent", pinned=True, width="small")
opened = page.open_page("Agents", needs_runs=False)
if opened.runs:
    cards(opened)
else:
    write.nothing_yet(
        "python -m dosing demo",
        "No agent was trained in {} yet. This command trains two and shows them:",
        code(study.study()),
    )
result = _suite()
write.subheader("The suite")
st.dataframe(
    result, hide_index=True, key="suite", height=470, column_config=write.columns(result, {"agent": PINNED})
)
write.caption(
    "{}; a click on a head sorts them. `python -m dosing train NAME` trains one. The dose set is that of the "
    "default settings: several agents can carry another distribution.",
    counted(len(result), "agent"),
)
