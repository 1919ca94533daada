"""Training speed: every agent of the suite beside what a user would take instead, on the same work.

    python benchmarks/speed/training.py [--references FOLDER] [--rounds 9] [--seconds 0.4] [--go-on]

It is written after every row; ``--go-on`` keeps the rows that are there and measures the others.

The work: batch 256 (Decision Transformer: 64 windows of 20 visits), observation 17, action 6, 100,000 random
transitions, one seed. Of PEX it is the updates of a trial, without the visits. Every learner is a process of
its own at its own widths and settings; those of one method are asked in turns (A B C A B C ...), so that a
busy machine slows all of them alike. Rates are updates per second of *processor* time, medians over
rounds; a ratio is taken within its round, and given as median (smallest to largest). The number without
sampling leaves out choosing and gathering the transitions, never the noise a method draws.

References are used, not shipped: they live in a folder outside the repository, are run by its own Python and
are never imported here. What is missing is named in the table. To install them, in an empty folder:

    python -m venv venv
    venv/bin/pip install torch==2.13.0 d3rlpy        (a CPU build of torch where there is no GPU)
    python -m venv venv-jax
    venv-jax/bin/pip install torch==2.13.0 jax flax optax chex tqdm distrax ml_collections
    git clone https://github.com/corl-team/CORL
    git clone https://github.com/lingweizhu/fat2thin
    git clone https://github.com/JasonMa2016/CODAC
    git clone https://github.com/seohongpark/fql
    git clone https://github.com/brianlsy98/FAN
    git clone https://github.com/chongyi-zheng/value-flows
    git clone https://github.com/davidbrandfonbrener/onestep-rl
    git clone https://github.com/Haichao-Zhang/PEX

and name that folder by ``--references`` or the variable DOSING_REFERENCES. A further reference is one line in
``TASKS`` and one function in ``benchmarks/references``. Quasi-optimal learning has no
reference: it is released in R and C++ only. CODAC has none in value-flows, where it is another method: its
policy is a flow, and its critic takes every fraction through all layers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

# Before this folder, where a file has the name of the package simulator.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import agents
from agents import finetuning
from benchmarks import machine, report
from benchmarks.speed import product
from benchmarks.speed.counting import useful_flops
from benchmarks.speed.processes import AbsentError, Process, ours
from benchmarks.speed.protocol import BATCH, N_ACT, N_OBS

RESULTS = Path(__file__).resolve().parents[1] / "results"
VARIABLE = "DOSING_REFERENCES"
STACKS = (5, 10)
"""Seeds trained together, for time and memory."""
PAIRED = ("fttpo", "iql")
"""Agents run as two processes against one."""


@dataclass(frozen=True)
class Reference:
    """What a user would take instead.

    Attributes:
        title: name in the table.
        module: adapter in ``benchmarks.references``.
        method: what the adapter is asked for.
        checkout: folder among the references, None for an installed package.
        python: its interpreter among the references.
    """

    title: str
    module: str
    method: str
    checkout: str | None = None
    python: str = "venv/bin/python"

    def start(self, folder: Path | None) -> Process:
        """Start its process.

        Raises:
            AbsentError: it is not installed.
        """
        if folder is None:
            raise AbsentError(f"no folder of references was named (--references or {VARIABLE})")
        command = [f"benchmarks.references.{self.module}", self.method]
        if self.checkout is not None:
            if not (folder / self.checkout).is_dir():
                raise AbsentError(f"there is no checkout {self.checkout} in the folder of references")
            command.append(str(folder / self.checkout))
        return Process(folder / self.python, command)


def corl(method: str) -> Reference:
    """A method of CORL."""
    return Reference("CORL", "corl", method, "CORL")


def corl_jax(method: str) -> Reference:
    """A method of CORL that JAX computes."""
    return Reference("CORL (JAX)", "corl_jax", method, "CORL", "venv-jax/bin/python")


def codac(method: str) -> Reference:
    """A method of CODAC's code."""
    return Reference("CODAC's code", "codac", method, "CODAC")


def fql(method: str) -> Reference:
    """A method of fql that JAX computes."""
    return Reference("fql (JAX)", "flow_jax", method, "fql", "venv-jax/bin/python")


