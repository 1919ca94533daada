"""An agent's policies side by side: what recommended and drawn doses bring, and how wide each policy is.

The policies of one agent differ in their distribution alone: its own, the others of a preset's contrast, and
the sparse law distilled from its own. All meet the same patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import agents
from dosing.evaluation.outcomes import Outcomes, read_outcomes
from dosing.evaluation.statistics import Estimate, cvar, mean_over_seeds, paired_difference
from dosing.runs.config import RunConfig
from dosing.runs.folder import EPISODES, RunFolder
from dosing.studies.comparison_table import mass_words
from dosing.studies.dose_sets import (
    EXACT,
    HALF_WIDTH,
    OUTSIDE_LIMITS,
    TAIL,
    DoseSets,
    beside_intervals,
    doses_of,
)
from dosing.studies.launch import Launcher
from dosing.studies.naming import family_of, run_names
from dosing.studies.presets import Choice, Contrast

Role = Literal["own", "other", "thin"]
"""The distribution that an agent has by itself, another one, or the law distilled from its own."""


@dataclass(frozen=True)
class Given:
    """What one rule of giving doses brought the evaluated patients; 95 % intervals.

    Attributes:
        returns: per patient, without a unit.
        cost: safety cost per patient, in the scenario's unit.
        worst: mean return of the worst 5 % of the patients; None where that is nobody.
    """

    returns: Estimate
    cost: Estimate
    worst: Estimate | None


@dataclass(frozen=True)
class PolicyRow:
    """One policy of an agent; 95 % intervals, t over seeds; what is of doses is a mean over recorded visits.

    Attributes:
        agent: registry key.
        title: of the agent, with the settings that tell it from others of its name.
        role: see :data:`Role`.
        family: distribution of the policy, in words.
        kind: what its dose set is: ``interval``, ``full_box``, ``infinite_clipped``, ``point``, ...
        data: name of the recorded visits.
        recommended: when recommended doses are given.
        sampled: when doses are drawn from the policy.
        lost: return of recommended doses minus that of drawn ones, paired by patient.
        half_width: of the dose set, in dose units; None of a single seed, as all below.
        width_kind: ``exact support`` or the central mass that stands in for it.
        outside_limits: probability outside the hard limits before any clipping.
        outside_interval: probability outside the interval of the agent's sparse policy at the same visits;
            None for an agent without one.
        entropy: in nats on the [-1, 1] axis of a dose, where a uniform dose within the limits has ln 2 for
            each dimension; None without a density.
        refused: why the agent has no thin policy, where one was asked for.
    """

    agent: str
    title: str
    role: Role
    family: str
    kind: str
    data: str
    recommended: Given
    sampled: Given
    lost: Estimate
    half_width: Estimate | None
    width_kind: str
    outside_limits: Estimate | None
    outside_interval: Estimate | None
    entropy: Estimate | None
    refused: str | None = None

    @property
    def exact(self) -> bool:
        """Whether the dose set has exact edges, so that a probability of 0 beyond them is one."""
        return self.width_kind == EXACT


def policy_rows(
    runs: Sequence[RunFolder],
    contrast: Contrast | None,
    not_thin: Mapping[str, str],
    launcher: Launcher | None = None,
) -> list[PolicyRow]:
    """Rows of the runs of every agent that has several policies, or was refused a thin one.

    Args:
        runs: finished and evaluated, of one data set and with the same seeds.
        contrast: other distributions of the agents, if any.
        not_thin: agents that have no thin policy, with why.
        launcher: where runs are set beside another; None is here.
    """
    configs = [run.config() for run in runs]
    if contrast is None and all(config.regularisation.thin is None for config in configs):
        return []
    groups: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        groups.setdefault(_alike(config, contrast), []).append(place)
    doses = [doses_of(run) for run in runs]
    sparse = {key: _sparse(places, configs, doses) for key, places in groups.items()}
    known = {key: place for key, place in sparse.items() if place is not None}
    measured = beside_intervals(
        [([runs[k] for k in groups[key]], runs[place]) for key, place in known.items()], launcher
    )
    outside = {
        place: mass
        for key, masses in zip(known, measured, strict=True)
        for place, mass in zip(groups[key], masses, strict=True)
    }
    first = [configs[places[0]] for places in groups.values()]
    titles = run_names([replace(c, regularisation=replace(c.regularisation, thin=None)) for c in first])
    return [
        _row(runs[k], configs[k], title, contrast, doses[k], outside.get(k), not_thin)
        for title, places in zip(titles, groups.values(), strict=True)
        for k in places
    ]


def _alike(config: RunConfig, contrast: Contrast | None) -> str:
    """What is the same for all policies of an agent."""
    choice = _choice(config, contrast)
    own = {k: v for k, v in config.agent_config.items() if choice is None or k != choice.setting}
    options = asdict(replace(config.regularisation, thin=None))
    return repr((config.agent, own, options))


def _choice(config: RunConfig, contrast: Contrast | None) -> Choice | None:
    return contrast.of(agents.find(config.agent).config_class()) if contrast else None


def _sparse(places: Sequence[int], configs: Sequence[RunConfig], doses: Sequence[DoseSets]) -> int | None:
    """The run of a group whose dose sets are the intervals: a thin one before one that is sparse itself."""
    thin = [k for k in places if configs[k].regularisation.thin is not None]
    return next((k for k in (*thin, *places) if doses[k].interval), None)


def _row(
    run: RunFolder,
    config: RunConfig,
    title: str,
    contrast: Contrast | None,
    doses: DoseSets,
    outside: tuple[float, ...] | None,
    not_thin: Mapping[str, str],
) -> PolicyRow:
    outcomes = read_outcomes(run.path / EPISODES)
    role: Role = "own" if _is_own(config, contrast) else "other"
    return PolicyRow(
        agent=config.agent,
        title=title,
        role="thin" if config.regularisation.thin is not None else role,
        family=family_of(config),
        kind=doses.kind,
        data=config.data.name,
        recommended=_given(outcomes["recommended"]),
        sampled=_given(outcomes["sampled"]),
        lost=paired_difference(outcomes["recommended"].returns, outcomes["sampled"].returns),
        half_width=_over_seeds(doses.by_seed[HALF_WIDTH], doses.visits),
        width_kind=doses.width_kind,
        outside_limits=_over_seeds(doses.by_seed[OUTSIDE_LIMITS], doses.visits),
        outside_interval=_over_seeds(outside, doses.visits),
        entropy=_over_seeds(doses.entropy, doses.visits),
        refused=not_thin.get(config.agent),
    )


def _is_own(config: RunConfig, contrast: Contrast | None) -> bool:
    choice = _choice(config, contrast)
    own = choice.values(agents.find(config.agent).config_class())[0] if choice else None
    return choice is None or config.agent_config[choice.setting] == own


def _given(outcomes: Outcomes) -> Given:
    returns = outcomes.returns
    worst = cvar(returns, TAIL) if TAIL * returns.shape[1] >= 1.0 else None
    return Given(mean_over_seeds(returns), mean_over_seeds(outcomes.cost), worst)


def _over_seeds(values: Sequence[float] | None, visits: int) -> Estimate | None:
    """Mean of the seeds' own means over recorded visits; None where there is none, or of one seed."""
    if values is None or len(values) < 2:
        return None
    estimate = mean_over_seeds([[value] for value in values])
    return replace(estimate, n=visits * len(values))


