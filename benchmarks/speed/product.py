"""What a user waits for besides an update: the commands' start, an evaluation, a whole treatment study."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.processes import ROOT

ENV_ID = "dosing/Treatment-v0"
PATIENTS = 10_000
STUDY = ("fttpo", "iql")
"""Agents of the treatment study: default widths (2x256), 5 seeds, 2,000 updates, a process each."""
STUDY_OPTIONS = ("--data", ENV_ID, "--seeds", "5", "--steps", "2000", "--threads", "1")


def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start this Python with the words, one thread, its output thrown away."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=os.environ | one_thread, stdout=quiet, stderr=quiet
    )


def finish(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; returns its seconds of processor time.

    Raises:
        RuntimeError: it failed.
    """
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")
    return used.ru_utime + used.ru_stime


def startup(*words: str, times: int = 5) -> dict[str, Any]:
    """Fastest start of a command that prints and ends, after one that warms the disk's cache."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        cpu = finish(start(["-m", "dosing", *words]))
        taken.append((time.perf_counter() - began, cpu))
    wall, cpu = (min(values) for values in zip(*taken[1:], strict=True))
    return {"what": f"python -m dosing {' '.join(words)}", "wall": wall, "cpu": cpu, "target": 0.5}


def evaluation() -> list[dict[str, Any]]:
    """10,000 patients for one whole episode and one seed, by the recommended and by sampled doses."""
    import agents
    from dosing.data.dataset import Transform
    from dosing.evaluation.rollout import rollout
    from dosing.evaluation.rules import following
    from dosing.policy import DosePolicy
    from dosing.types import Problem
    from simulator.cohorts.generate import simulate
    from simulator.scenarios import CohortFactory

    factory = CohortFactory(ENV_ID, {})
    episodes = simulate(ENV_ID, patients=50, policy="uniform", seed=0)
    problem = Problem(episodes.obs.shape[1], episodes.act.shape[1], factory.horizon)
    result = []
    for name in STUDY:
        policy = DosePolicy(agents.build(name, {}, problem, (0,)), Transform.fit(episodes))
        rules = {"recommended": following(policy), "sampled": policy.sampled}
        for rule, act in rules.items():
            wall, cpu = time.perf_counter(), time.process_time()
            rollout(factory, act, (0,), PATIENTS)
            result.append(
                {
                    "what": f"{name}: {PATIENTS:,} patients x {factory.horizon} visits, {rule} doses",
                    "wall": time.perf_counter() - wall,
                    "cpu": time.process_time() - cpu,
                    "target": 2.0,
                }
            )
    return result


def treatment() -> list[dict[str, Any]]:
    """The two agents of the study trained at once, each by the command a user gives."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        running = [
            start(["-m", "dosing", "train", name, *STUDY_OPTIONS, "--out", str(Path(folder) / name)])
            for name in STUDY
        ]
        cpu = [finish(process) for process in running]
        wall = time.perf_counter() - began
    what = "train {}: 2x256, 5 seeds x 2,000 updates"
    return [
        {"what": what.format(" and ".join(STUDY)), "wall": wall, "cpu": max(cpu), "target": 90.0},
    ] + [
        {"what": f"of it {name}", "wall": wall, "cpu": used, "target": 90.0}
        for name, used in zip(STUDY, cpu, strict=True)
    ]


def measure(progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """Everything in this file."""
    result = [startup("--help"), startup("agents")]
    progress("start of the commands measured")
    result += evaluation()
    progress("evaluation measured")
    result += treatment()
    progress("treatment study measured")
    return result
