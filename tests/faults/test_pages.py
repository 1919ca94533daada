"""Faults that reach a page, a file of answers or the audit log; numbered as in the catalogue of faults.

What pages owe a reader beside these (behaviours) stands below, numbered likewise.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from app.analysis import batch
from app.text import escaped, label
from app.widgets import write
from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.recommendation.audit_log import FILE, AuditLog, shown
from dosing.recommendation.decisions import decisions_on, record_decision
from dosing.recommendation.dose_context import DecidedStates, verdict_words
from dosing.recommendation.recommender import recommend
from dosing.recommendation.report import Said, report
from dosing.runs.folder import DONE, METRICS, RunFolder, find_runs
from dosing.studies.data import episodes_of
from dosing.studies.evidence import read_evidence
from dosing.studies.loading import recommender_of
from tests.app.figures import specs
from tests.app.injected import pages, parameters

ROOT = Path(__file__).resolve().parents[2]
VIEWS = ["views/patient.py" if not page else f"views/{page}.py" for page in pages()]
WITH_DOSES = ("patient", "overview", "what_if", "dose_response", "sparse_gaussian")
"""Pages that show what a policy says to a patient."""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    """A log of this test alone."""
    result = AuditLog(tmp_path / "log" / FILE)
    monkeypatch.setenv("DOSING_AUDIT", str(result.path))
    return result


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, log: AuditLog) -> Any:
    """Opens a page of the dashboard on a study."""

    def start(study: Path, view: str, **link: str) -> AppTest:
        monkeypatch.setenv("DOSING_STUDY", str(study))
        at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
        for name, value in link.items():
            at.query_params[name] = value
        at.switch_page(view).run()
        assert not at.exception
        return at

    return start


def run_of(study: Path, agent: str = "fttpo") -> RunFolder:
    (run,) = (run for run in find_runs(study) if run.config().agent == agent)
    return run


def said(at: AppTest) -> str:
    kinds = (at.title, at.subheader, at.markdown, at.caption, at.warning, at.info, at.success, at.error)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def broken(log: AuditLog) -> None:
    """A log with a changed line."""
    for number in range(3):
        log.append("run loaded", {"agent": f"agent {number}"})
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join([lines[0], lines[1].replace(b"agent 1", b"agent 7"), lines[2]]))


@pytest.mark.parametrize("page", WITH_DOSES)
@pytest.mark.parametrize("damage", ["broken", "not to be written"])
def test_fault_40_a_damaged_log_shows_no_dose_on_any_page(
    opened: Any,
    full_study: Path,
    log: AuditLog,
    page: str,
    damage: str,
) -> None:
    if damage == "broken":
        broken(log)
    else:
        log.path.mkdir(parents=True)
    at = opened(full_study, f"views/{page}.py", choices="2")
    text = said(at)
    assert "NO DOSE IS SHOWN: nothing can be recorded." in text
    assert "broken at line 2" in text or "cannot write the audit log" in text
    assert not [metric for metric in at.metric if "dose" in metric.label.lower()]
    figures = " ".join(specs(at))
    for words in ("recommended dose", "exact support", "not a support", "density (", "believed return"):
        assert words not in figures
    assert not [b for b in at.get("download_button") if "report" in str(b.proto.id)]


def test_fault_40_a_log_that_is_damaged_meanwhile_takes_doses_off_the_page(
    opened: Any, full_study: Path, log: AuditLog
) -> None:
    at = opened(full_study, "views/patient.py")
    assert len(at.metric) == 2
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join([*lines[:2], lines[3], lines[2]]))
    left = log.path.read_bytes()
    at.run()
    assert not at.exception
    assert not at.metric
    assert log.path.read_bytes() == left


MARKUP = "![x](http://e.invalid/x) :green-badge[OK] <script>x</script> http://e.invalid $x$ a@e.invalid"


@pytest.mark.long
@pytest.mark.parametrize("view", VIEWS)
def test_fault_29_markup_in_a_link_stays_text(opened: Any, full_study: Path, view: str) -> None:
    """What a browser makes of it, and of names in data, is looked at beside the dashboard's own tests."""
    at = opened(full_study, view, **dict.fromkeys(parameters(), MARKUP))
    assert MARKUP not in said(at)
    for word in ("![x]", ":green-badge[OK]", " <script", "http:/", "$x$", " a@e"):
        assert word not in said(at)
    assert "<" not in label(MARKUP)


def test_fault_44_a_decision_sent_twice_or_from_two_tabs_is_one(
    full_study: Path,
    log: AuditLog,
) -> None:
    run = run_of(full_study)
    state = episodes_of(run).obs[0].tolist()
    result = recommend(recommender_of(run), state).to_json()
    first, second = (log.append(*shown(result, visit=("0", 1))) for _ in range(2))
    made = record_decision(log, first.number, "accept")
    assert record_decision(log, first.number, "accept") == made
    assert record_decision(log, second.number, "accept") == made
    with pytest.raises(UserError, match=f"to replace the decision in force, record {made.number}"):
        record_decision(log, second.number, "reject")
    assert [decision.number for decision in decisions_on(log, first.content)] == [made.number]


