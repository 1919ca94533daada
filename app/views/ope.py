"""Returns estimated from recorded visits alone, beside what the simulator knows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

import agents
from app.analysis.off_policy import (
    ESTIMATORS,
    CandidateRow,
    SelectionTable,
    Valued,
    is_quick,
    not_below_zero,
    read_selection,
    same_settings,
    value,
)
from app.charts.estimates import Line, panels_of_estimates
from app.charts.off_policy import effective_sample
from app.readers import evaluation, study
from app.text import Markdown, bullets, code, sentence
from app.theme import HIGHLIGHTS, NBSP, OTHER, Mark, counted, listed, minus, probability
from app.widgets import page, write
from app.widgets.state_picker import chosen_runs, pick, which_doses
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.ope.importance import LEAST_SAMPLE
from dosing.ope.values import Estimator, Valuation
from dosing.runs.files import read_json
from dosing.studies.selected import SELECTION

RETURN = "return per patient (no unit)"
COST = "cost per patient"
NOT_EVALUATED = "not evaluated on new patients"


@st.cache_resource(show_spinner="Estimating returns from the recorded visits", max_entries=32)
def _valued(path: str, weights: str, sampled: bool, _run: study.Run) -> Valued | None:
    """What a run's own recorded visits say of it; None where that takes more than a progress."""
    del path, weights
    policy, episodes = study.recommender(_run).policy, study.episodes(_run)
    return value(_run.label, policy, episodes, sampled=sampled) if is_quick(policy, episodes) else None


def truth(run: study.Run, rule: str, measure: str = "returns") -> Estimate | None:
    """Mean return, or ``cost``, on new simulated patients; None where the run was not evaluated."""
    try:
        result = evaluation.outcomes(run)
    except UserError as error:
        page.problems([f"{run.label}: {error}"])
        return None
    return mean_over_seeds(getattr(result[rule], measure)) if result and rule in result else None


def command(runs: list[study.Run]) -> str:
    """The command that values these agents on patients they were not trained on."""
    names: list[str] = []
    data: list[str] = []
    for run in runs:
        try:
            if study.recommender(run).policy.looks_back:
                continue
        except UserError:
            continue
        names.append(run.config.agent)
        data = ["--data", os.path.normpath(run.folder.path / run.config.data_file)]
    chosen = list(dict.fromkeys(names)) or list(agents.DEMO)
    start = ["python", "-m", "dosing", "select", "--agents"]
    return shlex.join([*start, *chosen, *data, "--out", str(study.study())])


def selection() -> SelectionTable | None:
    """What a selection left in the study folder; None where there was none."""
    file = study.study() / SELECTION
    if not file.is_file():
        return None
    try:
        return read_selection(read_json(file), str(file))
    except UserError as error:
        page.problems([str(error)])
        return None


def cross_validated(result: SelectionTable, listing: study.Listing) -> None:
    """Candidates of a selection, each valued on patients its policies have not seen."""
    write.subheader("Cross-validated")
    write.markdown("**{}**", result.verdict)
    offered = [e for e in ESTIMATORS if e in result.candidates[0].values]
    estimator = result.decided_by
    if len(offered) > 1:
        estimator = pick(st, "Estimator", offered, "estimator", format_func=ESTIMATORS.__getitem__)
    lines: list[Line] = []
    for index, candidate in enumerate(result.candidates[: HIGHLIGHTS + 1]):
        run = same_settings(candidate, listing.runs) if candidate.agent else None
        look = OTHER if index == 0 else run.mark if run is not None else listing.free_mark(index - 1)
        lines += _lines(candidate, estimator, look, run)
    page.draw(panels_of_estimates([(RETURN, lines)]), "selected", "Estimated returns beside the simulator's")
    write.table(pd.DataFrame(_row(c, estimator, listing.runs) for c in result.candidates))
    write.caption(
        "Open marks: estimates from {} alone, over {}, each patient valued under "
        "policies trained on the others; 95{}% intervals, those of differences corrected "
        "for the number of candidates. Filled: the simulator's answer for the same "
        "settings trained on all patients, where this study holds such a run that was "
        "evaluated. Recorded doses: {}.",
        counted(result.patients, "recorded patient"),
        counted(result.horizon, "visit"),
        NBSP,
        result.behaviour,
    )
    for note in result.notes:
        write.caption("Note: {}", note)


