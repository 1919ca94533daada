"""The command line: every wrong input is one sentence and a non-zero exit; the main job runs end to end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import agents
from dosing import NOT_FOR_PATIENTS
from dosing.cli.main import main
from dosing.data.store import write_episodes
from dosing.runs.files import read_json
from dosing.runs.folder import CHECKPOINT, CONFIG, DONE, EPISODES, METRICS, WEIGHTS, RunFolder
from dosing.safety import DoseLimits
from dosing.studies import references, training
from tests.support.samples import ENV, cohort, dataset

ROOT = Path(__file__).resolve().parents[2]
FIRST = next(iter(agents.AGENTS))
STATE = ["0.1", "-0.2", "0", "1", "-1e-3", "2.5E-1", "-.5", "3"]
TINY = ["--seeds", "2", "--steps", "6", "--batch-size", "16", "--device", "cpu", "--hidden", "8", "8"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one finished run, for reading only."""
    path = tmp_path_factory.mktemp("study")
    write_episodes(cohort(), path / "visits.parquet")
    assert main(["train", FIRST, "--data", str(path / "visits.parquet"), "--out", str(path), *TINY]) == 0
    return path


@pytest.fixture(scope="module")
def finished(study: Path) -> Path:
    (done,) = study.glob(f"*/*/*/{DONE}")
    return done.parent


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished run again, to damage; its data stands where it points."""
    shutil.copytree(finished.parents[2], tmp_path / "copy")
    return tmp_path / "copy" / finished.relative_to(finished.parents[2])


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one sentence with which a command ends."""
    capsys.readouterr()
    status = main([str(a) for a in arguments])
    output = capsys.readouterr()
    assert status != 0
    (line,) = output.err.splitlines()
    assert line.startswith("dosing: ")
    assert "Traceback" not in output.out + output.err
    return line


