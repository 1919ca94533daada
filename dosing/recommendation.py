"""The guarded door: the only way from a trained policy to a dose that a person sees.

A recommendation is an object, never a bare number. Its status follows from what was found on the way:

* ``refused``: bad input, a policy whose numbers are not finite, or any failure inside. There is no dose.
* ``deferred``: the state is unlike the training visits (``dosing.familiarity``), or the seeds disagree: their
  doses spread too much beside the recorded ones, or their mean lies where no seed would dose. The dose is
  shown as what the policy says, not as advice.
* ``limited``: a hard limit or a step limit changed the dose.
* ``ok``: none of these.

One state and a table of states pass through the same arithmetic: :func:`recommend`, :func:`recommend_all`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.familiarity import Monitor
from dosing.policy import CENTRAL, DosePolicy, Observations
from dosing.safety import DoseLimits, StepLimit

Array = NDArray[np.float64]
Status = Literal["ok", "limited", "deferred", "refused"]

LARGEST = float(np.finfo(np.float32).max)
"""Largest number that a policy can be shown."""
DISAGREEMENT = 0.5
"""The seeds disagree where the standard deviation of their doses is more than this share of that of the doses
recorded in the training data. Our choice. Trained with defaults on 50 patients, FtTPO reaches it on 4 % of
the visits of new ones, IQL on none (``benchmarks/recommend.py``)."""
MASS = 0.9
"""Probability of the central interval of a recommendation."""
KEPT = 10
"""Rows of a table whose failure is kept as a sentence."""
ROWS = 1024
"""States that a policy is asked about at once: their activations stay in the processor's cache."""


class Reason(enum.IntFlag):
    """What was found on the way to a dose; a status follows from these alone, see :func:`status_of`."""

    WRONG_LENGTH = enum.auto()
    NOT_A_NUMBER = enum.auto()
    NOT_FINITE = enum.auto()
    OUT_OF_RANGE = enum.auto()
    CURRENT_DOSE = enum.auto()
    POLICY_NOT_FINITE = enum.auto()
    FAILED = enum.auto()
    LEFT_LIMITS = enum.auto()
    UNFAMILIAR = enum.auto()
    SEEDS_APART = enum.auto()
    BETWEEN_SEEDS = enum.auto()
    HARD_LIMIT = enum.auto()
    STEP_LIMIT = enum.auto()


REFUSES = Reason(Reason.UNFAMILIAR - 1)
"""Reasons before the first that defers."""
DEFERS = Reason.UNFAMILIAR | Reason.SEEDS_APART | Reason.BETWEEN_SEEDS
LIMITS = Reason.HARD_LIMIT | Reason.STEP_LIMIT
STATUSES: tuple[Status, ...] = ("ok", "limited", "deferred", "refused")


