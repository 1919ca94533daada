"""Writing many patients' visits in parts, and evaluating a policy on many patients: rate, size and memory.

    OMP_NUM_THREADS=1 python benchmarks/speed/many_patients.py [--visits N] [--evaluated P]
        [--folder FOLDER] [--out FOLDER]

``simulate --parts`` and ``evaluate --patients`` by the command line, each in a process of its own with one
thread; times are of the processor, start included, so that a busy machine hardly matters. What is evaluated
is FtTPO of one seed with the demo's networks, trained briefly: what a dose costs does not depend on how well.
The visits stay in ``--folder``, where one is given, for ``streaming.py``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.machine import describe
from benchmarks.report import table
from dosing import __version__
from dosing.data.manifest import read_manifest
from dosing.runs.files import write_atomic
from dosing.studies import Cohort, DataSource, TrainingSettings, evaluate, train

ROOT = Path(__file__).resolve().parents[2]
ENV_ID, VISITS = "dosing/Treatment-v0", 24
PART = 1_000_000
"""Visits of a part."""
SMALLER = 10
"""The smaller size, beside which memory is seen not to grow: a tenth."""


@dataclass(frozen=True)
class Measured:
    """One command: what it made, seconds of the processor, and the peak of memory in MB."""

    count: int
    seconds: float
    peak: float
    size: int = 0


def measured(words: list[str], count: int) -> Measured:
    """Run a command of the package in a process that is forgotten afterwards."""
    watcher = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", watcher, sys.executable, "-m", "dosing", *words]
    told = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.split()
    seconds, peak = map(float, told)
    return Measured(count, seconds, peak)


def written(folder: Path, visits: int) -> Measured:
    """``simulate --parts`` of about so many visits."""
    patients, parts = -(-visits // VISITS), -(-visits // PART)
    words = ["simulate", ENV_ID, "--patients", str(patients), "--out", str(folder), "--parts", str(parts)]
    result = measured([*words, "--workers", "1"], patients * VISITS)
    size = sum(part.size for part in read_manifest(folder).parts)
    return Measured(result.count, result.seconds, result.peak, size)


def evaluated(folder: Path, patients: int) -> Measured:
    """``evaluate --patients`` of a run whose own outcomes are there already."""
    run = train(
        folder,
        "fttpo",
        DataSource(ENV_ID, Cohort(50)),
        seeds=(0,),
        training=TrainingSettings(steps=20),
        device="cpu",
    )
    evaluate(run)
    return measured(["evaluate", str(run.path), "--patients", str(patients)], patients)


def hours(seconds: float) -> str:
    """Seconds in minutes or hours."""
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def page(writing: list[Measured], treating: list[Measured], command: str) -> str:
    """Everything as markdown, with what the largest sizes would take at these rates."""
    head = ("what", "count", "seconds of the processor", "per second", "bytes each", "peak memory, MB")
    lines = [
        [what, f"{x.count:,}", f"{x.seconds:.1f}", f"{x.count / x.seconds:,.0f}", each, f"{x.peak:.0f}"]
        for what, several in (("visits written in parts", writing), ("patients evaluated", treating))
        for x in several
        for each in (f"{x.size / x.count:.1f}" if x.size else "",)
    ]

    def rate(several: list[Measured]) -> float:
        small, large = several
        return (large.count - small.count) / (large.seconds - small.seconds)

    size = writing[-1].size / writing[-1].count
    far = f"10^9 visits: {hours(1e9 / rate(writing))} of one processor, {size:.0f} GB"
    parts = [
        "# Many patients",
        f"`{command}` on {describe()}; dosing {__version__}.",
        f"Visits of {ENV_ID}, {VISITS} per patient, parts of {PART:,} visits, one worker. Evaluated: FtTPO "
        "of one seed, by its recommended and by drawn doses, and the reference rules, each on all patients "
        f"({VISITS} visits each).",
        table(head, lines),
        "Extrapolated, not measured, from the difference of the two sizes: "
        f"{far}; `evaluate --patients 10000000`: {hours(1e7 / rate(treating))}. A seed more takes as long "
        "again.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--visits", type=int, default=100_000_000, help="to write [%(default)s]")
    parser.add_argument("--evaluated", type=int, default=1_100_000, help="patients [%(default)s]")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the page"
    )
    parser.add_argument("--folder", type=Path, help="to keep the visits in, by their number [none are kept]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        sizes = (options.visits // SMALLER, options.visits)
        writing = [written((options.folder or base) / str(visits), visits) for visits in sizes]
        print(*writing, sep="\n", flush=True)
        most = (options.evaluated // SMALLER, options.evaluated)
        treating = [evaluated(base / "study", patients) for patients in most]
        print(*treating, sep="\n", flush=True)
    command = (
        f"OMP_NUM_THREADS=1 python benchmarks/speed/many_patients.py --visits {options.visits} "
        f"--evaluated {options.evaluated}"
    )
    text = page(writing, treating, command)
    write_atomic(options.out / "many_patients.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
