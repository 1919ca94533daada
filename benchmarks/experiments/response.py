"""The response model, and agents that learn its advantages, against the estimated constant dose.

    OMP_NUM_THREADS=1 python benchmarks/experiments/response.py [--patients 2000] [--only TEXT]

Every data set is of other recorded patients; all data sets of a case are trained as one stack, one seed each.
Every policy meets the same evaluation patients, and stands beside the constant dose estimated from its own
data set. Settings were chosen on data seeds from 5000 on; the reported data sets (seeds from 1000 on) chose
nothing. A case is computed once: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks.curves import Line, Panel, draw
from benchmarks.experiments.cohort import Cohorts, Replicates
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.agent import Agent, HoldsBelief
from dosing.data.dataset import Dataset
from dosing.data.store import Episodes
from dosing.evaluation.rules import following
from dosing.evaluation.statistics import Estimate, mean_over_seeds, paired_difference, verdict
from dosing.runs.files import write_atomic, write_json
from dosing.studies.presets import PRESETS
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Array, Problem
from simulator.bounds.published import measured as measured_ceilings
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory

RESULTS = Path(__file__).resolve().parents[1] / "results"
FIRST = 1000
LITTLE = 0.1
"""A difference in return that is not worth speaking of."""
TREATMENT, MAIN = "dosing/Treatment-v0", "SimEnv3"


@dataclass(frozen=True)
class Case:
    """Recorded patients of one kind.

    Attributes:
        name: for the table.
        size: recorded patients.
        count: data sets.
        env: scenario.
        options: of the scenario.
        policy: by which the recorded patients were dosed.
        outliers: share of the recorded numbers that are replaced by ones five standard deviations away.
    """

    name: str
    size: int
    count: int
    env: str = TREATMENT
    options: dict[str, Any] = field(default_factory=lambda: {"variant": "simenv3"})
    policy: str = "uniform"
    outliers: float = 0.0

    @property
    def compared(self) -> bool:
        """Whether every learner is measured here, not the first alone, and by drawn doses too."""
        return self.name == MAIN and self.size in (50, 400)

    def episodes(self) -> list[Episodes]:
        """The data sets."""
        made = [
            simulate(self.env, patients=self.size, policy=self.policy, seed=seed, **self.options)
            for seed in range(FIRST, FIRST + self.count)
        ]
        return [disturbed(e, self.outliers, seed) for seed, e in enumerate(made)] if self.outliers else made


def disturbed(episodes: Episodes, share: float, seed: int) -> Episodes:
    """A share of the observed numbers replaced by outliers, alike before and after a dose."""
    rng, spread = np.random.default_rng(seed), 5.0 * episodes.obs.std(0)
    first = episodes.step == 0
    visits = np.concatenate((episodes.obs, episodes.next_obs[episodes.step == episodes.step.max()]))
    away = np.where(rng.random(visits.shape) < share, rng.choice([-1.0, 1.0], visits.shape), 0.0) * spread
    visits = (visits + away).astype(np.float32)
    obs, last = visits[: len(episodes.obs)], visits[len(episodes.obs) :]
    next_obs = np.concatenate((obs[1:], obs[:1]))
    next_obs[np.flatnonzero(np.roll(first, -1))] = last
    return dataclasses.replace(episodes, obs=obs, next_obs=next_obs)


SIZES = ((50, 30), (400, 10), (12, 10), (25, 10), (100, 10), (2000, 4))
OTHERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("variant corrected", {"options": {"variant": "corrected"}}),
    ("variant li-data", {"options": {"variant": "li-data"}}),
    ("Li environment I", {"env": "dosing/LiI-v0", "options": {}}),
    ("Li environment II", {"env": "dosing/LiII-v0", "options": {}}),
    ("Li environment IV", {"env": "dosing/LiIV-v0", "options": {}}),
    *((f"realism {k}", {"options": {"variant": "simenv3", "realism": k}}) for k in (2, 3, 4, 5)),
    ("dosed by titration", {"policy": "titration"}),
    ("5 % outliers", {"outliers": 0.05}),
)
CASES = [Case(MAIN, size, count) for size, count in SIZES]
CASES += [Case(name, size, count, **what) for name, what in OTHERS for size, count in ((50, 8), (400, 2))]

GAUSSIAN = {"actor": "gaussian"}
FIRST_LINE, UNGATED = "response model", "response model, never refused"
Learner = tuple[str, str, dict[str, Any], int]
"""Registry key, preset, settings and updates."""
LEARNERS: dict[str, Learner] = {
    FIRST_LINE: ("response_model", "clinical-small", {}, 200),
    UNGATED: ("response_model", "clinical-small", {"gate": "off"}, 200),
    "response model, Gaussian": ("response_model", "clinical-small", GAUSSIAN, 200),
    "FtTPO on its belief": ("fttpo", "belief", {}, 2000),
    "FtTPO on its belief, Gaussian": ("fttpo", "belief", GAUSSIAN, 2000),
    "IQL on its belief": ("iql", "belief", {}, 2000),
    "TD3+BC on its belief": ("td3_bc", "belief", {}, 2000),
}
"""Of every line."""
WORK = [(case, FIRST_LINE) for case in CASES if case.name == MAIN]
WORK += [
    (Case(MAIN, size, count), line)
    for line in LEARNERS
    if line not in (FIRST_LINE, UNGATED)
    for size, count in ((50, 10), (400, 4))
]
WORK += [(case, line) for line in (FIRST_LINE, UNGATED) for case in CASES if case.name != MAIN]
"""What is computed, in this order; the last lines only where a model was refused."""


def trained(learner: Learner, data: Sequence[Dataset], seeds: tuple[int, ...]) -> Agent:
    """One seed per data set, trained as one stack."""
    name, preset, settings, updates = learner
    chosen, joined = PRESETS[preset], Dataset.join(data)
    config = chosen.settings(name, agents.find(name).config_class()) | settings
    problem = Problem(joined.obs.shape[1], joined.act.shape[1])
    agent = agents.build(name, config, problem, seeds, regularisation=chosen.regularisation)
    take, sampler = updater(agent), Sampler(joined, agent, chosen.training["batch_size"])
    for step in range(updates):
        take(sampler(step))
    return agent


def measured(case: Case, line: str, patients: int, learner: Learner | None = None) -> dict[str, Any]:
    """What a learner, by default the one of that line, is worth in a case."""
    seeds = tuple(range(FIRST, FIRST + case.count))
    cohorts = Cohorts(case.episodes(), seeds, CohortFactory(case.env, case.options), patients)
    data, base = [Dataset.from_episodes(e) for e in cohorts.episodes], cohorts.constants()
    began = time.process_time()
    agent = trained(learner or LEARNERS[line], data, seeds)
    seconds = (time.process_time() - began) / case.count
    policy = Replicates(agent, [d.transform for d in data])
    best = cohorts.returns(following(policy))
    drawn = cohorts.returns(following(policy, sampled=True)) if case.compared else None
    refused = [bool(r) for r in agent.refusals] if isinstance(agent, HoldsBelief) else []
    about = {"case": case.name, "size": case.size, "data_sets": case.count, "evaluated": patients}
    lost = None if drawn is None else float((drawn - best).mean())
    return about | row(line, best, base) | {"drawn": lost} | {"refused": refused, "seconds": seconds}


def row(line: str, best: Array, base: Array) -> dict[str, Any]:
    """What a learner's recommended doses are worth beside the constant dose."""
    difference, gain = paired_difference(best, base, shared_patients=True), (best - base).mean(1)
    return {
        "name": line,
        "constant": dataclasses.asdict(mean_over_seeds(base, shared_patients=True)),
        "return": dataclasses.asdict(mean_over_seeds(best, shared_patients=True)),
        "difference": dataclasses.asdict(difference),
        "verdict": verdict(difference),
        "tenth": float(np.quantile(gain, 0.1)),
        "least": float(gain.min()),
        "worse_sets": int((gain < -LITTLE).sum()),
        "gains": gain.round(3).tolist(),
    }


