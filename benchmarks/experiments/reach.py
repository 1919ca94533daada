"""What a class of policies can reach at all: trained through the simulator, with unlimited patients.

    OMP_NUM_THREADS=1 python benchmarks/experiments/reach.py [--iterations 600] [--patients 4000]

The simulator is differentiable in the doses (``simulator.bounds.differentiable``), so the best policy of a
class can be found without data. What separates the classes bounds what any learner can gain by looking at
more than a constant dose does, and says which look pays: this visit's state, earlier visits, or the visit's
number.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from benchmarks.experiments.learning import plain
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.evaluation.statistics import mean_over_seeds, paired_difference
from dosing.runs.files import write_atomic, write_json
from simulator.bounds.differentiable import doses_of, train
from simulator.bounds.expected_reward import expected_return, known_patients

RESULTS = Path(__file__).resolve().parents[1] / "results"
ENV_ID, VARIANT, SEED, VISITS, STATES = "dosing/Treatment-v0", "simenv3", 0, 24, 8
START = 0.45
"""Dose that every class starts from."""


class Linear:
    """A dose linear in what the class sees, within the limits.

    Args:
        earlier: visits before this one whose states and doses it sees.
        own_weights: every visit has weights of its own.
        state: whether it sees states at all.
    """

    torch = torch

    def __init__(self, earlier: int = 0, *, own_weights: bool = False, state: bool = True) -> None:
        self.seen, self.own_weights, self.state = earlier + 1, own_weights, state
        sets = VISITS if own_weights else 1
        self.weight = torch.zeros(sets, self.seen * (STATES + 1), requires_grad=True)
        self.base = torch.full((sets,), START, requires_grad=True)

    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return [self.base, self.weight] if self.state else [self.base]

    def start(self, n: int) -> Any:
        """States and doses seen so far, none, and the number of the visit."""
        return torch.zeros(n, self.seen, STATES), torch.zeros(n, self.seen), 0

    def act(self, obs: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Doses ``[n]`` and the memory after them."""
        states, doses, visit = memory
        states = torch.cat((obs.unsqueeze(1), states[:, :-1]), 1)
        row = visit if self.own_weights else 0
        dose = self.base[row].expand(len(obs))
        if self.state:
            dose = dose + torch.cat((states.flatten(1), doses), 1) @ self.weight[row]
        dose = dose.clamp(-1.0, 1.0)
        return dose, (states, torch.cat((dose.unsqueeze(1), doses[:, :-1]), 1), visit + 1)


CLASSES: dict[str, tuple[Callable[[], Any] | None, dict[str, Any]]] = {
    "one dose for everyone": (lambda: Linear(state=False), {}),
    "one dose per visit": (lambda: Linear(state=False, own_weights=True), {}),
    "linear in the state": (Linear, {}),
    "linear in the state and 4 earlier visits": (lambda: Linear(4), {}),
    "linear in the state, own weights per visit": (lambda: Linear(own_weights=True), {}),
    "network on the state": (None, {"recurrent": False}),
    "recurrent network": (None, {"recurrent": True}),
}


def main() -> None:
    """Train every class, evaluate on shared patients, keep page and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--iterations", type=int, default=600, help="batches of 1,024 patients [%(default)s]")
    parser.add_argument("--patients", type=int, default=4000, help="evaluated on [%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    options: dict[str, Any] = {"variant": VARIANT}
    known = known_patients(ENV_ID, arguments.patients, SEED, **options)
    returns = {}
    for name, (make, kind) in CLASSES.items():
        settings = kind or {"recurrent": False, "learning_rate": 2e-2}
        policy = train(
            ENV_ID,
            policy=make() if make else None,
            seed=SEED,
            iterations=arguments.iterations,
            **settings,
            **options,
        )
        doses = doses_of(policy, ENV_ID, arguments.patients, SEED, **options)
        returns[name] = expected_return(known, doses, 1.0)
        print(f"{(time.process_time() - began) / 60:5.1f} min  {name}", file=sys.stderr, flush=True)
    base = returns["one dose for everyone"][None]
    rows = [
        {"name": name, "return": mean_over_seeds(x[None]), "more": paired_difference(x[None], base)}
        for name, x in returns.items()
        if x[None] is not base
    ]
    minutes = (time.process_time() - began) / 60
    lines = [[str(r["name"]), str(r["return"]), str(r["more"])] for r in rows]
    lines[0][-1] = ""
    parts = [
        "# What a class of policies can reach",
        f"`OMP_NUM_THREADS=1 python benchmarks/experiments/reach.py --iterations {arguments.iterations} "
        "--patients "
        f"{arguments.patients}` on {describe()}; dosing {__version__}; {minutes:.1f} minutes of processor "
        "time.",
        f"SimEnv3, {VISITS} visits; every class trained through the simulator on {arguments.iterations} "
        f"batches of 1,024 fresh patients. Expected return on {arguments.patients:,} other patients, the "
        "same for all, with 95 % intervals over patients; the difference is paired.",
        table(["policy", "return", "more than one dose for everyone"], lines),
        NOT_FOR_PATIENTS,
    ]
    text = "\n\n".join(parts) + "\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(
        arguments.out / "reach.json", {"machine": describe(), "version": __version__, "rows": plain(rows)}
    )
    write_atomic(arguments.out / "reach.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
