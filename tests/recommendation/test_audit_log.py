"""The audit log: every kind of damage is found and named; records of many processes stand in one chain."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dosing.cli.main import main
from dosing.errors import UserError
from dosing.recommendation import audit_log, decisions
from dosing.recommendation.audit_log import (
    FILE,
    NONE,
    VARIABLE,
    AuditLog,
    _check,
    _dump,
    _sha256,
    log_of,
    shown,
    state_hash,
)
from dosing.recommendation.decisions import count, decisions_on, record_decision


def filled(path: Path, count: int = 6) -> AuditLog:
    """A log of a few records."""
    log = AuditLog(path / FILE)
    for number in range(count):
        log.append("run loaded", {"agent": f"agent {number}", "weights": "w" * 64})
    return log


def recommendation(**fields: Any) -> dict[str, Any]:
    """The record of a recommendation, with what a decision looks at."""
    return {
        "status": "ok",
        "codes": [],
        "dose": [4.0],
        "proposed": [4.0],
        "unit": "mg",
        "limits": [[0.0], [15.0]],
        "state": [1.0, 2.0],
        "provenance": {"run": "runs/x"},
    } | fields


def read(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


# The chain


def test_lines_are_numbered_and_chained(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    result = log.verify()
    assert (result.broken, result.head, len(result.records)) == (None, True, 3)
    previous = NONE
    for number, (line, record) in enumerate(zip(read(log), result.records, strict=True), 1):
        fields = json.loads(line)
        assert list(fields) == ["number", "time", "kind", "content", "previous", "hash"]
        assert (fields["number"], fields["previous"]) == (number, previous) == (record.number, previous)
        assert fields["content"] == record.content == {"agent": f"agent {number - 1}", "weights": "w" * 64}
        previous = record.line_hash
    assert result.last_hash == previous
    assert log.head.read_text().split() == ["3".zfill(20), previous]
    assert log.sentence(result) == f"{log.path} is whole: 3 records, last hash {previous}"


def test_a_record_is_on_the_disk_before_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def counted(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", counted)
    log = filled(tmp_path, 1)
    assert synced == [str(log.path), str(log.head), str(tmp_path)]
    synced.clear()
    log.append("run loaded", {})
    assert synced == [str(log.path), str(log.head)]


def edited(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b"agent 2", b"agent 9"), *lines[3:]]


def edited_with_its_hash(lines: list[bytes], at: int = 2) -> list[bytes]:
    """An edit by someone who knows how a line is made, but touches neither later lines nor the head."""
    fields = json.loads(lines[at])
    fields.pop("hash")
    fields["content"]["agent"] = "agent 9"
    return [*lines[:at], _dump(fields | {"hash": _sha256(_dump(fields))}) + b"\n", *lines[at + 1 :]]


DAMAGE = (
    (edited, 3, "it was changed"),
    (edited_with_its_hash, 4, "does not follow the line before it"),
    (lambda lines: edited_with_its_hash(lines, 5), 6, "its head names another line 6"),
    (lambda lines: [*lines[:2], *lines[3:]], 3, "record 4, which does not follow"),
    (lambda lines: lines[1:], 1, "record 2, which does not follow"),
    (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3, "record 4, which does not follow"),
    (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4, "record 3, which does not follow"),
    (lambda lines: [*lines[:-1], lines[-1][:-1]], 6, "cut off"),
    (lambda lines: [*lines[:-1], lines[-1][:40]], 6, "cut off"),
    (lambda lines: [*lines, b"garbage\n"], 7, "no record"),
    (lambda lines: [*lines, b"{}\n"], 7, "no record"),
    (lambda lines: [*lines, b"[1, 2]\n"], 7, "no record"),
    (lambda lines: [*lines, b"\n"], 7, "no record"),
    (lambda lines: [*lines, b"\xff\xfe"], 7, "cut off"),
    (lambda lines: [*lines, lines[-1]], 7, "record 6, which does not follow"),
    (lambda lines: lines[:-1], 6, "lines were cut off at the end"),
    (lambda lines: lines[:-2], 5, "lines were cut off at the end"),
    (lambda lines: [], 1, "lines were cut off at the end"),
    (lambda lines: [*lines[:2], lines[2].replace(b'":', b'": ', 1), *lines[3:]], 3, "it was changed"),
    (lambda lines: [lines[0].replace(b'"number":1', b'"number":"1"'), *lines[1:]], 1, "it was changed"),
)
"""What is done to the lines, the first broken line then, and what is told of it."""


@pytest.mark.parametrize(("damage", "line", "told"), DAMAGE)
def test_the_first_broken_line_is_named(
    damage: Any, line: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = filled(tmp_path)
    log.path.write_bytes(b"".join(damage(read(log))))
    before = log.path.read_bytes()
    result = log.verify()
    assert (result.broken, len(result.records)) == (line, line - 1)
    assert told in result.problem
    assert main(["audit", "verify", str(log.path)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (sentence,) = output.err.splitlines()
    assert sentence.startswith(f"dosing: the audit log {log.path} is broken at line {line}: ")
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("fresh", [True, False], ids=["opened", "at work"])
@pytest.mark.parametrize(("damage", "line", "told"), DAMAGE)
def test_a_broken_log_is_not_continued(
    damage: Any, line: int, told: str, fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a process that opens it, nor by one that wrote it before it broke."""
    log = filled(tmp_path)
    log.path.write_bytes(b"".join(damage(read(log))))
    before, head = log.path.read_bytes(), log.head.read_bytes()
    if fresh:
        monkeypatch.setattr("dosing.recommendation.audit_log._LEFT", {})
    else:
        os.utime(log.path, ns=(0, 0))  # another time of change, however coarse the clock of the disk is
    for _ in range(2):
        with pytest.raises(UserError, match=f"is broken at line {line}: .*{told}.*restore it, or move it"):
            log.append("run loaded", {})
    assert (log.path.read_bytes(), log.head.read_bytes()) == (before, head)
    log.path.unlink()
    log.head.unlink()
    assert log.append("run loaded", {}).number == 1


