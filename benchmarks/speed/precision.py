"""What bfloat16 products change: losses and returns after the same short training on the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

import agents
from dosing.data.dataset import Dataset
from dosing.data.store import Episodes
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import following
from dosing.policy import DosePolicy
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Problem
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory

ENV_ID = "dosing/Treatment-v0"
SEEDS = (0, 1, 2)
UPDATES, LAST = 500, 100
"""Updates of the training, and how many of them, at its end, a loss is averaged over."""
PATIENTS = 1000

Precision = Literal["float32", "bfloat16"]


def trained(name: str, episodes: Episodes, precision: Precision) -> tuple[DosePolicy, dict[str, list[float]]]:
    """Train an agent; returns its policy and the mean of each loss over the last updates, per seed."""
    dataset = Dataset.from_episodes(episodes)
    problem = Problem(dataset.obs.shape[1], dataset.act.shape[1])
    agent = agents.build(name, {}, problem, SEEDS, precision=precision)
    take, sampler = updater(agent), Sampler(dataset, agent, 256)
    late: dict[str, list[torch.Tensor]] = {}
    for step in range(UPDATES):
        metrics = take(sampler(step))
        if step >= UPDATES - LAST:
            for key, value in metrics.items():
                late.setdefault(key, []).append(value)
    losses = {
        key: torch.stack(values).double().mean(0).tolist()
        for key, values in late.items()
        if key.startswith("loss/")
    }
    return DosePolicy(agent, dataset.transform), losses


def change(names: Sequence[str]) -> list[dict[str, Any]]:
    """Losses and returns of both precisions: same seeds, batches, noise and evaluation patients."""
    episodes = simulate(ENV_ID, patients=50, policy="uniform", seed=0)
    factory = CohortFactory(ENV_ID, {})
    result = []
    for name in names:
        values: dict[str, dict[str, list[float]]] = {}
        precisions: tuple[Precision, ...] = ("float32", "bfloat16")
        for precision in precisions:
            policy, losses = trained(name, episodes, precision)
            outcomes = rollout(factory, following(policy), SEEDS, PATIENTS)
            losses["return of recommended doses"] = outcomes.returns.mean(1).tolist()
            for key, per_seed in losses.items():
                values.setdefault(key, {})[precision] = per_seed
        result += [{"agent": name, "what": key, **pair} for key, pair in values.items()]
    return result
