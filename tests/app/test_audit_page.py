"""What the pages write to the audit log, decisions on the Patient page, and the page that shows the log."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.text import escaped
from dosing import NOT_FOR_PATIENTS
from dosing.recommendation.audit_log import FILE, AuditLog, Record
from tests.app.test_pages import words

ROOT = Path(__file__).resolve().parents[2]
AUDIT = "views/audit.py"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    """A log of this test alone; the study stays as it is."""
    result = AuditLog(tmp_path / "log" / FILE)
    monkeypatch.setenv("DOSING_AUDIT", str(result.path))
    return result


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch):
    def start(study: Path, page: str = "", **link: str) -> AppTest:
        monkeypatch.setenv("DOSING_STUDY", str(study))
        at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
        for name, value in link.items():
            at.query_params[name] = value
        at.run()
        if page:
            at.switch_page(page).run()
        assert not at.exception
        return at

    return start


def records(log: AuditLog, kind: str = "") -> list[Record]:
    result = log.verify()
    assert result.broken is None
    return [record for record in result.records if kind in ("", record.kind)]


def send(at: AppTest, action: str | None, dose: float | None = None, reason: str = "") -> AppTest:
    """Fill in the form and send it."""
    if action is not None:
        next(r for r in at.radio if str(r.key).startswith("action")).set_value(action)
    if dose is not None:
        next(n for n in at.number_input if str(n.key).startswith("given0")).set_value(dose)
    next(t for t in at.text_input if str(t.key).startswith("reason")).set_value(reason)
    next(b for b in at.button if b.label.startswith("Record")).click().run()
    assert not at.exception
    return at


@pytest.mark.long
def test_each_answer_is_recorded_once_however_often_the_page_is_drawn(
    opened, full_study: Path, log: AuditLog
) -> None:
    at = opened(full_study, patient="1", visit="5")
    kinds = ["run loaded", "run loaded", "recommendation", "recommendation"]
    assert [record.kind for record in records(log)] == kinds
    at.run()
    at.toggle(key="log").set_value(True).run()
    assert len(records(log)) == 4
    at.slider(key="visit").set_value(6).run()
    assert len(records(log)) == 6
    at.slider(key="visit").set_value(5).run()  # asked and recorded before
    assert len(records(log)) == 6
    first = records(log, "recommendation")[0]
    shown = at.metric[0].value
    assert f"{first.content['dose'][0]:.3f}".replace("-", "\N{MINUS SIGN}") == shown
    opened(full_study, patient="1", visit="5")  # shown to somebody else
    assert len(records(log)) == 10


@pytest.mark.long
def test_a_refusal_is_recorded_too_and_has_nothing_to_accept(opened, full_study: Path, log: AuditLog) -> None:
    at = opened(full_study, state_from="typed numbers", numbers="1 2 3 nan 5 6 7 8")
    result = records(log, "refusal")
    assert [record.content["codes"] for record in result] == [["not_finite"]] * 2
    assert at.radio[0].options == ["Give another dose", "Reject"]


@pytest.mark.long
def test_a_log_that_was_moved_aside_is_begun_anew(opened, full_study: Path, log: AuditLog) -> None:
    at = opened(full_study)
    shutil.move(log.path, log.path.with_suffix(".old"))
    shutil.move(log.head, log.path.with_suffix(".oldhead"))
    log.path.with_suffix(".kept").write_text("takes the place on the disk that the old log had")
    at.run()
    assert [record.number for record in records(log)] == [1, 2, 3, 4]


@pytest.mark.long
def test_where_nothing_can_be_recorded_no_dose_is_shown(opened, full_study: Path, log: AuditLog) -> None:
    log.path.mkdir(parents=True)  # as if the folder could not be written; root may write anywhere
    at = opened(full_study)
    assert "NO DOSE IS SHOWN: nothing can be recorded.** cannot write the audit log" in words(at)
    assert not at.metric
    assert not at.radio
    assert not at.get("download_button")


@pytest.mark.long
@pytest.mark.parametrize(
    ("action", "dose", "reason", "says"),
    [
        ("accept", None, "", "patient 0, visit 1: accepted, "),
        (
            "modify",
            0.25,
            "kidneys *fail* http://e.example",
            "patient 0, visit 1: another dose, 0.250 instead of ",
        ),
        ("reject", None, "", "patient 0, visit 1: rejected."),
    ],
)
def test_a_decision_is_in_the_log_and_on_the_page(
    action: str, dose: float | None, reason: str, says: str, opened, full_study: Path, log: AuditLog
) -> None:
    at = opened(full_study)
    assert "Nothing was decided on this yet" in words(at)
    send(at, action, dose, reason)
    (made,) = records(log, "decision")
    shown = records(log, "recommendation")[0]
    given = shown.content["dose"] if action == "accept" else None if dose is None else [dose]
    assert (made.content["action"], made.content["dose"]) == (action, given)
    assert (made.content["record"], made.content["record_hash"]) == (shown.number, shown.line_hash)
    assert made.content["reason"] == reason
    assert (made.content["patient"], made.content["visit"]) == ("0", 1)
    text = "\n".join(str(element.value) for element in at.success)
    assert "**In force:** fttpo, for" in text
    assert says in text
    assert escaped(reason) in text
    assert f"audit record {made.number}" in text
    assert (
        sum("Decision in force: fttpo, for" in str(element.value) for element in at.info) == 1
    )  # on the card
    assert not any(r.value for r in at.radio)  # the form is empty again
    assert not any(t.value for t in at.text_input)
    again = opened(full_study)  # after the browser was closed: another record, the same answer
    assert any(says in str(element.value) for element in again.success)
    again.slider(key="visit").set_value(9).run()
    assert not any("In force:" in str(element.value) for element in again.success)


@pytest.mark.long
def test_another_decision_replaces_the_one_in_force_and_needs_a_reason(
    opened, full_study: Path, log: AuditLog
) -> None:
    at = send(opened(full_study), "accept")
    (first,) = records(log, "decision")
    recording = [b.label for b in at.button if b.label.startswith("Record")]
    assert recording == [f"Record, and replace record {first.number}"]
    send(at, "reject")
    assert "this replaces the decision in force, and needs words in “Reason”" in words(at)
    assert len(records(log, "decision")) == 1
    send(at, "reject", reason="bleeding")
    second = records(log, "decision")[-1]
    assert second.content["replaces"] == first.number
    assert [str(e.value).count("rejected") for e in at.success if "In force" in str(e.value)] == [1]
    assert any("Replaced: fttpo, for patient 0, visit 1: accepted" in str(c.value) for c in at.caption)
    assert sum("Decision in force: " in str(element.value) for element in at.info) == 1
    send(at, "reject", reason="bleeding")  # the same once more
    assert len(records(log, "decision")) == 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("action", "dose", "reason", "says"),
    [
        (None, None, "why", "choose under “Decision” first"),
        ("modify", 0.2, "", "“Give another dose” needs words in “Reason”"),
        ("modify", None, "why", "“Give another dose” needs a number in “Other dose”"),
        ("modify", 1.5, "why", "“Other dose” must lie within the hard limits"),
        ("accept", 0.3, "", "“Accept” goes without a number in “Other dose”"),
    ],
)
def test_what_is_no_decision_is_not_recorded(
    action: str | None, dose: float | None, reason: str, says: str, opened, full_study: Path, log: AuditLog
) -> None:
    at = send(opened(full_study), action, dose, reason)
    assert any("Not recorded:" in e.value and says in e.value for e in at.error)
    assert records(log, "decision") == []


@pytest.mark.long
def test_what_was_deferred_needs_a_reason_to_be_accepted(opened, full_study: Path, log: AuditLog) -> None:
    at = opened(full_study, state_from="typed numbers", numbers="6 -6 6 -6 6 -6 6 -6")
    assert at.radio[0].options[0].endswith("(deferred)")
    send(at, "accept")
    assert records(log, "decision") == []
    send(at, "accept", reason="seen in clinic")
    assert records(log, "decision")[0].content["reason"] == "seen in clinic"


# The page


@pytest.mark.long
def test_a_log_that_is_not_there_yet(opened, full_study: Path, log: AuditLog) -> None:
    at = opened(full_study)
    for file in (log.path, log.head):
        file.unlink()
    at.switch_page(AUDIT).run()
    assert NOT_FOR_PATIENTS in at.warning[0].value
    assert "Nothing was recorded" in words(at)
    assert not at.dataframe


@pytest.mark.long
def test_an_empty_study_names_the_command_that_fills_it(opened, empty_study: Path) -> None:
    at = opened(empty_study, AUDIT)
    assert "no finished run" in words(at)


def shown_numbers(at: AppTest) -> list[int]:
    return list(at.dataframe[0].value["record"])


@pytest.mark.long
def test_a_whole_log_is_shown_newest_first_with_its_counts(opened, full_study: Path, log: AuditLog) -> None:
    at = send(opened(full_study), "modify", 0.25, "kidneys")
    at.switch_page("views/patient.py").run()
    log.append("batch", {"rows": 3, "statuses": {"ok": 1, "refused": 2}, "provenance": {"run": "x"}})
    at.query_params["kinds"] = ""
    at.switch_page(AUDIT).run()
    result = records(log)
    assert f"Chain verified.** {len(result)} records" in at.success[0].value
    assert shown_numbers(at) == [record.number for record in reversed(result)]
    alerts = sum(r.content["status"] != "ok" for r in result if r.kind in ("recommendation", "refusal"))
    text = words(at)
    assert f"Alerts: **{alerts}** of " in text
    assert "Overrides: **1** of 1 decision (1 another dose, 0 rejected)" in text
    assert "Rows of tables answered: 1 ok and 2 refused" in text
    assert result[-1].line_hash in text
    at.pills(key="kinds").set_value(["decision"]).run()
    assert shown_numbers(at) == [record.number for record in result if record.kind == "decision"]
    assert "modify 0.25 on record 3: kidneys" in at.dataframe[0].value["what"][0]
    assert (at.dataframe[0].value["patient"][0], at.dataframe[0].value["visit"][0]) == ("0", "1")


@pytest.mark.long
def test_a_link_shows_the_kinds_that_it_names(opened, full_study: Path, log: AuditLog) -> None:
    opened(full_study)
    at = opened(full_study, kinds="run loaded")
    at.switch_page(AUDIT)
    at.query_params["kinds"] = "run loaded"
    at.run()
    assert set(at.dataframe[0].value["kind"]) == {"run loaded"}


def change(line: int) -> Any:
    """Edit one number in one line of a log."""

    def edit(log: AuditLog) -> None:
        lines = log.path.read_text().splitlines(keepends=True)
        lines[line - 1] = lines[line - 1].replace("fttpo", "other").replace("iql", "other")
        log.path.write_text("".join(lines))

    return edit


@pytest.mark.long
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (change(3), 3),
        (change(1), 1),
        (lambda log: log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(True)[:-1])), 4),
    ],
)
def test_a_broken_log_names_its_first_bad_line_and_is_left_alone(
    damage: Any, line: int, opened, full_study: Path, log: AuditLog
) -> None:
    at = opened(full_study)
    damage(log)
    left = log.path.read_bytes()
    at.switch_page(AUDIT).run()
    assert f"CHAIN BROKEN at line {line}:" in at.error[0].value
    assert not at.success
    assert "Counted over the sound records alone" in words(at)
    if line > 1:
        assert shown_numbers(at) == list(range(line - 1, 0, -1))
    else:
        assert "No line of the log is sound" in words(at)
    assert log.path.read_bytes() == left


@pytest.mark.long
def test_a_log_that_cannot_be_read_is_named(opened, full_study: Path, log: AuditLog) -> None:
    at = opened(full_study)
    log.head.write_text("not a head")
    at.switch_page(AUDIT).run()
    assert "cannot be read; it is damaged" in words(at)
