"""``recommend`` for agents that look back: one patient's visits, tables of visits, and what is on record."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dosing import NOT_FOR_PATIENTS
from dosing.cli import recommend_table
from dosing.cli.main import main
from dosing.data.store import write_episodes
from dosing.evaluation.history_policy import HistoryPolicy
from dosing.recommendation.audit_log import FILE, AuditLog
from dosing.recommendation.decisions import record_decision
from dosing.recommendation.explanations import FIRST_VISIT, FIRST_VISITS
from dosing.runs.files import sha256
from dosing.runs.folder import DONE, RunFolder
from dosing.studies.loading import recommender_of
from tests.support.samples import cohort

COMMON = ["--seeds", "2", "--steps", "6", "--batch-size", "16", "--device", "cpu"]
TINY = {
    "response_model": ["--fit-steps", "3", "--gate", "off", "--episodes", "2"],
    "decision_transformer": ["--context", "4", "--width", "16", "--target-quantile", "0.9"],
    "iql": ["--hidden", "8", "8"],
}
COLUMNS = [f"s{i + 1}" for i in range(8)]
LOOKING_BACK = ("response_model", "decision_transformer")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    write_episodes(cohort(), path / "visits.parquet")
    for name, settings in TINY.items():
        words = ["train", name, "--data", str(path / "visits.parquet"), "--out", str(path)]
        assert main([*words, *COMMON, *settings]) == 0
    return path


@pytest.fixture
def study(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "study")
    return tmp_path / "study"


def run_of(study: Path, name: str) -> Path:
    (done,) = study.glob(f"{name}/*/*/{DONE}")
    return done.parent


def ask(run: Path, *words: object) -> int:
    return main(["recommend", str(run), *map(str, words)])


def visits(patients: int = 3) -> pd.DataFrame:
    """Recorded visits as a table for ``recommend``."""
    recorded = cohort()
    rows = recorded.episode < patients
    result = pd.DataFrame(recorded.obs[rows].astype(np.float64), columns=COLUMNS)
    result["dose"] = recorded.act[rows, 0].astype(np.float64)
    result["reward"] = recorded.reward[rows].astype(np.float64)
    result["patient"] = [f"p{k}" for k in recorded.episode[rows]]
    result["visit"] = recorded.step[rows] + 1
    return result


def history(patient: int, visit: int) -> pd.DataFrame:
    """One patient's visits up to one, which has neither dose nor reward yet."""
    table = visits()
    result = table[table["patient"] == f"p{patient}"].iloc[:visit].drop(columns="patient").copy()
    result.iloc[-1, result.columns.get_indexer(["dose", "reward"])] = np.nan
    return result


def evaluated(run: Path, patient: int) -> np.ndarray:
    """Doses that evaluation gives each seed's patient at the recorded visits ``[S, T]``, visit by visit."""
    rule = HistoryPolicy(recommender_of(RunFolder(run)).policy)
    recorded = cohort()
    rows, said = np.flatnonzero(recorded.episode == patient), []
    for visit, row in enumerate(rows):
        said.append(rule(np.tile(recorded.obs[row], (2, 1, 1)), visit)[:, 0, 0])
        given, paid = recorded.act[row].astype(np.float64), recorded.reward[row]
        rule.observe(np.tile(given, (2, 1, 1)), np.full((2, 1), paid))
    return np.stack(said, 1)


