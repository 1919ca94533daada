"""Every page in every state: nothing yet, partial, full; what is typed wrong is refused in a sentence."""

from __future__ import annotations

import ast
import gc
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app.text import JOINER
from app.theme import number
from dosing import NOT_FOR_PATIENTS
from dosing.recommendation.dose_context import verdict_words
from dosing.runs.files import read_json, write_json
from dosing.runs.folder import DONE, RunFolder, find_runs
from dosing.studies.baseline import Baseline
from dosing.studies.comparison_table import Row
from dosing.studies.data import episodes_of
from dosing.studies.evidence import evidence_of
from dosing.studies.loading import recommend
from dosing.studies.naming import TABLE
from tests.app.figures import specs
from tests.app.test_charts import answer, row

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("views/patient.py", "views/comparison.py", "views/about.py")


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch):
    def start(study: Path, page: str = PAGES[0], **link: str) -> AppTest:
        monkeypatch.setenv("DOSING_STUDY", str(study))
        at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
        for name, value in link.items():
            at.query_params[name] = value
        at.run()
        if page != PAGES[0]:
            at.switch_page(page).run()
        assert not at.exception
        return at

    return start


def unfolded(at: AppTest, *keys: str) -> AppTest:
    """The page with folds opened."""
    for key in keys:
        assert not at.session_state[key]
        at.session_state[key] = True
    at.run()
    assert not at.exception
    return at


def words(at: AppTest) -> str:
    """All text on the page, as it is read there."""
    kinds = (
        at.title,
        at.subheader,
        at.markdown,
        at.caption,
        at.warning,
        at.info,
        at.success,
        at.error,
        at.code,
    )
    return "\n".join(plain(str(element.value)) for kind in kinds for element in kind)


def plain(text: str) -> str:
    """Markdown without what keeps values from being markdown."""
    return re.sub(r"\\(?=[^a-zA-Z0-9\s])", "", text).replace(JOINER, "")


def run_of(study: Path, agent: str) -> RunFolder:
    (run,) = (run for run in find_runs(study) if run.config().agent == agent)
    return run


def doses(at: AppTest) -> list[str]:
    return [metric.value for metric in at.metric]


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_study_names_the_command_that_fills_it(open_app, empty_study: Path, page: str) -> None:
    at = open_app(empty_study, page)
    assert NOT_FOR_PATIENTS in at.warning[0].value
    assert "no finished run" in words(at)
    assert at.code[0].value == "python -m dosing demo"
    assert not at.metric
    assert not specs(at)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_carries_the_banner_and_no_error(open_app, full_study: Path, page: str) -> None:
    at = open_app(full_study, page)
    assert NOT_FOR_PATIENTS in at.warning[0].value
    assert not at.error


@pytest.mark.long
def test_what_the_first_page_loaded_is_searched_for_garbage_once(open_app, full_study: Path) -> None:
    gc.unfreeze()
    st.cache_resource.clear()
    open_app(full_study)
    assert gc.get_freeze_count() > 100_000


def test_the_dose_on_screen_is_the_recommendation(open_app, full_study: Path) -> None:
    at = open_app(full_study)
    run = run_of(full_study, "fttpo")
    episodes = episodes_of(run)
    at.selectbox(key="patient").set_value(2)
    at.slider(key="visit").set_value(7).run()
    assert not at.exception
    row = int(((episodes.episode == 2) & (episodes.step == 6)).argmax())
    expected = []
    for agent in ("fttpo", "iql"):
        result = recommend(run_of(full_study, agent), episodes.obs[row].tolist())
        assert result.dose is not None
        expected.append(number(result.dose[0]))
    assert doses(at) == expected
    assert len(specs(at)) == 2  # doses, and what happened so far; the rest is folded
    assert len(specs(unfolded(at, "episode_fold"))) == 4
    text = words(at).replace("\N{NO-BREAK SPACE}", " ")
    assert text.count("Probability outside the hard limits: **0 (exactly)**") == 1  # FtTPO, not the Gaussian
    assert text.count("Probability outside FtTPO's set: **0 (exactly)**") == 1
    assert "exact support" in text
    assert "Could give any dose; central 99 %" in text
    assert "2 training seeds" in text


def test_status_stands_before_the_number(open_app, full_study: Path) -> None:
    at = open_app(full_study)
    kinds = [element.type for element in at.main]
    assert kinds.index("metric") > next(
        i
        for i, element in enumerate(at.main)
        if element.type == "markdown" and "-background[" in str(element.value)
    )


@pytest.mark.long
def test_the_charts_can_be_switched_to_tails_and_proposals(open_app, full_study: Path) -> None:
    at = open_app(full_study)
    for key in ("log", "proposals"):
        at.toggle(key=key).set_value(True)
    at.run()
    assert not at.exception
    chart = specs(at)[0]
    assert chart != specs(open_app(full_study))[0]
    assert "FtTPO proposal" in chart


