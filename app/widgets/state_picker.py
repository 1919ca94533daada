"""Asking for a state: a recorded patient's visit, or typed numbers; the address of the page names either."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from app.analysis.patients import PatientTable
from app.analysis.recommendations import Source
from app.readers import evaluation, study
from app.text import escaped, sentence
from app.theme import HIGHLIGHTS, counted, listed
from app.widgets import page, write
from app.widgets.glossary import explained
from app.widgets.patient_order import ORDERS, ordered
from app.widgets.url_state import choose, linked
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.recommendation.records import EarlierVisit

RECORDED, TYPED = "recorded visit", "typed numbers"
EXPLAINED = 12
"""Most options of a select box whose words are explained beside it; a longer list is one of names."""


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
    chosen = place.selectbox(
        escaped(label),
        options,
        index=index,
        key=key,
        bind="query-params",
        help=explained(label, *(options if len(options) <= EXPLAINED else ())),
        **more,
    )
    if asked is not None and asked not in map(str, options):
        absent(place, key, asked, str(chosen))
    return chosen


def absent(place: Any, key: str, asked: str, shown: str) -> None:
    """Say that a link asks for what is not there."""
    write.warning(
        "The link asks for {} {!r}, which is not there; this is {!r}.", key, asked, shown, place=place
    )


def in_range(place: Any, key: str, low: float, high: float) -> None:
    """Say so where a link asks for a number that is none or out of range; ask before the widget is drawn."""
    asked = st.query_params.get(key)
    try:
        fine = asked is None or low <= float(asked) <= high
    except ValueError:
        fine = False
    if not fine:
        write.warning(
            "The link asks for {} {!r}, which must lie from {:,} to {:,}: not used.",
            *(key, asked, low, high),
            place=place,
        )


def one_data_set(listing: study.Listing) -> list[study.Run]:
    """The runs of one data set; asks which, where the study holds several."""
    names = {run.data: run.config.data.name for run in listing.runs}
    data = next(iter(names))
    if len(names) > 1:
        titles = {f"{name} ({key[:8]})": key for key, name in names.items()}
        asked = st.query_params.get("data", next(iter(titles)))
        wanted = asked if asked in titles else next(iter(titles))
        data = titles[st.selectbox("Data set", list(titles), **linked("data", wanted))]
        if asked not in titles:
            absent(st, "data", asked, wanted)
    return [run for run in listing.runs if run.data == data]


def chosen_runs(listing: study.Listing) -> list[study.Run]:
    """Runs of one data set, at most as many as colours can name."""
    runs = {run.label: run for run in one_data_set(listing)}
    labels = list(runs)
    if len(runs) > HIGHLIGHTS:
        asked = st.query_params.get_all("agents")
        wanted = [label for label in labels if label in asked][:HIGHLIGHTS] or labels[:HIGHLIGHTS]
        labels = some_of("Agents", labels, "agents", wanted)
    return [runs[label] for label in labels]


def which_doses(key: str) -> str:
    """Whether a page is about recommended or about drawn doses; ``key`` is its name in the address."""
    return st.segmented_control(
        "Doses",
        evaluation.RULES,
        default=evaluation.RULES[0],
        required=True,
        key=key,
        bind="query-params",
        help=explained(*evaluation.RULES),
    )


def some_of(label: str, names: Sequence[str], key: str, wanted: Sequence[str]) -> list[str]:
    """Some of many names, at most as many as colours can tell apart; in one line until it is opened.

    Args:
        label: of the choice.
        names: all there are.
        key: of the choice, and its name in the address.
        wanted: those to begin with.
    """
    place = st.container()
    with st.popover(sentence("{}: choose among {:,}", label, len(names)), type="secondary", key=f"{key}_of"):
        chosen = st.pills(
            sentence("{}, at most {}", label, HIGHLIGHTS),
            names,
            selection_mode="multi",
            help=explained(label),
            **linked(key, list(wanted)),
        )
    if len(chosen) > HIGHLIGHTS:
        write.info("At most {} at once: the first {} are shown.", HIGHLIGHTS, HIGHLIGHTS, place=place)
    return [name for name in names if name in chosen][:HIGHLIGHTS]


def source_of(run: study.Run) -> Source:
    """A run as the policy to ask.

    Raises:
        UserError: the run is damaged.
    """
    return Source(
        run.label,
        run.family,
        study.recommender(run),
        study.measured(run),
        mark=run.mark,
        spelled=run.spelled,
    )


def sources(runs: Sequence[study.Run]) -> list[Source]:
    """Load the policies; a damaged run is named while the others still show."""
    result = []
    for run in runs:
        try:
            result.append(source_of(run))
        except UserError as error:
            page.problems([f"{run.label}: {error}"])
    return result


@dataclass(frozen=True)
class Asked:
    """The state that a page is about.

    Attributes:
        state: as recorded, or the words that were typed.
        episodes: the recorded visits; None where they cannot be read.
        row: of the recorded visit; None for typed numbers.
    """

    state: Sequence[Any]
    episodes: Episodes | None
    row: int | None

    @property
    def visit(self) -> tuple[str, int] | None:
        """Patient and visit (from 1); None for typed numbers."""
        return visit_of(self.episodes, self.row)

    @property
    def earlier(self) -> tuple[EarlierVisit, ...] | None:
        """The recorded visits of the same patient before this one; None for typed numbers."""
        return earlier_of(self.episodes, self.row)


def earlier_of(episodes: Episodes | None, row: int | None) -> tuple[EarlierVisit, ...] | None:
    """The visits before a recorded one; None where there is none."""
    if episodes is None or row is None:
        return None
    before = np.flatnonzero(episodes.episode[:row] == episodes.episode[row])
    columns = (column[before].tolist() for column in (episodes.obs, episodes.act, episodes.reward))
    return tuple(EarlierVisit(tuple(s), tuple(d), r) for s, d, r in zip(*columns, strict=True))


def visit_of(episodes: Episodes | None, row: int | None) -> tuple[str, int] | None:
    """Patient and visit (from 1) of a row; None where there is none."""
    if episodes is None or row is None:
        return None
    return str(episodes.episode[row]), int(episodes.step[row]) + 1


def ask_state(run: study.Run, source: Source, ranked: Sequence[study.Run] = ()) -> Asked | None:
    """Ask for a state of the run's data set; None, with a sentence, until there is one.

    Args:
        run: whose recorded visits are offered.
        source: its policy.
        ranked: runs whose answers patients can be ordered by.
    """
    episodes = None
    try:
        episodes = study.episodes(run)
    except UserError as error:
        page.problems([f"the recorded patients: {error} Typed numbers still work."])
    state, row = question(episodes, ranked)
    if not state:
        wanted = listed(source.obs_names) or "the observations"
        write.info("Type {} numbers: {}.", source.policy.agent.problem.n_obs, wanted)
        return None
    return Asked(state, episodes, row)


def asked_for(key: str, allowed: list[int]) -> int:
    """What a link asks for; the first there is where it asks for nothing, or for what is not there."""
    return {str(one): one for one in allowed}.get(st.query_params.get(key, ""), allowed[0])


def link_problem(key: str, allowed: list[int]) -> str | None:
    """A sentence if a link asks for something that this study does not hold."""
    asked = st.query_params.get(key)
    if asked is None or asked in map(str, allowed):
        return None
    return (
        f"The link asks for {key} {asked!r}, but this study has {key}s {allowed[0]} to {allowed[-1]}; "
        f"below is {key} {allowed[0]}."
    )


def question(episodes: Episodes | None, ranked: Sequence[study.Run] = ()) -> tuple[Sequence[Any], int | None]:
    """Ask for a state; returns it with the row of its visit, or the words that were typed and None."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        mode = TYPED
        if episodes is not None:
            wanted = TYPED if st.query_params.get("state_from") == TYPED else RECORDED
            mode = st.segmented_control(
                "State", [RECORDED, TYPED], required=True, width="content", **linked("state_from", wanted)
            )
        if mode == TYPED or episodes is None:
            text = st.text_input(
                "Observations, separated by spaces or commas (decimal point)",
                width="stretch",
                **linked("numbers", st.query_params.get("numbers", "")),
            )
            return words(text), None
        row, problem = _visit(episodes, ranked)
    if problem:
        write.warning("{}", problem)
    return episodes.obs[row].tolist(), row


