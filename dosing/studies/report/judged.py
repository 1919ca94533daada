"""What a comparison found, corrected for how many policies were compared, in numbers and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dosing.errors import UserError
from dosing.evaluation.aggregates import BY_T, holm, p_value
from dosing.evaluation.statistics import Estimate, Verdict, verdict
from dosing.studies.report.study import Compared, Trained, difference_from
from dosing.studies.report.svg import minus

ALPHA = 0.05
FEW = 12
"""Most policies of which each has a sentence; of more those without a difference share one."""


@dataclass(frozen=True)
class Judged:
    """A policy beside the reference.

    Attributes:
        one: the policy.
        other: what it is compared with, in words.
        difference: in return, paired by patient, with its own 95 % interval.
        p: of no difference, two-sided.
        adjusted: the same for all comparisons of the study together (Holm).
    """

    one: Trained
    other: str
    difference: Estimate
    p: float
    adjusted: float

    @property
    def alone(self) -> Verdict:
        """What its own interval says."""
        return verdict(self.difference)

    @property
    def verdict(self) -> Verdict:
        """What is left of it after the correction."""
        return self.alone if self.adjusted < ALPHA else "not distinguishable"

    def sentence(self, count: int) -> str:
        """What a reader may quote.

        Args:
            count: how many comparisons the correction is for.
        """
        e, patients = self.difference, self.one.row.recommended.n
        where = f"{self.one.title}, trained on {_trained_on(self.one)},"
        same = f"{self.other} on the same {patients:,} new simulated patients"
        corrected = f" after Holm's correction for {count} comparisons" if count > 1 else ""
        basis = f"({e.basis}; p {p_words(self.adjusted, '= ')}{corrected})"
        if self.verdict == "better":
            return f"{where} returned {minus(str(e))} more than {same} {basis}."
        if self.verdict == "worse":
            less = replace(e, value=-e.value, low=-e.high, high=-e.low)
            return f"{where} returned {minus(str(less))} less than {same} {basis}."
        return f"{where} is not distinguishable from {same}: the difference is {minus(str(e))} {basis}."


def judge(study: Compared, reference: str | None = None) -> tuple[list[Judged], list[str]]:
    """Every trained policy beside the constant dose, or beside the one that is named.

    Args:
        study: the comparison.
        reference: a name in the table, with its distribution in brackets where several have it; None is the
            estimated constant dose.

    Returns:
        The comparisons, and why others are not among them.

    Raises:
        UserError: no run, or several on one data set, have that name.
    """
    found, missing = [], []
    for data in study.names:
        here = study.on(data)
        other = None if reference is None else _named(here, reference, data)
        for one in here:
            if one is other:
                continue
            difference = one.row.difference if other is None else difference_from(one, other)
            if difference is None:
                base = one.row.baseline
                why = base.missing if base and base.missing else "there is no estimated constant dose"
                missing.append(f"{one.title} on {data} is not compared with a constant dose: {why}")
            elif difference.method not in BY_T:
                missing.append(
                    f"{one.title} on {data} has no p-value: its interval is by {difference.method}"
                )
            else:
                found.append((one, _constant(one) if other is None else other.title, difference))
    p = [p_value(difference) for _, _, difference in found]
    adjusted = holm(p).tolist() if p else []
    return [Judged(*f, p=own, adjusted=a) for f, own, a in zip(found, p, adjusted, strict=True)], missing


def sentences(judged: Sequence[Judged]) -> list[str]:
    """What a reader may quote: of many policies those without a difference share a sentence."""
    count = len(judged)
    order = ("better", "worse", "not distinguishable")
    told = [one for one in judged if count <= FEW or one.verdict != "not distinguishable"]
    told.sort(key=lambda one: order.index(one.verdict))
    rest = [one for one in judged if one not in told]
    lines = [one.sentence(count) for one in told]
    for other in dict.fromkeys((one.one.row.data, one.other) for one in rest):
        mine = [one for one in rest if (one.one.row.data, one.other) == other]
        names = ", ".join(f"{one.one.title} {minus(str(one.difference))}" for one in mine)
        lines.append(
            f"Not distinguishable from {other[1]} on the same new simulated patients, trained on "
            f"{_trained_on(mine[0].one)}, after Holm's correction for {count} comparisons: {names} "
            f"(difference in return, {mine[0].difference.basis})."
        )
    return lines


def p_words(p: float, equal: str = "") -> str:
    """A p-value in words; ``equal`` stands before one that is not below the least that is told."""
    return "< 0.001" if p < 0.001 else f"{equal}{p:.3f}"


def _trained_on(one: Trained) -> str:
    """The recorded patients, and the name of the data set."""
    return f"{one.config.data.patients:,} recorded patients ({one.row.data})"


def _constant(one: Trained) -> str:
    base = one.row.baseline
    assert base is not None
    return f"the constant dose {base.dose:.3g} estimated from the same recorded patients"


def _named(here: Sequence[Trained], name: str, data: str) -> Trained:
    """The run with this name."""
    found = [one for one in here if name in (one.title, one.row.name)]
    names = ", ".join(one.title for one in here)
    if not found:
        raise UserError(f"--reference {name!r} is no run on {data}; the runs are: {names}.")
    if len(found) > 1:
        raise UserError(f"--reference {name!r} is the name of several runs; write one of: {names}.")
    return found[0]
