"""Dose and response: the curves are the critics' values, in every state of the page."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.analysis import response
from app.analysis.recommendations import Answer, Source, ask
from app.analysis.response import DoseResponse, ReturnsAtDoses, near_doses, respond, without_critic
from app.charts.response import dose_response
from app.theme import GREY, MARKS, NOTICE, number
from app.widgets.page import SHORT_NOTICE
from dosing.data.dataset import Transform
from dosing.evaluation.statistics import lower_tail
from dosing.policy import DosePolicy
from dosing.recommendation.records import Recommender, Rules
from dosing.runs.folder import find_runs
from dosing.safety import DoseLimits
from dosing.studies.data import episodes_of
from dosing.studies.loading import recommender_of
from dosing.types import Problem
from tests.app.figures import charts, specs
from tests.app.test_charts import answer, refusal, texts
from tests.app.test_pages import run_of, words
from tests.app.test_what_if import TYPED, open_app  # noqa: F401
from tests.support.samples import PROBLEM, stack

PAGE = "views/dose_response.py"
LIMITS = DoseLimits((0.1,), (0.7,), "mg")
STATE = np.linspace(-1.0, 1.0, PROBLEM.n_obs)


def asked(name: str) -> Answer:
    """What a small fresh stack says of one state."""
    policy = DosePolicy(stack(name), Transform((0.5,) * 8, (2.0,) * 8, (0.1,), (0.7,), 3.0))
    (result,) = ask([Source(name, "distribution", Recommender(policy, Rules(LIMITS)))], STATE.tolist())
    return result


def test_a_critic_is_asked_about_every_dose_within_the_limits() -> None:
    one = asked("iql")
    result = respond(one, 0)
    assert result is not None
    assert one.result.dose is not None
    assert (result.dose[0], result.dose[-1]) == (0.1, 0.7)
    assert one.result.dose[0] in result.dose
    for k in (0, 17, len(result.dose) - 1):
        obs = np.broadcast_to(STATE.astype(np.float32), (2, 1, 8))
        dose = np.full((2, 1, 1), result.dose[k])
        expected = one.source.policy.values(obs, dose)
        assert expected is not None
        np.testing.assert_allclose(result.value[:, k], expected[:, 0], rtol=1e-5)
    assert result.distribution is None
    np.testing.assert_allclose(result.mean, result.value.mean(0))
    np.testing.assert_array_equal(result.best, result.dose[result.value.argmax(1)])
    at = int(np.flatnonzero(result.dose == one.result.dose[0])[0])
    np.testing.assert_array_equal(result.at_recommended, result.value[:, at])
    assert result.discount == one.source.policy.agent.discount == 0.9


def test_in_the_dimensions_not_drawn_the_recommended_dose_is_given() -> None:
    problem = Problem(n_obs=3, n_act=2, horizon=24)
    limits = DoseLimits((0.0, -1.0), (2.0, 3.0))
    policy = DosePolicy(
        stack("td3_bc", problem=problem), Transform((0.0,) * 3, (1.0,) * 3, limits.low, limits.high)
    )
    (one,) = ask(
        [Source("a", "distribution", Recommender(policy, Rules(limits)), mark=MARKS[0])], [0.5, -0.5, 1.0]
    )
    assert one.result.dose is not None
    for dimension, other in ((0, 1), (1, 0)):
        result = respond(one, dimension)
        assert result is not None
        dose = np.empty((2, len(result.dose), 2))
        dose[..., dimension], dose[..., other] = result.dose, one.result.dose[other]
        obs = np.broadcast_to(np.array([0.5, -0.5, 1.0], dtype=np.float32), (2, len(result.dose), 3))
        np.testing.assert_allclose(result.value, policy.values(obs, dose), rtol=1e-6)
        assert (result.dose[0], result.dose[-1]) == (limits.low[dimension], limits.high[dimension])
        figure = dose_response([result], limits, dimension)
        assert {s.x0 for s in figure.layout.shapes if s.line.color == GREY} == {
            result.dose[0],
            result.dose[-1],
        }


def test_a_distribution_of_returns_brings_its_band_and_its_worst_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = asked("iqn")
    monkeypatch.setattr(response, "CHUNK", 7)
    result = respond(one, 0)
    assert result is not None
    assert result.distribution is not None
    obs = np.broadcast_to(STATE.astype(np.float32), (2, len(result.dose), 8))
    dose = np.broadcast_to(result.dose[:, None], (2, len(result.dose), 1))
    returns = one.source.policy.returns(obs, dose)
    assert returns is not None
    np.testing.assert_allclose(result.value, returns.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(result.distribution.worst, lower_tail(returns, 0.05), rtol=1e-4, atol=1e-5)
    mixed = returns.transpose(1, 0, 2).reshape(len(result.dose), -1)
    np.testing.assert_allclose(result.distribution.low, np.quantile(mixed, 0.1, axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        result.distribution.high, np.quantile(mixed, 0.9, axis=1), rtol=1e-4, atol=1e-5
    )


def test_who_refuses_or_has_no_critic_is_not_drawn() -> None:
    silent = asked("bc")
    assert respond(refusal(), 0) is None
    assert respond(silent, 0) is None
    assert without_critic([silent, refusal()], []) == ["bc"]


def test_near_doses_are_those_of_the_nearest_visits(full_study: Path) -> None:
    run = run_of(full_study, "fttpo")
    recommender, episodes = recommender_of(run), episodes_of(run)
    assert recommender.monitor is not None
    state = episodes.obs[5].astype(np.float64)
    scaled = (episodes.obs - state) / recommender.monitor.scale
    order = np.argsort((scaled**2).sum(1), kind="stable")[: response.NEAR]
    result = near_doses(recommender, state.tolist())
    np.testing.assert_allclose(np.sort(result[:, 0]), np.sort(episodes.act[order, 0]), rtol=1e-6)
    assert near_doses(replace(recommender, monitor=None), state.tolist()).shape == (0, 1)


# The figure


def made(status: str = "ok", *, distribution: bool = False, position: int = 0) -> DoseResponse:
    """Two seeds' parabolas over doses from -2 to 6 mg."""
    limits = DoseLimits((-2.0,), (6.0,), "mg")
    dose = np.linspace(-2.0, 6.0, 33)
    value = np.stack([-((dose - 1.0) ** 2), -((dose - 1.5) ** 2) - 2.0])
    one = answer(limits=limits, status=status, position=position)
    spread = ReturnsAtDoses(value.mean(0) - 9.0, value.mean(0) + 9.0, value - 20.0) if distribution else None
    return DoseResponse(one, dose, value, float(dose[14]), np.array([0.5, 4.0]), spread)


