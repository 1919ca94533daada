"""What the width of FtTPO's dose set costs and buys, and what its actor's quadrature buys.

    OMP_NUM_THREADS=1 python benchmarks/experiments/width.py [--patients 20000] [--updates 1500] [--out
    FOLDER]

Three distributions around one dose: a Cauchy proposal of scale s, and the two actors of least divergence from
it, FtTPO's parabola and its Gaussian counterpart. Writes ``width.md`` and ``width.svg``; under two minutes of
one core.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS
from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.distributions.q_gaussian import QGaussian, support_radius
from dosing.distributions.quadrature import least_divergence_scale, standard_nodes
from dosing.evaluation.best_constant import best_constant
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import constant
from dosing.models.batch import Batch
from dosing.rng import generator
from dosing.studies.report.svg import COLOURS, DASHES, GREY, stroke, text, ticks
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Act, Array, Problem
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory

ENV_ID, VARIANT = "dosing/Treatment-v0", "simenv3"
DISTRIBUTIONS = {"parabola": 0.0, "Gaussian counterpart": 1.0, "Cauchy proposal": 2.0}
"""Distributions by their index q."""
SCALES = (0.02, 0.05, 0.1, 0.15)
"""Of the proposal, on the [-1, 1] axis of a dose."""
TEMPERATURE = 0.1
LOSSES = ("reverse_kl", "quadrature_kl", "closed_form_width")
SEEDS, HIDDEN, BATCH = (0, 1, 2, 3), (64, 64), 256


def distribution_of(name: str, s: float, mean: float = 0.0) -> QGaussian:
    """The proposal of scale ``s``, or the distribution of least divergence from it."""
    q = DISTRIBUTIONS[name]
    scale = s if q == 2.0 else s * least_divergence_scale(q, 2.0)
    return QGaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), q)


def half_width(s: float) -> float:
    """Half-width of the parabola of least divergence."""
    return s * least_divergence_scale(0.0, 2.0) * support_radius(0.0)


# One step, in closed form


def divergence(h: float, s: float) -> float:
    """KL of the parabola of half-width ``h`` from a Cauchy distribution of scale ``s``, same centre."""
    nodes, weights = standard_nodes(0.0, 200)
    scale = torch.tensor(h / support_radius(0.0), dtype=torch.float64)
    fat = distribution_of("Cauchy proposal", s)
    cross = (torch.from_numpy(weights) * fat.log_prob(scale * torch.from_numpy(nodes))).sum()
    return float(-QGaussian(0.0, scale, 0.0).entropy() - cross)


def lost(name: str, s: float, cells: int = 100_000) -> float:
    """E (a - m)^2 of the executed dose at m = 0: what the reward 1 - (a - m)^2 loses against the dose m."""
    distribution, u = distribution_of(name, s), (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    return float(distribution.icdf(u).clamp(-1.0, 1.0).square().mean())


def one_step() -> list[str]:
    """Tables of the quadratic reward."""
    s = 0.1
    best = half_width(s)
    rows = []
    for h in (0.25 * best, 0.5 * best, best, 1.5 * best, 2.0 * best):
        kept = min(math.sqrt(TEMPERATURE + h * h / 5.0), 1.0)
        rows.append([f"{h:.3f}", f"{h * h / 5.0:.4f}", f"{divergence(h, s):.3f}", f"{kept:.0%}"])
    head = ("half-width h", "reward lost, h^2 / 5", "divergence from the proposal", "uniform doses that pass")
    distributions = [
        [
            f"{s:g}",
            f"{half_width(s):.3f}",
            *(f"{lost(n, s):.4f}" for n in DISTRIBUTIONS),
            f"{half_width(s) ** 2 / 5:.4f}",
        ]
        for s in SCALES
    ]
    return [
        "## One step, reward 1 - (a - m)^2 around the mean m",
        f"A parabola of half-width h around m, beside a Cauchy proposal of scale {s:g}: h* = {best:.3f}. V "
        f"is the actor's own value, so a recorded dose has a weight (temperature tau = {TEMPERATURE:g}) if "
        "it is within sqrt(tau + h^2 / 5) of m. Width costs reward; it buys closeness to the data, and "
        "more of them.",
        table(head, rows),
        "Reward lost by the executed dose at m = 0, limits -1 and 1:",
        table(("proposal's scale", "h*", *DISTRIBUTIONS, "parabola, closed form"), distributions),
    ]


# Whole episodes, simulated


def around(name: str, s: float, mean: float) -> Act:
    """The rule that draws every dose from one distribution around ``mean``, with common noise."""
    distribution = distribution_of(name, s, mean)

    def act(obs: Any, visit: int) -> Array:
        u = torch.from_numpy(generator(0, "evaluation", visit).random((*obs.shape[:2], 1, 1)))
        return np.asarray(distribution.rsample_from(u))

    return act


@dataclass(frozen=True)
class WidthCurve:
    """Mean return lost per patient against the constant dose, and its 95 % half-interval."""

    distribution: str
    s: float
    lost: float
    error: float
    limited: float


def episodes(patients: int) -> tuple[float, float, list[WidthCurve]]:
    """Best constant dose, its return, and what every distribution around it loses, paired by patient."""
    factory = CohortFactory(ENV_ID, {"variant": VARIANT})
    mean, _ = best_constant(factory, patients)
    reference = rollout(factory, constant(mean), (0,), patients)
    result = []
    for name in DISTRIBUTIONS:
        for s in SCALES:
            outcome = rollout(factory, around(name, s, mean), (0,), patients)
            difference = (reference.returns - outcome.returns).ravel()
            error = 1.96 * difference.std(ddof=1) / math.sqrt(patients)
            result.append(WidthCurve(name, s, difference.mean(), error, outcome.limited.mean()))
    return mean, float(reference.returns.mean()), result


# The actor's gradient, and its width along training


def dataset(patients: int = 50) -> Dataset:
    """Recorded visits of patients dosed at random."""
    return Dataset.from_episodes(simulate(ENV_ID, patients=patients, seed=0, variant=VARIANT))


def build(loss: str, data: Dataset) -> Agent:
    """A stack of fresh agents."""
    problem = Problem(data.obs.shape[1], data.act.shape[1])
    return agents.build("fttpo", {"hidden": HIDDEN, "actor_loss": loss}, problem, SEEDS)


@dataclass(frozen=True)
class Training:
    """Half-widths ``[updates, S]`` of one actor loss, processor time per update, and the trained stack."""

    widths: Array
    seconds: float
    agent: Agent


def train(loss: str, data: Dataset, updates: int) -> Training:
    """Train a stack."""
    agent = build(loss, data)
    sampler, take = Sampler(data, agent, BATCH), updater(agent)
    start, widths = time.process_time(), []
    for step in range(updates):
        widths.append(take(sampler(step))["half_width"])
    return Training(torch.stack(widths).double().numpy(), (time.process_time() - start) / updates, agent)


def gradients(agent: Agent, batches: Sequence[Batch]) -> Array:
    """Gradient of the actor's loss by its parameters, ``[batches, S, parameters]``."""
    own = [p for name, p in agent.named_parameters() if name.startswith("actor.")]
    result = []
    for batch in batches:
        parts = torch.autograd.grad(agent.losses(batch)["actor"].sum(), own)
        result.append(torch.cat([part.flatten(1) for part in parts], 1))
    return torch.stack(result).double().numpy()


