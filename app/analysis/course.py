"""The course of the quantity that a scenario's clinicians keep in a range: values, time in range, events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes
from dosing.types import AnyArray, Array
from simulator.cohorts.replay import Replayed
from simulator.engine.scenario import Flags


@dataclass(frozen=True)
class Range:
    """The range in which a quantity is to be kept, as the scenario's card states it.

    Attributes:
        name: of the quantity, as in the observations.
        unit: of the quantity.
        low: lower end, within the range.
        high: upper end, within the range.
        basis: where the range comes from.
    """

    name: str
    unit: str
    low: float
    high: float
    basis: str

    @classmethod
    def of(cls, card: Mapping[str, object]) -> Range | None:
        """Read ``target`` of a scenario card; None where it states none, or none that can be drawn."""
        told = card.get("target")
        if not isinstance(told, Mapping):
            return None
        try:
            low, high = float(told["low"]), float(told["high"])
            name, unit = str(told["name"]), str(told.get("unit", "1"))
        except (KeyError, TypeError, ValueError):
            return None
        return cls(name, unit, low, high, str(told.get("basis", "")))

    def ends_of(self, name: str) -> tuple[float, float] | None:
        """Both ends, where the range is of the quantity with this name."""
        return (self.low, self.high) if name == self.name else None


@dataclass(frozen=True)
class TimeInRange:
    """How many of ``visits`` values lie in, below and above a range; its ends belong to it."""

    within: int
    below: int
    above: int

    @classmethod
    def of(cls, values: Array, low: float, high: float) -> TimeInRange:
        """Count finite values."""
        known = values[np.isfinite(values)]
        below, above = int((known < low).sum()), int((known > high).sum())
        return cls(len(known) - below - above, below, above)

    @property
    def visits(self) -> int:
        """Number of values."""
        return self.within + self.below + self.above


@dataclass(frozen=True)
class Course:
    """One patient's T visits with what came of each.

    Attributes:
        target: the range.
        seen: the observed quantity ``[T + 1]`` at each visit, and after the last one.
        true: the true quantity ``[T]`` after each visit; None where nobody can say.
        within: the true quantity within each visit ``[T, M]`` at M times of equal distance, the last at the
            end of the visit; None likewise, or where it is told at the ends alone.
        events: each event of the card, whether it happened at each visit ``[T]``; empty likewise.
        definitions: of the events, by name.
        interval: time between two visits, in words.
        cost: safety cost of all visits.
        budget: cost of an episode that is thought acceptable; None where nobody says.
        ended: whether the episode ended before its time.
    """

    target: Range
    seen: Array
    true: Array | None
    within: Array | None
    events: Mapping[str, Flags]
    definitions: Mapping[str, str]
    interval: str
    cost: float
    budget: float | None
    ended: bool

    @property
    def judged(self) -> TimeInRange:
        """Time in range of the true quantity, where it is known, else of what was observed."""
        values = self.seen[1:] if self.true is None else self.true
        return TimeInRange.of(values, self.target.low, self.target.high)

    @property
    def counts(self) -> dict[str, int]:
        """At how many visits each event happened."""
        return {name: int(flags.sum()) for name, flags in self.events.items()}


def course_of(episodes: Episodes, rows: AnyArray, replayed: Replayed | None) -> Course | None:
    """The course of one patient.

    Args:
        episodes: recorded visits.
        rows: those of the patient, in order.
        replayed: what the record does not hold; None where nobody can say.

    Returns:
        None where the scenario names no range, or none of what is observed.
    """
    return course_from(
        episodes.metadata,
        np.concatenate([episodes.obs[rows], episodes.next_obs[rows[-1:]]]),
        None if replayed is None else replayed.target,
        None if replayed is None else replayed.within,
        {} if replayed is None else replayed.events,
        float(episodes.cost[rows].sum(dtype=np.float64)),
        bool(episodes.terminated[rows[-1]]),
    )


def course_from(
    meta: DatasetMetadata,
    seen: AnyArray,
    true: AnyArray | None,
    within: AnyArray | None,
    events: Mapping[str, Flags],
    cost: float,
    ended: bool,
) -> Course | None:
    """A course from what was seen ``[T + 1, O]`` and the rest of its fields; None as :func:`course_of`."""
    card = meta.card
    target = Range.of(card)
    if target is None or target.name not in meta.obs_names:
        return None
    budget, definitions = card.get("budget"), card.get("events")
    return Course(
        target=target,
        seen=seen[:, meta.obs_names.index(target.name)].astype(np.float64),
        true=None if true is None else np.asarray(true, dtype=np.float64),
        within=None if within is None else np.asarray(within, dtype=np.float64),
        events=events,
        definitions=dict(definitions) if isinstance(definitions, Mapping) else {},
        interval=str(card.get("decision_interval", "")),
        cost=cost,
        budget=float(budget) if isinstance(budget, int | float) else None,
        ended=ended,
    )
