"""A plan: what a comparison would run, the least difference it would find, and nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.evaluation.power import minimum_detectable_difference
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import constant
from dosing.runs.folder import find_runs
from dosing.studies import Grid, Resources, compare, references
from dosing.studies.baseline import Baseline
from dosing.studies.comparison import asked_of
from dosing.studies.plan import Spread, plan, spread_of
from dosing.studies.scenarios import evaluable
from dosing.training.offline import TrainingSettings
from tests.support.samples import cohort

TINY = TrainingSettings(steps=8, batch_size=8, checkpoint_every=4, log_every=4)
GRID = Grid(("bc", "iql"), {"hidden": [(8,)], "learning_rate": [0.001, 0.01]})


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    write_episodes(cohort(), tmp_path / "visits.parquet")
    return tmp_path / "visits.parquet"


def planned(study: Path, data: Any, grid: Grid = GRID, spread: Spread | None = None, **options: Any) -> str:
    usual: dict[str, Any] = {"seeds": (0, 1, 2), "training": TINY, "evaluation_patients": 30}
    asked = asked_of(grid, data, **usual | options)
    return str(plan(study, asked, Resources("cpu", workers=1), spread))


@pytest.mark.long
def test_a_plan_names_the_runs_of_the_comparison_and_trains_none(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 50)
    study = tmp_path / "study"
    text = planned(study, visits, milestones=(4,))
    assert "4 runs in" in text
    assert "4 agents and settings on 1 data set, 3 seeds together in each, 8 updates of 8" in text
    assert "evaluated after 4 too" in text
    assert find_runs(study) == []
    result = compare(
        study,
        GRID,
        visits,
        seeds=(0, 1, 2),
        training=TINY,
        evaluation_patients=4,
        resources=Resources("cpu", workers=1),
    )
    trained = [row for row in result.rows if row.sampled is not None]
    assert len(trained) == 4
    for row in trained:
        assert f"  {row.name} ({row.family})\n" in text
    assert "4 finished runs are in the folder" in planned(study, visits)


def test_the_least_difference_is_that_of_a_stated_spread(visits: Path, tmp_path: Path) -> None:
    text = planned(tmp_path / "study", visits, spread=Spread(3.0, 0.5, "stated"))
    size = {"seeds": 3, "patients": 30}
    one = minimum_detectable_difference(3.0, 0.5, **size)
    four = minimum_detectable_difference(3.0, 0.5, **size, alpha=0.05 / 4)
    assert f"  {one:.3g} for one comparison" in text
    assert f"  {four:.3g} for the first of 4 comparisons" in text
    assert "sd between patients 3, between seeds 0.5" in text
    single = planned(tmp_path / "study", visits, spread=Spread(3.0, 0.5, "stated"), seeds=(0,))
    alone = minimum_detectable_difference(3.0, 0.0, seeds=1, patients=30)
    assert f"  {alone:.3g} for one comparison" in single
    assert "between seeds 0," in single
    assert "29 degrees of freedom" in single


def test_without_a_stated_spread_it_is_that_of_the_constant_dose(visits: Path, tmp_path: Path) -> None:
    dose = Baseline.of(cohort()).dose
    assert dose is not None
    outcome = rollout(evaluable(visits), constant(dose), (0, 1, 2), 30)
    sd = float(np.sqrt(np.mean([np.var(row, ddof=1) for row in outcome.returns])))
    text = planned(tmp_path / "study", visits)
    assert f"sd between patients {sd:.3g}, between seeds 0" in text
    assert f"{minimum_detectable_difference(sd, 0.0, seeds=3, patients=30):.3g} for one comparison" in text


def test_the_spread_of_a_finished_study_is_its_components_of_variance(
    visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    seeds, patients = 400, 20
    drawn = 0.7 * rng.normal(size=(seeds, 1)) + 2.0 * rng.normal(size=(seeds, patients))
    monkeypatch.setattr("dosing.studies.plan.find_runs", lambda study: ["one run"])
    monkeypatch.setattr("dosing.studies.plan._difference", lambda run: drawn)
    (tmp_path / "table.json").write_text("{}")
    found = spread_of(tmp_path)
    assert (found.patients, found.seeds) == pytest.approx((2.0, 0.7), rel=0.06)
    monkeypatch.setattr("dosing.studies.plan._difference", lambda run: np.zeros((3, 4)))
    assert (spread_of(tmp_path).patients, spread_of(tmp_path).seeds) == (0.0, 0.0)
    monkeypatch.setattr("dosing.studies.plan._difference", lambda run: None)
    with pytest.raises(UserError, match="tells a spread"):
        spread_of(tmp_path)
    with pytest.raises(UserError, match="no finished comparison"):
        spread_of(visits.parent / "nowhere")


def test_rewards_that_tell_no_dose_state_no_difference(tmp_path: Path) -> None:
    import dataclasses

    flat = cohort()
    flat = dataclasses.replace(flat, reward=np.zeros_like(flat.reward))
    write_episodes(flat, tmp_path / "flat.parquet")
    text = planned(tmp_path / "study", tmp_path / "flat.parquet")
    assert "none stated: no constant dose is estimated" in text
    assert "4 runs in" in text


def test_who_is_left_out_is_told_and_bad_input_refused(visits: Path, tmp_path: Path) -> None:
    every = Grid(("all",), regularise={"thin": [None, 0.0]})
    text = planned(tmp_path / "study", visits, every, seeds=(0, 1), evaluation_patients=5)
    assert "Decision Transformer has no thin row:" in text
    with pytest.raises(UserError, match="cannot be looked at after 9"):
        planned(tmp_path / "study", visits, milestones=(9,))
