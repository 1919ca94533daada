"""CODAC's code (github.com/JasonMa2016/CODAC): its own update function at its own settings, batch 256.

    python -m benchmarks.references.codac codac FOLDER_OF_THE_CHECKOUT

It hands its update numpy arrays, as its replay memory returns them.
"""

from __future__ import annotations

import importlib
import sys
from itertools import count, cycle
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch

from benchmarks.speed.protocol import BATCH, N_ACT, N_OBS, READY, ROWS, Learner, serve, synthetic

METHODS = {"codac": "CODAC"}
"""Class by method."""


class Box:
    """What the code asks of a space of actions."""

    shape = (N_ACT,)
    low, high = -np.ones(N_ACT, dtype=np.float32), np.ones(N_ACT, dtype=np.float32)


def build(method: str, folder: str) -> Learner:
    """Import the method from the checkout and put its learner on the synthetic data."""
    sys.modules["wandb"] = MagicMock()
    sys.path.insert(0, folder)
    module = importlib.import_module("distributional.codac")
    tools: Any = importlib.import_module("distributional.rlkit_pytorch_utils")
    tools.device = torch.device("cpu")
    vars(module).setdefault("ptu", tools)
    with patch.object(torch.Tensor, "to", lambda x, *_: x):  # its networks move a constant to a GPU
        learner = getattr(module, METHODS[method])(N_OBS, Box(), device="cpu")
    data = synthetic()
    columns = [data["obs"], data["act"], data["reward"], data["next_obs"], 1.0 - data["terminal"]]
    rng, steps = np.random.default_rng(0), count()

    def drawn() -> tuple[Any, ...]:
        rows = rng.integers(ROWS, size=BATCH)
        return tuple(column[rows] for column in columns)

    ready = cycle([drawn() for _ in range(READY)])

    def update(batch: tuple[Any, ...]) -> None:
        learner.update_parameters(batch, BATCH, next(steps))

    return Learner(lambda: update(next(ready)), lambda: update(drawn()), "2x256, 32 quantiles, its defaults")


if __name__ == "__main__":
    serve(lambda: build(sys.argv[1], sys.argv[2]))
