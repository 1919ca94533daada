"""IQN, implicit quantile networks, offline. Dabney, Ostrovski, Silver, Munos 2018, arXiv 1806.06923.

A network learns the quantile function of the return, F^-1(tau | s, a), at every fraction tau; doses are
chosen among candidates that a flow fitted to the recorded doses proposes, as in the baselines of Dong et al.
2025 (arXiv 2510.07650). With members F_e of the ensemble, tau_i, tau'_j ~ U[0, 1], and a huber threshold k:

    L_flow = E [ (v(s, x_t, t) - (a - x_0))^2 ],   x_t = (1 - t) x_0 + t a,   x_0 ~ N(0, I),  t ~ U[0, 1]
    a'     = argmax over N candidates of rho(s', .),      rho(s, a) = mean_e mean of F_e^-1(tau | s, a)
    y_j    = r + gamma (1 - d) mean_e Fbar_e^-1(tau'_j | s', a')
    u_ij   = y_j - F_e^-1(tau_i | s, a)
    L_F    = mean_e E sum_i mean_j |tau_i - 1{u_ij < 0}| huber_k(u_ij) / k

rho averages over tau below ``risk_level``: at 1 it is the mean return, below it is the conditional value at
risk (CVaR), the mean of the worst share of returns. Deployed is the best of N candidates by rho.

The released code draws the fractions of rho at random, so that the argmax follows their noise; here they are
the midpoints of equal parts. It also clips a candidate after every step of its flow, which bends the flow;
here the end is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.candidates import CandidateSettings, best_of_candidates, candidate_noise, generated
from dosing.models.flows import Velocity, matching_loss
from dosing.models.losses import target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam_each
from dosing.models.return_distributions import (
    LEVELS,
    QuantileCritic,
    best,
    midpoints,
    pooled,
    preferences,
    quantile_huber,
)
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class IQNConfig(CandidateSettings):
    """Settings of IQN: those of the value-flows code but for widths, discount and threshold.

    Its experiments use four hidden layers of 512, a discount of 0.99 (0.995 on long tasks), a
    ``huber_threshold`` of 0.9, and 16 fractions to choose by.
    """

    n_quantiles: int = 16
    """Fractions tau, and as many tau', drawn for every row of a batch."""
    choice_quantiles: int = 8
    """Midpoints by which candidates are compared; they dominate the cost of an update."""
    huber_threshold: float = 0.1
    """k: errors up to it count squared, larger ones linearly; small keeps the tails: of a
    standard normal distribution the worst 5 % average -2.04, as fitted -2.00 with 0.1 and -1.71 with 0.9."""
    risk_level: float = 1.0
    """Share of the worst returns whose mean chooses the dose; 1 is all of them, small is cautious."""


class IQN(Agent):
    """S stacked seeds of IQN over candidates of a behaviour flow."""

    about = About(
        paper="Dabney, Ostrovski, Silver, Munos 2018, arXiv 1806.06923",
        family="best of a flow's draws",
        support="point_set",
        checked="value-flows, 9e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: IQNConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        if init.regularisation.prior != "none":
            raise UserError("IQN chooses among imitated doses, none of which can start at a prior dose.")
        self.config = config
        self.critic = QuantileCritic(
            init,
            problem.n_obs,
            problem.n_act,
            config.hidden,
            scheme="xavier",
            activation="gelu",
            norm_after=True,
        )
        self.flow = Velocity(init, problem, config.hidden, layer_norm=True)
        self.critic_target = target_copy(self.critic)
        self.optimizers = adam_each(config.learning_rate, critic=self.critic, flow=self.flow)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Fractions, and where the behaviour flow starts, in its loss and for the next candidates."""
        c = self.config
        return {
            "tau": Noise("uniform", (batch_size, c.n_quantiles)),
            "next_tau": Noise("uniform", (batch_size, c.n_quantiles)),
            **candidate_noise(batch_size, self.problem.n_act, c.candidates),
        }

    def proposed(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Doses ``[S, B, M, A]`` of the behaviour flow and their rho ``[S, B, M]``.

        Args:
            obs: ``[S, B, O]``.
            noise: standard normal, ``[M, A]`` for all states, or ``[S, B, M, A]``.
        """
        act = generated(self.flow, obs, noise, self.config.flow_steps)
        return act, preferences(self.risk, obs, act, self.critic.members * self.config.choice_quantiles)

    def risk(self, obs: Tensor, act: Tensor) -> Tensor:
        """Risk measure rho ``[S, B]`` of ``act [S, B, A]`` at ``obs [S, B, O]``."""
        tau = self.config.risk_level * midpoints(self.config.choice_quantiles, obs)
        quantiles = self.critic(obs, act, tau.expand(len(obs), 1, -1))
        return pooled(quantiles.mean(-1), self.critic.pessimism)

    def policy(self, obs: Tensor) -> Distribution:
        """The best of N candidates: doses of the behaviour flow with the probability that each is chosen."""
        return best_of_candidates(self.proposed, obs, self.problem.n_act, self.config.candidates)

    def returns(self, obs: Tensor, act: Tensor) -> Tensor:
        """Quantiles of the return at the midpoints of ``LEVELS`` equal parts, mean over the ensemble."""
        tau = midpoints(LEVELS, obs).expand(len(obs), 1, -1)
        quantiles: Tensor = self.critic(obs, act, tau).mean(1)
        return quantiles

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic`` and ``flow``, each ``[S]``."""
        c, noise = self.config, batch.noise
        with torch.no_grad():
            next_act = best(*self.proposed(batch.next_obs, noise["candidates"]))
            future = self.critic_target(batch.next_obs, next_act, noise["next_tau"])
            future = pooled(future, self.critic.pessimism)  # [S, B, K]
            reward, terminated = batch.reward.unsqueeze(-1), batch.terminated.unsqueeze(-1)
            target = td_target(reward, terminated, c.discount, future)
        quantiles = self.critic(batch.obs, batch.act, noise["tau"])  # [S, E, B, K]
        loss = quantile_huber(quantiles, noise["tau"], target, c.huber_threshold)
        losses = {
            "critic": loss.sum(-1).mean((1, 2)),
            "flow": matching_loss(self.flow, batch.obs, batch.act, noise["start"], noise["time"]),
        }
        return losses, {"q": quantiles.detach().mean((1, 2, 3))}


def _check(config: IQNConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name in ("n_quantiles", "choice_quantiles", "candidates", "flow_steps"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}.")
    if not config.huber_threshold > 0.0:
        raise UserError(f"huber_threshold must be above 0, got {config.huber_threshold}.")
    if not 0.0 < config.risk_level <= 1.0:
        raise UserError(f"risk_level must be above 0 and at most 1, got {config.risk_level}.")
