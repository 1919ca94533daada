"""The guarded door: the only way from a trained policy to a dose that a person sees.

A recommendation is an object, never a bare number. Whatever goes wrong on the way, the answer is ``refused``
with the reason and no dose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

import numpy as np

from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.policy import CENTRAL, DosePolicy
from dosing.safety import DoseLimits

Status = Literal["ok", "limited", "refused"]


@dataclass(frozen=True)
class SeedSet:
    """What one seed of the agent says; one number per dose dimension in every tuple."""

    seed: int
    dose: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Recommendation:
    """A dose with everything needed to judge it, or a refusal with its reason.

    Attributes:
        status: ``ok``; ``limited`` if a hard limit changed the dose; ``refused`` if there is no dose.
        dose: recommended dose per dimension: mean of the seeds' modes, held within limits; None if refused.
        proposed: the dose before the limits were applied; None if refused.
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


def recommend(
    policy: DosePolicy,
    limits: DoseLimits,
    state: Sequence[Any],
    *,
    obs_names: Sequence[str] = (),
    provenance: dict[str, Any] | None = None,
) -> Recommendation:
    """Recommend a dose for one patient state, or refuse.

    Never raises for bad input or bad weights: the answer is then ``refused`` and carries the reason.

    Args:
        policy: trained stack.
        limits: hard dose limits of the scenario.
        state: as many numbers as the scenario observes.
        obs_names: names for the messages.
        provenance: echoed in the answer.
    """
    try:
        numbers = check_state(state, policy.agent.problem.n_obs, obs_names)
        return _answer(policy, limits, numbers, provenance or {})
    except UserError as error:
        reason = str(error)
    except Exception as error:  # the door fails closed, whatever failed behind it
        reason = f"the recommendation failed inside ({type(error).__name__}: {error}); no dose is shown."
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
        reasons=(reason,),
        state=_echoes(state),
        provenance=provenance or {},
        time=_now(),
    )


def check_state(state: Sequence[Any], n_obs: int, names: Sequence[str] = ()) -> tuple[float, ...]:
    """Return the state as finite numbers.

    Args:
        state: a list, tuple or array of numbers or of texts that read as numbers.
        n_obs: how many there have to be.
        names: of the entries, for the messages.

    Raises:
        UserError: no list, wrong length, not a number, NaN or infinite; the message names the entry.
    """
    table = isinstance(state, np.ndarray) and state.ndim != 1
    if table or not isinstance(state, Sequence | np.ndarray) or isinstance(state, str | bytes):
        raise UserError(f"the state must be a list of {n_obs} numbers, got a {type(state).__name__}.")
    if len(state) != n_obs:
        raise UserError(f"the state needs {n_obs} numbers, got {len(state)}.")
    numbers = []
    for index, value in enumerate(state):
        name = f"{names[index]} (entry {index + 1})" if index < len(names) else f"entry {index + 1}"
        try:
            if isinstance(value, bool | np.bool_ | bytes) or (isinstance(value, str) and "_" in value):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError):
            raise UserError(f"{name} of the state must be a number, got {_echo(value)!r}.") from None
        except OverflowError:  # a whole number of more than 308 digits
            number = math.inf
        if not math.isfinite(number) or abs(number) > float(np.finfo(np.float32).max):
            raise UserError(f"{name} of the state must be a finite number, got {_echo(value)}.")
        numbers.append(number)
    return tuple(numbers)


def _answer(
    policy: DosePolicy, limits: DoseLimits, state: tuple[float, ...], provenance: dict[str, Any]
) -> Recommendation:
    obs = np.broadcast_to(np.asarray(state, dtype=np.float32), (len(policy.seeds), 1, len(state)))
    doses = policy.recommended(obs)[:, 0]  # [S, A]
    sets = policy.dose_set(obs)
    mass = policy.mass_outside(obs, np.asarray(limits.low), np.asarray(limits.high))[:, 0]
    low, high = sets.low[:, 0], sets.high[:, 0]
    for what, values in (("dose", doses), ("interval", low), ("interval", high), ("probability", mass)):
        bad = np.atleast_1d(~np.isfinite(values).all(-1))
        if bad.any():
            seeds = [seed for seed, wrong in zip(policy.seeds, bad, strict=True) if wrong]
            raise UserError(
                f"the policy's {what} is not finite for seed(s) {seeds}: its weights are damaged, or the "
                "state is beyond anything it can compute with."
            )
    proposed = doses.mean(0)
    dose, code = limits.deliver(proposed)
    reasons = []
    if int(code):
        reasons.append(f"the proposed dose {_words(proposed)} was held at a hard limit.")
    if not bool(limits.contains(dose)):
        raise UserError("the dose left the hard limits on its way; no dose is shown.")
    return Recommendation(
        status="limited" if int(code) else "ok",
        dose=_plain(dose),
        proposed=_plain(proposed),
        unit=limits.unit,
        limits=(limits.low, limits.high),
        kind=sets.kind,
        bounded=sets.bounded,
        support=(_plain(low.min(0)), _plain(high.max(0))),
        mass_outside=float(mass.mean(0).max()),
        seeds=tuple(
            SeedSet(seed, _plain(d), _plain(lo), _plain(hi))
            for seed, d, lo, hi in zip(policy.seeds, doses, low, high, strict=True)
        ),
        reasons=tuple(reasons),
        state=state,
        provenance=provenance,
        time=_now(),
    )


def _plain(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _words(values: Any) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


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
