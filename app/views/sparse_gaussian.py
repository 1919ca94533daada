"""A sparse distribution against a Gaussian one: same state, same dose axis, same evaluated patients."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import streamlit as st

import agents
from app.analysis.recommendations import Answer, curves, landmarks, sparse_of
from app.analysis.tails import (
    CONTRAST,
    beside,
    default_pair,
    differ_in_distribution_only,
    differences,
    is_sparse,
    outside,
    paid,
    tails,
    worst_share,
)
from app.charts import tails as charts_tails
from app.charts.estimates import panels_of_estimates
from app.charts.ridgeline import ridgeline
from app.readers import evaluation, study
from app.text import bullets, sentence
from app.theme import counted, minus, probability
from app.widgets import page, recommendation_card, write
from app.widgets.audit import context_of, on_record
from app.widgets.glossary import explained
from app.widgets.state_picker import ask_state, one_data_set, pick, sources
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.statistics import verdict
from dosing.recommendation.audit_log import Record

COMMAND = "\n".join(
    (
        f"python -m dosing compare --preset {CONTRAST} --agents {' '.join(agents.DEMO)}",
        "python -m dosing app --out runs/compare",
    )
)


def named(runs: list[study.Run]) -> dict[str, study.Run]:
    """Runs by what they are called here: of several of an agent, each with its distribution."""
    several = [f"{run.entry.title}, {run.family}" for run in runs]
    result = {}
    for run, words in zip(runs, several, strict=True):
        name = run.label
        if run.label != run.entry.title:
            name = words if several.count(words) == 1 else f"{run.label}, {run.family}"
        result[name] = replace(run, label=name)
    return result


def follow(sparse: dict[str, study.Run], others: dict[str, study.Run]) -> None:
    """Set the policy beside a sparse one that was just chosen, where one differs in distribution only."""
    place = beside(sparse[st.session_state["sparse"]], list(others.values()))
    if place is not None:
        st.session_state["gaussian"] = list(others)[place]


def pair(runs: list[study.Run]) -> tuple[study.Run, study.Run] | None:
    """The two runs to set against each other; None where the study has no such two."""
    every = named(runs)
    sparse = {name: run for name, run in every.items() if is_sparse(run)}
    others = {name: run for name, run in every.items() if not is_sparse(run)}
    if not sparse or not others:
        missing = "a sparse policy" if not sparse else "a policy that is not sparse"
        write.nothing_yet(
            COMMAND,
            "No agent here has {}. These commands train agents with a sparse and with a Gaussian "
            "distribution and nothing else changed, and show both:",
            missing,
        )
        return None
    first, second = default_pair(list(sparse.values()), list(others.values()))
    left, right = st.columns(2)
    changed = {"on_change": follow, "args": (sparse, others)}
    chosen = sparse[pick(left, "Sparse policy", list(sparse), "sparse", first, **changed)]
    place = beside(chosen, list(others.values()))
    second = second if place is None else place
    return chosen, others[pick(right, "Gaussian or other policy", list(others), "gaussian", second)]


def alike(first: study.Run, second: study.Run) -> None:
    """Say whether the distribution is all that differs."""
    if differ_in_distribution_only(first, second):
        write.caption("Both are {} with the same settings: only the distribution differs.", first.entry.title)
    else:
        with st.expander("More than the distribution differs between these two"):
            write.nothing_yet(
                COMMAND, "These commands make a pair that differs in its distribution alone, and show it:"
            )


def cards(answers: list[Answer], records: list[Record]) -> None:
    """Recommendations side by side, status first."""
    for column, answer, record in zip(st.columns(2), answers, records, strict=True):
        with column.container(border=True, height="stretch"):
            recommendation_card.card(answer, context_of(answer, record), sparse_of(answers))


def densities(answers: list[Answer], dimension: int, name: str) -> None:
    """Densities on a logarithmic scale."""
    around = landmarks(answers, dimension)
    figure = ridgeline(answers, curves(answers, dimension), around, dimension, name=name, log=True)
    page.draw(
        figure, f"distributions{dimension}", f"Densities of both distributions over the {name}, log scale"
    )


def tail(answers: list[Answer], dimension: int, name: str) -> None:
    """How probable a dose as far out is."""
    result = tails(answers, dimension)
    source = answers[0].source
    limits = (source.limits.low[dimension], source.limits.high[dimension])
    figure = charts_tails.tail_mass(result, limits, name=name, unit=source.limits.unit)
    page.draw(figure, f"tails{dimension}", f"Probability of a {name} as extreme, log scale")


def masses(answers: list[Answer]) -> None:
    """Probability outside the hard limits and outside the sparse interval, with the seeds' range."""
    sparse = answers[0].result
    assert sparse.support is not None, "a dose has a set"
    intervals = (
        ("outside the hard limits", *sparse.limits),
        (f"outside the interval of {answers[0].source.name}", *sparse.support),
    )
    lines = []
    for words, low, high in intervals:
        for answer in answers:
            seeds = outside(answer, low, high)
            ends = [probability(float(end)) for end in (seeds.min(), seeds.max())]
            tail = f" (seeds {ends[0]} to {ends[1]})" if np.ptp(seeds) > 0 else ""
            mass = probability(float(seeds.mean()))
            lines.append(
                sentence("{} {}, {}: **{}**{}", answer.mark.sign, answer.source.name, words, mass, tail)
            )
    write.markdown("{}", bullets(lines))
    st.caption(
        "Probabilities at this state, before any clipping: mean over training seeds, the largest over dose "
        "dimensions. The interval of the sparse agent runs from the lowest to the highest edge of its seeds."
    )