@pytest.mark.long
def test_two_people_with_one_link_see_the_same_patient(open_app, full_study: Path) -> None:
    first, second = (open_app(full_study, patient="1", visit="5") for _ in range(2))
    assert first.selectbox(key="patient").value == 1
    assert first.slider(key="visit").value == 5
    assert doses(first) == doses(second)
    other = open_app(full_study)
    assert doses(first) != doses(other)


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ({"patient": "99"}, "asks for patient '99', but this study has patients 0 to 2"),
        ({"visit": "soon"}, "asks for visit 'soon', but this study has visits 1 to 24"),
    ],
)
def test_a_link_to_nobody_says_so(open_app, full_study: Path, link: dict[str, str], says: str) -> None:
    at = open_app(full_study, **link)
    assert says in words(at)
    assert at.metric


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("1 2 3 nan 5 6 7 8", "s4 (entry 4) of the state must be a finite number"),
        ("1 2 3 4 5 6 7 tall", "s8 (entry 8) of the state must be a number, got 'tall'"),
        ("1, 2, 3, 4, 5, 6, 7", "the state needs 8 numbers, got 7"),
        ("1 2 3 4 5 6 7 1e999", "must be a finite number"),
    ],
)
def test_what_is_no_state_is_refused_in_a_sentence(open_app, full_study: Path, typed: str, says: str) -> None:
    at = open_app(full_study)
    at.segmented_control(key="state_from").set_value("typed numbers").run()
    at.text_input(key="numbers").input(typed).run()
    assert not at.exception
    assert words(at).count("REFUSED: no dose.") == 2
    refusals = [e.value for e in at.markdown if str(e.value).startswith("**Decide without it.**")]
    assert len(refusals) == 2
    for refusal in refusals:
        assert says[:1].upper() + says[1:] in refusal or says in refusal
    assert not at.metric
    assert not specs(at)


def test_eight_typed_numbers_get_an_answer(open_app, full_study: Path) -> None:
    state = [0.5, -0.25, 0, 1, 0, 0, 0.125, -1]
    at = open_app(full_study, state_from="typed numbers", numbers=" ".join(map(str, state)))
    result = recommend(run_of(full_study, "fttpo"), state)
    assert result.dose is not None
    assert doses(at)[0] == number(result.dose[0])
    assert len(specs(at)) == 1  # no episode: nobody recorded one


@pytest.mark.long
def test_a_damaged_run_is_named_while_the_other_still_shows(open_app, damaged_study: Path) -> None:
    at = open_app(damaged_study)
    assert [e.value for e in at.error if "IQL" in e.value and "changed or truncated" in e.value]
    assert len(at.metric) == 1
    at = open_app(damaged_study, PAGES[1])
    assert specs(at)
    at = open_app(damaged_study, PAGES[2])
    table = at.table[0].value
    assert table["files"].str.startswith("damaged").tolist() == [False, True]


@pytest.mark.long
def test_an_unfinished_run_is_not_a_result(open_app, full_study: Path, tmp_path: Path) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    (run_of(study, "iql").path / DONE).unlink()
    at = open_app(study)
    assert "1 run in" in words(at)
    assert "is not finished and not shown" in words(at)
    assert len(at.metric) == 1
    at = open_app(study, PAGES[1])
    assert "no longer a readable run" in words(at)


def test_without_the_recorded_visits_typed_numbers_still_work(
    open_app, full_study: Path, tmp_path: Path
) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    for file in (study / "data").iterdir():
        file.unlink()
    at = open_app(study, numbers="0 0 0 0 0 0 0 0")
    assert "Typed numbers still work" in words(at)
    assert len(at.metric) == 2


@pytest.mark.long
def test_a_study_that_was_not_compared_names_the_command(open_app, full_study: Path, tmp_path: Path) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    (study / TABLE).unlink()
    at = open_app(study, PAGES[1])
    assert "not been compared yet" in words(at)
    assert at.code[0].value.startswith("python -m dosing")
    line = {k: v for k, v in read_json(full_study / TABLE)["rows"][0].items() if k != "baseline"}
    for other in ({}, {"rows": [line], "runs": []}):  # the second names no constant dose: an older program
        write_json(study / TABLE, other)
        at = open_app(study, PAGES[1])
        assert "not a study table" in words(at)


def test_about_names_what_the_numbers_rest_on(open_app, full_study: Path) -> None:
    at = open_app(full_study, PAGES[2])
    table = at.table[0].value
    for agent, line in zip(("fttpo", "iql"), table.to_dict("records"), strict=True):
        config = run_of(full_study, agent).config()
        assert config.data.content_hash.startswith(line["data hash"])
        assert line["files"] == "verified"
        assert line["seeds"] == 2


# What following a policy was worth


