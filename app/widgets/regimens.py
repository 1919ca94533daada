"""Asking for regimens side by side: doses, a recommender to follow, one more, one less, in the address."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.analysis.regimens import Forward, Tried
from app.analysis.what_if import typed_doses
from app.readers import study
from app.text import in_sentences, sentence
from app.theme import HIGHLIGHTS, Mark, counted, decimals, number, unit_words, with_unit
from app.widgets import page, write
from app.widgets.audit import beside, context_of, nothing_recorded, on_record, once
from app.widgets.state_picker import Asked, absent, in_range, pick, sources, words
from dosing.errors import UserError
from dosing.safety import DoseLimits

CONSTANT, PER_VISIT, FOLLOW = "constant dose", "dose per visit", "follow"
FIRST = 2
"""Regimens to begin with."""
PARTS = ("rule", "dose", "doses")
"""What the address says of each regimen."""
STEPS = 200
"""Steps of a slider from one hard limit to the other."""


def try_dose(dose: Sequence[float], limits: DoseLimits) -> None:
    """A link to What if, at the state on show: this dose at every visit beside the constant dose.

    Nothing where a dose has several dimensions: What if has none of them.

    Args:
        dose: as recommended, within the limits.
        limits: hard limits of the dose.
    """
    if len(dose) != 1:
        return
    text = with_unit(number(dose[0], decimals(limits.high[0] - limits.low[0])), limits.unit)
    st.page_link(
        "views/what_if.py",
        label=sentence("Try {} in What if", text),
        query_params={"choices": "2", "rule2": CONSTANT, "dose2": repr(float(dose[0]))},
    )


def choose(
    forward: Forward, listing: study.Listing, runs: Sequence[study.Run], asked: Asked, start: float | None
) -> list[Tried]:
    """Columns of doses, one regimen each; what was not filled in or cannot be given says so.

    Args:
        forward: what comes of doses.
        listing: of the study, whose runs keep their marks.
        runs: agents that could be followed.
        asked: the state that all start from.
        start: dose that a slider starts from; None for the middle of the limits.
    """
    count = _count()
    wide = count if count <= 3 else 2
    columns = [column for _ in range(0, count, wide) for column in st.columns(wide)]
    made = []
    for index, column in enumerate(columns):
        with column.container(border=True, height="stretch"):
            made.append(_ask_one(index, count, forward, listing.free_mark(index), runs, asked, start))
    st.button("Add a regimen", on_click=_show, args=(count + 1,), disabled=count == HIGHLIGHTS, key="add")
    return [one for one in made if one is not None]


def _count() -> int:
    """How many regimens the address asks for."""
    allowed = [str(n) for n in range(1, HIGHLIGHTS + 1)]
    asked = st.query_params.get("choices", str(FIRST))
    if asked not in allowed:
        absent(st, "choices", asked, str(FIRST))
        return FIRST
    return int(asked)


def _show(count: int) -> None:
    st.query_params["choices"] = str(count)


def _remove(index: int, count: int) -> None:
    """Take one regimen away; those after it move up."""
    state = st.session_state
    for at in range(index + 1, count + 1):
        for part in PARTS:
            following = state.get(f"{part}{at + 1}") if at < count else None
            if following is None:
                state.pop(f"{part}{at}", None)
            else:
                state[f"{part}{at}"] = following
    _show(count - 1)


def _ask_one(
    index: int,
    count: int,
    forward: Forward,
    look: Mark,
    runs: Sequence[study.Run],
    asked: Asked,
    start: float | None,
) -> Tried | None:
    """One column of doses; None where it was not filled in or cannot be given, which it says.

    Whoever follows a run has the run's mark, other doses have ``look``.
    """
    limits = forward.limits
    followed = {f"{FOLLOW} {run.label}": run for run in runs} if forward.follow else {}
    kinds = [CONSTANT, *followed, *forward.named, PER_VISIT]
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        write.markdown("**Regimen {}**", index + 1)
        if count > 1:
            st.button(
                "Remove", on_click=_remove, args=(index, count), key=f"remove{index + 1}", type="tertiary"
            )
    first = min(index, len(kinds) - 1)
    kind = pick(st, "Doses", kinds, f"rule{index + 1}", first, label_visibility="collapsed")
    try:
        if kind == CONSTANT:
            dose = _slider(index, limits, start)
            name = with_unit(number(dose, decimals(limits.high[0] - limits.low[0])), limits.unit)
            return Tried(f"dose {name} at every visit", look, forward.give([dose]))
        if kind == PER_VISIT:
            if not (doses := _typed(index, limits)):
                st.info("Type one dose or more, separated by spaces.")
                return None
            return Tried(counted(len(doses), "typed dose"), look, forward.give(doses))
        if kind in forward.named:
            return Tried(kind, look, forward.named[kind]())
        return _follow(followed[kind], forward, asked)
    except UserError as error:
        page.problems([str(error)])
        return None


def _slider(index: int, limits: DoseLimits, start: float | None) -> float:
    """One dose for every visit; begins at the dose that everyone could be given."""
    low, high = limits.low[0], limits.high[0]
    step = (high - low) / STEPS
    at = 0.5 * (low + high) if start is None else min(max(start, low), high)
    in_range(st, f"dose{index + 1}", low, high)
    return float(
        st.slider(
            sentence("Dose at every visit ({})", unit_words(limits.unit)),
            low,
            high,
            low + step * round((at - low) / step),
            step=step,
            format=f"%.{decimals(high - low)}f",
            key=f"dose{index + 1}",
            bind="query-params",
        )
    )


def _typed(index: int, limits: DoseLimits) -> list[float]:
    """Doses in the order of the visits; none where nothing was typed.

    Raises:
        UserError: one of them is no dose within the limits.
    """
    typed = st.text_input(
        sentence("Doses in order of the visits ({}); the last one is kept", unit_words(limits.unit)),
        key=f"doses{index + 1}",
        bind="query-params",
    )
    return typed_doses(words(typed), limits)


def _follow(run: study.Run, forward: Forward, asked: Asked) -> Tried | None:
    """What comes of giving what a run's recommender says; all of it on record before it is shown.

    Raises:
        UserError: the recommender refuses a dose on the way.
    """
    assert forward.follow is not None, "an agent can be followed"
    if not (loaded := sources([run])):
        return None
    (source,) = loaded
    answers, records = on_record([source], asked.state, asked.visit, asked.earlier)
    if not answers:
        return None
    (answer,), (record,) = answers, records
    if answer.result.dose is None:
        write.error("**REFUSED: no dose.** {}", in_sentences(answer.result.reasons))
        return None
    if answer.result.status == "deferred":
        write.warning("**DEFERRED: not advice.** {}", in_sentences(answer.result.reasons))
    beside(context_of(answer, record))
    outcome, about = forward.follow(source.recommender)
    try:
        once("batch", about | {"provenance": source.recommender.provenance})
    except UserError as error:
        nothing_recorded(error)
        return None
    return Tried(run.label, run.mark, outcome, about["statuses"])
