"""A recorded patient from a visit on under other doses, kept while it can be asked again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from app.analysis.course import Course, Range, course_from
from app.analysis.regimens import DOSE, RETURN, Strip
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.recommendation.records import Recommender
from dosing.recommendation.simulated import FollowRecommender
from dosing.types import Act, AnyArray, Array, Observations
from simulator.cohorts.replay import Onward, go_on


def as_recorded(episodes: Episodes, row: int) -> Onward:
    """The doses that were recorded from a visit on.

    Raises:
        UserError: the visits cannot be gone through again.
    """
    rows = np.flatnonzero(episodes.episode == episodes.episode[row])
    asked = episodes.act_requested[rows[rows >= row]].astype(np.float64)
    return _go_on(_key(episodes), row, "recorded", episodes, _one_after_another(asked))


def give(episodes: Episodes, row: int, doses: Sequence[float]) -> Onward:
    """Doses visit by visit, the last one from then on; raises as :func:`as_recorded`."""
    asked = np.asarray(doses, dtype=np.float64)[:, None]
    return _go_on(_key(episodes), row, str(list(doses)), episodes, _one_after_another(asked))


def follow(episodes: Episodes, row: int, recommender: Recommender) -> tuple[Onward, dict[str, Any]]:
    """What a recommender says, at every visit.

    Returns:
        What came of it, and the content of its record in the audit log, without its provenance.

    Raises:
        UserError: as :func:`as_recorded`; or the recommender refuses a dose on the way.
    """
    return _follow(_key(episodes), row, str(recommender.provenance), episodes, recommender)


def course_onward(episodes: Episodes, one: Onward) -> Course:
    """The course of what the scenario keeps in a range.

    Raises:
        UserError: its card names no such range.
    """
    result = course_from(
        episodes.metadata, one.seen, one.target, one.within, one.events, float(one.cost.sum()), one.ended
    )
    if result is None:
        raise UserError("the scenario's card names no target range of what is observed.")
    return result


def strips(meta: DatasetMetadata, course: Course, one: Onward) -> tuple[Strip, ...]:
    """What came of one regimen: the quantity kept in a range, events and return so far, the dose."""
    after, target = np.arange(1.0, len(one.reward) + 1), course.target

    def line(name: str, unit: str, values: AnyArray, **more: Any) -> Strip:
        return Strip(name, unit, after, np.asarray(values, dtype=np.float64)[None], None, **more)

    level = course.seen[1:] if course.true is None else course.true
    drawn = [line(target.name, target.unit, level, target=(target.low, target.high))]
    if course.events:
        happened = np.array([*course.events.values()]).sum(0)
        drawn.append(line("adverse events so far", "1", np.cumsum(happened), steps=True))
    drawn.append(line(RETURN, "1", np.cumsum(one.reward, dtype=np.float64)))
    for k in range(one.dose.shape[1]):
        name = DOSE if one.dose.shape[1] == 1 else f"{meta.dose_name} {k + 1}"
        ends = (float(meta.action_low[k]), float(meta.action_high[k]))
        drawn.append(line(name, meta.dose_unit, one.dose[:, k], limits=ends, steps=True))
    return tuple(drawn)


def names_a_range(episodes: Episodes) -> bool:
    """Whether the card of these visits names a target range."""
    return Range.of(episodes.metadata.card) is not None


def _key(episodes: Episodes) -> str:
    return episodes.metadata.content_hash or episodes.content_hash()


def _one_after_another(doses: Array) -> Act:
    """The rule that gives doses ``[K, A]`` in turn, and then the last one."""

    def act(obs: Observations, visit: int) -> Array:
        return np.broadcast_to(doses[min(visit, len(doses) - 1)], (*obs.shape[:2], doses.shape[1]))

    return act


@st.cache_resource(show_spinner="Going on from this visit", max_entries=32)
def _go_on(visits: str, row: int, doses: str, _episodes: Episodes, _act: Act) -> Onward:
    return go_on(_episodes, row, _act)


@st.cache_resource(show_spinner="Following the policy", max_entries=16)
def _follow(
    visits: str, row: int, policy: str, _episodes: Episodes, _recommender: Recommender
) -> tuple[Onward, dict[str, Any]]:
    rule = FollowRecommender(_recommender)
    result = go_on(_episodes, row, rule)
    return result, rule.about
