"""Quasi-optimal learning. Li, Zhou, Zhu 2023, arXiv 2301.08940 (ICLR 2023). One dose dimension.

With Tsallis' entropy of index 2 the best policy is a clipped affine function of Q, so it gives positive
density to an interval of near-optimal doses only. Q is a parabola in the dose x, its coefficients are splines
of the state, and everything follows from it in closed form; there is no policy network:

    Q(s, x) = alpha_1 x^2 + alpha_2 x + alpha_3,   alpha_1 = - exp(theta_1 . phi(s)), others theta_i . phi(s)
    V(s)    = max over densities p of  int p Q + lambda (1 - int p^2)  =  lambda + lambda int pi^2 + nu
    pi(x|s) = [Q(s, x) - nu(s)]_+ / (2 lambda),     nu such that pi integrates to 1 over the legal doses
    delta   = r + gamma (1 - d) V(s') + lambda - 2 lambda pi(x|s) - Psi(s) + psi(s, x) - V(s)
    L       = mean over pairs of visits j != k of one episode of  Omega_jk delta_j delta_k
    Omega_jk = exp(- |s_j - s_k|^2 / sigma^2 - (x_j - x_k)^2 / sigma_x^2)

delta is the residual of the optimality conditions at a recorded visit, with the multipliers psi = [nu - Q]_+
of pi >= 0 and Psi of int pi = 1. L averages its products over pairs of visits of one episode, which estimates
the squared conditional mean of delta without a second draw of the next state, and without its variance, as
far as the two residuals are independent given states and doses; ``pairs`` has the other way.

States are scaled to [0, 1] by the recorded extremes (beyond them a coordinate counts as the extreme: a cubic
spline says nothing there), doses likewise; phi holds an intercept and s, s^2, s^3, (s - k/7)_+^3, k = 1..6,
of every coordinate. The legal doses are a part of the maximisation: pi is the best density *on them*, the
parabola of ``dosing.distributions.parabola``. Where the published interval [m - h, m + h], with m the top of
Q and h = (3 lambda / (2 |alpha_1|))^(1/3), lies within the limits the two are the same; elsewhere the
published policy would be clipped and have atoms. What is executed is the distribution in the equations.

The released code has psi / (2 lambda) in place of psi, which leaves a residual at the solution; it is kept as
an option. With the exact Psi = - lambda int pi^2, delta is the temporal difference r + gamma V(s') - Q(s, x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.distributions.parabola import Parabola, Sides, solve
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.networks import Initialiser
from dosing.models.optimisers import Sgd, set_learning_rate
from dosing.types import About, Problem

EDGE = 1e-4
"""Policies stay this far inside the limits of the [-1, 1] axis, so that no rounding reaches beyond them."""
NARROWEST = 1e-3
"""Smallest half-width of an interval that no limit cuts off, as a share of the recorded range of doses."""
FLATTEST = -10.0
"""Smallest ln |alpha_1|."""
BASIS = 9
"""Basis functions per coordinate of the state."""


@dataclass(frozen=True)
class QuasiOptimalConfig:
    """Settings of quasi-optimal learning: the paper's of simulated environments III and IV, with other steps.

    The paper's environments I and II have lambda 0.1 and 0.05, bandwidths of 1, a decay of 1e-4, and step
    sizes of 2e-3 and 5e-5; III and IV 1e-5. Those start at random weights on [0, 1], where |alpha_1| is huge;
    here the first policy is wide and in the middle of the recorded doses. The paper stops after at most 800
    updates.
    """

    learning_rate: float = 1e-2
    """Step size of stochastic gradient descent at the first update."""
    learning_rate_decay: float = 1e-5
    """c: update t has the step size lr / (1 + c sqrt t)."""
    discount: float = 0.9
    """gamma."""
    regularisation: float = 0.05
    """lambda: large widens the dose interval, as its cube root; towards 0 it shrinks to the best dose."""
    episodes: int = 5
    """Whole recorded episodes per update; the training's batch size has no say."""
    state_bandwidth: float = 0.5
    """sigma: states of an episode further apart than this, scaled, hardly meet in the loss."""
    dose_bandwidth: float = 0.5
    """sigma_x: the same for doses."""
    init_scale: float = 0.01
    """Standard deviation of the initial weights, about a Q whose top is the middle of the recorded doses."""
    pairs: Literal["episode", "across"] = "episode"
    """Visits whose residuals meet in the loss: of one episode, as published; or of different episodes of the
    batch. A reward that depends on the next state makes the residuals of neighbouring visits dependent given
    the kernel, and hidden traits those of one patient: pairs across episodes are free of both."""
    value_multiplier: Literal["learned", "exact"] = "learned"
    """Psi: -5 lambda / (1 + exp(-(w . s)/2 - 1/2)) with w learned, as published; or its exact value."""
    support_multiplier: Literal["derived", "released"] = "derived"
    """psi: nu - Q of the optimality conditions; or, as in the released code, the same over 2 lambda."""


