"""Random cases against the guarded recommender: every answer keeps its promise, or is counted and shown.

    python benchmarks/fuzz_recommender.py [--cases N] [--seed K]

A case is a state (usual, far, huge, NaN, infinite), a policy (real agents with weights of any scale, some
spoilt; and one that says any number at all), a monitor (several cohorts, dosed all over the limits, between
two doses, on levels, by a rule of the state; or none), hard limits and step limits narrower or wider than
those of the data, and a current dose. The promise: a dose is finite and within the hard limits and the step
limit; where the answer is ``ok`` or ``limited``, a dose near it was recorded at states like this one by a
count of its own, one visit at a time; every other answer is ``deferred`` or ``refused`` with its reason.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

import agents
from dosing.data.dataset import Transform
from dosing.data.store import Episodes
from dosing.policy import DosePolicy, DoseSet
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.novelty import Monitor
from dosing.recommendation.reasons import DEFERS, REFUSES, STATUSES
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Answers, Recommender, Rules, StateEntry
from dosing.safety import DoseLimits, StepLimit
from dosing.types import Problem
from simulator.cohorts.generate import simulate

ENV_ID = "dosing/Treatment-v0"
AGENTS = ("fttpo", "iql", "bc", "td3_bc")
ROWS = 500
"""Cases that share a policy, a monitor and limits."""
SINGLES = 5
"""Of these, cases that are asked alone too."""
SCALES = (0.1, 1.0, 10.0, 1e3, 1e6, 1e38, 1e300)


class Wild(DosePolicy):
    """A policy that says numbers of any size, NaN and infinity among them."""

    scale = 1.0
    rng = np.random.default_rng(0)

    def consult(self, obs: Any, low: Any, high: Any) -> tuple[Any, DoseSet]:
        """Dose, edges and mass, all of them anything."""
        dose, lo, hi, mass = (wild(self.rng, self.scale, (*obs.shape[:2], 1)) for _ in range(4))
        return dose, DoseSet("interval", True, lo, hi, mass)


def wild(rng: np.random.Generator, scale: float, shape: tuple[int, ...]) -> Any:
    """Numbers of a scale, 6 % of them not finite."""
    values = scale * rng.standard_normal(shape)
    odd = rng.random(shape)
    values[odd < 0.02], values[odd > 0.98], values[np.abs(odd - 0.5) < 0.01] = math.nan, math.inf, -math.inf
    return values


def cohorts() -> list[Episodes]:
    """Recorded visits dosed in several ways; the limits are -1 and 1."""
    base = simulate(ENV_ID, patients=30)
    rng = np.random.default_rng(0)
    shape = base.act.shape
    ways = (
        base.act,
        rng.uniform(0.2, 0.3, shape),
        rng.choice([-0.5, 0.0, 0.5], shape),
        np.clip(0.4 * base.obs[:, :1] + 0.05 * rng.standard_normal(shape), -1.0, 1.0),
        np.where(rng.random(shape) < 0.03, -1.0, rng.normal(0.5, 0.05, shape).clip(-1.0, 1.0)),
    )
    return [replace(base, act=np.asarray(way, dtype=np.float32)) for way in ways]


def policy(rng: np.random.Generator, transform: Transform) -> DosePolicy:
    """A stack with weights of a random scale, one in four spoilt; or one that says anything."""
    seeds = range(int(rng.integers(1, 4)))
    agent = agents.build(str(rng.choice(AGENTS)), {"hidden": (16, 16)}, Problem(8, 1, 24), seeds)
    if rng.random() < 0.3:
        result = Wild(agent, transform)
        result.rng, result.scale = rng, float(rng.choice(SCALES))
        return result
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    factor, spoilt = float(rng.choice(SCALES[:5])), rng.random() < 0.25
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.copy_(factor * torch.randn(parameter.shape, generator=generator))
            if spoilt:
                flat = parameter.view(-1)
                flat[int(rng.integers(len(flat)))] = float(rng.choice([math.nan, math.inf, -math.inf, 3e38]))
    return DosePolicy(agent, transform)


def rules(rng: np.random.Generator) -> Rules:
    """Hard limits anywhere, and a step limit in half of them."""
    low, width = rng.normal(0.0, 1.0), float(10.0 ** rng.uniform(-3.0, 1.5))
    step = (
        StepLimit((float(10.0 ** rng.uniform(-3, 1)),), float(rng.uniform(0, 0.5)))
        if rng.random() < 0.5
        else None
    )
    entries = tuple(StateEntry(f"s{k}", "1", -50.0, 50.0) for k in range(8)) if rng.random() < 0.5 else ()
    return Rules(DoseLimits((float(low),), (float(low + width),)), entries, step)


def recorded(monitor: Monitor | None, state: Any, dose: float) -> bool:
    """Whether the dose is near recorded ones at states like this, counted one visit at a time."""
    if monitor is None:
        return False
    rule, low, high = monitor.doses, monitor.doses.low[0], monitor.doses.high[0]
    away = (((state - monitor.obs) / monitor.scale) ** 2).sum(1)
    radius = np.partition(away, rule.near - 1)[rule.near - 1]
    near = monitor.act[away <= radius * (1 + 1e-9), 0].astype(float)
    held = min(max(dose, low), high)
    points = np.concatenate([near, 2 * low - near, 2 * high - near])
    gap = np.sort(np.maximum(np.abs(held - points) - rule.tolerance[0], 0.0))[1]
    beyond = max(abs(dose - held) - rule.tolerance[0], 0.0)
    return bool((gap + beyond) / rule.scale[0] <= rule.threshold * (1 + 1e-9) + 1e-12)


def violations(recommender: Recommender, states: Any, current: Any, result: Answers) -> Iterator[str]:
    """What an answer did that it must not."""
    for row in range(len(states)):
        status, dose = STATUSES[int(result.status[row])], result.dose[row]
        if status == "refused":
            if not np.isnan(dose).all() or not result.codes[row] & int(REFUSES):
                yield f"refused with a dose {dose} or without a reason"
            continue
        if not recommender.rules.limits.contains(dose):
            yield f"{status} with dose {dose} outside {recommender.rules.limits}"
        if not reached(recommender.rules.step, dose[0], current[row, 0]):
            yield f"{status} with dose {dose} a step too far from {current[row]}"
        if status == "deferred":
            if not result.codes[row] & int(DEFERS):
                yield "deferred without a reason"
        elif not recorded(recommender.monitor, states[row], float(dose[0])):
            yield f"{status} with dose {dose}, near which none was recorded at such states"


def reached(step: StepLimit | None, dose: float, current: float) -> bool:
    """Whether a step limit, if there is one, lets the dose follow the current one."""
    if step is None:
        return True
    reach = max(step.absolute[0], step.relative * abs(current))
    return abs(dose - current) <= reach * (1 + 1e-9) + 1e-12


def alone(recommender: Recommender, state: Any, current: Any, result: Answers, row: int) -> Iterator[str]:
    """What the same case says when it is asked alone and not in a table."""
    one = recommend(recommender, state.tolist(), current.tolist())
    table = STATUSES[int(result.status[row])]
    if one.status == "refused" and not one.reasons:
        yield "refused alone without a reason"
    if (one.dose is None) != (one.status == "refused"):
        yield f"{one.status} alone with dose {one.dose}"
    if one.dose is not None and not recommender.rules.limits.contains(one.dose):
        yield f"{one.status} alone with dose {one.dose} outside its limits"
    if not isinstance(recommender.policy, Wild) and (one.status == "refused") != (table == "refused"):
        yield f"{one.status} alone and {table} in a table"


def fuzz(cases: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Statuses of so many random cases, and what went wrong.

    Args:
        cases: rounded up to whole groups of :data:`ROWS`.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    kinds = cohorts()
    transform, monitors = Transform.fit(kinds[0]), [Monitor.fit(kind) for kind in kinds]
    states_known = kinds[0].obs.astype(np.float64)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for group in range(-(-cases // ROWS)):
        monitor = None if rng.random() < 0.1 else monitors[int(rng.integers(len(monitors)))]
        recommender = Recommender(policy(rng, transform), rules(rng), monitor)
        usual = states_known[rng.integers(0, len(states_known), ROWS)]
        odd = wild(rng, float(rng.choice(SCALES[:5])), (ROWS, 8))
        states = np.where(rng.random((ROWS, 1)) < 0.7, usual + 0.1 * rng.standard_normal((ROWS, 8)), odd)
        limits = recommender.rules.limits
        fine = rng.uniform(limits.low, limits.high, (ROWS, 1))
        current = np.where(rng.random((ROWS, 1)) < 0.9, fine, wild(rng, 10.0, (ROWS, 1)))
        result = recommend_all(recommender, states, current)
        told = [*violations(recommender, states, current, result)]
        for row in range(SINGLES):
            told += alone(recommender, states[row], current[row], result, row)
        wrong += [f"group {group}: {words}" for words in told]
        counts.update(STATUSES[int(k)] for k in result.status)
    return counts, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000, help="random cases [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of everything [%(default)s]")
    options = parser.parse_args(argv)
    began = time.perf_counter()
    counts, wrong = fuzz(options.cases, options.seed)
    told = ", ".join(f"{counts[status]:,} {status}" for status in STATUSES)
    print(f"{sum(counts.values()):,} cases in {time.perf_counter() - began:.0f} s: {told}")
    print(f"{len(wrong):,} violations")
    print("\n".join(wrong[:20]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
