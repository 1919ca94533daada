"""``recommend`` and what it leaves in the audit log: one state, a table, runs of old versions, damage."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import agents
from dosing import NOT_FOR_PATIENTS
from dosing.cli import recommend, recommend_table
from dosing.cli.main import main
from dosing.data.store import write_episodes
from dosing.recommendation import answers_table
from dosing.recommendation.audit_log import FILE, AuditLog, state_hash
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.dose_context import Evidence
from dosing.recommendation.novelty import keep_monitor
from dosing.recommendation.patient_table import by_dimension
from dosing.recommendation.reasons import STATUSES, reason_names
from dosing.recommendation.records import Recommender, Rules, StateEntry
from dosing.runs.files import read_json, sha256, write_json
from dosing.runs.folder import CARD, CONFIG, DONE, NOVELTY, NOVELTY_VISITS, WEIGHTS, RunFolder
from dosing.safety import DoseLimits, StepLimit
from dosing.studies.loading import recommender_of
from tests.support.samples import cohort

FIRST = next(iter(agents.AGENTS))
TINY = ["--seeds", "1", "--steps", "6", "--batch-size", "16", "--device", "cpu", "--hidden", "8", "8"]
USUAL = [f"{x:.7g}" for x in cohort().obs[5].tolist()]
FAR = ["6", "-6", "6", "-6", "6", "-6", "6", "-6"]
COLUMNS = [f"s{i + 1}" for i in range(8)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    write_episodes(cohort(), path / "visits.parquet")
    assert main(["train", FIRST, "--data", str(path / "visits.parquet"), "--out", str(path), *TINY]) == 0
    (done,) = path.glob(f"*/*/*/{DONE}")
    return done.parent


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The finished run in a study of its own."""
    shutil.copytree(finished.parents[2], tmp_path / "study")
    return tmp_path / "study" / finished.relative_to(finished.parents[2])


def log_of(run: Path) -> AuditLog:
    return AuditLog(run.parents[2] / FILE)


