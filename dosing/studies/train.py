"""Studies: data, runs, references and tables of one folder, joined from agents, simulator and core.

A study folder holds ``data/`` (recorded visits), ``references/`` (rules that need no learning, per data
set), one run folder per trained stack, ``table.json`` (one row per run and rule) and ``curves.parquet`` (one
row per run, update and seed).
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import agents
from dosing import __version__
from dosing.data.dataset import Dataset, Transform, dose_limits
from dosing.data.store import Episodes, read_episodes
from dosing.errors import UserError
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.recommendation.novelty import keep_monitor
from dosing.runs.config import DataReference, EnvironmentReference, RunConfig
from dosing.runs.files import write_json
from dosing.runs.folder import CARD, CONFIG, RunFolder
from dosing.studies.launch import device_of, progress_bar
from dosing.studies.scenarios import factory_for
from dosing.training.offline import TrainingSettings, train
from dosing.types import Problem


def _versions(episodes: Episodes) -> dict[str, Any]:
    return {
        "dosing": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
        "scenario": episodes.metadata.get("scenario_version"),
    }


def train_run(
    agent: str,
    agent_config: Any,
    data: Path,
    study: Path,
    seeds: Sequence[int],
    settings: TrainingSettings,
    device: str = "auto",
    *,
    data_options: Mapping[str, Any] | None = None,
    regularisation: Regularisation = PLAIN,
    milestones: Sequence[int] = (),
    position: int = 0,
) -> RunFolder:
    """Train one stack of seeds, or continue it, or find it finished.

    The run folder is named by everything that decides the result, so the same call finds the same folder.
    The options of the data count by the map they lead to. Milestones do not count: a finished run that lacks
    one is trained again from its start.

    Args:
        agent: registry key.
        agent_config: its configuration object.
        data: file of recorded visits.
        study: study folder.
        seeds: S seeds, trained together.
        settings: length and batch size.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_options: see ``Transform.fit``; evaluation is in the world's units whatever they are.
        regularisation: what networks and updates have beyond the method.
        milestones: updates after which weights are kept.
        position: line of the progress bar.

    Raises:
        UserError: bad data, folder or device; the training diverged.
    """
    place = device_of(device)
    episodes = read_episodes(data)
    if episodes.metadata.get("env_options", {}).get("cohort") == "evaluation":
        raise UserError(f"{data} holds evaluation patients, on whom agents are compared; train on others.")
    transform = Transform.fit(episodes, **(data_options or {}))
    dataset = Dataset.from_episodes(episodes, transform, device=place)
    factory = factory_for(episodes.metadata)
    problem = Problem(dataset.obs.shape[1], dataset.act.shape[1], factory.horizon if factory else None)
    stack = agents.build(
        agent,
        agent_config,
        problem,
        seeds,
        device=place,
        precision=settings.precision,
        regularisation=regularisation,
    )
    meta = episodes.metadata
    env = EnvironmentReference(meta["env_id"], meta.get("env_options", {})) if factory else None
    config = RunConfig(
        agent=agent,
        agent_config=json.loads(json.dumps(asdict(agent_config))),
        seeds=tuple(seeds),
        problem=problem,
        transform=transform,
        limits=dose_limits(episodes),
        data=DataReference(data.stem, meta["content_hash"], len(episodes), len(np.unique(episodes.episode))),
        training=asdict(settings),
        env=env,
        regularisation=regularisation,
        obs_names=tuple(meta.get("obs_names") or ()),
        obs_units=tuple(meta.get("obs_units") or ()),
        dose_name=meta.get("dose_name", "dose"),
        versions=_versions(episodes),
        device=str(place),
        threads=torch.get_num_threads(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    run = RunFolder(study / agent / data.stem / config.key)
    config = replace(config, data_file=os.path.relpath(data.resolve(), run.path.resolve()))
    with run.lock():
        if run.done and not run.lacking(settings.before_end(milestones)):
            run.verify()
            return run
        write_json(run.path / CONFIG, config.to_json())
        keep_monitor(run.path, episodes)
        if meta.get("card"):
            write_json(run.path / CARD, meta["card"])
        with progress_bar(settings.steps, f"train {agent} x {len(seeds)} seeds", "update", position) as bar:
            try:
                train(stack, dataset, run, settings, milestones=milestones, progress=bar)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{place} has no memory for {len(seeds)} seeds and batches of {settings.batch_size}: "
                    "take fewer or smaller ones, or --device cpu."
                ) from error
    return run
