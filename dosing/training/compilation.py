"""Three ways to take the same update: eager, with compiled losses, or as one captured CUDA graph.

And the fastest matrix product of this processor that is still float32 arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.training.regularised import take_step

Mode = Literal["auto", "eager", "compile", "graph"]
Update = Callable[[Batch], dict[str, Tensor]]

EXACT = 2e-6
"""Largest relative error of a product that still counts as float32 arithmetic (bfloat16: 3e-3)."""


def product_error(setting: str) -> float:
    """Relative error (Frobenius) of a CPU product under ``torch.set_float32_matmul_precision(setting)``."""
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 256, 256, generator=generator) for _ in range(2))
    exact = x.double() @ y.double()
    try:
        torch.set_float32_matmul_precision(setting)
        return float((torch.bmm(x, y).double() - exact).norm() / exact.norm())
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def fastest_exact() -> str:
    """The setting under which torch picks its fastest CPU kernel without leaving float32 arithmetic.

    ``medium`` allows another library's kernels: on processors that multiply bfloat16 in hardware tiles those
    round their input, elsewhere they are full float32 and up to twice as fast. Which it is, is measured: by
    error, never by time, so that the same machine always takes the same kernel.
    """
    return "medium" if product_error("medium") < EXACT else "highest"


@contextmanager
def float32_products(device: torch.device) -> Iterator[None]:
    """Take CPU products with the fastest exact kernel; on a GPU, and afterwards, all is as it was."""
    if device.type != "cpu":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(fastest_exact())
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def updater(agent: Agent, mode: Mode = "auto") -> Update:
    """Return a function that takes one update of ``agent`` on a batch.

    Args:
        agent: the stack to train.
        mode: ``eager``; ``compile`` (losses through ``torch.compile``, one graph without breaks); ``graph``
            (the whole update captured per phase, GPU only, batches written in place); ``auto`` is ``graph``
            on a GPU and ``eager`` on the CPU, where compiled losses measured slower.

    Raises:
        UserError: a graph is asked for without a GPU.
    """
    device = next(agent.parameters()).device
    on_gpu = device.type == "cuda"
    if mode == "graph" and not on_gpu:
        raise UserError("a captured graph needs a CUDA device; use eager or compile on the CPU.")
    if mode == "graph" or (mode == "auto" and on_gpu):
        return _Captured(agent)
    if mode == "compile":
        agent.losses_and_metrics = torch.compile(  # type: ignore[method-assign]
            agent.losses_and_metrics, fullgraph=True
        )

    def take(batch: Batch) -> dict[str, Tensor]:
        agent.schedule(batch.step)
        with float32_products(device):
            return take_step(agent, batch)

    return take


class _Captured:
    """Each phase of the update runs a few times on a side stream, is captured, and from then on replayed.

    The runs before the capture are real updates, and capturing executes nothing, so no update is lost or
    taken twice. Every batch must come in the same memory (``Sampler(in_place=True)``).
    """

    WARM_UP = 3

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._runs: dict[int, int] = {}
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._stream = torch.cuda.Stream()

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        phase = self.agent.phase(batch.step)
        self.agent.schedule(batch.step)
        if phase not in self._graphs:
            runs = self._runs[phase] = self._runs.get(phase, 0) + 1
            if runs <= self.WARM_UP:
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    metrics = take_step(self.agent, batch)
                torch.cuda.current_stream().wait_stream(self._stream)
                return metrics
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                metrics = take_step(self.agent, batch)
            self._graphs[phase] = (graph, metrics)
        graph, metrics = self._graphs[phase]
        graph.replay()
        return metrics
