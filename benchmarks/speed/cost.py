"""What every agent costs: network passes, FLOPs, time and memory of an update, and time of a recommendation.

    python benchmarks/speed/cost.py [--agents NAME ...] [--study FOLDER]

Two tables. The first has every agent at its own default settings on the treatment task (8 states, 1 dose,
batch 256, one seed); the second has the generative and distributional agents at equal widths (four layers of
512) with 37 observations and 5 actions, the shape FAN's repository measures. Each agent is a process of its
own with one thread. Updates are those that train the policy: a first phase that fits something else comes
before them and is not in them. Times are processor time, medians over rounds.

``--study`` names a folder in which ``python -m dosing compare --agents all`` left its table: the picture then
sets the returns beside these costs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from benchmarks.speed.counting import flops
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.models.networks import Linear, Mlp
from dosing.runs.files import read_json, write_atomic, write_json
from dosing.studies.report.svg import COLOURS, GREY, minus, sheet, stroke, text, ticks
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Problem

RESULTS = Path(__file__).resolve().parents[1] / "results"
BATCH, ROWS, EPISODE = 256, 4800, 24
TREATMENT, WIDE = (8, 1), (37, 5)
"""Observation and action widths of the two tables."""
WIDTHS = (512, 512, 512, 512)
EQUAL = ("fql", "ifql", "fan", "faql", "nbrac", "nfql", "iqn", "c51", "value_flows")
"""Agents of the second table, where the suite has them."""
CANDIDATE_STATES = 256
"""States of one batch of recommendations."""
PANELS = (
    ("update_flops", 1e-6, "MFLOP per update"),
    ("recommendation_seconds", 1e3, "ms per recommended dose"),
)
NAMES, COLUMN, ROW, TOP, RIGHT = 150, 280, 17, 30, 16
"""Sizes in the picture, in pixels."""


def transitions(n_obs: int, n_act: int) -> Dataset:
    """Random transitions in episodes of 24, which is all that costs depend on."""
    make = torch.Generator().manual_seed(0)
    obs = torch.randn(ROWS, n_obs, generator=make)
    starts = torch.arange(0, ROWS + 1, EPISODE)
    terminated = torch.zeros(ROWS)
    terminated[starts[1:] - 1] = 1.0
    identity = Transform((0.0,) * n_obs, (1.0,) * n_obs, (-1.0,) * n_act, (1.0,) * n_act)
    return Dataset(
        obs=obs,
        act=2.0 * torch.rand(ROWS, n_act, generator=make) - 1.0,
        reward=torch.randn(ROWS, generator=make),
        next_obs=torch.cat((obs[1:], obs[:1])),
        terminated=terminated,
        starts=starts,
        transform=identity,
    )


class Passes:
    """Counts rows that pass through each network, in units of one batch; members of an ensemble count each.

    A network is named by the attribute of the agent that holds it; a target network counts as its original.
    """

    def __init__(self, agent: Agent) -> None:
        self.rows: dict[str, float] = {}
        for path, module in agent.named_modules():
            if isinstance(module, Mlp) and len(module.layers):
                name = path.split(".")[0].removesuffix("_target")
                module.register_forward_pre_hook(self._hook(name, module))

    def _hook(self, name: str, network: Mlp) -> Any:
        layer: Any = network.layers[0]
        members = layer.members or 1 if isinstance(layer, Linear) else 1

        def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.rows[name] = self.rows.get(name, 0.0) + inputs[0].shape[-2] * members

        return count

    def words(self, updates: int) -> str:
        """Passes per sample and update, by network."""
        return ", ".join(f"{n} {r / updates / BATCH:.3g}" for n, r in self.rows.items()) or "no perceptron"


def measure(
    name: str, n_obs: int, n_act: int, config: dict[str, Any], seconds: float = 1.0
) -> dict[str, Any]:
    """Costs of one agent in this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    agent = agents.build(name, config, Problem(n_obs, n_act, EPISODE), (0,))
    sampler, take = Sampler(transitions(n_obs, n_act), agent, BATCH), updater(agent)
    batch = sampler.batch_size
    step = agent.warm_up + 64  # a multiple of the period of every delayed update
    step -= step % 4

    def update() -> None:
        nonlocal step
        take(sampler(step))
        step += 1

    for _ in range(8):
        update()
    rates = []
    for _ in range(5):
        count, start = 0, time.process_time()
        while time.process_time() - start < seconds / 5:
            update()
            count += 1
        rates.append(count / (time.process_time() - start))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    executed = flops(update)
    one, many = (torch.randn(1, count, n_obs) for count in (1, CANDIDATE_STATES))
    with torch.no_grad():
        asked = flops(lambda: agent.policy(many).mode) / CANDIDATE_STATES
        single, several = (_seconds(agent, obs, seconds / 5) for obs in (one, many))
    passes = Passes(agent)
    for _ in range(4):
        update()
    words = passes.words(4)
    if batch != BATCH:
        words = f"batches of {batch} rows"
    return {
        "agent": name,
        "parameters": sum(p.numel() for p in agent.parameters() if p.requires_grad),
        "passes": words,
        "update_flops": executed,
        "updates_per_second": statistics.median(rates),
        "memory_bytes": 1024 * memory,
        "recommendation_flops": asked,
        "recommendation_seconds": single,
        "recommendations_per_second": CANDIDATE_STATES / several,
    }