def fan(method: str) -> Reference:
    """A method of FAN's code that JAX computes."""
    return Reference("FAN's code (JAX)", "flow_jax", method, "FAN", "venv-jax/bin/python")


def value_flows(method: str) -> Reference:
    """A method of Value Flows' code that JAX computes."""
    return Reference("Value Flows' code (JAX)", "flow_jax", method, "value-flows", "venv-jax/bin/python")


def onestep(phase: str) -> Reference:
    """A phase of Onestep RL's code."""
    return Reference("Onestep RL's code", "onestep", phase, "onestep-rl")


def pex(method: str) -> Reference:
    """A method of PEX's code."""
    return Reference("PEX's code", "pex", method, "PEX")


def fat2thin(method: str) -> Reference:
    """A method of the code released with FtTPO."""
    return Reference("FtTPO as released", "fat2thin", method, "fat2thin")


def d3rlpy(method: str) -> Reference:
    """A method of d3rlpy."""
    return Reference("d3rlpy", "d3rlpy_learners", method)


@dataclass(frozen=True)
class Task:
    """One line of comparison: the same work by us and by others.

    Attributes:
        agent: registry key of an agent, or of a method of fine-tuning that starts from IQL.
        references: what it is compared with.
        config: fields of our configuration that differ from the defaults, to match the references.
        label: its name in the table if the agent has several.
    """

    agent: str
    references: tuple[Reference, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """Name in the table."""
        return self.label or self.agent


VAE = {"vae_hidden": (750, 750), "n_samples": 1, "dropout": 0.0}
WIDE = {"hidden": (512, 512, 512, 512)}
ONESTEP = {"hidden": (1024, 1024), "behaviour_steps": 1}
TASKS: tuple[Task, ...] = (
    Task("fttpo", (fat2thin("fttpo"),)),
    Task("iql", (corl("iql"), fat2thin("iql"), d3rlpy("iql"))),
    Task("td3_bc", (corl("td3_bc"), fat2thin("td3_bc"), d3rlpy("td3_bc"))),
    Task("awac", (fat2thin("awac"), d3rlpy("awac"))),
    Task("awac", (corl("awac"),), {"hidden": (256, 256, 256)}, "awac, 3 layers"),
    Task("sql", (fat2thin("sql"),)),
    Task("xql", (fat2thin("xql"),)),
    Task("inac", (fat2thin("inac"),)),
    Task("tawac", (fat2thin("tawac"),)),
    Task("spot", (corl("spot"),), VAE | {"vae_steps": 2}),
    Task("spot", (corl("spot_vae"),), VAE | {"vae_steps": 10**9}, "spot, its VAE"),
    Task("bc", (corl("bc"), d3rlpy("bc")), {"policy_family": "point"}),
    Task("rebrac", (corl_jax("rebrac"), d3rlpy("rebrac")), {"hidden": (256, 256, 256)}),
    Task("rebrac", (fql("rebrac"),), WIDE, "rebrac, 4x512"),
    Task("cql", (corl("cql"), d3rlpy("cql"))),
    Task("cal_ql", (corl("cal_ql"), d3rlpy("cal_ql"))),
    Task("bcq", (d3rlpy("bcq"),)),
    Task("bear", (d3rlpy("bear"),), {"mmd_only": 0}),
    Task("plas", (d3rlpy("plas"),), {"vae_steps": 2}),
    Task("codac", (codac("codac"),)),
    Task("fql", (fql("fql"),), WIDE),
    Task("ifql", (fql("ifql"),), WIDE),
    Task("fan", (fan("fan"),), WIDE),
    Task("faql", (fan("faql"),), WIDE),
    Task("nbrac", (fan("nbrac"),), WIDE),
    Task("nfql", (fan("nfql"),), WIDE),
    Task("value_flows", (value_flows("value_flows"),), WIDE),
    Task("iqn", (value_flows("iqn"),), WIDE | {"choice_quantiles": 16}),
    Task("c51", (value_flows("c51"),), WIDE),
    Task("decision_transformer", (corl("decision_transformer"),), {"width": 128, "layers": 3}),
    Task("onestep", (onestep("policy"),), ONESTEP | {"critic_steps": 1}),
    Task("onestep", (onestep("critics"),), ONESTEP | {"critic_steps": 10**9}, "onestep, its critics"),
    Task("onestep", (onestep("behaviour"),), ONESTEP | {"behaviour_steps": 10**9}, "onestep, its behaviour"),
    Task("pex", (pex("pex"),)),
)
"""An agent of the suite that is not here has a line of its own all the same, without references."""


def chosen(names: Sequence[str]) -> list[Task]:
    """The tasks of the named agents; all if none is named, and every agent of the suite."""
    listed = {task.agent for task in TASKS}
    tasks = [*TASKS, *(Task(name) for name in agents.AGENTS if name not in listed)]
    return [task for task in tasks if not names or task.agent in names]


@dataclass
class Row:
    """One learner and its measurements; lists run over rounds.

    Attributes:
        task: its name in the table.
        agent: registry key of the method.
        title: whose learner it is; empty for ours.
        config: fields of our configuration that differ.
        process: the running process, None if there is none.
        absent: why there is none.
        about: what the process said of itself.
        rates: updates per second of processor time by measurement.
        wall_rates: updates per second of the clock by measurement.
        cost: what the process said of memory, calls and times.
    """

    task: str
    agent: str
    title: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    process: Process | None = None
    absent: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    wall_rates: dict[str, list[float]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    def start(self, launch: Callable[[], Process]) -> None:
        """Start the process, or note why it cannot be."""
        try:
            self.process = launch()
            self.about = self.process.about
        except AbsentError as error:
            self.absent = str(error)

    def ours(self, seeds: int = 1) -> Process:
        """Our agent with this row's configuration.

        Raises:
            AbsentError: there is no such agent, or it refuses the work.
        """
        if self.agent not in {*agents.AGENTS, *finetuning.METHODS}:
            raise AbsentError("no agent of ours yet")
        config = json.dumps(dict(self.config))
        options = ("--seeds", str(seeds), "--config", config)
        return ours(self.agent, *options)

    def to_json(self) -> dict[str, Any]:
        """Every field but the process."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "process"}


MEASUREMENTS = {"update": (1, False), "sampled": (1, True), "two threads": (2, False)}
"""Threads, and whether sampling is part of it; on a busy machine two threads can collapse."""


def start(task: Task, folder: Path | None) -> list[Row]:
    """Start every process of a task: ours, then its references."""
    row = Row(task.name, task.agent, config=task.config)
    row.start(row.ours)
    rows = [row]
    for reference in task.references:
        row = Row(task.name, task.agent, reference.title)
        row.start(partial(reference.start, folder))
        rows.append(row)
    return rows


def measure(rows: Sequence[Row], rounds: int, seconds: float, most_threads: int) -> None:
    """Measure the rows in turns; the first turn finds how many updates fill the time, and is not kept."""
    running = [(row, row.process) for row in rows if row.process is not None]
    updates: dict[tuple[int, str], int] = {}
    for turn in range(-1, rounds):
        for name, (threads, sampling) in MEASUREMENTS.items():
            for k, (row, process) in enumerate(running):
                if threads > min(most_threads, row.about["threads"]):
                    continue
                count = updates.get((k, name), 2)
                took = process.ask("time", updates=count, threads=threads, sampling=sampling)
                if turn < 0:
                    longest = max(took["cpu"], took["wall"])
                    updates[k, name] = max(2, 2 * round(0.5 * took["updates"] * seconds / longest))
                    continue
                row.rates.setdefault(name, []).append(took["updates"] / took["cpu"])
                row.wall_rates.setdefault(name, []).append(took["updates"] / took["wall"])


def costs(rows: Sequence[Row]) -> None:
    """Ask every process what an update costs, and end it."""
    for row in rows:
        if row.process is None:
            continue
        # Memory first: counting needs some itself.
        row.cost = row.process.ask("memory") | row.process.ask("count")
        row.cost["seconds"] = 1.0 / statistics.median(row.rates["sampled"])
        row.process.close()
        hidden = row.config.get("hidden", (256, 256))
        useful = None if row.title else useful_flops(row.agent, BATCH, N_OBS, N_ACT, hidden)
        if useful is not None:
            row.cost["useful"] = useful


def stacks(rows: Sequence[Row], sizes: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Time and memory of our agents with several seeds trained together."""
    result: list[dict[str, Any]] = []
    for row in rows:
        if row.title or row.absent or not sizes:
            continue
        for seeds in sizes:
            process = row.ours(seeds)
            first = process.ask("time", updates=2, threads=1, sampling=True)
            count = 2 * max(1, round(seconds / first["cpu"]))
            times = [process.ask("time", updates=count, threads=1, sampling=True) for _ in range(3)]
            cost = process.ask("memory") | {"seconds": statistics.median(t["cpu"] / count for t in times)}
            if "useful" in row.cost:
                cost["useful"] = seeds * row.cost["useful"]
            result.append({"task": row.task, "settings": row.about["settings"], "seeds": seeds, "cost": cost})
            process.close()
        progress(f"{row.task}: stacks measured")
    return result


def pair(name: str, seconds: float, rounds: int = 5) -> dict[str, Any]:
    """Two single-thread processes of one agent against one, in turns: by the clock and by processor time.

    By the clock it is what a user gains, if nobody else uses the machine; by processor time it shows whether
    the two hinder each other (memory, caches, clock speed), whoever else does.
    """
    both = [ours(name), ours(name)]
    first = both[0].ask("time", updates=8, threads=1, sampling=True)
    ask = {"updates": max(8, round(8 * seconds / first["cpu"])), "threads": 1, "sampling": True}
    gain, gain_cpu, share = [], [], []
    for _ in range(rounds):
        alone = [p.ask("time", **ask) for p in both]
        began = time.perf_counter()
        for p in both:
            p.send("time", **ask)
        together = [p.receive() for p in both]
        took = time.perf_counter() - began
        gain.append(sum(a["wall"] for a in alone) / took)
        gain_cpu.append(sum(a["cpu"] / t["cpu"] for a, t in zip(alone, together, strict=True)))
        share.append(statistics.mean(t["cpu"] / t["wall"] for t in together))
    for p in both:
        p.close()
    return {"agent": name, "gain": gain, "gain_cpu": gain_cpu, "share": share}


def progress(text: str) -> None:
    """Say on standard error how far it is."""
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training speed beside the references.")
    parser.add_argument("--agents", nargs="+", default=[], help="registry keys [all]")
    parser.add_argument("--references", type=Path, default=os.environ.get(VARIABLE), metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="of one measurement")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=2, help="1 leaves out two threads")
    parser.add_argument("--stacks", type=int, nargs="*", default=STACKS, help="seeds trained together")
    parser.add_argument("--pairs", nargs="*", default=PAIRED, help="agents run as two processes")
    parser.add_argument("--go-on", action="store_true", help="keep the rows that are there")
    parser.add_argument("--no-product", dest="product", action="store_false", help="training only")
    parser.add_argument("--out", default="training", help="name of the two files in benchmarks/results")
    return parser.parse_args()


def main() -> None:
    """Measure everything, print the table, and keep it with every single number beside it."""
    options = arguments()
    torch.set_num_threads(1)
    folder = None if options.references is None else Path(options.references).resolve()
    file = RESULTS / f"{options.out}.json"
    load = os.getloadavg()[0]
    result: dict[str, Any] = {"rows": [], "stacks": [], "pairs": [], "product": None}
    if options.go_on and file.is_file():
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["machine"] != machine.describe():
            sys.exit(f"{file} was measured on another machine, {result['machine']}: give --out another name.")
    products = machine.products()
    progress("matrix products measured")
    result |= {
        "machine": machine.describe(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": options.seconds,
        "products": [asdict(p) for p in products],
        "best_float32": machine.best_float32(products),
    }

    def keep() -> None:
        result["load"] = [load, os.getloadavg()[0]]
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(result, indent=1), encoding="utf-8")
        file.with_suffix(".md").write_text(report.render(result), encoding="utf-8")

    for task in chosen(options.agents):
        if any(row["task"] == task.name for row in result["rows"]):
            continue
        lines = start(task, folder)
        measure(lines, options.rounds, options.seconds, options.threads)
        costs(lines)
        result["rows"] += [row.to_json() for row in lines]
        result["stacks"] += stacks(lines, options.stacks, options.seconds)
        keep()
        progress(f"{task.name} measured")
    paired = {pair["agent"] for pair in result["pairs"]}
    result["pairs"] += [pair(name, 2 * options.seconds) for name in options.pairs if name not in paired]
    if options.product:
        result["product"] = product.measure(progress)
    keep()
    print(report.render(result))


if __name__ == "__main__":
    main()
