"""C51, categorical Q-learning, offline. Bellemare, Dabney, Munos 2017, arXiv 1707.06887 (ICML 2017).

The distribution of the return is a probability p_i(s, a) of each of K atoms z_i, evenly spaced over the
returns that the recorded rewards allow; doses are chosen among candidates that a flow fitted to the recorded
doses proposes, as Dong et al. 2025 (arXiv 2510.07650) do for their baselines. With members p_e of the
ensemble and Delta the distance of two atoms:

    L_flow = E [ (v(s, x_t, t) - (a - x_0))^2 ],   x_t = (1 - t) x_0 + t a,   x_0 ~ N(0, I),  t ~ U[0, 1]
    a'     = argmax over N candidates of Q(s', .),      Q(s, a) = mean_e sum_i z_i p_e,i(s, a)
    m_i    = sum_j max(0, 1 - |clip(r + gamma (1 - d) z_j) - z_i| / Delta) mean_e pbar_e,j(s', a')    (eq. 7)
    L_p    = - mean_e E sum_i m_i ln p_e,i(s, a)

p is the softmax of the network's output. The released code takes the cross-entropy with that output in place
of ln p: a loss linear in it and without a bound. The atoms reach from r_min / (1 - gamma) to r_max / (1 -
gamma), as released, and to r_min and r_max themselves, the return of the last visit: where all rewards have
one sign, the released atoms leave it out. Episodes of few visits have returns in a small part of this range,
with few atoms. The released code also clips a candidate after every step of its flow, which bends the flow;
here the end is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.candidates import CandidateSettings, best_of_candidates, candidate_noise, generated
from dosing.models.flows import Velocity, matching_loss
from dosing.models.losses import target_copy, td_target
from dosing.models.networks import Initialiser, Mlp
from dosing.models.optimisers import adam_each
from dosing.models.return_distributions import LEVELS, ReturnRange, best, equally_likely, pooled, preferences
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class C51Config(CandidateSettings):
    """Settings of C51: widths and discount of the treatment simulators, the rest as the value-flows code.

    Its experiments use four hidden layers of 512 and a discount of 0.99 (0.995 on long tasks).
    """

    discount: float = 0.9
    """gamma, below 1: 0.9 on the treatment simulators, 0.99 on MuJoCo."""
    n_atoms: int = 51
    """K, returns that the distribution is a distribution of; more resolve it finer."""


class C51(Agent):
    """S stacked seeds of C51 over candidates of a behaviour flow."""

    about = About(
        paper="Bellemare, Dabney, Munos 2017, arXiv 1707.06887",
        family="best of a flow's draws",
        support="point_set",
        checked="value-flows with a log-softmax, 3e-16",
    )

    rewards = "fixed"

    def __init__(self, init: Initialiser, problem: Problem, config: C51Config) -> None:
        super().__init__(problem, init.seeds)
        for name, least in (("n_atoms", 2), ("candidates", 1), ("flow_steps", 1)):
            if getattr(config, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(config, name)}.")
        if init.regularisation.dose_quadratic:
            raise UserError("dose_quadratic: probabilities of returns cannot be quadratic in the dose.")
        if init.regularisation.prior != "none":
            raise UserError("C51 chooses among imitated doses, none of which can start at a prior dose.")
        self.config = config
        self.pessimism = init.regularisation.pessimism
        self.range = ReturnRange(init, config.discount)
        self.critic = Mlp(
            init,
            [problem.n_obs + problem.n_act, *config.hidden, config.n_atoms],
            members=init.regularisation.critics or 2,
            scheme="xavier",
            activation="gelu",
            layer_norm=True,
            norm_after=True,
        )
        self.flow = Velocity(init, problem, config.hidden, layer_norm=True)
        self.critic_target = target_copy(self.critic)
        self.optimizers = adam_each(config.learning_rate, critic=self.critic, flow=self.flow)

    def prepare(self, dataset: Dataset) -> None:
        """Fix the atoms by the recorded rewards, once."""
        super().prepare(dataset)
        self.range.take(dataset)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Where the behaviour flow starts, in its loss and for the next candidates."""
        return candidate_noise(batch_size, self.problem.n_act, self.config.candidates)

    @property
    def atoms(self) -> Tensor:
        """z, ``[S, K]``."""
        low, high = self.range.low, self.range.high
        share = torch.linspace(0.0, 1.0, self.config.n_atoms, dtype=low.dtype, device=low.device)
        return torch.lerp(low, high, share)

    def probability(self, critic: Mlp, obs: Tensor, act: Tensor) -> Tensor:
        """p, ``[S, E, B, K]``, by a critic, of ``act [S, B, A]`` at ``obs [S, B, O]``."""
        return torch.softmax(critic(torch.cat((obs, act), -1)), -1)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        """Q ``[S, B]`` of ``act [S, B, A]`` at ``obs [S, B, O]``."""
        q = (self.probability(self.critic, obs, act) * self.atoms[:, None, None]).sum(-1)
        return pooled(q, self.pessimism)

    def proposed(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Doses ``[S, B, M, A]`` of the behaviour flow and their Q ``[S, B, M]``.

        Args:
            obs: ``[S, B, O]``.
            noise: standard normal, ``[M, A]`` for all states, or ``[S, B, M, A]``.
        """
        act = generated(self.flow, obs, noise, self.config.flow_steps)
        return act, preferences(self.value, obs, act, 2)

    def policy(self, obs: Tensor) -> Distribution:
        """The best of N candidates: doses of the behaviour flow with the probability that each is chosen."""
        return best_of_candidates(self.proposed, obs, self.problem.n_act, self.config.candidates)

    def returns(self, obs: Tensor, act: Tensor) -> Tensor:
        """``LEVELS`` quantiles of the distribution on the atoms, the ensemble's probabilities averaged."""
        probability = self.probability(self.critic, obs, act).mean(1)
        return equally_likely(self.atoms.unsqueeze(1), probability, LEVELS)

    def projected(self, batch: Batch, probability: Tensor) -> Tensor:
        """m, ``[S, B, K]``: r + gamma (1 - d) z with z of ``probability [S, B, K]``, on atoms."""
        atoms = self.atoms
        reward, terminated = batch.reward.unsqueeze(-1), batch.terminated.unsqueeze(-1)
        moved = self.range.clip(td_target(reward, terminated, self.config.discount, atoms.unsqueeze(1)))
        distance = atoms[:, 1] - atoms[:, 0]
        gap = (moved.unsqueeze(-2) - atoms[:, None, :, None]).abs()  # [S, B, i, j]
        share = (1.0 - gap / distance.view(-1, 1, 1, 1)).clamp(min=0.0)
        return (share @ probability.unsqueeze(-1)).squeeze(-1)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic`` and ``flow``, each ``[S]``."""
        noise = batch.noise
        with torch.no_grad():
            next_act = best(*self.proposed(batch.next_obs, noise["candidates"]))
            future = self.probability(self.critic_target, batch.next_obs, next_act).mean(1)
            target = self.projected(batch, future)  # [S, B, K]
        log_p = torch.log_softmax(self.critic(torch.cat((batch.obs, batch.act), -1)), -1)
        losses = {
            "critic": -(target.unsqueeze(1) * log_p).sum(-1).mean((1, 2)),
            "flow": matching_loss(self.flow, batch.obs, batch.act, noise["start"], noise["time"]),
        }
        q = (log_p.detach().exp() * self.atoms[:, None, None]).sum(-1)
        return losses, {"q": q.mean((1, 2))}
