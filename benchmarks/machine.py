"""What the machine is, and how fast and how exactly it multiplies matrices."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from dosing.training.compilation import EXACT

SIZES = ((1, 256), (2, 256), (1, 512), (1, 1024))
"""(products in one call, n) for n x n matrices; the first two are those of batch 256 at width 256."""
KINDS = ("highest", "medium", "bfloat16")
"""float32 as torch computes it by default, as ``set_float32_matmul_precision("medium")``, and bfloat16."""


@dataclass(frozen=True)
class Product:
    """One kind of matrix product on this machine.

    Attributes:
        kind: one of :data:`KINDS`.
        count: products in one call.
        n: size of the square matrices.
        threads: torch threads.
        rate: GFLOP per second of one core's processor time, median.
        wall_rate: GFLOP per second of the clock, median.
        error: Frobenius norm of the error over that of the exact product.
    """

    kind: str
    count: int
    n: int
    threads: int
    rate: float
    wall_rate: float
    error: float


def describe() -> str:
    """Processor, cores, memory, system and versions in one line."""
    model = platform.processor() or platform.machine()
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line.split(":", 1) for line in cpuinfo.read_text(encoding="utf-8").splitlines()]
        fields = {parts[0].strip(): parts[1].strip() for parts in lines if len(parts) == 2}
        family = f"family {fields.get('cpu family')}, model {fields.get('model')}"
        model = f"{fields.get('model name', model)} ({family})"
        known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        flags = ", " + " ".join(f for f in known if f in fields.get("flags", "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB{flags}; {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def measure(kind: str, count: int, n: int, threads: int, rounds: int = 5, seconds: float = 0.05) -> Product:
    """Measure one kind of product; the settings of torch are put back."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium" if kind == "medium" else "highest")
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(count, n, n, generator=generator) for _ in range(2))
    x, y = a.to(dtype), b.to(dtype)
    exact = a.double() @ b.double()
    error = float((torch.bmm(x, y).double() - exact).norm() / exact.norm())
    flops, rates, wall_rates = 2.0 * count * n**3, [], []
    for _ in range(rounds):
        calls = 0
        wall, cpu = time.perf_counter(), time.process_time()
        while time.process_time() - cpu < seconds:
            torch.bmm(x, y)
            calls += 1
        rates.append(calls * flops / (time.process_time() - cpu))
        wall_rates.append(calls * flops / (time.perf_counter() - wall))
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])
    median, median_wall = statistics.median(rates), statistics.median(wall_rates)
    return Product(kind, count, n, threads, median * 1e-9, median_wall * 1e-9, error)


def products(threads: int = 1) -> list[Product]:
    """Every kind at every size."""
    return [measure(kind, count, n, threads) for kind in KINDS for count, n in SIZES]


def best_float32(result: list[Product]) -> float:
    """The highest rate of a float32 product that is exact to float32, in GFLOP/s of one core."""
    return max(p.rate for p in result if p.kind != "bfloat16" and p.error < EXACT)
