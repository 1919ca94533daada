"""Training speed: every agent of the suite beside what a user would take instead, on the same work.

    python benchmarks/training.py [--references FOLDER] [--rounds 9] [--seconds 0.4] [--out NAME]

The work: batch 256, observation 17, action 6, 100,000 random transitions, one seed. Every learner is a
process of its own at its own widths and settings, started once and asked in turns (A B C A B C ...), so that
a busy machine slows all of them alike. Rates are updates per second of *processor* time, medians over rounds;
a ratio is taken within its round, and given as median (smallest to largest). The number without sampling
leaves out choosing and gathering the transitions, never the noise a method draws.

References are used, not shipped: they live in a folder outside the repository, are run by its own Python and
are never imported here. What is missing is named in the table. To install them, in an empty folder:

    python -m venv venv
    venv/bin/pip install torch==2.13.0 d3rlpy        (a CPU build of torch where there is no GPU)
    git clone https://github.com/corl-team/CORL
    git clone https://github.com/lingweizhu/fat2thin

and name that folder by ``--references`` or the variable DOSING_REFERENCES. A further reference is one line in
``COMPARISONS`` and one function in ``benchmarks/references``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Before this folder, where a file has the name of the package simulator.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import agents
from benchmarks import machine, product, report
from benchmarks.counting import useful_flops
from benchmarks.processes import AbsentError, Process, ours
from benchmarks.protocol import BATCH, N_ACT, N_OBS

RESULTS = Path(__file__).resolve().parent / "results"
VARIABLE = "DOSING_REFERENCES"
STACKS = (1, 5, 10)
"""Seeds trained together, for the costs of our own agents."""


@dataclass(frozen=True)
class Reference:
    """What a user would take instead.

    Attributes:
        title: name in the table.
        module: adapter in ``benchmarks.references``.
        method: what the adapter is asked for.
        checkout: folder among the references, None for an installed package.
        hidden: its hidden widths; ours is measured at the same.
        python: its interpreter among the references.
    """

    title: str
    module: str
    method: str
    checkout: str | None = None
    hidden: tuple[int, ...] = (256, 256)
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


def corl(method: str, hidden: tuple[int, ...] = (256, 256)) -> Reference:
    """A method of CORL."""
    return Reference("CORL", "corl", method, "CORL", hidden)


def fat2thin(method: str) -> Reference:
    """A method of the code released with FtTPO."""
    return Reference("FtTPO as released", "fat2thin", method, "fat2thin")


def d3rlpy(method: str) -> Reference:
    """A method of d3rlpy."""
    return Reference("d3rlpy", "d3rlpy_learners", method)


COMPARISONS: dict[str, tuple[Reference, ...]] = {
    "fttpo": (fat2thin("fttpo"),),
    "iql": (corl("iql"), fat2thin("iql"), d3rlpy("iql")),
    "td3_bc": (corl("td3_bc"), fat2thin("td3_bc"), d3rlpy("td3_bc")),
    "awac": (fat2thin("awac"), d3rlpy("awac"), corl("awac", (256, 256, 256))),
}
"""By registry key; an agent of the suite without references has a row of its own all the same."""


@dataclass
class Row:
    """One learner and its measurements; lists run over rounds.

    Attributes:
        agent: registry key of the method.
        title: whose learner it is; empty for ours.
        hidden: hidden widths.
        precision: of our matrix products.
        process: the running process, None if there is none.
        absent: why there is none.
        rates: updates per second of processor time by measurement.
        wall_rates: updates per second of the clock by measurement.
        cost: what :mod:`benchmarks.counting` found.
    """

    agent: str
    title: str
    hidden: tuple[int, ...]
    precision: str = "float32"
    process: Process | None = None
    absent: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    wall_rates: dict[str, list[float]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether it is an agent of this suite."""
        return not self.title

    def to_json(self) -> dict[str, Any]:
        """Every field but the process."""
        names = ("agent", "title", "hidden", "precision", "absent", "about", "rates", "wall_rates", "cost")
        return {name: getattr(self, name) for name in names}


MEASUREMENTS = {"update": (1, False), "sampled": (1, True), "two threads": (2, False)}
"""Threads, and whether sampling is part of it; on a busy machine two threads can collapse."""


def start(names: Sequence[str], precisions: Sequence[str], folder: Path | None) -> list[Row]:
    """Start every process of the table: for each agent ours at each width asked for, then its references."""
    rows: list[Row] = []
    for name in names:
        references = COMPARISONS.get(name, ())
        for hidden in dict.fromkeys([(256, 256), *(r.hidden for r in references)]):
            for precision in precisions:
                rows.append(Row(name, "", hidden, precision))
                _start(rows[-1], lambda row=rows[-1]: _ours(row))
            for reference in references:
                if reference.hidden == hidden:
                    rows.append(Row(name, reference.title, hidden))
                    _start(rows[-1], lambda r=reference: r.start(folder))
    return rows


