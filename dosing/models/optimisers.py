"""Adam over stacked seeds, and step sizes that change along training."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from dosing.models.networks import decay_of


class FusedAdam(torch.optim.Adam):
    """torch's fused Adam for the CPU, with its own numbers and state and nothing around its one kernel.

    torch's ``step`` makes a tensor of the 1 that it adds to the count of every parameter, and sorts the
    parameters by device and type anew every time.
    """

    def __init__(self, groups: list[dict[str, Any]], learning_rate: float, decoupled: bool) -> None:
        super().__init__(groups, lr=learning_rate, fused=True, decoupled_weight_decay=decoupled)
        self._one = torch.tensor(1.0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; the first one, which makes the state, is torch's own."""
        stepped = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        if not all(p in self.state for parameters in stepped for p in parameters):
            super().step(closure)
            return
        for group, parameters in zip(self.param_groups, stepped, strict=True):
            if not parameters:
                continue
            states = [self.state[p] for p in parameters]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, [self._one] * len(steps))
            kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
            kernel(
                parameters,
                [cast(Tensor, p.grad) for p in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )


def adam(module_or_parameters: nn.Module | list[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam over stacked parameters: elementwise, so seeds cannot mix; one fused call for all tensors.

    Parameters that were marked for decay (``dosing.models.networks.decays``) shrink by their rate times the
    step size, apart from the gradient.

    On a GPU the step size is a tensor and the state stays on the device, so that a step can be captured in a
    graph; :func:`set_learning_rate` changes it either way.
    """
    if isinstance(module_or_parameters, nn.Module):
        module_or_parameters = list(module_or_parameters.parameters())
    rates = sorted({decay_of(p) for p in module_or_parameters})
    groups = [
        {"params": [p for p in module_or_parameters if decay_of(p) == rate], "weight_decay": rate}
        for rate in rates
    ]
    device = module_or_parameters[0].device
    if device.type != "cuda":
        return FusedAdam(groups, learning_rate, decoupled=rates != [0.0])
    kind = torch.optim.Adam if rates == [0.0] else torch.optim.AdamW
    return kind(groups, lr=torch.tensor(learning_rate, device=device), fused=True, capturable=True)


def adam_each(learning_rate: float, **modules: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """An Adam of its own for every network, by its name."""
    return {name: adam(module, learning_rate) for name, module in modules.items()}


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Change the step size, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def decay_learning_rate(
    optimizer: torch.optim.Optimizer, learning_rate: float, step: int, decay_steps: int | None
) -> None:
    """Step size of update ``step`` under cosine decay to 0 over ``decay_steps`` updates; None keeps it."""
    if decay_steps is not None:
        done = min(step / decay_steps, 1.0)
        set_learning_rate(optimizer, learning_rate * 0.5 * (1.0 + math.cos(math.pi * done)))


def clip_by_seed(module: nn.Module, largest: float) -> None:
    """Scale every seed's gradient, over all parameters ``[S, ...]``, down to a norm of ``largest``."""
    gradients = [cast(Tensor, parameter.grad) for parameter in module.parameters()]
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients])
    factor = (largest / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # [S]
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
