"""What deterministic policies that climb two critics share: delayed updates and smoothed targets, as in TD3.

Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477, section 5: the policy moves once in a few updates of the
critics, and the target policy's action has clipped noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dosing.models.batch import Batch
from dosing.models.critics import Critic
from dosing.models.losses import td_loss, td_target
from dosing.models.policy_heads import PointPolicy
from dosing.models.settings import CriticSettings
from dosing.types import Noise, Problem


@dataclass(frozen=True)
class DelayedSettings(CriticSettings):
    """Settings of methods with smoothed targets whose policy moves once in a few updates."""

    target_noise: float = 0.2
    """sigma of the noise on the target policy's action."""
    noise_clip: float = 0.5
    """c, the largest such noise."""
    actor_every: int = 2
    """Critic updates per update of the policy and of the target networks."""

    def moves(self, step: int) -> bool:
        """Whether update number ``step``, counted from 0, moves policy and target networks as well."""
        return (step + 1) % self.actor_every == 0


class Delayed:
    """Noise and phases of such a method: a mixin of agents, before their base class."""

    config: DelayedSettings
    problem: Problem
    target_phase: ClassVar[int | None] = 1

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise on the target policy's action."""
        return {"target": Noise("normal", (batch_size, self.problem.n_act))}

    def phase(self, step: int) -> int:
        """1 where the policy and the target networks move as well, else 0."""
        return int(self.config.moves(step))


def smoothed(act: Tensor, noise: Tensor, scale: float, largest: float) -> Tensor:
    """Action ``[S, B, A]`` with clipped noise, inside the box.

    Args:
        act: what the target policy would do.
        noise: standard normal, of the same shape.
        scale: standard deviation of the noise.
        largest: bound of the noise.
    """
    return (act + (scale * noise).clamp(-largest, largest)).clamp(-1.0, 1.0)


@torch.no_grad()
def smoothed_target(
    actor: PointPolicy, critic: Critic, batch: Batch, config: DelayedSettings, keep: Sequence[Tensor] = ()
) -> Tensor:
    """Target r + gamma (1 - d) min_j Qbar_j(s', a'), ``[S, B]``, at a smoothed target action a'.

    ``keep`` is the target policy's dropout, see ``Mlp``.
    """
    act = actor.action(batch.next_obs, keep)
    act = smoothed(act, batch.noise["target"], config.target_noise, config.noise_clip)
    bootstrap = critic.pessimistic(batch.next_obs, act)
    return td_target(batch.reward, batch.terminated, config.discount, bootstrap)


def critic_losses(
    critic: Critic, batch: Batch, target: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss ``critic`` by a target ``[S, B]``, and the mean value ``q`` as a metric, each ``[S]``."""
    q = critic(batch.obs, batch.act)  # [S, E, B]
    return {"critic": td_loss(q, target)}, {"q": q.detach().mean((1, 2))}
