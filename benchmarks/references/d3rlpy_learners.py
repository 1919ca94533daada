"""d3rlpy (github.com/takuseno/d3rlpy): its own update functions at its own defaults, batch 256.

    python -m benchmarks.references.d3rlpy_learners METHOD

It is installed in the Python that runs this file, never in ours.
"""

from __future__ import annotations

import sys
from itertools import cycle
from typing import Any

from benchmarks.speed.protocol import BATCH, READY, Learner, serve, synthetic

METHODS = {
    "iql": "IQLConfig",
    "td3_bc": "TD3PlusBCConfig",
    "awac": "AWACConfig",
    "bc": "BCConfig",
    "cql": "CQLConfig",
    "cal_ql": "CalQLConfig",
    "bcq": "BCQConfig",
    "bear": "BEARConfig",
    "plas": "PLASConfig",
    "rebrac": "ReBRACConfig",
}
SETTINGS: dict[str, dict[str, int]] = {
    "bcq": {"n_action_samples": 10},
    "bear": {"n_action_samples": 10, "warmup_steps": 0},
    "plas": {"warmup_steps": 0},
}
"""What differs from its defaults: candidates as many as ours has, and the updates after the first phase."""


def build(method: str) -> Learner:
    """Build the learner on the synthetic data."""
    import d3rlpy

    data = synthetic()
    dataset = d3rlpy.dataset.MDPDataset(data["obs"], data["act"], data["reward"], data["terminal"])
    config: Any = getattr(d3rlpy.algos, METHODS[method])(batch_size=BATCH, **SETTINGS.get(method, {}))
    learner = config.create(device=False)
    learner.build_with_dataset(dataset)
    ready = cycle([_on_device(learner, dataset.sample_transition_batch(BATCH)) for _ in range(READY)])
    steps = iter(range(10**9))
    return Learner(
        lambda: learner.impl.update(next(ready), next(steps)),
        lambda: learner.update(dataset.sample_transition_batch(BATCH)),
        "2x256, " + (", ".join(f"{k} {v}" for k, v in SETTINGS.get(method, {}).items()) or "its defaults"),
        {"d3rlpy": d3rlpy.__version__},
    )


def _on_device(learner: Any, batch: Any) -> Any:
    """The batch as d3rlpy's own ``update`` hands it to the learner."""
    from d3rlpy.torch_utility import TorchMiniBatch

    return TorchMiniBatch.from_batch(
        batch, gamma=learner.gamma, compute_returns_to_go=learner.need_returns_to_go, device="cpu"
    )


if __name__ == "__main__":
    serve(lambda: build(sys.argv[1]))
