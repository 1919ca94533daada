"""Two drugs with units: agents trained on a clinic's records beside the clinic's own rule.

    OMP_NUM_THREADS=1 python benchmarks/experiments/clinical.py [--scenarios ID ...] [--sizes 50 200 1000]

Recorded visits are those of the scenario's usual policy, a clinic's rule with noise. Five seeds are trained
on the same visits, with the settings of ``--preset clinical-small`` unless a line says its own, and each is
evaluated on 400 new patients; the clinic's rules and constant doses meet the same 2,000. The lines of a
scenario and size are one study; a line is computed once: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.options import add_resources, resources_of
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes, read_outcomes
from dosing.evaluation.statistics import cvar, mean_over_seeds
from dosing.runs.files import write_atomic, write_json
from dosing.runs.folder import EPISODES, RunFolder
from dosing.studies.comparison import FEW_PATIENTS, compare
from dosing.studies.comparison_table import Row, mass_words, share_words
from dosing.studies.naming import TABLE
from dosing.studies.settings import Cohort, DataSource, Grid, Resources
from dosing.training.offline import TrainingSettings
from simulator.card import scenario_card

RESULTS = Path(__file__).resolve().parents[1] / "results"
SCENARIOS = {"dosing/Warfarin-v0": 365.25, "dosing/Insulin-v0": 365.25 * 96}
"""Scenarios and their visits per patient-year."""
SIZES, SEEDS, PATIENTS, UPDATES = (50, 200, 1000), range(5), 400, 2000
DECILE = 0.1


@dataclass(frozen=True)
class Line:
    """One agent as it is trained."""

    name: str
    agent: str
    settings: dict[str, list[Any]] = field(default_factory=dict)
    within_budget: bool = False
    preset: str | None = FEW_PATIENTS

    def grid(self, budget: float) -> Grid:
        """For ``compare``."""
        more = {"cost_budget": [budget]} if self.within_budget else {}
        return Grid((self.agent,), self.settings, preset=self.preset, regularise=more)


LINES = (
    Line("FtTPO, sparse", "fttpo"),
    Line("FtTPO, Gaussian", "fttpo", {"actor": ["gaussian"]}),
    Line("IQL", "iql"),
    Line("Response model", "response_model"),
    Line("FtTPO, sparse, within the cost budget", "fttpo", within_budget=True),
    Line("IQL, within the cost budget", "iql", within_budget=True),
    Line("BC, its own settings", "bc", preset=None),
    Line("IQL, its own settings", "iql", preset=None),
    Line("FtTPO, its own settings", "fttpo", preset=None),
)


def measured(
    env_id: str, size: int, lines: Sequence[Line], study: Path, resources: Resources
) -> list[dict[str, Any]]:
    """The lines' rows, in their order, then those of the rules beside them."""
    budget = float(scenario_card(env_id)["budget"])
    result = compare(
        study,
        [line.grid(budget) for line in lines],
        DataSource(env_id, Cohort(size)),
        seeds=SEEDS,
        training=TrainingSettings(steps=UPDATES),
        evaluation_patients=PATIENTS,
        resources=resources,
    )
    runs = [RunFolder(study / folder) for folder in json.loads((study / TABLE).read_text())["runs"]]
    if len(runs) < len(lines):
        raise UserError(f"not every line of {study} is there. {' '.join(result.notes)}")
    own = [read_outcomes(run.path / EPISODES)["recommended"] for run in runs]
    (kept,) = (study / "references").glob(f"*/{EPISODES}")
    rules = [Outcomes((0,), **_pooled(one), events=_flat(one.events)) for one in read_outcomes(kept).values()]
    about = {"scenario": env_id, "size": size, "budget": budget}
    names = [*(line.name for line in lines), *(row.name for row in result.rows[len(lines) :])]
    return [
        about | _row(row, outcome, env_id) | {"line": name}
        for name, row, outcome in zip(names, result.rows, [*own, *rules], strict=False)
    ]


def _pooled(one: Outcomes) -> dict[str, Any]:
    names = ("returns", "cost", "limited", "dose", "visits")
    return {name: getattr(one, name).reshape(1, -1) for name in names}


def _flat(events: Any) -> dict[str, Any]:
    return {name: value.reshape(1, -1) for name, value in events.items()}


def _row(row: Row, outcomes: Outcomes, env_id: str) -> dict[str, Any]:
    """Numbers of a row in words, each with its interval where it has one."""
    years = outcomes.visits.sum() / SCENARIOS[env_id]
    events = {name: float(visits.sum() / years) for name, visits in outcomes.events.items()}
    return {
        "return": str(row.recommended),
        "worst decile": str(cvar(outcomes.returns, DECILE)),
        "time in range": share_words(row.in_range),
        "cost": str(row.cost),
        "at a limit": f"{100 * mean_over_seeds(outcomes.limited).value:.1f} %",
        "outside limits": mass_words(row.mass_outside_limits, row.width_kind == "exact support"),
        "events": {name: round(rate, 2) for name, rate in events.items()},
    }


def page(rows: Sequence[dict[str, Any]], command: str) -> str:
    """Everything as markdown, a table for each scenario and size."""
    parts = [
        "# Two drugs with units",
        f"`{command}` on {describe()}; dosing {__version__}.",
        f"Recorded by the clinic's rule with noise; five seeds, {UPDATES:,} updates, 2,000 new patients; "
        "95 % intervals over seeds and patients. Events: visits with it in a patient-year. At a limit: "
        "share of the doses held by a limit. Outside limits: probability of a dose outside the hard limits "
        "before any clipping.",
    ]
    for key in dict.fromkeys((r["scenario"], r["size"]) for r in rows):
        names = [line.name for line in LINES]
        own = [r for r in rows if (r["scenario"], r["size"]) == key]
        own.sort(key=lambda r: names.index(r["line"]) if r["line"] in names else len(names))
        kinds = list(own[0]["events"])
        numbers = ("return", "worst decile", "time in range", "cost", "at a limit", "outside limits")
        head = ["", *numbers, *(kind.replace("_", " ") for kind in kinds)]
        lines = [
            [r["line"], *(r[name] for name in numbers), *(f"{r['events'].get(n, 0.0):.2f}" for n in kinds)]
            for r in own
        ]
        parts.append(f"## {key[0]}, {key[1]:,} recorded patients, cost budget {own[0]['budget']:g}")
        parts.append(table(head, lines))
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


def main() -> None:
    """Compute the lines that are missing; keep numbers and page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--study", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    add_resources(parser)
    parser.set_defaults(device="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = arguments.out / "clinical.json"
    rows = json.loads(kept.read_text())["rows"] if kept.is_file() else []
    command = "OMP_NUM_THREADS=1 python benchmarks/experiments/clinical.py --study FOLDER"
    for env_id in arguments.scenarios:
        for size in arguments.sizes:
            done = {r["line"] for r in rows if (r["scenario"], r["size"]) == (env_id, size)}
            lines = [line for line in LINES if line.name not in done]
            if not lines:
                continue
            study = arguments.study / f"{env_id.split('/')[-1]}-{size}"
            more = measured(env_id, size, lines, study, resources_of(arguments))
            rows += [r for r in more if r["line"] not in done]
            write_json(kept, {"machine": describe(), "version": __version__, "rows": rows})
            write_atomic(arguments.out / "clinical.md", page(rows, command).encode())
            print(env_id, size, *(line.name for line in lines), sep=", ", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"clinical: {error}")
