"""FtTPO, fat-to-thin policy optimization. Zhu, Wang, Nagai 2025, arXiv 2501.14373 (ICLR 2025).

A policy of bounded support cannot be fitted to recorded doses by likelihood: one dose outside makes it -inf.
So a heavy-tailed *proposal* pi_phi (q-Gaussian, q > 1) is fitted to the data with a weight that cuts off bad
doses, and a bounded *actor* pi_theta (q-Gaussian, q < 1) of the same mean follows the proposal by reverse KL,
on its own samples only. With tau the temperature and exp_0(x) = [1 + x]_+:

    L_V     = E_s 1/2 (V(s) - min_i Qbar_i(s, a~))^2,                                   a~ ~ pi_theta(.|s)
    L_Q     = 1/2 sum_i E 1/2 (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2,   a' ~ pi_theta(.|s')
    L_phi   = - E_D [ w ln pi_phi(a|s) ],   w = min(exp_0((min_i Q_i(s, a) - V(s)) / tau), clip)
    L_theta = E_s [ - H(pi_theta(.|s)) - E_{a ~ pi_theta} ln pi_phi(a|s) ],   phi frozen, path through a kept

All four are taken at the same parameters and stepped together; target critics follow by Polyak averaging.

The support [m - h, m + h] stays inside the hard limits by parametrisation: m = tanh(.), and the half-width is
h = u (1 - |m|) with u in (0, 1), so nothing is ever clipped and the density is exact. With ``share_mean`` the
actor reads the proposal's trunk and mean and owns its width only; that is the limit of copying trunk and mean
before every actor step, without the discarded step in between. The entropy H is in closed form.

Every published proposal and actor loss is a setting. Where the released code (github.com/lingweizhu/fat2thin)
does not compute what its name says, ``actor_loss`` is what the name says; ``agents.fttpo_released`` is the
released code as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from dosing.agent import Agent
from dosing.distributions.q_exponential import exp_q
from dosing.distributions.q_gaussian import (
    QGaussian,
    from_uniform,
    n_uniforms,
    standard_log_prob,
    support_radius,
)
from dosing.distributions.quadrature import least_divergence_scale, standard_nodes
from dosing.distributions.univariate import Univariate
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic, Value, frozen
from dosing.models.losses import target_copy, td_loss, td_target
from dosing.models.networks import Initialiser, Linear, Mlp
from dosing.models.optimisers import adam
from dosing.models.policy_heads import EDGE, MEAN_LIMIT, MIN_WIDTH, sparse_distribution
from dosing.models.prior import Centred
from dosing.models.proposal import Proposal, ProposalFamily
from dosing.models.settings import CriticSettings
from dosing.types import About, Noise, Problem

GAUSSIAN_LOG_STD = (-5.0, 2.0)
"""Bounds of the Gaussian actor's log scale, those of every clipped Gaussian of the suite."""
MAX_RATIO = 1e4
"""Largest density ratio in the ratio loss, as published."""
INNER = 0.999
"""Share of the half-width within which a bounded density is evaluated at doses it did not just draw."""
LOG_OUTSIDE = -30.0
"""Log-density that ``tawac`` gives a recorded dose outside the actor's support (Zhu et al. 2025)."""

ActorLoss = Literal[
    "reverse_kl",
    "quadrature_kl",
    "closed_form_width",
    "detached_k3",
    "max_likelihood",
    "copy_mu",
    "spot",
    "gac",
    "tawac",
]