def variances(trained: Agent, data: Dataset, count: int) -> list[list[str]]:
    """Variance of the gradient for one batch under fresh noise, and over batches, by actor loss."""
    rows = []
    for loss in LOSSES[:2]:
        agent = build(loss, data)
        agent.load_state_dict(trained.state_dict())
        sampler = Sampler(data, agent, BATCH)
        batches = [sampler(step) for step in range(count)]
        one = batches[0]
        again = [Batch(one.obs, one.act, one.reward, one.next_obs, one.terminated, b.noise) for b in batches]
        within, between = gradients(agent, again), gradients(agent, batches)
        cells = [np.median(g.var(0, ddof=1).sum(-1)) for g in (within, between)]
        size = np.median(np.linalg.norm(between.mean(0), axis=-1))
        rows.append([loss, *(f"{cell:.2e}" for cell in cells), f"{size:.2e}"])
    return rows


# The page


def panel(
    title: str,
    note: str,
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    left: int,
    legend: int,
) -> list[str]:
    """One panel of 400 x 260 pixels with a line per name; both axes start at 0."""
    right = max(max(x) for _, x, _ in lines)
    top = max(max(y) for _, _, y in lines)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + 44 + 336 * x / right, 226 - 180 * y / top

    out = [text(left + 8, 20, title, size=12)]
    for value in ticks(0.0, top):
        x, y = place(0.0, value)
        out += [
            stroke(x, y, x + 336, y, "#e4e4e4"),
            text(x - 5, y + 4, f"{value:g}", anchor="end", fill=GREY),
        ]
    for value in ticks(0.0, right):
        out.append(text(place(value, 0.0)[0], 242, f"{value:g}", anchor="middle", fill=GREY))
    for k, (name, xs, ys) in enumerate(lines):
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(xs, ys, strict=True))
        look = f'fill="none" stroke="{COLOURS[k]}" stroke-width="2" stroke-dasharray="{DASHES[k]}"'
        out += [f'<polyline points="{points}" {look}/>']
        out += [stroke(legend, 40 + 14 * k, legend + 24, 40 + 14 * k, COLOURS[k], 2, DASHES[k])]
        out.append(text(legend + 30, 44 + 14 * k, name))
    return [*out, text(left + 8, 258, note, fill=GREY)]


