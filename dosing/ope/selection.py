"""Model selection without the simulator: every candidate's return estimated from the same recorded patients.

The candidates are compared with the constant dose estimated from the same data, and all estimates share their
bootstrap replicates, so differences are paired by patient. Policies are taken as fixed: an interval says how
the estimate would move with other recorded patients, and not how the policy would move had it been trained on
them. A policy trained on the very patients it is evaluated on looks too good; keep some for this
(``split_patients``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
from scipy.special import stdtrit
from tqdm import tqdm

from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, verdict
from dosing.ope.baselines import EstimatedConstant, estimated_constant
from dosing.ope.coverage import CHECKED, Coverage
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
from dosing.ope.model_based import Imagination, fit_models
from dosing.ope.neural import NeuralSettings, neural_values
from dosing.ope.targets import Target, doses_after, looks_back, target
from dosing.ope.trajectories import Behaviour, Trajectories, fold_of, patient_counts
from dosing.ope.values import Estimator, PolicyValue, Valuation, widened
from dosing.policy import DosePolicy
from dosing.types import Act, Array

BASELINE = "estimated_constant"
"""Name of the policy that every other is compared with; it is the first of the results."""


WEIGHING: frozenset[Estimator] = frozenset(("wis", "wis_window", "wdr"))
"""Estimators that need importance weights."""
OF_EPISODES: frozenset[Estimator] = frozenset(("model_based",))
"""Estimators of policies that look back on a patient's episode too."""
REFITTED: frozenset[Estimator] = frozenset(("neural_fqe", "model_based"))
"""Estimators with a few replicates, each fitted anew: their intervals are t, of the replicates' spread."""
FEWEST_MODELS = 2
"""Fewest replicates of the model-based form."""
FOLLOWED = "recommended or drawn dose after every recorded episode"
LOOKS_BACK = (
    "the policy looks back on the episode before a visit, and this values policies of the state alone"
)
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
    model_replicates: int = 50
    """Bootstrap replicates of the model-based form, each with models of its own."""
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
        if self.model_replicates < FEWEST_MODELS:
            raise UserError(
                f"model replicates must be at least {FEWEST_MODELS}, got {self.model_replicates}."
            )
        if patients < 2:
            raise UserError("one recorded patient has no spread to make an interval from; give at least 2.")
        horizon = visits if self.horizon is None else self.horizon
        check_criterion(self.discount, horizon)
        if "wis_window" in self.estimators and not 1 <= self.window <= horizon:
            raise UserError(f"the window must be 1 to {horizon} visits, got {self.window}.")
        return horizon


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
    progress: tqdm[Any] | None = None,
) -> Selection:
    """Estimate the return of every candidate from recorded visits, beside the estimated constant dose.

    Args:
        episodes: recorded visits, best of patients no candidate was trained on; one dose dimension.
        candidates: name and policy: an act function of the state alone, ``[S, P, O] -> [S, P, A]`` (also for
            S = 1), or a trained stack.
        settings: what is estimated, and how.
        baseline: the constant dose to compare with; None estimates it from these visits.
        progress: a bar to advance by policies, the constant dose included, or None.

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
        valued = evaluation.policy(name, rule, base or {})
        if base is None:
            base = valued.values if best.identified else {}
        result.append(valued)
        if progress is not None:
            progress.update()
    return Selection(tuple(result), best, data.patients, evaluation.horizon, data.behaviour, settings)


@dataclass(frozen=True)
class _Weights:
    """Full products ``[S, N, H]``, windowed ones ``[S, N, H - window + 1]``, and what they rest on."""

    full: Array
    windowed: Array
    diagnostics: WeightDiagnostics


class _Evaluation:
    """What all candidates share: features, replicates, folds, models of the patients."""

    def __init__(self, data: Trajectories, settings: Settings) -> None:
        self.data, self.settings = data, settings
        self.horizon = settings.check(data.patients, data.visits)
        self.counts = patient_counts(data.patients, settings.replicates, settings.seed)
        self.regression = Regression(data, settings.ridge, settings.state)
        self.inverse = self.regression.solver(self.counts)
        self.coverage = Coverage.of(data, settings.discount, self.horizon)

    @cached_property
    def imagination(self) -> Imagination | str:
        """Models of the patients and of replicates of them; or why they would value nothing."""
        data, chosen = self.data, self.settings
        (models,) = fit_models([data], self.counts[None, : chosen.model_replicates + 1])
        if isinstance(models, str):
            return models
        return Imagination(models, data.transform, chosen.discount, self.horizon, chosen.seed)

    def policy(self, name: str, rule: Act | DosePolicy, base: Mapping[Estimator, Valuation]) -> PolicyValue:
        """Estimate one policy; ``base`` holds the values that it is compared with, where it is."""
        policy = self._target(rule)
        unrecorded = self._unrecorded(rule, policy)
        off_support = policy.off_support(self.data.obs[self.data.recorded > 0]).mean() if policy else 0.0
        values: dict[Estimator, Valuation] = {}
        weights = None
        if (reason := self.coverage.refusal(unrecorded)) is not None:
            values = dict.fromkeys(self.settings.estimators, Valuation(refused=reason))
        else:
            weights, refusals = self._weights(policy)
            features = PolicyFeatures.of(self.regression, policy) if policy else None
            excess = self.coverage.excess(unrecorded)
            for estimator in self.settings.estimators:
                if estimator in refusals:
                    values[estimator] = Valuation(refused=refusals[estimator])
                    continue
                drawn = (
                    self._replicates_of_state(estimator, policy, features, weights)
                    if policy and features and estimator not in OF_EPISODES
                    else self._imagined(rule)
                )
                values[estimator] = self._valuation(estimator, drawn, base.get(estimator), excess)
        fqe, wdr = (values[k].estimate if k in values else None for k in ("fqe", "wdr"))
        return PolicyValue(
            name=name,
            description=policy.description if policy else FOLLOWED,
            values=values,
            weights=weights.diagnostics if weights else None,
            off_support=float(off_support),
            gap=fqe.value - wdr.value if fqe and wdr else None,
            unrecorded=float(unrecorded.max()),
        )

    def _target(self, rule: Act | DosePolicy) -> Target | None:
        """The rule as a policy of the state alone; None for one that looks back."""
        if looks_back(rule):
            return None
        chosen = self.settings
        return target(rule, self.data.transform, sampled=chosen.sampled, bandwidth=chosen.bandwidth)

    def _unrecorded(self, rule: Act | DosePolicy, policy: Target | None) -> Array:
        """Share ``[S]`` of the doses near which none was recorded, of one that looks back on its patients."""
        if policy is not None:
            return self.coverage.unrecorded(policy)
        assert isinstance(rule, DosePolicy), "only trained policies look back"
        return self.coverage.share(*doses_after(rule, self.data, CHECKED))

    def _weights(self, policy: Target | None) -> tuple[_Weights | None, dict[Estimator, str]]:
        """Importance weights, and why an estimator has no number."""
        asked = set(self.settings.estimators)
        refusals: dict[Estimator, str] = {}
        if "model_based" in asked and isinstance(self.imagination, str):
            refusals["model_based"] = self.imagination
        if policy is None:
            return None, dict.fromkeys(asked - OF_EPISODES, LOOKS_BACK) | refusals
        if not WEIGHING & asked:
            return None, refusals
        try:
            ratios = density_ratios(self.data, policy, self.horizon)
        except UserError as error:
            return None, dict.fromkeys(WEIGHING, str(error)) | refusals
        full, windowed = ratios.cumprod(-1), windowed_weights(ratios, self.settings.window)
        result = WeightDiagnostics.of(full, windowed.reshape(len(windowed), -1))
        reasons: dict[Estimator, str | None] = {
            "wis": result.refusal(),
            "wdr": result.refusal(),
            "wis_window": result.window_refusal(),
        }
        refusals |= {k: reason for k, reason in reasons.items() if reason is not None}
        return _Weights(full, windowed, result), refusals

    def _imagined(self, rule: Act | DosePolicy) -> Array:
        """Estimates ``[R' + 1, S]`` by roll-outs in models that have not been refused."""
        assert not isinstance(self.imagination, str), "an estimator whose models were refused was refused"
        return self.imagination.values(rule, sampled=self.settings.sampled)

    def _replicates_of_state(
        self, estimator: Estimator, policy: Target, features: PolicyFeatures, weights: _Weights | None
    ) -> Array:
        """Estimates ``[R + 1, S]`` of one estimator of policies of the state that has not been refused."""
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
        if estimator in REFITTED:  # too few for percentiles
            half = float(stdtrit(len(replicates) - 1, 0.5 + level / 2) * replicates.std(ddof=1))
            low, high = point - half, point + half
            method = f"t, spread of {len(replicates)} patient-bootstrap refits"
        else:
            low, high = (float(x) for x in np.quantile(replicates, [0.5 - level / 2, 0.5 + level / 2]))
            method = "patient bootstrap"
        return Estimate(point, low, high, level, self.data.patients, n_seeds, method)
