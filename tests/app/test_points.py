"""A deterministic policy on the patient page: one dose, no curve, never the sparse interval."""

import numpy as np

import agents
from app.analysis.recommendations import Landmarks, Source, ask, curves, sparse_of
from app.charts.ridgeline import ridgeline
from dosing.data.dataset import Transform
from dosing.policy import DosePolicy
from dosing.recommendation.records import Recommender, Rules
from dosing.safety import DoseLimits
from dosing.types import Problem

STATE = np.linspace(-1.0, 1.0, 8).tolist()


def source(name: str) -> Source:
    agent = agents.build(name, {"hidden": (8, 8)}, Problem(8, 1), (0, 1))
    policy = DosePolicy(agent, Transform((0.0,) * 8, (1.0,) * 8, (-1.0,), (1.0,)))
    return Source(name, "distribution", Recommender(policy, Rules(DoseLimits((-1.0,), (1.0,)))))


def test_a_point_has_a_dose_and_no_curve() -> None:
    result = ask([source("td3_bc"), source("fttpo"), source("iql")], STATE)
    point, sparse, gaussian = result
    assert "refused" not in [answer.result.status for answer in result]
    assert point.point
    assert not sparse.point
    assert sparse_of(result) is sparse
    assert sparse.outside_sparse == 0.0
    assert point.outside_sparse in (0.0, 0.5, 1.0)  # each of two seeds is inside or outside
    assert gaussian.outside_sparse is not None
    assert 0.0 < gaussian.outside_sparse < 1.0
    drawn = curves(result, 0)
    assert drawn[0] is None
    assert drawn[1] is not None
    figure = ridgeline(result, drawn, Landmarks())
    words = " ".join(str(note.text) for note in figure.layout.annotations)
    assert "one dose" in words
    assert "REFUSED" not in words