def test_a_broken_end_is_found_though_the_file_looks_untouched(tmp_path: Path) -> None:
    log = filled(tmp_path)
    was, lines = log.path.stat(), read(log)
    log.path.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b"agent 5", b"agent 9")]))
    os.utime(log.path, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(UserError, match="is broken at line 6: it was changed"):
        log.append("run loaded", {})


def test_every_line_is_checked_once_and_when_another_hand_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, checked = filled(tmp_path), []
    mine: dict[Path, Any] = {}
    monkeypatch.setattr("dosing.recommendation.audit_log._LEFT", mine)  # as in another process
    monkeypatch.setattr(
        "dosing.recommendation.audit_log._check", lambda *a: checked.append(len(a[0])) or _check(*a)
    )
    log.append("run loaded", {})
    log.append("run loaded", {})
    assert checked == [6]
    monkeypatch.setattr("dosing.recommendation.audit_log._LEFT", {})  # as in a third one
    log.append("run loaded", {})
    monkeypatch.setattr("dosing.recommendation.audit_log._LEFT", mine)
    log.append("run loaded", {})
    log.append("run loaded", {})
    assert checked == [6, 8, 9]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditLog, bytes]:
    """A log to write over, and what it was."""
    log = filled(tmp_path_factory.mktemp("log"), 3)
    return log, log.path.read_bytes()


@settings(max_examples=200)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_no_changed_byte_passes(place: float, byte: int, cut: bool, whole: tuple[AuditLog, bytes]) -> None:
    log, content = whole
    at = int(place * len(content))
    changed = content[:at] if cut else content[:at] + bytes([byte]) + content[at + 1 :]
    log.path.write_bytes(changed)
    lines = content[: at + 1].splitlines()
    assert log.verify().broken == (None if changed == content else len(lines))


