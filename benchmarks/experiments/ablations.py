"""What FtTPO's parts are worth on the treatment task: proposal, actor, the actor's loss, a mean of its own.

    OMP_NUM_THREADS=1 python benchmarks/experiments/ablations.py [--data-sets 8] [--updates 2000]

One part is changed at a time, from the settings with which FtTPO does best here (``--preset belief``) and
from those for few patients (``clinical-small``). Every data set is of 50 other recorded patients (seeds from
1000 on), all policies meet the same evaluation patients, and every one stands beside the constant dose
estimated from its own data set and beside FtTPO with nothing changed. A line is computed once: the same
command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from benchmarks.experiments.response import FIRST, MAIN, Case, measured, shown
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.evaluation.statistics import mean_over_seeds
from dosing.runs.files import write_atomic, write_json

RESULTS = Path(__file__).resolve().parents[1] / "results"
RECORDED = 50
PRESETS = ("belief", "clinical-small")
PLAIN = "nothing"
LOSSES = (
    "quadrature_kl", "closed_form_width", "max_likelihood", "copy_mu", "spot", "gac", "tawac", "detached_k3",
)  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    **{f"q of the actor {q:g}": {"q_actor": q} for q in (-1.0, 0.5, 0.9)},
    "actor Gaussian": {"actor": "gaussian"},
    **{f"q of the proposal {q:g}": {"q_proposal": q} for q in (1.0, 1.5, 2.5)},
    "proposal squashed Gaussian": {"proposal": "squashed_gaussian"},
    "proposal Student's t": {"proposal": "student_t"},
    **{f"actor's loss {name}": {"actor_loss": name} for name in LOSSES},
    "actor with a mean of its own": {"share_mean": False},
}
"""What differs from the preset."""


def page(rows: Sequence[dict[str, Any]], command: str) -> str:
    """All lines as markdown, a table per preset."""
    head = ["changed", "data sets", "minus constant dose", "minus nothing changed", "drawn minus recommended"]
    parts = [
        "# What FtTPO's parts are worth",
        f"`{command}` on {describe()}; dosing {__version__}.",
        f"{MAIN}, {RECORDED} recorded patients per data set (data seeds from {FIRST} on), 24 visits, "
        f"{rows[0]['evaluated']:,} evaluation patients, {rows[0]['updates']:,} updates. Return of "
        "recommended doses; intervals 95 %: of the difference to the constant dose over data sets and "
        "patients, of that to FtTPO with nothing changed t over data sets; one seed per data set. Lines are "
        "many and data sets few: one interval in twenty leaves out the truth by chance.",
    ]
    for preset in PRESETS:
        own = [row for row in rows if row["preset"] == preset]
        plain = next((row for row in own if row["name"] == PLAIN), None)
        if plain is None:
            continue
        lines = [
            [
                row["name"],
                str(row["data_sets"]),
                shown(row["difference"]),
                "" if row is plain else str(_beside(row, plain)),
                f"{row['drawn']:.2f}",
            ]
            for row in own
        ]
        parts += [f"## Preset `{preset}`", table(head, lines)]
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


def _beside(row: dict[str, Any], plain: dict[str, Any]) -> Any:
    """Mean difference of gains on the same data sets."""
    return mean_over_seeds((np.array(row["gains"]) - np.array(plain["gains"]))[:, None])


def main() -> None:
    """Compute the lines that are missing; keep numbers and page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-sets", type=int, default=8, help="[%(default)s]")
    parser.add_argument("--updates", type=int, default=2000, help="[%(default)s]")
    parser.add_argument("--patients", type=int, default=1000, help="evaluated on [%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = arguments.out / "ablations.json"
    rows = json.loads(kept.read_text())["rows"] if kept.is_file() else []
    asked = {"updates": arguments.updates, "evaluated": arguments.patients, "data_sets": arguments.data_sets}
    rows = [row for row in rows if row.items() >= asked.items()]
    command = (
        f"OMP_NUM_THREADS=1 python benchmarks/experiments/ablations.py --data-sets {arguments.data_sets} "
        f"--updates {arguments.updates} --patients {arguments.patients}"
    )
    for preset in PRESETS:
        for name, settings in CHANGES.items():
            if any((row["preset"], row["name"]) == (preset, name) for row in rows):
                continue
            learner = ("fttpo", preset, settings, arguments.updates)
            case = Case(MAIN, RECORDED, arguments.data_sets)
            row = measured(case, name, arguments.patients, learner)
            rows.append(row | {"preset": preset, "updates": arguments.updates})
            write_json(kept, {"machine": describe(), "version": __version__, "rows": rows})
            write_atomic(arguments.out / "ablations.md", page(rows, command).encode())
            print(preset, name, shown(row["difference"]), flush=True)


if __name__ == "__main__":
    main()
