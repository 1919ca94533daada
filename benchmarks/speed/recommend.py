"""The guarded recommender: its time for one state and for a table, and how often it defers.

    python benchmarks/speed/recommend.py [--threads N] [RUN ...]

Times are of untrained policies of five seeds at their default widths, with a monitor of 1,200 training
visits: 100,000 states from a parquet file to another one, hashes, audit record and all, after loading; and
one state at a time. False alarms of the monitor are counted on new patients, for many training cohorts. For
every finished run that is named, the statuses of its recommendations are counted on the visits of new
patients of its scenario, under the recorded policy and under its own doses.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from dosing.cli.recommend_table import recommend_table
from dosing.data.dataset import Transform, dose_limits
from dosing.data.store import Episodes
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import following
from dosing.evaluation.statistics import mean_over_seeds
from dosing.policy import DosePolicy
from dosing.recommendation.audit_log import AuditLog, shown
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.dose_context import Evidence
from dosing.recommendation.novelty import Monitor
from dosing.recommendation.reasons import STATUSES, Reason
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Recommender, Rules
from dosing.runs.folder import RunFolder
from dosing.studies.loading import recommender_of
from dosing.studies.scenarios import factory_of
from dosing.types import Problem
from simulator.cohorts.generate import simulate

ENV_ID = "dosing/Treatment-v0"
AGENTS = ("fttpo", "iql", "td3_bc")
STATES, SINGLES = 100_000, 300
COHORTS, NEW = 20, 200
"""Training cohorts, and new patients of each, in the count of false alarms."""


def recommender_at(name: str, episodes: Episodes) -> Recommender:
    """The recommender before an untrained policy of five seeds."""
    problem = Problem(episodes.obs.shape[1], episodes.act.shape[1], 24)
    policy = DosePolicy(agents.build(name, {}, problem, range(5)), Transform.fit(episodes))
    rules = Rules.of(dose_limits(episodes), card=episodes.metadata.card)
    return Recommender(policy, rules, Monitor.fit(episodes))


def clocked(what: str, target: float, action: Any) -> list[str]:
    """One line: what was done, seconds by the clock and of the processor, target."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return [what, f"{wall:.2f} s", f"{cpu:.2f} s", f"{target:g} s"]


def times(folder: Path) -> list[list[str]]:
    """Tables and single recommendations."""
    training, new = simulate(ENV_ID, patients=50), simulate(ENV_ID, patients=4200, seed=1)
    names = list(training.metadata.obs_names)
    columns = {name: new.obs[:STATES, k] for k, name in enumerate(names)}
    pq.write_table(pa.table(columns), folder / "in.parquet")
    log, rows = AuditLog(folder / "audit.jsonl"), []
    for name in AGENTS:
        recommender = recommender_at(name, training)
        recommend_all(recommender, new.obs[:2048].astype(float))  # first use of every kernel

        def answer(recommender: Recommender = recommender) -> None:
            recommend_table(recommender, folder / "in.parquet", folder / "out.parquet", log, Evidence())

        rows.append(clocked(f"{name}: {STATES:,} recommendations, parquet to parquet", 5.0, answer))
        for logged in (False, True):
            taken = singles(recommender, new, log if logged else None)
            what = f"{name}: one recommendation{', with its audit record' if logged else ''}, median (99 %)"
            middle, slow = (1000 * float(np.quantile(taken, q)) for q in (0.5, 0.99))
            rows.append([what, f"{middle:.2f} ms ({slow:.2f} ms)", "", "10 ms"])
    return rows


def singles(recommender: Recommender, new: Episodes, log: AuditLog | None) -> list[float]:
    """Seconds of each of many single recommendations."""
    taken = []
    for state in new.obs[:SINGLES].tolist():
        began = time.perf_counter()
        result = recommend(recommender, state)
        if log is not None:
            log.append(*shown(result.to_json()))
        taken.append(time.perf_counter() - began)
    return taken


def alarms(patients: int) -> list[str]:
    """Share of new patients' visits that are called unfamiliar, with its interval over training cohorts."""
    rates, wide, level = np.empty(COHORTS), np.empty(COHORTS), 0.0
    for seed in range(COHORTS):
        monitor = Monitor.fit(simulate(ENV_ID, patients=patients, seed=seed))
        new = simulate(ENV_ID, patients=NEW, seed=1000 + seed).obs.astype(float)
        rates[seed] = (monitor.nearest(new, workers=-1)[0][:, -1] > monitor.threshold).mean()
        wide[seed] = (monitor.nearest(3.0 * new, workers=-1)[0][:, -1] > monitor.threshold).mean()
        level = monitor.level
    shares = [f"{mean_over_seeds(100.0 * x[None]):.2f} %" for x in (rates, wide)]
    return [f"{patients} patients", f"{level:.2%}", *shares]


def statuses(path: Path) -> list[list[str]]:
    """Shares of each status and of each reason to defer, on visits of new patients."""
    run = RunFolder(path)
    recommender, factory = recommender_of(run), factory_of(run)
    seen: dict[str, list[Any]] = {"recorded policy": [], "own doses": []}
    uniform = simulate(factory.env_id, patients=NEW, seed=2000, **factory.options)
    seen["recorded policy"].append(uniform.obs)
    act = following(recommender.policy)

    def watched(obs: Any, visit: int) -> Any:
        seen["own doses"].append(obs[0])
        return act(obs, visit)

    rollout(factory, watched, recommender.policy.seeds, NEW)
    rows = []
    for name, states in seen.items():
        result = recommend_all(recommender, np.concatenate(states).astype(float), workers=-1)
        shares = [f"{(result.status == k).mean():.2%}" for k in range(len(STATUSES))]
        reasons = (Reason.UNFAMILIAR, Reason.SEEDS_APART, Reason.BETWEEN_SEEDS)
        defers = [f"{((result.codes & int(reason)) != 0).mean():.2%}" for reason in reasons]
        rows.append([run.config().agent, name, *shares, *defers])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch [%(default)s]")
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="finished runs of a simulated scenario"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"{describe()}; threads of torch: {options.threads}\n")
    with tempfile.TemporaryDirectory() as folder:
        print(table(["what", "clock", "processor", "target"], times(Path(folder))), "\n", flush=True)
    head = ["trained on", "promised at most", "usual visits", "states three times as far out"]
    print(table(head, [alarms(patients) for patients in (50, 200)]), "\n", flush=True)
    if options.runs:
        head = ["agent", "visits under", *STATUSES, "unfamiliar", "seeds apart", "between seeds"]
        print(table(head, [row for path in options.runs for row in statuses(path)]))


if __name__ == "__main__":
    main()
