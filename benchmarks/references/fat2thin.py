"""The released FtTPO code (github.com/lingweizhu/fat2thin): its own update functions at its own settings.

    python -m benchmarks.references.fat2thin METHOD FOLDER_OF_THE_CHECKOUT

Only its agents, networks and policies are imported; its environments need a simulator, and no update does.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from argparse import Namespace
from itertools import cycle

from benchmarks.speed.protocol import BATCH, N_ACT, N_OBS, READY, Learner, serve, synthetic

# Defaults of its run script, then what its scripts for the paper's figures pass for the method.
DEFAULTS = {
    "seed": 0,
    "discrete_control": 0,
    "state_dim": N_OBS,
    "action_dim": N_ACT,
    "action_min": -1.0,
    "action_max": 1.0,
    "pi_lr": 3e-4,
    "q_lr": 3e-4,
    "hidden_units": 256,
    "batch_size": BATCH,
    "timeout": 1000,
    "gamma": 0.99,
    "use_target_network": 1,
    "target_network_update_freq": 1,
    "polyak": 0.995,
    "evaluation_criteria": "return",
    "device": "cpu",
    "test_mode": 0,
    "distribution_param": 2.0,
    "expectile": 0.7,
    "rho": 0.2,
    "logger": None,
}
FAT_TO_THIN = {
    "distribution": "qGaussian",
    "proposal_distribution": "HTqGaussian",
    "actor_loss": "KL",
    "tau": 0.5,
}
METHODS = {
    "fttpo": ("fattothin", "FatToThin", FAT_TO_THIN, "2x256, q = 2 proposal, KL actor"),
    "iql": ("iql", "IQL", {"distribution": "SGaussian", "tau": 1.0 / 3.0}, "2x256, squashed Gaussian"),
    "td3_bc": ("td3_bc", "TD3BC", {"distribution": "SGaussian", "tau": 2.5}, "2x256, squashed Gaussian"),
    "awac": ("awac", "AWAC", {"distribution": "SGaussian", "tau": 0.5}, "2x256, squashed Gaussian"),
    "sql": ("sql", "SQL", {"distribution": "SGaussian", "tau": 5.0}, "2x256, squashed Gaussian"),
    "xql": ("xql", "XQL", {"distribution": "SGaussian", "tau": 2.0}, "2x256, squashed Gaussian"),
    "inac": (
        "in_sample",
        "InSampleAC",
        {"distribution": "SGaussian", "tau": 0.33},
        "2x256, squashed Gaussian",
    ),
    "tawac": (
        "tsallis_awac",
        "TKLPolicyInAC",
        {"distribution": "HTqGaussian", "tau": 0.5, "tsallis_q": 2},
        "2x256, q = 2 policy",
    ),
}


def build(method: str, folder: str) -> Learner:
    """Import the method from the checkout and put its learner on the synthetic data."""
    sys.path.insert(0, folder)
    file, name, options, settings = METHODS[method]
    data = synthetic()
    columns = {
        "states": data["obs"],
        "actions": data["act"],
        "rewards": data["reward"],
        "next_states": data["next_obs"],
        "terminations": data["terminal"],
    }
    agent_class = getattr(importlib.import_module(f"core.agent.{file}"), name)
    with tempfile.TemporaryDirectory() as scratch:
        config = Namespace(**DEFAULTS, **options, exp_path=scratch, offline_data={"env": columns})
        config.env_fn = _no_environment
        agent = agent_class(config)
    ready = cycle([agent.get_data() for _ in range(READY)])

    def update() -> None:
        agent.update_stats(0, None)  # counts the update; delayed target updates read it
        agent.update(next(ready))

    return Learner(update, agent.step, settings)


def _no_environment() -> object:
    """Stand in for an environment: the agents ask for one when built, and for a copy of its maker."""
    return _no_environment


if __name__ == "__main__":
    serve(lambda: build(sys.argv[1], sys.argv[2]))
