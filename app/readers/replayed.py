"""Recorded courses gone through again in their simulator, kept by the hash of the visits."""

from __future__ import annotations

import streamlit as st

from dosing.data.store import Episodes
from dosing.errors import UserError
from simulator.cohorts.replay import Replayed, block_of, replay


def replayed(episodes: Episodes, patient: int) -> Replayed:
    """What the record of a patient does not hold; see ``simulator.cohorts.replay``.

    Raises:
        UserError: no simulator here made these visits, or they come out otherwise than they were recorded.
    """
    visits = episodes.metadata.content_hash or episodes.content_hash()
    result = _replay(visits, block_of(patient), episodes, patient).get(patient)
    if result is None:
        raise UserError("gone through again, these visits come out otherwise than they were recorded.")
    return result


@st.cache_resource(show_spinner="Going through the recorded visits again", max_entries=8)
def _replay(visits: str, block: int, _episodes: Episodes, _patient: int) -> dict[int, Replayed]:
    return replay(_episodes, _patient)
