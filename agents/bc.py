"""Behaviour cloning, of all recorded visits (BC) or of the best episodes only (%BC).

The policy imitates the recorded doses, by likelihood or, for a policy without a density, by distance:

    L_pi = - E [ ln pi(a | s) ]               a distribution that is positive on the whole box
    L_pi = E |pi(s) - a|^2                    ``policy_family = "point"``; pi(s) = tanh(.)

Both are the plain maximum likelihood of supervised learning; the second is that of a Gaussian of fixed width.
%BC keeps the episodes whose undiscounted return is among the best (Chen et al. 2021, arXiv 2106.01345, table
3), and imitates these. What it gains over BC shows how much of a method's success is choosing good episodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dosing.agent import Agent, Rewards
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.policy_heads import Family, PointPolicy, Policy
from dosing.types import About, Problem


@dataclass(frozen=True)
class BCConfig:
    """Settings of behaviour cloning; the same step size and widths serve MuJoCo."""

    hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of the policy."""
    learning_rate: float = 3e-4
    """Adam step size."""
    policy_family: Literal[Family, "point"] = "clipped_gaussian"
    """Distribution of the policy, positive on the whole box; or point, one dose, fitted by squared
    distance."""
    log_std_min: float = -5.0
    """Lower bound of the policy's log scale."""
    log_std_max: float = 2.0
    """Upper bound of the policy's log scale."""


class BC(Agent):
    """S stacked seeds of behaviour cloning."""

    about = About(
        paper="Bain, Sammut 1995, Machine Intelligence 15",
        family="Gaussian",
        support="infinite_clipped",
        checked="no public code",
    )

    rewards: ClassVar[Rewards] = "none"

    def __init__(self, init: Initialiser, problem: Problem, config: BCConfig) -> None:
        super().__init__(problem, init.seeds)
        self.config = config
        self.actor: Policy | PointPolicy
        if config.policy_family == "point":
            self.actor = PointPolicy(init, problem, config.hidden)
        else:
            log_std = (config.log_std_min, config.log_std_max)
            self.actor = Policy(init, problem, config.hidden, config.policy_family, log_std=log_std)
        self.optimizers = {"actor": adam(self.actor, config.learning_rate)}

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss ``actor``, ``[S]``."""
        if isinstance(self.actor, PointPolicy):
            distance = (self.actor.action(batch.obs) - batch.act).square().sum(-1)
            return {"actor": distance.mean(-1)}, {}
        return {"actor": -self.actor.log_prob(batch.obs, batch.act).mean(-1)}, {}


@dataclass(frozen=True)
class PercentBCConfig(BCConfig):
    """Settings of %BC: those of BC, and the share of episodes; a tenth in the usual 10%BC."""

    best_share: float = 0.1
    """Share of the episodes to imitate, best by undiscounted return; 1 imitates all of them."""


class PercentBC(BC):
    """S stacked seeds of behaviour cloning on the best episodes."""

    about = About(
        paper="Chen et al. 2021, arXiv 2106.01345",
        family="Gaussian",
        support="infinite_clipped",
        checked="no public code",
    )

    rewards: ClassVar[Rewards] = "fixed"

    def __init__(self, init: Initialiser, problem: Problem, config: PercentBCConfig) -> None:
        if not 0.0 < config.best_share <= 1.0:
            raise UserError(f"best_share must be above 0 and at most 1, got {config.best_share}.")
        super().__init__(init, problem, config)
        self.best_share = config.best_share

    def rows(self, dataset: Dataset) -> Tensor:
        """Rows of the best episodes, at least one; of equal returns the earlier episode counts as better."""
        starts = dataset.starts.cpu().numpy()
        returns = np.add.reduceat(dataset.reward.double().cpu().numpy(), starts[:-1])
        kept = math.ceil(self.best_share * len(returns) - 1e-9)
        best = np.sort(np.argsort(-returns, kind="stable")[:kept])
        rows = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in best])
        return torch.as_tensor(rows, device=dataset.reward.device)
