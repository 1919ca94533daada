"""Decisions on recommendations: accept the dose, give another one, or reject it; one is in force at a time.

A decision stands in the audit log and names the record that it is on. It is in force for every recommendation
of the same policy for the same patient and visit, or for the same state (after the same visits, where the
policy looked back at them), whoever is shown that and whenever;
until another one replaces it, which needs a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dosing.errors import UserError
from dosing.recommendation.audit_log import (
    DECIDED,
    DECISIONS,
    AuditLog,
    Record,
    _record,
    _sha256,
    _sound,
    seen,
    stamp_of,
    state_hash,
)
from dosing.recommendation.units import meant
from dosing.safety import DoseLimits

Action = Literal["accept", "modify", "reject"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True)
class Decision:
    """A decision with what it is on.

    Attributes:
        number: of its own record.
        time: when it was recorded, UTC.
        action: what was decided.
        dose: the dose to give, None for a rejection.
        reason: in the words of who decided; may be empty.
        replaces: number of the decision's record that was in force before; None if there was none.
        on: number of the recommendation's record.
        asked: what was recorded of the recommendation, see ``dosing.recommendation.audit_log.shown``.
    """

    number: int
    time: str
    action: Action
    dose: tuple[float, ...] | None
    reason: str
    replaces: int | None
    on: int
    asked: Mapping[str, Any]

    @classmethod
    def of(cls, record: Record, asked: Mapping[str, Any]) -> Decision:
        """The decision of a sound record on a recommendation."""
        content = record.content
        dose = None if content["dose"] is None else tuple(content["dose"])
        return cls(
            record.number,
            record.time,
            content["action"],
            dose,
            content["reason"],
            content.get("replaces"),
            content["record"],
            asked,
        )

    @property
    def about(self) -> str:
        """Whom it is about: agent, patient and visit, or that the state was typed."""
        agent = str(self.asked["provenance"].get("agent", "unnamed agent"))
        if "patient" not in self.asked:
            return f"{agent}, for this state"
        return f"{agent}, for patient {self.asked['patient']}, visit {self.asked['visit']}"


def concerns(asked: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a decision on one recommendation holds for another: same policy, and same visit or state."""
    policies = [content["provenance"].get("weights") for content in (asked, other)]
    if policies[0] != policies[1]:
        return False
    if "patient" in asked and "patient" in other:
        return all(asked[name] == other[name] for name in ("patient", "visit")) and all(
            content["provenance"].get("data") == asked["provenance"].get("data") for content in (asked, other)
        )
    return state_key(asked) == state_key(other)


def state_key(asked: Mapping[str, Any]) -> str:
    """Hash of what a recorded recommendation rests on: state, current dose, visits it looked back at."""
    if "state_hash" in asked:
        return str(asked["state_hash"])
    return state_hash(seen(asked))


def decisions_on(log: AuditLog, asked: Mapping[str, Any]) -> tuple[Decision, ...]:
    """Decisions that hold, or held, for a recommendation, oldest first: the last one is in force.

    Each line is checked against its own hash; the chain is checked by :meth:`AuditLog.verify` alone.

    Args:
        log: where they were recorded.
        asked: what is recorded of the recommendation, see ``dosing.recommendation.audit_log.shown``.

    Raises:
        UserError: the log is missing or cannot be read, or one of these lines is broken.
    """
    return tuple(decision for decision in all_decisions(log) if concerns(asked, decision.asked))


def all_decisions(log: AuditLog) -> tuple[Decision, ...]:
    """Every decision in the log, oldest first, replaced ones too; checked as :func:`decisions_on` does.

    Raises:
        UserError: the log is missing or cannot be read, or one of these lines is broken.
    """
    with log._open() as file:
        stamp = stamp_of(file.fileno())
        kept = DECIDED.get(log.path)
        if kept is None or kept[0] != stamp:  # a long log is read once, not for every dose on a page
            kept = stamp, tuple(_decisions(file.read().splitlines(keepends=True)))
            DECIDED[log.path] = kept
    return kept[1]


def _decisions(lines: Sequence[bytes]) -> Iterator[Decision]:
    wanted = tuple(f',"kind":"{kind}",'.encode() for kind in DECISIONS)
    for line in [line for line in lines if any(word in line for word in wanted)]:
        _sound(line)
        record = _record(line)
        if record.kind not in DECISIONS:  # a reason may hold any words
            continue
        asked = lines[record.content["record"] - 1 : record.content["record"]]
        if asked and _sha256(asked[0].removesuffix(b"\n")) == record.content["record_hash"]:
            yield Decision.of(record, _record(asked[0]).content)


