"""The dose over the return that is asked for: what is drawn, where, and on which page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

import agents
from app.charts.target_return import dose_by_target, grid
from app.theme import GREY, MARKS, NOTICE, SHADE
from app.widgets.page import SHORT_NOTICE
from dosing.runs.folder import RunFolder
from dosing.studies import AgentSetup, Cohort, DataSource, train
from dosing.studies.data import episodes_of
from dosing.studies.loading import policy_of
from dosing.training.offline import TrainingSettings
from tests.app.figures import charts

ROOT = Path(__file__).resolve().parents[2]
TARGETS = np.array([[-4.0, 2.0, 6.0], [-4.0, 2.0, 6.0], [-5.0, 2.0, 5.0]])


def figure() -> tuple[np.ndarray, np.ndarray, go.Figure]:
    target = grid(TARGETS)
    dose = 0.1 + 0.05 * target
    return target, dose, dose_by_target(target, dose, TARGETS, (-1.0, 3.0), MARKS[1], unit="mg")


def test_the_grid_holds_every_recorded_return_and_what_is_asked_for_by_default() -> None:
    target = grid(TARGETS)
    assert (np.diff(target) > 0.0).all()
    assert target[0] < -5.0
    assert target[-1] > 6.0
    assert 2.0 in target
    alone = grid(np.full((2, 3), 1.5))
    assert alone[0] < 1.5 < alone[-1]
    beyond = grid(np.array([[0.0, 9.0, 1.0]]))  # asked for more than was recorded
    assert beyond[-1] > 9.0


def test_the_dose_is_drawn_over_the_return_asked_for() -> None:
    target, dose, chart = figure()
    line, marker = chart.data
    np.testing.assert_array_equal(line.x, target)
    np.testing.assert_allclose(line.y, dose)
    assert line.line.color == MARKS[1].colour
    assert (marker.x[0], marker.y[0]) == (2.0, pytest.approx(dose[target == 2.0][0]))
    assert marker.marker.symbol == MARKS[1].symbol


def test_limits_default_and_what_was_never_recorded_are_marked() -> None:
    target, _, chart = figure()
    lines = [s for s in chart.layout.shapes if s.type == "line" and s.line.color == GREY]
    assert {s.y0 for s in lines if s.y0 == s.y1} == {-1.0, 3.0}
    assert {(s.x0, s.line.dash) for s in lines if s.x0 == s.x1} == {(2.0, "dot")}
    grey = {(s.x0, s.x1) for s in chart.layout.shapes if s.fillcolor == SHADE}
    assert grey == {(-5.0, target[0]), (6.0, target[-1])}
    assert chart.layout.title.text == NOTICE
    assert chart.layout.xaxis.title.text == "return asked for: sum of rewards (no unit)"
    assert chart.layout.yaxis.title.text == "dose (mg)"
    words = " ".join(str(a.text) for a in chart.layout.annotations)
    assert "hard limits" in words
    assert "asked for by default: 2.00" in words


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunFolder]:
    """A Decision Transformer and BC, trained for a progress on three patients."""
    study = tmp_path_factory.mktemp("study")
    data = DataSource("dosing/Treatment-v0", Cohort(3))
    runs = []
    for name, settings in (("decision_transformer", {"width": 16}), ("bc", {"hidden": (16,)})):
        config = agents.find(name).config_class()(**settings)
        setup, training = AgentSetup(name, config), TrainingSettings(steps=5)
        runs.append(train(study, setup, data, seeds=(0, 1), training=training, device="cpu"))
    return study, runs[0]


@pytest.mark.long
def test_the_patient_page_draws_it_for_the_agent_that_has_a_target_alone(
    study: tuple[Path, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOSING_STUDY", str(study[0]))
    at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60).run()
    assert not at.exception
    assert not at.error
    titles = [element.value for element in at.subheader]
    assert [t for t in titles if "asked for" in t] == [
        "What Decision Transformer gives for the return it is asked for"
    ]
    (drawn,) = [c for c in charts(at) if "asked for" in c["layout"]["xaxis"]["title"]["text"]]
    assert drawn["layout"]["title"]["text"] == SHORT_NOTICE
    policy, episodes = policy_of(study[1]), episodes_of(study[1])
    dose = policy.recommended(np.broadcast_to(episodes.obs[:1], (2, 1, 8)))[:, 0, 0].mean()
    assert drawn["data"][-1]["y"][0] == pytest.approx(dose, abs=1e-5)
    returns = np.bincount(episodes.episode, episodes.reward)
    assert policy.targets is not None
    expected = [returns.min(), np.quantile(returns, 0.95), returns.max()]
    np.testing.assert_allclose(policy.targets, [expected] * 2, rtol=1e-5)
