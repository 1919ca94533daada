"""One of our agents as a measured process.

    python -m benchmarks.speed.ours AGENT [--seeds S] [--config JSON] [--mode compile]

It answers requests as ``benchmarks.speed.protocol`` says.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import count, cycle
from typing import Any

import torch

import agents
from benchmarks.speed.protocol import BATCH, EPISODE, N_ACT, N_OBS, READY, ROWS, Learner, serve, synthetic
from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.rng import draw
from dosing.training.compilation import updater
from dosing.training.sampler import BLOCK, Sampler
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


def build(options: argparse.Namespace) -> Learner:
    """Build the agent with the step the training loop would take.

    The update that is timed without sampling draws its noise, as the references do: only the choice and the
    gathering of transitions are left out.
    """
    differing: dict[str, Any] = json.loads(options.config)
    problem, seeds = Problem(N_OBS, N_ACT), range(options.seeds)
    agent = agents.build(options.agent, differing, problem, seeds)
    take = updater(agent, options.mode)
    sampler = Sampler(dataset(), agent, BATCH)
    ready = cycle([sampler(step) for step in range(READY)])
    steps, sampled_steps = count(), count(READY)
    noise: dict[str, torch.Tensor] = {}

    def update() -> object:
        block, offset = divmod(step := next(steps), BLOCK)
        if offset == 0:
            noise.update(_noise(agent, block))
        drawn = {name: values[offset] for name, values in noise.items()}
        return take(replace(next(ready), noise=drawn, step=step))

    config: Any = agent.config
    hidden: tuple[int, ...] = getattr(config, "hidden", ())
    widths = f"{len(hidden)}x{hidden[0]}" if len(set(hidden)) == 1 else "-".join(map(str, hidden))
    others = [f"{name} {value}" for name, value in differing.items() if name != "hidden"]
    return Learner(update, lambda: take(sampler(next(sampled_steps))), ", ".join([widths, *others]))


def _noise(agent: Agent, block: int) -> dict[str, torch.Tensor]:
    """Noise of one block of updates, drawn as the sampler draws it."""
    cpu, kind = torch.device("cpu"), torch.float32
    return {
        name: draw(
            agent.seeds, plan.distribution, (BLOCK, *plan.shape), (block, number), device=cpu, dtype=kind
        )
        for number, (name, plan) in enumerate(agent.noise(BATCH).items())
    }


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
