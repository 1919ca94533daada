"""A table of patients that somebody brings: checked as a whole, answered row by row."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import streamlit as st

from app.analysis import batch
from app.analysis.recommendations import Source
from app.readers import study
from app.text import Markdown, bullets, joined, sentence
from app.theme import counted, interval, listed, unit_words
from app.widgets import page, write
from app.widgets.audit import beside, log, nothing_recorded, once
from app.widgets.state_picker import TYPED, one_data_set, pick, sources
from dosing.agent import needs_rewards
from dosing.data.earlier_visits import EarlierVisits
from dosing.data.text_table import TOLD, Refused
from dosing.errors import UserError
from dosing.recommendation.batch import unusable
from dosing.recommendation.decisions import Decision, all_decisions
from dosing.recommendation.dose_context import DecidedStates, DoseContext
from dosing.recommendation.patient_table import (
    MOST_BYTES,
    MOST_ROWS,
    PATIENT,
    Sheet,
    numbers,
    read,
    row_problems,
    wanted,
)
from dosing.recommendation.reasons import STATUSES
from dosing.recommendation.records import Recommender, StateEntry
from dosing.recommendation.visit_table import REWARD, VISIT, doses_of, holds_visits, visits_of
from dosing.types import Array


@dataclass(frozen=True)
class Asked:
    """What a file asks about.

    Attributes:
        values: ``[M, C]`` the columns that were chosen, as numbers.
        entries: what each of them is.
        checked: how many of them, from the first on, may miss no number.
        columns: the file's names for them.
        states: ``[M, O]``.
        current: ``[M, A]`` doses given now, where they are needed.
        earlier: visits before each row, of a file of several visits of each patient.
    """

    values: Array
    entries: Sequence[StateEntry]
    checked: int
    columns: tuple[str, ...]
    states: Array
    current: Array | None
    earlier: EarlierVisits | None = None


ROWS = 20  # rows in the preview
NONE = "choose a column"
DASH = "\N{EM DASH}"  # where an answer holds nothing
HEADS = {  # of columns of answers on screen; a number of a dose dimension may follow
    "dose": "dose ({unit})",
    "proposed": "proposed dose ({unit})",
    "support_low": "could give, from ({unit})",
    "support_high": "could give, to ({unit})",
    "recorded_low": "recorded near this state, from ({unit})",
    "recorded_high": "recorded near this state, to ({unit})",
    "spread": "spread over seeds ({unit})",
    "mass_outside": "probability outside the hard limits",
    "distance": "distance from the training visits",
    "nearest_distance": "distance from the nearest one",
    "dose_distance": "distance of the dose from recorded ones",
    "decision": "decision in force",
}
FORMATS = (("parquet", batch.as_parquet, "application/vnd.apache.parquet"), ("csv", batch.as_csv, "text/csv"))


def told(problems: Sequence[str]) -> Markdown:
    """Problems as a list, the first of many."""
    more = [f"and {len(problems) - TOLD:,} more"] if len(problems) > TOLD else []
    return bullets([*problems[:TOLD], *more])


def refuse(error: Refused) -> None:
    """Everything that is wrong with a file."""
    write.error("**NOTHING LOADED.** The file was not used:\n\n{}", told(error.problems))


def needed(entries: Sequence[StateEntry], recommender: Recommender) -> None:
    """Which columns a file must have, with units and possible ranges."""
    write.subheader("What the file must hold")
    st.dataframe(
        pd.DataFrame(
            {
                "column": [entry.name for entry in entries],
                "unit": [unit_words(entry.unit) for entry in entries],
                "possible": [entry.allowed or "any number" for entry in entries],
            }
        ),
        hide_index=True,
        key="needed",
        width="content",
    )
    write.caption(
        "One row per patient state, at most {:,}; CSV (UTF-8, a header line) or parquet, at most {} MB. No "
        "names, birth dates, record numbers, addresses, telephone or e-mail: such columns are refused. Only "
        "a hash of the file is kept.",
        MOST_ROWS,
        MOST_BYTES // 1_000_000,
    )
    doses = [entry.name for entry in doses_of(recommender)]
    reward = "and their reward" if needs_rewards(recommender.policy.agent) else "and, if known, their reward"
    write.caption(
        "Or one row per visit, with further columns patient (whose it is, such as 1 or A), visit (1, 2, 3 "
        "... of each patient) and {} (as delivered), {}: the rows of a patient together, from the first "
        "visit on. {}",
        " and ".join(doses),
        reward,
        "This agent looks back: each visit is answered with those before it."
        if recommender.policy.looks_back
        else "This agent sees one visit alone.",
    )


def mapping(sheet: Sheet, entries: Sequence[StateEntry], key: str, visits: bool) -> dict[str, str]:
    """Ask which column is which entry; only an exact name is chosen beforehand.

    Args:
        sheet: the file.
        entries: that need a column.
        key: of the file.
        visits: whether it holds several visits of each patient, told by columns that go by their names.
    """
    write.subheader("Which column is what")
    names = [name for name in sheet.columns if not visits or name not in (PATIENT, VISIT, REWARD)]
    rows = [st.columns(4) for _ in range(0, len(entries), 4)]  # row by row, for the keyboard and a telephone
    places = [place for row in rows for place in row]
    chosen = {}
    for number, entry in enumerate(entries):
        options = [NONE, *names]
        start = options.index(entry.name) if entry.name in names else 0
        result = places[number].selectbox(
            sentence("{} ({})", entry.name, unit_words(entry.unit)),
            options,
            start,
            key=f"column{number}_{key}",
        )
        if result != NONE:
            chosen[entry.name] = result
    if unused := [name for name in names if name not in chosen.values()]:
        write.caption("Not used: {}{}", ", ".join(unused[:TOLD]), " and more" if len(unused) > TOLD else "")
    return chosen


def read_file(content: bytes, suffix: str, recommender: Recommender, key: str) -> Asked | None:
    """Read a file and ask which column is what; None, with a sentence, while one was not chosen.

    Raises:
        Refused: the file cannot be used.
    """
    observed, doses = wanted(recommender)
    sheet = read(content, suffix, [PATIENT, *(entry.name for entry in (*observed, *doses))])
    visits = holds_visits(sheet.columns)
    entries = [*observed, *(doses_of(recommender) if visits else doses)]
    chosen = mapping(sheet, entries, key, visits)
    if missing := [entry.name for entry in entries if entry.name not in chosen]:
        write.info("No column was chosen for {}.", listed(missing))
        return None
    columns, width = tuple(chosen[entry.name] for entry in entries), len(observed)
    if visits:
        table = visits_of(sheet, recommender, chosen, patients=True)
        values = np.concatenate([table.states, table.dose], axis=1)
        return Asked(values, entries, width, columns, table.states, None, table.earlier)
    values = numbers(sheet, chosen, entries)
    current = values[:, width:] if doses else None
    return Asked(values, entries, len(entries), columns, values[:, :width], current)


def preview(asked: Asked, recommender: Recommender) -> None:
    """The first rows as numbers, and the rows that will be refused."""
    values, entries = asked.values, asked.entries
    write.subheader("First rows")
    frame_ = pd.DataFrame(values[:ROWS], columns=[f"{e.name} ({unit_words(e.unit)})" for e in entries])
    frame_.insert(0, "row", np.arange(1, len(frame_) + 1))
    st.dataframe(frame_, hide_index=True, key="preview", height=min(35 * (len(frame_) + 1) + 3, 280))
    write.caption("{} of {}.", len(frame_), counted(len(values), "row"))
    bad = list(row_problems(values[:, : asked.checked], entries[: asked.checked]))
    refused = {row - 1 for row, _ in bad}
    problems = [words for _, words in bad]
    if asked.earlier is not None and recommender.policy.looks_back:
        behind = set(np.flatnonzero(unusable(recommender, asked.earlier)).tolist()) - refused
        if behind:
            refused |= behind
            problems.append(f"{counted(len(behind), 'later visit')} whose earlier visits cannot be used.")
    if refused:
        write.warning(
            "**{:,} of {} will be refused**, the others not:\n\n{}",
            *(len(refused), counted(len(values), "row"), told(problems)),
        )


@st.cache_resource(show_spinner="Asking the policy about every row", max_entries=4)
def answered(_source: Source, _asked: Asked, file: str, key: Any) -> pa.Table:
    """The answers, kept while they are on show; ``key`` names policy, file, columns and decisions."""
    weights = _source.recommender.provenance.get("weights")
    decided = DecidedStates(decisions(), weights)
    told = (_asked.states, _asked.current, file, _source.evidence, decided, _asked.earlier)
    return batch.answer(_source.recommender, *told)


def decisions() -> tuple[Decision, ...]:
    """Every decision in the log; none where there is no log yet."""
    return all_decisions(log()) if log().path.is_file() else ()


def recorded(source: Source, asked: Asked, file: str, key: Any) -> pa.Table | None:
    """The answers of one policy, in the log first; None, with a sentence, where nothing can be recorded."""
    provenance = source.recommender.provenance
    try:
        known = (str(provenance), str(source.evidence), tuple(d.number for d in decisions()), key)
        table = answered(source, asked, file, known)
        parquet = batch.as_parquet(table)
        about = {"input": file, "output": hashlib.sha256(parquet).hexdigest(), "rows": table.num_rows}
        once("run loaded", provenance)
        once("batch", about | {"statuses": batch.statuses(table), "provenance": provenance})
    except UserError as error:
        nothing_recorded(error)
        return None
    return table


def results(source: Source, asked: Asked, table: pa.Table) -> None:
    """Answers of one agent as a table with status."""
    recommender, counts = source.recommender, batch.statuses(table)
    write.subheader("What {} says", source.name)
    beside(DoseContext(source.evidence))
    if note := (table.schema.metadata or {}).get(b"note"):
        write.warning("{}", note.decode())
    write.markdown("{}", joined(" · ", (sentence("**{:,}** {}", counts[name], name) for name in STATUSES)))
    only = pick(st, "Status shown", ["all", *STATUSES], "status")
    shown = batch.in_words(table)
    shown = shown if only == "all" else shown[shown["status"] == only]
    limits, unit = recommender.rules.limits, unit_words(recommender.rules.limits.unit)
    words = write.columns(shown, heads(table.column_names, unit))
    st.dataframe(shown, hide_index=True, key="answers", column_config=words, placeholder=DASH)
    ends = "; ".join(interval(low, high) for low, high in zip(limits.low, limits.high, strict=True))
    support = table.schema.metadata[b"support"].decode()
    default = f" Safe default: {recommender.rules.safe_default}." if recommender.rules.safe_default else ""
    write.caption(
        "Hard limits of the dose: {} ({}). Deferred: what the policy would give, not "
        "a recommendation. Refused: no dose.{} Support: {}, union over seeds. Rows count "
        "from 1.",
        ends,
        unit,
        default,
        support,
    )
    to_patient(asked)


def heads(names: Sequence[str], unit: str) -> dict[str, Any]:
    """Words for the columns of answers."""
    result = {}
    for name in names:
        stem, _, number = name.rpartition("_")
        known = HEADS.get(name) or (f"{HEADS[stem]}, {number}" if number.isdigit() and stem in HEADS else "")
        if known:
            result[name] = st.column_config.Column(known.format(unit=unit))
    return result


def to_patient(asked: Asked) -> None:
    """A link from one row to the Patient page."""
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    count = len(asked.states)
    row = left.number_input(sentence("Row, 1 to {:,}", count), 1, count, 1, key="row")
    state = asked.states[int(row) - 1]
    if not np.isfinite(state).all():
        write.markdown("Row {} misses a number: it has no page.", row, place=right)
        return
    right.page_link(
        "views/patient.py",
        label=sentence("Open row {} on the Patient page", row),
        query_params={"state_from": TYPED, "numbers": " ".join(f"{value:.9g}" for value in state)},
    )
    if asked.earlier is not None:
        write.caption("The Patient page takes it as a first visit: it is not told the visits before.")


def every_agent(answers: Mapping[str, pa.Table], unit: str) -> None:
    """All agents side by side, and files of what they say."""
    if len(answers) > 1:
        write.subheader("Every agent side by side")
        beside_ = batch.side_by_side(answers)
        told = write.columns(beside_)
        st.dataframe(beside_, hide_index=True, key="beside", column_config=told, placeholder=DASH)
        write.caption("Doses in: {}. A dose that is deferred is no recommendation.", unit)
    table = batch.together(answers)
    with st.container(horizontal=True):
        for suffix, make, mime in FORMATS:
            st.download_button(
                sentence("Download {}", suffix),
                functools.partial(make, table),
                file_name=f"recommendations-not-for-patients.{suffix}",
                mime=mime,
                on_click="ignore",
                key=f"download_{suffix}",
            )
    st.caption("The files hold every agent on this page: doses, status, verdict and reasons of every row.")


def templates(entries: Sequence[StateEntry], recommender: Recommender) -> None:
    """Files with nothing but the header that is asked for."""
    names = [entry.name for entry in entries]
    doses = [entry.name for entry in doses_of(recommender)]
    observed = [entry.name for entry in wanted(recommender)[0]]
    with st.container(horizontal=True):
        for what, columns, name in (
            ("a state", names, "states"),
            ("a visit", [PATIENT, VISIT, *observed, *doses, REWARD], "visits"),
        ):
            st.download_button(
                sentence("Template, {} per row", what),
                functools.partial(batch.header, columns),
                file_name=f"{name}.csv",
                mime="text/csv",
                on_click="ignore",
                key=f"template_{name}",
            )


@st.fragment
def view(listing: study.Listing) -> None:
    """Agent, file, columns, answers; a fragment, so that a choice redraws nothing else."""
    runs = {run.label: run for run in one_data_set(listing)}
    run = runs[pick(st, "Agent", list(runs), "agent")]
    if not (loaded := sources([run])):
        return
    (source,) = loaded
    recommender = source.recommender
    entries = [entry for part in wanted(recommender) for entry in part]
    needed(entries, recommender)
    templates(entries, recommender)
    file = st.file_uploader(
        "CSV or parquet file",
        type=["csv", "parquet", "pq"],
        max_upload_size=MOST_BYTES // 1_000_000,
        key="file",
    )
    if file is None:
        st.info("No file yet. Choose one above, or drop it there; it stays on this machine.")
        return
    content = file.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    try:
        asked = read_file(content, Path(file.name).suffix, recommender, digest[:12])
    except Refused as error:
        refuse(error)
        return
    if asked is None:
        return
    preview(asked, recommender)
    key = (digest, asked.columns)
    sure = st.checkbox(
        "The columns are what is chosen above, in the units shown",
        key=f"sure{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}",
    )
    if not sure:
        st.info("Confirm columns and units; then every row is answered.")
        return
    answers = {}
    if (table := recorded(source, asked, digest, key)) is None:
        return
    results(source, asked, table)
    answers[source.name] = table
    for other in sources([one for one in runs.values() if one is not run]):
        try:
            table = recorded(other, asked, digest, key)
        except UserError as error:
            page.problems([f"{other.name}: {error}"])
            continue
        if table is not None:
            answers[other.name] = table
    every_agent(answers, unit_words(recommender.rules.limits.unit))


view(page.open_page("Upload your own patients"))
