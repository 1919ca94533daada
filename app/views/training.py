"""Learning: returns on new patients along training first, then what one run's losses did."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.analysis.measures import measure_words
from app.charts import base
from app.readers import evaluation, study
from app.theme import counted
from app.widgets import page, write
from app.widgets.state_picker import pick, which_doses
from dosing.errors import UserError

COMMAND = "python -m dosing compare --evaluate-at 500 1000 1500"


@st.fragment
def returns_along(listing: study.Listing) -> None:
    """Returns of every run at the updates it was evaluated at, seeds faint, interquartile mean strong."""
    write.subheader("Returns along training")
    try:
        result = evaluation.curves()
    except UserError as error:
        page.problems([str(error)])
        return
    if result is None:
        write.nothing_yet(
            COMMAND, "No run was evaluated along its training yet. This command trains and evaluates:"
        )
        return
    names = list(dict.fromkeys(result["data"]))
    data = names[0]
    if len(names) > 1:
        data = pick(st, "Data set", names, "curves_of")
    result = result[result["data"] == data]
    here = {str(run.folder.path.relative_to(study.study())) for run in listing.runs}
    if gone := sorted(set(result["run"]) - here):
        page.problems([f"{path} is no longer a readable run; its curve is as it was." for path in gone])
    rule = which_doses("along")
    if result["update"].nunique() == 1:
        write.nothing_yet(COMMAND, "Only the end of training was evaluated. This shows the way there:")
    low, high = float(result[rule].min()), float(result[rule].max())
    pad = 0.06 * (high - low) or 1.0
    columns = st.columns(2)
    for index, (run, part) in enumerate(result.groupby("run", sort=False)):
        wide = part.pivot(index="update", columns="seed", values=rule)
        look = listing.mark_of(str(run))
        figure = base.training_curve(
            wide.index.to_numpy(float), wide.to_numpy(float).T, "mean return per patient (no unit)", look
        )
        figure.update_yaxes(range=[low - pad, high + pad])
        name = str(part["name"].iloc[0])
        with columns[index % 2]:
            write.markdown("{} **{}** · {}", look.sign, name, part["policy"].iloc[0])
            page.draw(figure, f"along{index}", f"Mean return of {name} along training, run {run}")
    write.caption(
        "Return on the evaluation patients when doses are {}; the same patients at every "
        "update and for every agent. Strong line: interquartile mean over {}; faint "
        "lines: the seeds. All panels share one scale.",
        rule,
        seeds_in(result),
    )


def seeds_in(result: pd.DataFrame) -> str:
    """How many seeds the curves rest on."""
    counts = result.groupby("run")["seed"].nunique()
    if counts.min() == counts.max():
        return counted(int(counts.min()), "training seed")
    return f"{counts.min()} to {counts.max()} training seeds"


@st.fragment
def losses(listing: study.Listing) -> None:
    """Metrics of one run over its training."""
    write.subheader("Losses and other measures of one run")
    runs = {run.label: run for run in listing.runs}
    label = pick(st, "Run", list(runs), "run")
    run = runs[label]
    try:
        metrics = study.metrics(run)
    except UserError as error:
        page.problems([f"{label}: {error}"])
        return
    columns = st.columns(2)
    for index, (name, part) in enumerate(metrics.groupby("name", sort=False)):
        wide = part.pivot(index="step", columns="seed", values="value")
        told = measure_words(str(name))
        figure = base.training_curve(wide.index.to_numpy(float), wide.to_numpy(float).T, told, run.mark)
        with columns[index % 2]:
            page.draw(figure, f"curve{index}", f"{told} of {label} over training")
    seeds = len(run.config.seeds)
    write.caption("Strong line: interquartile mean over {} seeds. Faint lines: the seeds.", seeds)


found_runs = page.open_page("Training")
returns_along(found_runs)
losses(found_runs)
