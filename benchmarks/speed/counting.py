"""What an update costs, counted: matrix-product FLOPs, tensor calls, and where the processor time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

COUNTED = 4
"""Updates FLOPs are averaged over; a multiple of the period of every delayed update."""
PROFILED = 64
"""Updates calls and times are averaged over; our noise is drawn for 64 updates at once."""
LONGEST = 10.0
"""Seconds these may take, as far as four are enough."""

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "mkldnn_linear"})
OPTIMISER = ("_fused_adam", "_foreach_", "lerp_", "addcmul_", "addcdiv_")


class Products(TorchDispatchMode):
    """Sums FLOPs by torch's own formulas; unlike its ``FlopCounterMode`` inside forward derivatives too."""

    total: float = 0.0

    def __init__(self) -> None:
        """Nothing counted yet."""
        super().__init__()  # type: ignore[no-untyped-call]  # as torch has it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one kernel and count it."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(update: Callable[[], object]) -> float:
    """FLOPs of the matrix products one update executes, a multiply-add being two."""
    with Products() as counter:
        for _ in range(COUNTED):
            update()
    counted: float = counter.total
    return counted / COUNTED


def split(update: Callable[[], object]) -> dict[str, float]:
    """Tensor calls of one update, and its seconds of processor time by purpose.

    A call is whatever the profiler records in ``aten``, calls made by calls and views included. The rest is
    what an unprofiled update takes beyond all kernels: Python, autograd's bookkeeping, dispatch. The profiler
    lengthens every kernel by up to a microsecond, so the rest is a lower bound.

    Returns:
        ``calls``; seconds ``total`` = ``matmul`` + ``optimiser`` (target networks included) + ``elementwise``
        (every other kernel) + ``rest``.
    """
    start = time.process_time()
    update()
    took = time.process_time() - start
    updates = min(PROFILED, max(COUNTED, int(LONGEST / max(took, 1e-9))))
    start = time.process_time()
    for _ in range(updates):
        update()
    total = (time.process_time() - start) / updates
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(updates):
            update()
        # The profiler reads the clock; on a busy machine only this share of it was ours.
        ours = (time.process_time() - cpu) / (time.perf_counter() - wall)
    calls = 0
    result = dict.fromkeys(("matmul", "optimiser", "elementwise"), 0.0)
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):
            calls += event.count
            result[purpose(event.key)] += ours * event.self_cpu_time_total * 1e-6 / updates
    return result | {"rest": total - sum(result.values()), "total": total, "calls": calls / updates}


def purpose(kernel: str) -> str:
    """What a kernel such as ``aten::addmm`` is for, by its name."""
    name = kernel.removeprefix("aten::")
    if name in PRODUCTS:
        return "matmul"
    return "optimiser" if name.startswith(OPTIMISER) else "elementwise"


@dataclass(frozen=True)
class Chain:
    """A multi-layer perceptron as one update uses it.

    Attributes:
        widths: ``(n_in, hidden..., n_out)``.
        forward: passes from the input to the output.
        trained: how many of them are followed by a backward pass into the weights.
        input_gradient: whether that backward pass goes on into the input.
        members: networks of this form.
    """

    widths: tuple[int, ...]
    forward: int = 1
    trained: int = 0
    input_gradient: bool = False
    members: int = 1

    def flops(self, batch: int) -> int:
        """2 B n_in n_out per layer forward, as much again for the weights' gradient and for the input's."""
        layers = [2 * batch * n_in * n_out for n_in, n_out in pairwise(self.widths)]
        into_inputs = sum(layers) if self.input_gradient else sum(layers[1:])
        return self.members * (self.forward * sum(layers) + self.trained * (sum(layers) + into_inputs))


def iql(n_obs: int, n_act: int, hidden: tuple[int, ...]) -> list[Chain]:
    """Products IQL cannot do without: Qbar(s, a), V(s'), and Q, V and the policy forward and backward."""
    return [
        Chain((n_obs + n_act, *hidden, 1), forward=2, trained=1, members=2),
        Chain((n_obs, *hidden, 1), forward=2, trained=1),
        Chain((n_obs, *hidden, n_act), trained=1),
    ]


def fttpo(n_obs: int, n_act: int, hidden: tuple[int, ...]) -> list[Chain]:
    """Products FtTPO cannot do without when the actor shares the proposal's trunk and mean.

    Trunk, mean and actor's width at s and s', the proposal's scale at s, all trained at s; Qbar at (s', a')
    and (s, a~); Q and V forward and backward.
    """
    width = hidden[-1]
    return [
        Chain((n_obs, *hidden), forward=2, trained=1),
        Chain((width, n_act), forward=2, trained=1, input_gradient=True),  # the mean
        Chain((width, n_act), trained=1, input_gradient=True),  # the proposal's scale
        Chain((width, n_act), forward=2, trained=1),  # the actor's width; its features are not trained by it
        Chain((n_obs + n_act, *hidden, 1), forward=3, trained=1, members=2),
        Chain((n_obs, *hidden, 1), trained=1),
    ]


METHODS: dict[str, Callable[[int, int, tuple[int, ...]], list[Chain]]] = {"fttpo": fttpo, "iql": iql}
"""By registry key. An agent that is not here is rated by the products it executes."""


def useful_flops(agent: str, batch: int, n_obs: int, n_act: int, hidden: tuple[int, ...]) -> int | None:
    """FLOPs of the products the method's equations need; None if nobody has written them down here."""
    if agent not in METHODS:
        return None
    return sum(chain.flops(batch) for chain in METHODS[agent](n_obs, n_act, hidden))