HEAD = (
    "agent",
    "policy",
    "return, recommended dose",
    "return, drawn dose",
    "lost by drawing",
    "cost, recommended",
    "cost, drawn",
    "worst 5 %, recommended",
    "worst 5 %, drawn",
    "half-width (dose units)",
    "outside limits",
    "outside the sparse interval",
    "entropy (nats)",
)
"""Columns of :func:`cells`."""


def cells(row: PolicyRow) -> list[str]:
    """A row in words, see :data:`HEAD`; a dash for what there is not."""
    rules = (row.recommended, row.sampled)
    return [
        row.title,
        row.family,
        *(str(rule.returns) for rule in rules),
        str(row.lost),
        *(str(rule.cost) for rule in rules),
        *(str(rule.worst or "-") for rule in rules),
        str(row.half_width or "-") + (" exact" if row.exact and row.half_width else ""),
        mass_cell(row.outside_limits, row.exact),
        mass_cell(row.outside_interval, row.exact),
        str(row.entropy or "-"),
    ]


def mass_cell(mass: Estimate | None, exact: bool) -> str:
    """A probability with its interval, held within 0 and 1; of exact edges 0 is exact."""
    if mass is None:
        return "-"
    if mass.value == 0.0:
        return mass_words(0.0, exact)
    low, high = max(mass.low, 0.0), min(mass.high, 1.0)
    return f"{mass.value:.2g} [{low:.2g}, {high:.2g}]"


def render(rows: Sequence[PolicyRow]) -> str:
    """The rows as text, and the agents without a thin policy."""
    lines = [HEAD, *(tuple(cells(row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])