def ask(run: Path, *words: Any) -> int:
    return main(["recommend", str(run), *map(str, words)])


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which a command ends."""
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("dosing: ")
    return line


# One state


def test_a_dose_is_printed_with_its_basis(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(run, "--state", *USUAL) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    for name in ("status", "recommended", "dose", "central", "hard", "mass", "distance", "near", "run"):
        assert name in lines
    assert ask(run, "--state", *USUAL, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == lines["status"] == "ok"
    assert f"{result['dose'][0]:.4g}" in lines["recommended"]
    assert f"{result['distance']:.3g}, unfamiliar beyond {result['threshold']:.3g}" == lines["distance"]
    assert result["nearest"][0]["distance"] == pytest.approx(0.0, abs=1e-5)
    assert (result["nearest"][0]["patient"], result["nearest"][0]["visit"]) == (0, 5)
    assert len(result["nearest"]) == 5
    hashes = read_json(run / DONE)
    assert result["provenance"]["weights"] == hashes[WEIGHTS] == sha256(run / WEIGHTS)
    assert result["provenance"]["card"] == hashes[CARD] == sha256(run / CARD)
    assert result["provenance"]["monitor"] == hashes[NOVELTY_VISITS]
    assert result["provenance"]["data"] == cohort().metadata.content_hash
    assert result["provenance"]["versions"]["scenario"] == cohort().metadata.card["version"]


def test_what_is_deferred_is_said_before_the_dose_and_has_its_own_exit(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(run, "--state", *FAR) == recommend.DEFERRED == 3
    text = capsys.readouterr().out
    status, reason, dose, *_ = text.splitlines()
    assert status.split() == ["status", "DEFERRED"]
    assert "the state is unlike the training visits" in reason
    assert dose.startswith("policy's dose")
    assert "recommended dose" not in text
    assert "safe default       no dose (0)" in text
    assert text.splitlines()[-1] == NOT_FOR_PATIENTS


def test_a_refusal_names_every_bad_entry_and_the_safe_default(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(run, "--state", "high", "99", *USUAL[2:]) == 2
    line = told(capsys)
    assert "s1 (entry 1) of the state must be a number, got 'high'; allowed: -18 to 18." in line
    assert "s2 (entry 2) of the state must be -18 to 18, got 99." in line
    assert line.endswith("Safe default of this scenario: no dose (0).")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--state", *USUAL, "--out", "x.parquet"], "needs both --in and --out"),
        (["--in", "x.parquet"], "needs both --in and --out"),
        (["--in", "x.parquet", "--out", "y.parquet", "--json"], "go with --state"),
        (["--in", "x.parquet", "--out", "y.parquet", "--current-dose", "1"], "go with --state"),
        (["--state", *USUAL, "--current-dose", "3"], "entry 1 of the current dose must be -1 to 1, got 3."),
    ],
)
def test_words_that_do_not_go_together_are_told(
    words: list[str], says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(run, *words) == 2
    assert says in told(capsys)


# The audit log


def test_the_log_stands_in_the_study_and_names_what_was_shown(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = [ask(run, "--state", *state) for state in (USUAL, FAR, ["nan", *USUAL[1:]])]
    assert statuses == [0, 3, 2]
    records = log_of(run).verify().records
    assert [record.kind for record in records[::2]] == ["run loaded"] * 3
    assert [record.kind for record in records[1::2]] == ["recommendation", "recommendation", "refusal"]
    assert [record.content["status"] for record in records[1::2]] == ["ok", "deferred", "refused"]
    assert records[1].content["state"] == [float(x) for x in USUAL]
    assert records[1].content["provenance"]["weights"] == sha256(run / WEIGHTS)
    assert records[5].content["codes"] == ["not_finite"]
    capsys.readouterr()
    assert main(["audit", "verify", str(run.parents[2])]) == 0
    assert "is whole: 6 records" in capsys.readouterr().out


def test_the_log_and_what_it_keeps_can_be_chosen(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOSING_AUDIT", str(tmp_path / "variable.jsonl"))
    assert ask(run, "--state", *USUAL, "--audit-states", "hash") == 0
    assert ask(run, "--state", *USUAL, "--audit", tmp_path / "option.jsonl") == 0
    assert not log_of(run).path.exists()
    hashed = AuditLog(tmp_path / "variable.jsonl").verify().records[1].content
    assert hashed["state_hash"] == state_hash([float(x) for x in USUAL])
    assert "state" not in hashed
    assert AuditLog(tmp_path / "option.jsonl").verify().records[1].content["state"]


def test_what_cannot_be_logged_is_not_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(run, "--state", *USUAL)
    log = log_of(run)
    log.path.write_bytes(log.path.read_bytes() + b"garbage")
    capsys.readouterr()
    pd.DataFrame([cohort().obs[0]], columns=COLUMNS).to_parquet(run / "in.parquet")
    for words in (["--state", *USUAL], ["--in", run / "in.parquet", "--out", run / "out.parquet"]):
        assert ask(run, *words) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert "is broken at line 3: it is cut off" in output.err
    assert not (run / "out.parquet").exists()


# Runs of other versions, and damaged ones


def vouch(run: Path, *gone: str) -> None:
    """Finish the run again without some files."""
    for name in gone:
        (run / name).unlink()
    RunFolder(run).finish()


def test_a_run_without_a_monitor_defers_and_says_why(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vouch(run, CARD, NOVELTY, NOVELTY_VISITS)
    assert ask(run, "--state", *FAR) == 3
    text = capsys.readouterr().out
    assert "is not known: This run has no monitor of unfamiliar states: it was trained before" in text
    assert "distance" not in text
    recommender = recommender_of(RunFolder(run))
    assert (recommender.monitor, recommender.rules.step, recommender.rules.safe_default) == (None, None, "")
    assert [entry.name for entry in recommender.rules.entries] == COLUMNS
    assert recommender.provenance["card"] is None
    keep_monitor(run, cohort())  # not vouched for: not used
    assert recommender_of(RunFolder(run)).monitor is None
    vouch(run)
    assert recommender_of(RunFolder(run)).monitor is not None


def test_a_run_of_one_patient_says_why_it_has_no_monitor(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_monitor(run, cohort(1))
    vouch(run)
    assert ask(run, "--state", *FAR) == 3
    assert "a monitor of unfamiliar states needs the visits of at least 2" in capsys.readouterr().out


@pytest.mark.parametrize("name", [CARD, NOVELTY, NOVELTY_VISITS])
def test_a_changed_card_or_monitor_is_not_used(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (run / name).read_bytes()
    (run / name).write_bytes(content.replace(b"1", b"2"))
    assert ask(run, "--state", *USUAL) == 2
    assert f"{name} was changed or truncated" in told(capsys)
    (run / name).unlink()
    assert ask(run, "--state", *USUAL) == 2
    assert f"{name} is missing" in told(capsys)


def test_a_monitor_of_other_data_is_not_used(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_monitor(run, cohort(3))
    vouch(run)
    assert ask(run, "--state", *USUAL) == 2
    assert "is not of the data that the run was trained on" in told(capsys)


def test_a_card_of_other_limits_is_obeyed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The card says how fast a dose may move and what a state can be."""
    card = read_json(run / CARD)
    card["dose"]["step_limit"] = {"absolute": [0.01]}
    card["observations"][0] |= {"high": 3.5, "unit": "mg/L"}
    write_json(run / CARD, card)
    vouch(run)
    assert ask(run, "--state", *USUAL) == 2
    assert "the current dose is needed" in told(capsys)
    assert ask(run, "--state", *USUAL, "--current-dose", "-0.9") == 0
    text = capsys.readouterr().out
    assert "status             limited" in text
    assert "recommended dose   -0.89 " in text
    assert "step limit         -0.91 to -0.89" in text
    assert "proposed dose" in text
    assert ask(run, "--state", "4", *USUAL[1:], "--current-dose", "-0.9") == 2
    assert "s1 (entry 1) of the state must be -18 to 3.5 mg/L, got 4." in told(capsys)


