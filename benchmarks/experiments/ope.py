"""Model selection without the simulator, checked against the simulator.

    OMP_NUM_THREADS=1 python benchmarks/experiments/ope.py [--data-sets 30] [--patients 50] [--out
    benchmarks/results]

Every data set is of other patients. On each the same candidates stand to be ranked: constant doses, ridge
fitted-Q policies and shortly trained agents, the last two learnt from that data set. Every estimator values
them twice: from the very patients they were learnt from, and from as many new ones. The truth is the mean
return over evaluation patients, the same for all candidates.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import __version__
from dosing.data.dataset import Dataset
from dosing.data.store import Episodes
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import constant
from dosing.evaluation.statistics import Estimate, mean_over_seeds, patient_bootstrap
from dosing.models.prior import constant_dose
from dosing.ope.baselines import ridge_fitted_q
from dosing.ope.ranking import coverage, rank_correlation, regret_at_1
from dosing.ope.selection import BASELINE, Settings, evaluate_policies
from dosing.ope.trajectories import Trajectories
from dosing.ope.values import Estimator, Valuation
from dosing.policy import DosePolicy
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Act, Problem
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory

ENV_ID = "dosing/Treatment-v0"
CONSTANTS = tuple(round(0.1 * k, 1) for k in range(11))
STRENGTHS = (1e-3, 0.1, 1.0, 3.0, 10.0)
WIDTH, FEW = 64, 100
NEW_PATIENTS = 1_000_003
"""Added to the number of a data set for the patients no candidate has seen."""
SOURCES = ("same patients", "new patients")
CALIBRATION = (12, 25, 50, 100, 400)
"""Numbers of patients of the published returns of the estimated constant dose."""


@dataclass(frozen=True)
class Column:
    """One estimator with its settings."""

    name: str
    estimator: Estimator
    settings: Settings


def columns(replicates: int) -> list[Column]:
    """The estimators that are compared."""

    def column(name: str, estimator: Estimator, **options: Any) -> Column:
        return Column(name, estimator, Settings(estimators=(estimator,), replicates=replicates, **options))

    slow = Settings(state="quadratic", replicates=FEW)
    return [
        column("FQE, linear, ridge 1", "fqe"),
        column("FQE, linear, ridge 0.1", "fqe", ridge=0.1),
        column("FQE, linear, ridge 10", "fqe", ridge=10.0),
        Column("FQE, quadratic, ridge 1", "fqe", replace(slow, estimators=("fqe",))),
        column("WIS", "wis"),
        column("WDR", "wdr"),
        column("WIS, last ratio", "wis_window", window=1),
        column("WIS, last 2 ratios", "wis_window", window=2),
    ]


def trained(name: str, episodes: Episodes, steps: int, seed: int) -> DosePolicy:
    """One seed of an agent after a short training."""
    dataset = Dataset.from_episodes(episodes)
    agent = agents.build(
        name, {"hidden": (WIDTH, WIDTH)}, Problem(dataset.obs.shape[1], dataset.act.shape[1], 24), (seed,)
    )
    sampler, take = Sampler(dataset, agent, 256), updater(agent)
    for step in range(steps):
        take(sampler(step))
    return DosePolicy(agent, dataset.transform)


def recommended(policy: Act | DosePolicy) -> Act:
    """The rule that is rolled out: the recommended dose of a stack, or the rule itself."""
    if not isinstance(policy, DosePolicy):
        return policy
    stack = policy
    return lambda obs, visit: stack.recommended(obs)


def one_of(policy: Act, k: int) -> Act:
    """Entry k of a stack of rules."""
    return lambda obs, visit: policy(obs, visit)[k : k + 1]


class Truth:
    """True returns on the evaluation patients; those of constant doses from a fitted curve, made once."""

    def __init__(self, factory: CohortFactory, patients: int) -> None:
        self.factory, self.patients = factory, patients
        low, high = factory.limits.low[0], factory.limits.high[0]
        doses = np.linspace(low, high, 41)
        values = [self.of(constant(dose)) for dose in doses]
        self.curve = np.polynomial.Chebyshev.fit(doses, values, 12)

    def of(self, act: Act) -> float:
        """Mean return of a rule."""
        return float(rollout(self.factory, act, (0,), self.patients).returns.mean())


def calibration(variant: str, data_sets: int, patients: int) -> list[list[str]]:
    """Return of the estimated constant dose and of ridge fitted Q, as published for simenv3."""
    truth = Truth(CohortFactory(ENV_ID, {"variant": variant}), patients)
    best = truth.curve(np.linspace(truth.factory.limits.low[0], truth.factory.limits.high[0], 2001)).max()
    lines = [["best constant in hindsight on the evaluation patients", "", f"{best:.2f}", ""]]
    for n in CALIBRATION:
        data = simulate(ENV_ID, patients=n * data_sets, seed=1, variant=variant)
        act, reward = (x.reshape(data_sets, -1).astype(np.float64) for x in (data.act, data.reward))
        patient = np.broadcast_to(np.arange(n).repeat(act.shape[1] // n), act.shape)
        result = truth.curve(constant_dose(act, reward, patient).dose)
        tenth = patient_bootstrap(result, lambda x: np.quantile(x, 0.1, axis=-1))
        cells = [str(data_sets), f"{_mean(result):.2f}", f"{tenth:.2f}"]
        lines.append([f"estimated constant, {n} patients", *cells])
    for n, sets in ((50, data_sets // 5), (400, data_sets // 20), (2000, data_sets // 50)):
        result = np.array([_fitted_return(truth, n, k, variant) for k in range(max(sets, 2))])
        lines.append([f"ridge fitted Q, {n} patients", str(len(result)), f"{_mean(result):.2f}", ""])
    return lines


def _fitted_return(truth: Truth, patients: int, seed: int, variant: str) -> float:
    data = simulate(ENV_ID, patients=patients, seed=2 + seed, variant=variant)
    return truth.of(ridge_fitted_q(Trajectories.from_episodes(data), (STRENGTHS[0],)))


def _mean(values: Any) -> Estimate:
    """Mean over data sets with t over them."""
    return mean_over_seeds(np.asarray(values, dtype=np.float64)[:, None])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All estimates and all true returns."""
    truth = Truth(CohortFactory(ENV_ID, {}), options.evaluation_patients)
    kept: list[dict[str, Any]] = []
    for number in range(options.data_sets):
        learnt = simulate(ENV_ID, patients=options.patients, seed=number)
        fresh = simulate(ENV_ID, patients=options.patients, seed=number + NEW_PATIENTS)
        candidates: list[tuple[str, Act | DosePolicy]] = [(f"constant {d:g}", constant(d)) for d in CONSTANTS]
        fitted = ridge_fitted_q(Trajectories.from_episodes(learnt), STRENGTHS)
        candidates += [(f"fitted Q {x:g}", one_of(fitted, k)) for k, x in enumerate(STRENGTHS)]
        candidates += [(name, trained(name, learnt, options.steps, number)) for name in options.agents]
        true = {name: truth.of(recommended(policy)) for name, policy in candidates}
        for source, episodes in zip(SOURCES, (learnt, fresh), strict=True):
            for column in columns(options.replicates):
                result = evaluate_policies(episodes, candidates, column.settings)
                true[BASELINE] = float(truth.curve(result.baseline.dose))
                kept.append(
                    {
                        "data_set": number,
                        "source": source,
                        "column": column.name,
                        "policies": [
                            {"name": p.name, "true": round(true[p.name], 4)}
                            | _numbers(p.values[column.estimator])
                            for p in result.policies
                        ],
                    }
                )
        print(f"data set {number + 1} of {options.data_sets}", file=sys.stderr)
    return {"kept": kept}


