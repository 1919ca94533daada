"""What a finished study of many runs takes to open again.

    OMP_NUM_THREADS=1 python benchmarks/speed/reopen.py [--runs 1000 10000] [--out FOLDER]

One run of IQL (two seeds, networks of 8 units, 20 updates, 100 patients) is trained and evaluated, and linked
under as many settings, each with a configuration of its own. ``compare`` is called in processes of
their own, with one worker: without an index, so that everything is read and checked, and with the index of
that call. Above 1,000 runs reading all takes long, and is not done: table and index are written as it would
leave them, from the run that was computed. Times begin after the imports. The last line is how far the study
is, as the dashboard's page Runs reads it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.machine import describe
from benchmarks.report import table
from dosing import __version__
from dosing.runs.files import read_json, write_atomic, write_json
from dosing.runs.folder import CONFIG, DONE, find_runs
from dosing.studies import Cohort, Comparison, DataSource, Grid, Resources, TrainingSettings, compare
from dosing.studies.comparison import asked_of
from dosing.studies.data import obtain_data
from dosing.studies.index import question, write_index
from dosing.studies.naming import TABLE
from dosing.studies.progress import progress_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
ENV_ID, RECORDED, PATIENTS = "dosing/Treatment-v0", 50, 100
READ = 1000
"""Most runs that are all read."""


def settings(count: int) -> list[float]:
    """Values of the setting in which the runs differ."""
    return [round(0.01 * k, 2) for k in range(1, count + 1)]


def asked(count: int) -> dict[str, Any]:
    """What ``compare`` is asked for in a study of ``count`` runs."""
    return {
        "agents": Grid(("iql",), settings={"inverse_temperature": settings(count), "hidden": [(8,)]}),
        "data": DataSource(ENV_ID, Cohort(RECORDED)),
        "seeds": (0, 1),
        "training": TrainingSettings(steps=20),
        "evaluation_patients": PATIENTS,
    }


def compared(study: Path, count: int) -> Comparison:
    """The command of a study of ``count`` runs."""
    return compare(study, **asked(count), resources=Resources("cpu", workers=1))


def make_study(study: Path, count: int) -> None:
    """One run that is computed, and ``count - 1`` copies under other settings."""
    compared(study, 1)
    (source,) = find_runs(study)
    config, done = source.config(), read_json(source.path / DONE)
    own_files = {CONFIG, DONE, ".lock"}
    for value in settings(count)[1:]:
        own = replace(config, agent_config={**config.agent_config, "inverse_temperature": value})
        copy = source.path.with_name(own.key)
        shutil.copytree(source.path, copy, ignore=lambda *_: own_files, copy_function=os.link)
        text = json.dumps(own.to_json(), indent=1)
        (copy / CONFIG).write_text(text, encoding="utf-8")
        hashes = done | {CONFIG: hashlib.sha256(text.encode()).hexdigest()}
        (copy / DONE).write_text(json.dumps(hashes), encoding="utf-8")


def enter(study: Path, count: int) -> None:
    """Write table and index as reading all runs would, with the numbers of the one that was computed."""
    one, words = compared(study, 1), asked(count)
    first, *rules = one.rows
    rows = [replace(first, name=f"{first.name}, inverse_temperature={x}") for x in settings(count)]
    runs = [str(run.path.relative_to(study)) for run in find_runs(study)]
    write_json(study / TABLE, Comparison((*rows, *rules), notes=one.notes).to_json() | {"runs": runs})
    wanted = asked_of(**words, milestones=())
    write_index(study, question(wanted), [obtain_data(source, study) for source in wanted.sources])


def opened(study: Path, count: int) -> dict[str, Any]:
    """Open a study in this process; 0 runs: read how far it is."""
    clock, processor = time.perf_counter(), time.process_time()
    text = str(compared(study, count)) if count else str(progress_of(study))
    taken = {"processor": time.process_time() - processor, "clock": time.perf_counter() - clock}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return taken | {"peak": peak, "said": hashlib.sha256(text.encode()).hexdigest()}


def in_process(study: Path, count: int) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--open", str(study), "--runs", str(count)]
    told = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(told.splitlines()[-1])
    return result


def measure(count: int) -> list[dict[str, Any]]:
    """All lines of one study."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        make_study(study, count)
        lines = {}
        if count <= READ:
            lines["everything read and checked"] = in_process(study, count)
        else:
            enter(study, count)
        lines["the same command again"] = in_process(study, count)
        lines["how far it is"] = in_process(study, 0)
    if count <= READ:
        first, again = (lines[name]["said"] for name in list(lines)[:2])
        assert first == again, "the index and the runs tell different tables"
    return [{"runs": count, "what": name} | line for name, line in lines.items()]


def page(lines: Sequence[dict[str, Any]], command: str, load: tuple[float, float]) -> str:
    """The table as a page of markdown."""
    head = ("runs", "what", "processor, s", "clock, s", "peak memory, MB")
    cells = [
        [f"{x['runs']:,}", x["what"], f"{x['processor']:.2f}", f"{x['clock']:.2f}", f"{x['peak']:.0f}"]
        for x in lines
    ]
    parts = [
        "# Opening a finished study",
        f"`{command}` on {describe()}; dosing {__version__}. Load average {load[0]:.1f} before and "
        f"{load[1]:.1f} after: on a busy machine the clock says nothing.",
        "`compare` on a study that is finished: runs of IQL of two seeds with networks of 8 units, "
        f"{RECORDED} recorded and {PATIENTS} evaluated patients, one worker. The same command again has the "
        "same words, from `table.json` and the index beside it: sizes and times of all files of all runs are "
        "looked at, and none of them is read. Another question, such as one setting more, reads everything "
        "once: the first line. Of more than "
        f"{READ:,} runs table and index are written from one run, as reading all would leave them.",
        table(head, cells),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10_000], help="[%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(opened(options.open, options.runs[0])))
        return
    before = os.getloadavg()[0]
    lines = [line for count in options.runs for line in measure(count)]
    runs = " ".join(map(str, options.runs))
    command = f"OMP_NUM_THREADS=1 python benchmarks/speed/reopen.py --runs {runs}"
    text = page(lines, command, (before, os.getloadavg()[0]))
    write_atomic(options.out / "reopen.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
