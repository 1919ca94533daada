"""The benchmark of off-policy evaluation: its summary by hand, a small run, published reference returns."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pytest

from benchmarks.experiments import ope
from dosing.models.prior import constant_dose
from dosing.ope.baselines import ridge_fitted_q
from dosing.ope.selection import BASELINE
from dosing.ope.trajectories import Trajectories
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory


def policy(name: str, true: float, estimate: float, **fields: Any) -> dict[str, Any]:
    return {"name": name, "true": true, "estimate": [estimate, estimate - 1.0, estimate + 1.0], **fields}


def test_summary_by_hand() -> None:
    apart = {"difference": [2.0, 1.0, 3.0], "verdict": "better"}
    first = [
        policy(BASELINE, 5.0, 5.5),
        policy("a", 6.5, 7.0, **apart),
        policy("b", 4.0, 9.0, **apart),
        {"name": "c", "true": 9.0, "refused": "too few"},
    ]
    second = [policy(BASELINE, 5.0, 5.0), policy("a", 6.0, 6.0), policy("b", 4.0, 4.0), policy("c", 9.0, 9.0)]
    kept = [{"source": "same", "column": "x", "policies": p} for p in (first, second)]
    line = ope.summary(kept, "same", "x")
    assert line[:3] == ["x", "88%", "2"]  # 7 of 8 policies
    assert line[3].startswith("0.25 ")  # of -1/2 and 1
    assert line[4].startswith("1.25 ")  # of 6.5 - 4 and 0
    assert line[5].startswith("3.25 ")  # b is found better and taken, 6.5 - 4; else the constant, 9 - 5
    assert line[6].startswith("1.00 ")  # of (0.5 + 0.5 + 5) / 3 and 0
    assert line[7].startswith("0.83 ")  # of 2/3 and 1
    assert line[8:] == ["0.50", "1 of 2"]
    none = [{"source": "same", "column": "x", "policies": [first[3]]}]
    assert ope.summary(none, "same", "x")[1:3] == ["0%", "0"]


@pytest.mark.long
def test_a_small_run_values_every_candidate_by_every_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [column for column in ope.columns(40) if column.settings.state == "linear"]
    monkeypatch.setattr(ope, "columns", lambda replicates: quick)
    options = argparse.Namespace(
        data_sets=2, patients=12, evaluation_patients=50, agents=["td3_bc"], steps=2, replicates=40
    )
    result = ope.measure(options)["kept"]
    assert len(result) == 2 * 2 * len(quick)
    names = [p["name"] for p in result[0]["policies"]]
    assert names == [
        BASELINE,
        *(f"constant {d:g}" for d in ope.CONSTANTS),
        *(f"fitted Q {x:g}" for x in ope.STRENGTHS),
        "td3_bc",
    ]
    for entry in result:
        assert all(("estimate" in p) != ("refused" in p) for p in entry["policies"])
    true = {p["name"]: p["true"] for p in result[0]["policies"]}
    assert true["constant 0"] == {p["name"]: p["true"] for p in result[-1]["policies"]}["constant 0"]
    whole = {"kept": result, "calibration": [], "seconds": 1.0, "date": "", "command": ""} | vars(options)
    assert "FQE, linear, ridge 0.1" in ope.render(whole)
    plain = ope.record(whole)
    assert plain["policies"] == names
    new = plain["new patients"]
    assert np.array(new["true"]).shape == (2, len(names))
    fqe = np.array(new["estimates"]["FQE, linear, ridge 1"], dtype=float)
    assert fqe[0, 1] == result[len(quick)]["policies"][1]["estimate"][0]
    assert new["estimates"]["WIS"][0] == [None] * len(names)


@pytest.mark.slow
def test_reference_policies_return_what_was_published_for_simenv3() -> None:
    """Mean returns over 24 visits; the published ones rest on 200 data sets, fewer for ridge fitted Q."""
    truth = ope.Truth(CohortFactory(ope.ENV_ID, {"variant": "simenv3"}), 20_000)
    doses = np.linspace(0.0, 1.0, 1001)
    offset = (
        5.29 - truth.curve(doses).max()
    )  # the exact return of the best constant, less that of this cohort
    for patients, published, tolerance in (
        (12, 3.7, 0.6),
        (25, 4.7, 0.35),
        (50, 4.9, 0.2),
        (100, 5.1, 0.12),
        (400, 5.26, 0.08),
    ):
        data = simulate(ope.ENV_ID, patients=200 * patients, seed=7, variant="simenv3")
        act, reward = (x.reshape(200, -1).astype(np.float64) for x in (data.act, data.reward))
        patient = np.broadcast_to(np.arange(patients).repeat(24), act.shape)
        result = truth.curve(constant_dose(act, reward, patient).dose) + offset
        assert result.mean() == pytest.approx(published, abs=tolerance), patients
        if patients == 50:
            assert np.quantile(result, 0.1) == pytest.approx(4.3, abs=0.5)
    for patients, sets, published, tolerance in (
        (50, 20, 4.2, 0.6),
        (400, 6, 5.13, 0.25),
        (2000, 2, 5.15, 0.25),
    ):
        values = []
        for seed in range(sets):
            data = simulate(ope.ENV_ID, patients=patients, seed=50 + seed, variant="simenv3")
            values.append(truth.of(ridge_fitted_q(Trajectories.from_episodes(data), (1e-3,))) + offset)
        assert np.mean(values) == pytest.approx(published, abs=tolerance), patients
