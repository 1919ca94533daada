"""Whether `select` is right about the response model agent, which it values in models of held-out patients.

    OMP_NUM_THREADS=1 python benchmarks/experiments/select_response.py [--sizes 50:20 400:12]

Every data set is of other recorded patients, cut into two halves as ``select`` cuts them. The agent is
trained on one half and valued on the other, beside the constant dose of the half it was trained on; the truth
is the mean over both policies of the same difference on simulated patients. All halves of a group of data
sets are trained and fitted as one stack. Settings were chosen on data seeds from 5000 on; the reported data
sets (seeds from 1000 on) chose nothing. Groups that are in the file are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from agents.response_model import ResponseModel
from benchmarks.experiments.cohort import Replicates
from benchmarks.experiments.response import FIRST, FIRST_LINE, LEARNERS, trained
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import __version__
from dosing.data.dataset import Dataset, Transform
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import constant, following
from dosing.evaluation.statistics import mean_over_seeds, verdict
from dosing.ope.baselines import estimated_constant
from dosing.ope.folds import spread_over_folds
from dosing.ope.model_based import Imagination, Models, fit_models
from dosing.ope.selection import Settings
from dosing.ope.trajectories import Trajectories, fold_patients, patient_counts
from dosing.runs.files import write_json
from dosing.studies.selection import PARTS_OF_MODELS
from dosing.types import Array, Problem
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory

RESULTS = Path(__file__).resolve().parents[1] / "results"
ENV_ID = "dosing/Treatment-v0"
OPTIONS: dict[str, Any] = {"variant": "simenv3"}
GROUP, AT_ONCE = 10, 1600
"""Most data sets, and most patients, that are trained and fitted as one stack."""
CONFIDENCE = 0.95


def one_of(agent: ResponseModel, seed: int) -> ResponseModel:
    """One seed of a trained stack."""
    config, problem = agent.config, agent.problem
    own = agents.build(
        "response_model", vars(config), Problem(problem.n_obs, problem.n_act), (agent.seeds[seed],)
    )
    assert isinstance(own, ResponseModel)
    own.load_state_dict({name: value[seed : seed + 1] for name, value in agent.state_dict().items()})
    return own


def true_gains(agent: ResponseModel, transforms: list[Transform], doses: Array, patients: int) -> Array:
    """Return of every policy minus that of its constant dose, on the same evaluation patients ``[S]``."""
    factory, seeds = CohortFactory(ENV_ID, OPTIONS), (0,) * len(doses)
    best = rollout(factory, following(Replicates(agent, transforms)), seeds, patients).returns
    base = rollout(
        factory,
        lambda obs, visit: np.broadcast_to(doses[:, None, None], (*obs.shape[:2], 1)),
        seeds,
        patients,
    ).returns
    gain: Array = (best - base).mean(1)
    return gain


def group(size: int, seeds: range, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Estimates and truths for some data sets of ``size`` patients."""
    began, folds, settings = time.process_time(), PARTS_OF_MODELS, Settings()
    recorded = [simulate(ENV_ID, patients=size, policy="uniform", seed=s, **OPTIONS) for s in seeds]
    parts = [part for episodes in recorded for part in fold_patients(episodes, folds)]
    data = [Dataset.from_episodes(training) for training, _ in parts]
    agent = trained(LEARNERS[FIRST_LINE], data, tuple(range(len(data))))
    assert isinstance(agent, ResponseModel)
    doses = np.array([estimated_constant(Trajectories.from_episodes(t)).dose for t, _ in parts])
    transforms = [one.transform for one in data]
    truth = true_gains(agent, transforms, doses, arguments.patients)
    held = [Trajectories.from_episodes(own) for _, own in parts]
    counts = np.stack(
        [patient_counts(h.patients, settings.model_replicates, k % folds) for k, h in enumerate(held)]
    )
    models = fit_models(held, counts)

    def valued(k: int, own: Models) -> Array:
        world = Imagination(own, held[k].transform, 1.0, held[k].visits, k % folds)
        gain: Array = world.values(
            following(Replicates(one_of(agent, k), transforms[k : k + 1]))
        ) - world.values(constant(doses[k]))
        return gain[:, 0]

    rows = []
    for place, seed in enumerate(seeds):
        own = range(place * folds, (place + 1) * folds)
        refused = [m for m in (models[k] for k in own) if isinstance(m, str)]
        row = {"patients": size, "seed": seed, "truth": float(truth[own].mean()), "refused": refused}
        row["truths"] = truth[own].round(4).tolist()
        if not refused:
            drawn = [valued(k, m) for k in own if isinstance(m := models[k], Models)]
            sizes = [held[k].patients for k in own]
            estimate = spread_over_folds(drawn, sizes, 1, CONFIDENCE, CONFIDENCE, "")
            row |= {"value": estimate.value, "low": estimate.low, "high": estimate.high}
            row |= {"verdict": verdict(estimate), "folds": [float(d[0]) for d in drawn]}
        rows.append(row)
    for row in rows:
        row["seconds"] = (time.process_time() - began) / len(rows)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """One line of the table: all data sets of a size."""
    known = [row for row in rows if not row["refused"]]
    truth, value, low, high = (np.array([row[k] for row in known]) for k in ("truth", "value", "low", "high"))
    better = np.array([row["verdict"] == "better" for row in known])
    best = np.maximum([row["truth"] for row in rows], 0.0)
    got = [row["truth"] * (row.get("verdict") == "better") for row in rows]
    covered = (low <= truth) & (truth <= high)
    cells = [
        mean_over_seeds((value - truth)[:, None]) if len(known) > 1 else "",
        f"{(value - truth).std(ddof=1):.2f}",
        f"{covered.sum()} of {len(known)}",
        f"{np.median(high - low) / 2:.2f}",
        f"{better.sum()} of {len(rows)}",
        f"{(truth[better] > 0).sum()} of {better.sum()}",
        mean_over_seeds((best - got)[:, None]) if len(rows) > 1 else "",
        mean_over_seeds(best[:, None]) if len(rows) > 1 else "",
    ]
    return [str(rows[0]["patients"]), str(len(rows)), str(len(rows) - len(known)), *map(str, cells)]


