"""Small cohorts, data sets and stacks that several tests share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.data.store import Episodes
from dosing.runs.config import DataReference, RunConfig
from dosing.safety import DoseLimits
from dosing.types import Problem
from simulator.cohorts.generate import simulate

ENV = "dosing/Treatment-v0"
PROBLEM = Problem(n_obs=8, n_act=1, horizon=24)

EVERYDAY = ("fttpo", "iql", "onestep", "decision_transformer", "quasi_optimal")
"""Agents of different kinds (one phase, two, sequences, no network) for everyday runs."""


def long_for_most(names: Iterable[str]) -> list[Any]:
    """Parameters of a test that takes long for all agents: everyday runs take a few of them."""
    return [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.long) for name in names]


@functools.cache
def cohort(patients: int = 8, seed: int = 0) -> Episodes:
    """Recorded visits of a few simulated patients."""
    return simulate(ENV, patients=patients, seed=seed)


def dataset(patients: int = 8, dtype: torch.dtype = torch.float32) -> Dataset:
    """The same in agents' units; the tensors are the caller's own."""
    return Dataset.from_episodes(cohort(patients), dtype=dtype)


def run_config(**changed: Any) -> RunConfig:
    """Configuration of a small run."""
    transform = Transform((0.0,) * 8, (1.0,) * 8, (-1.0,), (1.0,))
    usual: dict[str, Any] = {
        "agent": "bc",
        "agent_config": {},
        "seeds": (0, 1),
        "problem": PROBLEM,
        "transform": transform,
        "limits": DoseLimits((-1.0,), (1.0,)),
        "data": DataReference("visits", "0" * 64, visits=192, patients=8),
    }
    return RunConfig(**usual | changed)


SMALL = {
    "hidden": (16, 16),
    "vae_hidden": (16, 16),
    "vae_steps": 3,
    "mmd_only": 3,
    "behaviour_steps": 2,
    "critic_steps": 2,
    "episodes": 2,
    "context": 4,
    "width": 16,
    "fit_steps": 3,
    "gate": "off",
}


def small(name: str, **settings: Any) -> Any:
    """An agent's default configuration with networks of two narrow layers and a short first phase."""
    default = agents.find(name).config_class()()
    own = {field: value for field, value in SMALL.items() if hasattr(default, field)}
    return dataclasses.replace(default, **own | settings)


def stack(
    name: str, seeds: Sequence[int] = (0, 1), dtype: torch.dtype = torch.float32, problem: Problem = PROBLEM
) -> Agent:
    """A small stack of fresh agents."""
    return agents.build(name, small(name), problem, seeds, dtype=dtype)


def is_bounded(name: str) -> bool:
    """Whether an agent's dose set has exact edges."""
    return agents.AGENTS[name].about.support in ("interval", "point")


def has_density(name: str) -> bool:
    """Whether an agent's policy is a distribution with a density: neither one dose nor a finite set of
    them."""
    return agents.AGENTS[name].about.support not in ("point", "point_set", "samples")
