"""Settings that papers, and our own presets, give single agents by registry key: plain data.

``dosing.studies.presets`` joins them with what is the same for every agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Settings = Mapping[str, Mapping[str, Any]]

GAUSSIAN = {"policy_family": "squashed_gaussian"}
STANDARDISED = {"standardise_obs": True, "scale_reward": False}
BY_RETURNS = {"standardise_obs": False, "scale_reward": "return_range"}
BOTH = {"standardise_obs": True, "scale_reward": "return_range"}

COMMON: Settings = {"quasi_optimal": {"learning_rate": 1e-2}}
"""Beside common settings: gradient descent, where the others have Adam."""

FEW_PATIENTS: Settings = {"fttpo": {"temperature": 0.3}, **COMMON}
"""For tens to hundreds of recorded patients."""

ON_BELIEF: Settings = {
    "fttpo": {"temperature": 0.03},
    "fttpo_released": {"temperature": 0.03},
    "iql": {"inverse_temperature": 10.0},
}
"""For advantages in a response model, in standard deviations over recorded doses."""

_FTTPO = {"learning_rate": 3e-4, "temperature": 0.01, "q_proposal": 2.0, "discount": 0.9}

TREATMENT: Settings = {
    "fttpo": _FTTPO,
    "fttpo_released": _FTTPO,
    "iql": {"learning_rate": 3e-5, "expectile": 0.9, "inverse_temperature": 3.0} | GAUSSIAN,
    "sql": {"learning_rate": 3e-3, "alpha": 5.0, "actor_weight": "released"} | GAUSSIAN,
    "xql": {"learning_rate": 1e-4, "beta": 5.0} | GAUSSIAN,
    "spot": {"learning_rate": 1e-3, "penalty": 0.05},
    "tawac": {"learning_rate": 3e-5, "temperature": 0.5} | GAUSSIAN,
}
"""Chosen in FtTPO's treatment experiment (Zhu, Wang, Nagai 2025, arXiv 2501.14373, released code)."""

_FTTPO_LOCOMOTION = {"learning_rate": 1e-3, "q_proposal": 2.0}
_CVAE = {"hidden": (400, 300), "vae_hidden": (750, 750)}
_FLOW = {"hidden": (512, 512, 512, 512)}
_CQL = {
    "hidden": (256, 256, 256),
    "actor_learning_rate": 3e-5,
    "conservative_weight": 10.0,
    "log_std_min": -20.0,
    "small_start": True,
}

LOCOMOTION: Settings = {
    "fttpo": _FTTPO_LOCOMOTION,
    "fttpo_released": _FTTPO_LOCOMOTION,
    "iql": {"expectile": 0.7, "inverse_temperature": 3.0},
    "sql": {"alpha": 1.0, "actor_weight": "released"},
    "eql": {"alpha": 2.0, "actor_weight": "released", "beyond_clip": "flat"},
    "xql": {"inverse_temperature": 3.0, "beyond_clip": "flat"},
    "awac": {"hidden": (256, 256, 256), "temperature": 1.0 / 3.0, "log_std_min": -20.0},
    "tawac": {"learning_rate": 1e-3, "log_std_min": -20.0, "weight_floor": 1e-8} | GAUSSIAN,
    "bc": {"policy_family": "point"},
    "pct_bc": {"policy_family": "point"},
    "td3_bc": {"alpha": 2.5},
    "rebrac": {"hidden": (256, 256, 256), "learning_rate": 1e-3},
    "spot": {"vae_hidden": (750, 750), "vae_steps": 100_000, "n_samples": 1, "target_dropout": True},
    "cql": _CQL,
    "cal_ql": _CQL,
    "onestep": {
        "hidden": (1024, 1024),
        "learning_rate": 1e-4,
        "behaviour_steps": 500_000,
        "critic_steps": 2_000_000,
    },
    "bcq": _CVAE | {"learning_rate": 1e-3},
    "bear": _CVAE | {"learning_rate": 1e-3, "mmd_only": 20_000, "matched": 10},
    "plas": _CVAE | {"learning_rate": 1e-3, "vae_learning_rate": 1e-4, "vae_steps": 500_000},
    "decision_transformer": {"width": 128, "layers": 3, "learning_rate": 1e-4, "warm_up_steps": 10_000},
    "codac": {
        "actor_learning_rate": 3e-5,
        "lagrange_gap": 10.0,
        "huber_threshold": 1.0,
        "log_std_min": -20.0,
    },
    "quasi_optimal": {"learning_rate": 1e-2},
    **dict.fromkeys(("fql", "ifql", "fan", "faql", "nbrac", "nfql", "iqn", "c51", "value_flows"), _FLOW),
}
"""Each paper's settings on MuJoCo locomotion (D4RL, v2), whatever the task."""

LOCOMOTION_DATA: Settings = {
    **dict.fromkeys(("bc", "pct_bc", "td3_bc", "spot", "awac", "cql", "cal_ql"), STANDARDISED),
    "decision_transformer": STANDARDISED,
    **dict.fromkeys(("iql", "sql", "eql", "xql"), BY_RETURNS),
}
"""How each paper scales the same data: options of ``dosing.data.dataset.Transform.fit``."""

LOCOMOTION_DATA_BY_TASK: Mapping[str, Settings] = {"hopper-medium": {"cql": BOTH, "cal_ql": BOTH}}
"""The same where it depends on the task, by variant."""

