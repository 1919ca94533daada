"""The visits of one patient so far, drawn beside the recommendation."""

from __future__ import annotations

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from app.analysis.course import course_of
from app.analysis.patients import PatientTable
from app.analysis.recommendations import Source
from app.charts import episode
from app.text import joined, sentence
from app.theme import number, with_unit
from app.widgets import page, write
from app.widgets.course_panel import course_panel
from app.widgets.state_picker import Asked
from dosing.data.store import Episodes


def history(asked: Asked, source: Source) -> None:
    """What happened to a recorded patient up to the visit on show, at a glance."""
    if asked.episodes is None or asked.row is None:
        return
    episodes, row = asked.episodes, asked.row
    rows = np.flatnonzero(episodes.episode == episodes.episode[row])
    current, meta = int(row - rows[0]), episodes.metadata
    visits = episodes.step[rows].astype(float) + 1
    one = course_of(episodes, rows, None)
    kept = None
    if one is not None:
        target = one.target
        kept = episode.Kept(target.name, target.unit, target.low, target.high, one.seen[:-1])
    for dimension in range(source.limits.n_act):
        figure = episode.so_far(
            visits,
            episodes.act[rows, dimension],
            (source.limits.low[dimension], source.limits.high[dimension]),
            current,
            kept if dimension == 0 else None,
            name=meta.dose_name,
            unit=source.limits.unit,
        )
        page.draw(figure, f"so_far{dimension}", "What happened so far: the doses given before this visit")


def who(asked: Asked, source: Source) -> None:
    """What is seen of the patient at this visit, in one line."""
    if asked.episodes is None or asked.row is None:
        return
    values = asked.episodes.obs[asked.row].tolist()
    entries = source.recommender.rules.entries
    names = [entry.name for entry in entries] or [f"s{k + 1}" for k in range(len(values))]
    units = [entry.unit for entry in entries] or ["1"] * len(values)
    told = [
        sentence("{} **{}**", name, with_unit(number(value, 2), unit))
        for name, unit, value in zip(names, units, values, strict=True)
    ]
    patient = int(asked.episodes.episode[asked.row])
    where = PatientTable.of(asked.episodes).at_visit(int(asked.episodes.step[asked.row]) + 1)[patient]
    write.markdown("Patient {}, {}. Seen: {}", patient, where, joined(", ", told))


def episode_panel(episodes: Episodes, row: int, source: Source) -> None:
    """The recorded episode of the patient: observations, doses given, rewards."""
    rows = np.flatnonzero(episodes.episode == episodes.episode[row])
    patient, current = int(episodes.episode[row]), int(row - rows[0])
    with page.fold(sentence("Episode of patient {}", patient), "episode_fold") as is_open:
        if is_open:
            _drawn(episodes, rows, current, source)


def _drawn(episodes: Episodes, rows: NDArray[np.intp], current: int, source: Source) -> None:
    """Its course in pictures, and in words what is recorded."""
    meta, patient = episodes.metadata, int(episodes.episode[rows[0]])
    visits = episodes.step[rows].astype(float) + 1
    width = episodes.obs.shape[1]
    names = list(meta.obs_names) or [f"s{i + 1}" for i in range(width)]
    course_panel(episodes, rows, current, "course")
    left, right = st.columns(2)
    with left:
        figure = episode.observations(
            visits, episodes.obs[rows], names, list(meta.obs_units) or ["1"] * width, current
        )
        page.draw(figure, "observations", f"Observations of patient {patient} over the visits")
    with right:
        for dimension in range(source.limits.n_act):
            figure = episode.doses(
                visits,
                episodes.act[rows, dimension],
                episodes.reward[rows],
                episodes.limited_by[rows] > 0,
                (source.limits.low[dimension], source.limits.high[dimension]),
                current,
                name=meta.dose_name,
                unit=source.limits.unit,
            )
            page.draw(figure, f"doses{dimension}", f"Doses given to patient {patient}, and rewards")
    write.explain(
        "Recorded visits; doses by the behaviour policy {!r}, not by an agent. Dotted "
        "line: the visit on show; the numbers beside the strips are its observations. A "
        "cross: changed by a limit.",
        meta.policy or "of the file",
    )