@pytest.mark.long
@pytest.mark.parametrize("name", LOOKING_BACK)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_dose_is_the_one_that_evaluation_gives_at_that_visit(
    study: Path, name: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = run_of(study, name), study / f"one.{suffix}"
    expected = evaluated(run, 1)
    for visit in (1, 2, 9, 24):
        table = history(1, visit)
        table.to_csv(file, index=False) if suffix == "csv" else table.to_parquet(file)
        assert ask(run, "--history", file, "--json") in (0, 3)
        result = json.loads(capsys.readouterr().out)
        own = [seed["dose"][0] for seed in result["seeds"]]
        np.testing.assert_allclose(own, expected[:, visit - 1], rtol=0, atol=2e-6)
        assert len(result["earlier"]) == visit - 1
        assert result["state"] == table[COLUMNS].iloc[-1].tolist()


@pytest.mark.long
@pytest.mark.parametrize("name", LOOKING_BACK)
def test_a_table_is_answered_as_each_patients_history(
    study: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recommend_table, "PIECE", 30)
    run = run_of(study, name)
    table = visits()
    table.loc[71, "dose"] = np.nan  # not given yet
    table.to_csv(study / "in.csv", index=False)
    table.to_parquet(study / "in.parquet")
    answers = []
    for kind in ("csv", "parquet"):
        assert ask(run, "--in", study / f"in.{kind}", "--out", study / "out.parquet") == 0
        answers.append(pq.read_table(study / "out.parquet").replace_schema_metadata())
        assert FIRST_VISITS not in capsys.readouterr().out
    assert answers[0].equals(answers[1])
    expected = np.concatenate([evaluated(run, patient).mean(0) for patient in range(3)])
    np.testing.assert_allclose(answers[0].column("proposed").to_numpy(), expected, rtol=0, atol=2e-6)
    assert answers[0].column("row").to_pylist() == list(range(72))
    last = AuditLog(study / FILE).verify().records[-1]
    assert (last.kind, last.content["rows"]) == ("batch", 72)
    assert last.content["input"] == sha256(study / "in.parquet")


def test_a_table_of_states_means_first_visits_and_says_so(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    visits()[COLUMNS].to_parquet(study / "in.parquet")
    for name, note in (("response_model", FIRST_VISITS), ("iql", "")):
        assert ask(run_of(study, name), "--in", study / "in.parquet", "--out", study / "out.parquet") == 0
        said = capsys.readouterr().out
        assert (FIRST_VISITS in said) == bool(note)
        kept = pq.read_table(study / "out.parquet").schema.metadata
        assert kept.get(b"note", b"").decode() == note
    state = [str(x) for x in visits()[COLUMNS].iloc[0]]
    assert ask(run_of(study, "response_model"), "--state", *state) in (0, 3)
    assert FIRST_VISIT in capsys.readouterr().out


def test_a_policy_of_the_state_alone_takes_a_table_of_visits_too(study: Path) -> None:
    run = run_of(study, "iql")
    for columns in (COLUMNS, [*COLUMNS, "patient", "visit", "dose"]):
        visits()[columns].to_parquet(study / "in.parquet")
        assert ask(run, "--in", study / "in.parquet", "--out", study / f"{len(columns)}.parquet") == 0
    one, other = (pq.read_table(study / f"{k}.parquet").replace_schema_metadata() for k in (8, 11))
    assert one.equals(other)


def test_rewards_may_be_left_out_where_the_agent_needs_none(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history(1, 9).drop(columns="reward").to_csv(study / "h.csv", index=False)
    assert ask(run_of(study, "response_model"), "--history", study / "h.csv") in (0, 3)
    capsys.readouterr()
    assert ask(run_of(study, "decision_transformer"), "--history", study / "h.csv") == 2
    assert "The file lacks reward." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.assign(visit=[5, 4, 3, 2, 1]), "Row 2, visit: visit 4 stands after visit 5"),
        (lambda t: pd.concat([t.iloc[:2], t.iloc[1:]]), "Row 3, visit: visit 2 is there twice."),
        (lambda t: t.assign(dose=[0.1, None, 0.1, 0.1, None]), "Row 2, dose: is missing"),
        (lambda t: t.assign(dose=0.1), "Row 5, dose: the last row is the visit at hand"),
        (lambda t: t.assign(dose=[0.1, 1.5, 0.1, 0.1, None]), "Row 2, dose: must be -1 to 1, got 1.5."),
        (lambda t: t.assign(ward="A"), "has other columns, which may name patients: ward."),
        (lambda t: t.assign(patient="p1"), "look as if they identified people: 'patient'"),
        (lambda t: t.drop(columns="s4"), "The file lacks s4."),
        (lambda t: t.assign(s2="high"), "Row 1, s2: 'high' is no number."),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_a_wrong_history_is_refused_before_anything_is_asked(
    study: Path, change, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(history(1, 5)).to_csv(study / "h.csv", index=False)
    assert ask(run_of(study, "response_model"), "--history", study / "h.csv") == 2
    output = capsys.readouterr()
    assert told in output.err
    assert output.err.startswith(f"dosing: {study / 'h.csv'}: ")
    assert output.out == ""


def test_interleaved_patients_and_missing_files_are_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(study, "response_model")
    visits().sort_values(["visit", "patient"]).to_csv(study / "in.csv", index=False)
    assert ask(run, "--in", study / "in.csv", "--out", study / "out.parquet") == 2
    assert "the rows of a patient must stand together" in capsys.readouterr().err
    assert not (study / "out.parquet").exists()
    visits().drop(columns="visit").to_parquet(study / "in.parquet")
    assert ask(run, "--in", study / "in.parquet", "--out", study / "out.parquet") == 2
    assert "Column 'patient' goes with a column 'visit'" in capsys.readouterr().err
    assert ask(run, "--history", study / "none.csv") == 2
    assert "none.csv does not exist." in capsys.readouterr().err
    history(1, 3).to_csv(study / "h.csv", index=False)
    assert ask(run, "--history", study / "h.csv", "--current-dose", "0.1") == 2
    assert "it is the last dose of the file" in capsys.readouterr().err


def test_a_number_missing_in_an_earlier_visit_is_a_refusal_on_record(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = history(1, 5)
    table.iloc[1, 0] = np.nan
    table.to_csv(study / "h.csv", index=False)
    assert ask(run_of(study, "response_model"), "--history", study / "h.csv") == 2
    assert "s1 (entry 1) of visit 2 must be a finite number" in capsys.readouterr().err
    last = AuditLog(study / FILE).verify().records[-1]
    assert last.kind == "refusal"
    assert last.content["earlier"][1]["state"][0] == "nan"


@pytest.mark.long
def test_what_was_seen_is_on_record_and_a_decision_is_shown_again(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table = run_of(study, "response_model"), history(2, 6)
    table.to_csv(study / "h.csv", index=False)
    assert ask(run, "--history", study / "h.csv") in (0, 3)
    assert "it was told 5 earlier visits" in capsys.readouterr().out
    log = AuditLog(study / FILE)
    record = log.verify().records[-1]
    assert [visit["dose"][0] for visit in record.content["earlier"]] == table["dose"].tolist()[:-1]
    record_decision(log, record.number, "reject", reason="too much for this one")
    for how in ("numbers", "hash"):
        assert ask(run, "--history", study / "h.csv", "--audit-states", how) in (0, 3)
        output = capsys.readouterr().out
        assert "too much for this one" in output
        assert NOT_FOR_PATIENTS in output
    hashed = log.verify().records[-1].content
    assert "state" not in hashed
    assert "earlier" not in hashed
    assert hashed["earlier_visits"] == 5
    table.iloc[1:].assign(visit=range(1, 6)).to_csv(study / "h.csv", index=False)
    assert ask(run, "--history", study / "h.csv") in (0, 3)
    assert "too much for this one" not in capsys.readouterr().out  # another history, the same state
    frame = visits()
    frame.to_csv(study / "in.csv", index=False)
    assert ask(run, "--in", study / "in.csv", "--out", study / "out.parquet") == 0
    decided = pd.read_parquet(study / "out.parquet")["decision"]
    assert np.flatnonzero(decided.notna()).tolist() == [2 * 24 + 5]


def test_a_page_on_a_history_says_what_recommend_says(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = run_of(study, "response_model"), study / "h.csv"
    history(1, 9).to_csv(file, index=False)
    status = ask(run, "--history", file, "--json")
    dose = json.loads(capsys.readouterr().out)["dose"][0]
    other, page = run_of(study, "decision_transformer"), study / "page.html"
    assert main(["report", str(run), str(other), "--history", str(file), "--out", str(page)]) >= status
    told = page.read_text()
    assert "visits from h.csv" in told
    shown = re.findall(r'class="dose">([^< ]+)', told)
    assert len(shown) == 2
    assert abs(float(shown[0].replace("\N{MINUS SIGN}", "-")) - dose) < 1e-3
