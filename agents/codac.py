"""CODAC, conservative offline distributional actor-critic. Ma, Jayaraman, Bastani 2021, arXiv 2107.06106.

A soft actor-critic whose critics are quantile functions F_e^-1(tau | s, a) of the return (DSAC: Duan et al.
2020, arXiv 2001.02811), pushed down at doses that the data do not hold. Fractions 0 = tau_0 < ... < tau_K = 1
come from K widths U[0, 1] + 0.1, divided by their sum; c_k = (tau_(k-1) + tau_k) / 2 and w_k = tau_k -
tau_(k-1). With temperature alpha, penalty omega, fresh fractions at s' and at pi(s), and one k for a batch:

    y_l  = r + gamma (1 - d) (min_e Fbar_e^-1(c'_l | s', a') - alpha ln pi_bar(a' | s')),    a' ~ pi_bar(s')
    L_F  = sum_e E mean_k sum_l w'_l |c_k - 1{u_kl < 0}| huber_h(u_kl) / h,   u_kl = y_l - F_e^-1(c_k | s, a)
           + omega sum_e E [ ln sum_a exp(F_e^-1(c_k | s, a) - ln mu(a)) - mean_k F_e^-1(c_k | s, a_data) ]
    rho  = min_e sum_k (g(tau_k) - g(tau_(k-1))) F_e^-1(c_k | s, a)
    L_pi = E [ alpha ln pi(a | s) - rho(s, a) ],                                             a ~ pi(s)

The sum of the penalty is over ``n_actions`` doses from each of three distributions mu: uniform on the box,
pi(s) and pi(s'). With ``lagrange_gap`` D the penalty of each critic is alpha' (omega [...] - D), and alpha' >
0 ascends on its mean over critics. A learned alpha descends on -ln alpha (E ln pi - n), n dose dimensions.
All steps are taken at the same parameters; target policy and target critics follow by Polyak averaging.

g is the distortion of the risk measure, at parameter p: neutral, g = tau; cvar, g = min(tau / p, 1), the mean
of the worst share p of returns; wang, g = Phi(Phi^-1(tau) + p), cautious for p > 0 (Wang 2000); cpw, g =
tau^p / (tau^p + (1 - tau)^p)^(1/p) (Tversky, Kahneman 1992). The released code takes g' at c_k in place of
the increments of g, clipped to 5: for cvar at its 0.1 the weights then sum to 1/2, and the entropy counts
twice. Its targets start at weights of their own, its target entropy is -3 for every number of doses, and its
multiplier has no slope any more once it is cut off at its limit. The variant with a flow policy in the
value-flows code bootstraps past the end of episodes and takes a trace for the log-determinant in its policy's
density; it is not followed here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dosing.agent import Agent
from dosing.distributions.bounded import TanhNormal
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import frozen
from dosing.models.losses import target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.policy_heads import Policy
from dosing.models.return_distributions import LEVELS, QuantileCritic, midpoints, pooled, quantile_huber
from dosing.models.settings import CriticSettings
from dosing.types import About, Noise, Problem

Risk = Literal["neutral", "cvar", "wang", "cpw"]

LARGEST_MULTIPLIER = 1e6
"""Limit of alpha', as published."""


@dataclass(frozen=True)
class CODACConfig(CriticSettings):
    """Settings of CODAC: step sizes and discount of the treatment simulators, most others as released.

    Its D4RL experiments use a policy's step size of 3e-5 (walker2d medium-replay 3e-6), a discount of 0.99, a
    ``huber_threshold`` of 1, a ``lagrange_gap`` of 10, and a penalty of 1 on random and replayed data and 10
    on medium data; HalfCheetah medium-expert 0.1 without gap and with a step size of 3e-4. Half of the data
    sets have the temperature learned.
    """

    learning_rate: float = 3e-4
    """Adam step size of the critics and of ``lagrange_gap``'s multiplier."""
    actor_learning_rate: float = 1e-4
    """Adam step size of the policy and of the temperature."""
    temperature: float = 0.2
    """alpha, the price of a narrow policy; where it is learned, where it starts."""
    learn_temperature: bool = False
    """Let alpha follow a target entropy of minus the number of dose dimensions."""
    n_quantiles: int = 32
    """K, fractions per row of a batch."""
    huber_threshold: float = 0.1
    """h: errors up to it count squared, larger ones linearly; small keeps the tails: of a
    standard normal distribution the worst 5 % average -2.04, as fitted -2.00 with 0.1 and -1.71 with 0.9."""
    penalty: float = 1.0
    """omega: large keeps the policy to recorded doses."""
    lagrange_gap: float | None = None
    """D, the penalty that a multiplier brings about; None keeps the multiplier at 1 and D at 0."""
    n_actions: int = 10
    """Doses of each of the three distributions in the penalty."""
    risk: Risk = "neutral"
    """What the policy ascends: the mean return, or cvar, wang or cpw of its distribution."""
    risk_parameter: float = 0.1
    """p: the worst share of returns for cvar, the shift for wang, the exponent for cpw."""
    log_std_min: float = -5.0
    """Lower bound of the policy's log scale before tanh; released as -20."""
    log_std_max: float = 2.0
    """Upper bound of the same."""