def test_a_command_to_copy_holds_a_path_as_one_word(
    opened: Any,
    full_study: Path,
    tmp_path: Path,
) -> None:
    """Commands that a page offers to be copied hold the study's path as one word."""
    study = tmp_path / "a; touch x $(id)"
    study.mkdir()
    at = opened(study, "views/ope.py")
    assert f"--out '{study}'" in at.code[0].value


@pytest.mark.parametrize("view", ["views/patient.py", "views/overview.py", "views/training.py"])
def test_fault_43_a_run_that_is_still_training_is_named_and_not_read(
    opened: Any, full_study: Path, tmp_path: Path, view: str
) -> None:
    """Its metrics are half written; the other run shows as ever."""
    study = shutil.copytree(full_study, tmp_path / "study")
    training = RunFolder(next(study.glob("iql/*/*")))
    (training.path / DONE).unlink()
    (training.path / METRICS).write_bytes((training.path / METRICS).read_bytes()[:100])
    at = opened(study, view)
    assert "1 run in " in said(at)
    assert "is not finished and not shown" in said(at)
    assert specs(at)
    assert [metric.label for metric in at.metric] != [] or view == "views/training.py"


# Behaviours


@pytest.mark.parametrize("view", VIEWS)
def test_behaviour_1_every_page_says_that_it_is_not_for_patients(
    opened: Any,
    full_study: Path,
    view: str,
) -> None:
    assert NOT_FOR_PATIENTS in escaped(opened(full_study, view).warning[0].value).replace("\\", "")


def test_behaviour_10_verdict_and_decision_go_wherever_the_dose_goes(
    full_study: Path,
    log: AuditLog,
) -> None:
    run = run_of(full_study)
    recommender, evidence = recommender_of(run), read_evidence(run)
    state = episodes_of(run).obs[0].tolist()
    result = recommend(recommender, state)
    record = log.append(*shown(result.to_json()))
    with pytest.raises(UserError, match=r"hard limits .* cannot be overridden"):
        record_decision(log, record.number, "modify", [1.25], "kidneys")
    with pytest.raises(UserError, match="a reason"):
        record_decision(log, record.number, "modify", [0.25])
    record_decision(log, record.number, "modify", [0.25], "kidneys")
    (decision,) = decisions_on(log, record.content)
    verdict = verdict_words(evidence)
    from dosing.cli.recommend import context_of, describe

    beside = context_of(run, log, record.content)
    for text in (
        describe(result, beside),
        report([Said("FtTPO", "x", result, beside)]),
    ):
        assert verdict in text
        assert "another dose, 0.250 instead of" in text
        assert "Reason: kidneys." in text
    decided = DecidedStates((decision,), recommender.provenance["weights"])
    table = batch.answer(recommender, np.asarray([state, state[::-1]]), None, "a" * 64, evidence, decided)
    again = pq.read_table(io.BytesIO(batch.as_parquet(table))).to_pydict()
    assert again["verdict"] == [verdict] * 2
    assert "kidneys" in again["decision"][0]
    assert again["decision"][1] is None


def test_behaviour_14_every_run_has_a_card_with_what_it_rests_on(opened: Any, full_study: Path) -> None:
    text = said(opened(full_study, "views/agents.py"))
    for words in (
        "Method",
        "Seeds",
        "SHA-256",
        "Return: ",
        "Safety events per patient: ",
        "95 % interval",
        "Mean half-width: ",
        "Recommended dose held at a hard limit: ",
        "Visits at which the seeds disagree: ",
        "not validated against any real patient",
    ):
        assert words in text.replace("\\", "")


def test_behaviour_16_alerts_have_three_levels_and_are_counted(
    opened: Any, full_study: Path, log: AuditLog
) -> None:
    at = opened(full_study, "views/patient.py", state_from="typed numbers", numbers="6 -6 6 -6 6 -6 6 -6")
    deferred = [r for r in log.verify().records if r.kind == "recommendation"]
    assert [r.content["status"] for r in deferred] == ["deferred"] * 2
    for _ in range(2):  # drawn again, nothing is counted twice
        at.run()
    record_decision(log, deferred[0].number, "reject")
    text = said(opened(full_study, "views/audit.py"))
    assert "Alerts: **2** of 2 answers (2 deferred)" in text
    assert "Overrides: **1** of 1 decision" in text
    levels = {"info", "warning", "error"}
    assert {
        name for name in ("info", "warning", "error", "toast", "exception") if hasattr(write, name)
    } == levels


def test_behaviour_11_what_a_roll_out_follows_is_on_record(
    opened: Any, full_study: Path, log: AuditLog
) -> None:
    at = opened(full_study, "views/what_if.py", rule1="follow FtTPO", choices="1", matched="100")
    kinds = [record.kind for record in log.verify().records]
    assert kinds == ["run loaded", "recommendation", "batch"]
    batch_ = log.verify().records[-1].content
    visits = run_of(full_study).config().problem.horizon
    patients, rest = divmod(batch_["rows"], visits)
    assert 0 < patients <= 100  # as many as could show this state, and were asked for
    assert rest == 0
    assert batch_["rows"] == sum(batch_["statuses"].values())
    assert "Answers of the recommender on the way:" in said(at)
