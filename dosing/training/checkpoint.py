"""Everything a resumed run needs of an agent, as named tensors: weights, targets, optimiser moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.errors import UserError


def optimizers(agent: Agent) -> dict[str, torch.optim.Optimizer]:
    """All optimisers by name: the method's, and that of a cost critic."""
    return agent.optimizers | ({} if agent.budget is None else {"budget": agent.budget.optimizer})


def training_state(agent: Agent) -> dict[str, Tensor]:
    """Weights, target networks and optimiser moments of an agent, by name."""
    state = {f"agent.{name}": value for name, value in agent.state_dict().items()}
    for label, optimizer in optimizers(agent).items():
        state |= moments(optimizer, f"optimizer.{label}.")
    return state


def load_training_state(agent: Agent, state: Mapping[str, Tensor]) -> None:
    """Restore :func:`training_state` exactly; refuses a state of another agent or size.

    Raises:
        UserError: names are missing or shapes differ.
    """
    weights = {name[6:]: value for name, value in state.items() if name.startswith("agent.")}
    try:
        agent.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"the checkpoint does not fit this agent: {first}") from error
    for label, optimizer in optimizers(agent).items():
        load_moments(optimizer, state, f"optimizer.{label}.")


def moments(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimiser's moments as tensors named ``PREFIX INDEX . NAME``, by the number of their parameter."""
    return {
        f"{prefix}{index}.{name}": torch.as_tensor(value)
        for index, own in optimizer.state_dict()["state"].items()
        for name, value in own.items()
    }


def load_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor], prefix: str) -> None:
    """Restore :func:`moments` exactly; other names in ``state`` are left alone.

    Raises:
        UserError: there is no such parameter, or it has another shape.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[int, dict[str, Any]] = {}
    for name, value in state.items():
        if name.startswith(prefix):
            index, key = name[len(prefix) :].split(".", 1)
            if int(index) >= len(parameters) or value.shape not in ((), parameters[int(index)].shape):
                raise UserError(f"the checkpoint does not fit this agent: {name} has no place in it.")
            found.setdefault(int(index), {})[key] = value.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": found, "param_groups": groups})
