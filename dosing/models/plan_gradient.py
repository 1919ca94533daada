"""How the reward that a plan promises changes with its doses, by hand where no marker acts on another.

The recursion of ``dosing.models.planning.promised``, forward and then back (reverse-mode differentiation;
Griewank, Walther 2008, "Evaluating derivatives", chapter 3). Per marker, with t = tanh(g / C):

    s = alpha (1 - t^2),   h = -2 alpha t s / C                             slope and curvature of C t in m
    m' = C t + h v / 2,    v' = s^2 v + h^2 v^2 / 2 + q                     mean and variance forecast
    R  = sum_p psi_p(a) [ c_p + S_p m' + m'.Q_p m' + sum_i Q_p,ii (v'_i + r_i) ]
    with M, V the slopes of all that follows in m' and v':
    with M = 0 where m' is held at an end of its range, and L = M / 2 + V h v:
    G = { M C  -  v [ 4 V s alpha t  +  2 alpha^2 / C (1 - 3 t^2) L ] } (1 - t^2) / C
    slopes before the dose: alpha G in m,  s^2 V + h L in v;     of the dose: b.G + dR/da

Patients are innermost, so that every operation runs over long rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dosing.models.response import Belief, ResponseModel
from dosing.models.reward_model import RewardModel


def by_hand(world: ResponseModel) -> bool:
    """Whether :func:`promise_gradient` holds for the models: no marker acts on another."""
    return not (world.coupled or world.full)


class PlanGradient:
    """Gradient of the promised reward of K models in the doses of B patients."""

    def __init__(self, world: ResponseModel, reward: RewardModel, belief: Belief) -> None:
        """From models for which :func:`by_hand` holds, and the belief ``[K, B, O]`` after a visit."""
        rows = (world.pull, world.ceiling, world.offset, world.process, world.noise)
        self.pull, self.ceiling, offset, self.process, self.noise = (x.mT for x in rows)  # [K, O, 1]
        self.share, self.offset = self.pull / self.ceiling, offset / self.ceiling
        self.twice = -2.0 * self.share
        self.push = world.parameters["dose"] / self.ceiling  # [K, O, A]
        self.ends = tuple(x.mT for x in world.ends) if world.held else None
        self.mean, self.variance = (x.mT.contiguous() for x in belief)  # [K, O, B]
        linear, constant = reward.slopes
        self.linear = linear.unflatten(2, (constant.shape[2], -1)).squeeze(1)  # [K, P, O]
        self.constant = constant.mT[:, 1:]  # [K, P - 1, 1]
        self.products, self.curvature = reward.products.mT, reward.curvature.mT  # [K, P O, O], [K, P, O]
        self.pairs = torch.triu_indices(*2 * (self.push.shape[2],), device=self.push.device)

    def __call__(self, doses: Tensor) -> Tensor:
        """The gradient ``[H, K, A, B]`` in doses ``[H, K, A, B]`` at the visit and the H - 1 after it."""
        mean, variance, passed = self.mean, self.variance, []
        for dose in doses.unbind(0):
            ratio = torch.addcmul(self._pushed(dose), self.share, mean).tanh_()
            outer = 1.0 - ratio * ratio
            slope = self.pull * outer
            bend = (ratio * slope).mul_(self.twice)
            bent = bend * variance
            level = torch.addcmul(0.5 * bent, self.ceiling, ratio)
            mean = level if self.ends is None else level.clamp(*self.ends)
            free = None if self.ends is None else mean == level
            passed.append((ratio, outer, slope, bend, bent, variance, mean, free))
            variance = torch.addcmul(self.process, slope * slope, variance).addcmul_(bent, bent, value=0.5)
        gradient = torch.empty_like(doses)
        in_mean, in_variance = torch.zeros_like(mean), torch.zeros_like(mean)
        for h in reversed(range(len(doses))):
            ratio, outer, slope, bend, bent, before, mean, free = passed[h]
            of_dose, of_mean, of_variance = self._reward_slopes(doses[h], mean, variance)
            in_mean += of_mean
            in_variance += of_variance
            if free is not None:
                in_mean *= free
            in_bend = torch.addcmul(0.5 * in_mean, in_variance, bent)
            in_variance *= slope
            of_slope = in_variance * ratio
            by_curve = torch.addcmul(self.twice, ratio * ratio, self.twice, value=-3.0).mul_(in_bend)
            inner = by_curve.mul_(self.pull).addcmul_(of_slope, self.pull, value=-4.0).mul_(before)
            inner.addcmul_(in_mean, self.ceiling).mul_(outer)
            torch.baddbmm(of_dose, self.push.mT, inner, out=gradient[h])
            in_mean, variance = self.share * inner, before
            in_variance.mul_(slope).addcmul_(bend, in_bend)
        return gradient

    def _pushed(self, dose: Tensor) -> Tensor:
        """(b.a + c) / C, ``[K, O, B]``."""
        if dose.shape[1] == 1:
            return torch.addcmul(self.offset, self.push, dose)
        return torch.baddbmm(self.offset, self.push, dose)

    def _reward_slopes(self, dose: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes of a visit's expected reward in its dose ``[K, A, B]``, in the next mean and variance."""
        (first, second), n_act = self.pairs, dose.shape[1]
        weights = torch.cat((torch.ones_like(dose[:, :1]), dose, dose[:, first] * dose[:, second]), 1)
        bent = torch.bmm(self.products, mean).unflatten(1, (weights.shape[1], -1)).unbind(1)  # P of [K, O, B]
        of_mean = bent[0].clone()
        for p in range(1, len(bent)):
            of_mean.addcmul_(bent[p], weights[:, p : p + 1])
        of_mean = torch.baddbmm(of_mean, self.linear.mT, weights, beta=2.0)
        by_power = torch.stack([(x * mean).sum(1) for x in bent[1:]], 1)  # [K, P - 1, B]
        by_power += (
            self.constant + self.linear[:, 1:] @ mean + self.curvature[:, 1:] @ (variance + self.noise)
        )
        of_dose, of_pair = by_power[:, :n_act], by_power[:, n_act:]
        of_dose = of_dose.index_add(1, first, of_pair * dose[:, second])
        return of_dose.index_add(1, second, of_pair * dose[:, first]), of_mean, self.curvature.mT @ weights
