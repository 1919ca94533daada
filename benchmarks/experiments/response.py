"""The response model agent against the estimated constant dose, over cohort size.

    OMP_NUM_THREADS=1 python benchmarks/experiments/response.py --sizes 50:30 100:10 [--updates 600]

Every data set is of other recorded patients; all data sets of a size are trained as one stack, one seed each.
Every policy meets the same evaluation patients, and stands beside the constant dose estimated from its own
data set. Settings were chosen on data seeds from 5000 on or by held-out recorded patients; the reported data
sets (seeds from 1000 on) chose nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt
import torch

import agents
from agents.response_model import ResponseModel
from dosing.data.dataset import Dataset, Transform
from dosing.data.store import Episodes
from dosing.evaluation.rollout import rollout
from dosing.evaluation.statistics import paired_difference
from dosing.ope.baselines import estimated_constant
from dosing.ope.trajectories import Trajectories
from dosing.runs.files import write_json
from dosing.training.regularised import take_step
from dosing.training.sampler import Sampler
from dosing.types import Observations, Problem
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory

Array = npt.NDArray[np.float64]
RESULTS = Path(__file__).resolve().parents[1] / "results"
FIRST = 1000


class Follower:
    """The recommended or drawn doses of a stack, with beliefs kept from visit to visit.

    The doses are those of ``policy_after`` on the whole history, without filtering it anew at every visit.
    """

    def __init__(
        self, agent: ResponseModel, transforms: Sequence[Transform], *, sampled: bool = False
    ) -> None:
        self.agent, self.sampled = agent, sampled
        names = ("obs_mean", "obs_scale", "act_low", "act_high")
        self.mean, self.scale, self.low, self.high = (
            torch.tensor([getattr(t, name) for t in transforms], dtype=torch.float64).unsqueeze(1)
            for name in names
        )

    @torch.no_grad()
    def __call__(self, obs: Observations, visit: int) -> Array:
        """Doses ``[S, P, 1]`` at ``obs [S, P, O]``; every dose is delivered as it is."""
        raw = torch.from_numpy(np.array(obs, dtype=np.float64))
        seen = ((raw - self.mean) / self.scale).float()
        if visit == 0:
            self.belief = self.agent.first_belief(seen.shape[1])
            self.before = seen.new_zeros(*seen.shape[:2], self.agent.problem.n_act)
            self.rng = torch.Generator().manual_seed(0)
        else:
            self.belief = self.agent.carry_on(self.belief, self.before)
        self.belief = self.agent.take_in(self.belief, seen)
        base: Any = cast(Any, self.agent.distribution(self.belief, visit, self.before)).base_dist
        unit = base.mode
        if self.sampled:
            unit = base.rsample_from(torch.rand(*unit.shape, base.n_uniforms, generator=self.rng))
        self.before = unit
        return cast(Array, (self.low + 0.5 * (self.high - self.low) * (unit.double() + 1.0)).numpy())


def trained(
    data: Sequence[Dataset], settings: dict[str, Any], updates: int, seeds: Sequence[int]
) -> tuple[ResponseModel, dict[str, torch.Tensor]]:
    """One seed per data set, trained as one stack; the last update's metrics."""
    joined = Dataset.join(data)
    problem = Problem(joined.obs.shape[1], joined.act.shape[1])
    agent = cast(ResponseModel, agents.build("response_model", settings, problem, seeds))
    sampler = Sampler(joined, agent, 256)
    total: dict[str, torch.Tensor] = {}
    for step in range(updates):
        agent.schedule(step)
        metrics = take_step(agent, sampler(step))
        if step >= updates - 20:
            total = {k: total.get(k, 0.0) + v / 20 for k, v in metrics.items()}
    return agent, total


def compared(size: int, count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns of policy and constant for ``count`` data sets of ``size`` patients."""
    options = json.loads(arguments.options)
    seeds = range(arguments.first, arguments.first + count)
    episodes: list[Episodes] = [
        simulate(arguments.env, patients=size, policy="uniform", seed=s, **options) for s in seeds
    ]
    data = [Dataset.from_episodes(e) for e in episodes]
    began = time.process_time()
    agent, metrics = trained(data, json.loads(arguments.settings), arguments.updates, tuple(seeds))
    seconds = time.process_time() - began
    factory, patients = CohortFactory(arguments.env, options), arguments.patients

    def returns(act: Any) -> Array:
        gained: Array = rollout(factory, act, (0,) * count, patients).returns
        return gained

    doses = np.array([estimated_constant(Trajectories.from_episodes(e)).dose for e in episodes])
    base = returns(lambda obs, visit: np.broadcast_to(doses[:, None, None], (*obs.shape[:2], 1)))
    transforms = [d.transform for d in data]
    best = returns(Follower(agent, transforms))
    drawn = returns(Follower(agent, transforms, sampled=True))
    gain = (best - base).mean(1)
    return {
        "env": arguments.env,
        "options": options,
        "settings": json.loads(arguments.settings),
        "updates": arguments.updates,
        "patients": size,
        "data_sets": count,
        "first_seed": arguments.first,
        "constant": float(base.mean()),
        "return": float(best.mean()),
        "drawn": float(drawn.mean()),
        "difference": str(paired_difference(best, base, shared_patients=True)) if count > 1 else "",
        "mean": float(gain.mean()),
        "median": float(np.median(gain)),
        "tenth": float(np.quantile(gain, 0.1)),
        "least": float(gain.min()),
        "lost": int((gain < -0.02).sum()),
        "refused": [reason for reason in agent.refusals if reason],
        "gains": gain.round(3).tolist(),
        "promised": [round(float(x), 2) for x in metrics.get("gain/least", torch.zeros(0))],
        "numbers": agent.numbers.numpy().round(3).tolist(),
        "seconds_per_data_set": seconds / count,
    }


def main() -> None:
    """Train, evaluate, print, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--sizes", nargs="+", default=["12:10", "25:10", "50:30", "100:10", "400:10", "2000:4"]
    )
    parser.add_argument("--first", type=int, default=FIRST, help="seed of the first data set [%(default)s]")
    parser.add_argument("--updates", type=int, default=600, help="[%(default)s]")
    parser.add_argument("--patients", type=int, default=10_000, help="evaluated on [%(default)s]")
    parser.add_argument("--env", default="dosing/Treatment-v0")
    parser.add_argument("--options", default='{"variant": "simenv3"}')
    parser.add_argument("--settings", default="{}", help="of the agent, as JSON")
    parser.add_argument("--out", type=Path, default=RESULTS / "response.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.is_file() else []
    for pair in arguments.sizes:
        size, count = (int(x) for x in pair.split(":"))
        row = compared(size, count, arguments)
        rows.append(row)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, {"rows": rows})
        short = {k: v for k, v in row.items() if k not in ("gains", "promised", "numbers", "refused")}
        print(json.dumps(short), f"refused {len(row['refused'])}", f"gains {row['gains']}", flush=True)


if __name__ == "__main__":
    main()
