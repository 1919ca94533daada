"""Named settings of ``train``, ``compare`` and ``select``: plain data, applied before what the user sets.

A preset names what it changes; everything else keeps the agent's own default, and the command says for which
agents a preset has nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from agents import presets
from dosing.errors import UserError


@dataclass(frozen=True)
class Choice:
    """Distributions between which a setting of an agent chooses.

    Attributes:
        setting: the setting.
        words: of the distributions, by the setting's values.
    """

    setting: str
    words: Mapping[str, str]

    def own(self, config: Any) -> Any:
        """The configuration with the distribution that the agent has by default."""
        return dataclasses.replace(config, **{self.setting: self._default(type(config))})

    def values(self, config_class: type[Any]) -> list[str]:
        """The agent's own value, then the others."""
        return list(dict.fromkeys([self._default(config_class), *self.words]))

    def _default(self, config_class: type[Any]) -> str:
        (default,) = (f.default for f in dataclasses.fields(config_class) if f.name == self.setting)
        return str(default)

    def word(self, config: Any) -> str:
        """The distribution of a configuration, in words."""
        value: str = getattr(config, self.setting)
        return self.words.get(value, value.replace("_", " "))

    def others(self, config: Any) -> list[Any]:
        """The configuration with every other distribution; none where it has not the agent's own."""
        if config != self.own(config):
            return []
        own = getattr(config, self.setting)
        return [dataclasses.replace(config, **{self.setting: v}) for v in self.words if v != own]


@dataclass(frozen=True)
class Contrast:
    """Distributions of a policy side by side, everything else alike.

    Attributes:
        choices: an agent has the first whose values its setting can all take, or none.
        thin: index q of the sparse law that is distilled from an agent's own distribution.
    """

    choices: tuple[Choice, ...]
    thin: float = 0.0

    def of(self, config_class: type[Any]) -> Choice | None:
        """The choice between distributions that an agent has; None for one with a single distribution."""
        hints = get_type_hints(config_class)
        return next((c for c in self.choices if set(c.words) <= set(get_args(hints.get(c.setting)))), None)

    @property
    def settings(self) -> set[str]:
        """Settings of agents that choose a distribution."""
        return {choice.setting for choice in self.choices}


@dataclass(frozen=True)
class Preset:
    """One set of settings.

    Attributes:
        about: what it is and where it comes from.
        shared: settings of every agent that has them.
        agents: settings of single agents by registry key; they win over ``shared``.
        training: fields of ``dosing.training.offline.TrainingSettings``.
        data: options of ``dosing.data.dataset.Transform.fit``.
        agent_data: options of single agents that differ; they win over ``data``.
        regularisation: options of ``dosing.models.regularisation.Regularisation``.
        contrast: distributions that ``compare`` sets side by side.
        variants: settings of single agents by what the data are, asked for as ``NAME/VARIANT``.
        variant_data: options of single agents' data by variant; they win over ``agent_data``.
        decayed: settings that take the number of updates of the training, such as the end of a decay.
    """

    about: str
    shared: Mapping[str, Any] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    agent_data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    regularisation: Mapping[str, Any] = field(default_factory=dict)
    contrast: Contrast | None = None
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    variant_data: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    decayed: tuple[str, ...] = ()

    def variant(self, name: str) -> Preset:
        """The preset with what a variant adds to single agents."""
        own = self.variants[name]
        merged = {agent: dict(self.agents.get(agent, {})) | dict(own.get(agent, {})) for agent in own}
        data = dict(self.agent_data) | dict(self.variant_data.get(name, {}))
        return dataclasses.replace(
            self, agents=dict(self.agents) | merged, agent_data=data, variants={}, variant_data={}
        )

    def data_of(self, agent: str) -> dict[str, Any]:
        """Options of ``Transform.fit`` for an agent."""
        return dict(self.data) | dict(self.agent_data.get(agent, {}))

    def settings(self, agent: str, config_class: type[Any], steps: int | None = None) -> dict[str, Any]:
        """Fields of the agent's configuration that this preset sets.

        Args:
            agent: registry key.
            config_class: its configuration.
            steps: updates of the training; None leaves out what lasts as long.
        """
        fields = {f.name for f in dataclasses.fields(config_class)}
        shared = dict(self.shared) | dict.fromkeys(self.decayed if steps is not None else (), steps)
        return {k: v for k, v in shared.items() if k in fields} | dict(self.agents.get(agent, {}))

    def knows(self, agent: str) -> bool:
        """Whether the preset says anything about this agent."""
        return bool(self.shared) or agent in self.agents


AS_RECORDED: dict[str, Any] = {"standardise_obs": False, "scale_reward": False}
SCALED: dict[str, Any] = {"standardise_obs": True, "scale_reward": True}