def shown(one: dict[str, Any]) -> str:
    """A difference with its interval."""
    return str(Estimate(**one))


def page(rows: Sequence[dict[str, Any]], command: str) -> str:
    """Everything as markdown."""
    head = ["", "recorded patients", "data sets", "constant dose", "return", "minus constant", "verdict"]
    head += [
        "10th percentile",
        "least",
        "below -0.1",
        "refused",
        "drawn minus recommended",
        "CPU s per data set",
    ]
    parts = [
        "# Doses from a learned response model",
        f"`{command}` on {describe()}; dosing {__version__}.",
        "Mean return over the visits of an episode on new patients, the same for all of a case; every "
        "data set is of other recorded patients. Intervals: 95 %, over data sets and patients. The "
        "difference is to the constant dose estimated from the same data set; percentile and least are over "
        "data sets. A refused model gives everyone that dose.",
        "![Return against recorded patients](response.svg)",
    ]
    parts += gate(rows)
    for title, main in ((MAIN, True), ("Other patients, the response model alone", False)):
        lines = [
            [
                r["name"] if main else r["case"] + (", never refused" if r["name"] == UNGATED else ""),
                str(r["size"]),
                str(r["data_sets"]),
                f"{r['constant']['value']:.2f}",
                shown(r["return"]),
                shown(r["difference"]),
                r["verdict"],
                f"{r['tenth']:.2f}",
                f"{r['least']:.2f}",
                str(r["worse_sets"]),
                str(sum(r["refused"])),
                "" if r["drawn"] is None else f"{r['drawn']:.2f}",
                f"{r['seconds']:.1f}",
            ]
            for r in sorted(rows, key=lambda r: (r["case"], list(LEARNERS).index(r["name"]), r["size"]))
            if (r["case"] == MAIN) == main
        ]
        if lines:
            parts += [f"## {title}", table(head, lines)]
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


