"""Fitted Q evaluation with networks: the recursion of ``dosing.ope.fqe`` without its features.

One network per seed of the policy and bootstrap replicate, all stacked on the leading axis. The network also
sees the share of the visits that is still to come, so one network holds Q_h for every h; each update draws
visits of the replicate's patients, a number of visits to go and a dose of the policy at the next state, and
bootstraps from a Polyak-averaged copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
    rows = data.recorded > 0
    obs = _tensor(standardise(data.transform, data.obs[rows]))
    next_obs = _tensor(standardise(data.transform, data.next_obs[rows]))
    scale = float(data.reward[rows].std()) or 1.0
    reward, terminated = _tensor(data.reward[rows] / scale), _tensor(data.terminated[rows])
    act = _tensor(data.act[rows])
    doses, weights = policy.nodes(data.next_obs[rows])  # [K, S, M, A]
    after = _tensor(doses)
    seeds, replicates, batch = doses.shape[1], len(counts), settings.batch_size
    n_obs, n_act = obs.shape[1], act.shape[1]
    init = Initialiser([seed + k for k in range(replicates * seeds)])
    critic = Critic(init, n_obs + 1, n_act, settings.hidden, members=1)
    follower, optimizer = target_copy(critic), adam(critic, settings.learning_rate)
    rng = generator(seed, "indices", replicates)
    # one staircase for all replicates, replicate r from r to r + 1; a uniform number falls on the visit drawn
    share = counts[:, np.nonzero(rows)[0]]
    floor = np.arange(replicates)[:, None]
    stairs = floor + (share / share.sum(1, keepdims=True)).cumsum(1)

    def look(network: Critic, states: Tensor, to_go: Tensor, given: Tensor) -> Tensor:
        """Values ``[R, S, B]``: states ``[R, B, O]``, visits to go ``[R, B]``, doses ``[R, S, B, A]``."""
        shape = (replicates, seeds, states.shape[1])
        seen = torch.cat((states, (to_go / horizon)[..., None]), -1)[:, None].expand(*shape, n_obs + 1)
        flat = network(seen.reshape(-1, shape[2], n_obs + 1), given.reshape(-1, shape[2], n_act))
        values: Tensor = flat.view(shape)
        return values

    for step in range(settings.steps):
        if step == 2 * settings.steps // 3:
            optimizer.param_groups[0]["lr"] *= 0.1
        drawn = np.searchsorted(stairs.reshape(-1), floor + rng.random((replicates, batch)), side="right")
        index = torch.from_numpy(np.clip(drawn - floor * len(act), 0, len(act) - 1))
        to_go = torch.from_numpy(rng.integers(1, horizon + 1, (replicates, batch))).float()
        node = torch.from_numpy(rng.choice(len(weights), (replicates, batch), p=weights))
        following = after[node, :, index].movedim(2, 1)  # [R, B, S, A] -> [R, S, B, A]
        with torch.no_grad():
            bootstrap = look(follower, next_obs[index], to_go - 1, following)
            ends = torch.maximum(terminated[index], (to_go == 1).float())[:, None]
            target = td_target(reward[index][:, None], ends, discount, bootstrap)
        given = act[index][:, None].expand(-1, seeds, -1, -1)
        loss = (look(critic, obs[index], to_go, given) - target).square().mean(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        polyak(follower, critic, settings.target_rate)
    first = _tensor(standardise(data.transform, data.obs[:, 0])).expand(replicates, -1, -1)
    starts, weights = policy.nodes(data.obs[:, 0])
    with torch.no_grad():
        full = torch.full(first.shape[:2], float(horizon))
        result = torch.stack(
            [look(critic, first, full, _tensor(d).expand(replicates, -1, -1, -1)) for d in starts]
        )
    expected = np.tensordot(weights, result.double().numpy(), 1)  # [R, S, N]
    found_values: Array = scale * (expected * counts[:, None]).sum(-1) / counts.sum(-1)[:, None]
    return found_values


def _tensor(values: Array) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32)
