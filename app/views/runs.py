"""Runs: how far the study is, while it runs here or on a cluster."""

from __future__ import annotations

import streamlit as st

from app.readers import progress
from app.widgets import page, write
from dosing.studies.progress import StudyProgress


def counts(now: StudyProgress) -> None:
    """A number per state, then rate and remaining time."""
    states = {"finished": len(now.finished), "begun, not finished": now.begun}
    if now.waiting is not None:
        states |= {"waiting on the cluster": now.waiting, "jobs lost and submitted again": now.lost}
    for column, (state, count) in zip(st.columns(len(states)), states.items(), strict=True):
        with column:
            write.metric("{}", state.capitalize(), value=f"{count:,}")
    if now.rate is None:
        write.caption("A rate is known once three runs have finished.")
    else:
        told = f"{3600.0 * now.rate:,.1f} runs an hour over the last {min(len(now.finished), 50)}."
        left = now.begun + (now.waiting or 0)
        if left and now.remaining is not None:
            told += f" At that rate the {left:,} known to be left take {progress.duration(now.remaining)}."
        write.caption("{}", told)


@st.fragment(run_every=progress.EVERY)
def state() -> None:
    """Everything that changes while the page is open."""
    now = progress.progress()
    page.problems(now.problems)
    counts(now)
    if not now.begun:
        write.info("No run is under way: every run that has begun is finished.")
        return
    write.subheader("Runs under way")
    share = st.column_config.ProgressColumn("done", format="percent", min_value=0.0, max_value=1.0)
    rows = progress.rows(now.unfinished)
    config = write.columns(rows, {"done": share})
    st.dataframe(rows, hide_index=True, width="stretch", column_config=config)
    if now.begun > len(now.unfinished):
        write.caption("The {} written last of {:,}.", len(now.unfinished), now.begun)
    write.caption(
        "A run writes at its checkpoints, and a trial does not count updates. One that has not written for "
        "long was stopped or lost: the command that started it continues it from its last checkpoint."
    )


page.open_page("Runs", needs_runs=False)
write.markdown("How far this study is. The page looks again every {} seconds.", progress.EVERY)
state()
