"""Agents: policy cards that say what was measured, files of them, and the suite as it is."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents
from app.analysis import agent_table
from app.analysis.model_card import KINDS, as_html, at_recorded_visits, card_of, estimate_words, in_words
from app.readers.study import Run
from app.theme import minus
from dosing import NOT_FOR_PATIENTS
from dosing.evaluation.outcomes import read_outcomes
from dosing.evaluation.statistics import mean_over_seeds
from dosing.recommendation.recommender import recommend
from dosing.runs.files import sha256
from dosing.runs.folder import EPISODES, WEIGHTS
from dosing.studies.data import episodes_of
from dosing.studies.loading import recommender_of
from dosing.studies.naming import family_of
from tests.app.test_pages import run_of, words
from tests.app.test_what_if import open_app  # noqa: F401
from tests.support.samples import stack

PAGE = "views/agents.py"


def run(study: Path, agent: str) -> Run:
    folder = run_of(study, agent)
    config = folder.config()
    return Run(folder, config, agents.find(agent), agents.find(agent).title)


@pytest.fixture(scope="module")
def card(full_study: Path) -> dict[str, Any]:
    one = run(full_study, "fttpo")
    return card_of(
        one,
        recommender_of(one.folder),
        episodes_of(one.folder),
        read_outcomes(one.folder.path / EPISODES),
        None,
    )


@pytest.mark.long
def test_a_card_holds_what_was_measured_and_what_it_rests_on(full_study: Path, card: dict[str, Any]) -> None:
    one = run(full_study, "fttpo")
    outcomes = read_outcomes(one.folder.path / EPISODES)
    for rule, result in outcomes.items():
        measured = card["evaluation"][rule]
        expected = mean_over_seeds(result.returns)
        assert (measured["return"]["value"], measured["return"]["low"]) == (expected.value, expected.low)
        assert measured["safety_events_per_patient"]["value"] == result.cost.mean()
        assert measured["patients_with_a_safety_event"]["value"] == (result.cost > 0).mean()
        assert measured["share_of_visits_at_a_limit"]["value"] == result.limited.mean()
        assert measured["return_of_worst_tenth"] is None  # 4 patients have no tenth
    assert card["agent"]["distribution"] == family_of(one.config)
    assert card["agent"]["seeds"] == [0, 1]
    assert card["data"]["sha256"] == one.data
    assert (card["data"]["patients"], card["data"]["visits"]) == (3, 72)
    assert card["provenance"]["weights"] == sha256(one.folder.path / WEIGHTS)
    assert not Path(card["provenance"]["run"]).is_absolute()
    assert card["notice"] == NOT_FOR_PATIENTS
    file = json.loads(json.dumps(card, allow_nan=False))
    assert file["evaluation"] == card["evaluation"]
    assert any("not validated" in sentence for sentence in card["known_limits"])


@pytest.mark.long
def test_the_shares_at_recorded_visits_are_those_of_the_recommender(
    full_study: Path, card: dict[str, Any]
) -> None:
    recommender = recommender_of(run_of(full_study, "fttpo"))
    episodes = episodes_of(run_of(full_study, "fttpo"))
    result = [recommend(recommender, state.tolist()) for state in episodes.obs]  # 72 visits: all of them
    here = card["at_recorded_visits"]
    assert here["visits"] == 72
    half = np.mean([[0.5 * (s.high[0] - s.low[0]) for s in one.seeds] for one in result])
    assert here["half_width"] == pytest.approx(half, rel=1e-5)
    assert here["spread_over_seeds"] == pytest.approx(np.mean([one.spread for one in result]), rel=1e-4)
    disagree = [bool({"seeds_apart", "between_seeds"} & set(one.codes)) for one in result]
    assert here["seeds_disagree"] == pytest.approx(np.mean(disagree))
    for status, share in here["status"].items():
        assert share == pytest.approx(np.mean([one.status == status for one in result]))
    assert (here["dose_set"], here["exact_support"], here["mass_outside_limits"]) == ("interval", True, 0.0)
    open_ended = at_recorded_visits(recommender_of(run_of(full_study, "iql")), episodes)
    assert not open_ended["exact_support"]
    assert open_ended["mass_outside_limits"] > 0.0


class Seen(HTMLParser):
    """Tags and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.long
