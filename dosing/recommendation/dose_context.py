"""What goes wherever a policy's dose goes: what following the policy was worth, and the decision in force.

A page, a printout, a file and the command line all take their words from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dosing.data.earlier_visits import EarlierVisits
from dosing.evaluation.statistics import Estimate
from dosing.recommendation.audit_log import seen, state_hash
from dosing.recommendation.decisions import Decision, state_key
from dosing.recommendation.reasons import Status
from dosing.types import Array


@dataclass(frozen=True)
class Evidence:
    """What following a policy was measured to be worth on new simulated patients, beside a constant dose.

    Attributes:
        unit: of the dose.
        verdict: ``better``, ``worse`` or ``not distinguishable``; empty where there is none.
        difference: return of the policy minus that of the constant dose, paired by patient.
        constant: the dose for everyone, estimated from the same recorded patients.
        patients: recorded patients that it was estimated from.
        missing: why there is no verdict; empty where there is one.
    """

    unit: str = "1"
    verdict: str = ""
    difference: Estimate | None = None
    constant: float | None = None
    patients: int = 0
    missing: str = "not measured on new patients yet: do not follow"


@dataclass(frozen=True)
class DoseContext:
    """What stands beside a dose.

    Attributes:
        evidence: what following the policy was worth.
        decision: in force on this recommendation; None if nothing was decided.
    """

    evidence: Evidence
    decision: Decision | None = None

    @property
    def lines(self) -> tuple[tuple[Literal["good", "caution", "decision"], str], ...]:
        """Sentences in the order in which they matter, each with what kind it is."""
        good: Literal["good", "caution"] = "good" if self.evidence.verdict == "better" else "caution"
        first = (good, verdict_words(self.evidence))
        if self.decision is None:
            return (first,)
        return (("decision", f"Decision in force: {decision_words(self.decision)}"), first)


WORTH = {
    "better": "better than one constant dose",
    "worse": "worse than one constant dose",
    "not distinguishable": "not distinguishable from one constant dose",
}
STATES: dict[Status, str] = {
    "ok": "Dose within limits",
    "limited": "Held at a limit",
    "deferred": "DEFERRED: not advice",
    "refused": "REFUSED: no dose.",
}


def status_words(status: Status, evidence: Evidence) -> tuple[Literal["good", "caution", "grey"], str]:
    """The one status of a dose, with its kind: what its limits say, and what its policy was worth.

    It is good only where the dose was not limited and following its policy was better than one constant dose.

    Args:
        status: of the recommendation.
        evidence: of the policy.
    """
    if status in ("deferred", "refused"):
        return "grey", STATES[status]
    good = status == "ok" and evidence.verdict == "better"
    worth = WORTH.get(evidence.verdict, "not compared with one constant dose")
    return "good" if good else "caution", f"{STATES[status]} · {worth}"


def verdict_words(evidence: Evidence) -> str:
    """The verdict on a policy in one sentence, beginning with it."""
    if evidence.difference is None or evidence.constant is None:
        return f"No verdict: {evidence.missing.rstrip('.')}."
    result, unit = evidence.difference, evidence.unit
    seeds = result.n_seeds or 1
    sample = f"{_counted(result.n // seeds, 'new simulated patient')} x {_counted(seeds, 'seed')}"
    than = " from" if evidence.verdict.startswith("not") else " than"
    dose = f"{evidence.constant:.4g}".replace("-", "\N{MINUS SIGN}") + _after(unit)
    return (
        f"{evidence.verdict.capitalize()}{than} one constant dose of {dose} estimated from the same "
        f"{_counted(evidence.patients, 'patient')}: on {sample}, following it was worth "
        f"{_more_or_less(result)}."
    )


def worth_words(evidence: Evidence) -> str:
    """By how much following the policy was better or worse, in short; empty where that is not known."""
    if evidence.difference is None or evidence.constant is None:
        return ""
    return f"Following it: {_more_or_less(evidence.difference, ' return')}"


def _more_or_less(result: Estimate, what: str = "") -> str:
    """A difference with its interval, without signs."""
    places = max(decimals(result.high - result.low) - 2, 1)
    word = "less" if result.value < 0 else "more"
    near, far = sorted((result.low, result.high), key=abs)
    if result.low < 0 < result.high:
        ends = f"{fixed(-result.low, places)} less to {fixed(result.high, places)} more"
    else:
        ends = f"{fixed(abs(near), places)}, {fixed(abs(far), places)}"
    return f"{fixed(abs(result.value), places)} {word}{what} [{ends}]"


def decision_words(decision: Decision) -> str:
    """A decision in one sentence: on whom, what, instead of what, why, which it replaces, where recorded."""
    asked = decision.asked
    low, high = asked["limits"]
    places = decimals(max(b - a for a, b in zip(low, high, strict=True)))

    def dose(values: Sequence[float]) -> str:
        return ", ".join(fixed(v, places) for v in values) + _after(asked["unit"])

    what = {"accept": "accepted", "modify": "another dose", "reject": "rejected"}[decision.action]
    if decision.dose is not None:
        what += f", {dose(decision.dose)}"
    if decision.action == "modify" and asked["dose"] is not None:
        what += f" instead of {dose(asked['dose'])}"
    reason = "".join(c if c.isprintable() else " " for c in decision.reason)
    when = decision.time[:16].replace("T", " ")
    earlier = f", replaces record {decision.replaces}" if decision.replaces else ""
    return (
        f"{decision.about}: {what}.{f' Reason: {reason}.' if reason else ''} "
        f"(audit record {decision.number}, {when} UTC{earlier})"
    )


class DecidedStates:
    """Decisions in force on one policy, found by state: for tables, whose rows have no patient.

    Args:
        decisions: of a log, oldest first.
        weights: hash of the policy's weights.
    """

    def __init__(self, decisions: Sequence[Decision], weights: object) -> None:
        mine = [d for d in decisions if d.asked["provenance"].get("weights") == weights]
        self._by_state = {state_key(decision.asked): decision for decision in mine}

    def of(
        self, states: Array, current: Array | None, earlier: EarlierVisits | None = None
    ) -> NDArray[np.object_]:
        """Sentence of the decision in force on each row ``[M]``; None where there is none.

        Args:
            states: ``[M, O]``.
            current: doses given now ``[M, A]``, where they are told.
            earlier: visits before each row that the policy looked back at.
        """
        result = np.full(len(states), None, dtype=object)
        if self._by_state:
            told = states if current is None else np.concatenate([states, current], axis=1)
            for row, numbers in enumerate(told.tolist()):
                before = {} if earlier is None else {"earlier": visits_in_json(earlier, row)}
                decision = self._by_state.get(state_hash(seen({"state": numbers} | before)))
                if decision is not None:
                    result[row] = decision_words(decision)
        return result


def visits_in_json(earlier: EarlierVisits, row: int) -> list[dict[str, Any]]:
    """The visits before one state as JSON keeps them, see ``dosing.recommendation.records.EarlierVisit``."""
    obs, dose, reward = (column[0].tolist() for column in earlier[row : row + 1].past())
    return [
        {"state": s, "dose": d, "reward": r if math.isfinite(r) else None}
        for s, d, r in zip(obs, dose, reward, strict=True)
    ]


def decimals(span: float) -> int:
    """Decimals that resolve a thousandth of ``span``, for the numbers on one dose axis."""
    return min(max(3 - math.floor(math.log10(span)), 0), 6) if span > 0 else 3


def fixed(value: float, places: int = 3) -> str:
    """A number with fixed decimals and a real minus sign; minus zero is zero."""
    return f"{value:z.{places}f}".replace("-", "\N{MINUS SIGN}")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _after(unit: str) -> str:
    return "" if unit in ("", "1") else f" {unit}"
