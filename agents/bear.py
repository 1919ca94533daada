"""BEAR, bootstrapping error accumulation reduction. Kumar, Fu, Tucker, Levine 2019, arXiv 1906.00949.

A squashed Gaussian policy is kept near the recorded doses by the maximum mean discrepancy (MMD) between its
draws and those of a conditional variational auto-encoder (CVAE) of them, which is learned beside it. Both
sets are compared before tanh, where gradients do not die: n latents z and n numbers eps, normal and clipped
to +-c, give x_i = atanh decoder(s, z_i) and y_j = mean(s) + sigma(s) eps_j. With D of ``dosing.models.vae``:

    MMD(s)   = sqrt(mean k(x, x') + mean k(y, y') - 2 mean k(x, y) + 1e-6)
    k(x, y)  = exp(-|x - y|_1 / 2w)  (Laplacian)   or   exp(-|x - y|_2^2 / 2w)  (Gaussian)
    L_vae    = E [ D(s, a) ]
    L_Q      = sum_i E [ (r + gamma (1 - d) max_k V(s', a'_k) - Q_i(s, a))^2 ],   a'_1, ..., a'_N ~ pi_bar,
               V = lambda min_j Qbar_j + (1 - lambda) max_j Qbar_j             (soft clipped double Q)
    L_pi     = E [ exp(l) MMD(s) - min_i mean_j Q_i(s, tanh y_j) ]
    L_l      = - exp(l) E [ MMD(s) - threshold ]                               l kept within [-5, 10]
    pi(s)    = the best by Q_1 of M draws

The first mmd_only updates leave Q out of L_pi. All losses are taken at the same parameters; then both target
networks follow. The executed dose is the best of M new draws of the Gaussian; the policy's distribution is
that of the best of M draws from a larger fixed set, and the recommended dose is the best of M fixed ones.

Only draws within +-c of the mean, in units of sigma, are held to the recorded doses; the executed ones have
all of the Gaussian's noise, as published, and may lie further out.

Defects of the released code that are not inherited: ln sigma is not clipped, two of the ensemble's four
critics are switched off, and l starts at a random number (here at 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from dosing.agent import Agent
from dosing.distributions.draws import best_candidate
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.flows import DRAWS, points, spread
from dosing.models.losses import soft_clipped, target_copy, td_loss, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.policy_heads import Policy
from dosing.models.settings import CriticSettings
from dosing.models.vae import ConditionalVae, vae_loss
from dosing.types import About, Noise, Problem

Kernel = Literal["laplacian", "gaussian"]

LOG_MULTIPLIER = (-5.0, 10.0)
"""Bounds of l, as published."""


@dataclass(frozen=True)
class BEARConfig(CriticSettings):
    """Settings of BEAR: widths and discount of the treatment simulators, the rest as the authors' code.

    That code uses hidden layers of 400 and 300 for policy and critics, two of 750 for the CVAE, a discount of
    0.99 and batches of 100; a Laplacian kernel of width 10 or a Gaussian one of 20; and it leaves Q out for
    its first 20 epochs.
    """

    learning_rate: float = 1e-3
    """Adam step size of policy and critics."""
    kernel: Kernel = "laplacian"
    """Kernel of the discrepancy."""
    kernel_width: float = 10.0
    """w, in the unit of doses before tanh, for the Gaussian kernel its square."""
    threshold: float = 0.05
    """Discrepancy that is allowed."""
    matched: int = 5
    """n, draws on each side that are compared."""
    noise_clip: float = 0.5
    """c: noise of the draws that are compared is clipped to +-c."""
    multiplier_learning_rate: float = 1e-3
    """Adam step size of l."""
    mmd_only: int = 1000
    """First updates, in which the policy imitates and ignores the critics."""
    log_std_min: float = -5.0
    """Lower bound of ln sigma."""
    log_std_max: float = 2.0
    """Upper bound of ln sigma."""
    least_weight: float = 0.75
    """lambda: weight of the least critic in the target; the greatest has the rest."""
    target_candidates: int = 10
    """N, draws that the target's maximum is taken over."""
    candidates: int = 10
    """M, draws that the executed dose is the best of."""
    vae_hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of the CVAE's encoder and decoder."""
    vae_learning_rate: float = 1e-3
    """Adam step size of the CVAE."""
    vae_beta: float = 0.5
    """Weight of the KL term; also four times the variance of the decoder's distribution."""


