"""FAN, flow-anchored noise-conditioned Q-learning, and its three ablations: FAQL, NBRAC and NFQL.

Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663 (ICML 2026). A one-step map f of noise to a
dose is held at the recorded doses by the velocity v of a flow that imitates them, taken at one time instead
of along the flow; and a critic is told the noise that made the next dose. All noise is standard normal, u
uniform, n the number of dose dimensions. With eps' one noise for the next dose, its charge and the critic:

    a'     = clip(f(s', eps'), -1, 1),     x = (1 - u) eps' + u a'
    b      = |a' - eps' - v(s', x, u)|^2
    y      = r + gamma (1 - d) (agg_j Z_j(s', a') - alpha_2 b)                               agg: mean or min
    L_Q    = mean_i E [ (y - Q_i(s, a, eps'))^2 ]
    L_Z    = mean_j E [ |kappa - 1{w < 0}| w^2 ],     w = mean_i Qbar_i(s, a, eps) - Z_j(s, a)

    L_flow = E |v(s, (1 - u) x_0 + u a, u) - (a - x_0)|^2 / n
    L_pi   = alpha_1 E |f - eps - v(s, (1 - u) eps + u f, u)|^2 / n,     f = f(s, eps)
             - E [ mean_i Q_i(s, clip(f, -1, 1), xi) ] - E [ mean_j Z_j(s, clip(f, -1, 1)) ]

The gradient of L_pi reaches f alone, also through where v is taken. One Adam step is taken on the sum; then
the target critics Qbar follow by Polyak averaging. The ablations change one part each:

    FAQL    an ordinary critic: Q(s, a) with agg_j Qbar_j(s', a') in y; no Z, in L_pi neither
    NBRAC   ReBRAC's distance: b = |a' - a'_D|^2 to the recorded next dose, where there is one; in L_pi
            alpha_1 E |clip(f, -1, 1) - a|^2, a sum over dimensions; no flow
    NFQL    FQL's distillation: no b; in L_pi alpha E |f - F_10(s, eps)|^2 / n, F_10 the flow's end after
            ten Euler steps from eps

As published, alpha_1 multiplies a mean over dimensions (a sum in NBRAC) and alpha_2 a sum; L_pi climbs Q and
Z, so that values weigh twice what they weigh in FQL and in FAQL; and Z, which has no target network, is in
its own target. Not inherited from the released code: target critics that follow the parameters of before the
step, one update late; FAQL's critics seeing, in L_pi, doses outside the box; next doses of another episode.

What the noise-conditioned critic knows of chance: L_Q is a square, and eps' is drawn apart from r and s', so
Q(s, a, eps') is the mean over both. How Q varies with its noise is how the value of the *next visit* varies
with the policy's own draw there; the patient's response and the reward do not widen it. kappa prices that
variation: above 1/2 optimistic, as published; below 1/2 averse to the policy's own spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Aggregate, Critic, frozen
from dosing.models.flows import DRAWS, OneStep, Velocity, euler, matching_loss, points, spread
from dosing.models.losses import expectile_loss, target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.settings import CriticSettings
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class _Shared(CriticSettings):
    """What the four methods have in common."""

    aggregate: Aggregate = "mean"
    """What the target takes of the two members that value the next visit."""
    normalise_q: bool = False
    """Divide each value in the policy's loss by its mean size, so that the reward's scale has no say."""
    layer_norm: bool = True
    """Layer normalisation in the critics."""


@dataclass(frozen=True)
class FANConfig(_Shared):
    """Settings of FAN: widths, discount and alpha_1 of the treatment simulators, the rest as the paper.

    The paper's experiments use four hidden layers of 512, a discount of 0.995 (0.99 in D4RL) and per task
    (alpha_1, alpha_2): (3, 0.03) in D4RL's mazes, 1000 to 30000 and 0 to 10 in Adroit, both with
    ``aggregate`` min; 10 or 100 and 0 to 3 in OGBench, with mean.
    """

    actor_penalty: float = 2.0
    """alpha_1, on the distance from the flow in the policy's loss: large imitates; values weigh twice."""
    critic_penalty: float = 0.0
    """alpha_2, on the distance from the flow in the critics' target: large mistrusts other doses."""
    expectile: float = 0.9
    """kappa of Z over the noise of the next dose: above 0.5 optimistic, below 0.5 averse to its spread."""


