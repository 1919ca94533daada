"""Model selection without the simulator: every candidate's return estimated from the same recorded patients.

The candidates are compared with the constant dose estimated from the same data, and all estimates share their
bootstrap replicates, so differences are paired by patient. Policies are taken as fixed: an interval says how
the estimate would move with other recorded patients, and not how the policy would move had it been trained on
them. A policy trained on the very patients it is evaluated on looks too good; keep some for this
(``split_patients``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from scipy.special import stdtrit

from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, Verdict, verdict
from dosing.ope.baselines import EstimatedConstant, estimated_constant
from dosing.ope.coverage import Coverage
from dosing.ope.features import StateFeatures
from dosing.ope.fqe import PolicyFeatures, Regression, check_criterion, fit, value
from dosing.ope.importance import (
    WeightDiagnostics,
    density_ratios,
    weighted_doubly_robust,
    weighted_importance,
    windowed_importance,
    windowed_weights,
)
from dosing.ope.neural import NeuralSettings, neural_values
from dosing.ope.targets import Target, target
from dosing.ope.trajectories import Behaviour, Trajectories, fold_of, patient_counts
from dosing.policy import DosePolicy
from dosing.types import Act, Array

Estimator = Literal["fqe", "neural_fqe", "wis", "wis_window", "wdr"]

BASELINE = "estimated_constant"
"""Name of the policy that every other is compared with; it is the first of the results."""


WEIGHING: frozenset[Estimator] = frozenset(("wis", "wis_window", "wdr"))
"""Estimators that need importance weights."""
NONE_LEFT = "in some bootstrap replicates no patient with a weight above 0 is left"


@dataclass(frozen=True)
class Settings:
    """What is estimated, and how."""

    discount: float = 1.0
    """Discount of the return; 1 adds rewards up."""
    horizon: int | None = None
    """Visits of the return; None for the longest recording."""
    estimators: tuple[Estimator, ...] = ("fqe", "wis", "wis_window", "wdr")
    """Which estimators; the first is the one to rank by."""
    sampled: bool = False
    """Evaluate trained stacks by doses drawn from their distribution, not by their recommended dose."""
    state: StateFeatures = "linear"
    """Features of the fitted values; see ``dosing.ope.features``."""
    ridge: float = 1.0
    """Ridge strength of the fitted values, relative to the visits; higher is flatter over states."""
    behaviour: Behaviour = "recorded"
    """Where importance weights take the density of the recorded doses from."""
    bandwidth: float = 0.3
    """Half-width of the kernel around a recommended dose, on the [-1, 1] axis; wider uses more patients and
    evaluates a more smoothed policy."""
    window: int = 2
    """Ratios that the windowed form multiplies."""
    folds: int = 5
    """Folds of patients of the doubly robust form."""
    replicates: int = 1000
    """Bootstrap replicates."""
    neural_replicates: int = 20
    """Bootstrap replicates of the neural form, each a network of its own."""
    neural: NeuralSettings = field(default_factory=NeuralSettings)
    """How these are trained."""
    confidence: float = 0.95
    """Level of the intervals."""
    seed: int = 0
    """Of replicates, folds and networks."""

    def check(self, patients: int, visits: int) -> int:
        """Refuse settings that cannot work on so many patients and visits; returns the horizon.

        Raises:
            UserError: see the single settings.
        """
        unknown = sorted(set(self.estimators) - set(get_args(Estimator)))
        if unknown or not self.estimators:
            raise UserError(f"estimators are {', '.join(get_args(Estimator))}; got {list(self.estimators)}.")
        if not 0.0 < self.confidence < 1.0 or self.replicates * (1.0 - self.confidence) < 2.0:
            raise UserError(
                f"{self.replicates} replicates cannot place limits at confidence {self.confidence:g}; "
                "give 1000 or more and a confidence between 0 and 1."
            )
        if self.neural_replicates < 2:
            raise UserError(f"neural replicates must be at least 2, got {self.neural_replicates}.")
        if patients < 2:
            raise UserError("one recorded patient has no spread to make an interval from; give at least 2.")
        horizon = visits if self.horizon is None else self.horizon
        check_criterion(self.discount, horizon)
        if "wis_window" in self.estimators and not 1 <= self.window <= horizon:
            raise UserError(f"the window must be 1 to {horizon} visits, got {self.window}.")
        return horizon


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


@dataclass(frozen=True)
class Selection:
    """The result of :func:`evaluate_policies`.

    Attributes:
        policies: the estimated constant first, then the candidates in the order given.
        baseline: the estimated constant dose; the median recorded one, by which nothing is judged, where the
            rewards say nothing about doses.
        patients: N.
        horizon: visits of the return.
        behaviour: where the density of the recorded doses comes from, in words.
        settings: how it was done.
    """

    policies: tuple[PolicyValue, ...]
    baseline: EstimatedConstant
    patients: int
    horizon: int
    behaviour: str
    settings: Settings

    def ranking(self, estimator: Estimator | None = None) -> list[PolicyValue]:
        """Policies with a number by one estimator (None: the first asked for), best first."""
        by = estimator or self.settings.estimators[0]
        valued = [(p.values[by].estimate, p) for p in self.policies]
        known = [(estimate.value, k, p) for k, (estimate, p) in enumerate(valued) if estimate is not None]
        return [p for _, _, p in sorted(known, key=lambda item: (-item[0], item[1]))]


def evaluate_policies(
    episodes: Episodes,
    candidates: Sequence[tuple[str, Act | DosePolicy]],
    settings: Settings | None = None,
    baseline: EstimatedConstant | None = None,
) -> Selection:
    """Estimate the return of every candidate from recorded visits, beside the estimated constant dose.

    Args:
        episodes: recorded visits, best of patients no candidate was trained on; one dose dimension.
        candidates: name and policy: an act function of the state alone, ``[S, P, O] -> [S, P, A]`` (also for
            S = 1), or a trained stack.
        settings: what is estimated, and how.
        baseline: the constant dose to compare with; None estimates it from these visits.

    Raises:
        UserError: the data or settings cannot be used, or two candidates share a name or take the baseline's.
    """
    settings = settings or Settings()
    names = [name for name, _ in candidates]
    if len(set(names)) < len(names) or BASELINE in names:
        raise UserError(f"candidates need different names, none of them {BASELINE!r}; got {names}.")
    data = Trajectories.from_episodes(episodes, behaviour=settings.behaviour)
    evaluation = _Evaluation(data, settings)
    best = baseline or estimated_constant(data)
    rules: list[tuple[str, Act | DosePolicy]] = [(BASELINE, best), *candidates]
    result: list[PolicyValue] = []
    base: dict[Estimator, Valuation] | None = None
    for name, rule in rules:
        policy = target(rule, data.transform, sampled=settings.sampled, bandwidth=settings.bandwidth)
        valued = evaluation.policy(name, policy, base or {})
        if base is None:
            base = valued.values if best.identified else {}
        result.append(valued)
    return Selection(tuple(result), best, data.patients, evaluation.horizon, data.behaviour, settings)


@dataclass(frozen=True)
class _Weights:
    """Full products ``[S, N, H]``, windowed ones ``[S, N, H - window + 1]``, and what they rest on."""

    full: Array
    windowed: Array
    diagnostics: WeightDiagnostics


class _Evaluation:
    """What all candidates share: features, replicates, folds."""

    def __init__(self, data: Trajectories, settings: Settings) -> None:
        self.data, self.settings = data, settings
        self.horizon = settings.check(data.patients, data.visits)
        self.counts = patient_counts(data.patients, settings.replicates, settings.seed)
        self.regression = Regression(data, settings.ridge, settings.state)
        self.inverse = self.regression.solver(self.counts)
        self.coverage = Coverage.of(data, settings.discount, self.horizon)

    def policy(self, name: str, policy: Target, base: dict[Estimator, Valuation]) -> PolicyValue:
        """Estimate one policy; ``base`` holds the values that it is compared with, where it is."""
        unrecorded = self.coverage.unrecorded(policy)
        values: dict[Estimator, Valuation] = {}
        weights = None
        if (reason := self.coverage.refusal(unrecorded)) is not None:
            values = dict.fromkeys(self.settings.estimators, Valuation(refused=reason))
        else:
            weights, refusals = self._weights(policy)
            features = PolicyFeatures.of(self.regression, policy)
            excess = self.coverage.excess(unrecorded)
            for estimator in self.settings.estimators:
                if estimator in refusals:
                    values[estimator] = Valuation(refused=refusals[estimator])
                    continue
                drawn = self._replicates(estimator, policy, features, weights)
                values[estimator] = self._valuation(estimator, drawn, base.get(estimator), excess)
        fqe, wdr = (values[k].estimate if k in values else None for k in ("fqe", "wdr"))
        off_support = policy.off_support(self.data.obs[self.data.recorded > 0])
        return PolicyValue(
            name=name,
            description=policy.description,
            values=values,
            weights=weights.diagnostics if weights else None,
            off_support=float(off_support.mean()),
            gap=fqe.value - wdr.value if fqe and wdr else None,
            unrecorded=float(unrecorded.max()),
        )

    def _weights(self, policy: Target) -> tuple[_Weights | None, dict[Estimator, str]]:
        """Importance weights, and why an estimator that needs them has no number."""
        if not WEIGHING & set(self.settings.estimators):
            return None, {}
        try:
            ratios = density_ratios(self.data, policy, self.horizon)
        except UserError as error:
            return None, dict.fromkeys(WEIGHING, str(error))
        full, windowed = ratios.cumprod(-1), windowed_weights(ratios, self.settings.window)
        result = WeightDiagnostics.of(full, windowed.reshape(len(windowed), -1))
        reasons: dict[Estimator, str | None] = {
            "wis": result.refusal(),
            "wdr": result.refusal(),
            "wis_window": result.window_refusal(),
        }
        refusals: dict[Estimator, str] = {k: reason for k, reason in reasons.items() if reason is not None}
        return _Weights(full, windowed, result), refusals

    def _replicates(
        self, estimator: Estimator, policy: Target, features: PolicyFeatures, weights: _Weights | None
    ) -> Array:
        """Estimates ``[R + 1, S]`` of one estimator that has not been refused."""
        data, counts, chosen = self.data, self.counts, self.settings
        discount, horizon = chosen.discount, self.horizon
        if estimator == "fqe":
            inverse = self.inverse
            theta = fit(
                self.regression, features, counts, discount=discount, horizon=horizon, inverse=inverse
            )
            return value(features, theta[-1], counts)
        if estimator == "neural_fqe":
            some = counts[: chosen.neural_replicates + 1]
            network = chosen.neural
            return neural_values(
                data, policy, some, discount=discount, horizon=horizon, settings=network, seed=chosen.seed
            )
        assert weights is not None, "an estimator whose weights are not known was refused"
        if estimator == "wis":
            return weighted_importance(data, weights.full, counts, discount)
        if estimator == "wis_window":
            return windowed_importance(data, weights.windowed, counts, discount, horizon)
        folds = fold_of(data.patients, chosen.folds, chosen.seed)
        return weighted_doubly_robust(self.regression, features, weights.full, counts, folds, discount)

    def _valuation(
        self, estimator: Estimator, replicates: Array, base: Valuation | None, excess: float
    ) -> Valuation:
        """The answer from replicates ``[R + 1, S]``, the data themselves first."""
        if not np.isfinite(replicates).all():
            return Valuation(refused=NONE_LEFT)
        if (reason := self.coverage.impossible(replicates[0])) is not None:
            return Valuation(refused=reason)
        within = self.coverage.within(replicates)
        n_seeds, drawn = within.shape[1], within.mean(1)
        below, above = unknown = self.coverage.unknown(float(drawn[0]), excess)
        difference = None
        if base is not None and base.drawn is not None:
            less, more = base.unknown
            difference = widened(
                self._estimate(estimator, drawn - base.drawn, n_seeds), below + more, above + less
            )
        return Valuation(
            estimate=widened(self._estimate(estimator, drawn, n_seeds), below, above),
            seeds=tuple(within[0].tolist()),
            difference=difference,
            verdict=verdict(difference) if difference else None,
            drawn=drawn,
            unknown=unknown,
        )

    def _estimate(self, estimator: Estimator, drawn: Array, n_seeds: int) -> Estimate:
        """Point value and interval from replicates ``[R + 1]``."""
        point, replicates, level = float(drawn[0]), drawn[1:], self.settings.confidence
        if estimator == "neural_fqe":  # too few for percentiles
            half = float(stdtrit(len(replicates) - 1, 0.5 + level / 2) * replicates.std(ddof=1))
            low, high = point - half, point + half
            method = f"t, spread of {len(replicates)} patient-bootstrap refits"
        else:
            low, high = (float(x) for x in np.quantile(replicates, [0.5 - level / 2, 0.5 + level / 2]))
            method = "patient bootstrap"
        return Estimate(point, low, high, level, self.data.patients, n_seeds, method)


def widened(estimate: Estimate, below: float, above: float) -> Estimate:
    """An estimate whose interval reaches further, for want of recorded doses near the policy's."""
    if below == 0.0 and above == 0.0:
        return estimate
    method = f"{estimate.method}, widened for doses with none recorded near"
    return replace(estimate, low=estimate.low - below, high=estimate.high + above, method=method)
