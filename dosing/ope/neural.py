"""Fitted Q evaluation with networks: the recursion of ``dosing.ope.fqe`` without its features.

One network per seed of the policy and bootstrap replicate, all stacked on the leading axis. The network also
sees the share of the visits that is still to come, so one network holds Q_h for every h; each update draws
visits of the replicate's patients, a number of visits to go and a dose of the policy at the next state, and
bootstraps from a Polyak-averaged copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dosing.models.critics import Critic
from dosing.models.losses import polyak, target_copy, td_target
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.settings import check_settings
from dosing.ope.fqe import check_criterion
from dosing.ope.targets import Target
from dosing.ope.trajectories import Trajectories, standardise
from dosing.rng import generator
from dosing.types import Array


@dataclass(frozen=True)
class NeuralSettings:
    """How the networks are trained."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    steps: int = 3000
    """Updates; the values of 24 visits follow each other through the copy, so fewer do not reach the last."""
    batch_size: int = 256
    """Visits per update."""
    learning_rate: float = 1e-3
    """Adam's step size; it falls to a tenth over the last third of the updates."""
    target_rate: float = 0.05
    """Rate at which the copy follows."""


def neural_values(
    data: Trajectories,
    policy: Target,
    counts: Array,
    *,
    discount: float,
    horizon: int,
    settings: NeuralSettings | None = None,
    seed: int = 0,
) -> Array:
    """Value ``[R, S]`` of the first states of the weighed patients.

    Args:
        data: recorded patients.
        policy: the target policy of S seeds.
        counts: ``[R, N]`` how often each patient enters; one network per row and seed.
        discount: gamma.
        horizon: H visits to go.
        settings: length and widths.
        seed: of weights and minibatches.

    Raises:
        UserError: the discount is not in [0, 1], the horizon not positive, or a setting is out of range.
    """
    settings = settings or NeuralSettings()
    check_settings(settings)
    check_criterion(discount, horizon)
    fit = _Fit(data, policy, len(counts), horizon, settings, seed)
    fit.run(counts, discount)
    first = _tensor(standardise(data.transform, data.obs[:, 0])).expand(len(counts), -1, -1)
    starts, weights = policy.nodes(data.obs[:, 0])
    with torch.no_grad():
        full = torch.full(first.shape[:2], float(horizon))
        values = torch.stack(
            [fit.value(fit.critic, first, full, _tensor(d).expand(len(counts), -1, -1, -1)) for d in starts]
        )
    expected = np.tensordot(weights, values.double().numpy(), 1)  # [R, S, N]
    mean: Array = fit.scale * (expected * counts[:, None]).sum(-1) / counts.sum(-1)[:, None]
    return mean


class _Fit:
    """R x S networks and the visits that they are fitted to."""

    def __init__(
        self,
        data: Trajectories,
        policy: Target,
        replicates: int,
        horizon: int,
        settings: NeuralSettings,
        seed: int,
    ) -> None:
        self.rows = data.recorded > 0
        self.obs = _tensor(standardise(data.transform, data.obs[self.rows]))
        self.next_obs = _tensor(standardise(data.transform, data.next_obs[self.rows]))
        self.scale = float(data.reward[self.rows].std()) or 1.0
        self.reward = _tensor(data.reward[self.rows] / self.scale)
        self.terminated = _tensor(data.terminated[self.rows])
        self.act = _tensor(data.act[self.rows])
        doses, self.weights = policy.nodes(data.next_obs[self.rows])  # [K, S, M, A]
        self.after = _tensor(doses)
        self.replicates, self.seeds, self.horizon, self.settings = (
            replicates,
            doses.shape[1],
            horizon,
            settings,
        )
        init = Initialiser([seed + k for k in range(replicates * self.seeds)])
        self.critic = Critic(init, self.obs.shape[1] + 1, self.act.shape[1], settings.hidden, members=1)
        self.follower, self.optimizer = target_copy(self.critic), adam(self.critic, settings.learning_rate)
        self.rng = generator(seed, "indices", replicates)

    def value(self, network: Critic, states: Tensor, to_go: Tensor, given: Tensor) -> Tensor:
        """Values ``[R, S, B]``: states ``[R, B, O]``, visits to go ``[R, B]``, doses ``[R, S, B, A]``."""
        shape = (self.replicates, self.seeds, states.shape[1])
        n_obs, n_act = self.obs.shape[1], self.act.shape[1]
        seen = torch.cat((states, (to_go / self.horizon)[..., None]), -1)[:, None]
        seen = seen.expand(*shape, n_obs + 1).reshape(-1, shape[2], n_obs + 1)
        values: Tensor = network(seen, given.reshape(-1, shape[2], n_act)).view(shape)
        return values

    def run(self, counts: Array, discount: float) -> None:
        """Take every update."""
        # one staircase for all replicates, replicate r from r to r + 1; a uniform number falls on a visit
        share = counts[:, np.nonzero(self.rows)[0]]
        floor = np.arange(self.replicates)[:, None]
        stairs = (floor + (share / share.sum(1, keepdims=True)).cumsum(1)).reshape(-1)
        for step in range(self.settings.steps):
            if step == 2 * self.settings.steps // 3:
                self.optimizer.param_groups[0]["lr"] *= 0.1
            self._update(stairs, floor, discount)

    def _update(self, stairs: Array, floor: npt.NDArray[np.int64], discount: float) -> None:
        shape = (self.replicates, self.settings.batch_size)
        drawn = np.searchsorted(stairs, floor + self.rng.random(shape), side="right")
        index = torch.from_numpy(np.clip(drawn - floor * len(self.act), 0, len(self.act) - 1))
        to_go = torch.from_numpy(self.rng.integers(1, self.horizon + 1, shape)).float()
        node = torch.from_numpy(self.rng.choice(len(self.weights), shape, p=self.weights))
        following = self.after[node, :, index].movedim(2, 1)  # [R, B, S, A] -> [R, S, B, A]
        with torch.no_grad():
            bootstrap = self.value(self.follower, self.next_obs[index], to_go - 1, following)
            ends = torch.maximum(self.terminated[index], (to_go == 1).float())[:, None]
            target = td_target(self.reward[index][:, None], ends, discount, bootstrap)
        given = self.act[index][:, None].expand(-1, self.seeds, -1, -1)
        estimate = self.value(self.critic, self.obs[index], to_go, given)
        loss = (estimate - target).square().mean(-1).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        polyak(self.follower, self.critic, self.settings.target_rate)


def _tensor(values: Array) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32)
