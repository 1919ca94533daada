"""SPOT's estimates of how dense recorded doses are, and what they do to its doses.

    OMP_NUM_THREADS=1 python benchmarks/experiments/density.py [--seeds 5] [--steps 2000] [--study FOLDER]

First, doses recorded around -0.5 and +0.5 with a standard deviation of 0.1, whatever the state: what each
estimator reports at the modes and in the empty middle, in nats, beside the truth. Then environment SimEnv3,
50 patients x 24 visits, doses uniform within the limits, with the ``common`` settings but for widths: the
return of 1,000 new patients per seed under each estimator. The same command continues a study that was
stopped.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.options import add_resources, resources_of
from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.runs.files import write_atomic
from dosing.studies import Cohort, DataSource, Grid, TrainingSettings, compare
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Problem

RESULTS = Path(__file__).resolve().parents[1] / "results"
MODE, SPREAD, VISITS, DRAWS = 0.5, 0.1, 4096, 512
SMALL = {"hidden": (64, 64), "vae_hidden": (64, 64)}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "elbo, beta 0.5": {"density": "elbo", "vae_beta": 0.5},
    "elbo, beta 0.05": {"density": "elbo", "vae_beta": 0.05},
    "importance, beta 0.5": {"density": "importance", "vae_beta": 0.5, "n_samples": 16},
    "importance, beta 0.05": {"density": "importance", "vae_beta": 0.05, "n_samples": 16},
    "importance, beta 0.01": {"density": "importance", "vae_beta": 0.01, "n_samples": 16},
    "gaussian": {"density": "gaussian", "vae_beta": 0.5},
}
PENALTIES = (1.0,)
"""lambda for beta = 0.5; in other units it is divided so that a nat costs the same."""


def recorded() -> Dataset:
    """Visits with two modes of the dose."""
    rng = np.random.default_rng(0)
    dose = rng.choice([-MODE, MODE], VISITS) + SPREAD * rng.standard_normal(VISITS)
    obs = torch.as_tensor(rng.standard_normal((VISITS, 2)), dtype=torch.float32)
    return Dataset(
        obs=obs,
        act=torch.as_tensor(dose.clip(-1.0, 1.0), dtype=torch.float32)[:, None],
        reward=torch.zeros(VISITS),
        next_obs=obs.flip(0),
        terminated=torch.ones(VISITS),
        starts=torch.arange(VISITS + 1),
        transform=Transform((0.0, 0.0), (1.0, 1.0), (-1.0,), (1.0,)),
    )


def truth(dose: float) -> float:
    """The logarithm of their density."""
    parts = [math.exp(-0.5 * ((dose - m) / SPREAD) ** 2) for m in (-MODE, MODE)]
    return math.log(0.5 * sum(parts) / (SPREAD * math.sqrt(2.0 * math.pi)))


@torch.no_grad()
def log_densities(settings: dict[str, Any], updates: int, seeds: tuple[int, ...]) -> np.ndarray:
    """What a fitted estimator reports at -0.5, 0 and +0.5, mean over states, ``[S, 3]``."""
    config = SMALL | settings | {"n_samples": 1, "vae_steps": updates}
    agent: Any = agents.build("spot", config, Problem(2, 1, 1), seeds)
    sampler, take = Sampler(recorded(), agent, 256), updater(agent)
    with torch.enable_grad():
        for step in range(updates):
            take(sampler(step))
    torch.manual_seed(0)
    obs = torch.randn(len(seeds), 64, 2)
    none, noise = torch.zeros(len(seeds), 64), {"latent": torch.randn(len(seeds), 64, DRAWS, 2)}
    result = []
    for dose in (-MODE, 0.0, MODE):
        act = torch.full((len(seeds), 64, 1), dose)
        penalty = agent._penalty(Batch(obs, act, none, obs, none, noise), act)
        nats = -penalty * 2.0 / config["vae_beta"]
        if settings["density"] != "gaussian":  # the decoder's constant, which the penalty leaves out
            nats = nats - 0.5 * math.log(2.0 * math.pi * config["vae_beta"] / 4.0)
        result.append(nats)
    return torch.stack(result, -1).numpy()


def returns(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns by estimator and lambda."""
    training = TrainingSettings(steps=arguments.steps)
    grids = []
    for (_, settings), penalty in itertools.product(ESTIMATORS.items(), PENALTIES):
        scaled = SMALL | settings | {"penalty": penalty * 0.5 / settings["vae_beta"]}
        grids.append(Grid(("spot",), {f"spot.{k}": [v] for k, v in scaled.items()}, preset="common"))
    result = compare(
        arguments.study,
        grids,
        DataSource("dosing/Treatment-v0", Cohort(50, options={"variant": "simenv3"})),
        seeds=range(arguments.seeds),
        training=training,
        evaluation_patients=1000,
        resources=resources_of(arguments),
    )
    return result.to_json()


def page(densities: dict[str, np.ndarray], rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Both tables as markdown."""
    lines = [["truth", *(f"{truth(dose):.2f}" for dose in (-MODE, 0.0, MODE)), "no"]]
    for name, values in densities.items():
        left, middle, right = values.mean(0)
        prefers = "yes" if middle > max(left, right) else "no"
        lines.append([name, *(f"{x:.2f}" for x in (left, middle, right)), prefers])
    trained = list(itertools.product(ESTIMATORS, PENALTIES))
    by_run = []
    for index, row in enumerate(rows):
        value = row["recommended"]
        number = f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
        name = f"{trained[index][0]}, lambda {trained[index][1]:g}" if index < len(trained) else row["name"]
        by_run.append([name, number])
    return "\n\n".join(
        [
            "# How dense recorded doses are, by SPOT's estimators",
            f"`python benchmarks/experiments/density.py`. Version {__version__}. {describe()}.",
            f"Log-density fitted to {VISITS:,} doses with two modes, at the modes and between them, mean "
            f"over states and {arguments.seeds} seeds, {arguments.fit:,} updates, two hidden layers of 64:",
            table(["estimator", "-0.5", "0", "+0.5", "prefers the empty middle"], lines),
            f"Returns of 1,000 new patients per seed, {arguments.seeds} seeds, after {arguments.steps:,} "
            "updates, of which 1,000 fit the density, SimEnv3, 50 recorded patients; lambda as with beta "
            "0.5, a nat costs the same:",
            table(["SPOT", "return"], by_run),
            NOT_FOR_PATIENTS,
            "",
        ]
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--fit", type=int, default=600, help="updates of the estimator on two modes")
    parser.add_argument("--study", type=Path, default=Path("runs/density"))
    add_resources(parser)
    parser.set_defaults(device="cpu")
    arguments = parser.parse_args()
    seeds = tuple(range(arguments.seeds))
    densities = {name: log_densities(s, arguments.fit, seeds) for name, s in ESTIMATORS.items()}
    study = returns(arguments)
    text = page(densities, study["rows"], arguments)
    write_atomic(RESULTS / "density.md", text.encode())
    print(text)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"density: {error}")
