"""Value Flows. Dong, Zheng, Finn, Sadigh, Eysenbach 2025, arXiv 2510.07650.

The distribution of the return is that of z_1, carried by a flow dz/dt = u(z, t | s, a) from z_0 ~ N(0, 1).
Write phi_t(eps | s, a) for where Euler steps of the target flow bring eps at time t, phi_1 clipped to the
returns that the recorded rewards allow. Doses are chosen among candidates that a second flow v, fitted to the
recorded doses, proposes. With members u_e of the ensemble, phi and ubar means over the target members, eps,
eps' ~ N(0, 1) and t ~ U[0, 1]:

    L_flow = E [ (v(s, x_t, t) - (a - x_0))^2 ],   x_t = (1 - t) x_0 + t a,   x_0 ~ N(0, I)
    a'     = argmax over N candidates of Q(s', .),      Q(s, a) = mean_e u_e(0, 0 | s, a), clipped
    y, z'  = r + gamma (1 - d) phi_1(eps | s', a'),   phi_t(eps | s', a')
    BCFM   = sum_e (u_e((1 - t) eps + t y, t | s, a) - (y - eps))^2
    DCFM   = sum_e (u_e(r + gamma z', t | s, a) - gamma ubar(z', t | s', a'))^2
    L_u    = E [ w (lambda_b BCFM + lambda_d DCFM) ],      w = sigmoid(-T / |d phi_1 / d eps'|(s, a)) + 1/2

DCFM is absent where the episode ended: there is no z'. Its target is the velocity of the path it follows: z'
moves by ubar, so r + gamma z' moves by gamma ubar. The same comes from the continuity equation: the density
p(z, t) = p'((z - r) / gamma, t) / gamma has dp/dt = - d(p u)/dz for u(z, t) = gamma ubar((z - r) / gamma, t).
The released code regresses on ubar without gamma, at ends of episodes too. The path of DCFM
starts at r + gamma N(0, 1), not at N(0, 1) where the flow is started, so that DCFM alone fits no flow that is
used and both terms together are a compromise: with lambda_d = 0 the fixed point is the distribution of the
return.

u(eps, 0 | s, a) + eps is the mean return for every eps where u fits BCFM (z_0 and z_1 are drawn apart); the
released code draws eps, and its argmax follows that noise; here it is 0. The released code also clips both
flows after every step, which bends them; here their ends are clipped. Its one-step policy, for learning
online, is not part of this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.candidates import CandidateSettings, best_of_candidates, candidate_noise, generated
from dosing.models.flows import Velocity, matching_loss, spread
from dosing.models.losses import target_copy, td_target
from dosing.models.networks import Initialiser, Mlp
from dosing.models.optimisers import adam_each
from dosing.models.return_distributions import LEVELS, ReturnRange, best, midpoints, pooled, preferences
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class ValueFlowsConfig(CandidateSettings):
    """Settings of Value Flows: widths and discount of the treatment simulators, the rest as published.

    The paper's experiments use four hidden layers of 512, a discount of 0.99 (0.995 on long tasks), and
    lambda_b between 0.3 and 10 and T between 0.03 and 100 by task.
    """

    discount: float = 0.9
    """gamma, below 1: 0.9 on the treatment simulators, 0.99 on MuJoCo."""
    bootstrapped: float = 1.0
    """lambda_b, weight of BCFM, which ties the flow to where it starts."""
    distributional: float = 1.0
    """lambda_d, weight of DCFM; 0 leaves plain flow matching on drawn returns. At 1 the mean return of two
    fair coins, the second discounted by 1/2, was learned as 0.62 in place of 0.75; without it as 0.77."""
    confidence_temperature: float = 0.3
    """T: large takes weight from rows with a narrow distribution of the return, at most a half; 0 takes
    none."""
    return_steps: int = 10
    """Euler steps of the flow of the return; few narrow the distribution: that of the two coins above, of
    standard deviation 0.56, was learned with 0.49 by ten steps and with 0.46 by five."""


class ReturnFlow(nn.Module):
    """Ensemble of velocities u_e(z, t | s, a) of the return; GELU units, Glorot weights, normalised after.

    Args:
        init: initialiser of the S seeds.
        problem: sizes.
        hidden: hidden widths.
    """

    def __init__(self, init: Initialiser, problem: Problem, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.members = init.regularisation.critics or 2
        self.net = Mlp(
            init,
            [problem.n_obs + problem.n_act + 2, *hidden, 1],
            members=self.members,
            scheme="xavier",
            activation="gelu",
            layer_norm=True,
            norm_after=True,
        )

    def forward(self, obs: Tensor, act: Tensor, z: Tensor, time: Tensor) -> Tensor:
        """Velocities ``[S, E, B]`` at ``obs [S, B, O]``, ``act [S, B, A]``, ``z [S, E, B]``, ``time [S, B]``.

        A ``z [S, 1, B]`` is that of every member.
        """
        shared = torch.cat((obs, act, time.unsqueeze(-1)), -1).unsqueeze(1).expand(-1, self.members, -1, -1)
        own = z.expand(-1, self.members, -1).unsqueeze(-1)
        velocity: Tensor = self.net(torch.cat((shared, own), -1)).squeeze(-1)
        return velocity

    def carried(self, obs: Tensor, act: Tensor, noise: Tensor, until: Tensor, steps: int) -> Tensor:
        """Where ``noise [S, E or 1, B]`` is at ``until [S, B]`` after equal Euler steps, ``[S, E, B]``."""
        z, size = noise, until / steps
        for step in range(steps):
            z = z + size.unsqueeze(1) * self(obs, act, z, step * size)
        return z


class ValueFlows(Agent):
    """S stacked seeds of Value Flows over candidates of a behaviour flow."""

    about = About(
        paper="Dong, Zheng, Finn, Sadigh, Eysenbach 2025, arXiv 2510.07650",
        family="best of a flow's draws",
        support="point_set",
        checked="value-flows with its factor gamma, 0",
    )

    rewards = "fixed"

    def __init__(self, init: Initialiser, problem: Problem, config: ValueFlowsConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        if init.regularisation.dose_quadratic:
            raise UserError("dose_quadratic: the velocity of a return cannot be quadratic in the dose.")
        if init.regularisation.prior != "none":
            raise UserError(
                "Value Flows chooses among imitated doses, none of which can start at a prior dose."
            )
        self.config = config
        self.pessimism = init.regularisation.pessimism
        self.range = ReturnRange(init, config.discount)
        self.critic = ReturnFlow(init, problem, config.hidden)
        self.flow = Velocity(init, problem, config.hidden, layer_norm=True)
        self.critic_target = target_copy(self.critic)
        self.optimizers = adam_each(config.learning_rate, critic=self.critic, flow=self.flow)

    def prepare(self, dataset: Dataset) -> None:
        """Fix the range of returns by the recorded rewards, once."""
        super().prepare(dataset)
        self.range.take(dataset)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Where the flows of returns and doses start, in the losses and for the next candidates."""
        return {
            **candidate_noise(batch_size, self.problem.n_act, self.config.candidates),
            "return": Noise("normal", (batch_size,)),
            "return_time": Noise("uniform", (batch_size,)),
            "confidence": Noise("normal", (batch_size,)),
        }

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        """Q ``[S, B]`` of ``act [S, B, A]`` at ``obs [S, B, O]``."""
        zero = torch.zeros_like(obs[..., 0])
        return pooled(self.range.clip(self.critic(obs, act, zero.unsqueeze(1), zero)), self.pessimism)

    def proposed(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Doses ``[S, B, M, A]`` of the behaviour flow and their Q ``[S, B, M]``.

        Args:
            obs: ``[S, B, O]``.
            noise: standard normal, ``[M, A]`` for all states, or ``[S, B, M, A]``.
        """
        act = generated(self.flow, obs, noise, self.config.flow_steps)
        return act, preferences(self.value, obs, act, self.critic.members)

    def policy(self, obs: Tensor) -> Distribution:
        """The best of N candidates: doses of the behaviour flow with the probability that each is chosen."""
        return best_of_candidates(self.proposed, obs, self.problem.n_act, self.config.candidates)

    def returns(self, obs: Tensor, act: Tensor) -> Tensor:
        """Ends of the flow from the normal distribution's ``LEVELS`` quantiles, mean over the ensemble.

        The flow keeps the order of its starts, so these are quantiles of the return.
        """
        seeds, batch = obs.shape[:2]
        start = torch.special.ndtri(midpoints(LEVELS, obs)).unsqueeze(-1)

        def push(rows: Tensor, noise: Tensor) -> Tensor:
            state, dose = rows.split((obs.shape[-1], act.shape[-1]), -1)
            return self._ends(self.critic, state, dose, noise.squeeze(-1))

        return spread(push, torch.cat((obs, act), -1), start).view(seeds, batch, LEVELS)

    def _ends(self, critic: ReturnFlow, obs: Tensor, act: Tensor, noise: Tensor) -> Tensor:
        """phi_1 ``[S, B]`` from ``noise [S, B]``, mean over the members."""
        end = critic.carried(obs, act, noise.unsqueeze(1), torch.ones_like(noise), self.config.return_steps)
        return self.range.clip(end).mean(1)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic`` and ``flow``, each ``[S]``."""
        c, noise = self.config, batch.noise
        eps, time = noise["return"], noise["return_time"]
        critic, old = self.critic, self.critic_target
        with torch.no_grad():
            weight, deviation = self._confidence(batch)
            next_act = best(*self.proposed(batch.next_obs, noise["candidates"]))
            end = self._ends(old, batch.next_obs, next_act, eps)
            end = td_target(batch.reward, batch.terminated, c.discount, end)
            future = old.carried(batch.next_obs, next_act, eps.unsqueeze(1), time, c.return_steps).mean(1)
            velocity = old(batch.next_obs, next_act, future.unsqueeze(1), time).mean(1)
            moved = td_target(batch.reward, batch.terminated, c.discount, future)
            velocity = c.discount * (1.0 - batch.terminated) * velocity
            goes_on = (batch.terminated < 1.0).to(eps.dtype)
        between = torch.lerp(eps, end, time).unsqueeze(1)
        straight = critic(batch.obs, batch.act, between, time) - (end - eps).unsqueeze(1)
        carried = critic(batch.obs, batch.act, moved.unsqueeze(1), time) - velocity.unsqueeze(1)
        bcfm, dcfm = straight.square().sum(1), goes_on * carried.square().sum(1)  # [S, B]
        losses = {
            "critic": (weight * (c.bootstrapped * bcfm + c.distributional * dcfm)).mean(-1),
            "flow": matching_loss(self.flow, batch.obs, batch.act, noise["start"], noise["time"]),
        }
        return losses, {"deviation": deviation.mean(-1), "weight": weight.mean(-1)}

    def _confidence(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weight w and |d phi_1 / d eps'| of the recorded doses, each ``[S, B]``."""
        c, old, one = self.config, self.critic_target, torch.ones_like(batch.reward)
        start = batch.noise["confidence"].unsqueeze(1).expand(-1, old.members, -1)

        def end(start: Tensor) -> Tensor:
            return old.carried(batch.obs, batch.act, start, one, c.return_steps).sum()

        slope = torch.func.grad(end)(start)  # [S, E, B]: rows and members do not mix
        deviation = slope.abs().mean(1)
        return torch.sigmoid(-c.confidence_temperature / deviation) + 0.5, deviation


def _check(config: ValueFlowsConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    for name in ("return_steps", "candidates", "flow_steps"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}.")
    for name in ("distributional", "confidence_temperature"):
        if getattr(config, name) < 0.0:
            raise UserError(f"{name} must be at least 0, got {getattr(config, name)}.")
    if not config.bootstrapped > 0.0:
        raise UserError(f"bootstrapped must be above 0: it alone starts the flow, got {config.bootstrapped}.")
