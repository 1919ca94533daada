"""Returns estimated from recorded visits alone, and what the estimates rest on. No Streamlit here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.readers.study import Run
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.ope.costs import costs_as_rewards
from dosing.ope.folds import PooledValue
from dosing.ope.importance import WeightDiagnostics, density_ratios, windowed_weights
from dosing.ope.selection import Settings, evaluate_policies
from dosing.ope.targets import target
from dosing.ope.trajectories import Trajectories
from dosing.ope.values import PolicyValue
from dosing.policy import DosePolicy
from dosing.types import Array

ESTIMATORS = {
    "fqe": "fitted Q evaluation",
    "neural_fqe": "neural fitted Q evaluation",
    "wis": "weighted importance sampling",
    "wis_window": "importance sampling, last two visits",
    "wdr": "weighted doubly robust",
    "model_based": "roll-outs of a response model",
}
"""What estimators are called on screen."""
GENERATED = ("samples", "point_set")
"""Kinds of dose sets that take many passes through a network at every visit: minutes for all of them."""


def is_quick(policy: DosePolicy, episodes: Episodes) -> bool:
    """Whether an estimate takes less than a second."""
    one = np.broadcast_to(episodes.obs[:1], (len(policy.seeds), 1, episodes.obs.shape[1]))
    return policy.dose_set(one).kind not in GENERATED


@dataclass(frozen=True)
class Valued:
    """One agent valued from recorded visits.

    Attributes:
        policy: its estimates, each a number with an interval or the reason why there is none.
        constant: those of the constant dose estimated from the same visits.
        constant_name: what that dose is called: the estimated constant, or the median recorded dose.
        sample: effective sample size at every visit ``[S, H]``.
        refused: why no importance weights are known; empty where they are.
        outside: share of the recorded doses outside the exact support ``[S]``; None for a distribution
            without one.
        patients: recorded.
        cost: estimates of the policy's cost by the same estimators; None where a visit has no cost.
    """

    policy: PolicyValue
    constant: PolicyValue
    constant_name: str
    sample: Array | None
    refused: str
    outside: Array | None
    patients: int
    cost: PolicyValue | None = None


def value(name: str, policy: DosePolicy, episodes: Episodes, *, sampled: bool) -> Valued:
    """Estimate an agent's return and cost from visits that it was trained on.

    Args:
        name: of the agent.
        policy: the trained stack.
        episodes: the recorded visits.
        sampled: doses are drawn from its distribution; else its recommended dose is given.

    Raises:
        UserError: the visits or the agent cannot be evaluated so.
    """
    settings = Settings(estimators=("fqe", "wis", "wis_window"), sampled=sampled)
    result = evaluate_policies(episodes, [(name, policy)], settings)
    data = Trajectories.from_episodes(episodes)
    sample, refused = None, ""
    try:
        ratios = density_ratios(
            data, target(policy, data.transform, sampled=sampled, bandwidth=settings.bandwidth)
        )
        windowed = windowed_weights(ratios, settings.window)
        weights = WeightDiagnostics.of(ratios.cumprod(-1), windowed.reshape(len(windowed), -1))
        sample = weights.effective_sample
    except UserError as error:
        refused = str(error)
    constant, own = result.policies
    cost, charged = None, costs_as_rewards(episodes)
    if charged is not None:
        cost = evaluate_policies(charged, [(name, policy)], settings, result.baseline).policies[1]
    kind = "estimated constant dose" if result.baseline.identified else "median recorded dose"
    outside = outside_support(policy, episodes)
    return Valued(own, constant, kind, sample, refused, outside, result.patients, cost)


def not_below_zero(cost: Estimate) -> Estimate:
    """A cost with its interval, as far as costs can be: none is below 0."""
    if cost.low >= 0.0 or cost.value < 0.0:
        return cost
    return replace(cost, low=0.0, method=f"{cost.method}, cut at 0")


def outside_support(policy: DosePolicy, episodes: Episodes) -> Array | None:
    """Share ``[S]`` of the recorded doses to which a policy with an exact interval gives density 0.

    None for a policy without an interval: one that gives one dose, draws, or every dose some density.
    """
    obs = np.broadcast_to(episodes.obs, (len(policy.seeds), *episodes.obs.shape))
    if policy.dose_set(obs[:, :1]).kind != "interval":
        return None
    sets = policy.dose_set(obs)
    beyond = (episodes.act < sets.low) | (episodes.act > sets.high)
    return np.asarray(beyond.any(-1).mean(1))


@dataclass(frozen=True)
class CandidateRow:
    """One line of ``selection.json``.

    Attributes:
        name: agent, distribution and settings; "constant dose" for what the others have to beat, "median
            recorded dose" where there is nothing to beat.
        agent: registry key; empty for the constant dose.
        fields: its settings as JSON holds them.
        values: by estimator.
    """

    name: str
    agent: str
    fields: Mapping[str, Any]
    values: Mapping[str, PooledValue]


@dataclass(frozen=True)
class SelectionTable:
    """What ``python -m dosing select`` left in the study folder.

    Attributes:
        candidates: the constant dose first, then as the file orders them.
        verdict: the finding in one sentence.
        decided_by: the estimator that decides.
        patients: recorded, each valued by policies that have not seen it.
        horizon: visits of the return.
        behaviour: where the density of the recorded doses comes from.
        notes: what a reader has to know besides.
    """

    candidates: tuple[CandidateRow, ...]
    verdict: str
    decided_by: str
    patients: int
    horizon: int
    behaviour: str
    notes: tuple[str, ...]


def read_selection(content: Mapping[str, Any], source: str) -> SelectionTable:
    """Read the JSON of a selection.

    Args:
        content: of the file.
        source: where it is, for the error.

    Raises:
        UserError: something is missing or not what it should be.
    """
    try:
        name = "constant dose" if content["constant"]["identified"] else "median recorded dose"
        constant = CandidateRow(name, "", {}, _values(content["constant"]["values"]))
        tried = tuple(
            CandidateRow(str(c["name"]), str(c["agent"]), c, _values(c["values"]))
            for c in content["candidates"]
        )
        return SelectionTable(
            (constant, *tried),
            str(content["verdict"]),
            str(content["decided_by"]),
            int(content["patients"]),
            int(content["horizon"]),
            str(content["behaviour"]),
            tuple(map(str, content["notes"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source} is not a selection of this version ({error!r}); select again.") from error


def _values(content: Mapping[str, Mapping[str, Any]]) -> dict[str, PooledValue]:
    def one(fields: Mapping[str, Any]) -> PooledValue:
        numbers = {k: Estimate(**v) if (v := fields[k]) else None for k in ("estimate", "difference")}
        return PooledValue(
            **numbers,
            verdict=fields["verdict"],
            folds=tuple(fields["folds"]),
            refused=fields["refused"],
        )

    return {name: one(fields) for name, fields in content.items()}


def same_settings(candidate: CandidateRow, runs: Sequence[Run]) -> Run | None:
    """The one run of the study with a candidate's agent and settings; None where there is not one."""
    result = [
        run
        for run in runs
        if run.config.agent == candidate.agent
        and run.config.agent_config == candidate.fields["config"]
        and run.config.regularisation.changed() == candidate.fields["regularisation"]
    ]
    return result[0] if len(result) == 1 else None
