"""A decision on a recommendation: accept, give another dose, reject; into the audit log first, then shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from app.analysis.recommendations import Answer
from app.text import sentence
from app.theme import decimals, interval, number, unit_words, with_unit
from app.widgets import page, write
from app.widgets.audit import log
from app.widgets.state_picker import pick
from dosing.errors import UserError
from dosing.recommendation.audit_log import Record
from dosing.recommendation.decisions import ACTIONS, Action, Decision, decisions_on, record_decision
from dosing.recommendation.dose_context import decision_words

LONGEST = 300
"""Characters of a reason."""
NAMES: dict[Action, str] = dict(zip(ACTIONS, ("Accept", "Give another dose", "Reject"), strict=True))
DECISION, OTHER, REASON = "Decision", "Other dose", "Reason"
"""Labels of the form, which its own sentences use."""
PROBLEM = "decision_problem"
"""Where the session keeps why what was sent could not be recorded."""


@dataclass(frozen=True)
class Form:
    """One empty form: on what, what is in force, and the key of its widgets."""

    answer: Answer
    record: Record
    decided: tuple[Decision, ...]

    @property
    def key(self) -> str:
        """Another question, and every decision, starts with an empty form."""
        return f"{self.record.number}_{self.record.line_hash[:8]}_{len(self.decided)}"

    def send(self) -> None:
        """Record what was filled in; before anything is drawn again."""
        state, key, limits = st.session_state, self.key, self.answer.source.limits
        doses = [state.get(f"given{k}_{key}") for k in range(limits.n_act)]
        action, reason = state.get(f"action{key}"), (state.get(f"reason{key}") or "").strip()
        state[PROBLEM] = (key, self._problem(action, doses, reason))
        if action is None or state[PROBLEM][1]:
            return
        try:
            given = [dose for dose in doses if dose is not None]
            record_decision(log(), self.record.number, action, given or None, reason)
        except UserError as error:
            state[PROBLEM] = (key, str(error))

    def _problem(self, action: Action | None, doses: list[float | None], reason: str) -> str:
        """What is missing or too much, in the words of the form; empty if nothing is."""
        limits, result = self.answer.source.limits, self.answer.result
        if action is None:
            return f"choose under “{DECISION}” first."
        name, typed = NAMES[action], [dose for dose in doses if dose is not None]
        if action == "modify":
            if len(typed) < limits.n_act:
                return f"“{name}” needs a number in “{OTHER}”."
            if not bool(limits.contains(typed)):
                return f"“{OTHER}” must lie within the hard limits, which cannot be overridden."
            if not reason:
                return f"“{name}” needs words in “{REASON}”."
        elif typed:
            return f"“{name}” goes without a number in “{OTHER}”; empty it, or choose “{NAMES['modify']}”."
        if action == "accept" and result.status == "deferred" and not reason:
            return f"“{name}” needs words in “{REASON}”, because the dose was deferred."
        same = self.decided and self.decided[-1].action == action and action != "modify"
        if self.decided and not same and not reason:
            return f"this replaces the decision in force, and needs words in “{REASON}”."
        return ""


def decide(answers: Sequence[Answer], records: Sequence[Record]) -> None:
    """Ask for a decision on one of the recommendations on show, and list what was decided on it.

    Args:
        answers: what the policies say.
        records: of each answer in the audit log.
    """
    write.subheader("Your decision")
    names = [answer.source.name for answer in answers]
    name = names[0] if len(names) == 1 else pick(st, "On the recommendation of", names, "decide_on")
    answer, record = answers[names.index(name)], records[names.index(name)]
    try:
        decided = decisions_on(log(), record.content)
    except UserError as error:
        page.problems([str(error)])
        return
    form = Form(answer, record, decided)
    _draw(form)
    key, problem = st.session_state.get(PROBLEM, ("", ""))
    if problem and key == form.key:
        write.error("**Not recorded:** {}", problem)
    for place, one in enumerate(reversed(decided)):
        if place == 0:
            write.success("**In force:** {}", decision_words(one))
        else:
            write.caption("Replaced: {}", decision_words(one))
    if not decided:
        write.caption("Nothing was decided on this yet.")


def _draw(form: Form) -> None:
    """The widgets of the form."""
    answer, key = form.answer, form.key
    result, limits = answer.result, answer.source.limits
    spans = list(zip(limits.low, limits.high, strict=True))
    places = decimals(max(high - low for low, high in spans))
    labels = dict(NAMES)
    if result.dose is not None:
        dose = with_unit(", ".join(number(v, places) for v in result.dose), result.unit)
        labels["accept"] += f" {dose}{' (deferred)' if result.status == 'deferred' else ''}"
    actions = [a for a in ACTIONS if a != "accept" or result.dose is not None]
    with st.form(f"decision{key}"):
        st.radio(
            DECISION,
            actions,
            index=None,
            format_func=lambda a: sentence("{}", labels[a]),
            horizontal=True,
            key=f"action{key}",
        )
        left, right = st.columns([1, 2])
        for k, (low, high) in enumerate(spans):
            which = "" if len(spans) == 1 else f" {k + 1}"
            left.number_input(
                sentence("{}{} ({}), {}", OTHER, which, unit_words(limits.unit), interval(low, high, places)),
                value=None,
                step=(high - low) / 100,
                format=f"%.{places}f",
                key=f"given{k}_{key}",
            )
        right.text_input(
            sentence("{}, in words (no names or numbers of patients)", REASON),
            max_chars=LONGEST,
            key=f"reason{key}",
        )
        replaces = f"Record, and replace record {form.decided[-1].number}" if form.decided else ""
        st.form_submit_button(sentence("{}", replaces or "Record the decision"), on_click=form.send)
    write.caption(
        "Another dose needs a reason, and so does accepting a dose that was deferred, and replacing a "
        "decision in force. The hard limits cannot be overridden. On audit record {}; what is recorded "
        "cannot be taken back.",
        form.record.number,
    )
