"""Learning curves over cohort size: what an agent makes of 12 to 2,000 recorded patients.

    OMP_NUM_THREADS=1 python benchmarks/experiments/cohort.py [--data-sets 10] [--updates 2000] [--patients
    10000]

SimEnv3, 24 visits, doses uniform within the limits. Every data set is of other patients (``FIRST`` on; none
of them chose a setting), and trains one seed; all data sets of a size are trained as one stack. The settings
are those of ``--preset clinical-small``. Every policy meets the same evaluation patients, and stands beside
the constant dose estimated from its own data set.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks.curves import Line, Panel, draw
from benchmarks.experiments.learning import plain
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.data.store import Episodes
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import following
from dosing.evaluation.statistics import Estimate, mean_over_seeds, paired_difference, verdict
from dosing.ope.baselines import estimated_constant, ridge_fitted_q
from dosing.ope.trajectories import Trajectories
from dosing.policy import DosePolicy, Observations
from dosing.runs.files import write_atomic, write_json
from dosing.studies.presets import PRESETS
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Act, Array, Problem
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory

RESULTS = Path(__file__).resolve().parents[1] / "results"
ENV_ID, VARIANT, PRESET = "dosing/Treatment-v0", "simenv3", "clinical-small"
FIRST = 1000
"""Seed of the first data set."""
SIZES = (12, 25, 50, 100, 400, 2000)
MANY_AT = 50
"""The size at which three times as many data sets are taken."""
LONGER = 10
"""How many times longer one training is, to see whether anything changes."""
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "FtTPO": ("fttpo", {}),
    "FtTPO, Gaussian counterpart": ("fttpo", {"actor": "gaussian"}),
    "FtTPO-SG": ("fttpo", {"proposal": "squashed_gaussian"}),
    "IQL": ("iql", {}),
    "BC": ("bc", {}),
}
"""Agents trained as one stack over data sets, by the name of their line."""
RIDGE = 1e-3


class Replicates(DosePolicy):
    """A stack whose seeds were trained on data sets of their own, each with its own scale of states."""

    def __init__(self, agent: Agent, transforms: Sequence[Transform]) -> None:
        super().__init__(agent, transforms[0])
        self._mean, self._scale = (
            torch.tensor([getattr(t, name) for t in transforms], dtype=torch.float64).unsqueeze(1)
            for name in ("obs_mean", "obs_scale")
        )

    def _obs(self, obs: Observations) -> torch.Tensor:
        raw = torch.from_numpy(np.asarray(obs, dtype=np.float64, order="C").copy())
        return ((raw - self._mean) / self._scale).to(self._device, self._dtype)


@dataclass(frozen=True)
class Cohorts:
    """Data sets of one size, and the patients on whom everything learnt from them is evaluated.

    Attributes:
        episodes: one per data set.
        seeds: their seeds.
        factory: the scenario.
        patients: evaluated on.
    """

    episodes: list[Episodes]
    seeds: tuple[int, ...]
    factory: CohortFactory
    patients: int

    @classmethod
    def of(cls, size: int, count: int, patients: int, history: int = 0, *, first: int = FIRST) -> Cohorts:
        """Simulate ``count`` data sets of ``size`` patients."""
        options: dict[str, Any] = {"variant": VARIANT} | ({"history": history} if history else {})
        seeds = tuple(range(first, first + count))
        episodes = [simulate(ENV_ID, patients=size, policy="uniform", seed=s, **options) for s in seeds]
        return cls(episodes, seeds, CohortFactory(ENV_ID, options), patients)

    def returns(self, act: Act) -> Array:
        """Returns ``[data sets, patients]``; every data set's policy meets the same patients."""
        result: Array = rollout(self.factory, act, (0,) * len(self.seeds), self.patients).returns
        return result

    def constants(self) -> Array:
        """Returns of the constant dose estimated from each data set."""
        doses = np.array([estimated_constant(Trajectories.from_episodes(e)).dose for e in self.episodes])
        return self.returns(lambda obs, visit: np.broadcast_to(doses[:, None, None], (*obs.shape[:2], 1)))

    def ridge(self) -> Array:
        """Returns of the ridge fitted-Q policy of each data set."""
        rules = [ridge_fitted_q(Trajectories.from_episodes(e), (RIDGE,)) for e in self.episodes]

        def act(obs: Observations, visit: int) -> Array:
            return np.concatenate([rule(obs[[k]], visit) for k, rule in enumerate(rules)])

        return self.returns(act)

    def train(
        self, name: str, settings: dict[str, Any], marks: Sequence[int]
    ) -> dict[int, tuple[Array, Array]]:
        """Returns of recommended and sampled doses after so many updates, one seed per data set."""
        datasets = [Dataset.from_episodes(e) for e in self.episodes]
        joined = Dataset.join(datasets)
        agent = build(name, settings, joined, self.seeds)
        policy = Replicates(agent, [d.transform for d in datasets])
        take, sampler = updater(agent), Sampler(joined, agent, PRESETS[PRESET].training["batch_size"])
        result = {}
        for step in range(max(marks)):
            take(sampler(step))
            if step + 1 in marks:
                best = self.returns(following(policy))
                result[step + 1] = best, self.returns(policy.sampled)
        return result

    def quasi_optimal(self, updates: int) -> tuple[Array, Array]:
        """As :meth:`train`, one data set after the other: the method scales one for all its seeds."""
        best, sampled = [], []
        for seed, episodes in zip(self.seeds, self.episodes, strict=True):
            one = Cohorts([episodes], (seed,), self.factory, self.patients)
            dataset = Dataset.from_episodes(episodes)
            agent = build("quasi_optimal", {}, dataset, one.seeds)
            policy, take, sampler = (
                DosePolicy(agent, dataset.transform),
                updater(agent),
                Sampler(dataset, agent, 1),
            )
            for step in range(updates):
                take(sampler(step))
            best.append(one.returns(following(policy)))
            sampled.append(one.returns(policy.sampled))
        return np.concatenate(best), np.concatenate(sampled)