def page(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The results as markdown."""
    head = (
        "patients",
        "data sets",
        "refused",
        "mean error",
        "sd of the error",
        "truth in the 95 % interval",
        "median half-width",
        'called "better"',
        "of which truly",
        "regret of following",
        "of the constant dose",
    )
    sizes = sorted({row["patients"] for row in rows})
    lines = [summary([row for row in rows if row["patients"] == size]) for size in sizes]
    seconds = sum(row["seconds"] for row in rows)
    asked = f" --sizes {' '.join(arguments.sizes)} --first {arguments.first}"
    return f"""# Selecting an agent that looks back

Made by `python benchmarks/experiments/select_response.py{asked}`, dosing {__version__}, in {seconds:.0f} s of
processor time on: {describe()}

The response model agent (one seed) on data sets with 24 visits of {ENV_ID},
variant simenv3, uniform doses, seeds from {min(row["seed"] for row in rows)} on. Trained on one half of the
patients and valued by `model_based` on the other, and the other way round, beside the constant dose estimated
from the half it was trained on; the truth is the mean of both differences on {arguments.patients:,}
evaluation patients, in return over 24 visits. Intervals of means are 95 %, t over data sets.

{table(head, lines)}

Error: estimate minus truth. Regret: true difference lost by taking the agent where it is called better and
the constant dose elsewhere, against the better of both; and by always taking the constant dose. Both policies
of a data set count with their mean. Settings were chosen on data seeds from 5000 on.
"""


def main() -> None:
    """Measure, print, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", default=["50:20", "400:12"], help="patients:data sets")
    parser.add_argument("--first", type=int, default=FIRST, help="seed of the first data set [%(default)s]")
    parser.add_argument("--patients", type=int, default=10_000, help="evaluated on [%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS / "select_response.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.is_file() else []
    for pair in arguments.sizes:
        size, count = (int(x) for x in pair.split(":"))
        step = max(1, min(GROUP, AT_ONCE // size))
        for first in range(arguments.first, arguments.first + count, step):
            seeds = range(first, min(first + step, arguments.first + count))
            done = {row["seed"] for row in rows if row["patients"] == size}
            if done.issuperset(seeds):
                continue
            rows = [row for row in rows if row["patients"] != size or row["seed"] not in seeds]
            rows += group(size, seeds, arguments)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.out, {"rows": rows})
            arguments.out.with_suffix(".md").write_text(page(rows, arguments))
            print(*summary([row for row in rows if row["patients"] == size]), flush=True)


if __name__ == "__main__":
    main()