MAZES: Settings = {
    "iql": {"expectile": 0.9, "inverse_temperature": 10.0},
    "spot": {
        "dropout": 0.0,
        "actor_learning_rate": 1e-4,
        "actor_last_bound": 1e-3,
        "critic_last_bound": 3e-3,
        "vae_hidden": (750, 750),
        "vae_steps": 100_000,
        "n_samples": 1,
    },
    "fan": _FLOW | {"actor_penalty": 3.0, "critic_penalty": 0.03, "aggregate": "min"},
    "fql": _FLOW | {"alpha": 10.0},
}
"""Each paper's settings in D4RL's mazes (antmaze, v0 and v2), whatever the maze."""

_CENTRED = {"scale_reward": 0.1, "shift_reward": -0.5}
MAZES_DATA: Settings = {
    "td3_bc": {"standardise_obs": True},
    "rebrac": {"scale_reward": 0.01, "shift_reward": 0.0},
    **dict.fromkeys(("cql", "cal_ql"), _CENTRED),
    "decision_transformer": {"shift_reward": 0.0},
}
"""How papers scale their rewards where that is not the recorded one less 1: 100 r, and 10 r - 5."""

_MAZE_PENALTIES = {
    "umaze": 0.25,
    "umaze-diverse": 0.25,
    "medium-play": 0.05,
    "medium-diverse": 0.025,
    "large-play": 0.025,
    "large-diverse": 0.025,
}
MAZES_BY_TASK: Mapping[str, Settings] = {
    maze: {"spot": {"penalty": penalty}}
    | ({"fan": {"critic_penalty": 0.01}} if maze.startswith("medium") else {})
    | ({"fql": {"alpha": 3.0}} if maze.startswith("large") else {})
    for maze, penalty in _MAZE_PENALTIES.items()
}
"""What depends on the maze, by variant."""

DECAYED = ("actor_decay_steps",)
"""Settings that, as published, end with the training: their value is its number of updates."""

TASKS, QUALITIES = ("halfcheetah", "hopper", "walker2d"), ("medium-expert", "medium", "medium-replay")


def _by_task(field: str, *rows: tuple[Any, Any, Any]) -> dict[str, dict[str, Any]]:
    """One setting by variant: a row per task, a column per quality of the data."""
    return {
        f"{task}-{quality}": {field: value}
        for task, row in zip(TASKS, rows, strict=True)
        for quality, value in zip(QUALITIES, row, strict=True)
    }


_FTTPO_BY_TASK = [_by_task("temperature", (1.0, 0.01, 0.5), (1.0, 0.01, 1.0), (0.5, 1.0, 0.01))]
_VARIED: Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]] = {
    "fttpo": _FTTPO_BY_TASK,
    "fttpo_released": _FTTPO_BY_TASK,
    "tawac": [
        _by_task("temperature", (1.0, 0.01, 0.01), (0.5, 0.5, 0.5), (0.01, 1.0, 0.5)),
        _by_task("learning_rate", (1e-3, 1e-3, 1e-3), (1e-3, 1e-3, 1e-4), (1e-3, 1e-3, 1e-3)),
    ],
    "inac": [_by_task("temperature", (0.1, 0.33, 0.5), (0.01, 0.1, 0.5), (0.1, 0.33, 0.5))],
    "spot": [_by_task("penalty", (1.0, 0.05, 0.05), (0.2, 0.1, 0.1), (0.5, 0.2, 0.2))],
    "rebrac": [
        _by_task("actor_penalty", (0.01, 0.001, 0.01), (0.1, 0.01, 0.05), (0.01, 0.05, 0.05)),
        _by_task("critic_penalty", (0.1, 0.01, 0.001), (0.01, 0.01, 0.5), (0.01, 0.1, 0.01)),
    ],
    "xql": [
        _by_task("beta", (1.0, 1.0, 1.0), (2.0, 5.0, 2.0), (2.0, 10.0, 5.0)),
        _by_task("max_clip", (5.0, 7.0, 5.0), (7.0, 7.0, 7.0), (5.0, 7.0, 5.0)),
        _by_task("action_noise", (0.0, 0.1, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        _by_task("random_actions", (0, 0, 0), (1, 0, 0), (0, 0, 0)),
    ],
    "decision_transformer": [_by_task("target_return", (12000.0,) * 3, (3600.0,) * 3, (5000.0,) * 3)],
    "bear": [_by_task("kernel_width", (10.0,) * 3, (10.0,) * 3, (20.0,) * 3)],
    "codac": [
        _by_task("penalty", (0.1, 10.0, 1.0), (10.0, 10.0, 1.0), (10.0, 10.0, 1.0)),
        _by_task("lagrange_gap", (None, 10.0, 10.0), (10.0, 10.0, 10.0), (10.0, 10.0, 10.0)),
        _by_task("actor_learning_rate", (3e-4, 3e-5, 3e-5), (3e-5, 3e-5, 3e-5), (3e-5, 3e-5, 3e-6)),
        _by_task("temperature", (0.2, 0.2, 1.0), (0.2, 1.0, 1.0), (0.2, 0.2, 1.0)),
        _by_task("learn_temperature", (False, False, True), (False, True, True), (False, False, True)),
    ],
}
"""What the published tables set task by task (rows) and quality by quality (columns)."""


def by_variant() -> dict[str, dict[str, dict[str, Any]]]:
    """The same by variant, ``TASK-QUALITY``: agent to its settings."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for task in TASKS:
        for quality in QUALITIES:
            name = f"{task}-{quality}"
            result[name] = {
                agent: {k: v for table in tables for k, v in table[name].items()}
                for agent, tables in _VARIED.items()
            }
    return result
