"""What regularisation adds to the training of any agent: a prior dose, and hidden units that are left out.

The methods know nothing of it; see ``dosing.models.regularisation``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.models.batch import Batch
from dosing.models.networks import Mlp
from dosing.models.prior import Centred, constant_dose
from dosing.types import Noise

UNITS = "dropped_units"
"""Name of the noise that leaves out hidden units."""


def prepare(agent: Agent, dataset: Dataset) -> None:
    """Take from the data what is fixed before the first update: the prior dose, and what the method takes.

    Raises:
        UserError: the data do not do, as of the method's own ``prepare`` and of the prior.
    """
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
    """Take the agent's ``update`` with the hidden units left out that the batch says; returns its metrics."""
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
