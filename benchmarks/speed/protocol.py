"""What every measured process does: build one learner, then answer requests, one JSON line each.

A process is started once and waits between requests, so that rows can be measured in turns. It is run by the
Python of whichever project it measures: only the standard library, numpy and torch are imported here, and
nothing of this project.

Requests on standard input, answers on standard output:

    {"do": "time", "updates": n, "threads": k, "sampling": true}  ->  {"cpu": s, "wall": s, "updates": m}
    {"do": "memory"}  ->  {"peak": MiB so far, "import": MiB before the learner was built}
    {"do": "count"}   ->  per update: {"flops", "calls"} and seconds {"matmul", "optimiser", ...}

The first line says what was built, ``{"settings", "versions", "threads"}``, or why it could not be,
``{"absent"}``.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.speed import counting

BATCH, N_OBS, N_ACT, ROWS = 256, 17, 6, 100_000
"""The work: batch size, observation and action width, transitions in the data set."""
WINDOWS = 64
"""Windows in a batch, where a method learns from windows of visits."""
EPISODE = 1000
"""Transitions per synthetic episode; none of them terminates but the last."""
READY = 32
"""Batches held ready for the timing without sampling."""


@dataclass
class Learner:
    """One learner on the synthetic data, ready to be timed.

    Attributes:
        update: one update on a batch that is ready, with whatever noise the method draws.
        sample_and_update: one update as the project's own training loop takes it: sample, then update.
        settings: widths and the settings that matter for speed, as a phrase.
        versions: packages that matter, by name.
        per_call: updates that one call of either takes.
        most_threads: threads it can be asked to use.
        in_torch: whether torch computes it, so that its calls can be counted.
    """

    update: Callable[[], object]
    sample_and_update: Callable[[], object]
    settings: str
    versions: Mapping[str, str] = field(default_factory=dict)
    per_call: int = 1
    most_threads: int = 2
    in_torch: bool = True


def synthetic(seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """The same random transitions for everyone: ``obs, act, reward, next_obs, terminal`` in float32."""
    rng = np.random.default_rng(seed)
    terminal = np.zeros(ROWS, dtype=np.float32)
    terminal[EPISODE - 1 :: EPISODE] = 1.0
    return {
        "obs": rng.standard_normal((ROWS, N_OBS), dtype=np.float32),
        "act": rng.uniform(-0.95, 0.95, (ROWS, N_ACT)).astype(np.float32),
        "reward": rng.standard_normal(ROWS, dtype=np.float32),
        "next_obs": rng.standard_normal((ROWS, N_OBS), dtype=np.float32),
        "terminal": terminal,
    }


def peak_memory() -> float:
    """Largest resident set of this program so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # here, and not in getrusage, the count starts anew with the program
        result = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        assert result is not None
        return int(result[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def serve(build: Callable[[], Learner]) -> None:
    """Build the learner and answer requests until standard input ends.

    Whatever the measured project prints goes to standard error; standard output carries answers only. If the
    learner cannot be built, the first line says why and the process ends.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(fields: Mapping[str, Any]) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    torch.set_num_threads(1)
    imported = peak_memory()
    try:
        learner = build()
        learner.sample_and_update()
        learner.update()
    except Exception as error:  # whatever is wrong with the installation belongs in the table, not in a trace
        answer({"absent": f"{type(error).__name__}: {error}".splitlines()[0]})
        return
    versions = {"torch": torch.__version__, "numpy": np.__version__, **learner.versions}
    answer({"settings": learner.settings, "versions": versions, "threads": learner.most_threads})
    for line in sys.stdin:
        request = json.loads(line)
        answer(_respond(learner, request, imported))


def _respond(learner: Learner, request: Mapping[str, Any], imported: float) -> dict[str, float]:
    if request["do"] == "time":
        torch.set_num_threads(request["threads"])
        work = learner.sample_and_update if request["sampling"] else learner.update
        calls = math.ceil(request["updates"] / learner.per_call)
        return timed(work, calls) | {"updates": calls * learner.per_call}
    if request["do"] == "memory":
        return {"peak": peak_memory(), "import": imported}
    if not learner.in_torch:
        return {}
    torch.set_num_threads(1)
    return counting.split(learner.update) | {"flops": counting.flops(learner.update)}


def timed(work: Callable[[], object], times: int) -> dict[str, float]:
    """Seconds of processor time (all threads) and of the clock for ``times`` calls."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