@dataclass(frozen=True)
class FtTPOConfig(CriticSettings):
    """Settings of FtTPO; defaults from the paper's treatment experiment (temperature of its figure)."""

    temperature: float = 0.1
    """tau: recorded doses whose advantage is below -tau get weight zero; large imitates, small is greedy."""
    q_proposal: float = 2.0
    """Index of the q-Gaussian proposal, 1 <= q < 3: 2 is a Cauchy distribution, 1 a Gaussian."""
    q_actor: float = 0.0
    """Index of the sparse actor, q < 1; 0 is a parabola, towards 1 bell-shaped, below 0 flatter."""
    weight_clip: float = 1e4
    """Largest weight a recorded dose can have."""
    bootstrap: Literal["actor", "proposal"] = "actor"
    """Policy whose action the critic target uses; the released code uses the proposal."""
    actor_loss: ActorLoss = "reverse_kl"
    """How the actor follows the proposal. reverse_kl: by draws; quadrature_kl: the same loss without draws;
    closed_form_width: its minimum, no training. Ablations: detached_k3, the released loss between exact
    densities, fills the box; max_likelihood, -ln pi_phi of its draws with a mean of its own, copy_mu, the
    same with the proposal's mean, spot, -Q / mean |Q| - tau ln pi_phi of its draws, and gac, likelihood of
    its own best draws - tau ln pi_phi of its draws, narrow without end; tawac is the weighted likelihood of
    recorded doses, and learns nothing from those outside its support."""
    share_mean: bool = True
    """The actor shares the proposal's trunk and mean; otherwise it owns both. max_likelihood always owns."""
    proposal: ProposalFamily = "q_gaussian"
    """Distribution of the proposal: q_gaussian of index q_proposal; squashed_gaussian (FtTPO-SG); student_t
    with learned degrees of freedom."""
    actor: Literal["sparse", "gaussian"] = "sparse"
    """Distribution of the actor; gaussian is its counterpart with tails, the same networks fitted the same
    way and clipped when executed."""
    nodes: int = 32
    """Quadrature nodes of quadrature_kl per dose dimension: 32 are exact to 1e-9 beside the default proposal;
    a Gaussian actor needs 128 for 1e-6."""
    spot_density: Literal["proposal", "behaviour"] = "proposal"
    """pi_phi in spot: the proposal, weighted towards good doses, or SPOT's: a further distribution of its
    kind, fitted to all recorded doses alike."""
    rho: float = 0.2
    """Share of the candidates that gac keeps."""
    candidates: int = 10
    """Draws per state of which gac keeps the best."""

    @property
    def owns_mean(self) -> bool:
        """Whether the actor has a trunk and a mean of its own."""
        return not self.share_mean or self.actor_loss == "max_likelihood"


class Actor(nn.Module):
    """The deployed distribution: a width of its own, and unless shared a trunk and mean of its own."""

    def __init__(self, init: Initialiser, problem: Problem, config: FtTPOConfig) -> None:
        super().__init__()
        self.q = 1.0 if config.actor == "gaussian" else config.q_actor
        width = (problem.n_obs, *config.hidden)[-1]
        if config.owns_mean:
            self.trunk = Mlp(init, [problem.n_obs, *config.hidden], scheme="xavier", activate_last=True)
            self.mean = Linear(init, width, problem.n_act, scheme="xavier")
            self.prior = Centred(init, problem.n_act, self.mean.bias)
        if config.actor_loss != "closed_form_width":
            self.width = Linear(init, width, problem.n_act, scheme="xavier")
        else:
            self.ratio = least_divergence_scale(self.q, config.q_proposal)

    def distribution(self, features: Tensor, mean: Tensor) -> QGaussian:
        """Per-dimension distribution around ``mean [S, B, A]``; a sparse one stays inside the open box."""
        raw: Tensor = self.width(features)
        if self.q < 1.0:
            return sparse_distribution(mean, raw, self.q)
        return QGaussian(mean, torch.exp(raw.clamp(*GAUSSIAN_LOG_STD)), self.q, validate_args=False)

    def beside(self, mean: Tensor, scale: Tensor) -> QGaussian:
        """Least divergence from a q-Gaussian proposal, as far as its width fits into the box."""
        scale = self.ratio * scale
        if self.q < 1.0:
            room = (1.0 - mean.abs()) / support_radius(self.q)
            scale = torch.maximum(torch.minimum(scale, (1.0 - MIN_WIDTH) * room), MIN_WIDTH * room)
        return QGaussian(mean, scale, self.q, validate_args=False)


class ActorTerms(NamedTuple):
    """What an actor loss is made of; draws and distributions are ``[S, B, A]``."""

    batch: Batch
    distribution: QGaussian
    """The actor's distribution."""
    act: Tensor
    """One draw of it, pathwise."""
    log_act: Tensor
    """Its log-density, per dimension."""
    proposal: Univariate
    """The proposal, or SPOT's density, with its parameters frozen; the path from a dose into it is kept."""
    weight: Tensor
    """The weight ``[S, B]`` of the recorded doses, a constant."""


