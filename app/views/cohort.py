"""The evaluated patients: how returns are spread, who does worst, what safety costs, which groups differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from app.charts import cohort
from app.charts.cohort import Lane
from app.readers import evaluation, study
from app.text import sentence
from app.theme import OTHER, Mark, counted, minus, number
from app.widgets import page, write
from app.widgets.state_picker import chosen_runs, pick, which_doses
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.statistics import cvar, mean_over_seeds, subgroups
from simulator.cohorts.evaluated import Evaluated

TENTH = 0.1
WORST = 10  # patients in the list of the worst
GROUPS = 4


@dataclass(frozen=True)
class Evaluation:
    """A run with what happened to its patients under one rule."""

    run: study.Run
    outcome: Outcomes

    @property
    def mark(self) -> Mark:
        """That of the run."""
        return self.run.mark


def evaluations(runs: list[study.Run], rule: str) -> list[Evaluation]:
    """Evaluated runs in the order of the study; the others are named."""
    result, missing = [], []
    for run in runs:
        try:
            outcomes = evaluation.outcomes(run)
        except UserError as error:
            page.problems([f"{run.label}: {error}"])
            continue
        if outcomes is None or rule not in outcomes:
            missing.append(run.label)
        else:
            result.append(Evaluation(run, outcomes[rule]))
    if missing:
        write.nothing_yet(
            "python -m dosing compare",
            "Not evaluated on new patients yet: {}. This command trains what is missing and evaluates it:",
            ", ".join(missing),
        )
    return result


def lane(result: Evaluation) -> Lane:
    """One agent's returns with their mean and their worst tenth."""
    returns = result.outcome.returns
    tail = cvar(returns, TENTH) if TENTH * returns.shape[1] >= 1.0 else None
    return Lane(result.run.label, result.mark, returns.reshape(-1), mean_over_seeds(returns), tail)


def spread_of_returns(result: list[Evaluation]) -> None:
    """Distributions with their worst tenth."""
    write.subheader("Returns over patients")
    lanes = [lane(one) for one in result]
    page.draw(cohort.distributions(lanes), "distributions", "Distribution of returns of each agent")
    for one in lanes:
        words = (
            sentence("worst tenth **{}**", minus(one.tail))
            if one.tail
            else sentence("worst tenth: fewer than 10 patients a seed")
        )
        write.markdown("- {} {}: mean **{}**, {}", one.mark.sign, one.name, minus(one.mean), words)
    seeds, patients = result[0].outcome.returns.shape
    write.caption(
        "{} for each of {}, the same for every agent. Filled mark: mean; open mark: mean "
        "return of the worst tenth of the patients (CVaR 10 %), whose bars are the strong ones; "
        "lines: 95 % intervals over seeds.",
        counted(patients, "new simulated patient"),
        counted(seeds, "training seed"),
    )


def safety(result: list[Evaluation]) -> None:
    """Cost against return, for agents and the rules of the study table."""
    write.subheader("Cost against return")
    points = [
        (o.run.label, o.mark, mean_over_seeds(o.outcome.returns), mean_over_seeds(o.outcome.cost))
        for o in result
    ]
    try:
        table = study.table()
    except UserError as error:
        page.problems([str(error)])
        table = None
    data = result[0].run.config.data.name
    rules = (
        [row for row in table[0] if row.sampled is None and row.cost and row.data == data] if table else []
    )
    points += [(cohort.rule_name(row.name), OTHER, row.recommended, row.cost) for row in rules if row.cost]
    kept = {o.run.config.regularisation.cost_budget for o in result}
    figure = cohort.cost_and_return(points, sorted(budget for budget in kept if budget is not None))
    page.draw(figure, "cost", "Mean cost against mean return, 95 % intervals")
    st.caption(
        "Cost: mean safety cost of a patient, which the scenario card on the Data page defines; never "
        "part of the reward. Down and to the right is better; dashed: cost budgets of agents. "
        "Lines: 95 % intervals, which may reach below "
        "the 0 that no cost can; grey: rules without learning."
    )


def known(one: Evaluation) -> Evaluated | None:
    """Who the patients are; says so where nobody knows."""
    try:
        return evaluation.patients(one.run, one.outcome)
    except UserError as error:
        write.info("Who these patients are is not known: {}", error)
        return None


def groups(result: list[Evaluation]) -> None:
    """Mean return by a trait of the patients."""
    write.subheader("Subgroups")
    first = result[0].outcome
    if (patients := known(result[0])) is None:
        return
    if other := [one.run.label for one in result if one.outcome.seeds != first.seeds]:
        write.info("Evaluated on patients of other seeds, so not beside the rest: {}.", ", ".join(other))
    result = [one for one in result if one.outcome.seeds == first.seeds]
    result = [one for one in result if one.outcome.returns.shape == first.returns.shape]
    names = list(result[0].run.config.obs_names)
    traits = dict(patients.traits)
    traits |= {f"first observed {name}": patients.seen[..., k] for k, name in enumerate(names)}
    trait = pick(st, "Patients grouped by", list(traits), "trait")
    try:
        shown = [(o.run.label, o.mark, subgroups(o.outcome.returns, traits[trait], GROUPS)) for o in result]
    except UserError as error:
        write.info("No subgroups: {}", error)
        return
    page.draw(cohort.by_subgroup(trait, shown), "subgroups", f"Mean return by {trait}")
    write.caption(
        "{} equally large groups, or one for each value where there are no more. What is not "
        "observed is known to the simulator alone; no agent sees it. Lines: 95 % intervals. A "
        "difference between groups is no effect of the trait alone.",
        GROUPS,
    )


def worst(result: list[Evaluation]) -> None:
    """The patients with the lowest returns, each with links that open its first state elsewhere."""
    write.subheader("Worst patients")
    named = {one.run.label: one for one in result}
    one = named[pick(st, "Under", list(named), "under")]
    outcome, patients = one.outcome, known(one)
    for place in np.argsort(outcome.returns, axis=None)[:WORST]:
        seed, patient = (int(k) for k in np.unravel_index(place, outcome.returns.shape))
        with st.container(horizontal=True, vertical_alignment="center"):
            write.markdown(
                "Patient {}, training seed {}: return **{}**, cost {}, mean dose {}",
                patients.number[seed, patient] if patients else patient,
                outcome.seeds[seed],
                number(outcome.returns[seed, patient], 1),
                number(outcome.cost[seed, patient], 0),
                number(outcome.dose[seed, patient], 2),
                width="content",
            )
            if patients is not None:
                state = " ".join(f"{x:.4f}" for x in patients.seen[seed, patient])
                link = {"state_from": "typed numbers", "numbers": state}
                st.page_link(
                    "views/what_if.py",
                    label="\N{RIGHTWARDS ARROW} What if",
                    query_params=link | {"rule2": f"follow {one.run.label}"},
                )
                st.page_link("views/patient.py", label="\N{RIGHTWARDS ARROW} Doses", query_params=link)
    st.caption(
        "Numbers are those of the evaluation cohort. The links open the state of the first visit, to four "
        "decimals: a state, not the patient behind it."
    )


@st.fragment
def view(listing: study.Listing) -> None:
    """All parts of the page; a fragment, so that a choice redraws nothing else."""
    rule = which_doses("rule")
    result = evaluations(chosen_runs(listing), rule)
    if not result:
        return
    spread_of_returns(result)
    safety(result)
    groups(result)
    worst(result)


view(page.open_page("Cohort"))