def test_a_crash_between_line_and_head_is_no_damage(tmp_path: Path) -> None:
    log = filled(tmp_path, 2)
    behind = log.head.read_text()
    log.append("run loaded", {"agent": "third"})
    log.head.write_text(behind)
    assert log.verify().broken is None
    log.append("run loaded", {"agent": "fourth"})
    assert len(log.verify().records) == 4
    log.head.write_text(behind)  # two behind: no crash does that
    result = log.verify()
    assert (result.broken, "appended by another hand" in result.problem) == (3, True)
    with pytest.raises(UserError, match="broken at line 3: its head names another line 2"):
        log.append("run loaded", {})


def test_a_log_without_its_head_is_read_with_a_warning_and_not_continued(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    log.head.unlink()
    result = log.verify()
    assert (result.broken, result.head) == (None, False)
    assert "its head is missing" in log.sentence(result)
    with pytest.raises(UserError, match="move both files aside"):
        log.append("run loaded", {})
    log.head.write_text("three")
    with pytest.raises(UserError, match="it is damaged"):
        log.verify()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(tmp_path, 2)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:20]))
    with pytest.raises(UserError, match="No space left on device"):
        log.append("run loaded", {})
    monkeypatch.undo()
    assert len(log.verify().records) == 2
    log.append("run loaded", {})


@pytest.mark.parametrize(
    "content", [{"x": float("nan")}, {"x": float("inf")}, {"x": {1, 2}}, {"x": object()}]
)
def test_what_is_no_json_is_refused(content: Any, tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    with pytest.raises(UserError, match="keeps plain JSON"):
        log.append("run loaded", content)
    assert len(log.verify().records) == 1


def test_places_that_cannot_be_used_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the audit log"):
        AuditLog(tmp_path / "file" / FILE).append("run loaded", {})
    with pytest.raises(UserError, match="cannot write the audit log"):
        AuditLog(tmp_path).append("run loaded", {})
    for what in ("verify", "show"):
        assert main(["audit", what, str(tmp_path / "nowhere")]) == 2
        assert "there is no audit log" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_the_log_is_chosen_by_option_then_variable_then_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert log_of(tmp_path).path == tmp_path / FILE
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other.jsonl"))
    assert log_of(tmp_path).path == tmp_path / "other.jsonl"
    assert log_of(tmp_path, tmp_path / "mine.jsonl").path == tmp_path / "mine.jsonl"


# Many writers


def write_some(path: str, name: str, count: int) -> None:
    log = AuditLog(Path(path))
    for number in range(count):
        log.append("run loaded", {"agent": name, "weights": str(number)})


@pytest.mark.long
def test_processes_and_threads_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / FILE
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=write_some, args=(str(path), f"p{k}", 25)) for k in range(2)]
    threads = [threading.Thread(target=write_some, args=(str(path), f"t{k}", 25)) for k in range(2)]
    for worker in (*processes, *threads):
        worker.start()
    checked = 0
    while any(process.is_alive() for process in processes):
        if path.exists():
            assert AuditLog(path).verify().broken is None
            checked += 1
        for process in processes:
            process.join(0.01)
    for worker in (*processes, *threads):
        worker.join()
    assert checked > 0
    assert [process.exitcode for process in processes] == [0, 0]
    result = AuditLog(path).verify()
    assert (result.broken, len(result.records)) == (None, 100)
    for name in ("p0", "p1", "t0", "t1"):
        own = [record.content["weights"] for record in result.records if record.content["agent"] == name]
        assert own == [str(number) for number in range(25)]


# Decisions


def decided(tmp_path: Path, action: str, dose: Any, reason: str, fields: dict[str, Any]) -> Any:
    log = AuditLog(tmp_path / FILE)
    kind = "refusal" if fields.get("status") == "refused" else "recommendation"
    number = log.append(kind, recommendation(**fields)).number  # type: ignore[arg-type]
    return record_decision(log, number, action, dose, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("action", "dose", "reason", "fields", "given"),
    [
        ("accept", None, "", {}, [4.0]),
        ("accept", None, "", {"status": "limited", "proposed": [9.0]}, [4.0]),
        ("accept", None, "known patient", {"status": "deferred"}, [4.0]),
        ("modify", [5.0], "weight", {}, [5.0]),
        ("modify", [15.0], "weight", {}, [15.0]),  # the hard limit itself
        (
            "modify",
            [14.0],
            "loading",
            {"step": [[3.0], [5.0]]},
            [14.0],
        ),  # a step limit is soft: it needs a reason
        ("modify", [0.0], "hold", {"status": "refused", "dose": None, "proposed": None}, [0.0]),
        ("reject", None, "", {}, None),
        ("reject", None, "bleeding", {"status": "refused", "dose": None}, None),
    ],
)
def test_a_decision_is_recorded_with_what_it_is_on(
    action: str, dose: Any, reason: str, fields: dict[str, Any], given: Any, tmp_path: Path
) -> None:
    record = decided(tmp_path, action, dose, f"  {reason} ", fields)
    about = AuditLog(tmp_path / FILE).verify().records[0]
    assert record.kind == "decision"
    assert record.content == {
        "record": 1,
        "record_hash": about.line_hash,
        "action": action,
        "dose": given,
        "reason": reason,
    }