def _seconds(agent: Agent, obs: torch.Tensor, seconds: float) -> float:
    """Processor seconds of one call of the policy's recommended dose."""

    def ask() -> torch.Tensor:
        return agent.policy(obs).mode

    ask()  # the first call allocates
    count, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        ask()
        count += 1
    return (time.process_time() - start) / count


def apart(name: str, n_obs: int, n_act: int, config: dict[str, Any]) -> dict[str, Any]:
    """:func:`measure` in a process of its own."""
    task = json.dumps([name, n_obs, n_act, config])
    said = subprocess.run(
        [sys.executable, __file__, "--one", task],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return result


def rows_of(result: Sequence[dict[str, Any]]) -> str:
    """One table."""
    head = (
        "agent",
        "parameters",
        "passes per sample and update",
        "MFLOP per update",
        "updates per CPU-second",
        "memory, MB",
        "MFLOP per recommended dose",
        "one dose, ms",
        "doses per CPU-second",
    )
    lines = [
        [
            agents.find(x["agent"]).title,
            f"{x['parameters']:,}",
            x["passes"],
            f"{x['update_flops'] * 1e-6:,.0f}",
            f"{x['updates_per_second']:.1f}",
            f"{x['memory_bytes'] * 1e-6:.0f}",
            f"{x['recommendation_flops'] * 1e-6:.3f}",
            f"{1e3 * x['recommendation_seconds']:.2f}",
            f"{x['recommendations_per_second']:,.0f}",
        ]
        for x in result
    ]
    return table(head, lines)


def claims(result: Sequence[dict[str, Any]]) -> str:
    """What FAN's paper says about costs, and what was measured at equal widths."""
    by = {x["agent"]: x for x in result}
    out = []
    if {"fan", "fql"} <= by.keys():
        ratio = by["fan"]["update_flops"] / by["fql"]["update_flops"]
        out.append(f"FLOPs of an update, FAN / FQL with 10 Euler steps: {ratio:.2f}.")
    if {"fan", "value_flows"} <= by.keys():
        ratio = by["value_flows"]["updates_per_second"] / by["fan"]["updates_per_second"]
        out.append(f"Processor time of an update, FAN / Value Flows: {ratio:.2f}.")
    return "\n".join(out)


def number_of(cost: float) -> str:
    """Two digits, or all before the point."""
    return f"{cost:,.0f}" if cost >= 10.0 else f"{cost:.2g}"


def picture(
    result: Sequence[dict[str, Any]], returns: dict[str, tuple[float, float, float]], note: str
) -> str:
    """One row per agent, best return first: its return, FLOPs of an update, time of a recommendation; SVG."""
    known = sorted((x for x in result if x["agent"] in returns), key=lambda x: -returns[x["agent"]][0])
    low = min(min(returns[x["agent"]]) for x in known)
    high = max(max(returns[x["agent"]]) for x in known)
    bottom = TOP + ROW * len(known)
    width, height = NAMES + 3 * COLUMN, bottom + 76
    out = [
        *sheet(width, height),
    ]

    def middle(row: int) -> float:
        return TOP + ROW * (row + 0.5)

    for row, x in enumerate(known):
        out.append(text(NAMES - 8, middle(row) + 4, agents.find(x["agent"]).title, size=11, anchor="end"))
        out.append(stroke(NAMES, middle(row), width - RIGHT, middle(row), "#f0f0f0"))

    span = COLUMN - RIGHT

    def return_at(value: float) -> float:
        return NAMES + (span - 24) * (value - low) / (high - low)

    out.append(text(NAMES, 20, "return, 95 % interval", size=13))
    for value in ticks(low, high):
        out.append(stroke(return_at(value), TOP, return_at(value), bottom, "#e4e4e4"))
        out.append(text(return_at(value), bottom + 16, minus(f"{value:g}"), anchor="middle", fill=GREY))
    for row, x in enumerate(known):
        value, least, most = map(return_at, returns[x["agent"]])
        out.append(stroke(least, middle(row), most, middle(row), COLOURS[0], 1.6))
        out.append(f'<circle cx="{value:.1f}" cy="{middle(row):.1f}" r="3.4" fill="{COLOURS[0]}"/>')
    for number, (field, factor, words) in enumerate(PANELS, 1):
        left = NAMES + number * COLUMN
        costs = [math.log10(x[field] * factor) for x in known]
        first, last = math.floor(min(costs)), math.ceil(max(costs))
        out.append(text(left, 20, words, size=13))
        for decade in range(first, last + 1):
            at = left + (span - 40) * (decade - first) / (last - first)
            out.append(stroke(at, TOP, at, bottom, "#e4e4e4"))
            if last - first < 5 or (last - decade) % 2 == 0:
                out.append(text(at, bottom + 16, f"{10.0**decade:,g}", anchor="middle", fill=GREY))
        for row, (x, cost) in enumerate(zip(known, costs, strict=True)):
            at = left + (span - 40) * (cost - first) / (last - first)
            out.append(f'<circle cx="{at:.1f}" cy="{middle(row):.1f}" r="3.4" fill="{COLOURS[1]}"/>')
            out.append(text(at + 6, middle(row) + 4, number_of(x[field] * factor), size=9, fill=GREY))
    out.append(text(8, height - 34, "Costs on logarithmic scales, at default settings. " + note, fill=GREY))
    out.append(text(8, height - 16, NOT_FOR_PATIENTS, fill=GREY))
    return "\n".join([*out, "</svg>"]) + "\n"


def study_returns(folder: Path) -> tuple[dict[str, tuple[float, float, float]], str]:
    """Recommended return with its interval by agent, from a study's table, and what it rests on."""
    titles = {entry.title: name for name, entry in agents.AGENTS.items()}
    result, basis = {}, ""
    for row in read_json(folder / "table.json")["rows"]:
        title = row["name"].split(",")[0]
        if title in titles and row["sampled"]:
            e = row["recommended"]
            result[titles[title]] = (e["value"], e["low"], e["high"])
            basis = f"{e['n_seeds']} seeds, {e['n']:,} new patients"
    return result, basis


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What every agent costs.")
    parser.add_argument("--agents", nargs="*", default=list(agents.AGENTS))
    parser.add_argument("--study", type=Path, help="folder of a comparison whose returns are drawn")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, keep."""
    options = arguments()
    if options.one:
        torch.set_num_threads(1)
        print(json.dumps(measure(*json.loads(options.one))))
        return
    treatment = []
    for name in options.agents:
        treatment.append(apart(name, *TREATMENT, {}))
        print(name, f"{treatment[-1]['updates_per_second']:.1f} updates/s", flush=True)
    equal = [apart(name, *WIDE, {"hidden": WIDTHS}) for name in EQUAL if name in options.agents]
    about = f"Version {__version__}. {describe()}; one thread, one seed, batch {BATCH}."
    studied = f" --study {options.study}" if options.study else ""
    parts = [
        "# What every agent costs",
        f"`python benchmarks/speed/cost.py{studied}`. {about}",
        "## At the default settings, on the treatment task\n\n" + rows_of(treatment),
    ]
    if equal:
        parts.append(
            f"## At equal widths (4 x 512), 37 observations, 5 actions\n\n{rows_of(equal)}\n\n{claims(equal)}"
        )
    if options.study:
        returns, basis = study_returns(options.study)
        parts.append("![Returns against costs](cost.svg)")
        note = f"Returns of the recommended dose in the study given: {basis}."
        write_atomic(RESULTS / "cost.svg", picture(treatment, returns, note).encode())
    page = "\n\n".join(parts) + "\n"
    write_atomic(RESULTS / "cost.md", page.encode())
    write_json(RESULTS / "cost.json", {"about": about, "treatment": treatment, "equal": equal})
    print(page)


if __name__ == "__main__":
    main()
