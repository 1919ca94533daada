"""The upload page: what a file must hold, all that is wrong with one, the answers of the guarded
recommender."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from app.analysis import batch
from dosing import NOT_FOR_PATIENTS
from dosing.recommendation.audit_log import FILE, AuditLog
from dosing.recommendation.audit_log import shown as shown_as
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.decisions import record_decision
from dosing.recommendation.dose_context import DecidedStates, Evidence, verdict_words
from dosing.recommendation.patient_table import wanted
from dosing.recommendation.reasons import STATUSES, reason_names
from dosing.safety import StepLimit
from dosing.studies.data import episodes_of
from dosing.studies.evidence import read_evidence
from dosing.studies.loading import recommend, recommender_of
from tests.app.test_pages import plain, run_of, words

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"s{k + 1}" for k in range(8)]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    result = AuditLog(tmp_path / "log" / FILE)
    monkeypatch.setenv("DOSING_AUDIT", str(result.path))
    return result


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, log: AuditLog):
    def start(study: Path, content: bytes = b"", name: str = "mine.csv") -> AppTest:
        monkeypatch.setenv("DOSING_STUDY", str(study))
        at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
        at.switch_page("views/upload.py").run()
        if content:
            at.file_uploader(key="file").set_value((name, content, "text/csv")).run()
        assert not at.exception
        return at

    return start


def states(study: Path) -> np.ndarray:
    """Usual states; one of them far from all training, one missing a number, one infinite."""
    result = episodes_of(run_of(study, "fttpo")).obs[:6].astype(np.float64)
    result[3] = [6.0, -6.0] * 4
    result[4, 1] = np.nan
    result[5, 2] = np.inf
    return result


def as_csv(values: np.ndarray, names: list[str] = NAMES) -> bytes:
    return pd.DataFrame(values, columns=names).to_csv(index=False, na_rep="").encode()


def told(at: AppTest) -> str:
    return words(at)


def test_an_empty_study_names_the_command_that_fills_it(opened, empty_study: Path) -> None:
    at = opened(empty_study)
    assert "no finished run" in words(at)
    assert not at.file_uploader


def test_before_a_file_is_there_the_page_says_what_it_must_hold(opened, full_study: Path) -> None:
    at = opened(full_study)
    assert NOT_FOR_PATIENTS in at.warning[0].value
    assert at.dataframe[0].value["column"].tolist() == NAMES
    assert set(at.dataframe[0].value["unit"]) == {"no unit"}
    assert "No file yet" in words(at)
    assert "at most 50,000; CSV" in words(at)


@pytest.mark.long
def test_a_damaged_run_is_named(opened, damaged_study: Path) -> None:
    at = opened(damaged_study)
    at.selectbox(key="agent").select("IQL").run()
    assert "IQL: " in at.error[0].value
    assert not at.file_uploader


@pytest.mark.long
def test_everything_that_is_wrong_is_told_at_once(opened, full_study: Path, log: AuditLog) -> None:
    content = b"s1,s2,name,s4\n1,2,x\n"
    text = told(opened(full_study, content))
    assert "NOTHING LOADED." in text
    assert "'name'" in text
    assert "Row 1 has 3 values, the header 4." in text
    text = told(opened(full_study, as_csv(np.ones((2, 8))).replace(b"1.0,1.0\n", b"HI,<2\n", 1)))
    assert "Row 1, s7: 'HI' is no number." in text
    assert "Row 1, s8: '<2' is a bound, not a number." in text
    assert not log.path.exists()


def test_words_in_a_file_are_no_markdown(opened, full_study: Path) -> None:
    at = opened(full_study, as_csv(np.ones((1, 8))).replace(b"1.0", b"![x](http://e.example/x.png)", 1))
    (error,) = at.error
    assert "![" not in error.value
    assert "http:/" not in error.value
    assert "'![x](http://e.example/x.png)' is no number" in plain(error.value)


@pytest.mark.long
def test_every_row_is_answered_as_the_recommender_answers_it(opened, full_study: Path, log: AuditLog) -> None:
    content = as_csv(states(full_study))
    at = opened(full_study, content)
    assert "2 of 6 rows will be refused" in told(at)
    assert "Row 5: s2 is missing." in told(at)
    assert "Row 6: s3 must be -18 to 18, got inf." in told(at)
    assert not log.path.exists()  # nothing is answered before columns and units are confirmed
    at.checkbox[0].check().run()
    assert not at.exception
    recommender = recommender_of(run_of(full_study, "fttpo"))
    expected = recommend_all(recommender, states(full_study))
    shown = at.dataframe[2].value
    assert shown["row"].tolist() == [1, 2, 3, 4, 5, 6]
    assert shown["status"].tolist() == [STATUSES[k] for k in expected.status]
    assert shown["status"].tolist()[3:] == ["deferred", "refused", "refused"]
    assert shown["reasons"].tolist() == [
        "; ".join(reason_names(int(code))).replace("_", " ") for code in expected.codes
    ]
    np.testing.assert_array_equal(shown["dose"], expected.dose[:, 0])
    np.testing.assert_array_equal(shown["support_low"], expected.low[:, 0])
    assert "**2** refused" in words(at)
    verdict = verdict_words(read_evidence(run_of(full_study, "fttpo")))
    assert verdict in words(at)
    assert set(shown["verdict"]) == {verdict}
    assert shown["decision"].isna().all()
    assert "Support: exact" in words(at)
    at.run()
    loaded, result, *others = log.verify().records  # once, however often the page is drawn
    assert (loaded.kind, result.kind) == ("run loaded", "batch")
    assert [record.kind for record in others] == ["run loaded", "batch"]  # of the other agent
    beside = at.dataframe[3].value
    assert beside["FtTPO: status"].tolist() == shown["status"].tolist()
    np.testing.assert_array_equal(beside["FtTPO: dose"], shown["dose"])
    other = recommend_all(recommender_of(run_of(full_study, "iql")), states(full_study))
    np.testing.assert_array_equal(beside["IQL: dose"], other.dose[:, 0])
    assert not shown["reasons"].str.contains("_").any()  # words, no names of the code
    assert result.content["input"] == hashlib.sha256(content).hexdigest()
    assert result.content["rows"] == 6
    assert result.content["statuses"] == {name: shown["status"].tolist().count(name) for name in STATUSES}
    assert "mine" not in log.path.read_text()
    at.selectbox(key="status").select("refused").run()
    assert at.dataframe[2].value["row"].tolist() == [5, 6]


def test_a_decision_in_force_stands_in_its_row(opened, full_study: Path, log: AuditLog) -> None:
    run = run_of(full_study, "fttpo")
    state = states(full_study)[1].tolist()
    result = recommend(run, state)
    made = record_decision(log, log.append(*shown_as(result.to_json())).number, "reject", None, "bleeding")
    at = opened(full_study, as_csv(states(full_study)))
    at.checkbox[0].check().run()
    told = at.dataframe[2].value["decision"].tolist()
    assert [index for index, words_ in enumerate(told) if isinstance(words_, str)] == [1]
    assert f"rejected. Reason: bleeding. (audit record {made.number}" in told[1]


def test_columns_of_other_names_must_be_chosen(opened, full_study: Path) -> None:
    names = ["first", *NAMES[1:]]
    at = opened(full_study, as_csv(states(full_study)[:3], names))
    assert "No column was chosen for s1." in told(at)
    boxes = sorted((box for box in at.selectbox if "column" in str(box.key)), key=lambda box: str(box.key))
    assert [box.value for box in boxes] == ["choose a column", *NAMES[1:]]
    boxes[0].select("first").run()
    assert not at.error
    at.checkbox[0].check().run()
    assert at.dataframe[2].value["row"].tolist() == [1, 2, 3]
    boxes = sorted((box for box in at.selectbox if "column" in str(box.key)), key=lambda box: str(box.key))
    boxes[1].select("first").run()
    assert "Column 'first' was chosen for several entries." in told(at)


def test_the_files_carry_the_notice_and_the_same_answers(opened, full_study: Path) -> None:
    recommender = recommender_of(run_of(full_study, "fttpo"))
    table = batch.answer(recommender, states(full_study), None, "a" * 64, Evidence(), DecidedStates((), ""))
    again = pq.read_table(io.BytesIO(batch.as_parquet(table)))
    assert again.schema.metadata[b"notice"].decode() == NOT_FOR_PATIENTS
    first, rest = batch.as_csv(table).decode().split("\n", 1)
    about = json.loads(first.removeprefix("# dosing "))
    assert (about["notice"], about["input"], about["support"]) == (NOT_FOR_PATIENTS, "a" * 64, "exact")
    plain = pd.read_csv(io.StringIO(rest), keep_default_na=False, na_values={"dose": ""})
    assert plain.columns.tolist() == again.column_names
    assert plain["status"].tolist() == again.column("status").to_pylist()
    np.testing.assert_array_equal(plain["dose"], again.column("dose").to_numpy())
    assert plain["dose"].isna().tolist() == [False] * 4 + [True] * 2
    other = recommender_of(run_of(full_study, "iql"))
    wide = batch.answer(other, states(full_study), None, "a" * 64, Evidence(), DecidedStates((), ""))
    assert wide.schema.metadata[b"support"] == b"central 99 %, not a support"


def test_the_answers_of_all_agents_are_in_one_file(full_study: Path) -> None:
    answers = {
        agent: batch.answer(
            recommender_of(run_of(full_study, agent)),
            states(full_study),
            None,
            "a" * 64,
            Evidence(),
            DecidedStates((), ""),
        )
        for agent in ("fttpo", "iql")
    }
    again = pq.read_table(io.BytesIO(batch.as_parquet(batch.together(answers))))
    assert again.column("agent").to_pylist() == ["fttpo"] * 6 + ["iql"] * 6
    assert again.schema.metadata[b"notice"].decode() == NOT_FOR_PATIENTS
    for name, table in answers.items():
        mine = again.filter(pa.compute.equal(again.column("agent").cast(pa.string()), name))
        for column in ("status", "dose", "verdict", "reasons"):
            assert mine.column(column).to_pylist() == table.column(column).to_pylist()
        told = json.loads(again.schema.metadata[b"agents"])[name]
        assert told["provenance"] == table.schema.metadata[b"provenance"].decode()
    rest = batch.as_csv(batch.together(answers)).decode().split("\n", 1)[1]
    plain = pd.read_csv(io.StringIO(rest), keep_default_na=False, na_values={"dose": ""})
    np.testing.assert_array_equal(plain["dose"], again.column("dose").to_numpy())


def test_a_template_is_taken_back_as_a_file_without_rows(opened, full_study: Path) -> None:
    assert batch.header([*NAMES, "a,b"]) == (",".join(NAMES) + ',"a,b"\n').encode()
    at = opened(full_study, batch.header(NAMES) + b",".join([b"0.5"] * 8) + b"\n")
    assert not at.error  # every column goes by its name
    at.checkbox[0].check().run()
    (link,) = at.get("page_link")
    assert "state_from=typed+numbers" in link.proto.query_string.replace("%20", "+")
    assert "numbers=0.5" in link.proto.query_string


@pytest.mark.long
def test_where_nothing_can_be_recorded_no_answer_shows(opened, full_study: Path, log: AuditLog) -> None:
    log.path.mkdir(parents=True)
    at = opened(full_study, as_csv(states(full_study)))
    at.checkbox[0].check().run()
    assert "NO DOSE IS SHOWN: nothing can be recorded." in words(at)
    assert len(at.dataframe) == 2  # what is needed, and what was read
    assert [button.proto.label[:8] for button in at.get("download_button")] == ["Template"] * 2


def test_current_doses_are_asked_for_where_the_scenario_limits_their_change(full_study: Path) -> None:
    from dataclasses import replace

    recommender = recommender_of(run_of(full_study, "fttpo"))
    assert wanted(recommender)[1] == []
    stepping = replace(recommender, rules=replace(recommender.rules, step=StepLimit((0.1,))))
    (dose,) = wanted(stepping)[1]
    assert (dose.name, dose.low, dose.high) == (
        "current_dose",
        recommender.rules.limits.low[0],
        recommender.rules.limits.high[0],
    )