def test_the_html_stands_alone_and_lets_no_name_become_markup(card: dict[str, Any]) -> None:
    odd = card | {"data": card["data"] | {"name": "<script>alert(1)</script>"}}
    text = as_html(odd)
    seen = Seen()
    seen.feed(text)
    assert seen.open == []
    assert "script" not in seen.tags
    assert seen.addresses == []
    assert text.count(NOT_FOR_PATIENTS) == 2
    assert "&lt;script&gt;" in text
    assert card["provenance"]["weights"] in text
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == [heading for heading, _ in in_words(card)]
    assert "0 (exactly)" in text


@pytest.mark.long
def test_what_was_not_measured_is_said(full_study: Path) -> None:
    one = run(full_study, "iql")
    bare = card_of(one, recommender_of(one.folder), episodes_of(one.folder), None, None)
    lines = [text for _, part in in_words(bare) for _, text in part]
    assert "not evaluated: do not follow" in lines
    assert not any("(exactly)" in text for text in lines)
    assert estimate_words(None) == "too few patients for an interval"
    number = {"value": -1.25, "low": -2.0, "high": -0.5, "basis": "b"}
    assert estimate_words(number) == "\N{MINUS SIGN}1.25 [\N{MINUS SIGN}2.00, \N{MINUS SIGN}0.50] (b)"


@pytest.mark.long
def test_the_suite_is_described_by_the_agents_themselves() -> None:
    expected = {
        "fttpo": "learned values of doses",
        "bc": "recorded doses alone",
        "iqn": "a learned distribution of returns",
        "rebrac": "learned values of doses, the dose recorded next",
        "decision_transformer": "recorded doses, given the return that followed, episodes of up to 4 visits",
        "quasi_optimal": "learned values of doses, pairs of visits of whole episodes",
    }
    assert {name: agent_table.learns_from(stack(name, (0,))) for name in expected} == expected
    assert {entry.about.support for entry in agents.AGENTS.values()} <= set(KINDS)


# The page


@pytest.fixture
def short_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two agents instead of all: the same code, faster."""
    some = {name: agents.AGENTS[name] for name in ("fttpo", "bc")}
    monkeypatch.setattr(agent_table, "agents", type("Few", (), {"AGENTS": some, "build": agents.build}))


@pytest.mark.long
@pytest.mark.usefixtures("short_suite")
def test_the_page_shows_one_card_and_the_suite(
    open_app,  # noqa: F811
    full_study: Path,
    card: dict[str, Any],
) -> None:
    at = open_app(full_study, PAGE, run="FtTPO")
    assert not at.error
    said = "\n".join([words(at), *(part.label for part in at.expander)])
    assert minus(estimate_words(card["evaluation"]["recommended"]["return"])) in said
    assert card["data"]["sha256"] in said
    assert "Against one constant dose for everyone" in said
    assert [button.proto.label for button in at.get("download_button")] == ["Download json", "Download html"]
    assert at.dataframe[0].value["name"].tolist()[0] == "fttpo"
    other = open_app(full_study, PAGE, run="nobody")
    assert "asks for run 'nobody', which is not there" in words(other)


@pytest.mark.long
@pytest.mark.usefixtures("short_suite")
def test_the_other_states_of_the_page(
    open_app,  # noqa: F811
    full_study: Path,
    damaged_study: Path,
    empty_study: Path,
    tmp_path: Path,
) -> None:
    at = open_app(damaged_study, PAGE, run="IQL")
    assert any("IQL" in e.value and "changed or truncated" in e.value for e in at.error)
    assert len(at.dataframe) == 1
    study = shutil.copytree(full_study, tmp_path / "study")
    with (run_of(study, "iql").path / EPISODES).open("ab") as file:
        file.write(b"x")
    at = open_app(study, PAGE, run="IQL")
    assert any("the evaluation of IQL" in e.value for e in at.error)
    assert "not evaluated: do not follow" in words(at)
    at = open_app(empty_study, PAGE)
    assert at.code[0].value == "python -m dosing demo"
    assert NOT_FOR_PATIENTS in at.warning[0].value
    assert len(at.dataframe) == 1  # the suite needs no run
