"""Named settings of ``train``, ``compare`` and ``select``: plain data, applied before what the user sets.

A preset names what it changes; everything else keeps the agent's own default, and the command says for which
agents a preset has nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from dosing.errors import UserError


@dataclass(frozen=True)
class Contrast:
    """Two laws of the policy side by side, everything else alike.

    Attributes:
        words: for the two laws; differences are the first minus the second.
        fields: settings that choose the law, with their values for the two.
    """

    words: tuple[str, str]
    fields: Mapping[str, tuple[str, str]]

    def of(self, config_class: type[Any]) -> str | None:
        """The setting by which an agent chooses between the two laws; None if it cannot carry both."""
        hints = get_type_hints(config_class)
        return next((f for f, pair in self.fields.items() if set(pair) <= set(get_args(hints.get(f)))), None)


@dataclass(frozen=True)
class Preset:
    """One set of settings.

    Attributes:
        about: what it is and where it comes from.
        shared: settings of every agent that has them.
        agents: settings of single agents by registry key; they win over ``shared``.
        training: fields of ``dosing.training.TrainingSettings``.
        data: options of ``dosing.data.dataset.Transform.fit``.
        regularisation: options of ``dosing.regularisation.Regularisation``.
        contrast: laws that ``compare`` sets side by side, for agents that can carry both.
    """

    about: str
    shared: Mapping[str, Any] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: Mapping[str, bool] = field(default_factory=dict)
    regularisation: Mapping[str, Any] = field(default_factory=dict)
    contrast: Contrast | None = None

    def settings(self, agent: str, config_class: type[Any]) -> dict[str, Any]:
        """Fields of the agent's configuration that this preset sets."""
        fields = {f.name for f in dataclasses.fields(config_class)}
        shared = {name: value for name, value in self.shared.items() if name in fields}
        return shared | dict(self.agents.get(agent, {}))

    def knows(self, agent: str) -> bool:
        """Whether the preset says anything about this agent."""
        return bool(self.shared) or agent in self.agents


AS_RECORDED = {"standardise_obs": False, "scale_reward": False}
SCALED = {"standardise_obs": True, "scale_reward": True}
GAUSSIAN = {"policy_family": "squashed_gaussian"}

COMMON = Preset(
    about="the same networks, step size and data for every agent; the rest is each agent's default",
    shared={"hidden": (256, 256), "learning_rate": 3e-4, "discount": 0.9, "target_rate": 0.005},
    agents={"quasi_optimal": {"learning_rate": 1e-2}},  # gradient descent, where the others have Adam
    training={"batch_size": 256},
    data=SCALED,
)

PRESETS: Mapping[str, Preset] = {
    "published": Preset(
        about=(
            "settings chosen in FtTPO's treatment experiment (Zhu, Wang, Nagai 2025, arXiv 2501.14373, "
            "released code, SimEnv3): states and rewards as recorded, squashed Gaussians; its 500,000 "
            "updates are left to --steps"
        ),
        agents={
            "fttpo": {"learning_rate": 3e-4, "temperature": 0.01, "q_proposal": 2.0, "discount": 0.9},
            "iql": {"learning_rate": 3e-5, "expectile": 0.9, "inverse_temperature": 3.0} | GAUSSIAN,
            "sql": {"learning_rate": 3e-3, "alpha": 5.0, "actor_weight": "released"} | GAUSSIAN,
            "xql": {"learning_rate": 1e-4, "beta": 5.0} | GAUSSIAN,
            "spot": {"learning_rate": 1e-3, "penalty": 0.05},
            "tawac": {"learning_rate": 3e-5, "temperature": 0.5} | GAUSSIAN,
        },
        training={"batch_size": 256},
        data=AS_RECORDED,
    ),
    "common": COMMON,
    "clinical-small": Preset(
        about=(
            "settings for tens to hundreds of recorded patients: linear networks, critics quadratic in the "
            "dose, and policies that decay towards the constant dose estimated from the same patients"
        ),
        shared={"hidden": (), "learning_rate": 1e-3, "discount": 0.9, "target_rate": 0.005},
        agents={"fttpo": {"temperature": 0.3}} | dict(COMMON.agents),
        training={"batch_size": 256},
        data=SCALED,
        regularisation={"dose_quadratic": True, "weight_decay": 30.0, "prior": "constant_dose"},
    ),
    "sparse-vs-gaussian": dataclasses.replace(
        COMMON,
        about="the common settings, twice for every agent that can carry both a sparse and a Gaussian law",
        contrast=Contrast(
            words=("sparse", "Gaussian"),
            fields={
                "actor": ("sparse", "gaussian"),
                "policy_family": ("sparse_q_gaussian", "clipped_gaussian"),
            },
        ),
    ),
}


def find(name: str | None) -> Preset:
    """The preset of this name; None is one that changes nothing.

    Raises:
        UserError: there is no such preset; the message lists those there are.
    """
    if name is None:
        return Preset("every agent's own settings")
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}.")
    return PRESETS[name]
