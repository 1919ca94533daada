"""Agents side by side: one picture first, then the study table; sorted and filtered as asked."""

from __future__ import annotations

import functools

import pandas as pd
import streamlit as st

from app.analysis.compared import (
    DIFFERENCE,
    ESTIMATES,
    FIRST,
    NAME,
    SAMPLED,
    as_csv,
    frame,
    kind_of,
    measured,
    ordered,
)
from app.charts import base, cohort
from app.charts.comparison import Measure, forest
from app.readers import study
from app.text import in_sentences
from app.theme import OTHER, Mark
from app.widgets import page, write
from app.widgets.glossary import explained
from app.widgets.state_picker import pick
from dosing.errors import UserError
from dosing.studies.comparison_table import Row

RETURNS, DIFFERENCES, SMALL, COSTS = (  # what can be drawn
    "return",
    "difference from the constant dose",
    "small multiples",
    "cost against return",
)
AS_MADE = "as in the study"


def asked_rows(rows: list[Row]) -> list[Row]:
    """The rows that are asked for, in the order that is asked for."""
    left, middle, right = st.columns(3)
    kinds = list(dict.fromkeys(map(kind_of, rows)))
    shown = left.pills(
        "Show",
        kinds,
        selection_mode="multi",
        default=kinds,
        key="kinds",
        bind="query-params",
        help=explained(*kinds),
    )
    part = middle.text_input("Name contains", key="named", bind="query-params").casefold()
    measures = [head for head in measured(rows) if head in ESTIMATES]
    by = pick(right, "Sorted by", [AS_MADE, *measures], "sorted")
    kept = [row for row in rows if kind_of(row) in shown and part in row.name.casefold()]
    return ordered(kept, None if by == AS_MADE else by)


def lanes(rows: list[Row], looks: dict[str, Mark]) -> list[tuple[str, Mark, str]]:
    """Name, look and verdict of every row."""
    return [(row.name, looks[row.name], row.verdict or "") for row in rows]


def pictures(rows: list[Row], looks: dict[str, Mark], key: str) -> None:
    """One picture of the rows, as it is asked for."""
    offered = [RETURNS, DIFFERENCES, SMALL, COSTS]
    if not any(row.cost for row in rows):
        offered.remove(COSTS)
    if not any(row.difference for row in rows):
        offered.remove(DIFFERENCES)
        missing = next((row.baseline.missing for row in rows if row.baseline and row.baseline.missing), "")
        write.info("No difference from a constant dose is shown. {}", in_sentences([missing]))
    start = DIFFERENCES if DIFFERENCES in offered else RETURNS
    shown = st.segmented_control(
        "Picture",
        offered,
        default=start,
        required=True,
        key=f"picture{key}",
        bind="query-params",
        help=explained(*offered),
    )
    if shown == DIFFERENCES:
        judged = [row for row in rows if row.difference]
        title = "return minus that of the estimated constant dose (no unit)"
        measure = Measure(title, [row.difference for row in judged], 0.0)
        figure = forest(lanes(judged, looks), [measure])
        page.draw(figure, f"forest{key}", "Difference in return from the constant dose, 95 % intervals")
    elif shown == SMALL:
        small_multiples(rows, looks, key)
    elif shown == COSTS:
        cost_and_return(rows, looks, f"cost{key}")
    else:
        page.draw(
            base.intervals(rows, [looks[row.name] for row in rows]),
            f"intervals{key}",
            "Mean return of each agent and rule, 95 % interval",
        )


def small_multiples(rows: list[Row], looks: dict[str, Mark], key: str) -> None:
    """Several measures beside each other, agents and rules in the same lanes."""
    offered = [head for head in measured(rows) if head in ESTIMATES]
    heads = st.pills(
        "Measures, at most four",
        offered,
        selection_mode="multi",
        default=[head for head in offered if head != SAMPLED][:3],
        key=f"measures{key}",
        bind="query-params",
        help=explained(*offered),
    )[:4]
    if not heads:
        st.info("Choose a measure.")
        return
    measures = [
        Measure(head, [ESTIMATES[head](row) for row in rows], 0.0 if head == DIFFERENCE else None)
        for head in heads
    ]
    page.draw(forest(lanes(rows, looks), measures), f"small{key}", f"{', '.join(heads)}, 95 % intervals")


def table(rows: list[Row], key: str) -> None:
    """The rows as a table with the columns that are asked for; a click on a head sorts it."""
    offered = measured(rows)
    heads = st.pills(
        "Columns",
        offered,
        selection_mode="multi",
        default=[head for head in offered if head in FIRST],
        key=f"columns{key}",
        bind="query-params",
        help=explained(*offered),
    )
    shown = frame(rows, [head for head in offered if head in heads])
    numbers = {
        head: st.column_config.NumberColumn(head, format="%.3g" if head.startswith("outside") else "%.3f")
        for head in map(str, shown)
        if pd.api.types.is_numeric_dtype(shown[head])
    }
    numbers[NAME] = st.column_config.TextColumn(NAME, pinned=True, width="medium")
    st.dataframe(
        shown,
        hide_index=True,
        column_config=write.columns(shown, numbers),
        key=f"table{key}",
        placeholder="\N{EM DASH}",
        height=min(36 * (len(shown) + 1) + 2, 470),
    )


def cost_and_return(rows: list[Row], looks: dict[str, Mark], key: str) -> None:
    """Cost against return of agents and rules, with the cost budgets that agents were trained within."""
    points = [
        (row.name if row.sampled else cohort.rule_name(row.name), looks[row.name], row.recommended, row.cost)
        for row in rows
        if row.cost
    ]
    budgets = sorted({row.budget for row in rows if row.budget is not None})
    figure = cohort.cost_and_return(points, budgets)
    page.draw(figure, key, "Mean cost against mean return, 95 % intervals")


@st.fragment
def one_set(rows: list[Row], looks: dict[str, Mark], key: str) -> None:
    """Picture and table of the rows of one data set; a fragment, so that a filter redraws nothing else."""
    kept = asked_rows(rows) if not key else rows
    if not kept:
        st.info("No agent or rule is left by what is asked for.")
        return
    pictures(kept, looks, key)
    write.subheader("Study table")
    table(kept, key)


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
        own = {row.name: look for row, look in zip(rows, marks, strict=True) if row.data == name}
        one_set([row for row in rows if row.data == name], own, str(index) if index else "")
    st.download_button(
        "Download CSV, all rows and columns",
        functools.partial(as_csv, rows),
        file_name="comparison-not-for-patients.csv",
        mime="text/csv",
        on_click="ignore",
        key="take_csv",
    )
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