COMMON = Preset(
    about="the same networks, step size and data for every agent; the rest is each agent's default",
    shared={"hidden": (256, 256), "learning_rate": 3e-4, "discount": 0.9, "target_rate": 0.005},
    agents=presets.COMMON,
    training={"batch_size": 256},
    data=SCALED,
)

D4RL = Preset(
    about=(
        "each paper's settings on MuJoCo locomotion (D4RL, v2); task and quality are named after a slash, "
        "such as d4rl-mujoco/hopper-medium. First phases have their published length (--set shortens them); "
        "step sizes decay over the training's own length; batches are 256 for all; no settings for these "
        "tasks were published for Cal-QL, FQL, FAN and their kin"
    ),
    shared={"learning_rate": 3e-4, "discount": 0.99, "target_rate": 0.005},
    agents=presets.LOCOMOTION,
    training={"batch_size": 256},
    data=AS_RECORDED,
    agent_data=presets.LOCOMOTION_DATA,
    variants=presets.by_variant(),
    variant_data=presets.LOCOMOTION_DATA_BY_TASK,
    decayed=presets.DECAYED,
)

MAZES = Preset(
    about=(
        "each paper's settings in D4RL's antmaze, for IQL (which PEX goes on from), SPOT, FAN and FQL; the "
        "others have their own, and each paper's scale of the sparse reward; the maze is named after a "
        "slash, such as d4rl-antmaze/umaze. For rewards of 0 and 1: OGBench's -1 and 0 need --shift-reward 0"
    ),
    shared={"learning_rate": 3e-4, "discount": 0.99, "target_rate": 0.005},
    agents=presets.MAZES,
    training={"batch_size": 256},
    data=AS_RECORDED | {"shift_reward": -1.0},
    agent_data=presets.MAZES_DATA,
    variants=presets.MAZES_BY_TASK,
    decayed=presets.DECAYED,
)

PRESETS: Mapping[str, Preset] = {
    "published": Preset(
        about=(
            "settings chosen in FtTPO's treatment experiment (Zhu, Wang, Nagai 2025, arXiv 2501.14373, "
            "released code, SimEnv3): states and rewards as recorded, squashed Gaussians; its 500,000 "
            "updates are left to --steps"
        ),
        agents=presets.TREATMENT,
        training={"batch_size": 256},
        data=AS_RECORDED,
    ),
    "common": COMMON,
    "d4rl-mujoco": D4RL,
    "d4rl-antmaze": MAZES,
    "clinical-small": Preset(
        about=(
            "settings for tens to hundreds of recorded patients: linear networks, critics quadratic in the "
            "dose, and policies that decay towards the constant dose estimated from the same patients"
        ),
        shared={"hidden": (), "learning_rate": 1e-3, "discount": 0.9, "target_rate": 0.005},
        agents=presets.FEW_PATIENTS,
        training={"batch_size": 256},
        data=SCALED,
        regularisation={"dose_quadratic": True, "weight_decay": 30.0, "prior": "constant_dose"},
    ),
    "belief": Preset(
        about=(
            "states are beliefs about the patient, and what is learned are advantages in a response model "
            "fitted to the recorded visits; small networks that start at the estimated constant dose"
        ),
        shared={"hidden": (32, 32), "learning_rate": 3e-3, "discount": 0.9, "target_rate": 0.005},
        agents=presets.ON_BELIEF,
        training={"batch_size": 256},
        data=SCALED,
        regularisation={"advantage": "model", "prior": "constant_dose"},
    ),
    "sparse-vs-gaussian": dataclasses.replace(
        COMMON,
        about=(
            "the common settings for every distribution that an agent can have: its own, clipped and "
            "truncated Gaussians, and the sparse law distilled from its own"
        ),
        contrast=Contrast(
            (
                Choice("actor", {"sparse": "sparse", "gaussian": "Gaussian"}),
                Choice("actor", {"q_gaussian": "sparse", "gaussian": "Gaussian"}),
                Choice(
                    "policy_family",
                    {"clipped_gaussian": "clipped Gaussian", "truncated_normal": "truncated Gaussian"},
                ),
            )
        ),
    ),
}


def find(name: str | None) -> Preset:
    """The preset of this name, or ``NAME/VARIANT``; None is one that changes nothing.

    Raises:
        UserError: there is no such preset or variant; the message lists those there are.
    """
    if name is None:
        return Preset("every agent's own settings")
    base, _, variant = name.partition("/")
    if base not in PRESETS:
        raise UserError(f"there is no preset {name!r}; there are: {listed()}.")
    preset = PRESETS[base]
    if not variant:
        return preset
    if variant not in preset.variants:
        known = ", ".join(preset.variants) or "none"
        raise UserError(f"preset {base} has no variant {variant!r}; it has: {known}.")
    return preset.variant(variant)


def listed() -> str:
    """Names of all presets, for a help text."""
    return ", ".join(f"{n} (or {n}/VARIANT)" if p.variants else n for n, p in PRESETS.items())
