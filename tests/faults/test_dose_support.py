"""Faults 18 and 35 and behaviour 6 of the catalogue: doses nobody gave, estimates without overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dosing.evaluation.rules import constant
from dosing.ope.baselines import estimated_constant
from dosing.ope.selection import Settings, evaluate_policies
from dosing.ope.trajectories import Trajectories
from dosing.recommendation.novelty import Monitor
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Recommender, Rules
from dosing.studies.baseline import Baseline
from tests.recommendation.test_recorded_doses import LIMITS, Constant, dosed


def test_fault_35_an_estimate_without_overlap_is_refused() -> None:
    """Recorded doses of 2 to 3 mg: a rule of 9 mg has no value by any estimator, and no verdict."""
    settings = Settings(estimators=("fqe", "wis", "wis_window", "wdr"), replicates=100)
    (_, nine) = evaluate_policies(dosed(), [("nine", constant(9.0))], settings).policies
    for value in nine.values.values():
        assert value.refused is not None
        assert (value.estimate, value.verdict) == (None, None)


def test_fault_18_a_dose_outside_the_support_is_told_and_never_nan() -> None:
    look = Monitor.fit(dosed()).look(np.zeros((3, 2)), np.array([[-1e300], [0.0], [1e300]]))
    assert np.isfinite(look.recorded_low).all()
    assert not np.isnan(look.dose_distance).any()
    assert (look.dose_distance > 1.0).all()


def test_behaviour_6_a_dose_out_of_distribution_is_deferred_with_its_neighbours() -> None:
    recommender = Recommender(Constant(9.94), Rules(LIMITS), Monitor.fit(dosed()))
    result = recommend(recommender, [0.0, 0.0])
    assert result.status == "deferred"
    assert result.recorded_near is not None
    assert 2.0 <= result.recorded_near[0][0] <= result.recorded_near[1][0] <= 3.0
    assert len(result.nearest) == 5


@pytest.mark.parametrize("reward", [0.0, -1.0])
def test_no_constant_dose_is_judged_by_where_rewards_say_nothing(reward: float) -> None:
    recorded: Any = dosed()
    recorded.reward[:] = reward
    base = Baseline.of(recorded)
    assert base.dose is None
    assert base.median in recorded.act
    assert "say nothing about doses" in base.missing


def test_no_constant_dose_is_estimated_beyond_the_recorded_ones() -> None:
    recorded: Any = dosed()
    recorded.reward[:] = recorded.act[:, 0]  # the more the better, as far as anyone has seen
    best = estimated_constant(Trajectories.from_episodes(recorded))
    assert best.identified
    assert best.edge == "highest"
    assert best.dose == pytest.approx(recorded.act.max())
    assert Baseline.of(recorded).edge == "the highest recorded"