# Wrong inputs


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("train no_such_agent --data {data}", "there is no agent 'no_such_agent'; the suite has: " + FIRST),
        (f"train {FIRST}", "train needs --data"),
        (f"train {FIRST} --data nowhere.parquet", "neither a file nor an environment id"),
        (f"train {FIRST} --data dosing/Nowhere-v0", "neither a file nor an environment id"),
        (f"train {FIRST} --data CartPole-v1", "a dose must be a Box of one dimension"),
        (f"train {FIRST} --data {{file}}", "episodes are kept in .parquet, .csv, .hdf5"),
        (f"train {FIRST} --data {{cut}}", "is truncated or not an episode file"),
        (f"train {FIRST} --data {{data}} --out {{file}}/x", "cannot write"),
        (f"train {FIRST} --data {ENV} --out {{file}}/x", "cannot write the study folder"),
        (f"train {FIRST} --data {{data}} --seeds 0", "--seeds must be at least 1, got 0"),
        (f"train {FIRST} --data {{data}} --seeds -2", "--seeds must be at least 1, got -2"),
        (f"train {FIRST} --data {{data}} --steps 0", "steps must be at least 1"),
        (f"train {FIRST} --data {{data}} --batch-size 0", "batch-size must be at least 1"),
        (f"train {FIRST} --data {{data}} --threads 0", "--threads must be at least 1"),
        (f"train {FIRST} --data {{data}} --learning-rate nan", "learning_rate must be a finite number"),
        (f"train {FIRST} --data {{data}} --learning-rate -1", "learning_rate must be above 0"),
        (f"train {FIRST} --data {{data}} --hidden 0", "hidden must be widths of at least 1"),
        (f"train {FIRST} --data {ENV} --env-option variant=no_such", "has no variant 'no_such'"),
        (f"train {FIRST} --data {ENV} --env-option no_such=1", "has no option 'no_such'"),
        (f"train {FIRST} --data {ENV} --env-option variant", "an option is written NAME=VALUE"),
        (f"train {FIRST} --data {ENV} --env-option patients=3", "patients is not an option"),
        (f"train {FIRST} --data {ENV} --patients 0", "patients must be a whole number from 1"),
        (f"train {FIRST} --data {ENV} --data-seed -1", "seed must be a whole number from 0"),
        (f"train {FIRST} --data {ENV} --policy no_such", "unknown policy 'no_such'"),
        (f"train {FIRST} --data {ENV} --patients 2 --env-option cohort=evaluation", "evaluation patients"),
        ("simulate dosing/Nowhere-v0 --out {out}.parquet", "unknown environment 'dosing/Nowhere-v0'"),
        ("simulate --out {out}.txt", "episodes are kept in .parquet, .csv, .hdf5"),
        ("simulate --out {file}/x.parquet", "cannot be written"),
        ("simulate --out {out}.parquet --patients 0", "patients must be a whole number from 1"),
        ("evaluate {out}", "there is no run folder"),
        ("evaluate {parent}", "is not a run folder: it has no config.json"),
        ("evaluate {run} --patients 0", "at least one patient"),
        ("recommend {out} --state 1", "there is no run folder"),
        ("recommend {run} --state 1 2 3 4 5 6 7", "the state needs 8 numbers, got 7"),
        ("recommend {run} --state 1 2 3 4 5 6 7 8 9", "the state needs 8 numbers, got 9"),
        ("recommend {run} --state 1 2 nan 4 5 6 7 8", "s3 (entry 3) of the state must be a finite number"),
        ("recommend {run} --state -inf 2 3 4 5 6 7 8", "s1 (entry 1) of the state must be a finite number"),
        (
            "recommend {run} --state 1 2 3 4 5 6 7 high",
            "s8 (entry 8) of the state must be a number, got 'high'",
        ),
        (
            "recommend {run} --state 1 2 3 4 5 6 7 2,5",
            "s8 (entry 8) of the state must be a number, got '2,5'",
        ),
        ("app --out {out}", "there is no study folder"),
        ("app --out . --port 70000", "cannot serve on port 70000 of localhost"),
        ("demo --seeds 0 --out {out}", "--seeds must be at least 1"),
        ("demo --steps 0 --out {out}", "steps must be at least 1"),
        ("demo --patients 0 --out {out}", "patients must be a whole number from 1"),
        ("demo --variant no_such --out {out}", "has no variant 'no_such'"),
        ("demo --out {file}/x", "cannot write the study folder"),
        ("compare --agents no_such --out {out}", "there is no agent 'no_such'"),
        ("compare --set no_such=1 --out {out}", "none of the chosen agents has the setting 'no_such'"),
        ("compare --workers 0 --out {out}", "--workers must be at least 1"),
        (
            "compare --preset no_such --out {out}",
            "there is no preset 'no_such'; there are: published, common",
        ),
        (f"train {FIRST} --data {{data}} --preset no_such", "there is no preset 'no_such'"),
        (f"train {FIRST} --data {{data}} --preset sparse-vs-gaussian", "it is for compare"),
        ("select --agents bc --data {data} --preset sparse-vs-gaussian --out {out}", "it is for compare"),
        ("compare --regularise dropout=2 --out {out}", "dropout must be at least 0 and below 1, got 2.0"),
        ("compare --cost-budget -1 --out {out}", "cost_budget must be at least 0, got -1.0"),
        (
            "compare --cost-budget much --out {out}",
            "--cost-budget must be a cost per episode",
        ),
        ("compare --cost-budget 5 --regularise cost_budget=3 --out {out}", "cost_budget is set twice"),
        ("compare --agents bc --cost-budget 5 --out {out}", "BC learns from doses alone"),
        (f"train {FIRST} --data {{data}} --cost-budget 5,6", "train takes one value of each option"),
        (f"train {FIRST} --data {{data}} --regularise no_such=1", "there is no regularisation 'no_such'"),
        (f"train {FIRST} --data {{data}} --regularise critics=2,3", "train takes one value of each option"),
        ("compare --agents bc spot --steps 1000 --out {out}", "learns nothing in the first 1000 updates"),
        ("compare --evaluate-at 0 --out {out}", "a training of 2000 updates cannot be looked at after 0"),
        ("compare --evaluate-at 2001 --out {out}", "cannot be looked at after 2001"),
        ("compare --set discount --out {out}", "a setting is written NAME=VALUE"),
        ("compare --set discount= --out {out}", "a setting is written NAME=VALUE"),
        ("compare --set discount=.9 --set discount=.8 --out {out}", "discount is set twice"),
        ("compare --set discount=high --out {out}", "discount must be a number, got 'high'"),
        ("compare --set discount=0.9,1.1 --out {out}", "discount must be between 0 and 1, got 1.1"),
        ("compare --set bc.no_such=1 --out {out}", "none of the chosen agents has the setting 'bc.no_such'"),
        ("compare --policy-families point --agents iql --out {out}", "policy_family must be one of"),
        ("compare --agents bc --data {data} {data} --out {out}", "two data sets are called visits"),
        ("compare --agents bc --batch-size 0 --out {out}", "batch-size must be at least 1"),
        ("compare --data nowhere --out {out}", "neither a file nor an environment id"),
    ],
)
def test_a_wrong_input_is_told_in_one_sentence(
    arguments: str, told: str, study: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, cut = tmp_path / "file", tmp_path / "cut.parquet"
    file.touch()
    cut.write_bytes((study / "visits.parquet").read_bytes()[:2000])
    places = {"data": study / "visits.parquet", "file": file, "cut": cut, "run": finished}
    places |= {"out": tmp_path / "out", "parent": finished.parent}
    words = arguments.format(**places).split()
    if words[0] == "train" and "--out" not in words:
        words += ["--out", str(tmp_path / "out")]
    assert told in refused(capsys, *words)
    assert not list(tmp_path.rglob(DONE))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    "command", [["train", FIRST, "--data", ENV, "--patients", "1"], ["demo", "--patients", "1"]]
)
def test_a_gpu_that_is_not_there_is_told(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *command, "--device", "cuda", "--out", tmp_path)
    assert "no usable CUDA device; use --device cpu" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["no_such_command"],
        [],
        ["evaluate"],
        ["recommend", "run"],
        ["train", FIRST, "--seeds", "many"],
        ["train", FIRST, "--device", "tpu"],
        ["demo", "--no-such-option"],
        ["train", FIRST, "--data", ENV, "--no-such-option", "3"],
        ["train", FIRST, "--data", ENV, "--hidden", "wide"],
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_told_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "required" in error or arguments[-1] in error
    assert "Traceback" not in error


