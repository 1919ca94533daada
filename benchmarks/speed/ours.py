"""One of our agents as a measured process.

    python -m benchmarks.speed.ours AGENT [--seeds S] [--config JSON] [--mode compile]

AGENT is one of the suite, or else a method of fine-tuning, such as ``pex``; it then goes on from IQL, whose
configuration is asked for. It answers requests as ``benchmarks.speed.protocol`` says.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import count, cycle
from typing import Any

import torch

import agents
from agents import finetuning
from benchmarks.speed.protocol import (
    BATCH,
    EPISODE,
    N_ACT,
    N_OBS,
    READY,
    ROWS,
    WINDOWS,
    Learner,
    serve,
    synthetic,
)
from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.finetuning.method import Replay, Start, TrialSettings
from dosing.models.regularisation import PLAIN
from dosing.training.compilation import updater
from dosing.training.sampler import BLOCK, Sampler, noise_block
from dosing.types import Problem


def dataset(device: torch.device | str = "cpu") -> Dataset:
    """The synthetic transitions as agents see them."""
    columns = {name: torch.from_numpy(values).to(device) for name, values in synthetic().items()}
    identity = Transform((0.0,) * N_OBS, (1.0,) * N_OBS, (-1.0,) * N_ACT, (1.0,) * N_ACT)
    return Dataset(
        obs=columns["obs"],
        act=columns["act"],
        reward=columns["reward"],
        next_obs=columns["next_obs"],
        terminated=columns["terminal"],
        starts=torch.arange(0, ROWS + 1, EPISODE, device=device),
        transform=identity,
    )


def finetuned(method: str, offline: Agent) -> tuple[Agent, Replay]:
    """What learns in a trial, and its replay: the transitions as recorded visits, and as treated ones."""
    data, episodes = dataset(), ROWS // EPISODE
    start = Start(
        name=finetuning.STARTS_FROM,
        config=offline.config,
        problem=offline.problem,
        seeds=offline.seeds,
        regularisation=PLAIN,
        weights=offline.state_dict(),
        updates=0,
        dataset=data,
        build=agents.build,
    )
    settings = TrialSettings(visits=ROWS, patients=episodes, batch_size=BATCH)
    learner = finetuning.find(method).method().learner(start, settings)
    columns = (data.obs, data.act, data.reward, data.next_obs, data.terminated, data.terminated > 0.0)
    by_episode = [column.unflatten(0, (episodes, EPISODE)) for column in columns]
    for k in range(EPISODE):
        visit = (column[:, k].expand(len(offline.seeds), *column[:, k].shape) for column in by_episode)
        learner.replay.remember(*visit)
    return learner.agent, learner.replay


def build(options: argparse.Namespace) -> Learner:
    """Build the agent with the step the training loop would take.

    The update that is timed without sampling draws its noise, as the references do: only the choice and the
    gathering of transitions are left out.
    """
    differing: dict[str, Any] = json.loads(options.config)
    problem, seeds = Problem(N_OBS, N_ACT), tuple(range(options.seeds))
    sampler: Sampler | Replay
    if options.agent in finetuning.METHODS and options.agent not in agents.AGENTS:
        offline = agents.build(finetuning.STARTS_FROM, differing, problem, seeds)
        config: Any = offline.config
        agent, sampler = finetuned(options.agent, offline)
        size = BATCH
    else:
        agent = agents.build(options.agent, differing, problem, seeds)
        config = agent.config
        size = BATCH if agent.context == 1 else WINDOWS * agent.context
        sampler = Sampler(dataset(), agent, size)
    take = updater(agent, options.mode)
    plan, cpu = agent.noise(size), torch.device("cpu")
    ready = cycle([sampler(step) for step in range(READY)])
    steps, sampled_steps = count(), count(READY)
    noise: dict[str, torch.Tensor] = {}

    def update() -> object:
        block, offset = divmod(step := next(steps), BLOCK)
        if offset == 0:
            noise.update(noise_block(agent.seeds, plan, block, device=cpu, dtype=torch.float32))
        drawn = {name: values[offset] for name, values in noise.items()}
        return take(replace(next(ready), noise=drawn, step=step))

    hidden: tuple[int, ...] = getattr(config, "hidden", ())
    widths = f"{len(hidden)}x{hidden[0]}" if len(set(hidden)) == 1 else "-".join(map(str, hidden))
    windows = f"{WINDOWS} windows of {agent.context}" if agent.context > 1 else ""
    others = [f"{name} {value}" for name, value in differing.items() if name != "hidden"]
    settings = ", ".join(filter(None, (windows, widths, *others)))
    return Learner(update, lambda: take(sampler(next(sampled_steps))), settings)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="One of our agents as a measured process.")
    parser.add_argument("agent")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--config", default="{}", help="fields of its configuration that differ, as JSON")
    parser.add_argument("--mode", choices=("eager", "compile"), default="eager")
    return parser.parse_args()


if __name__ == "__main__":
    serve(lambda: build(arguments()))
