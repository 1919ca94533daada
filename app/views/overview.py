"""What this study holds, how far each run is, and what to look at next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pandas as pd
import streamlit as st

from app.analysis.recommendations import curves, landmarks
from app.analysis.tails import default_pair, is_gaussian, is_sparse
from app.charts.ridgeline import ridgeline
from app.readers import study
from app.widgets import page, write
from app.widgets.audit import beside, context_of, on_record
from app.widgets.state_picker import sources, visit_of
from dosing.errors import UserError
from dosing.runs.folder import CHECKPOINT, EPISODES, EVALUATION
from dosing.studies.naming import CURVES
from dosing.studies.selected import SELECTION

# Four sentences for somebody who sees this for the first time.
STRANGER = (
    "A program saw recorded visits of simulated patients and learned which dose to give in which state. Most "
    "such programs give every dose some probability, also doses far beyond what anybody should be given. A "
    "sparse one cannot: at each state it can give doses from one bounded interval, and none outside it. "
    "These pages show that interval, the hard limits it has to stay within, and what following the program "
    "was worth on simulated patients it had never seen."
)


def is_evaluated(run: study.Run) -> bool:
    """Whether there are outcomes of new patients."""
    return all((run.folder.path / name).is_file() for name in (EVALUATION, EPISODES))


def status(run: study.Run, table: dict[str, str] | None) -> dict[str, str]:
    """One finished run: what was done with it."""
    folder, config = run.folder.path, run.config
    path = str(folder.relative_to(study.study()))
    compared = "not compared" if table is None or path not in table else table[path]
    updates = config.updates or None
    return {
        "run": run.label,
        "distribution of the dose": run.family,
        "data": config.data.name,
        "seeds": str(len(config.seeds)),
        "updates": f"{updates:,}" if updates else "unknown",
        "training": "finished",
        "evaluated on new patients": "yes" if is_evaluated(run) else "no",
        "against the constant dose": compared,
    }


def unfinished(folder: Path) -> dict[str, str]:
    """One run that is still training or was stopped."""
    dash = "\N{EM DASH}"
    started = (folder / CHECKPOINT).is_file()
    return {
        "run": str(folder.relative_to(study.study()).parts[0]),
        "distribution of the dose": dash,
        "data": folder.parent.name,
        "seeds": dash,
        "updates": dash,
        "training": "not finished, can be continued" if started else "not finished, no checkpoint yet",
        "evaluated on new patients": "no",
        "against the constant dose": "not compared",
    }


def verdicts() -> dict[str, str] | None:
    """What the study table says of each run's folder; None without a table."""
    try:
        result = study.table()
    except UserError as error:
        page.problems([str(error)])
        return None
    if result is None:
        return None
    return {path: row.verdict or "no constant dose" for row, path in zip(result[0], result[1], strict=False)}


def holdings(listing: study.Listing, table: dict[str, str] | None) -> None:
    """Counts, and one line per run."""
    data = {run.data: run.config.data for run in listing.runs}
    columns = st.columns(4)
    columns[0].metric("Finished runs", len(listing.runs))
    columns[1].metric("Unfinished runs", len(listing.unfinished))
    columns[2].metric("Data sets", len(data))
    columns[3].metric("Runs in the study table", 0 if table is None else len(table))
    lines = [status(run, table) for run in listing.runs]
    lines += [unfinished(folder) for folder in listing.unfinished]
    write.table(pd.DataFrame(lines))
    for hash_, one in data.items():
        size = f"{one.patients:,} patients, {one.visits:,} visits"
        write.caption("Data {}: {}, SHA-256 {}.", one.name, size, hash_[:16])


def picture(listing: study.Listing) -> None:
    """The bounded set beside the unbounded one, at the first recorded visit."""
    first = listing.runs[0]
    runs = [run for run in listing.runs if run.data == first.data]
    sparse, gaussian = ([r for r in runs if is_kind(r)] for is_kind in (is_sparse, is_gaussian))
    if not sparse:
        write.nothing_yet(
            "python -m dosing demo",
            "No agent here has a bounded set of doses to show. This command trains one:",
        )
        return
    shown = [sparse[0]]
    if gaussian:
        i, j = default_pair(sparse, gaussian)
        shown = [sparse[i], gaussian[j]]
    loaded = sources(shown)
    try:
        episodes = study.episodes(shown[0])
    except UserError as error:
        page.problems([f"the recorded patients: {error}"])
        return
    if not loaded:
        return
    answers, records = on_record(loaded, episodes.obs[0].tolist(), visit_of(episodes, 0), ())
    if not answers:
        return
    drawn = curves(answers, 0)
    dimensions = loaded[0].limits.n_act
    name = "dose" if dimensions == 1 else f"dose 1 of {dimensions}"
    given = episodes.act[0].tolist()
    figure = ridgeline(answers, drawn, landmarks(answers, 0, given), 0, name=name)
    page.draw(figure, "picture", "The bounded doses of one agent beside the unbounded ones of another")
    for answer, record in zip(answers, records, strict=True):
        write.markdown("{} **{}**", answer.mark.sign, answer.source.name)
        beside(context_of(answer, record))
    write.explain(
        "Patient {}, visit 1. Solid band: every dose the sparse policy could give. Dashed: the central part "
        "of a distribution that gives every dose some probability. Each density is scaled to its own peak. "
        "Red: what lies outside the hard limits.",
        int(episodes.episode[0]),
    )


def next_steps(listing: study.Listing, table: dict[str, str] | None) -> None:
    """Pages worth opening now, and commands that fill what is empty."""
    st.page_link("views/patient.py", label="Patient: what policies could give")
    st.page_link("views/what_if.py", label="What if: simulate your own doses")
    if any(map(is_sparse, listing.runs)) and any(map(is_gaussian, listing.runs)):
        st.page_link("views/sparse_gaussian.py", label="Sparse against Gaussian: the tails")
    if table:
        st.page_link("views/comparison.py", label="Comparison: who beats a constant dose")
        st.page_link("views/cohort.py", label="Cohort: worst patients and safety")
    else:
        names = list(dict.fromkeys(run.config.agent for run in listing.runs))
        data = os.path.normpath(listing.runs[0].folder.path / listing.runs[0].config.data_file)
        write.nothing_yet(
            shlex.join(
                [
                    "python",
                    "-m",
                    "dosing",
                    "compare",
                    "--agents",
                    *names,
                    "--data",
                    data,
                    "--out",
                    str(study.study()),
                ]
            ),
            "Nothing is compared yet. This command evaluates agents on the same new patients:",
        )
    waiting = [run.folder.path for run in listing.runs if not is_evaluated(run)]
    if waiting:
        write.nothing_yet(
            "\n".join(shlex.join(["python", "-m", "dosing", "evaluate", str(path)]) for path in waiting),
            "Some runs were not evaluated on new patients yet:",
        )
    if (study.study() / SELECTION).is_file():
        st.page_link("views/ope.py", label="Off-policy evaluation: no simulator")
    if (study.study() / CURVES).is_file():
        st.page_link("views/training.py", label="Training: returns along the way")
    st.page_link("views/agents.py", label="Agents: policy cards to take away")


opened = page.open_page("Overview")
write.markdown(STRANGER)
picture(opened)
known = verdicts()
write.subheader("What this study holds")
holdings(opened, known)
write.subheader("What to look at next")
next_steps(opened, known)
