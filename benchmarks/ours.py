"""One of our agents as a measured process.

    python -m benchmarks.ours AGENT [--seeds S] [--hidden 256 256] [--precision bfloat16] [--mode compile]

It answers requests as ``benchmarks.protocol`` says.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import count, cycle
from typing import Any

import torch

import agents
from benchmarks.protocol import BATCH, EPISODE, N_ACT, N_OBS, READY, ROWS, Learner, serve, synthetic
from dosing.acceleration import updater
from dosing.agent import Problem
from dosing.data.dataset import Dataset, Transform
from dosing.data.sampling import BLOCK, Sampler
from dosing.streams import draw


def dataset() -> Dataset:
    """The synthetic transitions as agents see them."""
    columns = {name: torch.from_numpy(values) for name, values in synthetic().items()}
    identity = Transform((0.0,) * N_OBS, (1.0,) * N_OBS, (-1.0,) * N_ACT, (1.0,) * N_ACT)
    return Dataset(
        obs=columns["obs"],
        act=columns["act"],
        reward=columns["reward"],
        next_obs=columns["next_obs"],
        terminated=columns["terminal"],
        starts=torch.arange(0, ROWS + 1, EPISODE),
        transform=identity,
        metadata={},
    )


def build(arguments: argparse.Namespace) -> Learner:
    """Build the agent with the step the training loop would take.

    The update that is timed without sampling draws its noise, as the references do: only the choice and the
    gathering of transitions are left out.
    """
    config = {"hidden": tuple(arguments.hidden)} if arguments.hidden else {}
    seeds = range(arguments.seeds)
    agent = agents.build(arguments.agent, config, Problem(N_OBS, N_ACT), seeds, precision=arguments.precision)
    take = updater(agent, arguments.mode)
    sampler = Sampler(dataset(), agent, BATCH)
    plan = agent.noise(BATCH)
    ready = cycle([sampler(step) for step in range(READY)])
    steps, sampled_steps = count(), count(READY)
    noise: dict[str, torch.Tensor] = {}

    def update() -> object:
        step = next(steps)
        block, offset = divmod(step, BLOCK)
        if offset == 0:
            for number, (name, (law, shape)) in enumerate(plan.items()):
                address = (block, number)
                noise[name] = draw(
                    agent.seeds,
                    law,
                    (BLOCK, *shape),
                    address,
                    device=torch.device("cpu"),
                    dtype=torch.float32,
                )
        drawn = {name: values[offset] for name, values in noise.items()}
        return take(replace(next(ready), noise=drawn, step=step))

    settings: Any = getattr(agent, "config").hidden  # noqa: B009  the protocol of agents does not name it
    widths = "x".join(map(str, settings)) if len(set(settings)) > 1 else f"{len(settings)}x{settings[0]}"
    return Learner(update, lambda: take(sampler(next(sampled_steps))), widths)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agent")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--hidden", type=int, nargs="*", default=[])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--mode", choices=("eager", "compile"), default="eager")
    return parser.parse_args()


if __name__ == "__main__":
    serve(lambda: build(arguments()))