def _ours(row: Row, seeds: int = 1) -> Process:
    if row.agent not in agents.AGENTS:
        raise AbsentError("no agent of ours yet")
    widths = map(str, row.hidden)
    return ours(row.agent, "--seeds", str(seeds), "--precision", row.precision, "--hidden", *widths)


def _start(row: Row, launch: Any) -> None:
    try:
        row.process = launch()
        row.about = row.process.about
    except AbsentError as error:
        row.absent = str(error)


def measure(rows: Sequence[Row], rounds: int, seconds: float, most_threads: int) -> None:
    """Measure all rows in turns; the first turn finds how many updates fill the time, and is not kept."""
    running = [row for row in rows if row.process is not None]
    updates: dict[tuple[int, str], int] = {}
    for turn in range(-1, rounds):
        for name, (threads, sampling) in MEASUREMENTS.items():
            if threads > most_threads:
                continue
            for k, row in enumerate(running):
                assert row.process is not None
                count = updates.get((k, name), 4)
                took = row.process.ask("time", updates=count, threads=threads, sampling=sampling)
                if turn < 0:
                    longest = max(took["cpu"], took["wall"])
                    updates[k, name] = max(4, 2 * round(0.5 * count * seconds / longest))
                    continue
                row.rates.setdefault(name, []).append(count / took["cpu"])
                row.wall_rates.setdefault(name, []).append(count / took["wall"])
        progress(f"round {turn + 1} of {rounds}")


def stacks(rows: Sequence[Row], seconds: float) -> list[dict[str, Any]]:
    """Cost of every agent of ours at each number of seeds: time, memory, and what eats it."""
    found = []
    for row in rows:
        if not row.is_ours or row.process is None:
            continue
        for seeds in STACKS:
            process = _ours(row, seeds)
            first = process.ask("time", updates=8, threads=1, sampling=True)
            count = max(8, round(8 * seconds / first["cpu"]))
            times = [process.ask("time", updates=count, threads=1, sampling=True) for _ in range(5)]
            memory = process.ask("memory")
            cost = process.ask("count") if seeds == 1 else {}
            process.close()
            useful = useful_flops(row.agent, BATCH, N_OBS, N_ACT, row.hidden)
            found.append(
                {
                    "agent": row.agent,
                    "hidden": row.hidden,
                    "precision": row.precision,
                    "seeds": seeds,
                    "seconds": statistics.median(t["cpu"] / count for t in times),
                    "useful": None if useful is None else useful * seeds,
                    **memory,
                    **cost,
                }
            )
            progress(f"{row.agent} {row.precision}, {seeds} seeds")
    return found


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
    parser.add_argument("--agents", nargs="+", default=list(dict.fromkeys([*agents.AGENTS, *COMPARISONS])))
    parser.add_argument("--references", type=Path, default=os.environ.get(VARIABLE), metavar="FOLDER")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"], help="of our products")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="of one measurement")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=2, help="1 leaves out two threads")
    parser.add_argument("--no-product", dest="product", action="store_false", help="training only")
    parser.add_argument("--out", default="training", help="name of the two files in benchmarks/results")
    return parser.parse_args()


def main() -> None:
    """Measure everything, print the table, and keep it with every single number beside it."""
    options = arguments()
    torch.set_num_threads(1)
    folder = None if options.references is None else Path(options.references).resolve()
    load = os.getloadavg()[0]
    products = machine.products()
    progress("matrix products measured")
    rows = start(options.agents, options.precision, folder)
    measure(rows, options.rounds, options.seconds, options.threads)
    for row in rows:
        if row.process is not None:
            if not row.is_ours:
                row.cost = row.process.ask("memory") | row.process.ask("count")
            row.process.close()
    found = {
        "machine": machine.describe(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "load": [load, os.getloadavg()[0]],
        "rounds": options.rounds,
        "seconds": options.seconds,
        "products": [asdict(p) for p in products],
        "best_float32": machine.best_float32(products),
        "rows": [row.to_json() for row in rows],
        "stacks": stacks(rows, options.seconds),
        "pairs": [pair(name, 2 * options.seconds) for name in options.agents if name in agents.AGENTS],
        "product": product.measure(progress) if options.product else None,
    }
    text = report.render(found)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.out}.md").write_text(text, encoding="utf-8")
    (RESULTS / f"{options.out}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
