"""Onestep RL as released (github.com/davidbrandfonbrener/onestep-rl): its own learners' steps at its widths.

    python -m benchmarks.references.onestep PHASE FOLDER_OF_THE_CHECKOUT

Its learners of the recorded policy, of two critics by SARSA, and of the policy by exponentiated advantages,
with truncated normal policies throughout. Batches are of 256, its own of 512. Its step hands the loss of the
two critics one argument more than that takes; it is left out. As released, the policy's step also computes
the gradient of the critics, and does not use it.
"""

from __future__ import annotations

import importlib
import sys
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.speed.protocol import BATCH, N_ACT, N_OBS, READY, ROWS, Learner, serve, synthetic

METHODS = ("behaviour", "critics", "policy")
"""Its three phases."""
SIZES = {"state_dim": N_OBS, "action_dim": N_ACT, "width": 1024, "depth": 2, "batch_size": BATCH, "lr": 1e-4}


def build(method: str, folder: str) -> Learner:
    """Import the learners from the checkout and put that of the phase on the synthetic data."""
    sys.path.insert(0, folder)
    names = ("policy_learner", "q_learner", "baseline_learner", "replay_buffer", "experiment_logging")
    policies, critics, baselines, buffers, logs = (importlib.import_module(name) for name in names)
    beta = policies.BCLearner(logger_type="beta", dist_type="trunc", **SIZES)
    pi = policies.ExpWeightLearner(temp=0.01, dist_type="trunc", **SIZES)
    q = critics.DoubleSarsaLearner(**SIZES)
    loss = q.loss
    q.loss = lambda batch, pi, _: loss(batch, pi)
    baseline = baselines.SampledValueBaseline("cpu", n_samples=10)
    for learner in (beta, q, pi):
        learner.set_logger(logs.default_logger)
    replay = _replay(buffers)
    batches = cycle([replay.sample(BATCH).to_torch() for _ in range(READY)])
    ready = SimpleNamespace(sample=lambda _: next(batches))

    def update(replay: Any) -> None:
        if method == "behaviour":
            beta.train_step(replay, None, None, None)
        elif method == "critics":
            q.train_step(replay, beta)
        else:
            pi.train_step(replay, q, baseline, beta)

    return Learner(lambda: update(ready), lambda: update(replay), "2x1024, truncated normal")


def _replay(buffers: Any) -> Any:
    """Its replay buffer with the synthetic transitions."""
    data = synthetic()
    replay = buffers.Replay((N_OBS,), (N_ACT,), has_next_action=True, max_size=ROWS)
    replay.s[:], replay.a[:], replay.sp[:] = data["obs"], data["act"], data["next_obs"]
    replay.r[:, 0], replay.d[:, 0] = data["reward"], data["terminal"]
    replay.ap[:] = np.roll(data["act"], -1, axis=0)
    replay.length = ROWS
    return replay


if __name__ == "__main__":
    serve(lambda: build(sys.argv[1], sys.argv[2]))