def _numbers(value: Valuation) -> dict[str, Any]:
    if value.estimate is None:
        return {"refused": value.refused}
    e, d = value.estimate, value.difference
    result: dict[str, Any] = {"estimate": [round(x, 4) for x in (e.value, e.low, e.high)]}
    if d is not None:
        result |= {"difference": [round(x, 4) for x in (d.value, d.low, d.high)], "verdict": value.verdict}
    return result


def summary(kept: Sequence[dict[str, Any]], source: str, column: str) -> list[str]:
    """One line: how often there is a number, and how good the numbers are."""
    sets = [k["policies"] for k in kept if k["source"] == source and k["column"] == column]
    given = [[p for p in policies if "estimate" in p] for policies in sets]
    share = sum(map(len, given)) / sum(map(len, sets))
    ranked = [policies for policies in given if len(policies) >= 3]
    line = [column, f"{share:.0%}", str(len(ranked))]
    if len(ranked) < 2:
        return [*line, *[""] * 7]
    pairs = [(np.array([p["estimate"][0] for p in x]), np.array([p["true"] for p in x])) for x in ranked]
    ranks = [float(rank_correlation(estimate, true)) for estimate, true in pairs]
    regrets = [float(regret_at_1(estimate, true)) for estimate, true in pairs]
    careful = [_careful_regret(policies) for policies in ranked]
    errors = [float(np.mean(estimate - true)) for estimate, true in pairs]
    held = [coverage(*np.array([[*p["estimate"][1:], p["true"]] for p in x]).T) for x in ranked]
    differences, better = [], []
    for policies in ranked:
        base = next((p["true"] for p in policies if p["name"] == BASELINE), None)
        for p in policies if base is not None else []:
            if "difference" in p:
                differences.append(p["difference"][1] <= p["true"] - base <= p["difference"][2])
                if p["verdict"] == "better":
                    better.append(p["true"] > base)
    line += [f"{_mean(x):.2f}" for x in (ranks, regrets, careful, errors)]
    line += [f"{_mean(held):.2f}", f"{np.mean(differences):.2f}" if differences else ""]
    return [*line, f"{sum(better)} of {len(better)}"]


