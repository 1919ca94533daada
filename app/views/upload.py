"""A table of patients that somebody brings: checked as a whole, answered row by row."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
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
from app.widgets.state_picker import one_data_set, pick, sources
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
DOSES = ("dose", "proposed", "support_", "spread")  # columns of answers in the unit of the dose
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
    st.subheader("What the file must hold")
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
    st.subheader("Which column is what")
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
    st.subheader("First rows")
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


def results(source: Source, asked: Asked, file: str, key: Any) -> None:
    """Answers as a table with status, in the log first; files to take away."""
    recommender = source.recommender
    try:
        known = (str(recommender.provenance), str(source.evidence), tuple(d.number for d in decisions()), key)
        table = answered(source, asked, file, known)
        counts, parquet = batch.statuses(table), batch.as_parquet(table)
        about = {"input": file, "output": hashlib.sha256(parquet).hexdigest(), "rows": table.num_rows}
        once("run loaded", recommender.provenance)
        once("batch", about | {"statuses": counts, "provenance": recommender.provenance})
    except UserError as error:
        nothing_recorded(error)
        return
    write.subheader("What {} says", source.name)
    beside(DoseContext(source.evidence))
    if note := (table.schema.metadata or {}).get(b"note"):
        write.warning("{}", note.decode())
    write.markdown("{}", joined(" · ", (sentence("**{:,}** {}", counts[name], name) for name in STATUSES)))
    only = pick(st, "Status shown", ["all", *STATUSES], "status")
    shown = table.to_pandas()
    shown = shown if only == "all" else shown[shown["status"] == only]
    limits, unit = recommender.rules.limits, unit_words(recommender.rules.limits.unit)
    doses = [name for name in table.column_names if name.startswith(DOSES)]
    labels = {name: st.column_config.Column(f"{name.replace('_', ' ')} ({unit})") for name in doses}
    st.dataframe(shown, hide_index=True, key="answers", column_config=labels)
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


@st.fragment
def view(listing: study.Listing) -> None:
    """Agent, file, columns, answers; a fragment, so that a choice redraws nothing else."""
    runs = {run.label: run for run in one_data_set(listing)}
    run = runs[pick(st, "Agent", list(runs), "agent")]
    if not (loaded := sources([run])):
        return
    (source,) = loaded
    recommender = source.recommender
    needed([entry for part in wanted(recommender) for entry in part], recommender)
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
    results(source, asked, digest, key)


view(page.open_page("Upload your own patients"))
