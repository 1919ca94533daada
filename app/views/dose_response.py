"""Dose and response: what every agent believes each allowed dose to be worth, at one state."""

from __future__ import annotations

import numpy as np
import streamlit as st

import agents
from app.analysis.recommendations import Answer
from app.analysis.response import NEAR, DoseResponse, respond, without_critic
from app.charts.response import dose_response
from app.readers import study
from app.text import Markdown, bullets, in_sentences, sentence
from app.theme import counted, decimals, interval, listed, number, with_unit
from app.widgets import page, write
from app.widgets.audit import beside, context_of, on_record
from app.widgets.state_picker import ask_state, chosen_runs, sources
from dosing.recommendation.audit_log import Record

WHAT = (
    "**A belief, not a measurement.** A critic is an agent's own guess, made from recorded visits, of the "
    "discounted return that follows a dose. Where nothing was recorded it can be wrong by any amount. The "
    "page *What if* simulates what happens."
)


def status(answers: list[Answer], records: list[Record]) -> None:
    """Refusals and deferrals, and what stands beside each dose, before any curve."""
    for answer, record in zip(answers, records, strict=True):
        result = answer.result
        if result.dose is None:
            write.error("**REFUSED: no dose of {}.** {}", answer.source.name, in_sentences(result.reasons))
            continue
        if result.status == "deferred":
            write.warning("**DEFERRED: {}.** {}", answer.source.name, in_sentences(result.reasons))

        write.markdown("{} **{}**", answer.mark.sign, answer.source.name)
        beside(context_of(answer, record))


def spread(values: np.ndarray, places: int) -> str:
    """Numbers of the seeds as a range, or the one that all of them have."""
    low, high = float(values.min()), float(values.max())
    same = number(low, places) == number(high, places)
    return number(low, places) if same else interval(low, high, places)


def told(response: DoseResponse) -> Markdown:
    """One agent's belief in words: of its recommended dose, and of the dose it believes in most."""
    source, own = response.answer.source, response.at_recommended
    limits = source.limits
    places = decimals(response.dose[-1] - response.dose[0])
    best = response.best
    dose = with_unit(number(response.recommended, places), limits.unit)
    words = sentence(
        "{} **{}**, discount {:g}: believes its recommended dose {} to be worth **{}** ({}, {}). Highest "
        "value at dose {}, {} above that.",
        response.answer.mark.sign,
        source.name,
        response.discount,
        dose,
        number(float(own.mean()), 2),
        counted(len(own), "seed"),
        spread(own, 2),
        spread(best, places),
        number(float((response.value.max(1) - own).mean()), 2),
    )
    if response.distribution is not None:
        worst = response.distribution.worst[:, response.dose.searchsorted(response.recommended)]
        words = sentence(
            "{} Foreseen mean of the worst 5\N{NO-BREAK SPACE}%: **{}** ({}).",
            words,
            number(float(worst.mean()), 2),
            spread(worst, 2),
        )
    return words


@st.fragment
def view(listing: study.Listing) -> None:
    """State, curves and what they say; a fragment, so that the slider redraws nothing else."""
    runs = chosen_runs(listing)
    loaded = sources(runs)
    if not loaded or (asked := ask_state(runs[0], loaded[0])) is None:
        return
    answers, records = on_record(loaded, asked.state, asked.visit, asked.earlier)
    if not answers:
        return
    status(answers, records)
    if all(answer.result.dose is None for answer in answers):
        return
    limits = loaded[0].limits
    columns = st.columns(min(limits.n_act, 2))
    for dimension in range(limits.n_act):
        name = "dose" if limits.n_act == 1 else f"dose {dimension + 1} of {limits.n_act}"
        result = [response for answer in answers if (response := respond(answer, dimension)) is not None]
        if silent := without_critic(answers, result):
            verb = "learns" if len(silent) == 1 else "learn"
            write.info("{} {} no critic: there is no value of a dose to draw.", listed(silent), verb)
        if not result:
            write.nothing_yet(
                f"python -m dosing compare --agents {' '.join(agents.DEMO)}",
                "None of these agents has a critic. This command trains some that have:",
            )
            return
        with columns[dimension % len(columns)]:
            figure = dose_response(result, limits, dimension, name=name)
            page.draw(figure, f"response{dimension}", f"Believed return of each agent over the {name}")
            write.markdown("{}", bullets(map(told, result)))
    others = (
        " In the dimensions not drawn every agent gives its recommended dose." if limits.n_act > 1 else ""
    )
    write.caption(
        "Strong line: mean over training seeds; thin lines: the seeds, with their range "
        "as a band. For an agent that learns a distribution of returns the band is the "
        "distribution's own, 10 to 90\xa0%, seeds together, and the dashed line the mean of "
        "its worst 5\N{NO-BREAK SPACE}%. Marker: recommended dose. Ticks: doses recorded at the {} "
        "training visits nearest to this state.{} Returns are discounted, in the unit of "
        "the rewards, and hold an agent's own charges, such as penalties; each panel has "
        "its own scale, because critics need not agree on level.",
        NEAR,
        others,
    )
    st.page_link("views/what_if.py", label="\N{RIGHTWARDS ARROW} What if: simulate doses from this state on")


opened = page.open_page("Dose and response")
st.info(WHAT)
view(opened)