class FtTPO(Agent):
    """S stacked seeds of FtTPO."""

    about = About(
        paper="Zhu, Wang, Nagai 2025, arXiv 2501.14373",
        family="sparse q-Gaussian",
        support="interval",
        checked="its oracle alone; the released code has other losses",
    )

    nodes: Tensor
    weights: Tensor

    def __init__(self, init: Initialiser, problem: Problem, config: FtTPOConfig) -> None:
        super().__init__(problem, init.seeds)
        check(config)
        self.config = config
        n_obs, n_act, hidden = problem.n_obs, problem.n_act, config.hidden
        self.proposal = Proposal(init, problem, config.hidden, config.proposal, config.q_proposal)
        self.actor = Actor(init, problem, config)
        self.critic = Critic(init, n_obs, n_act, hidden, scheme="xavier")
        self.value = Value(init, n_obs, hidden, scheme="xavier")
        self.critic_target = target_copy(self.critic)
        trained = [self.proposal, self.actor, self.critic, self.value]
        if config.spot_density == "behaviour":
            self.behaviour = Proposal(init, problem, hidden, config.proposal, config.q_proposal)
            trained.append(self.behaviour)
        self.optimizers = {
            "all": adam([p for module in trained for p in module.parameters()], config.learning_rate)
        }
        if config.actor_loss == "quadrature_kl":
            for name, values in zip(
                ("nodes", "weights"), standard_nodes(self.actor.q, config.nodes), strict=True
            ):
                column = torch.as_tensor(values, dtype=init.dtype, device=init.device).view(-1, 1, 1, 1)
                self.register_buffer(name, column, persistent=False)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of the actor's action for V and L_theta, and of the next action for the critic."""
        n_act, c = self.problem.n_act, self.config
        own = n_uniforms(self.actor.q)
        following = own if c.bootstrap == "actor" else self.proposal.n_uniforms
        drawn = {
            "act": Noise("uniform", (batch_size, n_act, own)),
            "next_act": Noise("uniform", (batch_size, n_act, following)),
        }
        if c.actor_loss == "gac":
            drawn["candidates"] = Noise("uniform", (batch_size, c.candidates, n_act, own))
        return drawn

    def _actor_distribution(self, obs: Tensor, features: Tensor) -> QGaussian:
        """The actor's distribution at ``obs``, given the proposal's trunk ``features`` there."""
        if self.config.actor_loss == "closed_form_width":
            return self.actor.beside(*(x.detach() for x in self.proposal.parameters_at(features)))
        if not self.config.owns_mean:
            return self.actor.distribution(features.detach(), self.proposal.location(features).detach())
        own = self.actor.trunk(obs)
        return self.actor.distribution(own, MEAN_LIMIT * torch.tanh(self.actor.prior(self.actor.mean(own))))

    def policy(self, obs: Tensor) -> Distribution:
        """The actor; a sparse one has exactly zero density outside [m - h, m + h], inside the limits."""
        return Independent(self._actor_distribution(obs, self.proposal.trunk(obs)), 1, validate_args=False)

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """The proposal the actor was distilled from."""
        distribution = self.proposal.at(self.proposal.trunk(obs))
        return {"proposal": Independent(distribution, 1, validate_args=False)}

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value``, ``proposal``, ``actor`` (unless in closed form), each ``[S]``."""
        c = self.config
        features = self.proposal.trunk(batch.obs)
        parameters = self.proposal.parameters_at(features)
        proposal = self.proposal.distribution(*parameters)
        actor = self._actor_distribution(batch.obs, features)
        act, log_act = actor.rsample_with_log_prob(batch.noise["act"])  # [S, B, A], pathwise

        with torch.no_grad():
            next_features = self.proposal.trunk(batch.next_obs)
            if c.bootstrap == "actor":
                next_distribution: Univariate = self._actor_distribution(batch.next_obs, next_features)
            else:
                next_distribution = self.proposal.at(next_features)
            next_act = next_distribution.rsample_from(batch.noise["next_act"]).clamp(-1.0, 1.0)  # as executed
            bootstrap = self.critic_target.pessimistic(batch.next_obs, next_act)  # [S, B]
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)
            baseline = self.critic_target.pessimistic(batch.obs, act.detach().clamp(-1.0, 1.0))

        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        v = self.value(batch.obs)  # [S, B]
        with torch.no_grad():
            advantage = self.scaled(self.critic.lower(q) - v)
            weight = exp_q(advantage / c.temperature, 0.0).clamp(max=c.weight_clip)

        recorded = batch.act
        if c.proposal == "squashed_gaussian":  # its density ends at the limits
            recorded = recorded.clamp(-1.0 + EDGE, 1.0 - EDGE)
        losses = {
            "critic": 0.25 * td_loss(q, target),
            "value": 0.5 * (v - baseline).square().mean(-1),
            "proposal": -(weight * proposal.log_prob(recorded).sum(-1)).mean(-1),
        }
        if c.spot_density == "behaviour":
            parameters = self.behaviour.parameters_at(self.behaviour.trunk(batch.obs))
            likelihood = self.behaviour.distribution(*parameters).log_prob(recorded).sum(-1)
            losses["behaviour"] = -likelihood.mean(-1)
        if c.actor_loss != "closed_form_width":
            fixed = self.proposal.distribution(*(x.detach() for x in parameters))
            step = ActorTerms(batch, actor, act, log_act, fixed, weight)
            losses["actor"] = self.ACTOR_LOSSES[c.actor_loss](self, step).mean(-1)
        metrics = {
            "q": q.detach().mean((1, 2)),
            "weight/zero_share": (weight == 0.0).to(q.dtype).mean(-1),
            "half_width" if actor.q < 1.0 else "scale": self._spread(actor).mean((1, 2)),
        }
        return losses, metrics

    @staticmethod
    def _spread(distribution: QGaussian) -> Tensor:
        """Half-width of a bounded distribution, scale of another, ``[S, B, A]``."""
        return distribution.scale.detach() * (distribution.radius if distribution.q < 1.0 else 1.0)

    # Actor losses, each [S, B]

    def _reverse_kl(self, step: ActorTerms) -> Tensor:
        """KL(pi_theta || pi_phi) by one draw: - H - ln pi_phi(a)."""
        return -(step.distribution.entropy() + step.proposal.log_prob(step.act)).sum(-1)

    def _quadrature_kl(self, step: ActorTerms) -> Tensor:
        """The same divergence as a sum of one-dimensional integrals, without noise."""
        points = step.distribution.loc + step.distribution.scale * self.nodes  # [K, S, B, A]
        average = (self.weights * step.proposal.log_prob(points)).sum(0)
        return -(step.distribution.entropy() + average).sum(-1)

    def _detached_k3(self, step: ActorTerms) -> Tensor:
        """Ratio loss r - 1 - ln r, r = pi_phi / pi_theta, ln pi_phi a constant: no width is ever enough."""
        log_ratio = (step.proposal.log_prob(step.act.detach()) - step.log_act).sum(-1)
        return torch.exp(log_ratio).clamp(max=MAX_RATIO) - 1.0 - log_ratio

    def _max_likelihood(self, step: ActorTerms) -> Tensor:
        """- ln pi_phi(a): seeks the proposal's mode, so the width shrinks to its bound."""
        return -step.proposal.log_prob(step.act).sum(-1)

    def _spot(self, step: ActorTerms) -> Tensor:
        """- min_i Q_i(s, a) / c - tau ln pi_phi(a), c the batch's mean of |min_i Q_i(s, a)|, a constant.

        The released code divides by V(s), whose sign can turn the loss round, and detaches ln pi_phi.
        """
        q = self.critic.lower(frozen(self.critic, step.batch.obs, step.act.clamp(-1.0, 1.0)))  # [S, B]
        size = q.detach().abs().mean(-1, keepdim=True)
        loss: Tensor = -q / size - self.config.temperature * step.proposal.log_prob(step.act).sum(-1)
        return loss

    def _gac(self, step: ActorTerms) -> Tensor:
        """- mean over the best draws of ln pi_theta - tau ln pi_phi(a), the second with its path kept.

        The best floor(rho K) of K draws by min_i Q_i are constants. A bounded density is taken at no more
        than ``INNER`` of the half-width: beyond, its slope has no bound.
        """
        c, distribution = self.config, step.distribution
        loc, scale = distribution.loc.unsqueeze(2), distribution.scale.unsqueeze(2)  # [S, B, 1, A]
        with torch.no_grad():
            z = from_uniform(step.batch.noise["candidates"], distribution.q)  # [S, B, K, A]
            drawn = (loc + scale * z).clamp(-1.0, 1.0).flatten(1, 2)
            obs = step.batch.obs.unsqueeze(2).expand(-1, -1, c.candidates, -1).flatten(1, 2)
            values = self.critic.pessimistic(obs, drawn).unflatten(1, (-1, c.candidates))  # [S, B, K]
            best = values.topk(kept(c), dim=-1).indices
            z = z.gather(2, best.unsqueeze(-1).expand(-1, -1, -1, z.shape[-1]))
        live = ((loc.detach() - loc) + scale.detach() * z) / scale  # z, with the slope of a constant dose
        edge = INNER * distribution.radius
        likelihood = standard_log_prob(live.clamp(-edge, edge), distribution.q, scale.log()).sum(-1).mean(-1)
        return -likelihood - c.temperature * step.proposal.log_prob(step.act).sum(-1)

    def _tawac(self, step: ActorTerms) -> Tensor:
        """- w ln pi_theta(a) of recorded doses; one outside the support counts as ``LOG_OUTSIDE``.

        No gradient leads a support towards the doses outside. In the released code none reaches the actor.
        """
        distribution, act = step.distribution, step.batch.act
        inside = ((act - distribution.loc).abs() < INNER * distribution.radius * distribution.scale).all(-1)
        return -step.weight * torch.where(inside, distribution.log_prob(act).sum(-1), LOG_OUTSIDE)

    ACTOR_LOSSES: ClassVar[dict[str, Callable[[FtTPO, ActorTerms], Tensor]]] = {
        "reverse_kl": _reverse_kl,
        "quadrature_kl": _quadrature_kl,
        "detached_k3": _detached_k3,
        "max_likelihood": _max_likelihood,
        "copy_mu": _max_likelihood,
        "spot": _spot,
        "gac": _gac,
        "tawac": _tawac,
    }