def record_decision(
    log: AuditLog, number: int, action: Action, dose: Sequence[float] | None = None, reason: str = ""
) -> Record:
    """Record what was decided on a recommendation; the same decision is recorded once.

    Args:
        log: where the recommendation was recorded.
        number: its record.
        action: ``accept`` the dose, ``modify`` it, or ``reject`` it.
        dose: the dose given instead, with ``modify`` only, in the recommendation's unit.
        reason: in words; needed to modify, to accept what was deferred, and to replace a decision in force.

    Returns:
        The record: the earlier one if the same decision is in force.

    Raises:
        UserError: there is no such recommendation, the log is broken, a refusal is accepted, a reason or a
            dose is missing or one too many, or the dose is not within the hard limits, which cannot be
            overridden.
    """
    with log._locked() as file:
        records = log._verified(file).records
        about = next((record for record in records if record.number == number), None)
        if about is None or about.kind not in ("recommendation", "refusal"):
            raise UserError(f"record {number} of {log.path} is no recommendation.")
        given = _decided(about.content, action, dose, reason.strip())
        earlier = None
        for record in records:
            if record.kind in DECISIONS and concerns(
                about.content, records[record.content["record"] - 1].content
            ):
                earlier = record
        content: dict[str, Any] = {"record": number, "record_hash": about.line_hash}
        content |= {name: about.content[name] for name in ("patient", "visit") if name in about.content}
        content |= {"action": action, "dose": given, "reason": reason.strip()}
        if earlier is not None:
            if all(earlier.content[name] == content[name] for name in ("action", "dose", "reason")):
                return earlier
            if not content["reason"]:
                raise UserError(f"to replace the decision in force, record {earlier.number}, needs a reason.")
            content["replaces"] = earlier.number
        return log._append(file, "decision", content)


def _decided(
    shown: Mapping[str, Any], action: str, dose: Sequence[float] | None, reason: str
) -> list[float] | None:
    """The dose that a decision leads to, None for a rejection."""
    if action not in ACTIONS:
        raise UserError(f"a decision is accept, modify or reject, got {action!r}.")
    if action != "modify":
        if dose is not None:
            raise UserError(f"to {action} takes no dose; to give another one is to modify.")
        if action == "reject":
            return None
        if shown["dose"] is None:
            raise UserError("a refusal has no dose to accept.")
        if shown["status"] == "deferred" and not reason:
            raise UserError("to accept a dose that was deferred needs a reason.")
        return list(shown["dose"])
    if dose is None or not reason:
        raise UserError("to modify a dose needs the new dose and a reason.")
    low, high = shown["limits"]
    limits = DoseLimits(tuple(low), tuple(high), shown["unit"])
    try:
        given = [float(x) for x in dose]
    except (TypeError, ValueError):
        given = [math.nan]
    if len(given) != limits.n_act or not bool(limits.contains(given)):
        unit = "" if limits.unit == "1" else f" {limits.unit}"
        raise UserError(
            f"the new dose must be {limits.n_act} number(s) within the hard limits {list(low)} to "
            f"{list(high)}{unit}, which cannot be overridden; got {dose!r}{_hint(given, limits)}."
        )
    return given


def _hint(given: Sequence[float], limits: DoseLimits) -> str:
    """The unit that doses beyond the limits were probably meant in."""
    words = [
        meant(dose, limits.unit, low, high)
        for dose, low, high in zip(given, limits.low, limits.high, strict=False)
        if math.isfinite(dose) and not low <= dose <= high
    ]
    return "".join(f"; {word}" for word in words if word)


@dataclass(frozen=True)
class Counts:
    """How often what was shown and decided.

    Attributes:
        shown: states asked about one by one, by the status of the answer.
        tabled: rows of tables, likewise.
        decided: decisions by action.
    """

    shown: dict[str, int]
    tabled: dict[str, int]
    decided: dict[str, int]

    @property
    def alerts(self) -> int:
        """Answers to single states that were not ``ok``."""
        return sum(self.shown.values()) - self.shown.get("ok", 0)

    @property
    def overrides(self) -> int:
        """Decisions for something else than the dose shown."""
        return sum(self.decided.values()) - self.decided.get("accept", 0)


def count(records: Sequence[Record]) -> Counts:
    """Count what sound records say."""
    result = Counts({}, {}, dict.fromkeys(ACTIONS, 0))
    for record in records:
        content = record.content
        if record.kind in ("recommendation", "refusal"):
            result.shown[content["status"]] = result.shown.get(content["status"], 0) + 1
        elif record.kind == "batch":
            for status, rows in content["statuses"].items():
                result.tabled[status] = result.tabled.get(status, 0) + rows
        elif record.kind in DECISIONS:
            result.decided[content["action"]] += 1
    return result
