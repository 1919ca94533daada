"""The visits agents learn from, recorded or simulated here: what is in them, one patient, files of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from app.analysis import data as analysis_data
from app.charts import data, episode
from app.readers import study
from app.text import bullets, sentence
from app.theme import counted, unit_words
from app.widgets import page, write
from app.widgets.course_panel import course_panel
from app.widgets.state_picker import in_range, one_data_set, pick
from dosing.data.store import Episodes
from dosing.errors import UserError
from simulator.engine.scenario import Choice

RECORDED, SIMULATED = "recorded", "simulated now"
UNIFORM, FIXED = "uniform", "constant"
LARGEST_SEED = 2**31 - 1
ROWS = 50  # visits in the table
OPTION = "option_"  # begins the key of a scenario's own option, which may be called like another widget
FORMATS = ((".parquet", "application/vnd.apache.parquet"), (".csv", "text/csv"))


@st.cache_resource(show_spinner="Simulating patients", max_entries=4)
def cohort(*request: Any) -> Episodes:
    """A simulated cohort, kept while it is on show."""
    return analysis_data.cohort(*request)


def recorded(listing: study.Listing) -> tuple[Episodes, str] | None:
    """The visits of one data set of the study and their name."""
    run = one_data_set(listing)[0]
    try:
        return study.episodes(run), run.config.data.name
    except UserError as error:
        page.problems([f"the recorded visits: {error}"])
        return None


def simulated() -> tuple[Episodes, str] | None:
    """A cohort as asked for, within the bounds of ``app.analysis.data``."""
    left, middle, right = st.columns(3)
    try:
        env_id = pick(left, "Environment", analysis_data.environments(), "env")
        offered = analysis_data.offered(env_id)
    except UserError as error:
        page.problems([str(error)])
        return None
    variant = pick(middle, "Variant", offered.variants, "variant") if offered.variants else ""
    options = chosen_options(offered.choices)
    most = analysis_data.most_patients(env_id, variant)
    in_range(left, "patients", 1, most)
    patients = left.number_input(
        sentence("Patients, 1 to {:,}", most), 1, most, min(100, most), key="patients", bind="query-params"
    )
    in_range(middle, "seed", 0, LARGEST_SEED)
    seed = middle.number_input(
        "Seed", 0, LARGEST_SEED, 0, key="seed", bind="query-params", help="Another one makes other patients."
    )
    kind = pick(right, "Doses by", (UNIFORM, FIXED, *offered.policies), "behaviour")
    policy = kind
    if kind == FIXED:
        limits = analysis_data.limits(env_id, variant)
        low, high = limits.low[0], limits.high[0]
        in_range(st, "given", low, high)
        dose = st.slider(
            sentence("Dose for everyone ({})", unit_words(limits.unit)),
            low,
            high,
            0.5 * (low + high),
            (high - low) / 200,
            key="given",
            bind="query-params",
        )
        policy = f"{FIXED}:{dose:g}"
    try:
        made = cohort(env_id, variant, int(patients), int(seed), policy, tuple(options.items()))
    except UserError as error:
        page.problems([str(error)])
        return None
    words = [env_id.split("/")[-1], variant, str(patients), policy.replace(":", "-"), f"seed{seed}"]
    return made, "-".join(filter(None, words))


def chosen_options(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """What is asked for of the scenario's own options that have a few values."""
    result = {}
    places = st.columns(max(len(choices), 3))
    for place, (name, choice) in zip(places, choices.items(), strict=False):
        by_words = {option_words(value): value for value in choice.values}
        result[name] = by_words[pick(place, choice.title, list(by_words), f"{OPTION}{name}")]
    return result


