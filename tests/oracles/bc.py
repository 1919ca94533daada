"""Losses of behaviour cloning, row by row.

likelihood      -mean ln pi(a|s)
deterministic    mean |a - pi(s)|^2, a sum over dose dimensions
"""

from __future__ import annotations

import itertools
from typing import Any

from tests.oracles import deterministic, policies
from tests.oracles import mlp as nets


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The one loss of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A].
        config: policy_family (``point`` or a distribution), log_std_min, log_std_max.
        frozen: Unused: everything takes gradient.
    """
    n = len(batch["reward"])
    actor = 0.0
    for b in range(n):
        obs, act = batch["obs"][b], [float(x) for x in batch["act"][b]]
        if config["policy_family"] == "point":
            actor += (
                sum((x - y) ** 2 for x, y in zip(act, deterministic.act(params, "actor", obs), strict=True))
                / n
            )
        else:
            actor -= policies.log_policy(params, "actor", obs, act, config) / n
    return {"actor": actor}


def best_rows(reward: list[float], starts: list[int], fraction: float) -> list[int]:
    """Rows of the ``ceil(fraction N)`` episodes of largest summed reward; earlier ones first among equals."""
    episodes = []
    for number, (first, last) in enumerate(itertools.pairwise(starts)):
        episodes.append((-sum(reward[first:last]), number))
    kept = 0
    while kept < fraction * len(episodes) - 1e-9:
        kept += 1
    rows = []
    for _, number in sorted(episodes)[:kept]:
        rows += list(range(starts[number], starts[number + 1]))
    return sorted(rows)
