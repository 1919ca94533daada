"""What a policy believes about one patient and forecasts, in the world's units: for people to judge it by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dosing.agent import HoldsBelief
from dosing.policy import DosePolicy
from dosing.types import Array


@dataclass(frozen=True)
class PatientBelief:
    """Mean and standard deviation of every marker: of the mixture over the seeds whose model is used.

    Attributes:
        level: ``[T, O]`` level behind each marker after each of the T visits so far, the one at hand last.
        level_sd: its standard deviation.
        forecast: ``[K, O]`` observation at each of the K coming visits.
        forecast_sd: its standard deviation, noise of the observation included.
        recorded: ``[T, O]``, False where a marker was not measured.

    Entries that only tell whether another was measured have no level: all of theirs is NaN.
    """

    level: Array
    level_sd: Array
    forecast: Array
    forecast_sd: Array
    recorded: Array


@dataclass(frozen=True)
class ModelQuality:
    """How well the models behind a belief forecast patients they were not fitted to, means over seeds.

    Attributes:
        of_last_value: mean squared error as a share of that of a patient's last value.
        of_mean: the same, of the mean of the other patients.
        coverage: share of observations within the 90 % intervals.
        outlying: share of the recorded numbers that the fit passed over as outliers.
        refused: why a model is not used, once for every seed of which it is not.
        seeds: number of seeds.
    """

    of_last_value: float
    of_mean: float
    coverage: float
    outlying: float
    refused: tuple[str, ...]
    seeds: int

    @property
    def used(self) -> bool:
        """Whether the model of any seed is used."""
        return len(self.refused) < self.seeds


def quality_of(policy: DosePolicy) -> ModelQuality | None:
    """How good the models of a policy are; None for a policy that holds no belief."""
    agent = policy.agent
    if not isinstance(agent, HoldsBelief):
        return None
    held_out, refused = agent.held_out, tuple(filter(None, agent.refusals))
    return ModelQuality(
        of_last_value=float(held_out.of_last_value.mean()),
        of_mean=float(held_out.of_mean.mean()),
        coverage=float(held_out.coverage.mean()),
        outlying=float(held_out.outlying.mean()),
        refused=refused,
        seeds=len(policy.seeds),
    )


@torch.no_grad()
def belief_of(policy: DosePolicy, obs: Array, dose: Array | None, coming: int) -> PatientBelief | None:
    """What a policy believes about one patient, and what it forecasts under one dose from now on.

    Args:
        policy: after the patient's earlier visits, see :meth:`DosePolicy.after`.
        obs: ``[O]`` at the visit at hand.
        dose: ``[A]`` given at it and at all later ones, or ``[K, A]`` visit by visit; None for the policy's
            own constant dose.
        coming: K visits to forecast.

    Returns:
        None for a policy that holds no belief, or whose models are all refused.
    """
    agent = policy.agent
    if not isinstance(agent, HoldsBelief):
        return None
    used = [seed for seed, refusal in enumerate(agent.refusals) if not refusal]
    if not used:
        return None
    state = np.broadcast_to(np.asarray(obs, dtype=np.float32), (len(policy.seeds), 1, len(obs)))
    history = policy.history(state)
    given = agent.constant_dose[:, None]  # [S, 1, A]
    if dose is not None:
        given = torch.as_tensor(policy.transform.to_unit(np.atleast_2d(dose))).to(given)  # [1 or K, A]
    held = given.expand(len(policy.seeds), coming, -1)[:, None]  # [S, 1, K, A]
    belief = agent.belief_after(history, held)
    mean, scale = (np.asarray(x) for x in (policy.transform.obs_mean, policy.transform.obs_scale))

    def mixed(means: torch.Tensor, deviations: torch.Tensor) -> tuple[Array, Array]:
        each, spread = (x[used, 0].double().cpu().numpy() for x in (means, deviations))  # [S, V, O]
        middle = each.mean(0)
        return mean + scale * middle, scale * np.sqrt((spread**2).mean(0) + each.var(0))

    level = mixed(belief.level_mean, belief.level_sd)
    recorded = belief.recorded[used, 0].all(0).cpu().numpy()
    return PatientBelief(*level, *mixed(belief.forecast_mean, belief.forecast_sd), recorded)
