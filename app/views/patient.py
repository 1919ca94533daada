"""One patient: the question (a state), the answer (recommendations), the reason (dose axis and course)."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import streamlit as st

from app import frame, load, panels, target_chart
from app.answers import Answer, Source, ask
from app.theme import HIGHLIGHTS, counted, listed
from dosing.data.store import Episodes
from dosing.errors import UserError

RECORDED, TYPED = "recorded visit", "typed numbers"


def sources(runs: list[load.Run]) -> list[Source]:
    """Load the policies; a damaged run is named while the others still show."""
    found = []
    for run in runs:
        try:
            found.append(
                Source(
                    run.label,
                    run.family,
                    load.door(run),
                    load.measured(run),
                )
            )
        except UserError as error:
            frame.problems([f"{run.label}: {error}"])
    return found


def chosen_runs(listing: load.Listing) -> list[load.Run]:
    """Runs of one data set, at most as many as colours can name."""
    names = {run.data: str(run.config["data"]["name"]) for run in listing.runs}
    data = next(iter(names))
    if len(names) > 1:
        data = st.selectbox(
            "Data set", list(names), format_func=lambda h: f"{names[h]} ({h[:8]})", key="data"
        )
    runs = {run.label: run for run in listing.runs if run.data == data}
    labels = list(runs)
    if len(runs) > HIGHLIGHTS:
        labels = st.multiselect(
            "Policies", labels, labels[:HIGHLIGHTS], max_selections=HIGHLIGHTS, key="policies"
        )
    return [runs[label] for label in labels]


def link_problem(key: str, allowed: list[int]) -> str | None:
    """A sentence if a link asks for something that this study does not hold."""
    asked = st.query_params.get(key)
    if asked is None or asked in map(str, allowed):
        return None
    return (
        f"The link asks for {key} {asked!r}, but this study has {key}s {allowed[0]} to {allowed[-1]}; "
        f"below is {key} {allowed[0]}."
    )


def question(episodes: Episodes | None) -> tuple[list[object], int | None]:
    """Ask for a state; returns it and the row of the recorded visit, None for typed numbers."""
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
        row = int(rows[visits.index(visit)])
        return episodes.obs[row].tolist(), row
    text = st.text_input(
        "Observations, separated by spaces or commas (decimal point)", key="numbers", bind="query-params"
    )
    return [word for word in re.split(r"[\s,;]+", text) if word], None


def by_target(answer: Answer, targets: npt.NDArray[np.float64], key: str) -> None:
    """What a policy that is asked for a return would give, for every return it could be asked for."""
    source, asked_for = answer.source, target_chart.grid(targets)
    state = np.asarray(answer.found.state, dtype=np.float32)
    doses = source.policy.doses_for(state, asked_for)
    dimensions = source.limits.n_act
    st.subheader(f"What {source.name} gives for the return it is asked for")
    for dimension in range(dimensions):
        name = "dose" if dimensions == 1 else f"dose {dimension + 1} of {dimensions}"
        figure = target_chart.dose_by_target(
            asked_for,
            doses[..., dimension],
            targets,
            (source.limits.low[dimension], source.limits.high[dimension]),
            answer.mark,
            name=name,
            unit=source.limits.unit,
        )
        frame.draw(figure, f"{key}{dimension}", f"{name} of {source.name} over the return it is asked for")
    st.caption(
        f"{answer.mark.sign} {source.name}: at this state, as at a first visit, before any limit. Strong "
        f"line: mean of {counted(len(doses), 'training seed')}; thin lines: each seed. Dotted: what it is "
        "asked for by default, which the recommendation above rests on. Grey: returns that no recorded "
        "patient had. A return that is asked for is no promise: patients need not reach it."
    )


@st.fragment
def view(listing: load.Listing) -> None:
    """Question, answer and reason; a fragment, so that the slider redraws nothing else."""
    runs = chosen_runs(listing)
    asked = sources(runs)
    if not asked:
        return
    episodes = None
    try:
        episodes = load.episodes(runs[0])
    except UserError as error:
        frame.problems([f"the recorded patients: {error} Typed numbers still work."])
    state, row = question(episodes)
    if not state:
        names = asked[0].obs_names
        st.info(f"Type {asked[0].policy.agent.problem.n_obs} numbers: {listed(names) or 'the observations'}.")
        return
    answers = ask(asked, state)
    panels.answers(answers)
    for number, answer in enumerate(answers):
        if answer.found.dose is not None and (targets := answer.source.policy.targets) is not None:
            by_target(answer, targets, f"target{number}")
    if row is not None and episodes is not None:
        panels.course(episodes, row, asked[0])


view(frame.open_page("Patient"))
