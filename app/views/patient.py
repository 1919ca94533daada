"""One patient: the question (a state), the answer (recommendations), the reason (dose axis and episode)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import streamlit as st

from app.analysis.recommendations import Answer, ask
from app.charts import target_return
from app.readers import study
from app.theme import counted
from app.widgets import episode_panel, page, recommendation_card
from app.widgets.audit import note
from app.widgets.decision_form import decide
from app.widgets.state_picker import Asked, ask_state, chosen_runs, sources
from dosing.recommendation.report import Said, report


def by_target(answer: Answer, targets: npt.NDArray[np.float64], key: str) -> None:
    """What a policy that is asked for a return would give, for every return it could be asked for."""
    source, asked_for = answer.source, target_return.grid(targets)
    state = np.asarray(answer.result.state, dtype=np.float32)
    doses = source.policy.doses_for(state, asked_for)
    dimensions = source.limits.n_act
    write.subheader("What {} gives for the return it is asked for", source.name)
    for dimension in range(dimensions):
        name = "dose" if dimensions == 1 else f"dose {dimension + 1} of {dimensions}"
        figure = target_return.dose_by_target(
            asked_for,
            doses[..., dimension],
            targets,
            (source.limits.low[dimension], source.limits.high[dimension]),
            answer.mark,
            name=name,
            unit=source.limits.unit,
        )
        page.draw(figure, f"{key}{dimension}", f"{name} of {source.name} over the return it is asked for")
    write.caption(
        "{} {}: at this state, as at a first visit, before any limit. Strong line: mean "
        "of {}; thin lines: each seed. Dotted: what it is asked for by default, which "
        "the recommendation above rests on. Grey: returns that no recorded patient had. "
        "A return that is asked for is no promise: patients need not reach it.",
        answer.mark.sign,
        source.name,
        counted(len(doses), "training seed"),
    )


def take_away(answers: list[Answer], asked: Asked) -> None:
    """The recommendations as one page to print or to keep."""
    about, name = "typed numbers", "typed"
    if asked.row is not None and asked.episodes is not None:
        patient, visit = int(asked.episodes.episode[asked.row]), int(asked.episodes.step[asked.row]) + 1
        about, name = f"recorded patient {patient}, visit {visit}", f"patient{patient}-visit{visit}"
    said = [Said(answer.source.name, answer.source.family, answer.result) for answer in answers]
    st.download_button(
        "Printable page (HTML)",
        report(said, answers[0].source.recommender.rules.entries, about),
        file_name=f"recommendation-{name}-not-for-patients.html",
        mime="text/html",
        on_click="ignore",
        key="report",
    )


@st.fragment
def view(listing: study.Listing) -> None:
    """Question, answer and reason; a fragment, so that the slider redraws nothing else."""
    runs = chosen_runs(listing)
    loaded = sources(runs)
    if not loaded:
        return
    if (asked := ask_state(runs[0], loaded[0])) is None:
        return
    answers = ask(loaded, asked.state)
    records = note(answers)  # in the log before it is on the page
    recommendation_card.answers(answers)
    if records is not None:
        decide(answers, records)
    take_away(answers, asked)
    for number, answer in enumerate(answers):
        if answer.result.dose is not None and (targets := answer.source.policy.targets) is not None:
            by_target(answer, targets, f"target{number}")
    if asked.row is not None and asked.episodes is not None:
        episode_panel.episode_panel(asked.episodes, asked.row, loaded[0])


view(page.open_page("Patient"))