def _careful_regret(policies: Sequence[dict[str, Any]]) -> float:
    """True return lost by taking the highest estimate among policies found better, else the constant dose."""
    better = [p for p in policies if p.get("verdict") == "better"]
    chosen = better or [p for p in policies if p["name"] == BASELINE] or list(policies)
    taken = max(chosen, key=lambda p: float(p["estimate"][0]))
    return float(max(p["true"] for p in policies) - taken["true"])


HEAD = (
    "estimator",
    "policies with a number",
    "data sets",
    "rank correlation",
    "regret@1",
    "regret by verdict",
    "mean error",
    "coverage of 95 % intervals",
    "coverage of differences",
    'verdicts "better" that are true',
)


def render(result: dict[str, Any]) -> str:
    """The page."""
    kept = result["kept"]
    by_name: dict[str, list[float]] = {}
    for entry in kept:
        if entry["source"] == SOURCES[0] and entry["column"] == kept[0]["column"]:
            for p in entry["policies"]:
                by_name.setdefault(p["name"], []).append(p["true"])
    truths = []
    for name, values in by_name.items():
        shown = f"{_mean(values):.2f}" if np.ptp(values) > 0 else f"{values[0]:.2f}"
        truths.append([name, shown, f"{min(values):.2f}"])
    best = np.array(list(by_name.values())).max(0)
    always = _mean(best - np.array(by_name[BASELINE]))
    seconds, cohort = f"{result['seconds']:.0f}", f"{result['evaluation_patients']:,}"
    parts = [
        "# Off-policy evaluation against the simulator",
        f"Made by `{result['command']}`, {result['date']}, dosing {__version__}, in {seconds} s of "
        f"processor time on: {describe()}.",
        f"{result['data_sets']} data sets of {result['patients']} patients with 24 visits of {ENV_ID}, "
        f"uniform doses; undiscounted return; truth on {cohort} evaluation patients, the same for every "
        f"policy. Agents: two layers of {WIDTH}, {result['steps']} updates, one seed. "
        f"{result['replicates']} bootstrap replicates of patients ({FEW} for quadratic features). "
        "Intervals are 95 %, t over data sets. Importance weights smooth a dose with half-width 0.3 on "
        "the axis from -1 to 1.",
    ]
    for source in SOURCES:
        lines = [summary(kept, source, name) for name in _column_names(kept)]
        parts += [f"## Estimated from the {source}", table(HEAD, lines)]
    parts += [
        f"Regret of always taking the constant dose estimated from the same patients: {always:.2f}.",
        "A data set counts where three or more policies got a number; regret@1 is the true return lost "
        "against the best of those by taking the highest estimate. Regret by verdict: by taking the highest "
        "estimate among the policies found better than the constant dose estimated from these patients, and "
        "that constant dose where none is.",
        "## The candidates",
        table(("policy", "true return", "lowest over data sets"), truths),
        "## Reference policies on simenv3",
        f"On {4 * result['evaluation_patients']:,} evaluation patients. Published: estimated constant 3.7, "
        "4.7, 4.9, 5.1, 5.26 on 12, 25, 50, 100, 400 patients, tenth percentile at 50: 4.3; ridge fitted Q "
        "4.2, 5.13, 5.15 on 50, 400, 2,000.",
        table(("policy and data", "data sets", "mean return", "tenth percentile"), result["calibration"]),
    ]
    return "\n\n".join(parts) + "\n"


