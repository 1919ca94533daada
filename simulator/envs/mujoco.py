"""Gymnasium's MuJoCo tasks: which there are, their reference returns, and their warnings.

Todorov, Erez, Tassa 2012 (IROS, MuJoCo). MuJoCo and its bindings are imported when a task is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium

from dosing.errors import UserError

EPISODES = 10
"""Evaluation episodes per seed, as usual for these tasks."""

VERSIONS = ("v5", "v4")
"""Versions with the MuJoCo bindings that are installed; v4 has the rewards with which D4RL was recorded."""


@dataclass(frozen=True)
class Reference:
    """Returns between which scores of one task are normalised: 0 is random, 100 is the expert."""

    random: float
    """Mean return of uniform actions."""
    expert: float
    """Mean return of the expert."""
    source: str
    """Whose returns they are."""

    def score(self, value: float) -> float:
        """The normalised score of a return."""
        return 100.0 * (value - self.random) / (self.expert - self.random)


_OURS = (
    "measured in v5: uniform actions, 1,000 episodes; expert: the stochastic TQC policy of the public "
    "collection rl-trained-agents (Raffin 2020), 100 episodes"
)
_D4RL = "of D4RL (Fu et al. 2020, arXiv 2004.07219), evaluated in v4"

REFERENCES: dict[str, Reference] = {
    # standard errors: random 0.6, 0.2, 2.5; expert 62, 93, 17
    "Hopper-v5": Reference(17.66, 3209.3, _OURS),
    "Walker2d-v5": Reference(1.79, 3878.4, _OURS),
    "HalfCheetah-v5": Reference(-286.55, 11506.6, _OURS),
    "HalfCheetah-v4": Reference(-280.178953, 12135.0, _D4RL),
    "Hopper-v4": Reference(-20.272305, 3234.3, _D4RL),
    "Walker2d-v4": Reference(1.629008, 4592.3, _D4RL),
}
"""By task. D4RL's returns are of the rewards of v2 to v4; those of v5 differ, so they never stand for it."""


def task_ids() -> list[str]:
    """Ids of the MuJoCo tasks that can be made."""
    return [
        env_id
        for env_id, spec in gymnasium.registry.items()
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco") and env_id.endswith(VERSIONS)
    ]


_SAID: list[str] = []
"""What MuJoCo has warned of in this process since it was last looked at."""


def keep_warnings(env_id: str) -> None:
    """Collect MuJoCo's warnings; its own handler would write MUJOCO_LOG.TXT into the working folder.

    Raises:
        UserError: MuJoCo is not installed.
    """
    try:
        import mujoco
    except ImportError as error:
        raise UserError(
            f"{env_id} needs the package {error.name}, which the extra mujoco installs: dosing[mujoco]."
        ) from error
    mujoco.set_mju_user_warning(_SAID.append)


def take_warnings() -> list[str]:
    """MuJoCo's warnings of this process since the last call."""
    said = list(_SAID)
    _SAID.clear()
    return said


QUALITIES = ("medium", "expert", "mixed", "replay")
"""What can be collected; see ``dosing.studies.mujoco_data``."""