# A page to print


def page(run: Path, *words: Any) -> int:
    return main(["report", str(run), *map(str, words)])


def test_a_page_says_what_was_recommended_after_it_was_logged(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert page(run, "--state", *USUAL, "--out", out) == 0
    assert NOT_FOR_PATIENTS in capsys.readouterr().out
    loaded, shown = log_of(run).verify().records
    assert (loaded.kind, shown.kind) == ("run loaded", "recommendation")
    text = out.read_text(encoding="utf-8")
    assert f"{shown.content['dose'][0]:.4g}".replace("-", "\N{MINUS SIGN}") in text
    assert read_json(run / DONE)[WEIGHTS] in text
    assert page(run, "--state", *FAR, "--out", out) == 3
    assert "DEFERRED" in out.read_text(encoding="utf-8")
    assert page(run, "--state", *USUAL[:3], "--out", out) == 2
    assert "REFUSED: no dose" in out.read_text(encoding="utf-8")
    assert [r.kind for r in log_of(run).verify().records].count("refusal") == 1


def test_a_page_that_cannot_be_made_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["--state", *USUAL, "--out", run / "page.pdf"], "must end in .html"),
        ([run, "--state", *USUAL, "--out", run / "page.html"], "given twice"),
        (["--state", *USUAL, "--out", run / CONFIG / "page.html"], "cannot write"),
    ):
        assert page(run, *words) == 2
        assert says in told(capsys)


# A table


def states() -> Any:
    """Recorded, far, impossible and missing states."""
    rows = np.concatenate(
        [cohort().obs[:20], np.array([FAR], dtype=np.float32), np.zeros((3, 8), np.float32)]
    )
    rows = rows.astype(np.float64)
    rows[21, 3], rows[22, 0], rows[23, 7] = np.nan, 99.0, np.inf
    return rows