class Solution(NamedTuple):
    """What follows from Q at states ``[S, B]``: its coefficients, the policy's density, nu, V, int pi^2."""

    alpha: tuple[Tensor, Tensor, Tensor]
    sides: Sides
    nu: Tensor
    value: Tensor
    square: Tensor

    def q(self, dose: Tensor) -> Tensor:
        """Q at a scaled dose ``[S, B]``."""
        a1, a2, a3 = self.alpha
        return (a1 * dose + a2) * dose + a3

    def first(self, rows: int) -> Solution:
        """The solution at the first rows of the batch."""
        a1, a2, a3 = (x[:, :rows] for x in self.alpha)
        sides = Sides(*(x[:, :rows] for x in self.sides))
        return Solution((a1, a2, a3), sides, self.nu[:, :rows], self.value[:, :rows], self.square[:, :rows])


class QuasiOptimal(Agent):
    """S stacked seeds of quasi-optimal learning."""

    about = About(
        paper="Li, Zhou, Zhu 2023, arXiv 2301.08940",
        family="sparse parabola",
        support="interval",
        checked="released code, 7e-15",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: QuasiOptimalConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(problem, config)
        self.config = config
        self.episodes = config.episodes
        n_obs = problem.n_obs
        start = np.zeros((BASIS * n_obs + 1, 3))
        # With alpha_1 = -1, the top of the first parabola is the middle of the recorded doses.
        start[0, 1] = 1.0
        self.theta = init.stack(
            lambda rng: start + config.init_scale * rng.standard_normal(start.shape), start.shape
        )
        self.w = init.stack(lambda rng: config.init_scale * rng.standard_normal(n_obs), (n_obs,))
        # The recorded extremes; until there are any, three standard deviations and the whole dose range.
        for name, value, width in (
            ("obs_low", -3.0, n_obs),
            ("obs_high", 3.0, n_obs),
            ("act_low", -1.0, 1),
            ("act_high", 1.0, 1),
            ("prepared", 0.0, 1),
        ):
            self.register_buffer(name, init.constant(value, width).detach())
        self.obs_low: Tensor
        self.obs_high: Tensor
        self.act_low: Tensor
        self.act_high: Tensor
        self.prepared: Tensor
        # On a GPU the step size is a tensor, so that a captured graph follows its decay.
        rate: float | Tensor = config.learning_rate
        if init.device.type == "cuda":
            rate = torch.tensor(rate, device=init.device)
        self.optimizers = {"all": Sgd([self.theta, self.w], lr=rate, fused=True)}

    @torch.no_grad()
    def prepare(self, dataset: Dataset) -> None:
        """Fix the scaling of states and doses at the recorded extremes, once.

        Raises:
            UserError: an episode has a single visit, all recorded doses are the same, or the data are
                replicates.
        """
        if dataset.replicates > 1:
            raise UserError("quasi-optimal learning scales one data set for all its seeds: no replicates.")
        if int(dataset.starts.diff().min()) < 2:
            raise UserError(
                "quasi-optimal learning compares visits of an episode; each must have at least 2."
            )
        if bool(self.prepared.all()):
            return
        states = torch.cat((dataset.obs, dataset.next_obs))
        low, high = states.amin(0), states.amax(0)
        self.obs_low.copy_(low)
        self.obs_high.copy_(torch.where(high > low, high, low + 1.0))
        low, high = dataset.act.amin(0), dataset.act.amax(0)
        if not bool(high > low):
            raise UserError("every recorded dose is the same; quasi-optimal learning has nothing to compare.")
        self.act_low.copy_(low)
        self.act_high.copy_(high)
        self.prepared.fill_(1.0)

    def schedule(self, step: int) -> None:
        """Decay of the step size with the root of the update number."""
        c = self.config
        rate = c.learning_rate / (1.0 + c.learning_rate_decay * math.sqrt(step))
        set_learning_rate(self.optimizers["all"], rate)

    def _scaled_state(self, obs: Tensor) -> Tensor:
        low, high = self.obs_low.unsqueeze(1), self.obs_high.unsqueeze(1)
        return ((obs - low) / (high - low)).clamp(0.0, 1.0)

    def _solution(self, state: Tensor) -> Solution:
        """Coefficients, policy and value at scaled states ``[S, B, O]``."""
        weight = self.config.regularisation
        powers = [state, state.square(), state**3]
        splines = [(state - k / 7.0).clamp(min=0.0) ** 3 for k in range(1, 7)]
        basis = torch.stack(powers + splines, -1).flatten(2)
        phi = torch.cat((torch.ones_like(basis[..., :1]), basis), -1)
        log_curvature, a2, a3 = torch.bmm(phi, self.theta).unbind(-1)  # [S, B] each
        size = log_curvature.clamp(FLATTEST, math.log(1.5 * weight / NARROWEST**3)).exp()
        low, high = (
            ((end - self.act_low) / (self.act_high - self.act_low)) for end in (EDGE - 1.0, 1.0 - EDGE)
        )
        sides = solve(0.5 * a2 / size, 0.5 * size / weight, low, high)
        nu = (a2 - size * sides.mode) * sides.mode + a3 - 2.0 * weight * sides.peak
        square = sides.square()
        return Solution((-size, a2, a3), sides, nu, nu + weight * (1.0 + square), square)

    def policy(self, obs: Tensor) -> Distribution:
        """The parabola of the equations at ``obs [S, B, O]``, inside the limits by construction."""
        result = self._solution(self._scaled_state(obs))
        a1, a2, _ = result.alpha
        width = self.act_high - self.act_low  # [S, 1]
        distribution = Parabola(
            (self.act_low - 0.5 * width * a2 / a1).unsqueeze(-1),
            (result.sides.curvature / width**3).unsqueeze(-1),
            EDGE - 1.0,
            1.0 - EDGE,
            validate_args=False,
        )
        return Independent(distribution, 1, validate_args=False)

    def value_of(self, obs: Tensor, act: Tensor) -> Tensor:
        """Q(s, a), ``[S, B]``: the parabola, also at doses beyond the recorded ones."""
        dose = (act.squeeze(-1) - self.act_low) / (self.act_high - self.act_low)
        return self._solution(self._scaled_state(obs)).q(dose)

    def residual(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Solution]:
        """Residual delta ``[S, B]``, scaled states and doses, and the solution at the states."""
        c = self.config
        rows = batch.reward.shape[1]
        states = self._scaled_state(torch.cat((batch.obs, batch.next_obs), 1))
        both = self._solution(states)
        state, here, next_value = states[:, :rows], both.first(rows), both.value[:, rows:]
        dose = (batch.act.squeeze(-1) - self.act_low) / (self.act_high - self.act_low)
        gap = here.q(dose) - here.nu
        if c.value_multiplier == "exact":
            total = -c.regularisation * here.square
        else:
            product = (state * self.w.unsqueeze(1)).sum(-1)
            total = -5.0 * c.regularisation * torch.sigmoid(0.5 * product + 0.5)
        outside = (-gap).clamp(min=0.0)
        if c.support_multiplier == "released":
            outside = outside / (2.0 * c.regularisation)
        future = c.discount * (1.0 - batch.terminated) * next_value
        marginal = c.regularisation - gap.clamp(min=0.0)  # lambda - 2 lambda pi
        delta = batch.reward + future + marginal - total + outside - here.value
        return delta, state, dose, here

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss ``residual``, ``[S]``."""
        c, length = self.config, batch.length
        delta, state, dose, here = self.residual(batch)
        group = length if c.pairs == "episode" else delta.shape[1]
        shape = (len(self.seeds), -1, group)
        delta, dose, state = delta.view(shape), dose.view(shape), state.view(*shape, state.shape[-1])
        near = (state.unsqueeze(2) - state.unsqueeze(3)).square().sum(-1) / c.state_bandwidth**2
        near = near + (dose.unsqueeze(2) - dose.unsqueeze(3)).square() / c.dose_bandwidth**2
        member = torch.arange(group, device=near.device)
        if c.pairs == "across":
            member = torch.div(member, length, rounding_mode="floor")
        kernel = torch.exp(-near) * (member.unsqueeze(0) != member.unsqueeze(1))
        pairs = (delta * (kernel @ delta.unsqueeze(-1)).squeeze(-1)).sum(-1)  # [S, E]
        half = 0.5 * (here.sides.left + here.sides.right).detach() * (self.act_high - self.act_low)
        metrics = {"value": here.value.detach().mean(-1), "half_width": half.mean(-1)}
        excluded = 1 if c.pairs == "episode" else length
        return {"residual": pairs.mean(-1) / (group * (group - excluded))}, metrics


def _check(problem: Problem, config: QuasiOptimalConfig) -> None:
    """Refuse a task and settings that cannot work.

    Raises:
        UserError: more than one dose dimension, or a setting out of range.
    """
    if problem.n_act != 1:
        raise UserError(
            f"quasi-optimal learning knows one dose dimension only; this task has {problem.n_act}."
        )
    if config.pairs == "across" and config.episodes < 2:
        raise UserError(f"pairs across episodes need at least 2 episodes per update, got {config.episodes}.")
    for name in ("regularisation", "state_bandwidth", "dose_bandwidth"):
        if not getattr(config, name) > 0.0:
            raise UserError(f"{name} must be above 0, got {getattr(config, name)}.")
    for name, low in (("learning_rate_decay", 0.0), ("init_scale", 0.0), ("episodes", 1)):
        if getattr(config, name) < low:
            raise UserError(f"{name} must be at least {low:g}, got {getattr(config, name)}.")
