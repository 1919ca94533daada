"""What off-policy estimators answer of one policy: numbers with intervals, or reasons why there are none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from dosing.evaluation.statistics import Estimate, Verdict
from dosing.ope.importance import WeightDiagnostics
from dosing.types import Array

Estimator = Literal["fqe", "neural_fqe", "wis", "wis_window", "wdr", "model_based"]


@dataclass(frozen=True)
class Valuation:
    """One estimator's answer for one policy: a number with its interval, or the reason why there is none.

    Attributes:
        estimate: return of the policy, mean over its seeds, in the data's unit.
        seeds: estimate of each seed ``[S]``; empty where refused.
        difference: the policy's return minus that of the estimated constant dose, paired by patient; None
            where the rewards tell no such dose.
        verdict: what the difference says.
        refused: why there is no number.
        drawn: the estimate in every bootstrap replicate ``[R + 1]``, of the data themselves first; replicate
            r of every policy is of the same patients.
        unknown: how far below and above the return may lie besides, for want of recorded doses near the
            policy's; part of the intervals.
    """

    estimate: Estimate | None = None
    seeds: tuple[float, ...] = ()
    difference: Estimate | None = None
    verdict: Verdict | None = None
    refused: str | None = None
    drawn: Array | None = field(default=None, repr=False, compare=False)
    unknown: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class PolicyValue:
    """Everything estimated of one policy.

    Attributes:
        name: of the policy.
        description: what was evaluated: recommended or drawn dose, and its smoothing.
        values: by estimator.
        weights: how many patients the importance weights rest on; None where there are none.
        off_support: mean probability, over recorded visits and seeds, of doses of which importance weights
            know nothing: draws delivered exactly at a hard limit.
        gap: fitted Q evaluation minus doubly robust, where both gave a number.
        unrecorded: share of its doses at recorded states near which none was recorded, largest over seeds.
    """

    name: str
    description: str
    values: dict[Estimator, Valuation]
    weights: WeightDiagnostics | None
    off_support: float
    gap: float | None
    unrecorded: float


def widened(estimate: Estimate, below: float, above: float) -> Estimate:
    """An estimate whose interval reaches further, for want of recorded doses near the policy's."""
    if below == 0.0 and above == 0.0:
        return estimate
    method = f"{estimate.method}, widened for doses with none recorded near"
    return replace(estimate, low=estimate.low - below, high=estimate.high + above, method=method)
