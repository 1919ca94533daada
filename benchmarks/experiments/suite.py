"""Every agent of the suite on the same 50 recorded patients, at the same small widths.

    OMP_NUM_THREADS=1 python benchmarks/experiments/suite.py [--seeds 5] [--study FOLDER]

The study is that of one command, whose options are in the page; it stays in its folder, and the same command
continues it or makes the page again. ``benchmarks/speed/cost.py --study FOLDER`` sets its returns beside the
costs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.machine import describe
from benchmarks.report import table
from benchmarks.speed.processes import ROOT
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.options import add_resources, resources_of
from dosing.errors import UserError
from dosing.runs.files import read_json, write_atomic
from dosing.studies import Grid, compare
from dosing.studies.comparison_table import Row
from dosing.studies.naming import TABLE

ENV_ID, PATIENTS = "dosing/Treatment-v0", 500
SETTINGS = {"hidden": [(64, 64)], "vae_hidden": [(64, 64)]}
RESULTS = ROOT / "benchmarks" / "results"


def page(rows: Sequence[Row], notes: Sequence[str], seeds: int) -> str:
    """One row per agent, best first, then the rules."""
    head = (
        "agent or rule", "policy", "return, recommended dose", "return, sampled dose", "worst 5 %",
        "minus estimated constant", "half-width of the dose set", "outside limits", "foreseen (worst 5 %)",
    )  # fmt: skip
    learned = sorted((r for r in rows if r.sampled), key=lambda r: -r.recommended.value)
    lines = []
    for row in [*learned, *(r for r in rows if not r.sampled)]:
        difference = row.difference_words + (f" {row.verdict}" if row.verdict else "")
        width = "-" if row.half_width is None else f"{row.half_width:.3f} ({row.width_kind})"
        outside = "-" if row.mass_outside_limits is None else f"{row.mass_outside_limits:.2g}"
        cells = (str(row.recommended), str(row.sampled or "-"), str(row.lower_tail or "-"))
        lines.append([row.name, row.family, *cells, difference, width, outside, row.foreseen_words])
    command = (
        'python -m dosing compare --agents all --preset common --set "hidden=[64,64]" '
        f'--set "vae_hidden=[64,64]" --data {ENV_ID} --seeds {seeds} --evaluation-patients {PATIENTS}'
    )
    parts = [
        "# The whole suite on 50 recorded patients",
        f"`python benchmarks/experiments/suite.py --seeds {seeds}`, which is `{command}`. Version "
        f"{__version__}. "
        f"{describe()}.",
        f"50 patients x 24 visits dosed uniformly; 2,000 updates; {seeds} seeds; {PATIENTS} new patients per "
        "seed. Returns over 24 visits, undiscounted, with 95 % intervals over seeds for agents and over "
        "patients for rules; they do not cover another draw of the recorded patients, and are not corrected "
        "for the number of agents. Worst 5 %: mean return of these patients. Foreseen: mean, and worst 5 %, "
        "of an agent's own distribution of the *discounted* return of its dose; the other columns are "
        "not discounted.",
        table(head, lines),
        *(f"Note: {note}" for note in notes),
        NOT_FOR_PATIENTS,
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Train what is not trained, write the page."""
    parser = argparse.ArgumentParser(description="The whole suite on recorded patients.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--study", type=Path, default=ROOT / "runs" / "suite", help="[runs/suite]")
    add_resources(parser)
    options = parser.parse_args()
    compare(
        options.study,
        Grid(("all",), SETTINGS, "common"),
        ENV_ID,
        seeds=range(options.seeds),
        evaluation_patients=PATIENTS,
        resources=resources_of(options),
    )
    kept = read_json(options.study / TABLE)
    result = page([Row.from_json(row) for row in kept["rows"]], kept["notes"], options.seeds)
    write_atomic(RESULTS / "suite.md", result.encode())
    print(result)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"suite: {error}")