@dataclass(frozen=True)
class FAQLConfig(_Shared):
    """Settings of FAQL: those of FAN without Z; the paper's tables give none of its own."""

    actor_penalty: float = 1.0
    """alpha_1, on the distance from the flow in the policy's loss: large imitates."""
    critic_penalty: float = 0.0
    """alpha_2, on the distance from the flow in the critics' target: large mistrusts other doses."""


@dataclass(frozen=True)
class NBRACConfig(_Shared):
    """Settings of NBRAC: the distances are ReBRAC's; the paper's tables give none of its own."""

    actor_penalty: float = 2.0
    """alpha_1, on the squared distance from the recorded dose: large imitates; values weigh twice."""
    critic_penalty: float = 0.0
    """alpha_2, on the squared distance from the recorded next dose: large mistrusts other doses."""
    expectile: float = 0.9
    """kappa of Z over the noise of the next dose: above 0.5 optimistic, below 0.5 averse to its spread."""


@dataclass(frozen=True)
class NFQLConfig(_Shared):
    """Settings of NFQL; the paper uses alpha of 30 to 1000 in OGBench."""

    actor_penalty: float = 2.0
    """alpha, on the squared distance from the flow's dose: large imitates; values weigh twice."""
    expectile: float = 0.9
    """kappa of Z over the noise of the next dose: above 0.5 optimistic, below 0.5 averse to its spread."""
    flow_steps: int = 10
    """Euler steps of the flow that is distilled."""


