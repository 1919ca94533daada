"""What if, where nobody can be matched to a state: one recorded patient goes on under other doses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import streamlit as st

from app.analysis import onward
from app.analysis.course import Course
from app.analysis.what_if import typed_doses
from app.charts import episode
from app.charts.course import course, shown_range
from app.readers import study
from app.text import bullets, in_sentences, sentence
from app.theme import HIGHLIGHTS, Mark, counted, decimals, listed, number, unit_words, with_unit
from app.widgets import page, write
from app.widgets.audit import beside, context_of, nothing_recorded, on_record, once
from app.widgets.course_panel import told
from app.widgets.state_picker import Asked, in_range, pick, question, source_of, words
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.safety import DoseLimits
from simulator.cohorts.replay import Onward

RECORDED, CONSTANT, PER_VISIT, FOLLOW = "as recorded", "constant dose", "dose per visit", "follow"


@dataclass(frozen=True)
class Path:
    """Doses from a visit on, and what came of them."""

    name: str
    mark: Mark
    result: Onward
    statuses: Mapping[str, int] | None = None


def panel(listing: study.Listing, runs: list[study.Run], episodes: Episodes, why: str) -> None:
    """Ask for a recorded visit and for doses, and draw what comes of each.

    Args:
        listing: what the study holds.
        runs: agents that could be followed.
        episodes: recorded visits of a scenario whose card names a target range.
        why: nobody can be matched to a state.
    """
    write.info(
        "**One recorded patient goes on from a visit under doses you choose.** Not a cohort of patients like "
        "this one: {}",
        why,
    )
    state, row = question(episodes)
    if row is None:
        write.info("Choose a recorded visit: typed numbers are of no patient who could go on.")
        return
    asked = Asked(state, episodes, row)
    count = st.segmented_control(
        "Choices side by side",
        list(range(1, HIGHLIGHTS + 1)),
        default=2,
        required=True,
        key="choices",
        bind="query-params",
    )
    wide = count if count <= 3 else 2
    columns = [column for _ in range(0, count, wide) for column in st.columns(wide)]
    places = [column.container(border=True, height="stretch") for column in columns]
    made: list[tuple[int, Path, Course]] = []
    for index, place in enumerate(places):
        with place:
            path = _ask(index, listing.free_mark(index), runs, episodes, asked)
        if path is not None:
            made.append((index, path, onward.course_onward(episodes, path.result)))
    for index, path, one in made:
        with places[index]:
            _draw(path, one, episodes, row, f"onward{index}", shown_range([other for *_, other in made]))
    write.caption(
        "The patient and all noise are those of the record; what differs comes of the doses. One patient: no "
        "interval, and no proof of what is better for others. Limits of the scenario hold every dose here "
        "too; a cross: changed by a limit. Line: the true value. Shaded: target range. To follow an agent "
        "is to give what its recommender says, at every visit as at a first one, also where it defers."
    )


def _ask(index: int, look: Mark, runs: list[study.Run], episodes: Episodes, asked: Asked) -> Path | None:
    """One column of doses; None where it was not filled in or cannot be given, which it says."""
    by_name = {f"{FOLLOW} {run.label}": run for run in runs}
    kinds = [RECORDED, *by_name, CONSTANT, PER_VISIT]
    meta, row = episodes.metadata, asked.row
    assert row is not None, "a recorded visit"
    write.markdown("**Choice {}**", index + 1)
    kind = pick(
        st,
        "Doses",
        kinds,
        f"rule{index + 1}",
        min(index, len(kinds) - 1),
        label_visibility="collapsed",
    )
    try:
        if kind == RECORDED:
            return Path("doses as recorded", look, onward.as_recorded(episodes, row))
        if kind == CONSTANT:
            dose = _slider(index, meta.limits)
            name = with_unit(number(dose, decimals(meta.limits.high[0])), meta.dose_unit)
            return Path(f"{name} at every visit", look, onward.give(episodes, row, [dose]))
        if kind == PER_VISIT:
            typed = st.text_input(
                sentence(
                    "Doses in order of the visits ({}); the last one is kept", unit_words(meta.dose_unit)
                ),
                key=f"doses{index + 1}",
                bind="query-params",
            )
            if not (doses := typed_doses(words(typed), meta.limits)):
                st.info("Type one dose or more, separated by spaces.")
                return None
            return Path(counted(len(doses), "typed dose"), look, onward.give(episodes, row, doses))
        return _follow(by_name[kind], episodes, asked)
    except UserError as error:
        page.problems([str(error)])
        return None


def _slider(index: int, limits: DoseLimits) -> float:
    """One dose for every visit."""
    low, high = limits.low[0], limits.high[0]
    in_range(st, f"dose{index + 1}", low, high)
    return float(
        st.slider(
            sentence("Dose at every visit ({})", unit_words(limits.unit)),
            low,
            high,
            0.5 * (low + high),
            step=(high - low) / 200,
            format=f"%.{decimals(high - low)}f",
            key=f"dose{index + 1}",
            bind="query-params",
        )
    )


def _follow(run: study.Run, episodes: Episodes, asked: Asked) -> Path | None:
    """What comes of a run's recommender; all of it on record before it is shown.

    Raises:
        UserError: the run is damaged, or its recommender refuses a dose on the way.
    """
    source = source_of(run)
    answers, records = on_record([source], asked.state, asked.visit, asked.earlier)
    if not answers or asked.row is None:
        return None
    if answers[0].result.dose is None:
        write.error("**REFUSED: no dose.** {}", in_sentences(answers[0].result.reasons))
        return None
    if answers[0].result.status == "deferred":
        write.warning("**DEFERRED: not advice.** {}", in_sentences(answers[0].result.reasons))
    beside(context_of(answers[0], records[0]))
    result, about = onward.follow(episodes, asked.row, source.recommender)
    try:
        once("batch", about | {"provenance": source.recommender.provenance})
    except UserError as error:
        nothing_recorded(error)
        return None
    return Path(run.label, run.mark, result, about["statuses"])


def _draw(path: Path, one: Course, episodes: Episodes, row: int, key: str, ends: tuple[float, float]) -> None:
    """Words, course and doses of one choice; ``ends`` are those of the vertical axis of every course."""
    result, meta = path.result, episodes.metadata
    first = int(episodes.step[row]) + 1
    lines = [
        *told(one, first=first),
        sentence("Return from here on: **{}**", number(float(result.reward.sum()), 2)),
    ]
    if path.statuses is not None:
        said = listed([f"{count:,} {status}" for status, count in path.statuses.items() if count])
        lines.append(sentence("Answers of the recommender on the way: {}", said))
    write.markdown("{} **{}**\n{}", path.mark.sign, path.name, bullets(lines))
    visits = np.arange(len(result.reward)) + float(episodes.step[row]) + 1
    alt = f"{one.target.name} from visit {visits[0]:.0f} on under {path.name}, with its range and events"
    page.draw(course(visits, one, 0, ends), f"{key}_course", alt)
    for k in range(result.dose.shape[1]):
        figure = episode.doses(
            visits,
            result.dose[:, k],
            result.reward,
            result.limited > 0,
            (meta.action_low[k], meta.action_high[k]),
            0,
            name=meta.dose_name,
            unit=meta.dose_unit,
        )
        page.draw(figure, f"{key}_doses{k}", f"Doses from visit {visits[0]:.0f} on under {path.name}")
