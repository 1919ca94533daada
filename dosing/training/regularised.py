"""What regularisation adds to the training of any agent: a prior dose, units left out, a price of cost.

The methods know nothing of it; see ``dosing.models.regularisation``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.cost_budget import CostBudget
from dosing.models.networks import Initialiser, Mlp
from dosing.models.prior import Centred, constant_dose
from dosing.types import Noise

UNITS = "dropped_units"
"""Name of the noise that leaves out hidden units."""


def keep_budget(agent: Agent, init: Initialiser) -> None:
    """Give a fresh agent the cost budget of its regularisation, if there is one.

    Raises:
        UserError: the agent cannot be trained on reward less a price of cost that changes along the way.
    """
    budget, name = agent.regularisation.cost_budget, type(agent).__name__
    if budget is None:
        return
    if agent.regularisation.advantage == "model":
        raise UserError(
            f"{name} on a belief learns advantages in a model of the reward alone, which knows no cost: "
            "train it without a cost budget, or with advantage=critic."
        )
    if agent.rewards == "none":
        raise UserError(f"{name} learns from doses alone, so that no price of cost would change its policy.")
    if agent.rewards == "fixed" or agent.looks_back:
        raise UserError(
            f"{name} takes something from the recorded rewards before its first update, and a cost budget "
            "changes rewards during training: choose another agent."
        )
    if agent.discount == 1.0:
        raise UserError("a cost budget needs a discount below 1.")
    agent.budget = CostBudget(init, agent.problem, budget, agent.discount)


def prepare(agent: Agent, dataset: Dataset) -> None:
    """Take from the data what is fixed before the first update: the prior dose, and what the method takes.

    Raises:
        UserError: the data do not do, as of the method's own ``prepare``, of the prior and of a cost budget.
    """
    if agent.budget is not None:
        agent.budget.prepare(dataset)
    if agent.regularisation.prior == "constant_dose":
        split = (dataset.replicates, len(dataset) // dataset.replicates)
        act = dataset.act.double().cpu().unflatten(0, split).mT.numpy()  # [R, A, M], one dose at a time
        reward = dataset.reward.double().cpu().unflatten(0, split).unsqueeze(1).expand(act.shape)
        lengths = dataset.starts.diff().cpu()
        patient = torch.arange(len(lengths)).repeat_interleave(lengths).unflatten(0, split)
        best = constant_dose(act, reward.numpy(), patient.unsqueeze(1).expand(act.shape).numpy())
        for module in agent.modules():
            if isinstance(module, Centred):
                module.centre(torch.as_tensor(best.dose))
    agent.prepare(dataset)


def noise_plan(agent: Agent, batch_size: int) -> dict[str, Noise]:
    """Everything that one update draws: the method's ``noise``, and hidden units to leave out."""
    units = sum(network.masks[0].numel() for network in _dropping(agent))
    dropped = {UNITS: Noise("uniform", (units,))} if units else {}
    return agent.noise(batch_size) | dropped


def take_step(agent: Agent, batch: Batch) -> dict[str, Tensor]:
    """Take the agent's ``update``, costs charged where they have a budget; returns its metrics."""
    if agent.budget is None:
        return _update(agent, batch)
    metrics = _update(agent, agent.budget.charged(batch))
    answers = batch.step >= agent.warm_up  # before, no price moves the policy
    return metrics | agent.budget.update(batch, agent.policy, moves=answers)


def _update(agent: Agent, batch: Batch) -> dict[str, Tensor]:
    """The agent's ``update`` with the hidden units left out that the batch says."""
    networks = _dropping(agent)
    if not networks:
        return agent.update(batch)
    parts = batch.noise[UNITS].split([network.masks[0].numel() for network in networks], -1)
    for network, part in zip(networks, parts, strict=True):
        network.drop(part.view_as(network.masks))
    try:
        return agent.update(batch)
    finally:
        for network in networks:
            network.masks.fill_(1.0)


def _dropping(agent: Agent) -> list[Mlp]:
    """Trained networks with dropout, in the order in which they were built."""
    if agent.regularisation.dropout == 0.0:
        return []
    networks = [module for module in agent.modules() if isinstance(module, Mlp) and module.dropout > 0.0]
    return [network for network in networks if next(network.parameters()).requires_grad]