class BEAR(Agent):
    """S stacked seeds of BEAR."""

    about = About(
        paper="Kumar, Fu, Tucker, Levine 2019, arXiv 1906.00949",
        family="best draw of a squashed Gaussian",
        support="point_set",
        checked="aviralkumar2907/BEAR, 4e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: BEARConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config = config
        self.vae = ConditionalVae(init, problem, config.vae_hidden)
        bounds = (config.log_std_min, config.log_std_max)
        self.actor = Policy(init, problem, config.hidden, "squashed_gaussian", log_std=bounds)
        self.critic = Critic(init, problem.n_obs, problem.n_act, config.hidden)
        self.actor_target, self.critic_target = target_copy(self.actor), target_copy(self.critic)
        self.log_multiplier = init.constant(0.0, 1)
        self.optimizers = {
            "vae": adam(self.vae, config.vae_learning_rate),
            "critic": adam(self.critic, config.learning_rate),
            "actor": adam(self.actor, config.learning_rate),
            "multiplier": adam([self.log_multiplier], config.multiplier_learning_rate),
        }

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise of the CVAE's own draw, of the target's draws and of the draws compared."""
        c, n_act, width = self.config, self.problem.n_act, self.vae.n_latent
        return {
            "vae": Noise("normal", (batch_size, 1, width)),
            "target": Noise("normal", (batch_size, c.target_candidates, n_act)),
            "latent": Noise("normal", (batch_size, c.matched, width)),
            "act": Noise("normal", (batch_size, c.matched, n_act)),
        }

    def policy(self, obs: Tensor) -> Distribution:
        """The distribution of the best of M draws."""
        tries = self.config.candidates
        values = torch.tanh(_raw(self.actor, obs, points(max(DRAWS, tries), self.problem.n_act, obs)))
        with torch.no_grad():
            worth = spread(lambda rows, act: frozen(self.critic, rows, act, members=1)[:, 0], obs, values)
        return Independent(best_candidate(values, worth, tries), 1, validate_args=False)

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """The squashed Gaussian that the candidates are drawn from."""
        return {"candidates": self.actor(obs)}

    def phase(self, step: int) -> int:
        """0 while the policy imitates alone, then 1."""
        return int(step >= self.config.mmd_only)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``vae``, ``critic``, ``actor`` and ``multiplier``, each ``[S]``."""
        c = self.config
        coded = self.vae(batch.obs, batch.act, batch.noise["vae"])
        with torch.no_grad():
            next_act = torch.tanh(_raw(self.actor_target, batch.next_obs, batch.noise["target"]))
            bootstrap = spread(self._target_value, batch.next_obs, next_act).amax(-1)  # [S, B, N] -> [S, B]
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
            z = batch.noise["latent"].clamp(-c.noise_clip, c.noise_clip)
            recorded = spread(self.vae.decode, batch.obs, z)  # [S, B, n, A]
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        drawn = _raw(self.actor, batch.obs, batch.noise["act"].clamp(-c.noise_clip, c.noise_clip))
        away = discrepancy(recorded, drawn, c.kernel, c.kernel_width).mean(-1)  # [S]
        multiplier = self.log_multiplier.squeeze(-1).exp()
        losses = {
            "vae": vae_loss(batch.act, *coded, beta=c.vae_beta),
            "critic": td_loss(q, target),
            "actor": multiplier.detach() * away,
            "multiplier": -multiplier * (away.detach() - c.threshold),
        }
        if self.phase(batch.step):
            values = spread(self._values, batch.obs, torch.tanh(drawn)).mean(2)  # [S, B, n, E] -> [S, B, E]
            losses["actor"] = losses["actor"] - self.critic.lower(values.mT).mean(-1)
        metrics = {"discrepancy": away.detach(), "multiplier": multiplier.detach()}
        return losses, {"q": q.detach().mean((1, 2))} | metrics

    def update_targets(self, step: int) -> None:
        """The bounds of l; both target networks."""
        super().update_targets(step)
        with torch.no_grad():
            self.log_multiplier.clamp_(*LOG_MULTIPLIER)

    def _values(self, obs: Tensor, act: Tensor) -> Tensor:
        """Every critic's value as a function of the dose alone, ``[S, B, E]``."""
        values: Tensor = frozen(self.critic, obs, act).mT
        return values

    def _target_value(self, obs: Tensor, act: Tensor) -> Tensor:
        """V ``[S, B]``."""
        return soft_clipped(self.critic_target, obs, act, self.config.least_weight)


def _raw(actor: Policy, obs: Tensor, noise: Tensor) -> Tensor:
    """Draws before tanh, ``[S, B, n, A]``, from standard normal noise ``[S, B, n, A]`` or ``[n, A]``."""
    distribution: Any = actor.distribution(actor.trunk(obs))
    raw: Tensor = distribution.loc.unsqueeze(2) + distribution.scale.unsqueeze(2) * noise
    return raw


def discrepancy(x: Tensor, y: Tensor, kernel: Kernel, width: float) -> Tensor:
    """Maximum mean discrepancy of the draws ``x [..., n, A]`` and ``y [..., m, A]``, ``[...]``.

    Gretton et al. 2012, JMLR 13:723, the biased estimate; with 1e-6 under the root, where it would have no
    slope.
    """

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        apart = a.unsqueeze(-2) - b.unsqueeze(-3)  # [..., n, m, A]
        distance = apart.abs().sum(-1) if kernel == "laplacian" else apart.square().sum(-1)
        return torch.exp(-distance / (2.0 * width)).mean((-2, -1))

    return (mean_kernel(x, x) + mean_kernel(y, y) - 2.0 * mean_kernel(x, y) + 1e-6).sqrt()


def _check(config: BEARConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name in ("matched", "target_candidates", "candidates"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}.")
    for name in ("kernel_width", "multiplier_learning_rate"):
        if not getattr(config, name) > 0.0:
            raise UserError(f"{name} must be above 0, got {getattr(config, name)}.")
    for name in ("threshold", "mmd_only"):
        if getattr(config, name) < 0:
            raise UserError(f"{name} must be at least 0, got {getattr(config, name)}.")
    if not 0.0 <= config.least_weight <= 1.0:
        raise UserError(f"least_weight must be between 0 and 1, got {config.least_weight}.")
