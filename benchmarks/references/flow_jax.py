"""Agents of fql, of FAN and of Value Flows, which JAX computes.

    python -m benchmarks.references.flow_jax METHOD FOLDER_OF_THE_CHECKOUT

They are github.com/seohongpark/fql, github.com/brianlsy98/FAN and github.com/chongyi-zheng/value-flows. Their
own ``update`` at their own settings, batch 256, compiled without what it only reports: of Value Flows that
would draw and judge all candidates once more. One thread only: a compiled program uses every core it may, so
the process keeps to one core.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from functools import partial
from itertools import cycle
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np

from benchmarks.speed.protocol import BATCH, READY, ROWS, Learner, serve, synthetic

METHODS = {
    "fql": "FQLAgent",
    "ifql": "IFQLAgent",
    "rebrac": "ReBRACAgent",
    "fan": "FANAgent",
    "faql": "FAQLAgent",
    "nbrac": "NBRACAgent",
    "nfql": "NFQLAgent",
    "value_flows": "ValueFlowsAgent",
    "iqn": "IQNAgent",
    "c51": "C51Agent",
}
"""Class by method; a method is the file of its name in the folder ``agents`` of its checkout."""


def build(method: str, folder: str) -> Learner:
    """Import the method from the checkout and put its learner on the synthetic data."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import flax
    import jax

    sys.modules["wandb"] = MagicMock()
    here = [name for name in sys.modules if name.split(".")[0] == "agents"]
    sys.path[0] = folder  # before this repository, which has a package agents too
    for name in here:
        del sys.modules[name]
    package = ModuleType("agents")
    package.__path__ = [os.path.join(folder, "agents")]
    sys.modules["agents"] = package  # its own __init__ imports every agent, and what those need
    module = importlib.import_module(f"agents.{method}")
    config = module.get_config()
    columns = _columns()
    create = getattr(module, METHODS[method]).create
    example = {name: values[:BATCH] for name, values in columns.items()}
    rewards = columns["rewards"]  # returns are held within what the smallest and the largest allow
    example |= {"min_reward": float(rewards.min()), "max_reward": float(rewards.max())}
    known = {
        "seed": 0,
        "config": config,
        "example_batch": example,
        "ex_observations": example["observations"],
        "ex_actions": example["actions"],
    }
    held = [create(**{name: known[name] for name in inspect.signature(create).parameters})]
    rng = np.random.default_rng(0)

    def drawn() -> dict[str, Any]:
        rows = rng.integers(ROWS, size=BATCH)
        return {name: values[rows] for name, values in columns.items()}

    ready = cycle([{name: jax.numpy.asarray(x) for name, x in drawn().items()} for _ in range(READY)])
    period = int(config.get("actor_freq", 1))
    turns = cycle([True] + [False] * (period - 1))

    @partial(jax.jit, static_argnames="options")
    def step(agent: Any, batch: dict[str, Any], options: tuple[tuple[str, bool], ...]) -> Any:
        return agent.update(batch, **dict(options))[0]

    def update(batch: dict[str, Any]) -> None:
        options = () if period == 1 else (("full_update", next(turns)),)
        held[0] = jax.block_until_ready(step(held[0], batch, options))

    widths = "x".join((str(len(config.value_hidden_dims)), str(config.value_hidden_dims[0])))
    return Learner(
        lambda: update(next(ready)),
        lambda: update(drawn()),
        f"{widths}, one compiled update",
        {"jax": jax.__version__, "flax": flax.__version__},
        most_threads=1,
        in_torch=False,
    )


def _columns() -> dict[str, Any]:
    """The synthetic transitions by the names that they have there."""
    data = synthetic()
    names = {"observations": "obs", "actions": "act", "rewards": "reward", "next_observations": "next_obs"}
    columns = {theirs: data[name] for theirs, name in names.items()}
    columns["masks"] = 1.0 - data["terminal"]
    columns["next_actions"] = np.roll(data["act"], -1, axis=0)
    return columns


if __name__ == "__main__":
    serve(lambda: build(sys.argv[1], sys.argv[2]))