def test_a_table_is_answered_row_by_row(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommend_table, "PIECE", 7)
    table, out = run / "patients.parquet", run / "out.parquet"
    frame = pd.DataFrame(states(), columns=COLUMNS)
    frame[reversed(COLUMNS)].to_parquet(table)  # in any order of columns
    assert ask(run, "--in", table, "--out", out) == 0
    assert "24 recommendations in" in (text := capsys.readouterr().out)
    assert NOT_FOR_PATIENTS in text
    result = pd.read_parquet(out)
    recommender = recommender_of(RunFolder(run))
    expected = recommend_all(recommender, states())
    assert result["row"].tolist() == list(range(24))
    assert result["status"].tolist() == [STATUSES[k] for k in expected.status]
    assert result["status"].tolist()[20:] == ["deferred", "refused", "refused", "refused"]
    assert result["reasons"].tolist() == [" ".join(reason_names(int(code))) for code in expected.codes]
    assert result["reasons"].tolist()[20:] == ["unfamiliar", "not_finite", "out_of_range", "not_finite"]
    same = {"dose": expected.dose, "proposed": expected.proposed, "support_low": expected.low}
    same |= {"support_high": expected.high, "spread": expected.spread}
    for name, column in same.items():
        np.testing.assert_allclose(result[name], column[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result["mass_outside"], expected.mass_outside)
    np.testing.assert_array_equal(result["distance"], expected.distance[:, -1])
    np.testing.assert_array_equal(result["nearest_distance"], expected.distance[:, 0])
    columns = pq.read_table(out)
    for name in ("dose", "proposed", "support_low", "mass_outside", "distance"):
        assert columns[name].null_count == 3
    about = {key.decode(): value.decode() for key, value in columns.schema.metadata.items()}
    assert about["notice"] == NOT_FOR_PATIENTS
    assert about["input"] == sha256(table)
    assert json.loads(about["provenance"])["weights"] == sha256(run / WEIGHTS)

    loaded, batch = log_of(run).verify().records
    assert (loaded.kind, batch.kind) == ("run loaded", "batch")
    assert batch.content["input"] == sha256(table)
    assert batch.content["output"] == sha256(out)
    assert (batch.content["rows"], sum(batch.content["statuses"].values())) == (24, 24)
    assert "patients" not in json.dumps(batch.content)
    assert [path.name for path in run.glob(".*")] == [".lock"]


def test_a_table_needs_current_doses_where_the_scenario_limits_steps(tmp_path: Path, run: Path) -> None:
    recommender = recommender_of(RunFolder(run))
    rules = Rules(recommender.rules.limits, recommender.rules.entries, StepLimit((0.01,)))
    stepping = Recommender(recommender.policy, rules, recommender.monitor, provenance=recommender.provenance)
    frame = pd.DataFrame(states(), columns=COLUMNS).assign(current_dose=np.linspace(-0.5, 0.5, 24))
    frame.loc[2, "current_dose"], frame.loc[3, "current_dose"] = np.nan, 1.5
    frame.to_parquet(tmp_path / "in.parquet")
    recommend_table.recommend_table(
        stepping, tmp_path / "in.parquet", tmp_path / "out.parquet", AuditLog(tmp_path / FILE), Evidence()
    )
    result = pd.read_parquet(tmp_path / "out.parquet")
    assert result["reasons"].tolist()[2:4] == ["current_dose", "current_dose"]
    given = result["dose"].notna()
    assert (np.abs(result["dose"] - frame["current_dose"])[given] <= 0.01 + 1e-12).all()
    assert result["reasons"].str.contains("step_limit").sum() > 10


def test_doses_of_two_dimensions_have_a_column_each() -> None:
    limits = DoseLimits((0.0, 0.0), (1.0, 2.0))
    names = [name for name, _ in answers_table._quantities(limits.n_act)]
    assert names[:4] == ["dose_1", "dose_2", "proposed_1", "proposed_2"]
    assert by_dimension("current_dose", 2) == ["current_dose_1", "current_dose_2"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns=["s2", "s7"]), r"lacks s2, s7\. It needs 8 columns: s1, s2,"),
        (lambda f: f.assign(name="x", born=1), "has other columns, which may name patients: name, born"),
        (
            lambda f: f.drop(columns="s2").assign(x=1),
            "lacks s2; has other columns, which may name patients: x",
        ),
        (lambda f: f.assign(s3="2,5", s4=True), r"has columns that are no numbers: s3 \(\w+\), s4 \(bool\)"),
        (lambda f: f.iloc[:0], "has no rows"),
    ],
)
def test_a_wrong_table_is_told_in_one_sentence(
    change: Any, says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = change(pd.DataFrame(states(), columns=COLUMNS))
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), run / "in.parquet")
    assert ask(run, "--in", run / "in.parquet", "--out", run / "out.parquet") == 2
    assert re.search(says, told(capsys))
    assert not (run / "out.parquet").exists()
    assert [record.kind for record in log_of(run).verify().records] == ["run loaded"]


