"""Training on a stream of visits against training in memory: rate, memory, and what reading costs.

    OMP_NUM_THREADS=1 python benchmarks/speed/streaming.py FOLDER [--rounds 20] [--out FILE]

``FOLDER`` is a data set in parts (``python -m dosing simulate --parts``). Both ways take turns of 64 updates
in one process, so that a busy machine slows both alike. Times are of the processor, over all threads of the
process: the one that reads ahead counts. An update is the same work either way; so the ratio of rates is that
of the median update of all turns and what each way spends beside it. The plain ratio of turns is beside it.
In memory are the sample's patients. The peak is that of a process of its own that trains by the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import agents
from benchmarks.machine import describe
from dosing.studies.visits import visits_of
from dosing.training.compilation import updater
from dosing.training.sampler import BLOCK, Sampler
from dosing.training.streaming import Batches, Stream, StreamSampler
from dosing.types import Problem

SEEDS = (0, 1, 2, 3, 4)
TURN = BLOCK
"""Updates of a turn: a whole block, so that each turn draws and reads as often."""
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


def peak(folder: Path, study: Path, agent: str, steps: int) -> float:
    """Peak memory in MB of ``train --stream`` in a process of its own, which also checks the data."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "dosing", "train", agent, "--data", str(folder.resolve()), "--stream"]
    command += ["--steps", str(steps), "--seeds", str(len(SEEDS)), "--device", "cpu", "--out", str(study)]
    subprocess.run(command, check=True, cwd=root, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def measure(folder: Path, study: Path, rounds: int, steps: int) -> dict[str, object]:
    """Everything, as plain fields; ``study`` may hold the pass over the data of an earlier call."""
    begin, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = peak(folder, study, AGENTS[0], steps)
    clock, now = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    stream = visits_of(folder, study, stream=True).data({}, torch.device("cpu"))
    assert isinstance(stream, Stream)
    groups, visits = stream.groups, stream.groups.manifest.metadata.rows
    return {
        "machine": describe(),
        "load": os.getloadavg()[0],
        "visits": visits,
        "parts": len(groups.manifest.parts),
        "groups": len(groups),
        "bytes_per_visit": sum(part.size for part in groups.manifest.parts) / visits,
        "peak_mb": memory,
        "train_updates": steps,
        "train_processor_s": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        "train_clock_s": clock,
        "rates": [asdict(rate(name, stream, rounds)) for name in AGENTS],
    }


def main() -> None:
    """Print one JSON object and, if asked, keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--steps", type=int, default=640, help="updates of the process whose memory is measured"
    )
    parser.add_argument(
        "--study", type=Path, help="where the pass over the data is kept [a temporary folder]"
    )
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        study = chosen.study or Path(temporary)
        text = json.dumps(measure(chosen.folder, study, chosen.rounds, chosen.steps), indent=1)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
