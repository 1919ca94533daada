"""``compare --plan``, ``compare``, and the report of the study that it leaves, on the command line."""

from __future__ import annotations

import shlex
from html import escape
from pathlib import Path

import pytest

from dosing import NOT_FOR_PATIENTS
from dosing.cli.main import main
from dosing.data.store import write_episodes
from dosing.runs.folder import find_runs
from dosing.studies import references
from tests.support.samples import cohort

USUAL = ("0.1", "-0.3", "0.5", "0", "0.2", "-0.1", "0.4", "0")


def asked(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small comparison, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    write_episodes(cohort(), folder / "visits.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "SEARCH_PATIENTS", 50)
        assert asked(*compared(folder)) == 0
    return folder / "study"


def compared(folder: Path) -> list[object]:
    data = ["--agents", "bc", "iql", "--set", "hidden=[8]", "--data", folder / "visits.parquet"]
    size = ["--seeds", 2, "--steps", 8, "--evaluation-patients", 5, "--workers", 1, "--device", "cpu"]
    return ["compare", *data, *size, "--out", folder / "study"]


def test_a_study_is_reported_with_the_command_that_made_it(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("html", "md"):
        assert asked("report", study, "--out", tmp_path / f"report.{kind}") == 0
        assert NOT_FOR_PATIENTS in (told := capsys.readouterr().out)
        assert str(tmp_path / f"report.{kind}") in told
        page = (tmp_path / f"report.{kind}").read_text()
        command = shlex.join(["python", "-m", "dosing", *map(str, compared(study.parent))])
        assert (escape(command) if kind == "html" else command) in page
    assert asked("report", study, "--reference", "BC", "--out", tmp_path / "other.html") == 0
    page = (tmp_path / "other.html").read_text()
    assert "IQL (clipped Gaussian), trained on 8 recorded patients" in page
    assert "BC (clipped Gaussian) on the same 10 new simulated patients" in page


def test_studies_runs_and_states_are_not_mixed(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = find_runs(study)[0].path, ["--out", tmp_path / "page.html"]
    state = ["--state", *USUAL]
    for words, says in (
        ([study, *state], "its report takes that folder alone"),
        ([study, run], "its report takes that folder alone"),
        ([run, study, *state], "its report takes that folder alone"),
        ([study, "--audit", tmp_path / "log.jsonl"], "its report takes that folder alone"),
        ([run], "name a study folder, or run folders with --state or --history"),
        ([tmp_path / "none"], "holds no finished study"),
        ([run, *state, "--reference", "BC"], "--reference is for the report of a study"),
        ([study, "--reference", "no such"], "is no run on visits; the runs are: BC"),
    ):
        assert asked("report", *words, *out) == 2
        assert says in capsys.readouterr().err
        assert not (tmp_path / "page.html").exists()
    assert asked("report", study, "--out", tmp_path / "page.pdf") == 2
    assert "must end in .html or .md" in capsys.readouterr().err
    assert asked("report", run, *state, *out) in (0, 3)  # the page on a state is as before


def test_a_plan_is_printed_and_nothing_run(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*compared(study.parent)[:-1], tmp_path / "planned", "--plan"]
    assert asked(*words, "--plan-sd", "2", "0.3") == 0
    told = capsys.readouterr().out
    assert "2 runs in" in told
    assert "sd between patients 2, between seeds 0.3, of the paired difference; source: stated by" in told
    assert NOT_FOR_PATIENTS in told
    assert asked(*words, "--plan-from", study) == 0
    assert "measured in 2 runs of study" in capsys.readouterr().out
    assert find_runs(tmp_path / "planned") == []
    for more, says in (
        (["--plan-sd", "1", "2", "3"], "a number for patients and one for seeds"),
        (["--plan-sd", "-1"], "at least 0"),
        (["--plan-from", tmp_path / "none"], "no finished comparison"),
    ):
        assert asked(*words, *more) == 2
        assert says in capsys.readouterr().err
    assert asked(*words[:-1], "--plan-sd", "1") == 2
    assert "add --plan" in capsys.readouterr().err
