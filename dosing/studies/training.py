"""Studies: data, runs, references and tables of one folder, joined from agents, simulator and core.

A study folder holds ``data/`` (recorded visits), ``references/`` (rules that need no learning, per data
set), one run folder per trained stack, ``table.json`` (one row per run and rule) and ``curves.parquet`` (one
row per run, update and seed).
"""

from __future__ import annotations

import functools
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import agents
from dosing import __version__
from dosing.agent import Agent
from dosing.data.dataset import Transform, dose_limits
from dosing.data.metadata import DatasetMetadata
from dosing.errors import UserError
from dosing.recommendation.novelty import keep_monitor
from dosing.runs.config import EnvironmentReference, RunConfig
from dosing.runs.files import write_json
from dosing.runs.folder import CARD, CONFIG, RunFolder
from dosing.studies.data import obtain_data
from dosing.studies.launch import device_of, progress_bar
from dosing.studies.scenarios import factory_for, keep_scenario
from dosing.studies.settings import AgentSetup, DataSource
from dosing.studies.visits import Visits, visits_of
from dosing.training import offline
from dosing.training.logged import OnLog
from dosing.training.offline import TrainingSettings
from dosing.types import Problem


def _versions(metadata: DatasetMetadata) -> dict[str, Any]:
    return {
        "dosing": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "scenario": metadata.scenario_version,
    }


def train(
    study: Path | str,
    agent: AgentSetup | str,
    data: DataSource | Path | str,
    *,
    seeds: Sequence[int] = range(5),
    training: TrainingSettings | None = None,
    milestones: Sequence[int] = (),
    device: str = "auto",
    on_log: OnLog | None = None,
) -> RunFolder:
    """Train one agent on recorded visits, or continue, or find it finished.

    Args:
        study: study folder.
        agent: registry key, or an agent with its configuration.
        data: file of recorded visits, folder of parts, ``minari:ID``, or the id of an environment that is
            simulated once.
        seeds: trained together.
        training: length and batch size; None is the usual.
        milestones: updates after which weights are kept.
        device: ``auto``, ``cpu`` or ``cuda``.
        on_log: told every row of the log as it is made (``dosing.training.logged``), or None.

    Returns:
        The run's folder, named by everything that decides the result.

    Raises:
        UserError: bad data, settings, folder or device; the training diverged.
    """
    training = training or TrainingSettings()
    training.check()
    setup = agent if isinstance(agent, AgentSetup) else AgentSetup(agent)
    file = obtain_data(DataSource.of(data), Path(study))
    return train_run(setup, file, Path(study), seeds, training, device, milestones=milestones, on_log=on_log)


def train_run(
    setup: AgentSetup,
    data: Path,
    study: Path,
    seeds: Sequence[int],
    settings: TrainingSettings,
    device: str = "auto",
    *,
    milestones: Sequence[int] = (),
    position: int = 0,
    on_log: OnLog | None = None,
) -> RunFolder:
    """Train one stack of seeds, or continue it, or find it finished.

    The run folder is named by everything that decides the result, so the same call finds the same folder.
    Milestones do not count: a finished run that lacks one is trained again from its start.

    Args:
        setup: the agent.
        data: file of recorded visits, or folder of parts.
        study: study folder.
        seeds: S seeds, trained together.
        settings: length and batch size.
        device: ``auto``, ``cpu`` or ``cuda``.
        milestones: updates after which weights are kept.
        position: line of the progress bar.
        on_log: told every row of the log, or None.

    Raises:
        UserError: bad data, folder or device; the training diverged.
    """
    place = device_of(device)
    visits = visits_of(data, study, settings.stream)
    if visits.metadata.env_options.get("cohort") == "evaluation":
        raise UserError(f"{data} holds evaluation patients, on whom agents are compared; train on others.")
    dataset = visits.data(setup.data_options, place)
    factory = factory_for(visits.metadata)
    widths = visits.sample.obs.shape[1], visits.sample.act.shape[1]
    problem = Problem(*widths, factory.horizon if factory else None)
    build = functools.partial(
        agents.build,
        setup.agent,
        setup.config,
        problem,
        seeds,
        device=place,
        regularisation=setup.regularisation,
    )
    config = _config(setup, visits, build(fresh=False), dataset.transform, settings, place)
    run = RunFolder(study / setup.agent / data.stem / config.key)
    config = replace(config, data_file=os.path.relpath(data.resolve(), run.path.resolve()))
    with run.lock():
        if run.done and not run.lacking(settings.before_end(milestones)):
            run.verify()
            return run
        write_json(run.path / CONFIG, config.to_json())
        keep_monitor(run.path, visits.sample)
        if visits.metadata.card:
            write_json(run.path / CARD, visits.metadata.card)
        if config.env is not None:
            keep_scenario(run, config.env.id)
        bar = progress_bar(settings.steps, f"train {setup.agent} x {len(seeds)} seeds", "update", position)
        try:
            with bar:
                offline.train(
                    build(), dataset, run, settings, milestones=milestones, progress=bar, on_log=on_log
                )
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{place} has no memory for {len(seeds)} seeds and batches of {settings.batch_size}: "
                "take fewer or smaller ones, or --device cpu."
            ) from error
    return run


def _config(
    setup: AgentSetup,
    visits: Visits,
    stack: Agent,
    transform: Transform,
    settings: TrainingSettings,
    device: torch.device,
) -> RunConfig:
    """What the run is; where its data lie is known once it has a folder."""
    meta, env = visits.metadata, None
    if (factory := factory_for(meta)) is not None:
        env = EnvironmentReference(factory.env_id, meta.env_options)
    return RunConfig(
        agent=setup.agent,
        agent_config=json.loads(json.dumps(asdict(setup.config))),
        seeds=tuple(stack.seeds),
        problem=stack.problem,
        transform=transform,
        limits=dose_limits(visits.sample),
        data=visits.reference(stack, settings.lookahead()),
        training=settings.recorded(),
        env=env,
        regularisation=setup.regularisation,
        obs_names=meta.obs_names,
        obs_units=meta.obs_units,
        dose_name=meta.dose_name,
        versions=_versions(meta),
        device=str(device),
        threads=torch.get_num_threads(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