def _lines(candidate: CandidateRow, estimator: str, look: Mark, run: study.Run | None) -> list[Line]:
    one = candidate.values[estimator]
    lines: list[Line] = [(candidate.name, look, False, one.estimate or f"not available, {one.refused}")]
    if run is not None and (known := truth(run, "recommended")) is not None:
        lines.append((f"{run.label}, simulator", look, True, known))
    return lines


def _row(candidate: CandidateRow, estimator: str, runs: tuple[study.Run, ...]) -> dict[str, str]:
    one, dash = candidate.values[estimator], "\N{EM DASH}"
    run = same_settings(candidate, runs) if candidate.agent else None
    known = truth(run, "recommended") if run is not None else None
    return {
        "candidate": candidate.name,
        "estimated return": minus(one.estimate) if one.estimate else f"not available: {one.refused}",
        "minus constant dose": minus(one.difference) if one.difference else dash,
        "verdict": one.verdict or dash,
        "simulator": minus(known) if known else "not evaluated here",
    }


def own_patients(runs: list[study.Run]) -> None:
    """Runs of this study valued on the patients they learned from, and what that rests on."""
    write.subheader("On the patients they learned from")
    rule = which_doses("rule")
    result: dict[int, Valued] = {}
    slow = []
    for index, run in enumerate(runs):
        try:
            weights = str(study.recommender(run).provenance["weights"])
            study.episodes(run)
        except UserError as error:
            page.problems([f"{run.label}: {error}"])
            continue
        try:
            valued = _valued(str(run.folder.path), weights, rule == "sampled", run)
        except UserError as error:
            write.info("**{} has no value here:** {}", run.label, error)
            continue
        if valued is None:
            slow.append(run)
        else:
            result[index] = valued
    if slow:
        write.nothing_yet(
            command(slow),
            "The doses of {} are generated, and valuing them all takes minutes. This command does, and on "
            "patients that they have not seen:",
            listed([run.label for run in slow]),
        )
    if not result:
        return
    st.warning(
        "**Too good.** These agents were trained on the very patients that value them here. Trust the "
        "cross-validated numbers instead, and the simulator most."
    )
    estimates(runs, result, rule)
    support(runs, result)


def estimates(runs: list[study.Run], result: dict[int, Valued], rule: str) -> None:
    """Every estimate there is beside the simulator's answer; then why there are no others."""
    lines: list[Line] = []
    for index, valued in result.items():
        run, look = runs[index], runs[index].mark
        lines.append((f"{run.label}, simulator", look, True, truth(run, rule) or NOT_EVALUATED))
        lines += estimated(run.label, look, valued.policy.values)
    first = next(iter(result.values()))
    constant = first.constant.values["fqe"].estimate
    if constant is not None:
        lines.append((f"{first.constant_name}, fitted Q evaluation", OTHER, False, constant))
    figure = panels_of_estimates([(RETURN, lines), (COST, costs(runs, result, rule))])
    page.draw(figure, "estimates", "Estimates beside the simulator's returns and costs")
    write.markdown("{}", bullets(reasons(runs, result)))
    described = "; ".join(f"{runs[index].label}: {v.policy.description}" for index, v in result.items())
    write.caption(
        "Filled: mean return and cost on new simulated patients. Open: estimates from the "
        "recorded visits alone. Lines: 95{}% intervals over patients or seeds; no cost is below 0, so no "
        "interval of one reaches below. What is valued: {}.",
        NBSP,
        described,
    )


def estimated(name: str, look: Mark, values: Mapping[Estimator, Valuation]) -> list[Line]:
    """The estimates of one agent that there are."""
    return [
        (f"{name}, {ESTIMATORS[kind]}", look, False, one.estimate)
        for kind, one in values.items()
        if one.estimate is not None
    ]


