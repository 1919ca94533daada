"""What if: from one state on, doses chosen side by side, on the same simulated patients."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from app.analysis import onward
from app.analysis import what_if as analysis_what_if
from app.analysis.what_if import ALL, World
from app.charts import what_if
from app.readers import study
from app.text import Markdown, bullets, in_sentences, sentence
from app.theme import HIGHLIGHTS, Mark, counted, decimals, listed, minus, number, unit_words, with_unit
from app.widgets import onward_panel, page, write
from app.widgets.audit import beside, context_of, nothing_recorded, on_record, once
from app.widgets.state_picker import Asked, in_range, one_data_set, pick, question, source_of, words
from dosing.errors import UserError
from dosing.evaluation.rollout import REFERENCE_SEED
from dosing.evaluation.statistics import verdict
from simulator.cohorts.posterior import PosteriorPatients, Trajectories, difference

CONSTANT, PER_VISIT, FOLLOW = "constant dose", "dose per visit", "follow"
PATIENTS = (100, 300, 1000)


@dataclass(frozen=True)
class Choice:
    """Doses somebody could give, what came of them, and what a recommender answered on the way."""

    name: str
    mark: Mark
    episode: Trajectories
    statuses: dict[str, int] | None = None


def ask_choice(
    index: int,
    look: Mark,
    runs: dict[str, study.Run],
    world: World,
    asked: Asked,
    matched: PosteriorPatients,
) -> Choice | None:
    """One column of doses; None where it was not filled in or a run is damaged, which it says.

    Whoever follows a run has the run's mark, other doses have ``look``.
    """
    kinds = [CONSTANT, *(f"{FOLLOW} {label}" for label in runs), PER_VISIT]
    write.markdown("**Choice {}**", index + 1)
    start = min(index, len(kinds) - 1)
    kind = pick(st, "Doses", kinds, f"rule{index + 1}", start, label_visibility="collapsed")
    low, high = world.limits.low[0], world.limits.high[0]
    places = decimals(high - low)
    try:
        if kind == CONSTANT:
            in_range(st, f"dose{index + 1}", low, high)
            dose = st.slider(
                sentence("Dose at every visit ({})", unit_words(world.limits.unit)),
                low,
                high,
                0.5 * (low + high),
                step=(high - low) / 200,
                format=f"%.{places}f",
                key=f"dose{index + 1}",
                bind="query-params",
            )
            name = with_unit(number(dose, places), world.limits.unit)
            return Choice(f"dose {name} at every visit", look, analysis_what_if.give(world, matched, [dose]))
        if kind == PER_VISIT:
            typed = st.text_input(
                "Doses in order of the visits; the last one is kept",
                key=f"doses{index + 1}",
                bind="query-params",
                placeholder="0.6 0.4 0.3",
            )
            if not (doses := analysis_what_if.typed_doses(words(typed), world.limits)):
                st.info("Type one dose or more, separated by spaces.")
                return None
            return Choice(
                f"{counted(len(doses), 'typed dose')}", look, analysis_what_if.give(world, matched, doses)
            )
        run = runs[kind.removeprefix(f"{FOLLOW} ")]
        return followed(run, world, asked, matched)
    except UserError as error:
        page.problems([str(error)])
        return None


def followed(run: study.Run, world: World, asked: Asked, matched: PosteriorPatients) -> Choice | None:
    """What comes of giving what a run's recommender says; all of it on record before it is shown.

    Raises:
        UserError: the run is damaged, or its recommender refuses a dose on the way.
    """
    source = source_of(run)
    answers, records = on_record([source], asked.state, asked.visit, asked.earlier)
    if not answers:
        return None
    (answer,), (record,) = answers, records
    if answer.result.dose is None:
        write.error("**REFUSED: no dose.** {}", in_sentences(answer.result.reasons))
        return None
    if answer.result.status == "deferred":
        write.warning("**DEFERRED: not advice.** {}", in_sentences(answer.result.reasons))
    beside(context_of(answer, record))
    episode, about = analysis_what_if.follow(world, asked.state, matched, source.recommender)
    try:
        once("batch", about | {"provenance": source.recommender.provenance})
    except UserError as error:
        nothing_recorded(error)
        return None
    return Choice(run.label, run.mark, episode, about["statuses"])


def told(choice: Choice) -> Markdown:
    """Return and safety of one choice in words."""
    episode = choice.episode
    lines = [
        sentence("Mean return **{}**", minus(episode.mean_return)),
        sentence("Extreme doses per patient: {}", number(float(episode.cost.sum(-1).mean()), 2)),
    ]
    if episode.limited.any():
        share = number(100 * float(episode.limited.mean()), 1)
        lines.append(sentence("Held at a hard limit: {} % of the doses", share))
    if choice.statuses is not None:
        said = listed([f"{count:,} {status}" for status, count in choice.statuses.items() if count])
        lines.append(sentence("Answers of the recommender on the way: {}", said))
    return bullets(lines)


def compare(choices: list[Choice]) -> None:
    """What the further choices are worth more, or less, than the first."""
    base, *others = choices
    write.subheader("Difference from {}", base.name)
    result = [(c.name, c.mark, difference(c.episode, base.episode)) for c in others]
    page.draw(
        what_if.differences(base.name, result),
        "differences",
        f"Return of each choice minus that of {base.name}, with its 95 % interval",
    )
    lines = [
        sentence("{} **{}** minus {}: **{}**, {} ({})", m.sign, n, base.name, minus(e), verdict(e), e.basis)
        for n, m, e in result
    ]
    write.markdown("{}", bullets(lines))
    st.caption(
        "Mean difference in return, paired by patient with the same noise, and its 95 % interval: for "
        "patients who show this state, under the simulator's own dynamics."
    )


def about(world: World, matched: PosteriorPatients, asked: int) -> None:
    """Who is rolled forward, and where that stops being enough."""
    if matched.n < asked:
        write.warning(
            "**Few patients.** Only {} of {:,} simulated patients could show this state, so "
            "{} are followed instead of {}: it is a rare state here.",
            matched.n,
            matched.candidates,
            matched.n,
            asked,
        )
    else:
        write.caption(
            "{:,} of {:,} simulated patients could show this state at a first visit; {} of "
            "them are followed for {}.",
            matched.accepted,
            matched.candidates,
            matched.n,
            counted(world.visits, "visit"),
        )


@st.fragment
def view(listing: study.Listing) -> None:
    """State, choices and their episodes; a fragment, so that a slider redraws nothing else."""
    runs = one_data_set(listing)
    episodes, seed = None, REFERENCE_SEED
    try:
        episodes = study.episodes(runs[0])
        seed = seed if episodes.metadata.seed is None else episodes.metadata.seed
    except UserError as error:
        page.problems([f"the recorded patients: {error} Typed numbers still work."])
    try:
        world = World.of(runs[0], seed)
    except UserError as error:
        if episodes is not None and onward.names_a_range(episodes):
            onward_panel.panel(listing, runs, episodes, str(error))
        else:
            write.info("Nothing can be rolled forward here: {}", error)
        return
    state, row = question(episodes)
    if not state:
        write.info("Type {} numbers: {}.", len(world.names), listed(world.names))
        return
    left, middle, right = st.columns(3)
    count = left.segmented_control(
        "Choices side by side",
        list(range(1, HIGHLIGHTS + 1)),
        default=2,
        required=True,
        key="choices",
        bind="query-params",
    )
    patients = middle.segmented_control(
        "Matched patients", PATIENTS, default=PATIENTS[1], required=True, key="matched", bind="query-params"
    )
    shown = pick(right, "State shown", [*world.names, ALL], "shown")
    try:
        matched = analysis_what_if.match(world, state, patients)
    except UserError as error:
        write.error("**NOTHING ROLLED FORWARD.** {}", error)
        return
    about(world, matched, patients)
    asked = Asked([float(x) for x in state], episodes, row)
    named = {run.label: run for run in runs}
    wide = count if count <= 3 else 2
    columns = [column for _ in range(0, count, wide) for column in st.columns(wide)]
    choices = []
    for index, column in enumerate(columns):
        with column.container(border=True, height="stretch"):
            choices.append(ask_choice(index, listing.free_mark(index), named, world, asked, matched))
    places = [(c, choice) for c, choice in zip(columns, choices, strict=True) if choice is not None]
    made = [choice for _, choice in places]
    drawn = [analysis_what_if.strips(choice.episode, world, shown) for choice in made]
    ranges = [what_if.common_range(same) for same in zip(*drawn, strict=True)]
    for index, ((column, choice), strips) in enumerate(zip(places, drawn, strict=True)):
        with column:
            write.markdown("{} **{}**\n{}", choice.mark.sign, choice.name, told(choice))
            figure = what_if.episode(choice.name, choice.mark, strips, ranges)
            page.draw(figure, f"episode{index}", f"Bands of return, state and dose under {choice.name}")
    if not made:
        return
    _explain()
    if len(made) > 1:
        compare(made)


def _explain() -> None:
    """What the bands are of."""
    st.caption(
        "Line: median over patients; darker band: 25 to 75 %, lighter band: 10 to 90 %. Numbers at the "
        "right: at the last visit. Grey lines: hard limits of the dose. Every choice meets the same "
        "patients with the same noise. Matched: exact draws of who could have shown this state at a first "
        "visit; what happened before the chosen visit is not used. To follow an agent is to give what its "
        "recommender says, at every visit as at a first one, also where it defers."
    )


view(page.open_page("What if"))
