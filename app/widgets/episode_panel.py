"""The visits of one patient so far, drawn beside the recommendation."""

from __future__ import annotations

import numpy as np
import streamlit as st

from app.analysis.recommendations import Source
from app.charts import episode
from app.widgets import page, write
from app.widgets.course_panel import course_panel
from dosing.data.store import Episodes


def episode_panel(episodes: Episodes, row: int, source: Source) -> None:
    """The recorded episode of the patient: observations, doses given, rewards."""
    rows = np.flatnonzero(episodes.episode == episodes.episode[row])
    meta, current = episodes.metadata, int(row - rows[0])
    visits = episodes.step[rows].astype(float) + 1
    width = episodes.obs.shape[1]
    names = list(meta.obs_names) or [f"s{i + 1}" for i in range(width)]
    patient = int(episodes.episode[row])
    write.subheader("Episode of patient {}", patient)
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
    write.caption(
        "Recorded visits; doses by the behaviour policy {!r}, not by an agent. Dotted "
        "line: the visit on show; the numbers beside the strips are its observations. A "
        "cross: changed by a limit.",
        meta.policy or "of the file",
    )
