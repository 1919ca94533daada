"""Dose limits: the one rule by which a requested dose becomes a delivered dose, and how fast a dose may move.

The environments and the recommendation recommender share this module, so that what the simulator delivers and
what the screen promises cannot differ. NumPy only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.errors import UserError

LIMITED_BY: tuple[str, ...] = (
    "",
    "low limit",
    "high limit",
    "step limit",
    "baseline limit",
    "cumulative limit",
)
"""Name of each code of a delivered dose: the rule that changed it last, empty when none did."""

STEP_LIMIT = LIMITED_BY.index("step limit")
"""Code of a dose that a step limit held."""

BASELINE_LIMIT = LIMITED_BY.index("baseline limit")
"""Code of a dose that was held at a multiple of an observed baseline."""

CUMULATIVE_LIMIT = LIMITED_BY.index("cumulative limit")
"""Code of a dose that was held because of what earlier doses have left in the body."""


@dataclass(frozen=True)
class DoseLimits:
    """Hard limits of a dose of A dimensions, in the unit in which it is given."""

    low: tuple[float, ...]
    """Lowest dose that is ever delivered, one number per dose dimension."""
    high: tuple[float, ...]
    """Highest dose that is ever delivered, one number per dose dimension."""
    unit: str = "1"
    """Unit of the dose; "1" for a synthetic dose without unit."""

    def __post_init__(self) -> None:
        """Refuse limits that are not finite, not of one length, or upside down."""
        low = tuple(float(x) for x in np.atleast_1d(np.asarray(self.low, dtype=np.float64)))
        high = tuple(float(x) for x in np.atleast_1d(np.asarray(self.high, dtype=np.float64)))
        if len(low) != len(high):
            raise UserError(f"dose limits need as many low as high values, got {len(low)} and {len(high)}")
        if not np.isfinite(low + high).all() or any(lo >= hi for lo, hi in zip(low, high, strict=True)):
            raise UserError(f"dose limits must be finite with low < high, got low {low} and high {high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def n_act(self) -> int:
        """Number of dose dimensions A."""
        return len(self.low)

    def deliver(self, requested: Any) -> tuple[NDArray[np.floating[Any]], NDArray[np.int8]]:
        """Give the dose that is delivered when ``requested`` is asked for.

        Args:
            requested: Doses of shape [..., A] in ``unit``; float32 stays float32, all else becomes float64.

        Returns:
            ``(delivered, limited)``: the doses [..., A] within the limits, and one code [...] per dose: 0
            where the dose is delivered as requested, else the index into ``LIMITED_BY`` of the limit that
            held it.

        Raises:
            UserError: If the last axis is not A long, or a dose is not a number, NaN or infinite.
        """
        dose = as_dose(requested, self.n_act)
        low, high = self._edges(dose.dtype)
        below, above = dose < low, dose > high
        if not (below.any() or above.any()):
            return dose.copy(), np.zeros(dose.shape[:-1], dtype=np.int8)
        code = np.where(above, np.int8(2), below.astype(np.int8))
        return np.clip(dose, low, high), code.max(axis=-1)

    def _edges(self, dtype: Any) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
        """The limits in the precision of a dose, never beyond themselves by rounding."""
        low, high = (np.asarray(ends, dtype=dtype) for ends in (self.low, self.high))
        low = np.where(low < np.asarray(self.low), np.nextafter(low, np.asarray(np.inf, dtype)), low)
        high = np.where(high > np.asarray(self.high), np.nextafter(high, np.asarray(-np.inf, dtype)), high)
        return low, high

    def contains(self, dose: Any) -> NDArray[np.bool_]:
        """Tell for each dose [..., A] whether all its dimensions are finite and within the limits: [...]."""
        value = np.asarray(dose, dtype=np.float64)
        inside: NDArray[np.bool_] = (value >= np.asarray(self.low)) & (value <= np.asarray(self.high))
        return np.asarray(inside.all(axis=-1), dtype=np.bool_)


@dataclass(frozen=True)
class StepLimit:
    """Largest change of a dose of A dimensions against the dose that is given now.

    It may change by ``relative`` times the size of the current dose, and by ``absolute`` in any case. Where
    a dose is ``always`` allowed, two more rules may say what follows from it: ``lowering`` may be free, since
    it goes no further than that dose; and treatment that stands at that dose may begin with ``start``.
    """

    absolute: tuple[float, ...]
    """Change that is allowed whatever the current dose is, one number per dose dimension, in its unit."""
    relative: float = 0.0
    """Share of the current dose by which it may change: 0.2 for 20 %."""
    always: tuple[float, ...] | None = None
    """A dose that is allowed from any other, such as none at all; None if there is no such dose."""
    current: tuple[str, ...] = ()
    """Names of the observed entries that tell the current dose, equally many for every dose dimension, one
    dimension after the other: the largest of a dimension's entries counts. Empty where it has to be told."""
    lowering: bool = True
    """Whether a change towards ``always`` is limited too."""
    start: tuple[float, ...] | None = None
    """Highest dose where the current one is ``always``: with it treatment begins."""

    def __post_init__(self) -> None:
        """Refuse a limit that is not finite, negative, allows no change, or is not of one length."""
        absolute = tuple(float(x) for x in np.atleast_1d(np.asarray(self.absolute, dtype=np.float64)))
        more = (*(self.always or ()), *(self.start or ()))
        numbers = np.asarray((*absolute, self.relative, *more), dtype=np.float64)
        allowed = np.asarray((*absolute, self.relative))
        if not np.isfinite(numbers).all() or (allowed < 0).any() or not (allowed > 0).any():
            raise UserError(
                f"a step limit must be finite, not negative and allow some change, got absolute {absolute} "
                f"and relative {self.relative}"
            )
        for name, values in (("always", self.always), ("start", self.start)):
            if values is not None and len(values) != len(absolute):
                raise UserError(
                    f"a step limit of {len(absolute)} dose(s) needs as many in {name!r}, got {len(values)}"
                )
        if len(self.current) % len(absolute):
            raise UserError(
                f"a step limit of {len(absolute)} dose(s) needs as many names or a multiple in 'current', "
                f"got {len(self.current)}"
            )
        if self.always is None and (self.start is not None or not self.lowering):
            raise UserError("a step limit with a start or free lowering needs a dose that is always allowed")
        object.__setattr__(self, "absolute", absolute)

    @classmethod
    def of(cls, card: dict[str, Any]) -> "StepLimit | None":
        """Read ``dose.step_limit`` of a scenario card; None if the scenario has none.

        Raises:
            UserError: It is there but makes no sense.
        """
        result = card.get("dose", {}).get("step_limit")
        if result is None:
            return None
        try:
            always, start = (
                None if result.get(name) is None else tuple(float(x) for x in result[name])
                for name in ("always", "start")
            )
            current = tuple(result.get("current", ()))
            lowering = bool(result.get("lowering", True))
            absolute, relative = tuple(result["absolute"]), float(result.get("relative", 0.0))
            return cls(absolute, relative, always, current, lowering, start)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"the scenario card's step limit cannot be read: {result!r}") from None

    def card(self) -> dict[str, Any]:
        """The limit as it stands in a scenario card, which :meth:`of` reads."""
        return {
            "absolute": list(self.absolute),
            "relative": self.relative,
            "always": None if self.always is None else list(self.always),
            "current": list(self.current),
            "lowering": self.lowering,
            "start": None if self.start is None else list(self.start),
        }

    def observed(self, entries: Any) -> NDArray[np.float64]:
        """The current doses [..., A] from the observed entries that ``current`` names [..., len(current)]."""
        told = np.asarray(entries, dtype=np.float64)
        parts = told.reshape(*told.shape[:-1], len(self.absolute), -1)
        return np.asarray(parts.max(axis=-1), dtype=np.float64)

    def around(self, current: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest dose [..., A] that may follow the current doses [..., A]."""
        now = as_dose(current, len(self.absolute)).astype(np.float64)
        change = np.maximum(np.asarray(self.absolute), self.relative * np.abs(now))
        low, high = now - change, now + change
        if self.always is not None:
            none = np.asarray(self.always)
            if self.start is not None:
                high = np.where(now == none, np.maximum(high, self.start), high)
            if not self.lowering:
                low, high = np.where(now >= none, none, low), np.where(now < none, none, high)
        return low, high

    def deliver(self, requested: Any, current: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Give the nearest dose to ``requested`` that may follow ``current``.

        Args:
            requested: Doses [..., A], within the hard limits.
            current: Doses given now [..., A], within the hard limits; what is returned then is so too.

        Returns:
            ``(dose, limited)``: doses [..., A], and whether each was changed [...].

        Raises:
            UserError: As :meth:`DoseLimits.deliver`.
        """
        dose = as_dose(requested, len(self.absolute)).astype(np.float64)
        low, high = self.around(current)
        held = np.clip(dose, low, high)
        if self.always is not None:
            free = (dose == np.asarray(self.always)).all(axis=-1, keepdims=True)
            held = np.where(free, dose, held)
        return held, (held != dose).any(axis=-1)


@dataclass(frozen=True)
class BaselineLimit:
    """Highest dose, of one dimension, beside a baseline dose and a load that are both observed.

    The load is what earlier doses beyond the baseline have left in the body. With baseline b and load l, a
    dose is at most ``multiple`` b, and at most b + max(``most_load`` b - l, 0) / ``adds``. The baseline
    itself is always allowed. Unlike the current dose of a :class:`StepLimit`, neither can be told instead.
    """

    baseline: str
    """Name of the observed baseline, in the unit of the dose."""
    load: str
    """Name of the observed load."""
    multiple: float
    """Highest dose as a multiple of the baseline."""
    most_load: float
    """Load beyond which no dose above the baseline adds, per unit of baseline."""
    adds: float
    """Load that each unit of dose above the baseline adds until the next decision."""

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite or allow no dose above the baseline."""
        numbers = np.asarray((self.multiple, self.most_load, self.adds), dtype=np.float64)
        if not np.isfinite(numbers).all() or self.multiple < 1 or self.most_load < 0 or self.adds <= 0:
            raise UserError(
                "a baseline limit needs a finite multiple from 1 up, most_load from 0 up and adds above 0, "
                f"got {self.multiple}, {self.most_load} and {self.adds}"
            )

    @classmethod
    def of(cls, card: dict[str, Any]) -> "BaselineLimit | None":
        """Read ``dose.baseline_limit`` of a scenario card; None if the scenario has none.

        Raises:
            UserError: It is there but makes no sense.
        """
        result = card.get("dose", {}).get("baseline_limit")
        if result is None:
            return None
        try:
            multiple, most_load, adds = (float(result[name]) for name in ("multiple", "most_load", "adds"))
            return cls(str(result["baseline"]), str(result["load"]), multiple, most_load, adds)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"the scenario card's baseline limit cannot be read: {result!r}") from None

    def highest(self, observed: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Highest doses [..., 1] by the multiple and by the load.

        Args:
            observed: Baseline and load [..., 2].
        """
        baseline, load = np.moveaxis(np.asarray(observed, dtype=np.float64)[..., None], -2, 0)
        room = np.maximum(self.most_load * baseline - load, 0.0)
        return self.multiple * baseline, baseline + room / self.adds

    def deliver(self, requested: Any, observed: Any) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
        """Give the highest allowed dose up to ``requested``.

        Args:
            requested: Doses [..., 1], within the hard limits.
            observed: Baseline and load [..., 2].

        Returns:
            ``(dose, limited)``: doses [..., 1], and one code [...] per dose: 0 where it was not changed, else
            the index into ``LIMITED_BY`` of the rule that held it.

        Raises:
            UserError: As :meth:`DoseLimits.deliver`.
        """
        dose = as_dose(requested, 1).astype(np.float64)
        by_multiple, by_load = self.highest(observed)
        most = np.minimum(by_multiple, by_load)
        code = np.where(by_load < by_multiple, np.int8(CUMULATIVE_LIMIT), np.int8(BASELINE_LIMIT))
        held = dose > most
        return np.where(held, most, dose), np.where(held, code, np.int8(0))[..., 0]


def dose_text(value: float, low: float = -np.inf, high: float = np.inf, places: int | None = None) -> str:
    """A dose for people: rounded, but never across a limit that it does not cross itself.

    Args:
        value: The dose.
        low: Lower limit.
        high: Upper limit.
        places: Decimals, at least; None for four significant digits at least.
    """
    margin = 1e-6 * max(abs(value), 1e-300)  # what was recorded in float32 may pass its limit by as much
    side = (value < low - margin, value > high + margin)
    for more in range(18):
        text = f"{value:.{4 + more}g}" if places is None else f"{value:z.{places + more}f}"
        if "e" in text and 1e-4 <= abs(value) < 1e15:
            continue  # digits enough to write it out
        if (float(text) < low, float(text) > high) == side:
            return text
    return repr(float(value))


def as_dose(requested: Any, n_act: int) -> NDArray[np.floating[Any]]:
    """Return ``requested`` as a finite float array [..., n_act], without copying float32 or float64.

    Raises:
        UserError: If it is not numeric, has another last axis, or holds NaN or infinity.
    """
    try:
        dose = np.asarray(requested)
        if dose.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError):
        raise UserError(f"a dose must be {n_act} finite number(s), got {requested!r}") from None
    if dose.dtype != np.float32:
        dose = dose.astype(np.float64)
    if dose.ndim == 0 or dose.shape[-1] != n_act:
        raise UserError(f"a dose must have {n_act} dimension(s) on its last axis, got shape {dose.shape}")
    if not np.isfinite(dose).all():
        where = np.argwhere(~np.isfinite(dose))[0].tolist()
        raise UserError(f"a dose must be finite, got {dose[tuple(where)]} at index {where}")
    return dose