def test_the_figure_draws_seeds_mean_recommendation_and_recorded_doses() -> None:
    one = made()
    figure = dose_response([one], one.answer.source.limits)
    assert figure.layout.title.text == NOTICE
    assert figure.layout.xaxis.title.text == "dose (mg)"
    assert "no unit" in figure.layout.yaxis.title.text
    lines = [t for t in figure.data if t.mode == "lines" and t.fill is None]
    for drawn, expected in zip(lines, (*one.value, one.mean), strict=True):
        np.testing.assert_array_equal(drawn.y, expected)
    (band,) = (t for t in figure.data if t.fill == "toself")
    np.testing.assert_array_equal(band.y, np.concatenate([one.value.max(0), one.value.min(0)[::-1]]))
    recorded, marker = (t for t in figure.data if t.mode == "markers")
    assert list(recorded.x) == [0.5, 4.0]
    assert (marker.x[0], marker.y[0]) == (one.recommended, pytest.approx(one.mean[14]))
    assert marker.marker.symbol == MARKS[0].symbol
    assert {s.x0 for s in figure.layout.shapes if s.line.color == GREY} == {-2.0, 6.0}
    assert "hard limit 6" in texts(figure)
    assert f"recommended <b>{number(one.recommended, 3)}</b>" in texts(figure)
    assert all(-2.0 <= tick <= 6.0 for tick in figure.layout.xaxis.tickvals)
    low, high = figure.layout.yaxis.range
    assert low < one.value.min() < one.value.max() < high


def test_a_distribution_is_drawn_with_its_own_band_and_a_dashed_worst_part() -> None:
    one = made(distribution=True)
    assert one.distribution is not None
    figure = dose_response([one], one.answer.source.limits)
    (dashed,) = (t for t in figure.data if t.line.dash == "dash")
    np.testing.assert_array_equal(dashed.y, one.distribution.worst.mean(0))
    (band,) = (t for t in figure.data if t.fill == "toself")
    assert max(band.y) == one.distribution.high.max()
    assert "worst 5" in texts(figure)
    low, high = figure.layout.yaxis.range
    assert low < one.distribution.worst.min()
    assert high > one.distribution.high.max()


def test_every_agent_has_a_panel_of_its_own_and_a_deferral_is_named() -> None:
    both = [made(), made("deferred", position=1)]
    figure = dose_response(both, both[0].answer.source.limits)
    assert {t.yaxis for t in figure.data} == {"y", "y2"}
    assert figure.layout.yaxis2.domain[1] < figure.layout.yaxis.domain[0]
    assert "<b>Agent 1</b>, DEFERRED" in texts(figure)
    assert "deferred <b>" in texts(figure)


# The page


def test_the_page_says_what_the_critics_believe(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE, patient="1", visit="5")
    assert not at.error
    episodes = episodes_of(find_runs(full_study)[0])
    state = episodes.obs[(episodes.episode == 1) & (episodes.step == 4)][0].tolist()
    said = words(at)
    for agent, title in (("fttpo", "FtTPO"), ("iql", "IQL")):
        (one,) = ask([Source(title, "distribution", recommender_of(run_of(full_study, agent)))], state)
        result = respond(one, 0)
        assert result is not None
        assert f"**{title}**, discount 0.9" in said
        assert f"to be worth **{number(float(result.at_recommended.mean()), 2)}** (2 seeds" in said
    assert "A belief, not a measurement" in said
    (chart,) = charts(at)
    assert chart["layout"]["title"]["text"] == SHORT_NOTICE


@pytest.mark.long
def test_two_people_with_one_link_see_the_same_curves(open_app, full_study: Path) -> None:  # noqa: F811
    first, second = (open_app(full_study, PAGE, patient="2", visit="9") for _ in range(2))
    assert words(first) == words(second)
    assert specs(first)[0] == specs(second)[0]


def test_what_is_no_state_is_refused_and_nothing_is_drawn(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE, **{**TYPED, "numbers": "1 2 3"})
    assert [e.value.startswith("**REFUSED: no dose of") for e in at.error] == [True, True]
    assert not specs(at)


@pytest.mark.long
def test_the_other_states_of_the_page(
    open_app,  # noqa: F811
    full_study: Path,
    damaged_study: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    at = open_app(tmp_path / "empty", PAGE)
    assert at.code[0].value == "python -m dosing demo"
    at = open_app(damaged_study, PAGE)
    assert any("IQL" in e.value and "changed or truncated" in e.value for e in at.error)
    assert len(specs(at)) == 1
    study = shutil.copytree(full_study, tmp_path / "study")
    for file in (study / "data").iterdir():
        file.unlink()
    at = open_app(study, PAGE, numbers=TYPED["numbers"])
    assert "Typed numbers still work" in words(at)
    assert len(specs(at)) == 1
