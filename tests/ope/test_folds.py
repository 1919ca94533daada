"""Cross-validated values: pooled as by hand, corrected for the number tried, refused where a fold is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.evaluation.rules import constant
from dosing.ope.baselines import estimated_constant
from dosing.ope.folds import Fold, enough_replicates, evaluate_folds
from dosing.ope.fqe import PolicyFeatures, Regression, fit, value
from dosing.ope.selection import BASELINE, Settings
from dosing.ope.targets import RecommendedDose
from dosing.ope.trajectories import Trajectories, fold_patients, patient_counts
from tests.ope.ope_problems import TwoStates, linear_system, two_states

FQE = Settings(estimators=("fqe",), replicates=400)


def by_state(obs: np.ndarray[Any, Any], visit: int) -> np.ndarray[Any, Any]:
    """The best dose of one visit in the two-state problem."""
    return 0.5 * obs


def folds(recorded: Episodes, count: int, policies: Mapping[str, Any]) -> list[Fold]:
    return [Fold(*part, policies) for part in fold_patients(recorded, count)]


def test_every_patient_is_held_out_once_and_trains_all_other_folds() -> None:
    recorded = two_states(11, 3)
    parts = fold_patients(recorded, 3, seed=1)
    held = [np.unique(own.episode) for _, own in parts]
    assert sorted(np.concatenate(held)) == list(range(11))
    assert sorted(map(len, held)) == [3, 4, 4]
    for (training, own), numbers in zip(parts, held, strict=True):
        assert set(np.unique(training.episode)) == set(range(11)) - set(numbers)
        assert len(training) + len(own) == len(recorded)
        assert training.content_hash() == training.metadata.content_hash
    other = np.unique(fold_patients(recorded, 3, seed=2)[0][1].episode)
    assert not np.array_equal(held[0], other)


def fitted(data: Trajectories, counts: np.ndarray[Any, Any], dose: float) -> np.ndarray[Any, Any]:
    """Value of a constant dose in every replicate, from the parts of fitted Q evaluation."""
    regression = Regression(data)
    features = PolicyFeatures.of(regression, RecommendedDose(constant(dose), data.transform))
    theta = fit(regression, features, counts, discount=0.9, horizon=3)[-1]
    return value(features, theta, counts)[:, 0]


def test_pooled_numbers_are_those_of_the_folds_by_hand() -> None:
    """Unequal folds; the baseline is the training patients' constant dose, the spread is that of N draws."""
    recorded = linear_system(23, 3)
    settings = replace(FQE, discount=0.9, seed=2)
    result = evaluate_folds(folds(recorded, 3, {"half": constant(0.5)}), settings, candidates=4)
    sizes, points, around, doses = [], [], [], []
    for k, (training, own) in enumerate(fold_patients(recorded, 3)):
        doses.append(estimated_constant(Trajectories.from_episodes(training)).dose)
        data = Trajectories.from_episodes(own)
        counts = patient_counts(data.patients, 400, 2 * 3 + k)
        half, best = (fitted(data, counts, dose) for dose in (0.5, doses[-1]))
        gain = half - best
        sizes.append(data.patients)
        points.append(gain[0])
        around.append(np.sqrt(data.patients / (data.patients - 1)) * (gain[1:] - gain[0]))
    share = np.array(sizes) / 23
    pooled = result.values["half"]["fqe"]
    assert pooled.difference is not None
    assert pooled.folds == pytest.approx(points)
    assert result.doses == pytest.approx(doses)
    assert pooled.difference.value == pytest.approx(share @ points)
    limits = np.quantile(share @ points + share @ around, [0.05 / 8, 1 - 0.05 / 8])
    assert (pooled.difference.low, pooled.difference.high) == pytest.approx(limits)
    assert (pooled.difference.level, pooled.difference.n, result.patients, result.candidates) == (
        0.95,
        23,
        23,
        4,
    )
    assert pooled.difference.method == "patient bootstrap within folds, Bonferroni for 4 candidates"
    assert pooled.estimate is not None
    constant_value = result.values[BASELINE]["fqe"]
    assert constant_value.estimate is not None
    assert constant_value.difference is None
    assert pooled.estimate.value - constant_value.estimate.value == pytest.approx(pooled.difference.value)