# Damaged runs


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, METRICS])
@pytest.mark.parametrize("command", [["evaluate"], ["recommend", "--state", *STATE]], ids=lambda c: c[0])
def test_a_damaged_run_is_not_used(
    command: list[str], name: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command[0], str(copy), *command[1:]]
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    assert name in refused(capsys, *words)
    (copy / name).write_bytes(b"")
    assert name in refused(capsys, *words)
    (copy / name).unlink()
    assert name in refused(capsys, *words)
    (copy / name).write_bytes(whole)
    (copy / DONE).write_text("{}")
    assert DONE in refused(capsys, *words)
    (copy / DONE).unlink()
    assert "is not finished" in refused(capsys, *words)


def test_a_truncated_checkpoint_is_told(copy: Path, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training does not start again from zero behind the user's back."""
    (copy / DONE).unlink()
    (copy / CHECKPOINT).write_bytes((copy / WEIGHTS).read_bytes()[:500])
    data = study / "visits.parquet"
    line = refused(capsys, "train", FIRST, "--data", data, "--out", copy.parents[2], *TINY)
    assert f"{CHECKPOINT} is truncated" in line


def test_data_that_has_gone_or_changed_is_told(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 100)
    data = copy.parents[2] / "visits.parquet"
    data.unlink()
    assert "does not exist" in refused(capsys, "evaluate", copy, "--patients", 3)
    write_episodes(cohort(3), data)
    assert "is not the data that" in refused(capsys, "evaluate", copy, "--patients", 3)


def test_a_full_disk_and_a_full_gpu_are_told(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: BaseException) -> Any:
        def fail(*arguments: Any, **options: Any) -> None:
            raise error

        return fail

    words = ["train", FIRST, "--data", study / "visits.parquet", "--out", tmp_path, *TINY]
    monkeypatch.setattr(training.offline, "train", failing(OSError(28, "No space left on device", "weights")))
    assert "No space left on device (weights)" in refused(capsys, *words)
    monkeypatch.setattr(training.offline, "train", failing(torch.OutOfMemoryError("CUDA out of memory")))
    assert "has no memory for 2 seeds and batches of 16" in refused(capsys, *words)


# What works


def test_the_same_training_is_found_not_repeated(
    study: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir() if path.name != ".lock"}
    words = ["train", FIRST, "--data", str(study / "visits.parquet"), "--out", str(study), *TINY]
    assert main(words) == 0
    told, path = capsys.readouterr().out.splitlines()
    assert told.startswith(f"{study / 'visits.parquet'}: 8 patients, 192 visits; worst reward ")
    assert Path(path) == finished
    assert {
        path.name: path.stat().st_mtime_ns for path in finished.iterdir() if path.name != ".lock"
    } == before
    config = RunFolder(finished).config()
    assert config.seeds == (0, 1)
    assert config.agent_config["hidden"] == [8, 8]
    assert config.data.content_hash == cohort().metadata.content_hash
    assert config.limits == DoseLimits((-1.0,), (1.0,))
    assert len(dataset()) == config.data.visits


@pytest.mark.long
def test_a_preset_is_trained_with_unless_a_flag_says_otherwise(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--data", str(study / "visits.parquet"), *TINY[:4], *TINY[6:], "--preset", "published"]
    for folder, words in (("preset", []), ("flags", ["--expectile", "0.6", "--scale-reward"])):
        assert main(["train", "iql", "--out", str(tmp_path / folder), *tiny, *words]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()[1::2]]
    preset, flags = (RunFolder(path).config() for path in paths)
    assert preset.agent_config["policy_family"] == flags.agent_config["policy_family"]
    assert preset.agent_config["policy_family"] == "squashed_gaussian"
    assert (preset.agent_config["expectile"], flags.agent_config["expectile"]) == (0.9, 0.6)
    assert set(preset.transform.obs_scale) == set(flags.transform.obs_scale) == {1.0}
    assert (preset.transform.reward_scale, flags.transform.reward_scale != 1.0) == (1.0, True)
    assert (preset.training["batch_size"], preset.agent_config["hidden"]) == (256, [8, 8])
    assert main(["train", "bc", "--out", str(tmp_path / "bc"), *tiny]) == 0
    assert "preset published has nothing for bc" in capsys.readouterr().out


def test_a_recommendation_is_printed_with_its_basis(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["recommend", str(finished), "--state", *STATE])
    text = capsys.readouterr().out
    assert main(["recommend", str(finished), "--state", *STATE, "--json"]) == status
    result = json.loads(capsys.readouterr().out)
    assert status == (3 if result["status"] == "deferred" else 0)
    assert NOT_FOR_PATIENTS in text
    assert result["notice"] == NOT_FOR_PATIENTS
    assert f"{result['dose'][0]:.4g}" in text
    assert result["state"] == [float(x) for x in STATE]
    assert result["provenance"]["agent"] == FIRST
    assert len(result["provenance"]["weights"]) == 64
    assert ("0 (exactly)" in text) == (result["bounded"] and result["mass_outside"] == 0.0)
    assert main(["recommend", str(finished), "--json", "--state", "1"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["status"] == "refused"
    assert len(output.err.splitlines()) == 1


@pytest.mark.long
def test_an_evaluation_is_kept_with_its_weights(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done once; done again for other patients, other weights or a changed outcome."""
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 100)
    words = ["evaluate", str(copy), "--patients"]
    assert main([*words, "4"]) == 0
    table = capsys.readouterr().out
    kept = (copy / EPISODES).stat().st_mtime_ns
    assert main([*words, "4"]) == 0
    assert capsys.readouterr().out == table
    assert (copy / EPISODES).stat().st_mtime_ns == kept
    (copy / EPISODES).write_bytes(b"damaged")
    assert main([*words, "4"]) == 0
    assert capsys.readouterr().out == table
    kept = (copy / EPISODES).stat().st_mtime_ns
    assert main([*words, "5"]) == 0
    assert capsys.readouterr().out != table
    assert (copy / EPISODES).stat().st_mtime_ns != kept
    assert NOT_FOR_PATIENTS in table


def test_agents_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agents"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["agent", "title"]
    assert [line.split()[0] for line in lines] == list(agents.AGENTS)
    assert all(entry.about.paper in line for entry, line in zip(agents.AGENTS.values(), lines, strict=True))


@pytest.mark.parametrize("name", list(agents.AGENTS))
def test_help_lists_every_setting_of_an_agent(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--data SOURCE" in text
    for field in agents.find(name).config_class().__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in text


@pytest.mark.parametrize(
    "command", ["demo", "simulate", "compare", "evaluate", "recommend", "finetune", "agents", "app"]
)
def test_help_of_every_command_carries_the_notice(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert " ".join(NOT_FOR_PATIENTS.split()) in " ".join(capsys.readouterr().out.split())


def test_simulated_visits_are_written_once_and_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = []
    for name in ("a.parquet", "b.csv"):
        assert main(["simulate", "--out", str(tmp_path / name), "--patients", "3"]) == 0
        text = capsys.readouterr().out
        assert "72 visits of 3 patients" in text
        hashes.append(re.findall(r"content hash (\w{64})", text))
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 1


# The main job


@pytest.mark.long
def test_the_demo_runs_end_to_end_and_repeats_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First as a user runs it, with every warning an error; then again, where all is found."""
    words = f"demo --no-serve --seeds 2 --steps 12 --patients 12 --device cpu --out {tmp_path}".split()
    first = subprocess.run(
        [sys.executable, "-W", "error", "-m", "dosing", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    lines = first.stdout.splitlines()
    assert lines[0].startswith("agent")
    names = [re.sub(r" -?\d.*", "", line.split("  ")[0]) for line in lines[2:9]]
    trained = ["Response model", "FtTPO", "IQL"]
    assert names == [*trained, "uniform dosing", "no dose", "constant dose", "best constant dose"]
    assert all(line.startswith("ceiling: ") for line in lines[9:-1])
    assert lines[-1] == NOT_FOR_PATIENTS
    assert lines[2].count("0 (exactly)") == 2
    assert "exactly" not in lines[4]
    table = read_json(tmp_path / "table.json")
    assert len(table["rows"]) == len(lines) - 3
    assert all((tmp_path / run / DONE).is_file() for run in table["runs"])

    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    assert len(stamps) > 10
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # one process: nothing is left to do side by side
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out == first.stdout
    changed = [p.name for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp]
    assert changed == []


def group_lives(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_the_demos_workers_end_with_it(sent: signal.Signals, expected: int, tmp_path: Path) -> None:
    """At once and without a traceback, even when only the command itself is told, or killed."""
    words = f"demo --no-serve --seeds 1 --steps 1000000 --patients 4 --device cpu --out {tmp_path}".split()
    command = [sys.executable, "-m", "dosing", *words]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            wait_until(lambda: len(list(tmp_path.glob(f"*/*/*/{CONFIG}"))) == 2)
            process.send_signal(sent)
            _, stderr = process.communicate(timeout=30)
            wait_until(lambda: not group_lives(process.pid))  # no worker outlives its command
        finally:
            if group_lives(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == expected
    assert "Traceback" not in stderr
