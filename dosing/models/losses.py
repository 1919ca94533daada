"""Target networks and the scalar losses that several agents share."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from dosing.models.critics import Critic

M = TypeVar("M", bound=nn.Module)


def target_copy(module: M) -> M:
    """Deep copy whose parameters receive no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, rate: float) -> None:
    """Move every target parameter by ``target <- rate * online + (1 - rate) * target``."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Asymmetric square |kappa - 1{u<0}| u^2, elementwise (Kostrikov et al. 2022, arXiv 2110.06169)."""
    square = error.square()
    return torch.where(error < 0, (1.0 - expectile) * square, expectile * square)


def td_target(reward: Tensor, terminated: Tensor, discount: float, bootstrap: Tensor) -> Tensor:
    """One-step target r + gamma (1 - d) * bootstrap, where d is termination and never the time limit."""
    return reward + discount * (1.0 - terminated) * bootstrap


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared error of an ensemble, averaged over the batch and summed over the members, ``[S]``.

    Args:
        q: ``[S, E, B]``.
        target: what every member regresses on, ``[S, B]``.
    """
    return (q - target.unsqueeze(1)).square().mean(-1).sum(-1)


def soft_clipped(critic: Critic, obs: Tensor, act: Tensor, least_weight: float) -> Tensor:
    """Soft clipped double Q (Fujimoto, Meger, Precup 2019, arXiv 1812.02900, equation 13), ``[S, B]``.

    Args:
        critic: the ensemble.
        obs: ``[S, B, O]``.
        act: ``[S, B, A]``.
        least_weight: weight of the ensemble's lower value; its greatest has the rest.
    """
    values = critic(obs, act)
    soft: Tensor = least_weight * critic.lower(values) + (1.0 - least_weight) * values.amax(1)
    return soft
