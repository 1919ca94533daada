"""Speed and memory of the simulator, side by side in one run with the published single-patient form.

    OMP_NUM_THREADS=1 python benchmarks/speed/simulator.py [--patients 100000] [--rounds 7] [--out FILE]

Every round measures all rows one after the other, so that a busy machine slows all of them alike; a figure is
the median over rounds, and a ratio the median of the rounds' ratios. Rates are per second of processor time
of one thread. Reward and cost are part of every step.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gymnasium
import numpy as np

from dosing import __version__
from simulator.engine.batch import Core
from simulator.engine.latent import EXTREME
from simulator.engine.rng import BLOCK
from simulator.environment import MOST_VISITS, CohortEnv
from simulator.envs.treatment import Treatment

ENV_ID = "dosing/Treatment-v0"
VARIANTS = {
    "li-data": "one shared covariance",
    "corrected": "one covariance per patient (LKJ)",
    "simenv3": "one covariance per patient (published)",
}
STEPS = 6
"""Steps of a large cohort per round."""


class PublishedPatient:
    """One patient as published: one ``multivariate_normal`` call per visit and a scalar reward."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Draw mean and covariance."""
        self.rng = rng
        self.cov = np.corrcoef(rng.uniform(size=(8, 8)), rowvar=False) / 2
        self.mean = rng.uniform(-1, 1, size=8)

    def step(self, dose: float) -> tuple[np.ndarray, float, float]:
        """Give one dose."""
        self.mean = np.concatenate([np.tanh(self.mean[:4] + dose), np.tanh(self.mean[4:] - dose)])
        s = self.rng.multivariate_normal(self.mean, self.cov)
        reward = -np.exp(s[0] / 2 + s[4] / 2) * dose**2 + 2 * (s[1] + s[2] + s[5] + s[6] + 0.5) * dose
        return s, reward + s[3] + s[7], float(abs(dose) > EXTREME)


def per_second(work: Callable[[], object], patient_steps: int) -> float:
    """Patient-steps per second of processor time."""
    start = time.process_time()
    work()
    return patient_steps / (time.process_time() - start)


