"""Agents side by side: intervals first, the study table second."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.charts import base, cohort
from app.readers import study
from app.theme import OTHER, Mark, minus, probability
from app.widgets import page, write
from dosing.errors import UserError
from dosing.studies.comparison_table import Row, share_words


def as_frame(rows: list[Row]) -> pd.DataFrame:
    """The study table in words, one line per agent or reference rule; a dash where nothing applies."""
    dash = "\N{EM DASH}"
    return pd.DataFrame(
        {
            "agent or rule": row.name,
            "policy": row.family,
            "verdict": row.verdict or (dash if row.sampled else "reference"),
            "return, recommended dose": minus(row.recommended),
            "cost": minus(row.cost) if row.cost else dash,
            "cost budget": dash if row.budget is None else row.budget_words,
            "time in range": dash if row.in_range is None else share_words(row.in_range),
            "return, sampled dose": minus(row.sampled) if row.sampled else dash,
            "worst 5 % of patients": minus(row.lower_tail) if row.lower_tail else dash,
            "minus estimated constant": dash if row.difference_words == "-" else minus(row.difference_words),
            "half-width": f"{row.half_width:.3f} ({row.width_kind})" if row.half_width is not None else dash,
            "outside hard limits": dash if row.width_kind is None else probability(row.mass_outside_limits),
            "outside sparse set": dash if row.width_kind is None else probability(row.mass_outside_sparse),
            "return foreseen (its worst 5 %)": dash if row.foreseen is None else minus(row.foreseen_words),
        }
        for row in rows
    )


def cost_and_return(rows: list[Row], marks: list[Mark], key: str) -> None:
    """Cost against return of agents and rules, with the cost budgets that agents were trained within."""
    names = [row.name if row.sampled is not None else cohort.rule_name(row.name) for row in rows]
    points = [
        (name, look, row.recommended, row.cost)
        for name, look, row in zip(names, marks, rows, strict=True)
        if row.cost
    ]
    if not points:
        return
    budgets = sorted({row.budget for row in rows if row.budget is not None})
    figure = cohort.cost_and_return(points, budgets)
    page.draw(figure, key, "Mean cost against mean return, 95 % intervals")


def show_table(listing: study.Listing) -> None:
    """Interval chart and table, or the command that makes them."""
    try:
        result = study.table()
    except UserError as error:
        page.problems([str(error)])
        result = None
    if result is None:
        write.nothing_yet(
            "python -m dosing demo",
            "These runs have not been compared yet. This command evaluates agents and reference rules on the "
            "same new patients and writes the table:",
        )
        return
    rows, paths = result
    here = {str(run.folder.path.relative_to(study.study())): run.label for run in listing.runs}
    if gone := [path for path in paths if path not in here]:
        page.problems([f"the table rests on {path}, which is no longer a readable run." for path in gone])
    if new := [label for path, label in here.items() if path not in paths]:
        write.info("Finished but not in the table yet: {}.", ", ".join(new))
    runs = [run for run in listing.runs if run.config.problem.horizon]
    visits = runs[0].config.problem.horizon if runs else None
    sets = list(dict.fromkeys(row.data for row in rows))
    marks = [listing.mark_of(path) for path in paths] + [OTHER] * (len(rows) - len(paths))
    for index, name in enumerate(sets):
        if len(sets) > 1:
            write.subheader("Trained on {}", name)
        own = [row for row in rows if row.data == name]
        looks = [look for row, look in zip(rows, marks, strict=True) if row.data == name]
        page.draw(
            base.intervals(own, looks),
            f"intervals{index}",
            "Mean return of each agent and rule, 95 % interval",
        )
        cost_and_return(own, looks, f"cost{index}")
    basis = next((row.recommended for row in rows if row.sampled), rows[0].recommended)
    rules = next((row.recommended for row in rows if row.cost and not row.sampled), rows[-1].recommended)
    span = f"over {visits} visits " if visits else ""
    write.caption(
        "Return: sum of rewards {}of a patient. Filled: recommended dose given; open: "
        "doses sampled from the policy. Agents: {}; reference rules have no seeds, n = "
        "{:,}. All on the same new simulated patients. Dotted line: the constant dose "
        "estimated from the recorded patients. The best constant dose was found on "
        "separate simulated patients: no clinic has it. Ceilings: measured beforehand, "
        "on 2,000 of these patients.",
        span,
        basis.basis,
        rules.n,
    )
    st.subheader("Study table")
    for name in sets:
        if len(sets) > 1:
            write.markdown("Trained on **{}**", name)
        write.table(as_frame([row for row in rows if row.data == name]))
    st.caption(
        "Intervals are 95 %. The difference is from the constant dose estimated from the same recorded "
        "patients (reward regressed on dose and its square), paired by evaluation patient; the verdict says "
        "whether its interval excludes 0. Half-width and probabilities: means over recorded visits and "
        "seeds, before any clipping; the sparse set is each seed's own. Cost: mean safety cost "
        "per patient by recommended doses. Cost budget: what an agent was trained within; met or exceeded "
        "where the interval of the cost lies below or above it, else open; predicted: by the agent's own "
        "cost critic. Worst 5 %: mean return of these patients (CVaR) when the recommended dose is given. "
        "Foreseen: the distribution of the discounted return that an agent's own critic has learned, for "
        "those that "
        "learn one, at the recorded visits: its mean and the mean of its worst 5 %."
    )


show_table(page.open_page("Comparison"))
