"""Learning from recorded doses alone: values of these, and a policy fitted to them with a weight.

Weighted regression (Peters, Schaal 2007, ICML; Peng et al. 2019, arXiv 1910.00177) is what every method here
fits its policy by. The methods that ask no critic about any other dose share their networks and targets, with

    L_Q = sum_i E [ (r + gamma (1 - d) V(s') - Q_i(s, a))^2 ]

and differ in the loss of V and in the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dosing.models.batch import Batch
from dosing.models.critics import Critic, Value
from dosing.models.losses import td_target
from dosing.models.networks import Init, Initialiser
from dosing.models.optimisers import adam, decay_learning_rate
from dosing.models.policy_heads import Family, Policy
from dosing.models.settings import CriticSettings
from dosing.types import Problem


@dataclass(frozen=True)
class WeightedSettings(CriticSettings):
    """Settings of methods whose policy is fitted to recorded doses with a weight."""

    weight_clip: float = 100.0
    """Largest weight a recorded dose can have."""
    policy_family: Family = "clipped_gaussian"
    """Distribution of the policy; any whose density is positive on the whole box."""
    log_std_min: float = -5.0
    """Lower bound of the policy's log scale."""
    log_std_max: float = 2.0
    """Upper bound of the policy's log scale."""


@dataclass(frozen=True)
class InSampleSettings(WeightedSettings):
    """Settings of methods that value recorded doses alone."""

    actor_decay_steps: int | None = None
    """Cosine decay of the policy's step size to 0 over this many updates; None keeps it constant."""


def weighted_policy(
    init: Initialiser,
    problem: Problem,
    config: WeightedSettings,
    scheme: Init = "default",
    *,
    free_scale: bool = True,
) -> Policy:
    """The policy's network by its settings; by default with a scale that does not depend on the state."""
    log_std = (config.log_std_min, config.log_std_max)
    return Policy(
        init,
        problem,
        config.hidden,
        config.policy_family,
        scheme=scheme,
        log_std=log_std,
        free_scale=free_scale,
    )


def build_networks(
    init: Initialiser, problem: Problem, config: WeightedSettings, layer_norm: bool = False
) -> tuple[Critic, Value, Policy]:
    """Q, V and policy with orthogonal weights; ``layer_norm`` is that of V."""
    critic = Critic(init, problem.n_obs, problem.n_act, config.hidden, scheme="orthogonal")
    value = Value(init, problem.n_obs, config.hidden, scheme="orthogonal", layer_norm=layer_norm)
    return critic, value, weighted_policy(init, problem, config, "orthogonal")


def build_optimisers(
    critic: Critic, value: Value, actor: Policy, learning_rate: float
) -> dict[str, torch.optim.Optimizer]:
    """One Adam for Q and V, another for the policy."""
    return {
        "critic": adam([*critic.parameters(), *value.parameters()], learning_rate),
        "actor": adam(actor, learning_rate),
    }


def decay_policy_step(
    optimizers: Mapping[str, torch.optim.Optimizer], config: InSampleSettings, step: int
) -> None:
    """Cosine decay of the policy's step size at update ``step``, if asked for."""
    decay_learning_rate(optimizers["actor"], config.learning_rate, step, config.actor_decay_steps)


class InSampleValues(NamedTuple):
    """Values at recorded doses.

    Attributes:
        q: of every critic, ``[S, E, B]``.
        v: of the state, ``[S, B]``.
        q_target: the lower of the target critics, ``[S, B]``, a constant.
        target: what the critics regress on, ``[S, B]``, a constant.
    """

    q: Tensor
    v: Tensor
    q_target: Tensor
    target: Tensor

    @property
    def advantage(self) -> Tensor:
        """min_i Qbar_i(s, a) - V(s), ``[S, B]``, as a function of V."""
        return self.q_target - self.v

    def metrics(self) -> dict[str, Tensor]:
        """Mean value and advantage of a batch, ``[S]``."""
        return {"q": self.q.detach().mean((1, 2)), "advantage": self.advantage.detach().mean(-1)}


def in_sample_values(
    batch: Batch, critic: Critic, critic_target: Critic, value: Value, discount: float
) -> InSampleValues:
    """The values that Q and V give to a batch, and the target r + gamma (1 - d) V(s')."""
    with torch.no_grad():
        q_target = critic_target.pessimistic(batch.obs, batch.act)
        target = td_target(batch.reward, batch.terminated, discount, value(batch.next_obs))
    return InSampleValues(critic(batch.obs, batch.act), value(batch.obs), q_target, target)


def imitation(actor: Policy, batch: Batch, weight: Tensor) -> Tensor:
    """Weighted regression - E [ w ln pi(a | s) ], ``[S]``, for weights ``[S, B]``."""
    return -(weight * actor.log_prob(batch.obs, batch.act)).mean(-1)


def rescaled_exponential(
    exponent: Tensor, max_clip: float, beyond_clip: str
) -> tuple[Tensor, Tensor, Tensor]:
    """exp(x - M) with a bounded slope, M = max(-1, largest x of the batch) a constant.

    Args:
        exponent: x, ``[S, N]``.
        max_clip: x beyond which it is no longer exponential.
        beyond_clip: ``line`` keeps the slope there, ``flat`` has none.

    Returns:
        exp(x - M) ``[S, N]``, exp(-M) ``[S, 1]``, and M ``[S, 1]``.
    """
    capped = exponent.clamp(max=max_clip)
    top = capped.detach().amax(-1, keepdim=True).clamp(min=-1.0)
    exponential = torch.exp(capped - top)
    if beyond_clip == "line":
        exponential = exponential * (1.0 + exponent - capped)
    return exponential, torch.exp(-top), top
