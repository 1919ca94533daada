"""Names of runs in tables, and the learning curves of a study."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import agents
from dosing.evaluation.outcomes import read_outcomes
from dosing.models.regularisation import Regularisation
from dosing.runs.files import write_table
from dosing.runs.folder import EPISODES, RunFolder

TABLE, CURVES = "table.json", "curves.parquet"


class Settings(Protocol):
    """What tells a run from others: a ``RunConfig``, or a candidate that is not trained yet."""

    @property
    def agent(self) -> str:
        """Registry key."""

    @property
    def agent_config(self) -> Mapping[str, Any]:
        """Fields of the agent's configuration."""

    @property
    def regularisation(self) -> Regularisation:
        """What networks and updates have beyond the method."""


def family_of(config: Settings) -> str:
    """Distribution of a run's policy, in words."""
    family, options = agents.find(config.agent).family_of(config.agent_config), config.regularisation
    if options.thin is not None:
        family = f"sparse q-Gaussian (q={options.thin:g}) from {family}"
    return family if options.advantage == "critic" else f"{family} on a belief"


def run_names(configs: Sequence[Settings]) -> list[str]:
    """Titles of runs, each with the settings in which it differs from other runs of its agent.

    The distribution of the policy is not repeated: it has a column of its own.
    """
    return [
        ", ".join([agents.find(config.agent).title, *setting])
        for config, setting in zip(configs, settings_of(configs), strict=True)
    ]


def distinct(names: Sequence[str], families: Sequence[str]) -> list[str]:
    """Names for where no column says the distribution: in brackets where a name stands more than once."""
    return [
        f"{name} ({family})" if names.count(name) > 1 else name
        for name, family in zip(names, families, strict=True)
    ]


def settings_of(configs: Sequence[Settings]) -> list[list[str]]:
    """For each run the settings, as ``name=value``, in which runs of its agent differ from each other."""
    full = [{**config.agent_config, **asdict(config.regularisation)} for config in configs]
    first: dict[str, dict[str, Any]] = {}
    differ: dict[str, set[str]] = {}
    for config, own in zip(configs, full, strict=True):
        other = first.setdefault(config.agent, own)
        changed = {k for k in own.keys() | other.keys() if own.get(k) != other.get(k)} - {"policy_family"}
        differ.setdefault(config.agent, set()).update(changed)
    return [
        [
            f"{k}={'none' if own[k] is None else json.dumps(own[k]).strip(chr(34)).replace(' ', '')}"
            for k in own
            if k in differ[config.agent]
        ]
        for config, own in zip(configs, full, strict=True)
    ]


def write_curves(study: Path, runs: Sequence[RunFolder], milestones: Sequence[int]) -> None:
    """Write mean returns of every run, update and seed as one long table, ``curves.parquet``.

    Columns: agent (registry key), name, setting, policy, data, run, update, seed, and the mean return over
    the evaluation patients by ``recommended`` and by ``sampled`` doses.
    """
    configs = [run.config() for run in runs]
    rows: list[dict[str, Any]] = []
    for run, config, setting in zip(runs, configs, settings_of(configs), strict=True):
        steps = config.updates
        about = {
            "agent": config.agent,
            "name": ", ".join([agents.find(config.agent).title, *setting]),
            "setting": ", ".join(setting),
            "policy": family_of(config),
            "data": config.data.name,
            "run": os.path.relpath(run.path, study),
        }
        for update in [*milestones, steps]:
            outcomes = read_outcomes(run.at(None if update == steps else update) / EPISODES)
            means = {rule: outcomes[rule].returns.mean(1) for rule in ("recommended", "sampled")}
            for k, seed in enumerate(config.seeds):
                values = {rule: float(mean[k]) for rule, mean in means.items()}
                rows.append(about | {"update": update, "seed": seed} | values)
    write_table(study / CURVES, {name: [row[name] for row in rows] for name in rows[0]})
