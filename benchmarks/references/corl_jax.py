"""CORL in JAX (github.com/corl-team/CORL): its own compiled loop at its own settings, batch 256.

    python -m benchmarks.references.corl_jax METHOD FOLDER_OF_THE_CHECKOUT

Their loop samples inside the compiled program, so there is no update without sampling. One thread only: a
compiled program uses every core it may, so the process keeps to one core.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import numpy as np

from benchmarks.speed.protocol import BATCH, Learner, serve, synthetic

NOT_NEEDED = ("d4rl", "gym", "pyrallis", "wandb")
LOOP = 20
"""Updates per call of the compiled loop; CORL takes 1,000, between which it reports."""


def rebrac(module: Any) -> Learner:
    """As its ``train`` builds it, up to the loop over updates."""
    import flax
    import jax
    import optax

    config = module.Config(batch_size=BATCH)
    data = synthetic()
    buffer = module.ReplayBuffer()
    names = {"states": "obs", "actions": "act", "rewards": "reward", "next_states": "next_obs"}
    columns = {theirs: jax.numpy.asarray(data[name]) for theirs, name in names.items()}
    columns["dones"] = jax.numpy.asarray(data["terminal"])
    columns["next_actions"] = jax.numpy.asarray(np.roll(data["act"], -1, axis=0))
    buffer.data = columns
    key, actor_key, critic_key = jax.random.split(jax.random.PRNGKey(config.train_seed), 3)
    state, action = columns["states"][:1], columns["actions"][:1]
    sizes: dict[str, Any] = {"hidden_dim": config.hidden_dim}
    actor_net = module.DetActor(
        action_dim=action.shape[-1], layernorm=config.actor_ln, n_hiddens=config.actor_n_hiddens, **sizes
    )
    critic_net = module.EnsembleCritic(
        num_critics=2, layernorm=config.critic_ln, n_hiddens=config.critic_n_hiddens, **sizes
    )
    actor = module.ActorTrainState.create(
        apply_fn=actor_net.apply,
        params=actor_net.init(actor_key, state),
        target_params=actor_net.init(actor_key, state),
        tx=optax.adam(learning_rate=config.actor_learning_rate),
    )
    critic = module.CriticTrainState.create(
        apply_fn=critic_net.apply,
        params=critic_net.init(critic_key, state, action),
        target_params=critic_net.init(critic_key, state, action),
        tx=optax.adam(learning_rate=config.critic_learning_rate),
    )
    shared = {
        "gamma": config.gamma,
        "actor_bc_coef": config.actor_bc_coef,
        "critic_bc_coef": config.critic_bc_coef,
        "tau": config.tau,
        "policy_noise": config.policy_noise,
        "noise_clip": config.noise_clip,
    }
    full = partial(module.update_td3, normalize_q=config.normalize_q, **shared)
    short = partial(module.update_td3_no_targets, **shared)
    reported = ["critic_loss", "q_min", "actor_loss", "bc_mse_policy", "bc_mse_random", "action_mse"]

    def step(i: Any, carry: dict[str, Any]) -> dict[str, Any]:
        key, batch_key = jax.random.split(carry["key"])
        batch = buffer.sample_batch(batch_key, batch_size=BATCH)
        now = {"key": key, "actor": carry["actor"], "critic": carry["critic"], "batch": batch}
        turn = i % config.policy_freq == 0
        key, new_actor, new_critic, metrics = jax.lax.cond(
            turn,
            partial(full, **now, metrics=carry["metrics"]),
            partial(short, **now, metrics=carry["metrics"]),
        )
        return {"key": key, "actor": new_actor, "critic": new_critic, "metrics": metrics}

    loop = jax.jit(lambda carry: jax.lax.fori_loop(0, LOOP, step, carry))
    metrics = module.Metrics.create(reported)
    held = [{"key": key, "actor": actor, "critic": critic, "metrics": metrics}]

    def update() -> None:
        held[0] = jax.block_until_ready(loop(held[0]))

    versions = {"jax": jax.__version__, "flax": flax.__version__}
    return Learner(
        update, update, "3x256, sampling inside", versions, per_call=LOOP, most_threads=1, in_torch=False
    )


METHODS = {"rebrac": ("offline.rebrac", rebrac)}
"""File and builder by method."""


def build(method: str, folder: str) -> Learner:
    """Import the method's file from the checkout and put its learner on the synthetic data."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax

    for name in NOT_NEEDED:
        sys.modules[name] = MagicMock()
    if not hasattr(jax, "tree_map"):  # its name when CORL was written
        jax.tree_map = jax.tree.map
    sys.path.insert(0, folder)
    file, builder = METHODS[method]
    return builder(importlib.import_module(f"algorithms.{file}"))


if __name__ == "__main__":
    serve(lambda: build(sys.argv[1], sys.argv[2]))
