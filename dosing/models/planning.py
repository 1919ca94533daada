"""Doses planned in fitted models: from the belief at hand, the doses that promise most over coming visits.

    maximise over a_0 .. a_(H-1)   sum_h E r(y_(h+1), a_h),      x_(h+1) = f(x_h, a_h),  x_0 the belief
    E r(y, a) = r(b, a) + sum_ij Theta_ij(a) P_ij + sum_i Theta_ii(a) r_i
                                                    b, P forecast mean and covariance, r variance of the noise

H visits are looked ahead, or those that are left. The first dose is given and the plan made anew at the next
visit, from the belief then: open-loop feedback control (Dreyfus 1965; Bertsekas 2005, "Dynamic programming
and suboptimal control", European Journal of Control 11:310, section 5), receding-horizon control without a
terminal cost. The plan starts at a constant dose and climbs by Adam (Kingma, Ba 2015) with a step size that
falls to 0, in u of

    a = (low + high) / 2 + (high - low) / 2 tanh u,      low, high the ends of the recorded doses

so that no planned dose lies beyond a recorded one. With few steps it ends where it got to, not at the
maximum: a plan stays within about one unit of u of where it started, which is part of the method, as early
stopping is. Rewards should have a standard deviation of about 1. Nothing is learned here and nothing drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dosing.models.plan_gradient import PlanGradient, by_hand
from dosing.models.response import Belief, ResponseModel
from dosing.models.reward_model import RewardModel, powers

BETAS = (0.7, 0.9)
"""Decay of Adam's moments: of few steps, the first ones should soon be forgotten."""
STEADY = 1e-3
"""Added to the root of Adam's second moment, in reward per unit of u: flat directions are left alone."""
EDGE = 0.99
"""Largest |tanh u| at first."""
ROWS = 1 << 16
"""Plans that are made at once, over models and patients."""


@dataclass(frozen=True)
class PlanSettings:
    """How a plan is made."""

    visits: int = 10
    """H, visits that are looked ahead."""
    iterations: int = 12
    """Steps of Adam."""
    step_size: float = 0.15
    """Of the first step, in u."""


@dataclass(frozen=True)
class Range:
    """Ends of the doses that may be planned, ``low`` and ``high`` ``[K, 1, A]``."""

    low: Tensor
    high: Tensor

    def doses(self, u: Tensor) -> Tensor:
        """Doses within the range at ``u [K, ..., A]``."""
        return 0.5 * (self.low + self.high) + 0.5 * (self.high - self.low) * torch.tanh(u)

    def inverse(self, act: Tensor) -> Tensor:
        """``u`` of doses ``act [K, B, A]``."""
        half = (0.5 * (self.high - self.low)).clamp(min=1e-6)
        return torch.atanh(((act - 0.5 * (self.low + self.high)) / half).clamp(-EDGE, EDGE))


def promised(world: ResponseModel, reward: RewardModel, belief: Belief, doses: Tensor) -> Tensor:
    """Expected sum of rewards ``[K, B]`` over the coming visits.

    Args:
        world: K response models.
        reward: K reward models.
        belief: after the visit at hand, ``[K, B, O]``.
        doses: ``[H, K, B, A]`` at it and at the visits after it.
    """
    total = belief.mean.new_zeros(belief.mean.shape[:2])
    for dose in doses.unbind(0):
        belief = world.predict(belief, dose)
        spread = world.noise @ reward.curvature  # [K, 1, P]
        if world.full:
            spread = spread + belief.variance.flatten(2) @ reward.pairs
        else:
            spread = spread + belief.variance @ reward.curvature
        total = total + reward(belief.mean, dose) + (powers(dose) * spread).sum(-1)
    return total


def plan(
    world: ResponseModel,
    reward: RewardModel,
    belief: Belief,
    start: Tensor,
    span: Range,
    visits: int,
    settings: PlanSettings,
) -> Tensor:
    """Planned doses ``[H, K, B, A]``, of H visits or as many as are left.

    Args:
        world: K response models.
        reward: K reward models.
        belief: after the visit at hand, ``[K, B, O]``.
        start: dose ``[K, 1, A]`` of the first plan, at every visit.
        span: of the doses.
        visits: left, the one at hand included.
        settings: how the plan is made.
    """
    patients = belief.mean.shape[1]
    size = max(1, ROWS // world.count)
    first = span.inverse(start).expand(-1, patients, -1)
    parts = [
        _climb(world, reward, Belief(*(x[:, at : at + size] for x in belief)), u, span, visits, settings)
        for at, u in zip(range(0, patients, size), first.split(size, 1), strict=True)
    ]
    return torch.cat(parts, 2)


def plan_gradient(world: ResponseModel, reward: RewardModel, belief: Belief) -> Callable[[Tensor], Tensor]:
    """Gradient of what :func:`promised` says, as a function of doses ``[H, K, A, B]``, patients innermost."""
    if by_hand(world):
        return PlanGradient(world, reward, belief)

    def differentiated(doses: Tensor) -> Tensor:
        with torch.enable_grad():
            act = doses.mT.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(promised(world, reward, belief, act).sum(), act)
        return gradient.mT

    return differentiated


@torch.no_grad()
def _climb(
    world: ResponseModel,
    reward: RewardModel,
    belief: Belief,
    first: Tensor,
    span: Range,
    visits: int,
    settings: PlanSettings,
) -> Tensor:
    """As :func:`plan`, for patients at once; ``first [K, B, A]`` is u of the first plan."""
    gradient_at = plan_gradient(world, reward, belief)
    u = first.mT.repeat(min(settings.visits, visits), 1, 1, 1)  # [H, K, A, B]
    middle, half = (x.mT for x in (0.5 * (span.low + span.high), 0.5 * (span.high - span.low)))
    slope, square = torch.zeros_like(u), torch.zeros_like(u)
    fast, slow = BETAS
    for k in range(settings.iterations):
        ratio = u.tanh()
        gradient = gradient_at(middle + half * ratio) * half * (1.0 - ratio * ratio)
        slope = fast * slope + (1.0 - fast) * gradient
        square = slow * square + (1.0 - slow) * gradient * gradient
        ahead = slope / (1.0 - fast ** (k + 1)) / ((square / (1.0 - slow ** (k + 1))).sqrt() + STEADY)
        u += settings.step_size * (1.0 - k / settings.iterations) * ahead
    return span.doses(u.mT)
