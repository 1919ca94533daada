"""Offline runs with further seeds, and trials that start from them, for the methods with several policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import agents
from agents import finetuning
from dosing.finetuning.method import Learner, Start, TrialSettings
from dosing.finetuning.trial import Trial
from dosing.models.batch import Batch
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.training.regularised import noise_plan
from tests.finetuning.test_trial import SEEDS, SETTINGS, judge, waves
from tests.support.samples import PROBLEM, dataset, small

FURTHER = 50
"""Number of the first seed that takes no part in a trial."""


def begun(
    name: str = "iql",
    seeds: tuple[int, ...] = SEEDS,
    further: int = 0,
    dtype: torch.dtype = torch.float32,
    regularisation: Regularisation = PLAIN,
    **settings: Any,
) -> Start:
    """As after an offline run of 7 updates, with weights that are not those of a new stack."""
    config, every = small(name, **settings), (*seeds, *range(FURTHER, FURTHER + further))
    made = agents.build(name, config, PROBLEM, every, dtype=dtype, regularisation=regularisation)
    made.prepare(dataset(dtype=dtype))
    weights = made.state_dict()
    for k, seed in enumerate(every):
        rng = np.random.default_rng(seed)
        for x in (x for x in weights.values() if x.is_floating_point()):
            x[k] += 0.2 * torch.from_numpy(rng.standard_normal(tuple(x.shape[1:]))).to(x)
    return Start(
        name,
        config,
        PROBLEM,
        seeds,
        regularisation,
        {n: x[: len(seeds)] for n, x in weights.items()},
        7,
        dataset(dtype=dtype),
        agents.build,
        {n: x[len(seeds) :] for n, x in weights.items()} if further else {},
    )


def learner(method: str, start: Start, /, **changes: Any) -> Learner:
    """What a method brings."""
    return finetuning.find(method).method().learner(start, replace(SETTINGS, **changes))


def trial(method: str, start: Start, changes: Mapping[str, Any] | None = None) -> Trial:
    """A trial on simulated patients."""
    settings: TrialSettings = replace(SETTINGS, **(changes or {}))
    result = finetuning.find(method).method().learner(start, settings)
    return Trial(result, waves(start.seeds, settings.patients), start.transform, settings, judge)


def batch(agent: Any, start: Start, size: int = 6, step: int = 0) -> Batch:
    """Recorded visits, other ones for every seed, with noise."""
    rng = np.random.default_rng(4)
    data, seeds = start.dataset, len(start.seeds)
    rows = torch.from_numpy(rng.integers(len(data.obs), size=(seeds, size)))
    noise: dict[str, Tensor] = {
        name: torch.from_numpy(rng.random((seeds, *shape))).to(data.obs)
        for name, (_, shape) in noise_plan(agent, size).items()
    }
    return Batch(
        data.obs[rows],
        data.act[rows],
        data.reward[rows],
        data.next_obs[rows],
        data.terminated[rows],
        noise,
        step=step,
    )


def same_alone(method: str, name: str, further: int = 0) -> None:
    """Whether seed 3 of a stack treats and learns as seed 3 alone."""
    changes = {"visits": 96}
    both = trial(method, begun(name, SEEDS, 2 * further), changes)
    start = begun(name, (3,), 0)
    if further:  # its own of the stack's further seeds
        stack = begun(name, SEEDS, 2 * further)
        start = replace(start, further={n: x[further:] for n, x in stack.further.items()})
    alone = trial(method, start, changes)
    for result in (both, alone):
        while result.visits < 96:
            result.step()
            if result.due():
                result.evaluate()
    theirs = [row for row in both.trial_log.episodes if row[0] == 3]
    np.testing.assert_allclose(theirs, alone.trial_log.episodes, rtol=1e-3, atol=1e-3)
    theirs = [row for row in both.trial_log.curve if row[0] == 3]
    np.testing.assert_allclose(theirs, alone.trial_log.curve, rtol=1e-3, atol=1e-3, equal_nan=True)
    assert both.updates == 19
