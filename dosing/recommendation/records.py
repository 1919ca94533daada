"""What the recommender works with and answers: rules, the recommender itself, recommendations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.policy import CENTRAL, DosePolicy
from dosing.recommendation.novelty import Monitor
from dosing.recommendation.reasons import Status, status_of
from dosing.safety import BaselineLimit, DoseLimits, StepLimit, dose_text
from dosing.types import Array

MASS = 0.9
"""Probability of the central interval of a recommendation."""


@dataclass(frozen=True)
class StateEntry:
    """One observed entry: its name, its unit, and the range that the scenario card calls possible."""

    name: str
    unit: str = "1"
    low: float = -math.inf
    high: float = math.inf

    @property
    def allowed(self) -> str:
        """The range in words, empty where there is none."""
        if math.isinf(self.low) and math.isinf(self.high):
            return ""
        return f"{_end(self.low)} to {_end(self.high)}{unit_suffix(self.unit)}"


def _end(value: float) -> str:
    """An end of a range, exactly."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


@dataclass(frozen=True)
class Rules:
    """What a scenario card allows: doses, how fast they may move, and states.

    Attributes:
        limits: hard dose limits.
        entries: one per observed entry; empty where nothing is known of them.
        step: largest change against the current dose; None if the scenario has no such limit.
        safe_default: what to do where no dose is recommended, in the scenario's words; empty if it has none.
        baseline: highest dose beside what the state tells; None if the scenario has no such limit.
    """

    limits: DoseLimits
    entries: tuple[StateEntry, ...] = ()
    step: StepLimit | None = None
    safe_default: str = ""
    baseline: BaselineLimit | None = None

    @classmethod
    def of(
        cls,
        limits: DoseLimits,
        names: Sequence[str] = (),
        units: Sequence[str] = (),
        card: Mapping[str, Any] | None = None,
    ) -> Rules:
        """Join a run's hard limits and names with its scenario card, if it has one.

        Raises:
            UserError: the card's entries or its further limits cannot be read.
        """
        card = dict(card or {})
        told = [
            {"name": name, "unit": unit}
            for name, unit in zip(names, units or ["1"] * len(names), strict=True)
        ]
        try:
            entries = tuple(
                StateEntry(
                    str(entry["name"]),
                    str(entry.get("unit", "1")),
                    float(entry.get("low", -math.inf)),
                    float(entry.get("high", math.inf)),
                )
                for entry in card.get("observations") or told
            )
            default = str(card.get("dose", {}).get("safe_default", ""))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"the scenario card cannot be read ({error!r}).") from None
        return cls(limits, entries, StepLimit.of(card), default, BaselineLimit.of(card))


@dataclass(frozen=True)
class Recommender:
    """A policy with everything that stands between it and a screen.

    Attributes:
        policy: the trained stack of S seeds.
        rules: what the scenario allows.
        monitor: tells familiar states and recorded doses from others; None if the run has none, and every
            dose is then deferred.
        note: why there is no monitor.
        provenance: run folder, agent, hashes, versions; echoed in every answer.
    """

    policy: DosePolicy
    rules: Rules
    monitor: Monitor | None = None
    note: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SeedSet:
    """What one seed of the agent says; one number per dose dimension in every tuple."""

    seed: int
    dose: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class EarlierVisit:
    """A visit of the same patient before the one at hand; the reward is None where it was not recorded."""

    state: tuple[Any, ...]
    dose: tuple[Any, ...]
    reward: Any = None


@dataclass(frozen=True)
class NearVisit:
    """A training visit near the state: what was seen, given and received then."""

    patient: int
    visit: int
    distance: float
    state: tuple[float, ...]
    dose: tuple[float, ...]
    reward: float


