"""Live treatment: what policies became while they treated patients, and what the patients went through."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import streamlit as st

from agents import finetuning
from app.charts.live_treatment import LearningCurve, over_visits
from app.readers import live_treatment
from app.readers import study as readers_study
from app.readers.live_treatment import TrialSummary
from app.text import bullets, code
from app.theme import HIGHLIGHTS, OTHER, Mark, counted, listed, mark, minus
from app.widgets import page, write
from app.widgets.state_picker import pick, some_of
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.studies.finetune_table import Progress, below

DASH = "\N{EM DASH}"
TALL = 420  # height of the plotting area of the first picture, in pixels
WORDS = (
    "Agents that learned from records go on learning from the patients they treat. All methods here started "
    "from the same recorded visits, and were evaluated on the same further patients, whom nobody learns from."
)


def command(listing: readers_study.Listing) -> str:
    """The command that would fill this page: from a run there is, or from one that it makes first."""
    runs = sorted(listing.runs, key=lambda run: run.config.agent != finetuning.STARTS_FROM)
    if runs:
        return shlex.join(["python", "-m", "dosing", "finetune", "all", "--run", str(runs[0].folder.path)])
    study = readers_study.study()
    folder = shlex.quote(str(study))
    return (
        f"python -m dosing demo --no-serve --out {folder}\n"
        f"python -m dosing finetune all --run {folder}/{finetuning.STARTS_FROM}/*/*"
    )


def chosen(rivals: Sequence[TrialSummary]) -> list[tuple[TrialSummary, Mark]]:
    """Every method with its look: at most as many in colour as colours can name, the rest grey."""
    labels = [rival.label for rival in rivals]
    named = labels
    if len(labels) > HIGHLIGHTS:
        asked = st.query_params.get_all("methods")
        wanted = [label for label in labels if label in asked][:HIGHLIGHTS] or labels[:HIGHLIGHTS]
        named = some_of("Methods in colour", labels, "methods", wanted)
    return [(r, mark(place) if r.label in named else OTHER) for place, r in enumerate(rivals)]


def state_of(rival: TrialSummary) -> str:
    """How far a trial is, in words."""
    trial, progress = rival.trial, rival.trial.progress
    made = int(progress.visits[-1]) if progress else 0
    if not trial.finished:
        return f"not finished: {made:,} of {trial.visits:,} visits"
    if len(trial.stops) and len(trial.stops) == len(progress.seeds if progress else ()):
        return f"ended early: every seed stopped by the harm rule, the last after {made:,} visits"
    return f"finished: {made:,} visits"


def partial(rivals: Sequence[TrialSummary]) -> None:
    """Say which trials are under way or ended early, and why seeds stopped."""
    if running := [rival for rival in rivals if not rival.trial.finished]:
        write.info(
            "Not finished, shown as far as their last checkpoint; the `finetune` command that started a "
            "trial continues it:\n\n{}",
            bullets(f"{rival.label}, {state_of(rival)}" for rival in running),
        )
    stops = [f"{rival.label}: {stop['why']}." for rival in rivals for stop in rival.trial.stops]
    if stops:
        write.warning(
            "**Stopped by the harm rule.** These seeds' agents stay as they were at that visit:\n\n{}",
            bullets(stops),
        )


def starts_of(looks: Sequence[tuple[TrialSummary, Mark]]) -> list[tuple[str, Estimate]]:
    """Return of the offline policies that the methods in colour started from."""
    result = {}
    for rival, look in looks:
        if rival.start is not None and look != OTHER and len(rival.start) > 1:
            name = f"offline {rival.trial.agent}"
            result[rival.trial.offline] = (name, mean_over_seeds(rival.start.to_numpy()[:, None]))
    return list(result.values())


def curves_of(looks: Sequence[tuple[TrialSummary, Mark]], measure: str) -> list[LearningCurve]:
    """One line per trial that has some value of the measure."""
    result = []
    for rival, look in looks:
        progress = rival.trial.progress
        if progress is None:
            continue
        visits, band = progress.along(getattr(progress, measure))
        if band:
            name = rival.label if rival.trial.finished else f"{rival.label} (so far)"
            result.append(LearningCurve(name, look, visits, band))
    return result


def learning(looks: Sequence[tuple[TrialSummary, Mark]], last: int, seeds: int) -> None:
    """All learning curves in one picture."""
    write.subheader("Return of the recommended dose along live treatment")
    starts = starts_of(looks)
    curves = curves_of(looks, "returns")
    figure = over_visits(curves, "mean return per patient (no unit)", last, starts, least=TALL)
    page.draw(figure, "learning", f"Mean return of {listed([c.name for c in curves])} over the visits")
    reference = (
        "Dotted line and grey band: the offline policy, as it was at the start, with its 95 % interval over "
        "seeds. "
        if starts
        else "What the offline policy gets on these patients is not recorded yet: the `finetune` command "
        "does so when its trials are done. "
    )
    bands = (
        f"Bands: 95 % over {counted(seeds, 'training seed')}, at all evaluations of a method at once, for "
        "methods in colour; they are cut at the frame. "
        if seeds > 1
        else "One seed: no bands. "
    )
    write.caption(
        "Evaluation patients get the recommended dose; nobody learns from them. {}{}A "
        "seed that the harm rule stopped keeps the return at which it stopped.",
        reference,
        bands,
    )


def treatment(looks: Sequence[tuple[TrialSummary, Mark]], last: int) -> None:
    """What the treated patients went through, while the agents learned from them."""
    write.subheader("What the treated patients went through")
    panels = (
        ("treated", "mean return per treated patient (no unit)"),
        ("cost", "cost of all treated so far (events per seed)"),
    )
    for column, (measure, title) in zip(st.columns(2), panels, strict=True):
        with column:
            if curves := curves_of(looks, measure):
                page.draw(over_visits(curves, title, last), measure, f"{title} over the visits")
            else:
                write.info("No episode of treatment has ended yet: no {}.", title.partition(" (")[0])
    st.caption(
        "Left: patients whose episodes ended since the evaluation before, treated by doses that the agent "
        "tried out. Right: their safety events, of all patients of a seed together; the scenario card on the "
        "Data page names the events, which are never part of the reward. Bands as above."
    )


def as_frame(rivals: Sequence[TrialSummary]) -> pd.DataFrame:
    """One line per trial, in words; a dash where nothing is known yet."""
    return pd.DataFrame([_line(rival) for rival in rivals])


def _line(rival: TrialSummary) -> dict[str, str]:
    progress = rival.trial.progress
    line = {"method": rival.label, "trial": state_of(rival)}
    if progress is None:
        return line
    band, low = progress.band, progress.lowest
    worst = progress.worst[np.isfinite(progress.worst)]
    stops = [f"seed {stop['seed']} after {stop['visits']:,} visits" for stop in rival.trial.stops]
    return line | {
        "seeds": str(len(progress.seeds)),
        "return at start": minus(format(band[0], ".2f")),
        "lowest on the curve": f"{minus(format(band[low], '.2f'))} at {progress.visits[low]:,} visits",
        "return at end": minus(format(band[-1], ".2f")),
        "found below the offline policy": _fall(rival, progress),
        "treated patients' return": _words(progress, progress.treated_mean, ".2f"),
        "cost so far (events per seed)": _words(progress, progress.cost[:, -1], ",.0f"),
        "patients per seed": f"{int(progress.patients.min()):,}"
        + (f" to {int(progress.patients.max()):,}" if np.ptp(progress.patients) else ""),
        "worst patient's return": minus(f"{worst.min():.1f}") if len(worst) else DASH,
        "doses held at a limit": _words(progress, progress.limited, ".1%"),
        "dose range covered": DASH
        if progress.coverage is None
        else _words(progress, progress.coverage[:, -1], ".0%"),
        "stopped by the harm rule": listed(stops)
        or ("none" if rival.trial.finished else "not known before the end"),
    }


def _words(progress: Progress, values: npt.NDArray[np.float64], spec: str) -> str:
    """One number per seed as mean and interval, to so many digits; a dash where a seed has none."""
    result = progress.over_seeds(values)
    return DASH if result is None else minus(format(result, f"z{spec}"))


def _fall(rival: TrialSummary, progress: Progress) -> str:
    """Whether the whole interval of the difference from the offline policy lies below 0 somewhere."""
    if rival.start is None:
        return DASH
    difference = progress.less(rival.start)
    if len(progress.seeds) < 2 or not (under := below(difference)):
        return "one seed: not known" if len(progress.seeds) < 2 else "no"
    most = min(under, key=lambda t: difference[t].value)
    return f"yes: by {minus(format(difference[most], '.2f'))} at {progress.visits[most]:,} visits"


@st.fragment
def view(groups: Sequence[live_treatment.MethodCurve]) -> None:
    """The pictures and the table of one group; a fragment, so that a choice redraws nothing else."""
    group = groups[0]
    if len(groups) > 1:
        labels = [one.label for one in groups]
        group = groups[labels.index(pick(st, "Trials", labels, "trials"))]
    rivals = group.rivals
    write.caption("{}. {}.", group.label, counted(len(rivals), "trial"))
    partial(rivals)
    looks = chosen(rivals)
    begun = [rival.trial for rival in rivals if rival.trial.progress is not None]
    if not begun:
        st.info(
            "No trial has reached its first checkpoint yet: there is nothing to draw. Open the page again."
        )
    else:
        last = max(max(t.visits, int(t.progress.visits[-1])) for t in begun if t.progress)
        learning(looks, last, max(len(t.progress.seeds) for t in begun if t.progress))
        treatment(looks, last)
    write.subheader("Every method")
    write.table(as_frame(rivals).fillna(DASH))
    st.caption(
        "Returns have no unit; a return is the sum of a patient's rewards. In brackets: 95 % intervals, "
        "Student-t over seeds. Those at start, lowest point and end hold at all evaluations of a method at "
        "once, so that the lowest may be picked after looking; so do those behind *found below the offline "
        "policy*, paired by seed on the same patients. They are not corrected for the number of methods. "
        "Dose range covered: how evenly the doses given spread over the allowed range, 100 % if evenly."
    )


opened = page.open_page("Live treatment", needs_runs=False)
write.markdown(WORDS)
result, unreadable = live_treatment.groups()
page.problems(unreadable)
if result:
    view(result)
else:
    write.nothing_yet(
        command(opened),
        "There is no trial in {} yet. This goes on from a finished run by every method that can:",
        code(readers_study.study()),
    )