def _visit(episodes: Episodes, ranked: Sequence[study.Run]) -> tuple[int, str | None]:
    """Ask for a patient and a visit; the keys left and right go to the visits before and after.

    Returns the row of the visit, and a sentence where the link asks for another that is not there.
    """
    table = PatientTable.of(episodes)
    patients: list[int] = table.patient.tolist()
    problem = link_problem("patient", patients)
    wanted, told = asked_for("patient", patients), [""] * len(patients)
    if ranked:
        chosen = pick(st, "Patients by", list(ORDERS), "order", width=190)
        patients, told = ordered(episodes, table, ranked, chosen)
    visits_of = dict(zip(table.patient.tolist(), table.count.tolist(), strict=True))
    names = {  # the same at every visit: the browser sends the words of a choice, also those of a moment ago
        one: f"patient {one}{words_}, {counted(visits_of[one], 'visit')}"
        for one, words_ in zip(patients, told, strict=True)
    }
    patient = st.selectbox(
        "Patient",
        patients,
        format_func=lambda one: escaped(names[one]),
        width=340,
        **linked("patient", wanted),
    )
    rows = np.flatnonzero(episodes.episode == patient)
    visits = (episodes.step[rows] + 1).tolist()
    problem = problem or link_problem("visit", visits)
    visit = asked_for("visit", visits)
    if len(visits) > 1:
        _step("Previous", "Left", visits, visits.index(visit) - 1)
        visit = st.slider("Visit", visits[0], visits[-1], width="stretch", **linked("visit", visit))
        _step("Next", "Right", visits, visits.index(visit) + 1)
    return int(rows[visits.index(visit)]), problem


def _step(words: str, key: str, visits: Sequence[int], place: int) -> None:
    """A button, and a key, to the visit at a place of the patient's; idle where there is none."""
    there = 0 <= place < len(visits)
    st.button(
        sentence("{}", words),
        key=f"go_{key.lower()}",
        shortcut=key,
        disabled=not there,
        on_click=choose,
        args=("visit", visits[place] if there else 0),
    )


def words(text: str) -> list[str]:
    """What was typed, split at spaces, commas and semicolons."""
    return [word for word in re.split(r"[\s,;]+", text) if word]
