"""A study on a real Slurm cluster: whatever is killed, every hash is that of the study on one machine.

``.ci/slurm COMMAND`` starts a cluster of one machine: ``.ci/slurm python -m pytest -m slurm``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dosing.runs.files import read_json, read_table
from dosing.runs.folder import CONFIG, DONE, EVALUATION, METRICS
from dosing.studies.index import INDEX
from dosing.studies.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
STUDY = (
    "compare --agents iql --set expectile=0.5,0.55,0.6,0.65,0.7,0.75,0.8,0.85 --seeds 1 --steps 60 "
    "--checkpoint-every 20 --patients 8 --evaluation-patients 4 --device cpu"
)


def command(*more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "dosing", *STUDY.split(), *more]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def workers(study: Path) -> list[int]:
    """Processes that do a job of the study."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        python = Path(words[0]).name.startswith("python")
        if python and "submitit.core._submit" in words and any(str(study) in word for word in words):
            found.append(int(process.name))
    return found


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """As long as the command runs."""
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def results(study: Path) -> dict[str, object]:
    """Of every run, the hashes of what it made; of the log, which has times, the other columns."""
    every: dict[str, object] = {}
    for done in sorted(study.glob(f"*/*/*/{DONE}")):
        run, name = done.parent, str(done.parent.relative_to(study))
        hashes = {file: value for file, value in read_json(done).items() if file not in (CONFIG, METRICS)}
        log = read_table(run / METRICS).drop_columns(["seconds"]).to_pydict()
        every[name] = (hashes, log, read_json(run / EVALUATION))
    return every


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(1500)
def test_killed_workers_and_commands_change_no_hash(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    table = finished(command("--out", str(here), "--workers", "1"))

    slurm = ("--out", str(there), "--cluster", "slurm", "--cluster-option", "timeout_min=20", "parallel=8")
    first = command(*slurm)
    wait_until(lambda: list(there.glob(f"*/*/*/{CONFIG}")) and len(workers(there)) > 1, first)
    killed, preempted = workers(there)[:2]
    os.kill(killed, signal.SIGKILL)
    os.kill(preempted, signal.SIGUSR2)  # what Slurm sends ahead of the time limit or of pre-emption
    first.kill()
    first.communicate()
    second = command(*slurm)
    before = len(list(there.glob(f"*/*/*/{DONE}")))
    wait_until(lambda: len(list(there.glob(f"*/*/*/{DONE}"))) > before, second)
    second.kill()
    second.communicate()
    assert finished(command(*slurm)) == table

    expected = results(here)
    assert len(expected) == 8
    assert results(there) == expected
    entries = Ledger(there / "jobs").entries
    assert sorted(entry.run for entry in entries.values()) == ["", *sorted(expected)]  # "": reference rules
    lost = sum(entry.lost for entry in entries.values())
    assert lost == 1
    assert len(list(there.glob("jobs/*/*_submitted.pkl"))) == 9 + lost  # no job was submitted twice

    ledger = Ledger(there / "jobs")
    again = next(entry for entry in ledger.entries.values() if entry.lost)
    number, again.id, again.run = again.id, "", ""  # as if the command had been killed while it submitted
    ledger.write()
    (there / INDEX).unlink()  # a command that was killed there had not come to the table
    assert finished(command(*slurm)) == table
    assert number in {entry.id for entry in Ledger(there / "jobs").entries.values()}
    assert len(list(there.glob("jobs/*/*_submitted.pkl"))) == 9 + lost
