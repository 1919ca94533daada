"""The audit log: whether it is whole, what it holds, how often a dose was overridden."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import streamlit as st

from app.text import bullets, code, sentence
from app.theme import counted, listed
from app.widgets import page, write
from app.widgets.audit import log
from app.widgets.state_picker import pick
from dosing.errors import UserError
from dosing.recommendation.audit_log import KINDS, AuditLog, Record, Verified, what
from dosing.recommendation.decisions import Counts, count

LAST = (20, 100, 1000)  # records to show at once


@st.cache_resource(show_spinner="Checking every line of the audit log", max_entries=2)
def verified(path: Path, stamp: tuple[int, ...]) -> Verified:
    """The checked log, kept until one of its two files changes."""
    return AuditLog(path).verify()


def stamp(log_: AuditLog) -> tuple[int, ...]:
    """Size and time of change of the log and of its head."""
    files = [file for file in (log_.path, log_.head) if file.is_file()]
    return tuple(n for file in files for n in (file.stat().st_size, file.stat().st_mtime_ns))


def status(log_: AuditLog, result: Verified) -> None:
    """Whether the chain holds, first; the first broken line by its number."""
    if result.broken is None:
        told = counted(len(result.records), "record")
        if result.head:
            write.success("**Chain verified.** {}, every line as it was written.", told)
        else:
            write.warning("**Chain verified.** {}, every line as it was written.", told)
            write.caption(
                "The head {} is missing: lines cut off at the end would not show.", code(log_.head.name)
            )
    else:
        write.error(
            "**CHAIN BROKEN at line {}:** {}. Sound before it, and shown below: {}. Nothing "
            "is repaired: move the log and its head aside, and a new one begins.",
            result.broken,
            result.problem,
            counted(len(result.records), "record"),
        )
    write.caption(
        "Log {}. Hash of the last sound line; keep it elsewhere to notice a forgery:", code(log_.path)
    )
    st.code(result.last_hash, language=None)


def summary(result: Counts) -> None:
    """Alerts and overrides, with what they are shares of."""
    asked, decided = sum(result.shown.values()), sum(result.decided.values())
    kinds = [f"{n:,} {name}" for name, n in result.shown.items() if name != "ok"]
    lines = [
        sentence(
            "Alerts: **{:,}** of {}{}",
            result.alerts,
            counted(asked, "answer"),
            f" ({listed(kinds)})" if kinds else "",
        ),
        sentence(
            "Overrides: **{:,}** of {} ({:,} another dose, {:,} rejected)",
            result.overrides,
            counted(decided, "decision"),
            result.decided["modify"],
            result.decided["reject"],
        ),
    ]
    if result.tabled:
        told = listed([f"{n:,} {name}" for name, n in result.tabled.items() if n])
        lines.append(sentence("Rows of tables answered: {}", told))
    write.markdown("{}", bullets(lines))


def table(records: list[Record]) -> pd.DataFrame:
    """One line per record, newest first."""
    return pd.DataFrame(
        {
            "record": [r.number for r in records],
            "what": [what(r) for r in records],
            "patient": [str(r.content.get("patient", "")) for r in records],
            "visit": [str(r.content.get("visit", "")) for r in records],
            "kind": [r.kind for r in records],
            "time (UTC)": [r.time[:19].replace("T", " ") for r in records],
            "run": [Path(str(r.content.get("provenance", r.content).get("run", ""))).name for r in records],
        }
    )


def last_records(result: Verified) -> None:
    """The last records of the chosen kinds, and one of them whole."""
    write.subheader("Last records")
    left, right = st.columns([3, 1])
    kinds = left.pills(
        "Kinds",
        KINDS,
        selection_mode="multi",
        key="kinds",
        bind="query-params",
        help="None chosen: all.",
    )
    most = pick(right, "Most", LAST, "most")
    chosen = [r for r in reversed(result.records) if not kinds or r.kind in kinds]
    if not chosen:
        write.info(
            "{}", f"There is no record of kind {listed(kinds)}." if kinds else "No line of the log is sound."
        )
        return
    wide = {"what": st.column_config.Column(width="large"), "record": st.column_config.Column(width="small")}
    st.dataframe(table(chosen[:most]), hide_index=True, key="records", column_config=wide)
    write.caption("{:,} of {}, newest first.", min(most, len(chosen)), counted(len(chosen), "record"))
    record = pick(st, "One record whole", [r.number for r in chosen[:most]], "record")
    write.record(next(r.content for r in chosen if r.number == record))


@st.fragment
def view() -> None:
    """Status first, then counts, records and the file; a fragment, so that a filter redraws nothing else."""
    book = log()
    if not book.path.is_file():
        write.info(
            "Nothing was recorded in {} yet. Every recommendation that the Patient page "
            "shows is, and so is every one of this command:",
            code(book.path),
        )
        st.code("python -m dosing recommend RUN --state NUMBERS", language=None, wrap_lines=True)
        return
    try:
        result = verified(book.path, stamp(book))
    except UserError as error:
        page.problems([str(error)])
        return
    status(book, result)
    summary(count(result.records))
    if result.broken is not None:
        st.caption("Counted over the sound records alone.")
    last_records(result)
    st.download_button(
        "Download the log (JSON lines)",
        book.path.read_bytes,
        file_name=book.path.name,
        mime="application/jsonl",
        on_click="ignore",
        key="download_log",
    )
    write.caption(
        "{} checks it without the dashboard.",
        code(shlex.join(["python", "-m", "dosing", "audit", "verify", str(book.path)])),
    )


page.open_page("Audit")
view()
