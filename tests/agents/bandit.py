"""A problem whose solution is known, and stacks trained on it.

Doses uniform on [low, 1], reward 1 - (a - 0.3)^2, every transition terminal, observations without meaning.
Each method's fixed point on it follows from its equations by one-dimensional integrals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.integrate import quad

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Problem

SEEDS = (0, 1, 2, 3)
BEST = 0.3
N_ROWS = 4096
SMALL = {"hidden": (32, 32), "target_rate": 0.05}


def reward(act: Any) -> Any:
    """The bandit's reward, at most 1."""
    return 1.0 - (act - BEST) ** 2


def bandit(low: float = -1.0) -> Dataset:
    """N_ROWS doses evenly spread over [low, 1], their rewards, and random observations."""
    act = low + (1.0 - low) * (torch.arange(N_ROWS) + 0.5) / N_ROWS
    obs = torch.from_numpy(np.random.default_rng(0).standard_normal((N_ROWS, 1)).astype(np.float32))
    return Dataset(
        obs=obs,
        act=act[:, None],
        reward=reward(act),
        next_obs=obs.flip(0),
        terminated=torch.ones(N_ROWS),
        starts=torch.arange(N_ROWS + 1),
        transform=Transform((0.0,), (1.0,), (-1.0,), (1.0,)),
    )


def trained(
    name: str, config: dict[str, Any], dataset: Dataset, steps: int, batch_size: int = 256, **options: Any
) -> Agent:
    """A stack of four seeds after ``steps`` updates, the last third at a tenth of the step size.

    Args:
        name: of the agent.
        config: its settings, where they are not ``SMALL``.
        dataset: what it is trained on.
        steps: how many updates.
        batch_size: rows of each.
        options: what its networks have beyond the method.
    """
    default = agents.find(name).config_class()()
    own = {field: value for field, value in SMALL.items() if hasattr(default, field)}
    agent = agents.build(name, own | config, Problem(1, 1), SEEDS, regularisation=options)
    sampler, take = Sampler(dataset, agent, batch_size), updater(agent)
    for step in range(steps):
        if step == 2 * steps // 3:
            for optimizer in agent.optimizers.values():
                optimizer.param_groups[0]["lr"] *= 0.1
        take(sampler(step))
    return agent


def average(f: Callable[[float], float], low: float = -1.0) -> float:
    """Mean of f over the recorded doses."""
    return float(quad(f, low, 1.0, points=[BEST], epsabs=1e-11, limit=200)[0]) / (1.0 - low)


OBS = torch.linspace(-1.5, 1.5, 31).view(1, 31, 1).expand(len(SEEDS), 31, 1)
