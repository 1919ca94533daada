"""One patient: who it is, what each policy recommends and could ever give, and what happened so far."""

from __future__ import annotations

import streamlit as st

from app.analysis import recommendations
from app.analysis.recommendations import Answer
from app.charts import target_return
from app.readers import study
from app.theme import counted
from app.widgets import clinic_rules, episode_panel, page, recommendation_card, write
from app.widgets.audit import context_of, on_record, once
from app.widgets.belief_panel import belief_panel
from app.widgets.decision_form import decide
from app.widgets.near_visits import nearest
from app.widgets.recommendation_card import Recorded
from app.widgets.regimens import try_dose
from app.widgets.state_picker import Asked, ask_state, chosen_runs, sources
from app.widgets.tour import tour
from dosing.errors import UserError
from dosing.recommendation.audit_log import Record
from dosing.recommendation.report import Said, report


def by_target(answer: Answer, key: str) -> None:
    """What a policy that is asked for a return would give, for every return it could be asked for."""
    source = answer.source
    targets = source.policy.targets
    if answer.result.dose is None or targets is None:
        return
    asked_for = target_return.grid(targets)
    try:
        doses, about = recommendations.by_target(answer, asked_for)
        once("batch", about | {"provenance": source.recommender.provenance})
    except UserError as error:
        write.error("**Not shown:** what {} gives for other returns: {}", source.name, error)
        return
    dimensions = source.limits.n_act
    write.subheader("What {} gives for the return it is asked for", source.name)
    for dimension in range(dimensions):
        name = "dose" if dimensions == 1 else f"dose {dimension + 1} of {dimensions}"
        figure = target_return.dose_by_target(
            asked_for,
            doses[:, dimension],
            targets,
            (source.limits.low[dimension], source.limits.high[dimension]),
            answer.mark,
            name=name,
            unit=source.limits.unit,
        )
        page.draw(figure, f"{key}{dimension}", f"{name} of {source.name} over the return it is asked for")
    write.explain(
        "{} {}: at this state{}, within the limits: what the recommender says, on record. Mean of {}. {:,} "
        "of {:,} deferred. Dotted: what it is asked for by default, which the recommendation above rests on. "
        "Grey: returns that no recorded patient had. A return that is asked for is no promise: patients need "
        "not reach it.",
        answer.mark.sign,
        source.name,
        ", as at a first visit" if answer.result.earlier is None else "",
        counted(len(source.policy.seeds), "training seed"),
        about["statuses"]["deferred"],
        about["rows"],
    )


def take_away(answers: list[Answer], records: list[Record], rules: Recorded, asked: Asked) -> None:
    """The recommendations as one page to print or to keep."""
    about, name = "typed numbers", "typed"
    if asked.visit is not None:
        about = f"recorded patient {asked.visit[0]}, visit {asked.visit[1]}"
        name = f"patient{asked.visit[0]}-visit{asked.visit[1]}"
    said, reference = (
        [
            Said(answer.source.name, answer.source.family, answer.result, context_of(answer, record))
            for answer, record in zip(*recorded, strict=True)
        ]
        for recorded in ((answers, records), rules)
    )
    st.download_button(
        "Printable page (HTML)",
        report(said, answers[0].source.recommender.rules.entries, about, reference),
        file_name=f"recommendation-{name}-not-for-patients.html",
        mime="text/html",
        on_click="ignore",
        key="report",
    )


def doses_given(asked: Asked) -> tuple[list[float] | None, list[float] | None]:
    """Doses recorded at the visit on show and at the one before it; None where there is none."""
    if asked.episodes is None or asked.row is None:
        return None, None
    given: list[float] = asked.episodes.act[asked.row].tolist()
    return given, list(asked.earlier[-1].dose) if asked.earlier else None


@st.fragment
def view(listing: study.Listing) -> None:
    """Question, answer and reason; a fragment, so that the slider redraws nothing else."""
    runs = chosen_runs(listing)
    loaded = sources(runs)
    if not loaded:
        return
    with st.container(gap="xsmall"):
        if (asked := ask_state(runs[0], loaded[0], runs)) is None:
            return
        answers, records = on_record(loaded, asked.state, asked.visit, asked.earlier)
        episode_panel.who(asked, loaded[0])
    rules: Recorded = ([], [])
    if answers:
        rules = clinic_rules.at_visit(asked, loaded[0])
        left, right = st.columns([6, 7])
        with left:
            recommendation_card.cards(answers, records)
        with right.container(gap="xxsmall"):
            if any(answer.result.dose for answer in [*answers, *rules[0]]):
                recommendation_card.picture([*answers, *rules[0]], *doses_given(asked))
            episode_panel.history(asked, loaded[0])
        if rules[0]:
            recommendation_card.references(*rules)
        nearest(answers, asked)
        decide(answers, records)
        take_away(answers, records, rules, asked)
        with st.container(horizontal=True):
            for answer in answers:
                if answer.result.dose is not None and answer.result.status != "deferred":
                    try_dose(answer.result.dose, answer.source.limits)
    for number, answer in enumerate(answers):
        by_target(answer, f"target{number}")
        belief_panel(answer, f"belief{number}_")
    if asked.row is not None and asked.episodes is not None:
        episode_panel.episode_panel(asked.episodes, asked.row, loaded[0])


opened = page.open_page("Patient", beside=tour)
view(opened)