def option_words(value: Any) -> str:
    """A value of an option as it stands in a list."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def facts(episodes: Episodes) -> None:
    """How much there is, where it comes from, and its hash."""
    meta = episodes.metadata
    patients = len(np.unique(episodes.episode))
    held = float((episodes.limited_by > 0).mean())
    lines = [
        f"{counted(len(episodes), 'visit')} of {counted(patients, 'patient')}",
        f"Environment: {meta.env_id or 'none here'}, doses by {meta.policy or 'the file'}, "
        f"seed {'unknown' if meta.seed is None else meta.seed}",
        f"Mean return of a patient: {return_words(episodes, patients)}",
        f"Visits at which a limit held the dose: {100 * held:.1f} %",
    ]
    write.markdown("{}", bullets(lines))
    st.caption("Content hash (SHA-256 over all columns, the same for every file format):")
    st.code(meta.content_hash or "unknown", language=None)


def return_words(episodes: Episodes, patients: int) -> str:
    """Mean undiscounted return with its interval."""
    result = analysis_data.mean_return(episodes)
    if result is None:
        return f"{episodes.reward.sum() / patients:.2f} (one patient, no interval)"
    return f"{result} ({result.basis})".replace("-", "\N{MINUS SIGN}")


def distributions(episodes: Episodes) -> None:
    """Histograms of states, doses and rewards."""
    write.subheader("Distributions over the visits")
    drawn = analysis_data.quantities(episodes)
    page.draw(data.histograms(drawn), "histograms", "Histograms of states, doses given and rewards")
    more = episodes.obs.shape[1] - analysis_data.SHOWN
    left_out = (
        f" The first {analysis_data.SHOWN} observed entries; {more} more are in the file." if more > 0 else ""
    )
    write.caption(
        "Heights: share of the visits, each panel on its own scale. Dotted: hard limits.{}", left_out
    )


def table(episodes: Episodes) -> None:
    """The first visits."""
    write.subheader("First visits")
    shown = analysis_data.head(episodes, ROWS)
    st.dataframe(shown, hide_index=True, key="head", height=280, column_config=write.columns(shown))
    write.caption("{} of {:,} visits, three decimals.", len(shown), len(episodes))


def card(episodes: Episodes) -> None:
    """The scenario card and everything else the visits say about themselves."""
    write.subheader("Scenario card")
    result = episodes.metadata.card
    write.markdown("{}", result.get("title", "Recorded data without a scenario card."))
    with st.expander("All fields of the card"):
        write.record(dict(result))
    with st.expander("All other metadata of the visits"):
        write.record({k: v for k, v in episodes.metadata.to_json().items() if k != "card"})


def one_episode(episodes: Episodes) -> None:
    """One patient's observations, doses and rewards."""
    write.subheader("One patient")
    count = len(np.unique(episodes.episode))
    place = 1
    in_range(st, "place", 1, count)
    if count > 1:
        place = st.number_input(
            sentence("Patient, 1 to {:,} in the order of the visits", count),
            1,
            count,
            1,
            key="place",
            bind="query-params",
        )
    rows, meta = analysis_data.patient_rows(episodes, int(place)), episodes.metadata
    names = analysis_data.quantity_names(episodes)[: analysis_data.SHOWN]
    numbers, last = episodes.step[rows].astype(float) + 1, len(rows) - 1
    units = list(meta.obs_units or ("1",) * episodes.obs.shape[1])
    patient = int(episodes.episode[rows[0]])
    course_panel(episodes, rows, last, "one_course")
    left, right = st.columns(2)
    with left:
        figure = episode.observations(
            numbers, episodes.obs[rows][:, : len(names)], names, units[: len(names)], last
        )
        page.draw(figure, "episode_states", f"Observations of patient {patient} over the visits")
    with right:
        for k in range(episodes.act.shape[1]):
            figure = episode.doses(
                numbers,
                episodes.act[rows, k],
                episodes.reward[rows],
                episodes.limited_by[rows] > 0,
                (meta.action_low[k], meta.action_high[k]),
                last,
                name=meta.dose_name,
                unit=meta.dose_unit,
            )
            page.draw(figure, f"course_doses{k}", f"Doses given to patient {patient}, and rewards")
    write.caption(
        "Patient number {}. Numbers beside the strips: the last visit. A cross: changed by a limit.", patient
    )


def take_away(episodes: Episodes, name: str) -> None:
    """Files of all visits."""
    write.subheader("Take the visits away")
    with st.container(horizontal=True):
        for suffix, mime in FORMATS:
            st.download_button(
                sentence("Download {}", suffix[1:]),
                functools.partial(analysis_data.export, episodes, suffix),
                file_name=f"{name}{suffix}",
                mime=mime,
                key=f"download{suffix}",
                on_click="ignore",
            )
    st.caption(
        "All visits with their metadata; the sentence that they are not for patients is in the file too. "
        "`python -m dosing train --data FILE` learns from it."
    )


@st.fragment
def view(listing: study.Listing) -> None:
    """Everything about one set of visits; a fragment, so that a choice redraws nothing else."""
    source = st.segmented_control(
        "Visits", (RECORDED, SIMULATED), default=RECORDED, required=True, key="visits", bind="query-params"
    )
    result = recorded(listing) if source == RECORDED else simulated()
    if result is None:
        return
    episodes, name = result
    facts(episodes)
    distributions(episodes)
    table(episodes)
    one_episode(episodes)
    card(episodes)
    take_away(episodes, name)


view(page.open_page("Data and simulator"))