def status_of(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index into :data:`STATUSES` of each sum of :class:`Reason` values: the gravest reason decides."""
    graver = [(codes & int(mask)) != 0 for mask in (REFUSES, DEFERS, LIMITS)]
    return np.select(graver, [3, 2, 1], 0)


def names_of(code: int) -> tuple[str, ...]:
    """Names of the reasons in a sum of them, in lower case."""
    return tuple(str(reason.name).lower() for reason in Reason if code & reason)


@dataclass(frozen=True)
class Entry:
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
        return f"{self.low:g} to {self.high:g}{_after(self.unit)}"


@dataclass(frozen=True)
class Rules:
    """What a scenario card allows: doses, how fast they may move, and states.

    Attributes:
        limits: hard dose limits.
        entries: one per observed entry; empty where nothing is known of them.
        step: largest change against the current dose; None if the scenario has no such limit.
        safe_default: what to do where no dose is recommended, in the scenario's words; empty if it has none.
    """

    limits: DoseLimits
    entries: tuple[Entry, ...] = ()
    step: StepLimit | None = None
    safe_default: str = ""

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
            UserError: the card's entries or its step limit cannot be read.
        """
        card = dict(card or {})
        told = [
            {"name": name, "unit": unit}
            for name, unit in zip(names, units or ["1"] * len(names), strict=True)
        ]
        try:
            entries = tuple(
                Entry(
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
        return cls(limits, entries, StepLimit.of(card), default)


@dataclass(frozen=True)
class Door:
    """A policy with everything that stands between it and a screen.

    Attributes:
        policy: the trained stack of S seeds.
        rules: what the scenario allows.
        monitor: tells familiar states from others; None if the run has none.
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
class Visit:
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
        provenance: run folder, agent, hashes, versions.
        time: when it was made, UTC.
        notice: what this is not.
        codes: names of the :class:`Reason` behind each sentence.
        notes: what was not looked at, such as familiarity where the run has no monitor.
        current: the dose given now, None if not told.
        step: lowest and highest dose that the step limit allows after ``current``; None without such a limit.
        central: ends of the central 90 %: lowest lower and highest upper one over seeds; None if refused.
        spread: standard deviation of the seeds' doses per dimension; None if refused or of one seed.
        distance: distance from the training visits; None if refused or without a monitor.
        threshold: distance beyond which a state is unfamiliar; None without a monitor.
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
    nearest: tuple[Visit, ...] = ()
    safe_default: str = ""

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


@dataclass(frozen=True)
class Answers:
    """What the door says to M states, as columns; NaN wherever a row was refused.

    Attributes:
        codes: ``[M]`` sums of :class:`Reason` values.
        dose: ``[M, A]``, within the limits.
        proposed: ``[M, A]``, before any limit.
        low: ``[M, A]`` lower edge of the union over seeds of their dose sets.
        high: ``[M, A]`` upper edge, likewise.
        mass_outside: ``[M]`` probability outside the hard limits before clipping, mean over seeds, largest
            over dimensions.
        spread: ``[M, A]`` standard deviation of the seeds' doses, NaN for one seed.
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
    distance: Array
    nearest: NDArray[np.int64]
    seed_dose: Array
    seed_low: Array
    seed_high: Array
    kinds: list[tuple[str, bool]]
    failures: dict[int, str]

    @classmethod
    def blank(cls, door: Door, rows: int) -> Answers:
        """Columns of NaN."""
        width, seeds = door.rules.limits.n_act, len(door.policy.seeds)
        neighbours = door.monitor.neighbours if door.monitor else 0
        shapes = {
            **dict.fromkeys(("dose", "proposed", "low", "high", "spread"), (rows, width)),
            **dict.fromkeys(("seed_dose", "seed_low", "seed_high"), (seeds, rows, width)),
            "mass_outside": (rows,),
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
        for name in ("dose", "proposed", "low", "high", "spread", "mass_outside", "distance"):
            getattr(self, name)[rows] = np.nan
        for name in ("seed_dose", "seed_low", "seed_high"):
            getattr(self, name)[:, rows] = np.nan
        self.nearest[rows] = -1


def recommend(door: Door, state: Sequence[Any], current: Sequence[Any] | None = None) -> Recommendation:
    """Recommend a dose for one patient state, or refuse.

    Never raises for bad input or bad weights: the answer is then ``refused`` and carries the reasons.

    Args:
        door: policy, rules and monitor.
        state: as many numbers as the scenario observes.
        current: the dose given now, as many numbers as the dose has; needed where the scenario has a step
            limit and does not observe the current dose.
    """
    try:
        numbers, faults = read_state(door, state)
        given, wrong = _read_current(door.rules, current)
        faults += wrong
        if faults:
            return _refusal(door, state, current, faults)
        return _one(door, numbers, given)
    except Exception as error:  # the door fails closed, whatever failed behind it
        return _refusal(door, state, current, [(Reason.FAILED, _failure(error))])


def recommend_all(door: Door, states: Array, current: Array | None = None, *, workers: int = 1) -> Answers:
    """Answer M states at once; each row is what :func:`recommend` would say, up to rounding.

    A row that is refused refuses no other.

    Args:
        door: policy, rules and monitor.
        states: ``[M, O]``; a missing number is NaN and refuses its row.
        current: ``[M, A]`` the doses given now, likewise.
        workers: processor cores for the search of near visits.

    Raises:
        UserError: the table has another width than the scenario observes.
    """
    rules, n_obs = door.rules, door.policy.agent.problem.n_obs
    states = np.asarray(states, dtype=np.float64)
    if states.ndim != 2 or states.shape[1] != n_obs:
        raise UserError(f"states must have {n_obs} numbers each, got shape {states.shape}.")
    found = Answers.blank(door, len(states))
    for reason, bad in zip(
        (Reason.NOT_FINITE, Reason.OUT_OF_RANGE), _bad_entries(rules, states), strict=True
    ):
        found.codes[bad.any(1)] |= reason
    given = _current_doses(rules, states, current)
    if given is not None:
        found.codes[~rules.limits.contains(given)] |= Reason.CURRENT_DOSE
    elif rules.step is not None:
        found.codes[:] |= Reason.CURRENT_DOSE
    good = np.flatnonzero(found.codes == 0)
    for start in range(0, len(good), ROWS):
        _fill(door, found, states, given, good[start : start + ROWS], workers)
    found.forget((found.codes & int(REFUSES)) != 0)
    return found


def _fill(
    door: Door, found: Answers, states: Array, current: Array | None, rows: NDArray[np.int64], workers: int
) -> None:
    """Answer these rows; where that fails, in halves, until the rows that fail stand alone."""
    try:
        _answer(door, found, states[rows], None if current is None else current[rows], rows, workers)
    except Exception as error:  # the door fails closed, whatever failed behind it
        if len(rows) > 1:
            for half in np.array_split(rows, 2):
                _fill(door, found, states, current, half, workers)
            return
        found.codes[rows] = Reason.FAILED
        if len(found.failures) < KEPT:
            found.failures[int(rows[0])] = _failure(error)


def _answer(
    door: Door, found: Answers, states: Array, current: Array | None, rows: NDArray[np.int64], workers: int
) -> None:
    """Ask the policy about sound states ``[M, O]`` and write what it says, within limits, into these rows."""
    policy, rules, limits = door.policy, door.rules, door.rules.limits
    doses, sets = policy.consult(_obs(policy, states), np.asarray(limits.low), np.asarray(limits.high))
    shape = (len(policy.seeds), len(rows), limits.n_act)
    said = {"dose": doses, "low": sets.low, "high": sets.high, "mass": sets.mass_outside}
    for what, values in said.items():
        if np.shape(values) != shape:
            raise UserError(
                f"the policy's {what} has shape {np.shape(values)}, not {shape}; no dose is shown."
            )
    finite = np.isfinite(np.stack(list(said.values()))).all((0, 1, 3))  # [M]
    with np.errstate(all="ignore"):
        proposed = doses.mean(0)
        spread = doses.std(0, ddof=1) if len(doses) > 1 else np.full_like(proposed, np.nan)
    finite &= np.isfinite(spread).all(1) | (len(doses) == 1)  # finite doses may be too large for a mean
    codes = np.where(finite, 0, int(Reason.POLICY_NOT_FINITE))
    for row in np.flatnonzero(~finite)[: KEPT - len(found.failures)]:
        good = [np.isfinite(values[:, row]).all(-1) for values in said.values()]
        seeds = [seed for seed, fine in zip(policy.seeds, np.all(good, axis=0), strict=True) if not fine]
        found.failures[int(rows[row])] = (
            f"the policy's dose is not finite for seed(s) {seeds}: its weights are damaged, or the state is "
            "beyond anything it can compute with."
        )

    dose, held = limits.deliver(np.where(finite[:, None], proposed, limits.low))
    codes |= np.where(held > 0, int(Reason.HARD_LIMIT), 0)
    if rules.step is not None:
        dose, held_back = rules.step.deliver(dose, current)
        codes |= np.where(held_back, int(Reason.STEP_LIMIT), 0)
    codes |= np.where(limits.contains(dose), 0, int(Reason.LEFT_LIMITS))

    if door.monitor is not None:
        distance, nearest = door.monitor.nearest(states, workers=workers)
        codes |= np.where(distance[:, -1] <= door.monitor.threshold, 0, int(Reason.UNFAMILIAR))
        found.distance[rows], found.nearest[rows] = distance, nearest
        if len(doses) > 1:
            usual = np.asarray(door.monitor.dose_spread)
            apart = (spread > DISAGREEMENT * usual) & (usual > 0.0)
            codes |= np.where(apart.any(1), int(Reason.SEEDS_APART), 0)
    codes |= np.where(_between(sets.low, sets.high, proposed), int(Reason.BETWEEN_SEEDS), 0)

    found.codes[rows] = codes
    found.dose[rows], found.proposed[rows], found.spread[rows] = dose, proposed, spread
    found.low[rows], found.high[rows] = sets.low.min(0), sets.high.max(0)
    found.mass_outside[rows] = sets.mass_outside.mean(0).max(-1)
    found.seed_dose[:, rows], found.seed_low[:, rows], found.seed_high[:, rows] = doses, sets.low, sets.high
    found.kinds[:] = [(sets.kind, sets.bounded)]


def _between(low: Array, high: Array, proposed: Array) -> NDArray[np.bool_]:
    """Whether the mean ``[M, A]`` lies in no seed's own interval ``[S, M, A]``, in some dimension: ``[M]``.

    Never where no seed has an interval: deterministic seeds are apart by nature, their spread is judged.
    """
    if len(low) == 1:
        return np.zeros(len(proposed), dtype=np.bool_)
    inside = np.any((low <= proposed) & (proposed <= high), axis=0)
    between: NDArray[np.bool_] = np.any(~inside & np.any(low < high, axis=0), axis=1)
    return between


def _one(door: Door, state: tuple[float, ...], current: tuple[float, ...] | None) -> Recommendation:
    """The answer to one sound state, with everything that a page shows."""
    states = np.asarray(state, dtype=np.float64)[None]
    found = recommend_all(door, states, None if current is None else np.asarray(current)[None])
    code = int(found.codes[0])
    if code & REFUSES:
        return _refusal(door, state, current, _faults_inside(door, found))
    rules, monitor = door.rules, door.monitor
    (kind, bounded), proposed = found.kinds[0], found.proposed[0]
    low, high = door.policy.central(_obs(door.policy, states), MASS)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UserError("the policy's central interval is not finite; no dose is shown.")
    now = _current_doses(rules, states, None if current is None else np.asarray(current)[None])
    around = rules.step.around(now[0]) if rules.step is not None and now is not None else None
    return Recommendation(
        status=STATUSES[int(found.status[0])],
        dose=_plain(found.dose[0]),
        proposed=_plain(proposed),
        unit=rules.limits.unit,
        limits=(rules.limits.low, rules.limits.high),
        kind=kind,
        bounded=bounded,
        support=(_plain(found.low[0]), _plain(found.high[0])),
        mass_outside=float(found.mass_outside[0]),
        seeds=tuple(
            SeedSet(seed, _plain(d), _plain(lo), _plain(hi))
            for seed, d, lo, hi in zip(
                door.policy.seeds,
                found.seed_dose[:, 0],
                found.seed_low[:, 0],
                found.seed_high[:, 0],
                strict=True,
            )
        ),
        reasons=_sentences(door, found, code),
        state=state,
        provenance=dict(door.provenance),
        time=_now(),
        codes=names_of(code),
        notes=_notes(door),
        current=None if now is None else _plain(now[0]),
        step=None if around is None else (_plain(around[0]), _plain(around[1])),
        central=(_plain(low[:, 0].min(0)), _plain(high[:, 0].max(0))),
        spread=_plain(found.spread[0]) if len(door.policy.seeds) > 1 else None,
        distance=float(found.distance[0, -1]) if monitor else None,
        threshold=monitor.threshold if monitor else None,
        nearest=_visits(monitor, found) if monitor else (),
        safe_default=rules.safe_default,
    )


def _refusal(door: Door, state: Any, current: Any, faults: Sequence[tuple[Reason, str]]) -> Recommendation:
    limits, monitor = door.rules.limits, door.monitor
    return Recommendation(
        status="refused",
        dose=None,
        proposed=None,
        unit=limits.unit,
        limits=(limits.low, limits.high),
        kind=None,
        bounded=None,
        support=None,
        mass_outside=None,
        seeds=(),
        reasons=tuple(sentence for _, sentence in faults),
        state=_echoes(state),
        provenance=dict(door.provenance),
        time=_now(),
        codes=tuple(str(reason.name).lower() for reason, _ in faults),
        current=None if current is None else _echoes(current),
        threshold=monitor.threshold if monitor else None,
        safe_default=door.rules.safe_default,
    )


# What comes in

Fault = tuple[Reason, str]
"""Why the door refuses, with its sentence."""


def read_state(door: Door, state: Any) -> tuple[tuple[float, ...], list[Fault]]:
    """Read a state as numbers; returns them with one fault per bad entry: what, value, allowed range, unit.

    Args:
        door: says how many numbers there have to be, and which are possible.
        state: a list, tuple or array of numbers or of texts that read as numbers.
    """
    n_obs = door.policy.agent.problem.n_obs
    entries = door.rules.entries or tuple(Entry("") for _ in range(n_obs))
    if len(entries) != n_obs:
        raise UserError(f"the scenario card names {len(entries)} observations, the policy sees {n_obs}.")
    return _read(state, entries, "the state")


def _read_current(rules: Rules, current: Any) -> tuple[tuple[float, ...] | None, list[Fault]]:
    """Read the current dose, as :func:`read_state`; None where it is not told."""
    limits = rules.limits
    entries = tuple(
        Entry("", limits.unit, low, high) for low, high in zip(limits.low, limits.high, strict=True)
    )
    allowed = "; ".join(entry.allowed for entry in entries)
    if current is None:
        if rules.step is None or rules.step.current:
            return None, []
        return None, [
            (
                Reason.CURRENT_DOSE,
                f"the current dose is needed, because this scenario limits its change; allowed: {allowed}.",
            )
        ]
    numbers, faults = _read(current, entries, "the current dose")
    return numbers, [(Reason.CURRENT_DOSE, sentence) for _, sentence in faults]


def _read(given: Any, entries: Sequence[Entry], whole: str) -> tuple[tuple[float, ...], list[Fault]]:
    """Read as many finite numbers within their ranges as there are entries."""
    count = f"{len(entries)} number{'s' if len(entries) != 1 else ''}"
    table = isinstance(given, np.ndarray) and given.ndim != 1
    if table or not isinstance(given, Sequence | np.ndarray) or isinstance(given, str | bytes):
        sentence = f"{whole} must be a list of {count}, got a {type(given).__name__}."
        return (), [(Reason.WRONG_LENGTH, sentence)]
    if len(given) != len(entries):
        return (), [(Reason.WRONG_LENGTH, f"{whole} needs {count}, got {len(given)}.")]
    numbers, faults = [], []
    for place, (entry, value) in enumerate(zip(entries, given, strict=True), 1):
        name = f"{entry.name} (entry {place})" if entry.name else f"entry {place}"
        allowed = f"; allowed: {entry.allowed}" if entry.allowed else ""
        try:
            if isinstance(value, bool | np.bool_ | bytes) or (isinstance(value, str) and "_" in value):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError):
            sentence = f"{name} of {whole} must be a number, got {_echo(value)!r}{allowed}."
            faults.append((Reason.NOT_A_NUMBER, sentence))
            continue
        except OverflowError:  # a whole number of more than 308 digits
            number = math.inf
        if not math.isfinite(number) or abs(number) > LARGEST:
            sentence = f"{name} of {whole} must be a finite number, got {_echo(value)}{allowed}."
            faults.append((Reason.NOT_FINITE, sentence))
        elif not entry.low <= number <= entry.high:
            sentence = f"{name} of {whole} must be {entry.allowed}, got {_echo(value)}."
            faults.append((Reason.OUT_OF_RANGE, sentence))
        numbers.append(number)
    return tuple(numbers), faults


def _bad_entries(rules: Rules, states: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which entries ``[M, O]`` are not finite, and which of the others the scenario card calls impossible."""
    wild = ~(np.abs(states) <= LARGEST)
    if not rules.entries:
        return wild, np.zeros_like(wild)
    if len(rules.entries) != states.shape[1]:
        raise UserError(
            f"the scenario card names {len(rules.entries)} observations, the policy sees {states.shape[1]}."
        )
    low, high = np.array([(entry.low, entry.high) for entry in rules.entries]).T
    return wild, ~wild & ((states < low) | (states > high))


def _current_doses(rules: Rules, states: Array, current: Array | None) -> Array | None:
    """The doses given now ``[M, A]``: as told, else as observed; None if neither."""
    if current is not None:
        told = np.asarray(current, dtype=np.float64)
        if told.shape != (len(states), rules.limits.n_act):
            raise UserError(
                f"there must be {rules.limits.n_act} current dose(s) per state, got shape {told.shape}."
            )
        return told
    if rules.step is None or not rules.step.current:
        return None
    names = [entry.name for entry in rules.entries]
    try:
        observed: Array = states[:, [names.index(name) for name in rules.step.current]]
    except ValueError:
        raise UserError(
            f"the step limit reads the current dose from {list(rules.step.current)}, which the scenario card "
            "does not observe."
        ) from None
    return observed


def _obs(policy: DosePolicy, states: Array) -> Observations:
    """States ``[M, O]`` for every seed, ``[S, M, O]``."""
    return np.broadcast_to(states.astype(np.float32), (len(policy.seeds), *states.shape))


# What goes out


def _faults_inside(door: Door, found: Answers) -> list[Fault]:
    """Why the one row was refused after its input was found sound."""
    failure = found.failures.get(0, "")
    sentences = {
        Reason.CURRENT_DOSE: "the current dose that the state holds lies outside the hard limits.",
        Reason.POLICY_NOT_FINITE: failure,
        Reason.FAILED: failure,
        Reason.LEFT_LIMITS: "the dose left the hard limits on its way; no dose is shown.",
    }
    code = int(found.codes[0])
    return [(reason, sentence) for reason, sentence in sentences.items() if code & reason]


def _sentences(door: Door, found: Answers, code: int) -> tuple[str, ...]:
    """One sentence per reason of the one row, in the order of :class:`Reason`."""
    monitor, unit = door.monitor, _after(door.rules.limits.unit)
    proposed, dose = _words(found.proposed[0]), _words(found.dose[0])
    said = {}
    if code & Reason.UNFAMILIAR and monitor is not None:
        said[Reason.UNFAMILIAR] = (
            f"the state is unlike the training visits: its distance from the nearest {monitor.neighbours} of "
            f"them is {found.distance[0, -1]:.3g}, usual is up to {monitor.threshold:.3g}."
        )
    if code & Reason.SEEDS_APART and monitor is not None:
        said[Reason.SEEDS_APART] = (
            f"the seeds disagree: their doses have standard deviation {_words(found.spread[0])}{unit}, more "
            f"than {DISAGREEMENT:g} of that of the recorded doses, {_words(monitor.dose_spread)}{unit}."
        )
    said[Reason.BETWEEN_SEEDS] = (
        f"the seeds disagree: no seed would give {proposed}{unit}, the mean of their doses, which lies "
        "between what they would give."
    )
    said[Reason.HARD_LIMIT] = f"the proposed dose {proposed}{unit} was held at a hard limit."
    said[Reason.STEP_LIMIT] = (
        f"the proposed dose {proposed}{unit} was held at {dose}{unit}: it may not move further from the "
        "current dose at once."
    )
    return tuple(said[reason] for reason in Reason if code & reason)


def _notes(door: Door) -> tuple[str, ...]:
    notes = []
    if door.monitor is None:
        notes.append(door.note or "Whether the state is familiar was not looked at: there is no monitor.")
    if door.policy.looks_back:
        notes.append("This policy looks back; it was told one state alone, as at a first visit.")
    return tuple(notes)


def _visits(monitor: Monitor, found: Answers) -> tuple[Visit, ...]:
    return tuple(
        Visit(
            int(monitor.episode[row]),
            int(monitor.step[row]),
            float(distance),
            _plain(monitor.obs[row]),
            _plain(monitor.act[row]),
            float(monitor.reward[row]),
        )
        for row, distance in zip(found.nearest[0], found.distance[0], strict=True)
    )


def _failure(error: Exception) -> str:
    """The sentence for whatever was raised; an error may be too broken to be read."""
    if isinstance(error, UserError):
        return str(error)
    return f"the recommendation failed inside ({type(error).__name__}: {_echo(error)}); no dose is shown."


def _plain(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _words(values: Any) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


def _after(unit: str) -> str:
    """A unit to stand after a number; nothing for a quantity without unit."""
    return "" if unit in ("", "1") else f" {unit}"


def _echoes(state: Any) -> tuple[Any, ...]:
    """Whatever came in place of a state, as JSON can carry it; no more than the first 100 entries."""
    try:
        return (_echo(state),) if isinstance(state, str) else tuple(_echo(x) for x in islice(state, 100))
    except Exception:  # the door answers, whatever stands before it
        return (_echo(state),)


def _echo(value: Any) -> Any:
    """A value as JSON can carry it: usual numbers stay, all else becomes a short text."""
    if isinstance(value, int | float) and abs(value) < 1e300:
        return value
    try:
        return str(value)[:80]
    except Exception:
        return f"an unreadable {type(value).__name__}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