def reasons(runs: list[study.Run], result: dict[int, Valued]) -> list[Markdown]:
    """Why there is no estimate, each reason once, with whom it concerns."""
    told: dict[str, dict[str, list[str]]] = {}
    for index, valued in result.items():
        for kind, one in valued.policy.values.items():
            if one.refused:
                told.setdefault(one.refused, {}).setdefault(runs[index].label, []).append(ESTIMATORS[kind])
    return [
        sentence(
            "**Not available.** {}: {}.",
            "; ".join(f"{name}, {listed(kinds)}" for name, kinds in whose.items()),
            why.rstrip("."),
        )
        for why, whose in told.items()
    ]


def costs(runs: list[study.Run], result: dict[int, Valued], rule: str) -> list[Line]:
    """Estimated costs beside the simulator's."""
    lines: list[Line] = []
    for index, valued in result.items():
        run, look = runs[index], runs[index].mark
        known = truth(run, rule, "cost")
        told = NOT_EVALUATED if known is None else not_below_zero(known)
        lines.append((f"{run.label}, simulator", look, True, told))
        if valued.cost is None:
            lines.append((run.label, look, False, "not available, a visit has no cost"))
        else:
            lines += estimated(run.label, look, valued.cost.values)
    return lines


def support(runs: list[study.Run], result: dict[int, Valued]) -> None:
    """Effective sample size, and how many recorded doses a policy could never give."""
    write.subheader("What the weights rest on")
    lines = [(runs[i].label, runs[i].mark, v.sample) for i, v in result.items() if v.sample is not None]
    patients = next(iter(result.values())).patients
    if lines:
        figure = effective_sample(lines, patients)
        page.draw(figure, "sample", "Effective sample size of importance weights over the visits")
    words = []
    for index, valued in result.items():
        name, look = runs[index].label, runs[index].mark
        share_ = probability(valued.policy.unrecorded)
        words.append(
            sentence(
                "{} {}: near **{}** of its doses at recorded states no dose was recorded",
                look.sign,
                name,
                share_,
            )
        )
        if valued.refused:
            words.append(sentence("{} {}: no importance weights: {}", look.sign, name, valued.refused))
        elif valued.sample is not None:
            last = float(valued.sample[:, -1].mean())
            words.append(
                sentence(
                    "{} {}: **{:.1f}** of {} patients left at visit {}",
                    *(look.sign, name, last, patients, valued.sample.shape[1]),
                )
            )
        share = valued.outside
        if share is None:
            words.append(
                sentence(
                    "{} {}: no exact interval that a recorded dose could lie outside of", look.sign, name
                )
            )
        else:
            seeds = f"seeds {probability(float(share.min()))} to {probability(float(share.max()))}"
            tail = f" ({seeds})" if np.ptp(share) > 0 else ""
            words.append(
                sentence(
                    "{} {}: **{}** of the recorded doses lie outside its support, where its density is "
                    "exactly 0{}",
                    *(look.sign, name, probability(float(share.mean())), tail),
                )
            )
    write.markdown("{}", bullets(words))
    write.caption(
        "Importance weights are products of density ratios; the effective sample size is "
        "the square of their sum over the sum of their squares. Below {:g} patients "
        "there is no number. Strong lines: mean over seeds; open marks: next to none.",
        LEAST_SAMPLE,
    )


@st.fragment
def view(listing: study.Listing) -> None:
    """Cross-validated estimates first, then those of the study's runs."""
    chosen = selection()
    if chosen is not None:
        cross_validated(chosen, listing)
    if not listing.runs:
        if chosen is None:
            write.nothing_yet(
                command([]),
                "Nothing was estimated in {} yet. This command values agents by recorded visits alone:",
                code(study.study()),
            )
        return
    runs = chosen_runs(listing)
    if chosen is None:
        write.nothing_yet(
            command(runs),
            "No estimates on patients that the policies have not seen yet. This command makes them:",
        )
    own_patients(runs)


opened = page.open_page("Off-policy evaluation", needs_runs=False)
st.markdown(
    "A clinic has recorded visits and no simulator. These estimates use what a clinic has; the simulator's "
    "own answer stands beside them, to show how far they can be trusted."
)
view(opened)