class FAN(Agent):
    """S stacked seeds of FAN."""

    about = About(
        paper="Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
        family="flow, one step",
        support="samples",
        checked="FAN, 6e-16",
    )

    draws: ClassVar[tuple[str, ...]] = (
        "next",
        "next_time",
        "dose",
        "dose_time",
        "upper",
        "value",
        "start",
        "time",
    )
    """Noise of an update: of the next dose, of the dose, of Z's target, of the critic that the policy climbs
    (``value``), and of the flow's start; with the times at which the flow is looked up."""

    def __init__(self, init: Initialiser, problem: Problem, config: _Shared) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config: Any = config
        n_obs, n_act, hidden = problem.n_obs, problem.n_act, config.hidden

        def critic(width: int) -> Critic:
            return Critic(
                init,
                width,
                n_act,
                hidden,
                scheme="xavier",
                activation="gelu",
                layer_norm=config.layer_norm,
                norm_after=True,
                aggregate=config.aggregate,
            )

        self.actor = OneStep(init, problem, hidden)
        trained: list[nn.Module] = [self.actor]
        if "start" in self.draws:
            self.flow = Velocity(init, problem, hidden)
            trained.append(self.flow)
        if "upper" in self.draws:
            self.upper = critic(n_obs)
            trained.append(self.upper)
        self.critic = critic(n_obs + n_act if "upper" in self.draws else n_obs)
        trained.append(self.critic)
        self.critic_target = target_copy(self.critic)
        parameters = [parameter for network in trained for parameter in network.parameters()]
        self.optimizers = {"joint": adam(parameters, config.learning_rate)}

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise per dose dimension, uniform times; see ``draws``."""
        normal = Noise("normal", (batch_size, self.problem.n_act))
        time = Noise("uniform", (batch_size, 1))
        return {name: time if name.endswith("time") else normal for name in self.draws}

    def policy(self, obs: Tensor) -> Distribution:
        """The clipped one-step map's distribution, by its draws; the published rule executes one."""
        return self.actor.distribution(obs)

    def noise_values(self, obs: Tensor, act: Tensor) -> Tensor:
        """Q(s, a, eps) at fixed points of the noise, mean of the critics, ``[S, B, K]``.

        The distribution of a mean, given the policy's own draw at the next visit, less what alpha_2 charges.
        It is narrower than that of the return, and therefore not offered as such.
        """

        def push(rows: Tensor, noise: Tensor) -> Tensor:
            at, dose = rows.split([self.problem.n_obs, self.problem.n_act], -1)
            q: Tensor = self.critic(_told(at, noise), dose)
            return q.mean(1)

        return spread(push, torch.cat((obs, act), -1), points(DRAWS, self.problem.n_act, obs))

    def value_of(self, obs: Tensor, act: Tensor) -> Tensor:
        """Mean of :meth:`noise_values`, ``[S, B]``."""
        return self.noise_values(obs, act).mean(-1)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``actor`` and, where they are, ``upper`` and ``flow``, each ``[S]``."""
        c, noise = self.config, batch.noise
        with torch.no_grad():
            next_act = self.actor(batch.next_obs, noise["next"]).clamp(-1.0, 1.0)
        losses = self.critic_losses(batch, next_act)
        free = self.actor(batch.obs, noise["dose"])  # [S, B, A]
        dose = free.clamp(-1.0, 1.0)
        distance, worth = self.distance(batch, free, dose), self.worth(batch, dose)
        losses["actor"] = c.actor_penalty * distance - worth
        if "start" in self.draws:
            losses["flow"] = matching_loss(self.flow, batch.obs, batch.act, noise["start"], noise["time"])
        return losses, {"distance": distance.detach(), "worth": worth.detach()}

    def critic_losses(self, batch: Batch, next_act: Tensor) -> dict[str, Tensor]:
        """L_Q and L_Z, ``[S]``, given the clipped next doses ``[S, B, A]``."""
        c, noise = self.config, batch.noise
        with torch.no_grad():
            bootstrap = self.upper.pessimistic(batch.next_obs, next_act) - self.charge(batch, next_act)
            target = td_target(batch.reward, batch.terminated, c.discount, bootstrap)  # [S, B]
            drawn = self.critic_target(_told(batch.obs, noise["upper"]), batch.act).mean(1)  # [S, B]
        q = self.critic(_told(batch.obs, noise["next"]), batch.act)  # [S, E, B]
        z = self.upper(batch.obs, batch.act)  # [S, E, B]
        return {
            "critic": (q - target.unsqueeze(1)).square().mean((1, 2)),
            "upper": expectile_loss(drawn.unsqueeze(1) - z, c.expectile).mean((1, 2)),
        }

    def charge(self, batch: Batch, next_act: Tensor) -> Tensor:
        """What alpha_2 charges for the next doses ``[S, B, A]``, ``[S, B]``."""
        noise, time = batch.noise["next"], batch.noise["next_time"]
        away = _off_flow(self.flow, batch.next_obs, next_act, noise, time)
        charge: Tensor = self.config.critic_penalty * away.square().sum(-1)
        return charge

    def distance(self, batch: Batch, free: Tensor, dose: Tensor) -> Tensor:
        """What alpha_1 weighs, ``[S]``, given the doses ``[S, B, A]`` before and after clipping."""
        noise, time = batch.noise["dose"], batch.noise["dose_time"]
        return _off_flow(self.flow, batch.obs, free, noise, time).square().mean((-2, -1))

    def worth(self, batch: Batch, dose: Tensor) -> Tensor:
        """What the policy's loss climbs at ``dose [S, B, A]``, ``[S]``."""
        told = _told(batch.obs, batch.noise["value"])
        return self._mean(self.critic, told, dose) + self._mean(self.upper, batch.obs, dose)

    def _mean(self, critic: Critic, obs: Tensor, dose: Tensor) -> Tensor:
        """Mean value over members and batch, ``[S]``, its gradient for the dose only."""
        values = frozen(critic, obs, dose).mean(1)  # [S, B]
        size = values.detach().abs().mean(-1) if self.config.normalise_q else 1.0
        mean: Tensor = values.mean(-1) / size
        return mean