def gate(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Whether models are refused that would have lost, and those not that gain, as markdown."""
    never = {(r["case"], r["size"]): r for r in rows if r["name"] == UNGATED}
    pairs = [
        (no, own, other)
        for r in rows
        if r["name"] == FIRST_LINE and r["case"] != MAIN
        if (r["case"], r["size"]) in never or not any(r["refused"])
        for no, own, other in zip(
            r["refused"], r["gains"], never.get((r["case"], r["size"]), r)["gains"], strict=True
        )
    ]
    if not never:
        return []
    refused = np.array([other for no, _, other in pairs if no])
    kept = np.array([own for no, own, _ in pairs if not no])
    head = ["", "data sets", "lose more than 0.1", "gain more than 0.1", "mean difference", "least", "most"]
    lines = [
        [name, str(len(x)), str((x < -LITTLE).sum()), str((x > LITTLE).sum())]
        + [f"{f(x):.2f}" if len(x) else "" for f in (np.mean, np.min, np.max)]
        for name, x in (("refused, if they had been followed", refused), ("not refused", kept))
    ]
    text = "All data sets of the last table. A refusal is right where following the model would have lost."
    return ["## Which models are refused", text, table(head, lines)]


def picture(rows: Sequence[dict[str, Any]]) -> str:
    """Return against recorded patients beside the constant dose's, a panel for each learner."""
    panels = []
    for line in LEARNERS:
        own = sorted((r for r in rows if r["case"] == MAIN and r["name"] == line), key=lambda r: r["size"])
        if own:
            sizes = tuple(r["size"] for r in own)
            kinds = (("return", "the learner"), ("constant", "constant dose from the same patients"))
            panels.append(
                Panel(
                    line,
                    tuple(Line(name, sizes, tuple(Estimate(**r[kind]) for r in own)) for kind, name in kinds),
                )
            )
    ceilings = measured_ceilings(TREATMENT, {"variant": "simenv3"})
    rules = [(c.policy, c.value) for c in ceilings]
    title = "Return of recommended doses; dotted: ceilings, of policies made with the simulator"
    return draw(panels, rules, title, of_x="recorded patients", of_groups="")


def main() -> None:
    """Compute the cases that are missing; keep numbers, page and picture after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, default=2000, help="evaluated on [%(default)s]")
    parser.add_argument("--only", default="", help="cases, sizes and learners whose name has this text")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = arguments.out / "response.json"
    rows = json.loads(kept.read_text())["rows"] if kept.is_file() else []
    command = f"OMP_NUM_THREADS=1 python benchmarks/experiments/response.py --patients {arguments.patients}"
    for case, line in WORK:
        key = (case.name, case.size, line, arguments.patients, case.count)
        if any((r["case"], r["size"], r["name"], r["evaluated"], r["data_sets"]) == key for r in rows):
            continue
        if line == UNGATED and not any(any(r["refused"]) for r in rows if (r["case"], r["size"]) == key[:2]):
            continue
        if arguments.only not in f"{case.name} {case.size} {line}":
            continue
        rows.append(measured(case, line, arguments.patients))
        write_json(kept, {"machine": describe(), "version": __version__, "rows": rows})
        write_atomic(arguments.out / "response.svg", picture(rows).encode())
        write_atomic(arguments.out / "response.md", page(rows, command).encode())
        print(*key, shown(rows[-1]["return"]), shown(rows[-1]["difference"]), flush=True)


if __name__ == "__main__":
    main()