def large_cohorts(patients: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Return every row's work and its number of patient-steps."""
    dose, limit = np.full(patients, 0.3, dtype=np.float32), np.float32(EXTREME)
    stream = np.random.Generator(np.random.SFC64(0))
    normals = np.empty((8, patients), dtype=np.float32)
    patient = PublishedPatient(np.random.default_rng(0))

    def core_work(variant: str) -> Callable[[], object]:
        core = Core(Treatment(variant), patients, "train")
        core.start(0, 0)

        def work() -> None:
            for _ in range(STEPS):
                core.step(dose)
                (np.abs(dose) > limit).astype(np.float32)

        return work

    def env_work(variant: str) -> Callable[[], object]:
        env = CohortEnv(ENV_ID, num_envs=patients, variant=variant, steps=MOST_VISITS)
        env.reset(seed=0)
        return lambda: [env.step(dose[:, None])[1] for _ in range(STEPS)]

    rows: dict[str, tuple[Callable[[], object], int]] = {
        "published single patient": (lambda: [patient.step(0.3) for _ in range(3000)], 3000),
        "eight normals alone": (
            lambda: [stream.standard_normal(dtype=np.float32, out=normals) for _ in range(STEPS)],
            STEPS * patients,
        ),
    }
    rows |= {f"core {variant}": (core_work(variant), STEPS * patients) for variant in VARIANTS}
    rows |= {f"vector interface {variant}": (env_work(variant), STEPS * patients) for variant in VARIANTS}
    return rows


def rates(patients: int, rounds: int) -> dict[str, list[float]]:
    """Measure every row in every round; returns millions of patient-steps per second."""
    rows = large_cohorts(patients)
    table: dict[str, list[float]] = {name: [] for name in rows}
    for work, _ in rows.values():
        work()  # once unmeasured: memory is touched for the first time
    for _ in range(rounds):
        for name, (work, count) in rows.items():
            table[name].append(per_second(work, count) / 1e6)
    return table


def one_patient(rounds: int) -> dict[str, float]:
    """Median wall time of one step at one patient, in microseconds, the forms taking turns."""
    patient = PublishedPatient(np.random.default_rng(0))
    vector = {variant: CohortEnv(ENV_ID, num_envs=1, variant=variant) for variant in VARIANTS}
    single = gymnasium.make(ENV_ID)
    dose = np.full((1, 1), 0.3, dtype=np.float32)
    times: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        times.setdefault(name, []).append(1e6 * (time.perf_counter() - start))

    for env in vector.values():
        env.reset(seed=0)
    for _ in range(20 * rounds):
        single.reset(seed=0)
        for _ in range(24):
            clock("published single patient", lambda: patient.step(0.3))
            for variant, env in vector.items():
                clock(f"vector interface, one patient, {variant}", partial(env.step, dose))
            clock("gymnasium.make, one patient, corrected", lambda: single.step(dose[0]))
    return {name: float(np.median(values)) for name, values in times.items()}


def memory() -> list[tuple[int, float]]:
    """Peak memory in MB of a fresh process (Linux) that steps cohorts of several sizes."""
    program = (
        "import re, sys, numpy as np\n"
        "from simulator.environment import CohortEnv\n"
        "n = int(sys.argv[1])\n"
        f"env = CohortEnv({ENV_ID!r}, num_envs=n)\n"
        "env.reset(seed=0)\n"
        "env.step(np.zeros((n, 1), dtype=np.float32))\n"
        "print(int(re.search('VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)\n"
    )
    sizes = (1, 10_000, 100_000, 1_000_000)
    root = str(Path(__file__).resolve().parents[2])
    result = []
    for size in sizes:
        done = subprocess.run(
            [sys.executable, "-c", program, str(size)], capture_output=True, text=True, check=True, cwd=root
        )
        result.append((size, float(done.stdout)))
    return result


def report(patients: int, rounds: int) -> str:
    """Run everything and return the table as markdown."""
    table = rates(patients, rounds)
    base, draws = (np.array(table[name]) for name in ("published single patient", "eight normals alone"))
    lines = [
        "# Speed of the simulator",
        "",
        f"{patients:,} patients, blocks of {BLOCK}, medians of {rounds} interleaved rounds, one thread; "
        f"dosing {__version__}, Python {platform.python_version()}, NumPy {np.__version__}, {processor()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}. Command: `python "
        "benchmarks/speed/simulator.py`.",
        "",
        "| form | M patient-steps/s per core | times published | share of drawing alone |",
        "|---|---|---|---|",
    ]
    for name, values in table.items():
        rate = np.array(values)
        variant = name.split()[-1]
        label = f"{name} ({VARIANTS[variant]})" if variant in VARIANTS else name
        lines.append(
            f"| {label} | {np.median(rate):.4g} | {np.median(rate / base):,.0f} | "
            f"{100 * np.median(rate / draws):.0f} % |"
        )
    lines += ["", "| vector interface against the core | share |", "|---|---|"]
    for variant in VARIANTS:
        ratio = np.array(table[f"vector interface {variant}"]) / np.array(table[f"core {variant}"])
        lines.append(f"| {variant} | {100 * np.median(ratio):.0f} % |")
    lines += ["", "| one patient | median step, microseconds |", "|---|---|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in one_patient(rounds).items()]
    lines += ["", "| patients | peak memory of the process, MB | bytes per patient |", "|---|---|---|"]
    sizes = memory()
    for size, used in sizes:
        extra = "" if size == 1 else f"{(used - sizes[0][1]) * 2**20 / size:,.0f}"
        lines.append(f"| {size:,} | {used:,.0f} | {extra} |")
    return "\n".join(lines) + "\n"


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def main() -> None:
    """Print the report and, if asked, keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="file to write, for example benchmarks/results/simulator.md")
    chosen = parser.parse_args()
    text = report(chosen.patients, chosen.rounds)
    print(text)
    if chosen.out:
        chosen.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
