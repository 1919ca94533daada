"""Three ways to take the same update: eager, with compiled losses, or as one captured CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dosing.agent import Agent, Batch
from dosing.errors import UserError

Mode = Literal["auto", "eager", "compile", "graph"]
Update = Callable[[Batch], dict[str, Tensor]]


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
    on_gpu = next(agent.parameters()).is_cuda
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
        return agent.update(batch)

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
                    metrics = self.agent.update(batch)
                torch.cuda.current_stream().wait_stream(self._stream)
                return metrics
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                metrics = self.agent.update(batch)
            self._graphs[phase] = (graph, metrics)
        graph, metrics = self._graphs[phase]
        graph.replay()
        return metrics