def build(name: str, settings: dict[str, Any], dataset: Dataset, seeds: Sequence[int]) -> Agent:
    """An agent with the preset's settings."""
    preset = PRESETS[PRESET]
    config = preset.settings(name, agents.find(name).config_class()) | settings
    problem = Problem(dataset.obs.shape[1], dataset.act.shape[1])
    return agents.build(name, config, problem, seeds, regularisation=preset.regularisation)


def entry(
    name: str, size: int, returns: Array, sampled: Array | None, base: Array, **about: Any
) -> dict[str, Any]:
    """One line of the table: over data sets, on shared patients."""
    means = returns.mean(1)
    difference = None if returns is base else paired_difference(returns, base, shared_patients=True)
    return {
        "name": name,
        "patients": size,
        "data_sets": len(returns),
        "recommended": mean_over_seeds(returns, shared_patients=True),
        "tenth": float(np.quantile(means, 0.1)),
        "sampled": None if sampled is None else mean_over_seeds(sampled, shared_patients=True),
        "difference": difference,
        "verdict": None if difference is None else verdict(difference),
        **about,
    }


def curve(size: int, arguments: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every learner at one size."""
    count = arguments.data_sets * (3 if size == MANY_AT else 1)
    cohorts = Cohorts.of(size, count, arguments.patients)
    base = cohorts.constants()
    result = [entry("constant dose estimated", size, base, None, base)]
    result.append(entry("ridge fitted Q", size, cohorts.ridge(), None, base))
    for title, (name, settings) in LEARNERS.items():
        marks = [arguments.updates]
        if title == "FtTPO" and size == MANY_AT:
            marks.append(LONGER * arguments.updates)
        for updates, (best, sampled) in cohorts.train(name, settings, marks).items():
            line = title if updates == arguments.updates else f"{title}, {LONGER} times longer"
            result.append(entry(line, size, best, sampled, base, updates=updates))
        say(f"{size} patients: {title}")
    result.append(
        entry(
            "Quasi-optimal", size, *cohorts.quasi_optimal(arguments.updates), base, updates=arguments.updates
        )
    )
    say(f"{size} patients: Quasi-optimal")
    return result


def with_history(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """FtTPO at the largest size, when it also sees earlier visits."""
    size, result = max(arguments.sizes), []
    for history in arguments.history:
        cohorts = Cohorts.of(size, arguments.data_sets, arguments.patients, history)
        base = cohorts.constants()
        ((updates, (best, sampled)),) = cohorts.train("fttpo", {}, [arguments.updates]).items()
        result.append(entry(f"FtTPO, {history} earlier visits", size, best, sampled, base, updates=updates))
    return result


def page(result: list[dict[str, Any]], arguments: argparse.Namespace, minutes: float) -> str:
    """Everything as markdown."""
    head = ["", "data sets", "recommended dose", "10th percentile of data sets", "sampled dose"]
    head += ["minus estimated constant", "verdict"]
    parts = [
        "# Learning curves over cohort size",
        f"`OMP_NUM_THREADS=1 python benchmarks/experiments/cohort.py --data-sets {arguments.data_sets} "
        "--updates "
        f"{arguments.updates} --patients {arguments.patients}` on {describe()}; dosing {__version__}; "
        f"{minutes:.0f} minutes of processor time.",
        f"SimEnv3, 24 visits, uniform doses; settings: {PRESET} ({PRESETS[PRESET].about}). Mean return over "
        f"24 visits on {arguments.patients:,} evaluation patients, the same for every policy; every data set "
        "is of other recorded patients, none of which chose a setting. Intervals: 95 %, over data sets and "
        "patients. The difference is to the constant dose estimated from the same data set.",
        "![Return against cohort size, one panel per agent](cohort.svg)",
    ]
    for size in sorted({row["patients"] for row in result}):
        lines = [
            [
                row["name"],
                str(row["data_sets"]),
                str(row["recommended"]),
                f"{row['tenth']:.2f}",
                str(row["sampled"] or ""),
                str(row["difference"] or ""),
                row["verdict"] or "",
            ]
            for row in result
            if row["patients"] == size
        ]
        parts += [f"## {size:,} patients", table(head, lines)]
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


def picture(result: list[dict[str, Any]]) -> str:
    """One panel per agent beside the estimated constant."""

    def line(name: str, group: str, key: str) -> Line:
        rows = [row for row in result if row["name"] == name and row[key] is not None]
        estimates: list[Estimate] = [row[key] for row in rows]
        return Line(group, tuple(row["patients"] for row in rows), tuple(estimates))

    constant = "constant dose estimated"
    names = ["ridge fitted Q", *LEARNERS, "Quasi-optimal"]
    panels = []
    for name in names:
        lines = [
            line(name, "recommended dose", "recommended"),
            line(constant, "constant dose estimated from the same data", "recommended"),
            line(name, "doses drawn from the policy", "sampled"),
        ]
        lines = [drawn for drawn in lines if drawn.updates]
        panels.append(Panel(name, tuple(lines)))
    title = f"Return against the number of recorded patients; settings: {PRESET}"
    return draw(panels, [], title, of_x="recorded patients", of_groups="")


def main() -> None:
    """Train, evaluate, and keep page, numbers and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data-sets", type=int, default=10, help=f"per size, {MANY_AT} patients thrice [%(default)s]"
    )
    parser.add_argument("--updates", type=int, default=2000, help="[%(default)s]")
    parser.add_argument("--patients", type=int, default=10_000, help="evaluated on [%(default)s]")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="recorded patients")
    parser.add_argument("--history", type=int, nargs="*", default=[2, 4], help="earlier visits, largest size")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()

    def say(text: str) -> None:
        print(f"{(time.process_time() - began) / 60:5.1f} min  {text}", file=sys.stderr, flush=True)

    result = [row for size in arguments.sizes for row in curve(size, arguments, say)]
    result += with_history(arguments)
    minutes = (time.process_time() - began) / 60
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(
        arguments.out / "cohort.json", {"machine": describe(), "version": __version__, "rows": plain(result)}
    )
    write_atomic(arguments.out / "cohort.svg", picture(result).encode())
    text = page(result, arguments, minutes)
    write_atomic(arguments.out / "cohort.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
