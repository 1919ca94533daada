"""A dose that some rule asks for at one state, before the same guarded recommender as a policy's dose.

The rule is no agent: its dose is no draw from a distribution, and nothing was learned. What it asks for still
reaches nobody before it has passed the limits, the monitor and the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from dosing.agent import Agent
from dosing.distributions.point import Point
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.policy import DosePolicy
from dosing.recommendation.records import Recommender
from dosing.types import Problem


def stated(recommender: Recommender, dose: Sequence[float], rule: str) -> Recommender:
    """The recommender of a run, before the dose that a rule asks for instead of before the run's policy.

    Args:
        recommender: of a run: its rules and its monitor stay.
        dose: what the rule asks for ``[A]``, in the unit of the dose.
        rule: its name; it stands in the provenance for run, agent and weights, so that no decision on another
            rule or policy is taken for one on this.

    Raises:
        UserError: the dose is not A finite numbers.
    """
    asked = np.asarray(dose, dtype=np.float64)
    width = recommender.rules.limits.n_act
    if asked.shape != (width,) or not np.isfinite(asked).all():
        raise UserError(f"{rule} must ask for {width} finite dose(s), got {dose!r}.")
    transform = recommender.policy.transform
    agent = _Stated(recommender.policy.agent.problem, torch.as_tensor(transform.to_unit(asked)))
    return replace(
        recommender,
        policy=DosePolicy(agent, transform),
        provenance={**recommender.provenance, **dict.fromkeys(("run", "agent", "weights"), rule)},
    )


class _Stated(Agent):
    """One dose, whatever the state."""

    def __init__(self, problem: Problem, unit: Tensor) -> None:
        super().__init__(problem, (0,))
        self.dose = nn.Parameter(unit.double(), requires_grad=False)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Refuse: a rule learns nothing; raises UserError."""
        raise UserError("a rule is no agent and learns nothing.")

    def policy(self, obs: Tensor) -> Distribution:
        """All probability at the dose."""
        return Independent(Point(self.dose.expand(*obs.shape[:2], -1)), 1)
