"""SPOT, supported policy optimization. Wu, Wu, Qiu, Wang, Long 2022, arXiv 2202.06239 (NeurIPS 2022).

TD3 whose policy is kept where recorded doses are likely, by the density of a conditional variational
auto-encoder (CVAE) that is fitted first and then frozen. Its decoder distribution is p(a | z, s) =
N(decoder(s, z), beta/4), its prior N(0, I), its posterior q(z | a, s) = N(mean, diag(sigma^2)); the latent
has twice as many dimensions as the dose, n. With z_l drawn from q:

    D(s, a) = mean_l |decoder(s, z_l) - a|^2 / n + beta KL(q(z | a, s) || N(0, I)) / 2n
    L_vae   = E [ D(s, a) ]                                                   the first vae_steps updates
    a'      = clip(pi_bar(s') + clip(sigma eps, -c, c), -1, 1),   eps ~ N(0, 1)
    L_Q     = sum_i E [ (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2 ]
    L_pi    = - E [ Q_1(s, pi(s)) ] / E |Q_1(s, pi(s))| + lambda E [ P(s, pi(s)) ]

The penalty P is D, which is beta/2n times the negative evidence lower bound (ELBO) of ln p(a | s), up to a
constant; or, in the same unit, the tighter estimate by importance sampling over L draws,

    P = - beta/2n [ ln 1/L sum_l exp(ln p(a | z_l, s) + ln p(z_l) - ln q(z_l | a, s)) - constant ].

Gradients pass through the density into pi(s) and stop there. After its updates the critics are updated every
time; every second time the policy is too, at the same parameters, and then both target networks follow.

The CVAE smooths: with beta = 0.5 its decoder's standard deviation is 0.35 of half the dose range, and
between two modes of the recorded doses it reports more density than at them; with 0.05 it tells them apart.
``density = "gaussian"`` is the paper's other estimate, a conditional normal distribution N(m(s),
sigma(s)^2) fitted by likelihood, which has one mode; P = - beta/2n ln p(a | s) keeps the unit. On 50
patients with uniform doses no beta was told from another by the returns of new patients
(``benchmarks/results/density.md``), so that 0.5 stays.

The paper's penalty is a term for any actor-critic. ``actor = "squashed_gaussian"`` puts it on a soft
actor-critic (Haarnoja et al. 2018, arXiv 1812.05905): a ~ pi(.|s) along its path in L_pi, which gains
alpha ln pi(a | s) and takes min_i Q_i, a' ~ pi(.|s') without noise, and L_alpha = - ln alpha E [ln pi - n].

A departure from the released code: there the target policy, never in evaluation mode, keeps its dropout, a
further noise on a'; here only pi(s) in L_pi has any, unless ``target_dropout``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, frozen
from dosing.models.deterministic import DelayedSettings, critic_losses, smoothed_target
from dosing.models.losses import target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.policy_heads import PointPolicy, Policy
from dosing.models.vae import ConditionalVae, vae_loss
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class SPOTConfig(DelayedSettings):
    """Settings of SPOT: step size and lambda of FtTPO's treatment experiment, the rest near SPOT's paper.

    The paper's experiments use a step size of 3e-4, a discount of 0.99, a CVAE with two hidden layers of 750
    and 1e5 updates, one draw per estimate, and lambda per data set (medium-expert, medium, medium-replay):
    HalfCheetah 1, 0.05, 0.05; Hopper 0.2, 0.1, 0.1; Walker2d 0.5, 0.2, 0.2. Mazes: no dropout, a policy step
    size of 1e-4, lambda 0.25 (umaze, umaze-diverse), 0.05 (medium-play), 0.025 (medium-diverse and both
    large).
    """

    learning_rate: float = 1e-3
    """Adam step size of policy and critics."""
    penalty: float = 0.05
    """lambda: 0 follows the critic anywhere, large stays where recorded doses are dense."""
    density: Literal["elbo", "importance", "gaussian"] = "elbo"
    """Estimate of the recorded doses' density: the CVAE's lower bound; importance sampling, tighter with L;
    gaussian, a conditional normal distribution with one mode."""
    n_samples: int = 4
    """L, draws of the latent per estimate; the paper's 1 is noisy where there are few dose dimensions."""
    normalise_q: bool = True
    """Divide the critic's value by its mean size, so that lambda does not depend on the reward's scale."""
    dropout: float = 0.1
    """Share of the policy's hidden units that are dropped in its own loss; 0.1 on MuJoCo."""
    target_dropout: bool = False
    """Drop as many of the target policy's in the critics' target, as the released code does."""
    actor: Literal["deterministic", "squashed_gaussian"] = "deterministic"
    """Policy: of TD3, or of a soft actor-critic."""
    actor_learning_rate: float | None = None
    """Adam step size of the policy; None is that of the critics. 1e-4 in mazes."""
    actor_last_bound: float | None = None
    """Weights and bias of the deterministic policy's last layer start uniform within it; None is the usual
    start, 1e-3 the mazes'."""
    critic_last_bound: float | None = None
    """The same of the critics; 3e-3 in mazes."""
    vae_steps: int = 1000
    """First updates, which fit the density and nothing else; a training must be longer than these."""
    vae_hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of the CVAE's encoder and decoder, or of the normal distribution's network."""
    vae_learning_rate: float = 1e-3
    """Adam step size of the density."""
    vae_beta: float = 0.5
    """beta: weight of the KL term; also four times the variance of the decoder's distribution, so that 0.5
    smooths recorded doses by 0.35 of half the range and fills the gap between two modes: of modes at -0.5 and
    0.5 it ranks the middle above both (log-density -0.52; truth -11.12), which 0.05 does not
    (``benchmarks/experiments/density.py``). No beta returned more than another on the treatment task there,
    so the published one stays."""


class SPOT(Agent):
    """S stacked seeds of SPOT."""

    about = About(
        paper="Wu, Wu, Qiu, Wang, Long 2022, arXiv 2202.06239",
        family="deterministic",
        support="point",
        checked="thuml/SPOT and CORL, 3e-16",
    )
    target_phase = 2

    def __init__(self, init: Initialiser, problem: Problem, config: SPOTConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config, self.warm_up = config, config.vae_steps
        if config.density == "gaussian":
            self.behaviour = Policy(init, problem, config.vae_hidden, "clipped_gaussian")
        else:
            self.vae = ConditionalVae(init, problem, config.vae_hidden)
        self.actor: Any = (
            PointPolicy(init, problem, config.hidden, last_bound=config.actor_last_bound)
            if config.actor == "deterministic"
            else Policy(init, problem, config.hidden, "squashed_gaussian")
        )
        self.critic = Critic(
            init, problem.n_obs, problem.n_act, config.hidden, last_bound=config.critic_last_bound
        )
        self.critic_target = target_copy(self.critic)
        trained = list(self.actor.parameters())
        if config.actor == "deterministic":
            self.actor_target: Any = target_copy(self.actor)
        else:
            self.log_temperature = init.constant(0.0, 1)
            trained.append(self.log_temperature)
        self.optimizers = {
            "vae": adam(self.estimator, config.vae_learning_rate),
            "critic": adam(self.critic, config.learning_rate),
            "actor": adam(trained, config.actor_learning_rate or config.learning_rate),
        }

    @property
    def estimator(self) -> nn.Module:
        """The network behind the density of recorded doses."""
        return self.behaviour if self.config.density == "gaussian" else self.vae

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise of the target action and of the latents; uniform noise of dropout and draws."""
        c, n_act = self.config, self.problem.n_act
        plan: dict[str, Noise] = {}
        if c.density != "gaussian":
            plan["vae"] = Noise("normal", (batch_size, 1, 2 * n_act))
        if c.actor == "deterministic":
            plan["target"] = Noise("normal", (batch_size, n_act))
        else:
            plan |= {name: Noise("uniform", (batch_size, n_act, 1)) for name in ("act", "next_act")}
        if c.density != "gaussian":
            plan["latent"] = Noise("normal", (batch_size, c.n_samples, 2 * n_act))
        if c.dropout > 0.0:
            plan["dropout"] = Noise("uniform", (batch_size, sum(c.hidden)))
            if c.target_dropout:
                plan["target_dropout"] = Noise("uniform", (batch_size, sum(c.hidden)))
        return plan

    def phase(self, step: int) -> int:
        """0 while the density is fitted; then 1 for the critics alone, 2 for critics, policy and targets."""
        done = step - self.config.vae_steps
        return 0 if done < 0 else 1 + int(self.config.moves(done))

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of the phase, each ``[S]``.

        ``vae`` or ``behaviour``; or ``critic`` and, in the policy's turn, ``actor`` and ``temperature``.
        """
        c, phase = self.config, self.phase(batch.step)
        if phase == 0:
            if c.density == "gaussian":
                return {"behaviour": -self.behaviour.log_prob(batch.obs, batch.act).mean(-1)}, {}
            coded = self.vae(batch.obs, batch.act, batch.noise["vae"])
            return {"vae": vae_loss(batch.act, *coded, beta=c.vae_beta)}, {}
        losses, metrics = critic_losses(self.critic, batch, self._target(batch))
        if phase == 2:
            act, log_prob = self._proposed(batch)
            q = frozen(self.critic, batch.obs, act, members=1 if log_prob is None else None)
            q_act = q.squeeze(1) if log_prob is None else self.critic.lower(q)  # [S, B]
            size = q_act.detach().abs().mean(-1) if c.normalise_q else 1.0
            penalty = self._penalty(batch, act)
            losses["actor"] = c.penalty * penalty - q_act.mean(-1) / size
            metrics["penalty"] = penalty.detach()
            if log_prob is not None:
                temperature = self.log_temperature.squeeze(-1)  # [S]
                losses["actor"] = losses["actor"] + temperature.detach().exp() * log_prob.mean(-1)
                missing = log_prob.detach().mean(-1) - self.problem.n_act
                losses["temperature"] = -temperature * missing
                metrics["alpha"] = temperature.detach().exp()
        return losses, metrics

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        """What the critics regress on, ``[S, B]``."""
        c = self.config
        dropped = c.target_dropout and c.dropout > 0.0
        keep = self._kept(batch.noise["target_dropout"]) if dropped else []
        if c.actor == "deterministic":
            return smoothed_target(self.actor_target, self.critic_target, batch, c, keep)
        features = self.actor.trunk(batch.next_obs, keep)
        act = self.actor.distribution(features).rsample_from(batch.noise["next_act"])
        bootstrap = self.critic_target.pessimistic(batch.next_obs, act)
        return td_target(batch.reward, batch.terminated, c.discount, bootstrap)

    def _proposed(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The policy's dose ``[S, B, A]`` in its own loss, with its log-density ``[S, B]`` or None."""
        keep = self._kept(batch.noise["dropout"]) if self.config.dropout > 0.0 else []
        if self.config.actor == "deterministic":
            return self.actor.action(batch.obs, keep), None
        distribution = self.actor.distribution(self.actor.trunk(batch.obs, keep))
        act, log_prob = distribution.rsample_with_log_prob(batch.noise["act"])
        return act, log_prob.sum(-1)

    def _kept(self, uniform: Tensor) -> list[Tensor]:
        """What the units of every hidden layer are multiplied by, from uniform noise ``[S, B, units]``."""
        rate = self.config.dropout
        return [(u >= rate).to(u.dtype) / (1.0 - rate) for u in uniform.split(self.config.hidden, -1)]

    def _penalty(self, batch: Batch, act: Tensor) -> Tensor:
        """Mean of P(s, a) over the batch, ``[S]``, at ``act [S, B, A]``."""
        c = self.config
        unit = c.vae_beta / (2.0 * self.problem.n_act)
        if c.density == "gaussian":
            log_prob: Tensor = frozen(self.behaviour, batch.obs).log_prob(act)
            return -unit * log_prob.mean(-1)
        coded = frozen(self.vae, batch.obs, act, batch.noise["latent"])
        if c.density == "elbo":
            return vae_loss(act, *coded, beta=c.vae_beta)
        return -unit * self.log_mean_weight(act, batch.noise["latent"], *coded).mean(-1)

    def log_mean_weight(
        self, act: Tensor, noise: Tensor, decoded: Tensor, z: Tensor, mean: Tensor, log_std: Tensor
    ) -> Tensor:
        """Importance-sampling estimate ``[S, B]`` of ln p(a | s), without the decoder's constant.

        Args:
            act: a, ``[S, B, A]``.
            noise: standard normal, ``[S, B, L, Z]``, from which the auto-encoder drew ``z``.
            decoded: what it made of ``z``, ``[S, B, L, A]``.
            z: latents, ``[S, B, L, Z]``.
            mean: of the posterior, ``[S, B, Z]``.
            log_std: ln sigma of the posterior, ``[S, B, Z]``.
        """
        error = (decoded - act.unsqueeze(2)).square().sum(-1)  # [S, B, L]
        log_ratio = 0.5 * (noise.square() - z.square()).sum(-1) + log_std.sum(-1).unsqueeze(-1)
        log_weight = log_ratio - 2.0 / self.config.vae_beta * error
        return torch.logsumexp(log_weight, -1) - math.log(noise.shape[2])


def _check(config: SPOTConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name, low in (("penalty", 0.0), ("n_samples", 1)):
        if getattr(config, name) < low:
            raise UserError(f"{name} must be at least {low:g}, got {getattr(config, name)}.")
    for name in ("actor_learning_rate", "actor_last_bound", "critic_last_bound"):
        value = getattr(config, name)
        if value is not None and not value > 0.0:
            raise UserError(f"{name} must be above 0 or None, got {value}.")
    if config.actor != "deterministic" and config.actor_last_bound is not None:
        raise UserError("actor_last_bound is of the deterministic policy; leave it out with another.")
    if not 0.0 <= config.dropout < 1.0:
        raise UserError(f"dropout must be at least 0 and below 1, got {config.dropout}.")
