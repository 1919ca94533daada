"""Training on a stream of visits against training in memory: rate, memory, and what reading costs.

    OMP_NUM_THREADS=1 python benchmarks/speed/streaming.py FOLDER [--rounds 12] [--steps 640] [--out FOLDER]

``FOLDER`` is a data set in parts (``many_patients.py --folder`` leaves one). Both ways take turns of 64
updates in one process, so that a busy machine slows both alike. Times are of the processor, over all threads
of the process: the one that reads ahead counts. An update is the same work either way; so the ratio of rates
is that of the median update of all turns and what each way spends beside it. The plain ratio of turns is
beside it. In memory are the sample's patients. The pass over the data and a peak are of processes of their
own, which train by the command line.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from benchmarks.speed.many_patients import Measured, measured
from dosing import __version__
from dosing.data.row_groups import RowGroups
from dosing.runs.files import write_atomic
from dosing.studies.visits import visits_of
from dosing.training.compilation import updater
from dosing.training.sampler import BLOCK, Sampler
from dosing.training.streaming import Batches, Stream, StreamSampler
from dosing.types import Problem

SEEDS = (0, 1, 2, 3, 4)
TURN = BLOCK
"""Updates of a turn: a whole block, so that each turn draws and reads as often."""
RESULTS = Path(__file__).resolve().parents[1] / "results"
AGENTS = ("fttpo", "iql")
BATCH = 256


@dataclass(frozen=True)
class Rate:
    """One agent, both ways; seconds of processor time, medians over turns.

    Attributes:
        agent: registry key.
        update: of one update, without its batch.
        memory: of one batch drawn from memory.
        stream: of one batch drawn from a stream, reading included.
        ratio: rate streamed by that in memory, of these three.
        plain: the same of whole turns that followed each other: lowest, median and highest.
    """

    agent: str
    update: float
    memory: float
    stream: float
    ratio: float
    plain: tuple[float, float, float]


def rate(name: str, stream: Stream, rounds: int) -> Rate:
    """Measure one agent both ways, in turns."""
    memory = stream.sample
    problem = Problem(memory.obs.shape[1], memory.act.shape[1], None)
    config = agents.find(name).config_class()()

    def turns(make: Callable[..., Batches], data: object) -> Callable[[int], tuple[float, float]]:
        agent = agents.build(name, config, problem, SEEDS)
        sampler, update = make(data, agent, BATCH, in_place=True), updater(agent)
        for step in range(TURN - 3, TURN):  # fills the buffer, touches memory
            update(sampler(step))

        def turn(number: int) -> tuple[float, float]:
            """Seconds of everything, and of the updates."""
            begin, updating = time.process_time(), 0.0
            for step in range(number * TURN, (number + 1) * TURN):
                batch = sampler(step)
                now = time.thread_time()
                update(batch)
                updating += time.thread_time() - now
            return time.process_time() - begin, updating

        return turn

    both = turns(Sampler, memory), turns(StreamSampler, stream)
    taken = [[turn(number) for turn in both] for number in range(1, rounds + 1)]
    update = statistics.median(own for pair in taken for _, own in pair)
    beside = [statistics.median(pair[way][0] - pair[way][1] for pair in taken) for way in (0, 1)]
    plain = sorted(a[0] / b[0] for a, b in taken)
    return Rate(
        name,
        update / TURN,
        beside[0] / TURN,
        beside[1] / TURN,
        (update + beside[0]) / (update + beside[1]),
        (plain[0], statistics.median(plain), plain[-1]),
    )


def trained(folder: Path, study: Path, steps: int) -> Measured:
    """``train --stream`` of five seeds in a process of its own; the first passes over all visits."""
    words = ["train", AGENTS[0], "--data", str(folder.resolve()), "--stream", "--device", "cpu"]
    words += ["--steps", str(steps), "--seeds", str(len(SEEDS)), "--out", str(study)]
    return measured(words, steps)


def figures(passed: Measured, after: Measured, groups: RowGroups) -> str:
    """Sizes, and what processes of their own took."""
    manifest = groups.manifest
    visits, size = manifest.metadata.rows, sum(part.size for part in manifest.parts)
    lines = [
        ["visits", f"{visits:,}"],
        ["parts, row groups", f"{len(manifest.parts):,}, {len(groups):,}"],
        ["bytes per visit on disk", f"{size / visits:.1f}"],
        [
            "the pass over all visits and one update, s of the processor, start included",
            f"{passed.seconds:.0f}",
        ],
        ["visits per second of it", f"{visits / passed.seconds:,.0f}"],
        ["its peak memory, MB", f"{passed.peak:,.0f}"],
        [f"`train {AGENTS[0]} --stream` of {after.count:,} updates after it, s", f"{after.seconds:.0f}"],
        ["its peak memory, MB", f"{after.peak:,.0f}"],
        ["peak memory of the process that measured the rates, MB", f"{own_peak():,.0f}"],
    ]
    return table(["what", "figure"], lines)


def own_peak() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def far(rates: Sequence[Rate], passed: Measured, visits: int) -> str:
    """What whole passes would take at these rates."""
    told = []
    for count in (visits, 10**9):
        updates = count // BATCH
        each = ", ".join(f"{updates * (r.update + r.stream) / 3600:.1f} hours of {r.agent}" for r in rates)
        reading = updates * max(r.stream for r in rates) / 60
        told.append(
            f"{count:,} visits: {updates:,} updates, {each}, of that batches and their reading at most "
            f"{reading:.0f} minutes; to check them once {count / visits * passed.seconds / 60:.0f} minutes."
        )
    return " ".join(told)


def page(passed: Measured, after: Measured, rates: Sequence[Rate], groups: RowGroups, about: str) -> str:
    """Everything as markdown."""
    lines = [
        [
            r.agent,
            *(f"{1000 * seconds:.2f}" for seconds in (r.update, r.memory, r.stream)),
            f"{r.ratio:.3f}",
            ", ".join(f"{ratio:.2f}" for ratio in r.plain),
        ]
        for r in rates
    ]
    head = [
        "agent",
        "update",
        "batch from memory",
        "batch streamed",
        "rate streamed / in memory",
        "plain ratio",
    ]
    slowest = max(r.stream - r.memory for r in rates)
    parts = [
        "# Streaming",
        about,
        figures(passed, after, groups),
        f"Five seeds, batches of {BATCH}, both ways in turns of {TURN} updates in one process. Milliseconds "
        "of the processor, reading ahead included, medians over turns; the plain ratio is of whole turns "
        "that followed each other (lowest, median, highest), and is what a busy machine does to two turns of "
        "equal work.",
        table(head, lines),
        f"A streamed batch costs {1000 * slowest:.2f} ms more at most: 95 % of the rate in memory are kept "
        f"where an update takes {1000 * slowest * 19:.0f} ms or more.",
        "Extrapolated from these rates, one pass (every seed draws each visit once on average) on one "
        f"processor. {far(rates, passed, groups.manifest.metadata.rows)}",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="data set in parts")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each way [%(default)s]")
    parser.add_argument(
        "--steps", type=int, default=640, help="updates of the process whose memory is measured [%(default)s]"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        study = Path(temporary)
        passed, after = (trained(chosen.folder, study, steps) for steps in (1, chosen.steps))
        print(passed, after, sep="\n", flush=True)
        stream = visits_of(chosen.folder, study, stream=True).data({}, torch.device("cpu"))
        assert isinstance(stream, Stream)
        rates = [rate(name, stream, chosen.rounds) for name in AGENTS]
    options = f"--rounds {chosen.rounds} --steps {chosen.steps}"
    about = (
        f"`OMP_NUM_THREADS=1 python benchmarks/speed/streaming.py FOLDER {options}` on {describe()}; dosing "
        f"{__version__}. Load average {before:.1f} before and {os.getloadavg()[0]:.1f} after. FOLDER has "
        f"visits of {stream.groups.manifest.metadata.env_id}; files came from the page cache or the disk."
    )
    text = page(passed, after, rates, stream.groups, about)
    write_atomic(chosen.out / "streaming.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