class FAQL(FAN):
    """S stacked seeds of FAQL: FAN with an ordinary critic."""

    about = About(
        paper="Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
        family="flow, one step",
        support="samples",
        checked="FAN, 6e-16",
    )

    draws = ("next", "next_time", "dose", "dose_time", "start", "time")

    def critic_losses(self, batch: Batch, next_act: Tensor) -> dict[str, Tensor]:
        """L_Q, ``[S]``, given the clipped next doses ``[S, B, A]``."""
        with torch.no_grad():
            bootstrap = self.critic_target.pessimistic(batch.next_obs, next_act) - self.charge(
                batch, next_act
            )
            target = td_target(batch.reward, batch.terminated, self.config.discount, bootstrap)  # [S, B]
        q = self.critic(batch.obs, batch.act)  # [S, E, B]
        return {"critic": (q - target.unsqueeze(1)).square().mean((1, 2))}

    def value_of(self, obs: Tensor, act: Tensor) -> Tensor:
        """Q(s, a), ``[S, B]``, by the ensemble's aggregate."""
        return self.critic.pessimistic(obs, act)

    def worth(self, batch: Batch, dose: Tensor) -> Tensor:
        """What the policy's loss climbs at ``dose [S, B, A]``, ``[S]``."""
        return self._mean(self.critic, batch.obs, dose)


class NBRAC(FAN):
    """S stacked seeds of NBRAC: FAN with ReBRAC's distances."""

    about = About(
        paper="Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
        family="noise, one step",
        support="samples",
        checked="FAN, 4e-16",
    )

    draws = ("next", "dose", "upper", "value")
    needs: ClassVar[frozenset[str]] = frozenset({"next_act", "has_next"})

    def charge(self, batch: Batch, next_act: Tensor) -> Tensor:
        """What alpha_2 charges for the next doses ``[S, B, A]``, ``[S, B]``."""
        away = (next_act - batch.extra["next_act"]).square().sum(-1) * batch.extra["has_next"].squeeze(-1)
        charge: Tensor = self.config.critic_penalty * away
        return charge

    def distance(self, batch: Batch, free: Tensor, dose: Tensor) -> Tensor:
        """What alpha_1 weighs, ``[S]``, given the doses ``[S, B, A]`` before and after clipping."""
        return (dose - batch.act).square().sum(-1).mean(-1)


class NFQL(FAN):
    """S stacked seeds of NFQL: FAN with FQL's distillation."""

    about = About(
        paper="Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
        family="flow, one step",
        support="samples",
        checked="FAN, 5e-16",
    )

    draws = ("next", "dose", "upper", "value", "start", "time")

    def charge(self, batch: Batch, next_act: Tensor) -> Tensor:
        """No charge, ``[S, B]``."""
        return torch.zeros_like(batch.reward)

    def distance(self, batch: Batch, free: Tensor, dose: Tensor) -> Tensor:
        """What alpha weighs, ``[S]``, given the doses ``[S, B, A]`` before and after clipping."""
        with torch.no_grad():
            imitated = euler(self.flow, batch.obs, batch.noise["dose"], self.config.flow_steps)
        return (free - imitated).square().mean((-2, -1))


def _told(obs: Tensor, noise: Tensor) -> Tensor:
    """The critic's observation ``[S, B, O + A]``: the state and the noise."""
    return torch.cat((obs, noise), -1)


def _off_flow(flow: Velocity, obs: Tensor, dose: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """How the way from ``noise`` to ``dose [S, B, A]`` differs from the flow's velocity, ``[S, B, A]``."""
    velocity: Tensor = frozen(flow, obs, torch.lerp(noise, dose, time), time)
    return dose - noise - velocity


def _check(config: _Shared) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name in ("actor_penalty", "critic_penalty"):
        if getattr(config, name, 0.0) < 0.0:
            raise UserError(f"{name} must be at least 0, got {getattr(config, name)}.")
    expectile, steps = getattr(config, "expectile", 0.5), getattr(config, "flow_steps", 1)
    if not 0.0 < expectile < 1.0:
        raise UserError(f"expectile must be above 0 and below 1, got {expectile}.")
    if steps < 1:
        raise UserError(f"flow_steps must be at least 1, got {steps}.")