def test_a_rule_of_the_state_is_found_better_and_a_wrong_dose_worse() -> None:
    recorded = two_states(240, 4, seed=1)
    policies = {"state": by_state, "far": constant(-0.8)}
    result = evaluate_folds(folds(recorded, 4, policies), replace(FQE, ridge=0.01))
    verdicts = {name: result.values[name]["fqe"].verdict for name in policies}
    assert verdicts == {"state": "better", "far": "worse"}
    exact = TwoStates({-1: (-0.5, 0.25), 1: (0.5, 0.25)}).value(4, 1.0)
    estimate = result.values["state"]["fqe"].estimate
    assert estimate is not None
    assert estimate.low < exact < estimate.high


def test_more_candidates_make_wider_intervals_of_the_same_numbers() -> None:
    parts = folds(linear_system(30, 3), 3, {"half": constant(0.5)})
    alone, among = (evaluate_folds(parts, FQE, candidates=c).values["half"]["fqe"] for c in (1, 40))
    assert alone.estimate == among.estimate
    assert alone.difference is not None
    assert among.difference is not None
    assert among.difference.value == alone.difference.value
    assert among.difference.low < alone.difference.low < alone.difference.high < among.difference.high
    assert "Bonferroni" not in alone.difference.method
    assert (enough_replicates(1), enough_replicates(40)) == (2000, 8000)


def test_folds_draw_their_replicates_independently() -> None:
    """Folds that hold the same visits: common draws would leave the spread of one fold."""
    recorded = linear_system(20, 3)
    fold = Fold(recorded, recorded, {"half": constant(0.5)})
    spread = []
    for count in (2, 8):
        difference = (
            evaluate_folds([fold] * count, replace(FQE, replicates=2000)).values["half"]["fqe"].difference
        )
        assert difference is not None
        spread.append(difference.high - difference.low)
    assert spread[1] == pytest.approx(spread[0] / 2, rel=0.15)


def test_an_estimator_refused_in_one_fold_gives_no_number() -> None:
    recorded = two_states(240, 3)
    unknown = np.where(recorded.episode == 7, np.nan, recorded.behaviour_log_prob).astype(np.float32)
    settings = replace(FQE, estimators=("fqe", "wis"))
    result = evaluate_folds(
        folds(replace(recorded, behaviour_log_prob=unknown), 2, {"zero": constant(0.0)}), settings
    )
    zero = result.values["zero"]
    assert zero["fqe"].difference is not None
    assert (zero["wis"].estimate, zero["wis"].difference, zero["wis"].verdict) == (None, None, None)
    assert "3 of 360 recorded doses" in str(zero["wis"].refused)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts[:1], "two or more folds"),
        (lambda parts: [], "two or more folds"),
        (lambda parts: [parts[0], replace(parts[1], policies={})], "policies of the same names"),
        (
            lambda parts: [parts[0], replace(parts[1], held_out=two_states(1, 3))],
            "patients of fold 2 .*one re",
        ),
    ],
)
def test_folds_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    parts = folds(two_states(12, 3), 2, {"zero": constant(0.0)})
    with pytest.raises(UserError, match=message):
        evaluate_folds(change(parts), FQE)


def test_patients_whose_resamples_determine_no_parabola_are_refused() -> None:
    with pytest.raises(UserError, match="fold 1 value no policy"):
        evaluate_folds(folds(two_states(6, 1), 2, {"zero": constant(0.0)}), FQE)


def test_networks_are_refused_for_their_few_replicates() -> None:
    parts = folds(two_states(12, 3), 2, {"zero": constant(0.0)})
    with pytest.raises(UserError, match="neural_fqe has too few"):
        evaluate_folds(parts, replace(FQE, estimators=("neural_fqe",)))
