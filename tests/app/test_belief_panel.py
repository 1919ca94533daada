"""Agents that look back on the pages: their dose after the recorded visits, and what they believe."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

import agents
from app.analysis import recommendations
from app.analysis.belief import WITHIN, beliefs, foreseen
from app.analysis.recommendations import Source, ask
from app.charts.belief import markers
from app.theme import NOTICE, number
from app.widgets.state_picker import earlier_of
from dosing.agent import History
from dosing.evaluation.history_policy import HistoryPolicy
from dosing.models.calibration import REASONS
from dosing.recommendation.audit_log import FILE, AuditLog
from dosing.recommendation.explanations import FIRST_VISITS
from dosing.recommendation.recommender import recommend
from dosing.runs.folder import RunFolder
from dosing.studies import AgentSetup, Cohort, DataSource, TrainingSettings, train
from dosing.studies.data import episodes_of
from dosing.studies.loading import recommender_of
from tests.app.figures import charts
from tests.app.test_pages import doses, plain, unfolded, words

ROOT = Path(__file__).resolve().parents[2]
PATIENT, VISIT = 3, 9
SMALL = {"fit_steps": 40, "episodes": 2, "families": "linear"}


def study_of(folder: Path, **settings: dict[str, Any]) -> list[RunFolder]:
    data = DataSource("dosing/Treatment-v0", Cohort(8))
    runs = []
    for name, own in settings.items():
        setup, training = AgentSetup(name, agents.find(name).config_class()(**own)), TrainingSettings(steps=5)
        runs.append(train(folder, setup, data, seeds=(0, 1), training=training, device="cpu"))
    return runs


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunFolder, RunFolder]:
    """A response model whose gate is open, and a decision transformer."""
    folder = tmp_path_factory.mktemp("study")
    open_gate, transformer = {**SMALL, "gate": "off"}, {"width": 16, "context": 5}
    return folder, *study_of(folder, response_model=open_gate, decision_transformer=transformer)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DOSING_AUDIT", str(tmp_path / FILE))

    def start(folder: Path, page: str = "", **link: Any) -> AppTest:
        monkeypatch.setenv("DOSING_STUDY", str(folder))
        at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
        for name, value in link.items():
            at.query_params[name] = str(value)
        at.run()
        if page:
            at.switch_page(page).run()
        assert not at.exception
        return at

    return start


def log() -> Path:
    return Path(os.environ["DOSING_AUDIT"])


def recommended() -> list[dict[str, Any]]:
    """What the log says was recommended."""
    return [r.content for r in AuditLog(log()).verify().records if r.kind == "recommendation"]


def evaluated(run: RunFolder) -> float:
    """Mean over seeds of the dose that evaluation gives this patient at this visit."""
    rule, recorded = HistoryPolicy(recommender_of(run).policy), episodes_of(run)
    rows = np.flatnonzero(recorded.episode == PATIENT)[:VISIT]
    for visit, row in enumerate(rows):
        said = rule(np.tile(recorded.obs[row], (2, 1, 1)), visit)
        given, paid = recorded.act[row].astype(np.float64), recorded.reward[row]
        rule.observe(np.tile(given, (2, 1, 1)), np.full((2, 1), paid))
    return float(said[:, 0, 0].mean())


@pytest.mark.long
def test_a_recorded_visit_is_answered_after_the_visits_before_it(opened, study) -> None:
    folder, believing, aiming = study
    at = opened(folder, patient=PATIENT, visit=VISIT)
    assert not at.error
    by_agent = {"Decision Transformer": evaluated(aiming), "Response model": evaluated(believing)}
    assert sorted(doses(at)) == sorted(number(dose) for dose in by_agent.values())
    text = words(at)
    assert text.count("it was told 8 earlier visits") == 2
    shown = recommended()
    assert {(c["patient"], c["visit"], c["earlier_visits"]) for c in shown} == {(str(PATIENT), VISIT, 8)}
    recorded = episodes_of(believing)
    rows = np.flatnonzero(recorded.episode == PATIENT)[: VISIT - 1]
    assert [v["dose"] for v in shown[0]["earlier"]] == recorded.act[rows].tolist()
    # the page of returns asked for rests on the same visits: its default is the recommendation
    (drawn,) = [c for c in charts(at) if "asked for" in str(c["layout"]["xaxis"]["title"]["text"])]
    assert drawn["data"][-1]["y"][0] == pytest.approx(by_agent["Decision Transformer"], abs=1e-5)


@pytest.mark.long
def test_typed_numbers_are_answered_as_at_a_first_visit(opened, study) -> None:
    state = episodes_of(study[1]).obs[0].tolist()
    at = opened(study[0], state_from="typed numbers", numbers=" ".join(map(str, state)))
    assert words(at).count("as at a first visit") >= 2
    assert len(at.metric) == 2


@pytest.mark.long
def test_every_page_gives_one_dose_for_one_visit(opened, study) -> None:
    link = {"patient": PATIENT, "visit": VISIT}
    for page in ("", "views/dose_response.py"):
        opened(study[0], page, **link)
    shown = [(c["provenance"]["agent"], c["earlier_visits"], *c["dose"]) for c in recommended()]
    assert len(shown) == 4
    assert len(set(shown)) == 2  # the second page says what the first one said


# What it believes


def answer(run: RunFolder, visit: int = VISIT) -> recommendations.Answer:
    recorded = episodes_of(run)
    row = int(np.flatnonzero((recorded.episode == PATIENT) & (recorded.step == visit - 1))[0])
    source = Source("Response model", "belief", recommender_of(run))
    (one,) = ask([source], recorded.obs[row].tolist(), earlier_of(recorded, row))
    return one


@pytest.mark.long
def test_the_charts_show_levels_and_forecasts_of_the_belief(study) -> None:
    run = study[1]
    one = answer(run)
    believed = beliefs(one)
    assert believed is not None
    recorded, policy = episodes_of(run), recommender_of(run).policy
    rows = np.flatnonzero(recorded.episode == PATIENT)[:VISIT]
    assert np.array_equal(believed.seen.astype(np.float32), recorded.obs[rows])
    transform = policy.transform
    obs = (recorded.obs[rows] - np.asarray(transform.obs_mean)) / np.asarray(transform.obs_scale)
    agent: Any = policy.agent

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.tile(values.astype(np.float32)[None, None], (2, 1, *[1] * values.ndim)))

    history = History(tensor(obs), tensor(recorded.act[rows[:-1]]), tensor(recorded.reward[rows[:-1]]))
    assert one.result.dose is not None
    held = tensor(np.tile(one.result.dose, (8, 1)))  # limits are -1 and 1
    own = agent.belief_after(history, held)
    scale = np.asarray(transform.obs_scale)
    level = np.asarray(transform.obs_mean) + scale * own.level_mean[:, 0].mean(0).numpy()  # of both seeds
    np.testing.assert_allclose(believed.level.mean, level, atol=1e-4)
    ahead = np.asarray(transform.obs_mean) + scale * own.forecast_mean[:, 0].mean(0).numpy()
    np.testing.assert_allclose(believed.recommended.mean, ahead, atol=1e-4)
    mixed = own.forecast_sd[:, 0].square().mean(0) + own.forecast_mean[:, 0].var(0, correction=0)
    wide = WITHIN * scale * mixed.sqrt().numpy()
    np.testing.assert_allclose(believed.recommended.high - believed.recommended.mean, wide, atol=1e-4)
    assert believed.recommended.visits.tolist() == list(range(VISIT + 1, VISIT + 9))
    assert np.abs(believed.constant.mean - believed.recommended.mean).max() > 1e-4
    figure = markers(believed, range(2, 4), [f"s{k + 1}" for k in range(8)], ["1", "1", "1", "mg/L"] * 2)
    assert figure.layout.title.text == NOTICE
    dots = [trace for trace in figure.data if trace.name == "seen"]
    for marker, trace in zip((2, 3), dots, strict=True):
        np.testing.assert_allclose(trace.y, believed.seen[:, marker])
    lines = {t.name: t for t in figure.data if t.yaxis == "y2" and t.name and t.name != "seen"}
    np.testing.assert_allclose(lines["level"].y, believed.level.mean[:, 3])
    np.testing.assert_allclose(lines["constant dose"].y, believed.constant.mean[:, 3])
    held_dose = lines["recommended dose held"]
    np.testing.assert_allclose(held_dose.customdata[:, 1], believed.recommended.high[:, 3])
    assert "mg/L" in str(lines["level"].hovertemplate)
    assert any("mg/L" in str(note.text) for note in figure.layout.annotations)


@pytest.mark.long
def test_chosen_doses_are_forecast_from_the_same_belief(study) -> None:
    one = answer(study[1])
    assert one.result.dose is not None
    believed = beliefs(one)
    assert believed is not None
    held, other = (foreseen(one, doses, ["s2", "s3"]) for doses in (one.result.dose, [0.5, -0.5]))
    for strip, marker in zip(held[:-1], (1, 2), strict=True):
        assert strip.name == f"s{marker + 1}"
        assert strip.visits.tolist() == list(range(9))
        np.testing.assert_allclose(strip.bands[1, 1:], believed.recommended.mean[:, marker], atol=1e-6)
        np.testing.assert_allclose(strip.bands[2, 1:], believed.recommended.high[:, marker], atol=1e-6)
        assert set(strip.bands[:, 0]) == {one.result.state[marker]}  # as it was seen
    assert other[-1].middle.tolist() == [0.5] + [-0.5] * 7
    assert not np.allclose(other[0].middle, held[0].middle)
    # the first dose alone decides what is seen next; from then on the second one does
    first = foreseen(one, [0.5], ["s2"])[0].middle
    assert other[0].middle[1] == pytest.approx(first[1], abs=1e-6)
    assert abs(other[0].middle[-1] - first[-1]) > 1e-4


@pytest.mark.long
def test_what_if_shows_the_forecast_of_a_belief(opened, study) -> None:
    link = {"patient": PATIENT, "visit": VISIT, "from": "forecast by Response model", "shown": "s2"}
    at = opened(study[0], "views/what_if.py", **link, rule2="recommended dose, held")
    assert not at.error
    (chart,) = charts(at)
    one = answer(study[1])
    assert one.result.dose is not None
    expected = foreseen(one, one.result.dose, ["s2"])[0].middle
    said = words(at)
    assert f"**{number(float(expected[-1]), 2)}**" in said
    assert "Forecasts of a model, no promise" in said
    assert "recommended dose, held" in json.dumps(chart)
    assert recommended()  # what it would give is on record


@pytest.mark.long
@pytest.mark.parametrize(("visit", "ahead"), [(1, 8), (20, 4), (23, 1), (24, 1)])
def test_forecasts_end_with_the_episode(study, visit: int, ahead: int) -> None:
    believed = beliefs(answer(study[1], visit))
    assert believed is not None
    assert len(believed.recommended.visits) == ahead
    assert len(believed.level.visits) == visit
    assert markers(believed, [0], ["s1"], ["1"]).data  # a single visit can be drawn


@pytest.mark.long
def test_the_page_says_how_well_patients_were_forecast(opened, study) -> None:
    at = unfolded(opened(study[0], patient=PATIENT, visit=VISIT), "belief1_fold")
    assert "What Response model believes about this patient" in [fold.label for fold in at.expander]
    agent: Any = recommender_of(study[1]).policy.agent
    numbers = agent.patients.numbers.mean(0)
    text = words(at).replace("\N{NO-BREAK SPACE}", " ")
    for share in (1.0 - numbers[0], 1.0 - numbers[1]):
        assert f"**{100 * float(share):.0f} %**" in text
    assert f"90 % intervals cover **{100 * float(numbers[2]):.0f} %** of what was seen" in text
    assert "if the dose of now, " in text
    believed = [c for c in charts(at) if "forecast from 10 on" in str(c["layout"]["xaxis"]["title"])]
    assert len(believed) == 2  # four markers each


@pytest.mark.long
def test_where_the_model_is_refused_the_page_says_that_and_draws_no_belief(
    opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dosing.models.calibration.LEFT_OVER", -1.0)  # no model explains that much
    (run,) = study_of(tmp_path / "study", response_model=SMALL)
    agent: Any = recommender_of(run).policy.agent
    assert all(agent.refusals)
    at = opened(tmp_path / "study", patient=PATIENT, visit=VISIT)
    assert "Response model: the constant dose is given to everyone." in plain(words(at))
    assert "Why Response model gives everyone the constant dose" in [fold.label for fold in at.expander]
    text = plain(words(unfolded(at, "belief0_fold")))
    reason = REASONS[int(agent.patients.reason[0, 0])]
    assert reason[1:] in text
    assert "Forecasts of held-out patients" in text
    assert not [c for c in charts(at) if "forecast from" in str(c["layout"]["xaxis"]["title"])]
    constant = recommender_of(run).policy.transform.to_dose(agent.constant_dose.numpy().mean(0))
    assert doses(at) == [number(float(constant[0]))]


# Uploads


def upload(at: AppTest, table: pd.DataFrame) -> AppTest:
    at.file_uploader(key="file").set_value(("mine.csv", table.to_csv(index=False).encode(), "text/csv")).run()
    assert not at.exception
    return at


def visits(run: RunFolder) -> pd.DataFrame:
    recorded = episodes_of(run)
    rows = recorded.episode < 2
    table = pd.DataFrame(recorded.obs[rows].astype(np.float64), columns=[f"s{k + 1}" for k in range(8)])
    table["patient"], table["visit"] = [f"ward {k}" for k in recorded.episode[rows]], recorded.step[rows] + 1
    return table.assign(
        dose=recorded.act[rows, 0].astype(np.float64), reward=recorded.reward[rows].astype(np.float64)
    )


@pytest.mark.long
@pytest.mark.parametrize("place", [1, 2])
def test_a_table_of_visits_is_answered_visit_by_visit(opened, study, place: int) -> None:
    run, name = study[place], ("", "Response model", "Decision Transformer")[place]
    table = visits(run)
    table.loc[47, ["dose", "reward"]] = np.nan
    at = upload(opened(study[0], "views/upload.py", agent=name), table)
    assert not at.error, words(at)
    at.checkbox[0].check().run()
    assert not at.exception
    assert FIRST_VISITS not in words(at)
    (shown,) = [frame.value for frame in at.dataframe if "dose_distance" in frame.value]
    recorded = episodes_of(run)
    for row in (0, 7, 23, 24, 47):
        earlier = earlier_of(recorded, row)
        one = recommend(recommender_of(run), recorded.obs[row].tolist(), earlier=earlier)
        assert one.dose == pytest.approx((shown["dose"].iloc[row],), abs=2e-6)
    assert "ward" not in log().read_text(encoding="utf-8")  # whose it was is not kept


@pytest.mark.long
def test_a_bad_visit_refuses_those_that_look_back_at_it(opened, study) -> None:
    table = visits(study[1])
    table.loc[3, "s2"] = np.nan
    at = upload(opened(study[0], "views/upload.py", agent="Response model"), table)
    text = words(at)
    assert "**21 of 48 rows will be refused**" in text
    assert "Row 4: s2 is missing." in text
    assert "20 later visits whose earlier visits cannot be used." in text
    at.checkbox[0].check().run()
    (shown,) = [frame.value for frame in at.dataframe if "dose_distance" in frame.value]
    assert np.flatnonzero(shown["status"] == "refused").tolist() == list(range(3, 24))


@pytest.mark.long
def test_states_without_visits_mean_first_visits_and_the_page_says_so(opened, study) -> None:
    table = visits(study[1])[[f"s{k + 1}" for k in range(8)]]
    at = upload(opened(study[0], "views/upload.py", agent="Response model"), table)
    at.checkbox[0].check().run()
    assert FIRST_VISITS in plain(words(at))


@pytest.mark.long
def test_visits_that_are_out_of_order_are_refused_as_a_whole(opened, study) -> None:
    table = visits(study[1]).sort_values(["visit", "patient"])
    at = upload(opened(study[0], "views/upload.py", agent="Response model"), table)
    assert "NOTHING LOADED" in at.error[0].value
    assert "must stand together" in words(at)
    assert not at.checkbox