def kept(config: FtTPOConfig) -> int:
    """How many candidates gac keeps: floor(rho K)."""
    return math.floor(config.rho * config.candidates + 1e-9)


def check(config: FtTPOConfig) -> None:
    """Refuse settings that do not make a method.

    Raises:
        UserError: a number is out of range, or two choices exclude each other.
    """
    c = config
    if not c.q_actor < 1.0:
        raise UserError(f"q_actor must be below 1 for a bounded dose set, got {c.q_actor}.")
    if not 1.0 <= c.q_proposal < 3.0:
        raise UserError(f"q_proposal must be at least 1 and below 3, got {c.q_proposal}.")
    if c.spot_density == "behaviour" and c.actor_loss != "spot":
        raise UserError(f"spot_density 'behaviour' needs actor_loss 'spot', got {c.actor_loss!r}.")
    if c.candidates < 1 or not 1 <= kept(c) <= c.candidates:
        raise UserError(f"rho must keep 1 to all of the candidates, got rho {c.rho} of {c.candidates}.")
    if c.actor == "gaussian" and c.proposal == "squashed_gaussian":
        raise UserError(
            "actor 'gaussian' draws outside the box, where the proposal 'squashed_gaussian' has no density; "
            "choose the proposal q_gaussian or student_t."
        )
    if c.actor_loss == "copy_mu" and not c.share_mean:
        raise UserError("actor_loss 'copy_mu' means the proposal's mean: leave share_mean on.")
    if c.actor_loss == "closed_form_width" and (c.proposal != "q_gaussian" or not c.share_mean):
        raise UserError(
            "actor_loss 'closed_form_width' needs a q_gaussian proposal and share_mean: other "
            "distributions have no one ratio of widths."
        )
