"""Rewards of a task of OGBench for recorded visits, computed from states as by ``ogbench.relabel_utils``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from simulator.envs.mazes import OGBENCH, package_of
from simulator.envs.tasks import make_task

Relabel = Callable[[Mapping[str, NDArray[Any]]], tuple[NDArray[Any], NDArray[Any]]]
"""Rewards ``[M]`` and whether the task ends there ``[M]``, from the arrays of recorded visits by name."""


def relabelling(env_id: str, options: Mapping[str, Any]) -> Relabel | None:
    """How recorded visits get the rewards of a task of OGBench, whose files have none; None for any other.

    Raises:
        UserError: there is no such task or option.
    """
    if package_of(env_id) != OGBENCH:
        return None

    def relabel(arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        from ogbench.relabel_utils import relabel_dataset

        result = dict(arrays)
        with make_task(env_id, options) as task:
            task.reset(seed=0)
            relabel_dataset(env_id, task, result)
        return result["rewards"], result["masks"] == 0.0

    return relabel