def _column_names(kept: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(k["column"] for k in kept))


def record(result: dict[str, Any]) -> dict[str, Any]:
    """What is kept beside the page: settings, true returns and point estimates ``[data sets][policies]``."""
    kept = result["kept"]
    names = [p["name"] for p in kept[0]["policies"]]
    plain: dict[str, Any] = {k: v for k, v in result.items() if k != "kept"} | {"policies": names}
    for source in SOURCES:
        tables: dict[str, list[list[float | None]]] = {}
        for entry in kept:
            if entry["source"] == source:
                row = [p["estimate"][0] if "estimate" in p else None for p in entry["policies"]]
                tables.setdefault(entry["column"], []).append(row)
        first = [k for k in kept if k["source"] == source and k["column"] == kept[0]["column"]]
        plain[source] = {"true": [[p["true"] for p in k["policies"]] for k in first], "estimates": tables}
    return plain


def main() -> None:
    """Measure, print the page and, if asked, keep it with its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-sets", type=int, default=30)
    parser.add_argument("--patients", type=int, default=50, help="per data set")
    parser.add_argument("--evaluation-patients", type=int, default=5000)
    parser.add_argument("--calibration-sets", type=int, default=200)
    parser.add_argument("--agents", nargs="*", default=["iql", "td3_bc", "fttpo"])
    parser.add_argument("--steps", type=int, default=400, help="updates of each agent")
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--out", type=Path, help="folder for ope.md and ope.json")
    options = parser.parse_args()
    if options.data_sets < 2:
        parser.error("intervals over data sets need at least 2 of them")
    torch.set_num_threads(1)
    began = time.process_time()
    result = measure(options)
    result["calibration"] = calibration("simenv3", options.calibration_sets, 4 * options.evaluation_patients)
    result |= {k: v for k, v in vars(options).items() if k != "out"}
    result["seconds"] = time.process_time() - began
    result["date"] = time.strftime("%Y-%m-%d")
    result["command"] = "python benchmarks/experiments/ope.py"
    page = render(result)
    print(page)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "ope.md").write_text(page, encoding="utf-8")
        (options.out / "ope.json").write_text(json.dumps(record(result)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
