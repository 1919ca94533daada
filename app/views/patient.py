"""One patient: the question (a state), the answer (recommendations), the reason (dose axis and course)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import streamlit as st

from app import frame, load, panels, target_chart
from app.answers import Answer, ask
from app.decisions import decide
from app.records import note
from app.states import Asked, ask_state, chosen_runs, sources
from app.theme import counted
from dosing.report import Said, report


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


def take_away(answers: list[Answer], asked: Asked) -> None:
    """The recommendations as one page to print or to keep."""
    about, name = "typed numbers", "typed"
    if asked.row is not None and asked.episodes is not None:
        patient, visit = int(asked.episodes.episode[asked.row]), int(asked.episodes.step[asked.row]) + 1
        about, name = f"recorded patient {patient}, visit {visit}", f"patient{patient}-visit{visit}"
    said = [Said(answer.source.name, answer.source.family, answer.found) for answer in answers]
    st.download_button(
        "Printable page (HTML)",
        report(said, answers[0].source.door.rules.entries, about),
        file_name=f"recommendation-{name}-not-for-patients.html",
        mime="text/html",
        on_click="ignore",
        key="report",
    )


@st.fragment
def view(listing: load.Listing) -> None:
    """Question, answer and reason; a fragment, so that the slider redraws nothing else."""
    runs = chosen_runs(listing)
    loaded = sources(runs)
    if not loaded:
        return
    if (asked := ask_state(runs[0], loaded[0])) is None:
        return
    answers = ask(loaded, asked.state)
    records = note(answers)  # in the log before it is on the page
    panels.answers(answers)
    if records is not None:
        decide(answers, records)
    take_away(answers, asked)
    for number, answer in enumerate(answers):
        if answer.found.dose is not None and (targets := answer.source.policy.targets) is not None:
            by_target(answer, targets, f"target{number}")
    if asked.row is not None and asked.episodes is not None:
        panels.course(asked.episodes, asked.row, loaded[0])


view(frame.open_page("Patient"))
