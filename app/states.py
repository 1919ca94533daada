"""Asking for a state: a recorded patient's visit, or typed numbers; the address of the page names either."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from app import load
from dosing.data.store import Episodes

RECORDED, TYPED = "recorded visit", "typed numbers"


def pick(place: Any, label: str, options: Sequence[Any], key: str, index: int = 0, **more: Any) -> Any:
    """A select box that the page's address names; says so where a link asks for what is not there.

    Args:
        place: where to draw it: a column, or Streamlit itself.
        label: of the box.
        options: what there is.
        key: of the box, and its name in the address.
        index: option shown where the address names none.
        **more: further options of the box.
    """
    asked = st.query_params.get(key)
    chosen = place.selectbox(label, options, index=index, key=key, bind="query-params", **more)
    if asked is not None and asked not in map(str, options):
        place.warning(f"The link asks for {key} {asked!r}, which is not there; this is {str(chosen)!r}.")
    return chosen


def in_range(place: Any, key: str, low: float, high: float) -> None:
    """Say so where a link asks for a number that is none or out of range; ask before the widget is drawn."""
    asked = st.query_params.get(key)
    try:
        fine = asked is None or low <= float(asked) <= high
    except ValueError:
        fine = False
    if not fine:
        place.warning(
            f"The link asks for {key} {asked!r}, which must lie from {low:,} to {high:,}: not used."
        )


def one_data_set(listing: load.Listing) -> list[load.Run]:
    """The runs of one data set; asks which, where the study holds several."""
    names = {run.data: str(run.config["data"]["name"]) for run in listing.runs}
    data = next(iter(names))
    if len(names) > 1:
        titles = {f"{name} ({key[:8]})": key for key, name in names.items()}
        data = titles[pick(st, "Data set", list(titles), "data")]
    return [run for run in listing.runs if run.data == data]


def link_problem(key: str, allowed: list[int]) -> str | None:
    """A sentence if a link asks for something that this study does not hold."""
    asked = st.query_params.get(key)
    if asked is None or asked in map(str, allowed):
        return None
    return (
        f"The link asks for {key} {asked!r}, but this study has {key}s {allowed[0]} to {allowed[-1]}; "
        f"below is {key} {allowed[0]}."
    )


def question(episodes: Episodes | None) -> list[str] | list[float]:
    """Ask for a state; typed numbers come back as the words that were typed, none as an empty list."""
    mode = TYPED
    if episodes is not None:
        mode = st.segmented_control(
            "State", [RECORDED, TYPED], default=RECORDED, required=True, key="state_from", bind="query-params"
        )
    if mode == RECORDED and episodes is not None:
        patients = np.unique(episodes.episode).tolist()
        problem = link_problem("patient", patients)
        left, right = st.columns([1, 3])
        patient = left.selectbox("Patient", patients, key="patient", bind="query-params")
        rows = np.flatnonzero(episodes.episode == patient)
        visits = (episodes.step[rows] + 1).tolist()
        problem = problem or link_problem("visit", visits)
        visit = visits[0]
        if len(visits) > 1:
            visit = right.slider("Visit", visits[0], visits[-1], key="visit", bind="query-params")
        if problem:
            st.warning(problem)
        state: list[float] = episodes.obs[rows[visits.index(visit)]].tolist()
        return state
    text = st.text_input(
        "Observations, separated by spaces or commas (decimal point)", key="numbers", bind="query-params"
    )
    return words(text)


def words(text: str) -> list[str]:
    """What was typed, split at spaces, commas and semicolons."""
    return [word for word in re.split(r"[\s,;]+", text) if word]