def test_the_card_judges_nothing_by_a_dose_that_rewards_do_not_tell(open_app, full_study: Path) -> None:
    """Three patients: slope and curvature of the reward cannot be told from 0."""
    at = open_app(full_study)
    told = [str(e.value) for e in at.caption]
    assert sum("the recorded rewards say nothing about doses" in text for text in told) >= 2
    assert not any("following it was worth" in text for text in told)


def test_the_card_says_what_following_was_worth(open_app, full_study: Path) -> None:
    at = open_app(full_study)
    shown = [plain(str(element.value)) for element in at.caption]
    rows = [Row.from_json(line) for line in read_json(full_study / TABLE)["rows"][:2]]
    said = [verdict_words(evidence_of(line, "1")) for line in rows]
    assert len(said) == 2
    for words_ in said:
        assert shown.count(words_) == said.count(words_)


def test_a_card_without_an_estimated_constant_says_why() -> None:
    at = AppTest.from_function(card_of_one_answer)
    lost = replace(row("Agent", 1.0, None), baseline=Baseline(None, 50, "the visits tell none."))
    one = answer()
    at.session_state["answer"] = replace(one, source=replace(one.source, measured=lost))
    at.run(timeout=30)
    assert not at.exception
    assert not at.warning
    assert [plain(caption.value) for caption in at.caption] == [
        "No verdict: measured on new simulated patients, but the visits tell none."
    ]
    assert "▲ Dose within limits · not compared with one constant dose" in words(at)


def card_of_one_answer() -> None:
    import streamlit as st

    from app.widgets import recommendation_card
    from dosing.recommendation.dose_context import DoseContext

    answer = st.session_state["answer"]
    recommendation_card.card(answer, DoseContext(answer.source.evidence), None)


@pytest.mark.parametrize(
    ("result", "status", "dose", "more"),
    [
        (
            {"status": "limited", "dose": (1.0,), "proposed": (1.25,), "bounded": False},
            "▲ Held at a limit · better than one constant dose",
            ["1.000"],
            "Proposed 1.250, held at a hard limit.",
        ),
        (
            {"status": "limited", "dose": (0.5,), "proposed": (1.25,), "codes": ("step_limit",)},
            "▲ Held at a limit · better than one constant dose",
            ["0.500"],
            "Proposed 1.250, held at a step limit.",
        ),
        (
            {"status": "deferred", "reasons": ("the seeds disagree.",), "safe_default": "no dose (0)"},
            "✕ DEFERRED: not advice",
            [],
            "**Decide without it.** The seeds disagree. Safe default of this scenario: no dose (0).",
        ),
        (
            {"seeds": ((0.5, 0.4, 0.6), (0.6, 0.5, 0.7))},
            "✓ Dose within limits · better than one constant dose",
            ["0.550"],
            "2 training seeds",
        ),
    ],
)
def test_the_card_says_what_happened_to_the_dose(
    result: dict[str, Any], status: str, dose: list[str], more: str
) -> None:
    at = AppTest.from_function(card_of_one_answer)
    one = answer(**result)
    measured = replace(row("Agent", 1.0, "better"), baseline=Baseline(0.4, 50))
    at.session_state["answer"] = replace(one, source=replace(one.source, measured=measured))
    at.run(timeout=30)
    assert not at.exception
    assert status in words(at)
    assert [badge for badge in words(at).splitlines() if badge.count("-background[")] == [status_line(at)]
    assert doses(at) == dose
    assert {metric.label for metric in at.metric} <= {"Recommended dose"}
    assert more in words(at)
    assert ("**Decide without it.**" in words(at)) == ("DEFERRED" in status)
    if "DEFERRED" in status:  # small, after the reason
        said = words(at)
        assert said.index("The seeds disagree") < said.index("Dose the policy would give: 0.225")


def status_line(at: AppTest) -> str:
    """The one badge of a card."""
    (line,) = (plain(str(e.value)) for e in at.markdown if "-background[" in str(e.value))
    return line


@pytest.mark.parametrize("verdict", ["worse", "not distinguishable", None])
def test_no_green_tick_beside_a_policy_that_is_no_better(verdict: str | None) -> None:
    at = AppTest.from_function(card_of_one_answer)
    one = answer()
    at.session_state["answer"] = replace(one, source=replace(one.source, measured=row("Agent", 1.0, verdict)))
    at.run(timeout=30)
    assert not at.exception
    assert ":orange-background[▲ Dose within limits" in status_line(at)
    assert "✓" not in words(at)
    assert "green" not in words(at)
    assert not at.success


@pytest.mark.parametrize("page", sorted((ROOT / "app" / "views").glob("*.py")), ids=lambda page: page.stem)
def test_no_string_of_a_page_stands_alone(page: Path) -> None:
    """Streamlit's magic would show it, wherever a visitor's own configuration switches that on again."""
    first, *rest = ast.parse(page.read_text()).body
    alone = [
        node.lineno for node in rest if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    assert isinstance(first, ast.Expr)
    assert alone == []
