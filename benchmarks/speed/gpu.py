"""Training on a GPU: updates per second of every agent with 1, 8 and 32 seeds, memory, and a long training.

    benchmarks/speed/gpu.sh                        # tests of captured graphs first, then this
    python benchmarks/speed/gpu.py [--agents ...] [--seeds 1 8 32] [--seconds 1] [--minutes 6] [--device cpu]

The work is that of ``training.py``: batch 256, 17 observations, 6 actions, 100,000 random transitions, every
agent at its defaults; the data lie on the device and every update is sampled, as in ``train``. FtTPO with 10
seeds then runs for ``--long`` seconds, from which 1,000,000 updates are extrapolated. Whatever would begin
after ``--minutes`` is named in the table as not measured. The page is ``benchmarks/results/gpu.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from benchmarks.speed import ours
from benchmarks.speed.protocol import BATCH, N_ACT, N_OBS
from dosing.errors import UserError
from dosing.runs.files import write_atomic
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Problem

RESULTS = Path(__file__).resolve().parents[1] / "results"
WARM = 40
"""Updates before the clock starts: every phase of an update is captured by then."""
LONG, MILLION = 10, 1_000_000
"""Seeds and updates of the long training."""


@dataclass(frozen=True)
class Rate:
    """One agent with so many seeds: updates, seconds of the clock, peak of the device's memory in MB.

    Attributes:
        reason: why it was not measured; empty if it was.
    """

    agent: str
    seeds: int
    updates: int = 0
    seconds: float = 0.0
    peak: float = 0.0
    reason: str = ""

    @property
    def rate(self) -> float:
        """Updates of the whole stack per second."""
        return self.updates / self.seconds


def measure(name: str, seeds: int, device: torch.device, seconds: float) -> Rate:
    """Train an agent of so many seeds for so long.

    Raises:
        UserError: the agent refuses the work.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    stack = agents.build(name, {}, Problem(N_OBS, N_ACT), range(seeds), device=device)
    sampler = Sampler(ours.dataset(device), stack, BATCH, in_place=True)
    take, steps = updater(stack), count()

    def run(updates: int) -> float:
        began = time.perf_counter()
        for _ in range(updates):
            step = next(steps)
            take(sampler(step))
        if on_gpu:
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    chunk = WARM
    took = run(WARM)
    total, spent = 0, 0.0
    while spent < seconds:
        chunk = max(1, min(10 * chunk, int(chunk * (seconds - spent) / max(took, 1e-9))))
        took = run(chunk)
        total, spent = total + chunk, spent + took
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if on_gpu else 0.0
    return Rate(name, seeds, total, spent, peak)


def grid(
    names: Sequence[str], sizes: Sequence[int], device: torch.device, seconds: float, deadline: float
) -> list[Rate]:
    """Every agent with every number of seeds; what begins too late or fails has its reason."""
    found = []
    for name in names:
        for seeds in sizes:
            if time.perf_counter() > deadline:
                found.append(Rate(name, seeds, reason="no time was left"))
                continue
            try:
                found.append(measure(name, seeds, device, seconds))
            except (UserError, torch.OutOfMemoryError) as error:
                found.append(Rate(name, seeds, reason=str(error).splitlines()[0]))
            print(found[-1], file=sys.stderr, flush=True)
    return found


def page(result: dict[str, Any]) -> str:
    """The numbers as a page of markdown."""
    rates = [Rate(**r) for r in result["rates"]]
    sizes = list(dict.fromkeys(r.seeds for r in rates))
    head = ["agent", *(f"{s} seed{'s' * (s > 1)}, updates/s" for s in sizes)]
    head += [f"seeds x updates/s, {sizes[-1]} against {sizes[0]}", f"memory at {sizes[-1]}, MB"]
    lines = []
    for name in dict.fromkeys(r.agent for r in rates):
        own = [r for r in rates if r.agent == name]
        cells = [f"{r.rate:,.0f}" if not r.reason else r.reason for r in own]
        both = not own[0].reason and not own[-1].reason
        gain = f"{own[-1].seeds * own[-1].rate / (own[0].seeds * own[0].rate):.1f}" if both else ""
        lines.append([name, *cells, gain, f"{own[-1].peak:,.0f}" if own[-1].peak else ""])
    parts = [
        "# Training on a GPU",
        f"Made by `benchmarks/speed/gpu.sh`, {result['date']}, on: {result['device']}; "
        f"{result['machine']}. Batch {BATCH}, {N_OBS} observations, {N_ACT} actions, sampling included, "
        f"{result['seconds']:g} s of the clock each, once.",
        table(head, lines),
    ]
    if result["long"]:
        longest = Rate(**result["long"])
        hours = MILLION / longest.rate / 3600
        parts.append(
            f"FtTPO with {longest.seeds} seeds: {longest.updates:,} updates in {longest.seconds:.0f} s, "
            f"{longest.rate:,.0f} a second; {MILLION:,} would take {hours:.2g} hours."
        )
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and keep.

    Raises:
        UserError: there is no GPU.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", nargs="+", default=list(agents.AGENTS), help="registry keys [all]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 8, 32], help="stacks [%(default)s]")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a measurement [%(default)s]")
    parser.add_argument("--long", type=float, default=60.0, help="seconds of the long training; 0: none")
    parser.add_argument("--minutes", type=float, default=6.0, help="for all but the tests [%(default)s]")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results [%(default)s]")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device; --device cpu does the same on the processor.")
    device = torch.device(options.device)
    deadline = time.perf_counter() + 60.0 * options.minutes
    longest = measure("fttpo", LONG, device, options.long) if options.long > 0.0 else None
    rates = grid(options.agents, options.seeds, device, options.seconds, deadline)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor",
        "machine": describe(),
        "seconds": options.seconds,
        "rates": [asdict(r) for r in rates],
        "long": None if longest is None else asdict(longest),
    }
    write_atomic(options.out / "gpu.json", (json.dumps(result, indent=1) + "\n").encode())
    write_atomic(options.out / "gpu.md", page(result).encode())
    print(page(result))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