@dataclass(frozen=True)
class Recommendation:
    """A dose with everything needed to judge it, or a refusal with its reason.

    Attributes:
        status: ``ok``, ``limited``, ``deferred`` or ``refused``; see the module.
        dose: dose per dimension: mean of the seeds' modes, held within the limits; None if refused.
        proposed: the dose before any limit was applied; None if refused.
        unit: unit of every dose here.
        limits: hard lower and upper limits per dimension.
        kind: what the dose set is, see ``dosing.policy.DoseSet``; None if refused.
        bounded: whether ``support`` is exact (the density is zero outside it).
        support: union over seeds of their dose sets: exact edges if bounded, else the central 99 %.
        mass_outside: probability outside the hard limits before clipping, mean over seeds, largest over
            dimensions; exactly 0 if bounded.
        seeds: each seed's own dose and interval.
        reasons: sentences behind the status.
        state: echo of the input.
        earlier: the visits before it that the policy looked back at; None if none were told, or it does not
            look back.
        provenance: run folder, agent, hashes, versions.
        time: when it was made, UTC.
        notice: what this is not.
        codes: names of the :class:`Reason` behind each sentence.
        notes: what was not looked at, such as novelty where the run has no monitor.
        current: the dose given now, None if not told.
        step: lowest and highest dose that the step limit allows after ``current``; None without such a limit.
        central: ends of the central 90 %: lowest lower and highest upper one over seeds; None if refused.
        spread: standard deviation of the seeds' doses per dimension; None if refused or of one seed.
        distance: distance from the training visits; None if refused or without a monitor.
        threshold: distance beyond which a state is unfamiliar; None without a monitor.
        recorded_near: lowest and highest dose per dimension that were recorded at the training visits nearest
            to the state; None if refused or without a monitor.
        dose_distance: distance of ``dose`` from these recorded doses; likewise.
        dose_threshold: distance beyond which a dose counts as never recorded at states like this one; None
            without a monitor.
        nearest: the nearest training visits, nearest first.
        safe_default: what to do where no dose is recommended, in the scenario's words.
    """

    status: Status
    dose: tuple[float, ...] | None
    proposed: tuple[float, ...] | None
    unit: str
    limits: tuple[tuple[float, ...], tuple[float, ...]]
    kind: str | None
    bounded: bool | None
    support: tuple[tuple[float, ...], tuple[float, ...]] | None
    mass_outside: float | None
    seeds: tuple[SeedSet, ...]
    reasons: tuple[str, ...]
    state: tuple[Any, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    time: str = ""
    notice: str = NOT_FOR_PATIENTS
    codes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    current: tuple[Any, ...] | None = None
    step: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    central: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    spread: tuple[float, ...] | None = None
    distance: float | None = None
    threshold: float | None = None
    recorded_near: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    dose_distance: float | None = None
    dose_threshold: float | None = None
    nearest: tuple[NearVisit, ...] = ()
    safe_default: str = ""
    earlier: tuple[EarlierVisit, ...] | None = None

    @property
    def support_words(self) -> str:
        """What ``support`` is, in words for a label."""
        if self.bounded:
            return "exact support"
        whole = ": the support is every dose" if self.kind == "full_box" else ""
        return f"central {CENTRAL:.0%}, not a support{whole}"

    def to_json(self) -> dict[str, Any]:
        """Plain fields for ``json.dumps``."""
        return asdict(self)


PER_DIMENSION = ("dose", "proposed", "low", "high", "spread", "recorded_low", "recorded_high")
"""Columns of :class:`Answers` with one number per dose dimension."""


@dataclass(frozen=True)
class Answers:
    """What the recommender says to M states, as columns; NaN wherever a row was refused.

    Attributes:
        codes: ``[M]`` sums of :class:`Reason` values.
        dose: ``[M, A]``, within the limits.
        proposed: ``[M, A]``, before any limit.
        low: ``[M, A]`` lower edge of the union over seeds of their dose sets.
        high: ``[M, A]`` upper edge, likewise.
        mass_outside: ``[M]`` probability outside the hard limits before clipping, mean over seeds, largest
            over dimensions.
        spread: ``[M, A]`` standard deviation of the seeds' doses, NaN for one seed.
        recorded_low: ``[M, A]`` lowest dose recorded near the state, NaN without a monitor.
        recorded_high: ``[M, A]`` highest, likewise.
        dose_distance: ``[M]`` of ``dose`` from the doses recorded near the state; NaN without a monitor.
        distance: ``[M, K]`` to the nearest training visits, nearest first; NaN without a monitor.
        nearest: ``[M, K]`` rows of these visits in the monitor; -1 where there are none.
        seed_dose: ``[S, M, A]`` each seed's own dose.
        seed_low: ``[S, M, A]`` lower edge of its own dose set.
        seed_high: ``[S, M, A]`` upper edge.
        kinds: what the dose sets are and whether they are bounded, as the policy said it.
        failures: sentences on rows that failed inside, by row; the first few.
    """

    codes: NDArray[np.int64]
    dose: Array
    proposed: Array
    low: Array
    high: Array
    mass_outside: Array
    spread: Array
    recorded_low: Array
    recorded_high: Array
    dose_distance: Array
    distance: Array
    nearest: NDArray[np.int64]
    seed_dose: Array
    seed_low: Array
    seed_high: Array
    kinds: list[tuple[str, bool]]
    failures: dict[int, str]

    @classmethod
    def blank(cls, recommender: Recommender, rows: int) -> Answers:
        """Columns of NaN."""
        width, seeds = recommender.rules.limits.n_act, len(recommender.policy.seeds)
        neighbours = recommender.monitor.neighbours if recommender.monitor else 0
        shapes = {
            **dict.fromkeys(PER_DIMENSION, (rows, width)),
            **dict.fromkeys(("seed_dose", "seed_low", "seed_high"), (seeds, rows, width)),
            "mass_outside": (rows,),
            "dose_distance": (rows,),
            "distance": (rows, neighbours),
        }
        return cls(
            codes=np.zeros(rows, dtype=np.int64),
            nearest=np.full((rows, neighbours), -1, dtype=np.int64),
            kinds=[],
            failures={},
            **{name: np.full(shape, np.nan) for name, shape in shapes.items()},
        )

    @property
    def status(self) -> NDArray[np.int64]:
        """Index into :data:`STATUSES` of each row."""
        return status_of(self.codes)

    def forget(self, rows: NDArray[np.bool_]) -> None:
        """Leave nothing but the reasons of these rows."""
        for name in (*PER_DIMENSION, "mass_outside", "dose_distance", "distance"):
            getattr(self, name)[rows] = np.nan
        for name in ("seed_dose", "seed_low", "seed_high"):
            getattr(self, name)[:, rows] = np.nan
        self.nearest[rows] = -1


Limits = tuple[Sequence[float], Sequence[float]]
"""Hard lower and upper limits per dose dimension."""


def dose_words(values: Sequence[float] | Array, limits: Limits) -> str:
    """Doses of all dimensions, no rounding of which crosses a limit."""
    return ", ".join(dose_text(float(v), lo, hi) for v, lo, hi in zip(values, *limits, strict=True))


def span_words(ends: Sequence[Sequence[float] | Array], limits: Limits) -> str:
    """Lowest and highest doses of all dimensions."""
    return f"{dose_words(ends[0], limits)} to {dose_words(ends[1], limits)}"


def unit_suffix(unit: str) -> str:
    """A unit to stand after a number; nothing for a quantity without unit."""
    return "" if unit in ("", "1") else f" {unit}"