def test_a_csv_file_is_answered_as_the_same_parquet_file(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame(states(), columns=COLUMNS)
    frame.to_parquet(run / "in.parquet")
    frame.to_csv(run / "in.CSV", index=False, sep=";", decimal=",")
    answers = []
    for name in ("in.parquet", "in.CSV"):
        assert ask(run, "--in", run / name, "--out", run / "out.parquet") == 0
        answers.append(pq.read_table(run / "out.parquet").replace_schema_metadata())
    assert answers[0].equals(answers[1])
    frame.astype(object).assign(s3="HI").to_csv(run / "in.csv", index=False)
    assert ask(run, "--in", run / "in.csv", "--out", run / "none.parquet") == 2
    assert "in.csv: Row 1, s3: 'HI' is no number." in told(capsys)
    frame.assign(name="x").to_csv(run / "in.csv", index=False)
    assert ask(run, "--in", run / "in.csv", "--out", run / "none.parquet") == 2
    assert "'name'" in told(capsys)
    assert not (run / "none.parquet").exists()


def test_files_that_cannot_be_read_or_written_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = run / "in.parquet"
    pd.DataFrame(states(), columns=COLUMNS).to_parquet(table)
    for words, says in (
        (["--in", run / "nowhere.parquet", "--out", run / "out.parquet"], "nowhere.parquet does not exist"),
        (["--in", run / CONFIG, "--out", run / "out.parquet"], "is truncated or not a parquet file"),
        (["--in", run, "--out", run / "out.parquet"], "Is a directory"),
        (["--in", table, "--out", table], "is the table that is read"),
        (["--in", table, "--out", run / "no" / "folder" / "out.parquet"], "does not exist"),
        (["--in", table, "--out", run], "cannot write"),
    ):
        assert ask(run, *words) == 2
        assert says in told(capsys)
    twice = pa.table([pa.array([1.0])] * 9, names=[*COLUMNS, "s1"])
    pq.write_table(twice, table)
    assert ask(run, "--in", table, "--out", run / "out.parquet") == 2
    assert "has twice s1" in told(capsys)
    assert [path.name for path in run.glob(".*")] == [".lock"]


def test_a_table_is_answered_without_names_too(tmp_path: Path, run: Path) -> None:
    recommender = recommender_of(RunFolder(run))
    nameless = Recommender(
        recommender.policy, Rules(recommender.rules.limits), provenance=recommender.provenance
    )
    columns = [f"entry {k + 1}" for k in range(8)]
    pd.DataFrame(cohort().obs[:3], columns=columns).to_parquet(tmp_path / "in.parquet")
    log = AuditLog(tmp_path / FILE)
    counts, note = recommend_table.recommend_table(
        nameless, tmp_path / "in.parquet", tmp_path / "out.parquet", log, Evidence()
    )
    assert counts == {"ok": 0, "limited": 0, "deferred": 3, "refused": 0}  # nothing knows what was recorded
    assert note == ""
    result = pd.read_parquet(tmp_path / "out.parquet")
    assert result["distance"].isna().all()
    assert StateEntry("x").allowed == ""