def picture(result: Sequence[WidthCurve], trainings: dict[str, Training]) -> str:
    """Return lost against the half-width, and half-width along training."""
    lines = []
    for name in DISTRIBUTIONS:
        rows = [episode for episode in result if episode.distribution == name]
        lines.append((name, [0.0, *(half_width(r.s) for r in rows)], [0.0, *(r.lost for r in rows)]))
    widths = []
    for loss, training in trainings.items():
        means = training.widths.mean(1)
        steps = range(0, len(means), max(len(means) // 150, 1))
        widths.append((loss, list(steps), [means[k] for k in steps]))
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 286" width="800" height="286" '
            'font-family="system-ui, DejaVu Sans, sans-serif">',
            '<rect width="800" height="286" fill="white"/>',
            *panel(
                "Return lost per episode",
                "x: half-width h* of the parabola beside the distribution",
                lines,
                0,
                52,
            ),
            *panel("Half-width along training", "x: gradient updates; mean of 4 seeds", widths, 400, 640),
            text(8, 278, NOT_FOR_PATIENTS, fill=GREY),
            "</svg>\n",
        ]
    )


def page(patients: int, updates: int, draws: int = 200) -> tuple[str, str]:
    """The page and its picture.

    Args:
        patients: simulated per rule.
        updates: of every training.
        draws: of the noise of one batch, and batches, over which gradients vary.
    """
    start = time.process_time()
    mean, value, result = episodes(patients)
    data = dataset()
    trainings = {loss: train(loss, data, updates) for loss in LOSSES}
    noise = variances(trainings["reverse_kl"].agent, data, draws)

    def cell(name: str, s: float) -> str:
        (row,) = [episode for episode in result if (episode.distribution, episode.s) == (name, s)]
        return f"{row.lost:.3f} ± {row.error:.3f}" + (f" ({row.limited:.1%})" if row.limited > 0.0 else "")

    lines = [[f"{s:g}", f"{half_width(s):.3f}", *(cell(name, s) for name in DISTRIBUTIONS)] for s in SCALES]
    steps = [k for k in (100, 300, 1000, updates) if k <= updates]
    along = []
    for loss, training in trainings.items():
        w = training.widths
        cells = [f"{w[k - 1].mean():.3f}" for k in dict.fromkeys(steps)]
        along.append([loss, *cells, f"{1e3 * training.seconds:.2f}"])
    head = ("actor loss", *(f"h after {k}" for k in dict.fromkeys(steps)), "ms per update")
    parts = [
        "# What width costs and buys",
        f"Made by `python benchmarks/experiments/width.py --patients {patients} --updates {updates}` on: "
        f"{describe()}.",
        "![Return lost against half-width; half-width along training](width.svg)",
        *one_step(),
        f"## Whole episodes of SimEnv3, {patients:,} patients",
        f"Return lost per episode of 24 visits when every dose is drawn around {mean:.3f}, the best constant "
        f"dose (return {value:.2f}), against giving that dose: mean over patients ± half the 95 % interval, "
        "paired by patient, the same noise for every distribution; in brackets the share of doses held "
        "at a limit.",
        table(("proposal's scale", "h*", *DISTRIBUTIONS), lines),
        "## The actor's gradient",
        f"Trained for {updates} updates on 50 recorded patients, batches of {BATCH}: summed variance of the "
        f"gradient by the actor's parameters over {draws} draws of one batch's noise, and over {draws} "
        "batches; size of the mean gradient. Medians over 4 seeds.",
        table(("actor loss", "variance by noise", "variance over batches", "size of the mean"), noise),
        "## Width along training",
        "Mean over 4 seeds and the batch of the half-width; processor time with sampling, 2x64 units.",
        table(head, along),
        f"Processor time of the whole page: {time.process_time() - start:.0f} s.",
        NOT_FOR_PATIENTS,
    ]
    return "\n\n".join(parts) + "\n", picture(result, trainings)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="What the width of FtTPO's dose set costs and buys.")
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    words, drawn = page(arguments.patients, arguments.updates)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "width.md").write_text(words, encoding="utf-8")
    (arguments.out / "width.svg").write_text(drawn, encoding="utf-8")
    print(f"{arguments.out / 'width'}.md, .svg")


if __name__ == "__main__":
    main()
