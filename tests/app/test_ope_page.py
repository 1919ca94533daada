"""Off-policy evaluation: estimates beside the simulator's answer, and what they rest on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
import torch

from app.analysis import off_policy
from app.analysis.off_policy import (
    CandidateRow,
    is_quick,
    outside_support,
    read_selection,
    same_settings,
    value,
)
from app.charts.off_policy import FLOOR, effective_sample
from app.theme import GREY, MARKS, NOTICE, minus, probability
from dosing.errors import UserError
from dosing.evaluation.outcomes import read_outcomes
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.ope.folds import PooledValue
from dosing.ope.importance import LEAST_SAMPLE
from dosing.ope.selection import Settings, evaluate_policies
from dosing.runs.files import read_json, write_json
from dosing.runs.folder import DONE, EPISODES, EVALUATION
from dosing.studies.data import episodes_of
from dosing.studies.loading import policy_of
from dosing.studies.selected import SELECTION
from tests.app.figures import specs
from tests.app.test_agents_page import run
from tests.app.test_charts import texts
from tests.app.test_pages import run_of, words
from tests.app.test_what_if import open_app  # noqa: F401

PAGE = "views/ope.py"


@pytest.mark.parametrize("sampled", [False, True])
def test_a_value_is_that_of_the_core(full_study: Path, sampled: bool) -> None:
    folder = run_of(full_study, "fttpo")
    policy, episodes = policy_of(folder), episodes_of(folder)
    result = value("FtTPO", policy, episodes, sampled=sampled)
    settings = Settings(estimators=("fqe", "wis", "wis_window"), sampled=sampled)
    constant, expected = evaluate_policies(episodes, [("FtTPO", policy)], settings).policies
    assert result.policy.values == expected.values
    assert result.constant.values == constant.values
    assert expected.weights is not None
    assert result.sample is not None
    np.testing.assert_allclose(result.sample, expected.weights.effective_sample)
    assert result.refused == ""
    assert result.patients == 3


def test_recorded_doses_outside_an_exact_support_have_density_zero(full_study: Path) -> None:
    folder = run_of(full_study, "fttpo")
    policy, episodes = policy_of(folder), episodes_of(folder)
    result = outside_support(policy, episodes)
    assert result is not None
    obs = np.broadcast_to(episodes.obs, (2, *episodes.obs.shape))
    distribution: Any = policy.distribution(obs).base_dist  # type: ignore[attr-defined]
    unit = torch.as_tensor(policy.transform.to_unit(episodes.act), dtype=torch.float32)
    zero = distribution.log_prob(unit.expand(2, -1, -1)).exp().numpy()[..., 0] == 0.0
    np.testing.assert_allclose(result, zero.mean(1), atol=1 / 72)  # one visit may stand on an edge
    assert 0.0 < result.mean() < 1.0
    assert outside_support(policy_of(run_of(full_study, "iql")), episodes) is None


def test_generated_doses_are_not_valued_on_the_page(
    full_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_of(full_study, "iql")
    policy, episodes = policy_of(folder), episodes_of(folder)
    assert is_quick(policy, episodes)
    sets = policy.dose_set(episodes.obs[None, :1].repeat(2, 0))
    monkeypatch.setattr(policy, "dose_set", lambda obs: replace(sets, kind="samples"))
    assert not is_quick(policy, episodes)


def test_the_effective_sample_is_drawn_with_the_least_that_gives_a_number() -> None:
    sample = np.array([[50.0, 8.0, 0.0], [40.0, 6.0, 0.0]])
    figure = effective_sample([("A", MARKS[0], sample)], 50)
    assert figure.layout.title.text == NOTICE
    assert figure.layout.xaxis.title.text == "visit"
    assert "patients" in figure.layout.yaxis.title.text
    *seeds, mean = figure.data
    assert [list(s.y) for s in seeds] == [[50.0, 8.0, FLOOR], [40.0, 6.0, FLOOR]]
    assert list(mean.y) == [45.0, 7.0, FLOOR]
    assert list(mean.customdata) == [45.0, 7.0, 0.0]
    assert mean.marker.symbol[2] == f"{MARKS[0].symbol}-open"
    assert {s.y0 for s in figure.layout.shapes if s.line.color == GREY} == {LEAST_SAMPLE, 50}
    assert f"no number below {LEAST_SAMPLE:g}" in texts(figure)


def test_no_cost_reaches_below_zero() -> None:
    cost = Estimate(0.066, -0.003, 0.136, 0.95, 100, 5, "t over seeds")
    assert (off_policy.not_below_zero(cost).low, off_policy.not_below_zero(cost).high) == (0.0, 0.136)
    assert "cut at 0" in off_policy.not_below_zero(cost).basis
    inside = replace(cost, low=0.01)
    assert off_policy.not_below_zero(inside) == inside


# A selection


def selection(study: Path, agents: Sequence[str] = ("fttpo",)) -> dict[str, Any]:
    """What a selection leaves, with numbers of our own."""
    one = PooledValue(
        Estimate(-3.0, -5.0, -1.0, 0.95, 3, 2, "b"),
        Estimate(-0.5, -1.0, 0.25, 0.95, 3, 2, "b"),
        "not distinguishable",
        (0.1, -0.2),
    )
    none = PooledValue(refused="fold 2: too few weights")
    configs = [run_of(study, agent).config() for agent in agents]
    values = {"fqe": asdict(one), "wis": asdict(none)}
    return {
        "verdict": "None of these candidates is found better.",
        "constant": {
            "identified": True,
            "values": values | {"fqe": asdict(replace(one, difference=None, verdict=None))},
        },
        "candidates": [
            {
                "name": f"{c.agent} candidate",
                "agent": c.agent,
                "config": c.agent_config,
                "regularisation": {},
                "values": values,
            }
            for c in configs
        ],
        "decided_by": "fqe",
        "patients": 3,
        "horizon": 24,
        "behaviour": "recorded",
        "notes": ["something to know"],
    }


def test_a_selection_is_read_back(full_study: Path) -> None:
    result = read_selection(selection(full_study), "x")
    assert [c.name for c in result.candidates] == ["constant dose", "fttpo candidate"]
    assert result.candidates[1].values["fqe"].estimate == Estimate(-3.0, -5.0, -1.0, 0.95, 3, 2, "b")
    assert result.candidates[1].values["wis"].refused == "fold 2: too few weights"
    runs = [run(full_study, agent) for agent in ("fttpo", "iql")]
    assert same_settings(result.candidates[1], runs) == runs[0]
    other = {"config": {**runs[0].config.agent_config, "temperature": 9.0}, "regularisation": {}}
    assert same_settings(CandidateRow("x", "fttpo", other, {}), runs) is None
    whole = selection(full_study)
    for damaged in ({}, whole | {"candidates": [{}]}, whole | {"patients": "x"}):
        with pytest.raises(UserError, match="not a selection of this version"):
            read_selection(damaged, "x")


def test_cross_validated_estimates_stand_beside_the_simulator(
    open_app,  # noqa: F811
    full_study: Path,
    tmp_path: Path,
) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    write_json(study / SELECTION, selection(study))
    at = open_app(study, PAGE)
    assert not at.error
    table = at.table[0].value
    assert table["candidate"].tolist() == ["constant dose", "fttpo candidate"]
    known = mean_over_seeds(read_outcomes(run_of(study, "fttpo").path / EPISODES)["recommended"].returns)
    assert table["simulator"].str.replace("\\", "").tolist() == ["not evaluated here", minus(known)]
    assert table["estimated return"][1].replace("\\", "") == minus("-3.0 [-5.0, -1.0]")
    assert table["verdict"][1] == "not distinguishable"
    assert "something to know" in words(at)
    assert len(specs(at)) == 3
    at.selectbox(key="estimator").select("wis").run()
    assert not at.exception
    assert at.table[0].value["estimated return"].tolist() == ["not available: fold 2: too few weights"] * 2


@pytest.mark.long
def test_a_selection_that_chose_no_run_is_shown_and_a_damaged_one_named(
    open_app,  # noqa: F811
    full_study: Path,
    empty_study: Path,
) -> None:
    write_json(empty_study / SELECTION, selection(full_study))
    at = open_app(empty_study, PAGE)
    assert len(at.table) == 1
    write_json(empty_study / SELECTION, {})
    at = open_app(empty_study, PAGE)
    assert any("not a selection of this version" in e.value for e in at.error)


# The study's own runs


@pytest.mark.long
def test_runs_are_valued_on_their_own_patients_with_a_warning(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE, rule="sampled")
    assert not at.error
    said = words(at)
    assert "**Too good.**" in said
    data = read_json(run_of(full_study, "fttpo").path / "config.json")["data_file"]
    assert at.code[0].value.startswith("python -m dosing select --agents fttpo iql --data ")
    assert Path(data).name in at.code[0].value
    share = outside_support(policy_of(run_of(full_study, "fttpo")), episodes_of(run_of(full_study, "fttpo")))
    assert share is not None
    assert f"**{probability(float(share.mean()))}** of the recorded doses lie outside its support" in said
    assert "IQL: no exact interval" in said
    assert "**Not available.** FtTPO, weighted importance sampling" in said
    chart = specs(at)[0]
    known = mean_over_seeds(read_outcomes(run_of(full_study, "iql").path / EPISODES)["sampled"].returns)
    shown = [note["text"] for note in json.loads(chart)["layout"]["annotations"]]
    assert any("IQL, simulator" in text and minus(known) in text for text in shown)
    assert not any("not available" in text for text in shown)  # what there is not is told once, below
    assert said.count("**Not available.**") == len(set(re.findall(r"Not available\.\*\* .*?: (.*)", said)))
    assert "of its doses at recorded states no dose was recorded" in said
    again = open_app(full_study, PAGE, rule="sampled")
    assert words(again) == said


def test_what_takes_long_names_its_command(
    open_app,  # noqa: F811
    full_study: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(off_policy, "is_quick", lambda policy, episodes: False)
    st.cache_resource.clear()
    at = open_app(full_study, PAGE)
    st.cache_resource.clear()
    assert "The doses of FtTPO and IQL are generated" in words(at)
    assert at.code[1].value.startswith("python -m dosing select --agents fttpo iql")
    assert not specs(at)


@pytest.mark.long
def test_the_other_states_of_the_page(
    open_app,  # noqa: F811
    full_study: Path,
    damaged_study: Path,
    empty_study: Path,
    tmp_path: Path,
) -> None:
    at = open_app(empty_study, PAGE)
    assert at.code[0].value == f"python -m dosing select --agents fttpo iql --out {empty_study}"
    at = open_app(damaged_study, PAGE)
    assert any("IQL" in e.value and "changed or truncated" in e.value for e in at.error)
    assert "--agents fttpo --data" in at.code[0].value
    study = shutil.copytree(full_study, tmp_path / "study")
    (run_of(study, "iql").path / EVALUATION).unlink()
    (run_of(study, "fttpo").path / DONE).unlink()
    at = open_app(study, PAGE)
    assert "not evaluated on new patients" in specs(at)[0]