def distortion(tau: Tensor, risk: Risk, p: float) -> Tensor:
    """g(tau), elementwise, of fractions in [0, 1]; see the module."""
    if risk == "cvar":
        return (tau / p).clamp(max=1.0)
    if risk == "wang":
        shifted: Tensor = torch.special.ndtr(torch.special.ndtri(tau) + p)
        return shifted
    if risk == "cpw":
        return tau**p / (tau**p + (1.0 - tau) ** p) ** (1.0 / p)
    return tau


def cumulated(uniform: Tensor) -> Tensor:
    """Fractions 0 = tau_0 < ... < tau_K = 1, ``[..., K + 1]``, from uniform noise ``[..., K]``."""
    width = uniform + 0.1
    inner = (width / width.sum(-1, keepdim=True)).cumsum(-1)[..., :-1].clamp(max=1.0)
    zero = torch.zeros_like(uniform[..., :1])
    return torch.cat((zero, inner, zero + 1.0), -1)


class CODAC(Agent):
    """S stacked seeds of CODAC with a squashed Gaussian policy."""

    about = About(
        paper="Ma, Jayaraman, Bastani 2021, arXiv 2107.06106",
        family="squashed Gaussian",
        support="full_box",
        checked="CODAC, 1e-14",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: CODACConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config = config
        self.critic = QuantileCritic(init, problem.n_obs, problem.n_act, config.hidden, gated=True)
        log_std = (config.log_std_min, config.log_std_max)
        self.actor = Policy(
            init, problem, config.hidden, "squashed_gaussian", scheme="xavier", log_std=log_std
        )
        self.critic_target, self.actor_target = target_copy(self.critic), target_copy(self.actor)
        trained: list[nn.Parameter] = [*self.actor.parameters()]
        if config.learn_temperature:
            self.log_temperature = init.constant(math.log(config.temperature), 1)
            trained.append(self.log_temperature)
        self.optimizers = {"actor": adam(trained, config.actor_learning_rate)}
        trained = [*self.critic.parameters()]
        if config.lagrange_gap is not None:
            self.log_multiplier = init.constant(0.0, 1)
            trained.append(self.log_multiplier)
        self.optimizers["critic"] = adam(trained, config.learning_rate)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Fractions, draws of the policy at both states, the penalty's doses and its quantile."""
        c, n_act = self.config, self.problem.n_act
        tau = Noise("uniform", (batch_size, c.n_quantiles))
        one = Noise("uniform", (batch_size, n_act, TanhNormal.n_uniforms))
        several = Noise("uniform", (batch_size, c.n_actions, n_act, TanhNormal.n_uniforms))
        return {
            "tau": tau,
            "next_tau": tau,
            "act_tau": tau,
            "act": one,
            "next_act": one,
            "random": Noise("uniform", (batch_size, c.n_actions, n_act)),
            "here": several,
            "there": several,
            "quantile": Noise("uniform", (1,)),
        }

    @property
    def temperature(self) -> Tensor | float:
        """alpha: a number, or ``[S, 1]`` where it is learned; no gradient."""
        if self.config.learn_temperature:
            return self.log_temperature.detach().exp()
        return self.config.temperature

    def returns(self, obs: Tensor, act: Tensor) -> Tensor:
        """Quantiles of the return at the midpoints of ``LEVELS`` equal parts, the least of the ensemble."""
        return self._least(self.critic(obs, act, midpoints(LEVELS, obs).expand(len(obs), 1, -1)))

    def _least(self, values: Tensor) -> Tensor:
        """The least over the members of ``[S, E, ...]`` or, by ``pessimism``, a bound."""
        pessimism = self.critic.pessimism
        return values.amin(1) if pessimism is None else pooled(values, pessimism)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``actor`` and, where learned, ``temperature``, ``lagrange``, each ``[S]``."""
        c, noise = self.config, batch.noise
        tau = cumulated(noise["tau"])
        centre = 0.5 * (tau[..., 1:] + tau[..., :-1])
        target, weight = self._target(batch)
        quantiles = self.critic(batch.obs, batch.act, centre)  # [S, E, B, K]
        fit = quantile_huber(quantiles, centre, target, c.huber_threshold, weight).mean((2, 3))  # [S, E]
        gap = c.penalty * (self._log_sum(batch, centre) - quantiles.mean((2, 3)))

        base: Any = self.actor(batch.obs).base_dist
        act, log_prob = base.rsample_with_log_prob(noise["act"])
        log_prob = log_prob.sum(-1)
        soft = self.temperature * log_prob - self._risk(batch, act)
        losses = {"actor": soft.mean(-1)}
        if c.lagrange_gap is not None:
            multiplier = self.log_multiplier.exp()  # [S, 1]
            gap = gap - c.lagrange_gap
            losses["lagrange"] = -(multiplier * gap.detach()).mean(1)
            gap = multiplier.detach() * gap
        losses["critic"] = (fit + gap).sum(1)
        if c.learn_temperature:
            excess = log_prob.detach().mean(-1, keepdim=True) - self.problem.n_act
            losses["temperature"] = -(self.log_temperature * excess).sum(-1)
        metrics = {"q": quantiles.detach().mean((1, 2, 3)), "gap": gap.detach().mean(1)}
        return losses, metrics

    @torch.no_grad()
    def _target(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values of the target and their probabilities, ``[S, B, K]`` each."""
        tau = cumulated(batch.noise["next_tau"])
        base: Any = self.actor_target(batch.next_obs).base_dist
        act, log_prob = base.rsample_with_log_prob(batch.noise["next_act"])
        future = self._least(self.critic_target(batch.next_obs, act, 0.5 * (tau[..., 1:] + tau[..., :-1])))
        future = future - (self.temperature * log_prob.sum(-1)).unsqueeze(-1)
        reward, terminated = batch.reward.unsqueeze(-1), batch.terminated.unsqueeze(-1)
        return td_target(reward, terminated, self.config.discount, future), tau.diff(dim=-1)

    def _log_sum(self, batch: Batch, centre: Tensor) -> Tensor:
        """Mean over the batch of ln sum_a exp(F^-1 - ln mu(a)) at the batch's quantile, ``[S, E]``."""
        c, noise, n_act = self.config, batch.noise, self.problem.n_act
        with torch.no_grad():
            act = [2.0 * noise["random"] - 1.0]
            log_density = [torch.full_like(act[0][..., 0], -n_act * math.log(2.0))]
            for obs, drawn in ((batch.obs, noise["here"]), (batch.next_obs, noise["there"])):
                base: Any = self.actor(obs).base_dist
                draws, log_prob = base.rsample_with_log_prob(drawn.movedim(2, 0))
                act.append(draws.movedim(0, 2))
                log_density.append(log_prob.sum(-1).movedim(0, 2))
        every = torch.cat(act, 2)  # [S, B, 3 N, A]
        count = every.shape[2]
        chosen = (noise["quantile"] * c.n_quantiles).long().clamp(max=c.n_quantiles - 1)
        tau = centre.gather(-1, chosen.unsqueeze(1).expand(-1, centre.shape[1], -1))  # [S, B, 1]
        obs = batch.obs.unsqueeze(2).expand(-1, -1, count, -1).flatten(1, 2)
        quantiles = self.critic(obs, every.flatten(1, 2), tau.expand(-1, -1, count).reshape(len(tau), -1, 1))
        scores = quantiles.squeeze(-1).unflatten(2, (-1, count)) - torch.cat(log_density, 2).unsqueeze(1)
        return torch.logsumexp(scores, -1).mean(-1)

    def _risk(self, batch: Batch, act: Tensor) -> Tensor:
        """Risk measure rho ``[S, B]`` of ``act [S, B, A]``; the critics are held constant."""
        tau = cumulated(batch.noise["act_tau"])
        weight = distortion(tau, self.config.risk, self.config.risk_parameter).diff(dim=-1)
        quantiles = frozen(self.critic, batch.obs, act, 0.5 * (tau[..., 1:] + tau[..., :-1]))
        return self._least((quantiles * weight.unsqueeze(1)).sum(-1))

    def update_targets(self, step: int) -> None:
        """Target critics and target policy by Polyak averaging; the multiplier stays within its limit."""
        super().update_targets(step)
        if self.config.lagrange_gap is not None:
            with torch.no_grad():
                self.log_multiplier.clamp_(max=math.log(LARGEST_MULTIPLIER))


def _check(config: CODACConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name in ("n_quantiles", "n_actions"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}.")
    if not config.actor_learning_rate > 0.0:
        raise UserError(f"actor_learning_rate must be above 0, got {config.actor_learning_rate}.")
    if not config.huber_threshold > 0.0:
        raise UserError(f"huber_threshold must be above 0, got {config.huber_threshold}.")
    if config.penalty < 0.0:
        raise UserError(f"penalty must be at least 0, got {config.penalty}.")
    p = config.risk_parameter
    if config.risk == "cvar" and not 0.0 < p <= 1.0:
        raise UserError(f"risk_parameter of cvar must be above 0 and at most 1, got {p}.")
    if config.risk == "cpw" and not 0.3 <= p <= 1.0:  # below, g is not monotone
        raise UserError(f"risk_parameter of cpw must be between 0.3 and 1, got {p}.")
