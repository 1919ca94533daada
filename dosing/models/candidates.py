"""Policies that choose among doses which a flow, fitted to the recorded ones, proposes.

What the baselines of Dong et al. 2025 (arXiv 2510.07650) share, and IDQL with a flow: the best of N doses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Distribution, Independent

from dosing.distributions.draws import best_candidate
from dosing.models.flows import DRAWS, Velocity, euler, points, spread
from dosing.models.settings import CriticSettings
from dosing.types import Noise


@dataclass(frozen=True)
class CandidateSettings(CriticSettings):
    """Settings of methods that choose among candidates of a behaviour flow."""

    candidates: int = 16
    """N, doses drawn from the behaviour flow to choose from; many trust the critic further from the data."""
    flow_steps: int = 10
    """Euler steps of the behaviour flow."""


def candidate_noise(batch_size: int, n_act: int, candidates: int) -> dict[str, Noise]:
    """Where the behaviour flow starts for the next candidates and in its loss, and the loss's times."""
    return {
        "candidates": Noise("normal", (batch_size, candidates, n_act)),
        "start": Noise("normal", (batch_size, n_act)),
        "time": Noise("uniform", (batch_size, 1)),
    }


def generated(flow: Velocity, obs: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Doses ``[S, B, M, A]`` of a flow at ``obs [S, B, O]``.

    Args:
        flow: of the recorded doses.
        obs: the states.
        noise: standard normal, ``[M, A]`` for all states, or ``[S, B, M, A]``.
        steps: Euler steps.
    """
    return spread(lambda s, x: euler(flow, s, x, steps), obs, noise)


def best_of_candidates(
    proposed: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], obs: Tensor, n_act: int, tries: int
) -> Distribution:
    """Distribution of the best of N candidates: fixed doses, each with its probability of being chosen.

    Args:
        proposed: doses ``[S, B, M, A]`` and their values ``[S, B, M]``, of states and noise ``[M, A]``.
        obs: ``[S, B, O]``.
        n_act: action width A.
        tries: N.
    """
    act, worth = proposed(obs, points(max(DRAWS, tries), n_act, obs))
    return Independent(best_candidate(act, worth, tries), 1, validate_args=False)