def evaluated(runs: tuple[study.Run, study.Run]) -> None:
    """Cost and the worst patients, when recommended doses are given and when doses are drawn."""
    write.subheader("What it costs over an episode of treatment")
    result = []
    for run in runs:
        try:
            outcomes = evaluation.outcomes(run)
        except UserError as error:
            page.problems([f"{run.label}: {error}"])
            continue
        if outcomes is None:
            write.nothing_yet(
                shlex.join(["python", "-m", "dosing", "evaluate", str(run.folder.path)]),
                "{} was not evaluated on new patients yet. This command evaluates it:",
                run.label,
            )
        else:
            result.append((run, outcomes))
    if not result:
        return
    rows = []
    try:
        for run, outcomes in result:
            for rule in evaluation.RULES:
                words = "drawn from the distribution" if rule == "sampled" else rule
                rows.append((run.label, run.mark, words, paid(outcomes[rule])))
    except UserError as error:
        page.problems([str(error)])
        return
    seeds, patients = result[0][1][evaluation.RULES[0]].returns.shape
    share = worst_share(patients)
    figure = panels_of_estimates(charts_tails.measures(rows, share))
    page.draw(figure, "paid", "Safety events, worst patients and limited doses of both agents")
    write.caption(
        "{} for each of {}, the same for both agents. Filled: the recommended dose is "
        "given; open: doses are drawn from the distribution, and a draw beyond a hard "
        "limit is held there. Lines: 95\N{NO-BREAK SPACE}% intervals. Safety events are never part of the "
        "reward; the scenario card on the Data page names them.",
        counted(patients, "new simulated patient"),
        counted(seeds, "training seed"),
    )
    if len(result) == 2:
        paired(result[0], result[1])


Measured = tuple[study.Run, dict[str, Outcomes]]


def paired(first: Measured, second: Measured) -> None:
    """Differences between the two agents, paired by patient."""
    lines = []
    for rule in evaluation.RULES:
        try:
            result = differences(first[1], second[1], rule)
        except UserError as error:
            write.info("No difference is drawn: {}", error)
            return
        words = "drawn" if rule == "sampled" else rule
        lines.append(
            sentence(
                "{} doses: return **{}** ({}), safety events **{}**",
                words,
                minus(result["return"]),
                verdict(result["return"]),
                minus(result["cost"]),
            )
        )
    write.markdown(
        "**{} minus {}**, paired by patient:\n\n{}", first[0].label, second[0].label, bullets(lines)
    )


DOSES, TAILS, PAID = "doses and densities", "tails", "what it costs"


@st.fragment
def view(listing: study.Listing) -> None:
    """Pair, state, and one part of what tells them apart; a fragment: the slider redraws nothing else."""
    runs = pair(one_data_set(listing))
    if runs is None:
        return
    alike(*runs)
    shown = st.segmented_control(
        "Show",
        (DOSES, TAILS, PAID),
        default=DOSES,
        required=True,
        key="part",
        bind="query-params",
        help=explained(DOSES, TAILS, PAID),
    )
    if shown == PAID:
        evaluated(runs)
        return
    loaded = sources(runs)
    if len(loaded) != len(runs) or (asked := ask_state(runs[0], loaded[0])) is None:
        return
    answers, records = on_record(loaded, asked.state, asked.visit, asked.earlier)
    if not answers:
        return
    if shown == DOSES or any(answer.result.dose is None for answer in answers):
        cards(answers, records)
    if any(answer.result.dose is None for answer in answers):
        return
    dimensions = loaded[0].limits.n_act
    for dimension in range(dimensions):
        name = "dose" if dimensions == 1 else f"dose {dimension + 1}"
        (densities if shown == DOSES else tail)(answers, dimension, name)
    if shown == DOSES:
        st.caption("Densities, log scale; the sparse one ends at its edges. Grey: outside the hard limits.")
        return
    st.caption(
        "How probable a dose this far from the recommended one is, or further on the same side, mean over "
        "training seeds, before any clipping. Filled: the difference between the two distributions. A "
        "triangle stands where the probability becomes exactly 0, which no logarithmic axis can show. Grey: "
        "outside the hard limits."
    )
    masses(answers)


opened = page.open_page("Sparse against Gaussian")
st.markdown(
    "A Gaussian policy gives every dose some probability, and clipping at the hard limits only moves what "
    "lies beyond them onto them. A sparse policy gives exactly none to doses outside an interval that it "
    "learned. Beside any other policy stands the sparse one that was distilled from it."
)
view(opened)
