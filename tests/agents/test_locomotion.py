"""Every agent learns from records of MuJoCo tasks with three and six actions, and acts in them.

The records are a file in the folder DOSING_MUJOCO_DATA whose name begins with the task or, without it, those
of a small TD3 agent while it learns.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.data.formats import is_own
from dosing.data.sources import read_source
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import following
from dosing.policy import DosePolicy
from dosing.studies.data import external_of
from dosing.studies.mujoco_data import CollectionPlan, collect
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Problem
from simulator.envs.tasks import TaskFactory
from tests.support.samples import small

pytestmark = [pytest.mark.mujoco, pytest.mark.slow]

TASKS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5"}
CUT = {"max_episode_steps": 200}
UPDATES = 1000
SETTINGS = {"discount": 0.99, "vae_steps": 200, "mmd_only": 200, "behaviour_steps": 200, "critic_steps": 400}


@functools.cache
def records(task: str) -> Episodes:
    """Recorded visits of the task."""
    env_id, folder = TASKS[task], os.environ.get("DOSING_MUJOCO_DATA")
    files = sorted(Path(folder).glob(f"{task}-*.hdf5")) if folder else []
    if files:
        return read_source(files[0], None if is_own(files[0]) else external_of(env_id, {}))
    return collect(CollectionPlan(env_id, "replay", 3000, start=1000, hidden=(32, 32), env_options=CUT))


def built(name: str, problem: Problem) -> Agent:
    """A small agent; the test is skipped where the method says by name that it knows one dose only."""
    default = small(name)
    config = small(name, **{key: value for key, value in SETTINGS.items() if hasattr(default, key)})
    try:
        return agents.build(name, config, problem, (0,))
    except UserError as refusal:
        named = agents.AGENTS[name].title.lower() in str(refusal)
        if not named or f"one dose dimension only; this task has {problem.n_act}" not in str(refusal):
            raise
        pytest.skip(str(refusal))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", agents.AGENTS)
def test_an_agent_learns_a_task_and_acts_in_it_within_its_limits(name: str, task: str) -> None:
    dataset = Dataset.from_episodes(records(task))
    factory = TaskFactory(TASKS[task], CUT, workers=1)
    longest = max(factory.horizon, int(dataset.starts.diff().max()))
    agent = built(name, Problem(dataset.obs.shape[1], dataset.act.shape[1], longest))
    sampler, take = Sampler(dataset, agent, 64), updater(agent)
    for step in range(UPDATES):
        report = take(sampler(step))
        if step % 100 == 99:
            assert all(bool(torch.isfinite(value).all()) for value in report.values()), step
    assert all(bool(torch.isfinite(value).all()) for value in agent.state_dict().values())
    result = rollout(factory, following(DosePolicy(agent, dataset.transform)), (0,), 2)
    assert np.isfinite(result.returns).all()
    assert (result.visits >= 1.0).all()
    assert (result.limited == 0.0).all()  # every requested action was within the box
