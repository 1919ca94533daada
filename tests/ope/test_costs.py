"""Costs by the estimators of the return: a cost that is the reward turned round is valued so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dosing.evaluation.rules import constant
from dosing.ope.costs import charged, costs_as_rewards
from dosing.ope.folds import Fold, evaluate_folds
from dosing.ope.selection import BASELINE, Settings
from dosing.ope.trajectories import fold_patients
from tests.ope.ope_problems import linear_system

SETTINGS = Settings(estimators=("fqe", "model_based"), replicates=200, discount=0.9)


def test_the_cost_of_a_policy_is_estimated_as_its_return_is() -> None:
    recorded = linear_system(23, 3)
    twin = replace(recorded, cost=-recorded.reward)
    folds = [Fold(*part, {"low": constant(-0.3)}) for part in fold_patients(twin, 3)]
    priced = charged(folds, SETTINGS)
    assert priced is not None
    costs = evaluate_folds(*priced, 1)
    values = evaluate_folds(folds, replace(SETTINGS, estimators=("fqe",)), 1)
    assert costs.doses == values.doses  # beside the constant dose of the rewards
    for name in ("low", BASELINE):
        assert list(costs.values[name]) == ["fqe"]
        cost, value = costs.values[name]["fqe"].estimate, values.values[name]["fqe"].estimate
        assert cost is not None
        assert value is not None
        assert (cost.value, cost.high) == pytest.approx((-value.value, -value.low), rel=1e-6)


def test_without_a_cost_at_every_visit_none_is_estimated() -> None:
    recorded = linear_system(12, 3)
    cost = np.ones(len(recorded), dtype=np.float32)
    cost[7] = np.nan
    lacking = replace(recorded, cost=cost)
    assert costs_as_rewards(lacking) is None
    folds = [Fold(*part, {}) for part in fold_patients(lacking, 3)]
    assert charged(folds, SETTINGS) is None
    whole = [Fold(*part, {}) for part in fold_patients(replace(recorded, cost=recorded.reward), 3)]
    assert charged(whole, replace(SETTINGS, estimators=("model_based",))) is None
