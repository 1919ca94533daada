"""PEX as released (github.com/Haichao-Zhang/PEX): its own online updates at its own settings, batch 256.

    python -m benchmarks.references.pex pex FOLDER_OF_THE_CHECKOUT

Updates only: no visit is made between them. Half of a batch are recorded transitions, half come from its
replay memory, which holds the same transitions once more. No offline training comes before, which does not
matter for speed.
"""

from __future__ import annotations

import importlib
import sys
from itertools import cycle
from typing import Any
from unittest.mock import MagicMock, patch

import torch

from benchmarks.speed.protocol import BATCH, N_ACT, N_OBS, READY, ROWS, Learner, serve, synthetic

METHODS = {"pex": "PEX"}
"""Class by method."""


def build(method: str, folder: str) -> Learner:
    """Import the method from the checkout and put its learner on the synthetic data."""
    for name in ("d4rl", "gym"):
        sys.modules[name] = MagicMock()
    sys.path.insert(0, folder)
    with patch.object(torch.cuda, "is_available", lambda: False):  # else it takes a GPU
        algorithms: Any = importlib.import_module(f"pex.algorithms.{method}")
    policies: Any = importlib.import_module("pex.networks.policy")
    values: Any = importlib.import_module("pex.networks.value_functions")
    tools: Any = importlib.import_module("pex.utils.util")
    learner = getattr(algorithms, METHODS[method])(
        critic=values.DoubleCriticNetwork(N_OBS, N_ACT),
        vf=values.ValueNetwork(N_OBS),
        policy=policies.GaussianPolicy(N_OBS, N_ACT, hidden_dim=256),
        optimizer_ctor=lambda parameters: torch.optim.Adam(parameters, lr=3e-4),
        tau=0.7,
        beta=10.0,
        discount=0.99,
        target_update_rate=0.005,
        ckpt_path=None,
        inv_temperature=10.0,
    )
    data = synthetic()
    memory = tools.ReplayMemory(ROWS, 0)
    names = ("obs", "act", "reward", "next_obs", "terminal")
    for visit in zip(*(data[name] for name in names), strict=True):
        memory.push(*visit)
    theirs = ("observations", "actions", "rewards", "next_observations", "terminals")
    recorded = {new: torch.from_numpy(data[name]) for new, name in zip(theirs, names, strict=True)}

    patch.object(torch.Tensor, "cuda", lambda x: x).start()  # its sampling moves recorded rows to a GPU

    def drawn() -> Any:
        return tools.get_batch_from_dataset_and_buffer(recorded, memory, BATCH, True)

    ready = cycle([drawn() for _ in range(READY)])
    return Learner(
        lambda: learner.update(*next(ready)), lambda: learner.update(*drawn()), "2x256, Gaussian policy"
    )


if __name__ == "__main__":
    serve(lambda: build(sys.argv[1], sys.argv[2]))