@pytest.mark.parametrize(
    ("action", "dose", "reason", "fields", "told"),
    [
        ("agree", None, "", {}, "accept, modify or reject, got 'agree'"),
        ("accept", [4.0], "", {}, "to accept takes no dose"),
        ("reject", [4.0], "", {}, "to reject takes no dose"),
        ("accept", None, "", {"status": "refused", "dose": None}, "a refusal has no dose to accept"),
        ("accept", None, " ", {"status": "deferred"}, "deferred needs a reason"),
        ("modify", None, "weight", {}, "needs the new dose and a reason"),
        ("modify", [5.0], "  ", {}, "needs the new dose and a reason"),
        ("modify", [15.001], "weight", {}, r"within the hard limits \[0.0\] to \[15.0\] mg, which cannot be"),
        ("modify", [-0.1], "weight", {}, "cannot be overridden; got"),
        ("modify", [float("nan")], "weight", {}, "cannot be overridden"),
        ("modify", [float("inf")], "weight", {}, "cannot be overridden"),
        ("modify", [5.0, 5.0], "weight", {}, "must be 1 number"),
        ("modify", [], "weight", {}, "must be 1 number"),
        ("modify", ["five"], "weight", {}, "must be 1 number"),
        ("modify", 5.0, "weight", {}, "must be 1 number"),
        ("modify", [20.0], "weight", {"status": "refused", "dose": None}, "cannot be overridden"),
    ],
)
def test_a_decision_against_the_rules_is_refused_and_not_recorded(
    action: str, dose: Any, reason: str, fields: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        decided(tmp_path, action, dose, reason, fields)
    assert len(AuditLog(tmp_path / FILE).verify().records) == 1


def test_the_same_decision_is_recorded_once_and_another_one_too(tmp_path: Path) -> None:
    """As when a page is loaded again."""
    log = AuditLog(tmp_path / FILE)
    for _ in range(2):
        log.append("recommendation", recommendation())
    first = record_decision(log, 1, "accept")
    assert record_decision(log, 1, "accept") == first
    assert record_decision(log, 2, "accept") == first  # the same state, shown again
    with pytest.raises(UserError, match="to replace the decision in force, record 3, needs a reason"):
        record_decision(log, 1, "reject")
    second = record_decision(log, 1, "reject", reason="bleeding")
    assert (second.number, second.content["replaces"]) == (4, 3)
    third = record_decision(log, 2, "accept", reason="stopped")  # what was decided first, once more
    assert (third.number, third.content["replaces"]) == (5, 4)
    assert [record.kind for record in log.verify().records][2:] == ["decision"] * 3


def test_one_decision_is_in_force_for_each_patient_visit_and_policy(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / FILE)
    policy, other = ({"run": "runs/x", "weights": w * 64, "data": "d" * 64, "agent": "iql"} for w in "ab")
    visits: list[dict[str, Any]] = [
        {"patient": "7", "visit": 2, "provenance": policy},
        {"patient": "7", "visit": 3, "provenance": policy},
        {"patient": "8", "visit": 2, "provenance": policy},
        {"patient": "7", "visit": 2, "provenance": other},
        {
            "patient": "7",
            "visit": 2,
            "provenance": policy,
            "dose": [4.5],
        },  # shown again, another current dose
    ]
    for fields in visits:
        log.append("recommendation", recommendation(**fields))
    record_decision(log, 1, "accept")
    for number in (2, 3, 4):
        assert "replaces" not in record_decision(log, number, "reject").content
    made = record_decision(log, 5, "modify", [3.0], "kidneys")
    assert (made.content["replaces"], made.content["patient"], made.content["visit"]) == (6, "7", 2)
    asked = recommendation(**visits[0])
    assert [d.number for d in decisions_on(log, asked)] == [6, made.number]
    # Where only the state is known, a decision on it holds too.
    typed = recommendation(provenance=policy)
    assert decisions_on(log, typed)[-1].number == made.number
    assert decisions_on(log, recommendation(provenance=policy, state=[1.0, 2.5])) == ()


def test_decisions_of_earlier_logs_are_read(tmp_path: Path) -> None:
    """They were all filed as overrides, also those that accepted."""
    log = AuditLog(tmp_path / FILE)
    about = log.append("recommendation", recommendation())
    content = {"record": 1, "record_hash": about.line_hash, "action": "accept", "dose": [4.0], "reason": ""}
    log.append("override", content)  # type: ignore[arg-type]
    assert [d.action for d in decisions_on(log, recommendation())] == ["accept"]
    assert count(log.verify().records).decided == {"accept": 1, "modify": 0, "reject": 0}
    with pytest.raises(UserError, match="to replace the decision in force, record 2"):
        record_decision(log, 1, "reject")


def test_only_a_recommendation_can_be_decided_on(tmp_path: Path) -> None:
    log = filled(tmp_path, 2)
    for number in (0, 1, 3):
        with pytest.raises(UserError, match="is no recommendation"):
            record_decision(log, number, "accept")
    log.append("recommendation", recommendation())
    log.path.write_bytes(b"".join(edited([*read(log)])).replace(b"agent 1", b"agent 7"))
    with pytest.raises(UserError, match="broken at line 2"):
        record_decision(log, 3, "accept")


# What is kept and shown


def test_states_are_kept_as_numbers_or_as_hash() -> None:
    result = recommendation(current=[3.0], step=None, distance=1.0, spread=[0.1], nearest=["much"])
    kind, content = shown(result)
    assert kind == "recommendation"
    assert (content["state"], content["current"]) == ([1.0, 2.0], [3.0])
    assert "nearest" not in content
    kind, content = shown(result | {"status": "refused"}, "hash")
    assert kind == "refusal"
    assert not {"state", "current", "step"} & content.keys()
    assert content["state_hash"] == state_hash([1.0, 2.0, 3.0])
    assert content["state_hash"] != state_hash([1.0, 2.0])


def test_the_last_records_are_shown_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = filled(tmp_path, 1)
    log.append("recommendation", recommendation(status="limited", codes=["hard_limit"]))
    log.append("refusal", recommendation(status="refused", dose=None, codes=["not_finite"]))
    record_decision(log, 2, "modify", [5.0], "kidney\n\x1b[31mfunction")
    counts = {"ok": 7, "limited": 0, "deferred": 2, "refused": 1}
    log.append("batch", {"rows": 10, "statuses": counts, "provenance": {"run": "runs/y"}})
    assert main(["audit", "show", str(tmp_path)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["number", "time", "kind", "patient", "visit", "what", "run"]
    assert len(lines) == 5
    for line, told in zip(
        lines,
        (
            "agent 0",
            "limited 4 hard_limit",
            "refused not_finite",
            "modify 5 on record 2: kidney  [31mfunction",
            "10 rows: 7 ok, 2 deferred, 1 refused",
        ),
        strict=True,
    ):
        assert told in line
    assert lines[-1].endswith("runs/y")
    assert main(["audit", "show", str(log.path), "--last", "2"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["4", "5"]
    assert main(["audit", "show", str(log.path), "--last", "0"]) == 2
    log.path.write_bytes(b"".join(read(log)[:3]) + b"garbage\n")
    assert main(["audit", "show", str(log.path)]) == 1
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 4
    assert "broken at line 4" in output.err


def test_a_decision_is_recorded_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = AuditLog(tmp_path / FILE)
    log.append("recommendation", recommendation())
    words = ["audit", "decide", str(tmp_path), "--record", "1"]
    assert main([*words, "--action", "modify", "--dose", "5", "--reason", "kidneys"]) == 0
    assert "record 2 of" in (told := capsys.readouterr().out)
    assert "modify 5 on record 1: kidneys" in told
    assert log.verify().records[1].content["dose"] == [5.0]
    for wrong, says in (
        ([*words, "--action", "modify", "--dose", "15.5", "--reason", "x"], "hard limits"),
        ([*words, "--action", "modify", "--dose", "5"], "a reason"),
        (words, "needs --record and --action"),
        ([*words[:2], str(tmp_path / "none"), *words[3:], "--action", "reject"], "there is no audit log"),
        (["audit", "verify", str(tmp_path), "--reason", "x"], "go with `audit decide`"),
    ):
        assert main(wrong) == 2
        assert says in capsys.readouterr().err
    assert len(log.verify().records) == 2


def test_decisions_are_found_by_what_was_shown(tmp_path: Path) -> None:
    """Whoever it was shown to, and whatever a reason pretends to be."""
    log, other = AuditLog(tmp_path / FILE), recommendation(state=[5.0, 2.0])
    for content in (recommendation(), other, recommendation()):
        log.append("recommendation", content)
    first = record_decision(log, 1, "reject", reason=',"kind":"decision","content":{}')
    record_decision(log, 2, "accept")
    last = record_decision(log, 3, "modify", [1.0], "x")
    assert [d.number for d in decisions_on(log, recommendation())] == [first.number, last.number]
    assert [decision.action for decision in decisions_on(log, other)] == ["accept"]
    assert decisions_on(log, recommendation(state=[6.0, 2.0])) == ()
    log.path.write_bytes(log.path.read_bytes().replace(b'"modify"', b'"reject"'))
    with pytest.raises(UserError, match="changed"):
        decisions_on(log, other)


def test_a_log_is_read_again_for_its_decisions_only_when_another_hand_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, looks = AuditLog(tmp_path / FILE), []
    plain = decisions._decisions
    monkeypatch.setattr(decisions, "_decisions", lambda lines: looks.append(len(lines)) or plain(lines))
    log.append("recommendation", recommendation())
    assert decisions_on(log, recommendation()) == ()
    for _ in range(3):
        log.append("recommendation", recommendation())
        assert decisions_on(log, recommendation()) == ()
    assert looks == [1]
    record_decision(log, 2, "accept")
    assert [d.action for d in decisions_on(log, recommendation())] == ["accept"]
    assert looks == [1, 5]
    with monkeypatch.context() as patch:  # as another process does, which knows nothing of this one
        patch.setattr(audit_log, "DECIDED", {})
        patch.setattr(audit_log, "_LEFT", {})
        record_decision(log, 1, "reject", reason="kidneys")
    log.append("recommendation", recommendation())
    assert [d.action for d in decisions_on(log, recommendation())] == ["accept", "reject"]
    assert looks == [1, 5, 7]


def test_alerts_and_overrides_are_counted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / FILE)
    for place, status in enumerate(("ok", "ok", "deferred", "limited")):
        log.append("recommendation", recommendation(status=status, state=[float(place)]))
    log.append("refusal", recommendation(status="refused", dose=None))
    for rows in ({"ok": 3, "refused": 1}, {"ok": 1, "deferred": 2}):
        log.append("batch", {"statuses": rows})
    for number, action, dose in ((1, "accept", None), (2, "modify", [1.0]), (4, "reject", None)):
        record_decision(log, number, action, dose, "x")
    result = count(log.verify().records)
    assert result.shown == {"ok": 2, "deferred": 1, "limited": 1, "refused": 1}
    assert result.tabled == {"ok": 4, "refused": 1, "deferred": 2}
    assert result.decided == {"accept": 1, "modify": 1, "reject": 1}
    assert (result.alerts, result.overrides) == (3, 2)
    assert count(()).alerts == count(()).overrides == 0
