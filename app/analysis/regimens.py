"""Regimens side by side: what each led to, in one form whoever was rolled forward. No Streamlit."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.text import Markdown
from app.theme import Mark
from dosing import NOT_FOR_PATIENTS
from dosing.recommendation.records import Recommender
from dosing.safety import DoseLimits
from dosing.types import Array
from simulator.cohorts.posterior import Trajectories

RETURN, DOSE, ALL = "return so far", "dose given", "all observed states"
"""Names of strips, and the choice of every state at once."""


@dataclass(frozen=True)
class Strip:
    """One quantity over the visits.

    Attributes:
        name: of the quantity.
        unit: its unit.
        visits: visit of each column ``[T]``, from 0 at the chosen state.
        bands: ``[K, T]``, K odd, ascending: the middle row is a line, the others are ribbons round it.
        percent: lower and upper percentile of the outer ribbon; None where there is one row.
        limits: levels drawn as lines, such as the hard limits of a dose.
        target: the range in which the quantity is to be kept; None where there is none.
        steps: whether a value holds until the next visit.
    """

    name: str
    unit: str
    visits: Array
    bands: Array
    percent: tuple[int, int] | None = (10, 90)
    limits: tuple[float, ...] = ()
    target: tuple[float, float] | None = None
    steps: bool = False

    @property
    def middle(self) -> Array:
        """The row that is drawn as a line ``[T]``."""
        return np.asarray(self.bands[len(self.bands) // 2])


@dataclass(frozen=True)
class Outcome:
    """What one regimen led to.

    Attributes:
        strips: quantities over the visits.
        lines: facts in words.
        patients: the roll-outs by which regimens are compared; None where nothing is paired.
    """

    strips: tuple[Strip, ...]
    lines: tuple[Markdown, ...] = ()
    patients: Trajectories | None = None


@dataclass(frozen=True)
class Forward:
    """A way from one state on under chosen doses.

    Attributes:
        limits: hard limits of the dose.
        give: what comes of doses visit by visit, the last one kept.
        follow: what comes of a recommender's doses, with the content of the record; None where no agent can
            be followed.
        named: further regimens that need no number, by their name.
        explained: what the picture shows.
    """

    limits: DoseLimits
    give: Callable[[Sequence[float]], Outcome]
    follow: Callable[[Recommender], tuple[Outcome, dict[str, Any]]] | None = None
    named: Mapping[str, Callable[[], Outcome]] = field(default_factory=dict)
    explained: str = ""


@dataclass(frozen=True)
class Tried:
    """One regimen on show: its name and look, what it led to, what a recommender answered on the way."""

    name: str
    mark: Mark
    outcome: Outcome
    statuses: Mapping[str, int] | None = None


def as_csv(tried: Sequence[Tried], about: str) -> bytes:
    """Every quantity of every regimen, a line per visit, below lines with the notice and what it is about.

    Returns:
        UTF-8 text; ``low`` and ``high`` are the percentiles that ``band`` names, empty where there is none.
    """
    out = io.StringIO()
    out.write(f"# {NOT_FOR_PATIENTS}\n# {' '.join(about.split())}\n")
    write = csv.writer(out, lineterminator="\n")
    write.writerow(("regimen", "quantity", "unit", "visit", "value", "low", "high", "band"))
    for one in tried:
        for strip in one.outcome.strips:
            band = "" if strip.percent is None else "{} to {} %".format(*strip.percent)
            low, high = (strip.bands[k] if band else [""] * len(strip.visits) for k in (0, -1))
            for row in zip(strip.visits, strip.middle, low, high, strict=True):
                write.writerow((one.name, strip.name, strip.unit, *row, band))
    return out.getvalue().encode()
