"""Adam over stacked seeds, and step sizes that change along training.

A method of torch's optimisers first asks its compiler whether it is compiling, and imports it for that: 800
modules, which take longer than all else that a short command does. Ours are the same without that question.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from dosing.models.networks import decay_of


class _Uncompiled:
    """What torch's optimisers do, without the wrappers that ask its compiler."""

    add_param_group: Any = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad: Any = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict: Any = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict: Any = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class Adam(_Uncompiled, torch.optim.Adam):
    """Adam (Kingma, Ba 2015, arXiv 1412.6980)."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(_Uncompiled, torch.optim.AdamW):
    """Adam with weights that shrink apart from the gradient (Loshchilov, Hutter 2019, arXiv 1711.05101)."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Sgd(_Uncompiled, torch.optim.SGD):
    """Stochastic gradient descent."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


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
    kind: type[torch.optim.Adam] = Adam if rates == [0.0] else AdamW
    device = module_or_parameters[0].device
    if device.type != "cuda":
        return kind(groups, lr=learning_rate, fused=True)
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
