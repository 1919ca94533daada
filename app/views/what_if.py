"""What if: from one state on, regimens chosen side by side, rolled forward on the same patients."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.analysis import belief, onward, regimens_page
from app.analysis import what_if as analysis_what_if
from app.analysis.course import Range
from app.analysis.recommendations import Answer
from app.analysis.regimens import ALL, Forward, Outcome, Tried, as_csv
from app.analysis.what_if import World
from app.charts import what_if
from app.readers import study
from app.text import Markdown, bullets, in_sentences, sentence
from app.theme import counted, listed, minus, number, with_unit
from app.widgets import page, regimens, write
from app.widgets.audit import beside, context_of, on_record
from app.widgets.course_panel import told
from app.widgets.state_picker import Asked, one_data_set, pick, question, sources
from dosing.agent import HoldsBelief
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.evaluation.rollout import REFERENCE_SEED
from dosing.evaluation.statistics import verdict
from dosing.recommendation.records import Recommender
from dosing.studies.baseline import Baseline
from simulator.cohorts.posterior import PosteriorPatients, Trajectories, difference
from simulator.cohorts.replay import Onward

PATIENTS = (100, 300, 1000)
LIKE, THIS, BELIEVED = "patients like this one", "this recorded patient", "forecast by {}"
TOGETHER, APART = "overlaid", "side by side"
FOLLOWED = (
    " To follow an agent is to give what its recommender says, at every visit as at a first one, also where "
    "it defers."
)


@st.cache_resource(show_spinner=False, max_entries=8)
def _baseline(visits: str, _episodes: Episodes) -> float | None:
    """The constant dose estimated from recorded visits; None where they tell none."""
    del visits
    try:
        return Baseline.of(_episodes).dose
    except UserError:
        return None


def constant_dose(runs: Sequence[study.Run], episodes: Episodes | None) -> float | None:
    """The constant dose that agents are compared with; None where none is estimated."""
    for run in runs:
        row = study.measured(run)
        if row is not None and row.baseline is not None:
            return row.baseline.dose
    if episodes is None:
        return None
    return _baseline(episodes.metadata.content_hash or episodes.content_hash(), episodes)


def worth(episode: Trajectories) -> tuple[Markdown, ...]:
    """Return and safety of one regimen in words."""
    lines = [
        sentence("Mean return **{}**", minus(episode.mean_return)),
        sentence("Extreme doses per patient: {}", number(float(episode.cost.sum(-1).mean()), 2)),
    ]
    if episode.limited.any():
        share = number(100 * float(episode.limited.mean()), 1)
        lines.append(sentence("Held at a hard limit: {} % of the doses", share))
    return tuple(lines)


def like_this(world: World, asked: Asked, card: Mapping[str, object]) -> Forward | None:
    """Simulated patients who could show the state; None, with a sentence, where there are none."""
    left, right = st.columns(2)
    wanted = left.segmented_control(
        "Matched patients", PATIENTS, default=PATIENTS[1], required=True, key="matched", bind="query-params"
    )
    shown = pick(right, "State shown", [*world.names, ALL], "shown")
    try:
        matched = analysis_what_if.match(world, asked.state, wanted)
    except UserError as error:
        write.error("**NOTHING ROLLED FORWARD.** {}", error)
        return None
    about(world, matched, wanted)
    target = Range.of(card)

    def outcome(episode: Trajectories) -> Outcome:
        return Outcome(analysis_what_if.strips(episode, world, shown, target), worth(episode), episode)

    def follow(recommender: Recommender) -> tuple[Outcome, dict[str, Any]]:
        episode, record = analysis_what_if.follow(world, asked.state, matched, recommender)
        return outcome(episode), record

    return Forward(
        world.limits,
        lambda doses: outcome(analysis_what_if.give(world, matched, doses)),
        follow,
        explained="Line: median over patients; ribbon: 10 to 90 %; the stronger one within, of a "
        "regimen alone: 25 to 75 %. Grey lines: hard limits of the dose. Every regimen meets the same "
        "patients with the same noise. Matched: exact draws of who could have shown this state at a first "
        "visit; what happened before the chosen visit is not used." + FOLLOWED,
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


def this_one(episodes: Episodes, row: int) -> Forward:
    """The recorded patient goes on from the visit."""
    meta = episodes.metadata
    first = int(episodes.step[row]) + 1

    def outcome(result: Onward) -> Outcome:
        course = onward.course_onward(episodes, result)
        earned = sentence("Return from here on: **{}**", number(float(result.reward.sum()), 2))
        lines = (*told(course, first=first), earned)
        return Outcome(onward.strips(meta, course, result), lines)

    def follow(recommender: Recommender) -> tuple[Outcome, dict[str, Any]]:
        result, record = onward.follow(episodes, row, recommender)
        return outcome(result), record

    return Forward(
        meta.limits,
        lambda doses: outcome(onward.give(episodes, row, doses)),
        follow,
        {"as recorded": lambda: outcome(onward.as_recorded(episodes, row))},
        "The patient and all noise are those of the record; what differs comes of the doses. One patient: no "
        "interval, and no proof of what is better for others. Limits of the scenario hold every dose here "
        "too. Line: the true value. Shaded: target range." + FOLLOWED,
    )


def forecast(answer: Answer, card: Mapping[str, object]) -> Forward:
    """What an agent that holds a belief forecasts after the recorded visits."""
    source, target = answer.source, Range.of(card)
    names = source.obs_names
    shown = pick(st, "State shown", [*names, ALL], "shown")
    states = names if shown == ALL else (shown,)
    proposed = answer.result.dose

    def outcome(doses: Sequence[float]) -> Outcome:
        strips = belief.foreseen(answer, doses, states, target)
        last = [
            sentence(
                "{} at visit {:.0f} from here: **{}** ({} to {})",
                strip.name,
                float(strip.visits[-1]),
                *(number(float(strip.bands[k, -1]), 2) for k in (1, 0, 2)),
            )
            for strip in strips[:-1]
        ]
        return Outcome(strips, tuple(last))

    named = {"recommended dose, held": lambda: outcome(proposed)} if proposed else {}
    return Forward(
        source.limits,
        outcome,
        None,
        named,
        f"Forecasts of {source.name} from what it believes after the visits so far: line, mean; ribbon, 90 % "
        "interval of what will be seen, noise of the observation included. Grey lines: hard limits of the "
        "dose. The policy itself decides anew at every visit. Forecasts of a model, no promise: its quality "
        "stands on the Patient page.",
    )


def believed(run: study.Run, asked: Asked, card: Mapping[str, object]) -> Forward | None:
    """The forecast of one run, on record first; None, with a sentence, where there is none."""
    if not (loaded := sources([run])):
        return None
    answers, records = on_record(loaded, asked.state, asked.visit, asked.earlier)
    if not answers:
        return None
    result = answers[0].result
    if result.dose is None:
        write.error("**REFUSED: nothing is forecast.** {}", in_sentences(result.reasons))
        return None
    if result.status == "deferred":
        write.warning("**DEFERRED: not advice.** {}", in_sentences(result.reasons))
    beside(context_of(answers[0], records[0]))
    quality = belief.quality(answers[0])
    if quality is None or not quality.used:
        why = in_sentences(dict.fromkeys(quality.refused)) if quality else ""
        write.info("Nothing is forecast: the model of {} is refused. {}", run.label, why)
        return None
    return forecast(answers[0], card)


def believing(runs: Sequence[study.Run]) -> list[study.Run]:
    """Runs whose agent holds a belief; none of them is loaded for that."""
    return [run for run in runs if hasattr(run.entry.agent_class(), HoldsBelief.belief_after.__name__)]


def compare(tried: Sequence[tuple[Tried, Trajectories]]) -> None:
    """What the further regimens are worth more, or less, than the first."""
    (base, under), *others = tried
    write.subheader("Difference from {}", base.name)
    result = [(c.name, c.mark, difference(patients, under)) for c, patients in others]
    page.draw(
        what_if.differences(base.name, result),
        "differences",
        f"Return of each regimen minus that of {base.name}, with its 95 % interval",
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


def show(tried: Sequence[Tried]) -> None:
    """Every regimen in one picture, or each in its own, with what came of it in words."""
    how = st.segmented_control(
        "Regimens", (TOGETHER, APART), default=TOGETHER, required=True, key="drawn", bind="query-params"
    )
    strips = [one.outcome.strips for one in tried]
    ranges = [what_if.common_range(same) for same in zip(*strips, strict=True)]
    if how == TOGETHER:
        figure = what_if.regimens([(one.name, one.mark, one.outcome.strips) for one in tried], ranges)
        page.draw(figure, "regimens", f"Courses under {listed([one.name for one in tried])}, overlaid")
    wide = len(tried) if len(tried) <= 3 else 2
    columns = [column for _ in range(0, len(tried), wide) for column in st.columns(wide)]
    for index, (column, one) in enumerate(zip(columns, tried, strict=False)):
        with column:
            write.markdown("{} **{}**\n{}", one.mark.sign, one.name, bullets(in_words(one)))
            if how == APART:
                figure = what_if.regimens([(one.name, one.mark, one.outcome.strips)], ranges)
                page.draw(figure, f"episode{index}", f"Bands of every quantity under {one.name}")


def in_words(one: Tried) -> list[Markdown]:
    """What came of a regimen, and what a recommender answered on the way."""
    lines = list(one.outcome.lines)
    if one.statuses is not None:
        said = listed([f"{count:,} {status}" for status, count in one.statuses.items() if count])
        lines.append(sentence("Answers of the recommender on the way: {}", said))
    return lines


def take_away(tried: Sequence[Tried], question_: str, explained: str) -> None:
    """The regimens as numbers and as a page to print."""
    with st.container(horizontal=True):
        st.download_button(
            "Download CSV",
            functools.partial(as_csv, tried, question_),
            file_name="what-if-not-for-patients.csv",
            mime="text/csv",
            on_click="ignore",
            key="take_csv",
        )
        st.download_button(
            "Printable page (HTML)",
            functools.partial(
                regimens_page.as_html, tried, [in_words(one) for one in tried], question_, explained
            ),
            file_name="what-if-not-for-patients.html",
            mime="text/html",
            on_click="ignore",
            key="take_html",
        )


def ways(runs: list[study.Run], episodes: Episodes | None, row: int | None) -> tuple[dict[str, object], str]:
    """Who could go on from here: a world to match in, recorded visits, runs; and why nobody else could."""
    seed = REFERENCE_SEED
    if episodes is not None and episodes.metadata.seed is not None:
        seed = episodes.metadata.seed
    offered: dict[str, object] = {}
    why = ""
    try:
        offered[LIKE] = World.of(runs[0], seed)
    except UserError as error:
        why = str(error)
    if episodes is not None and onward.names_a_range(episodes):
        if row is None:
            why = "Choose a recorded visit: typed numbers are of no patient who could go on."
        else:
            offered[THIS] = episodes
    if row is not None or offered:
        offered |= {BELIEVED.format(run.label): run for run in believing(runs)}
    return offered, why


@st.fragment
def view(listing: study.Listing) -> None:
    """State, regimens and what came of them; a fragment, so that a slider redraws nothing else."""
    runs = one_data_set(listing)
    episodes = None
    try:
        episodes = study.episodes(runs[0])
    except UserError as error:
        page.problems([f"the recorded patients: {error} Typed numbers still work."])
    state, row = question(episodes)
    if not state:
        write.info("Type {} numbers: {}.", runs[0].config.problem.n_obs, listed(runs[0].config.obs_names))
        return
    offered, why = ways(runs, episodes, row)
    if not offered:
        write.info("Nothing can be rolled forward here: {}", why)
        return
    chosen = next(iter(offered))
    if len(offered) > 1:
        chosen = pick(st, "Who goes on from here", list(offered), "from")
    asked = Asked(state, episodes, row)
    card = episodes.metadata.card if episodes is not None else {}
    way = offered[chosen]
    if isinstance(way, World):
        forward = like_this(way, asked, card)
    elif isinstance(way, Episodes):
        assert row is not None, "a recorded visit"
        write.info("**One recorded patient goes on.** Not a cohort of patients like this one: {}", why)
        forward = this_one(way, row)
    else:
        assert isinstance(way, study.Run), "a run that holds a belief"
        forward = believed(way, asked, card)
    if forward is None:
        return
    start = constant_dose(runs, episodes)
    tried = regimens.choose(forward, listing, runs, asked, start)
    told_of_start(start, forward)
    if not tried:
        return
    show(tried)
    write.caption("{}", forward.explained)
    paired = [(one, one.outcome.patients) for one in tried if one.outcome.patients is not None]
    if len(paired) > 1:
        compare(paired)
    where = "typed numbers" if asked.visit is None else "recorded patient {}, visit {}".format(*asked.visit)
    take_away(tried, f"{chosen}, from {where} on", forward.explained)


def told_of_start(start: float | None, forward: Forward) -> None:
    """Where the sliders begin."""
    if start is None:
        st.caption("Sliders begin in the middle of the limits: these visits tell no constant dose.")
    else:
        dose = with_unit(number(start), forward.limits.unit)
        write.caption("Sliders begin at the constant dose estimated from the recorded visits, {}.", dose)


view(page.open_page("What if"))
