"""Studies: data, runs, references and tables of one folder, joined from agents, simulator and core.

A study folder holds ``data/`` (recorded visits), ``references/`` (rules that need no learning, per scenario),
one run folder per trained stack, and ``table.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tqdm import tqdm

import agents
from dosing import __version__
from dosing.agent import Problem
from dosing.comparison import References, Row, agent_row, ceiling_row, reference_rows, references
from dosing.data.dataset import Dataset, Transform
from dosing.data.store import Episodes, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.evaluation import evaluate, read_outcomes, write_outcomes
from dosing.policy import DosePolicy, Observations, load_policy
from dosing.recommendation import Recommendation, recommend
from dosing.runs import (
    CONFIG,
    EPISODES,
    EVALUATION,
    SCHEMA,
    WEIGHTS,
    RunFolder,
    read_json,
    run_key,
    sha256,
    write_json,
)
from dosing.safety import DoseLimits
from dosing.training import TrainingSettings, train
from simulator.environment import EnvOptions
from simulator.generate import simulate
from simulator.measured import measured

TABLE = "table.json"
STATES = 2000
"""Most recorded visits at which dose sets are measured."""


@dataclass(frozen=True)
class Factory:
    """Vector environments of evaluation patients of one scenario."""

    env_id: str
    options: dict[str, Any]
    limits: DoseLimits
    horizon: int

    @classmethod
    def of(cls, env_id: str, options: dict[str, Any]) -> Factory:
        """Check the scenario's options.

        Raises:
            UserError: unknown environment or option.
        """
        if env_id not in gymnasium.registry:
            known = ", ".join(i for i in gymnasium.registry if i.startswith("dosing/"))
            raise UserError(f"there is no environment {env_id!r}; there are: {known}.")
        checked = EnvOptions.of(env_id, options)
        return cls(env_id, options, checked.scenario.limits, checked.steps)

    def __call__(self, patients: int, first_patient: int) -> VectorEnv[Any, Any, Any]:
        """Environment of evaluation patients ``first_patient`` and on."""
        return gymnasium.make_vec(
            self.env_id,
            num_envs=patients,
            vectorization_mode="vector_entry_point",
            cohort="evaluation",
            first_patient=first_patient,
            **self.options,
        )


def device_of(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no usable CUDA device; use --device cpu.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def obtain_data(
    source: str,
    study: Path,
    *,
    patients: int,
    policy: str,
    seed: int,
    options: dict[str, Any],
) -> Path:
    """Return the file of recorded visits: the file itself, or a simulation of an environment id.

    A simulated file is named by everything that decides its content and is not made twice.

    Raises:
        UserError: neither a file nor an environment id, or the folder cannot be written.
    """
    if Path(source).is_file():
        return Path(source)
    if source not in gymnasium.registry or not source.startswith("dosing/"):
        known = ", ".join(i for i in gymnasium.registry if i.startswith("dosing/"))
        raise UserError(f"--data {source!r} is neither a file nor an environment id; the ids are: {known}.")
    recipe = {"env": source, "patients": patients, "policy": policy, "seed": seed, "options": options}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]
    path = study / "data" / f"{source.split('/')[-1]}-{patients}-{key}.parquet"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write the study folder {study}: {error.strerror or error}.") from error
        episodes = simulate(source, patients=patients, policy=policy, seed=seed, progress=True, **options)
        write_episodes(episodes, path)
    return path


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
    position: int = 0,
) -> RunFolder:
    """Train one stack of seeds, or continue it, or find it finished.

    The run folder is named by everything that decides the result, so the same call finds the same folder.

    Args:
        agent: registry key.
        agent_config: its configuration object.
        data: file of recorded visits.
        study: study folder.
        seeds: S seeds, trained together.
        settings: length and batch size.
        device: ``auto``, ``cpu`` or ``cuda``.
        position: line of the progress bar.

    Raises:
        UserError: bad data, folder or device; the training diverged.
    """
    place = device_of(device)
    episodes = read_episodes(data)
    if episodes.metadata.get("env_options", {}).get("cohort") == "evaluation":
        raise UserError(f"{data} holds evaluation patients, on whom agents are compared; train on others.")
    transform = Transform.fit(episodes)
    dataset = Dataset.from_episodes(episodes, transform, device=place)
    factory = _factory(episodes.metadata)
    problem = Problem(dataset.obs.shape[1], dataset.act.shape[1], factory.horizon if factory else None)
    stack = agents.build(agent, agent_config, problem, seeds, device=place, precision=settings.precision)
    meta = episodes.metadata
    config: dict[str, Any] = {
        "schema": SCHEMA,
        "agent": agent,
        "agent_config": asdict(agent_config),
        "seeds": list(seeds),
        "problem": asdict(problem),
        "training": asdict(settings),
        "transform": transform.to_json(),
        "limits": {
            "low": meta["action_low"],
            "high": meta["action_high"],
            "unit": meta.get("dose_unit", "1"),
        },
        "env": {"id": meta["env_id"], "options": meta.get("env_options", {})} if factory else None,
        "data": {
            "name": data.stem,
            "content_hash": meta["content_hash"],
            "visits": len(episodes),
            "patients": len(np.unique(episodes.episode)),
        },
        "obs_names": meta.get("obs_names"),
        "obs_units": meta.get("obs_units"),
        "dose_name": meta.get("dose_name", "dose"),
    }
    run = RunFolder(study / agent / data.stem / run_key(config))
    config |= {
        "versions": _versions(episodes),
        "device": str(place),
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_file": os.path.relpath(data.resolve(), run.path.resolve()),
    }
    with run.lock():
        if run.done:
            run.verify()
            return run
        write_json(run.path / CONFIG, config)
        with _bar(settings.steps, f"train {agent} x {len(seeds)} seeds", "update", position) as bar:
            try:
                train(stack, dataset, run, settings, progress=bar)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{place} has no memory for {len(seeds)} seeds and batches of {settings.batch_size}: "
                    "take fewer or smaller ones, or --device cpu."
                ) from error
    return run


def _factory(metadata: dict[str, Any]) -> Factory | None:
    """The scenario that a data set came from, None for data recorded elsewhere."""
    env_id = metadata.get("env_id")
    if not env_id or env_id not in gymnasium.registry or not str(env_id).startswith("dosing/"):
        return None
    options = {
        k: v for k, v in metadata.get("env_options", {}).items() if k not in ("cohort", "first_patient")
    }
    return Factory.of(env_id, options)


def factory_of(run: RunFolder) -> Factory:
    """The scenario of a run.

    Raises:
        UserError: its data came from no simulator of ours.
    """
    env = run.config()["env"]
    found = _factory({"env_id": env["id"], "env_options": env["options"]}) if env else None
    if found is None:
        raise UserError(
            f"{run.path} was trained on data without a simulator, so it cannot be evaluated here."
        )
    return found


def episodes_of(run: RunFolder) -> Episodes:
    """The recorded visits a run was trained on, checked against the hash it recorded.

    Raises:
        UserError: the file has gone or is another one.
    """
    config = run.config()
    episodes = read_episodes(Path(os.path.normpath(run.path / config["data_file"])))
    if episodes.metadata["content_hash"] != config["data"]["content_hash"]:
        raise UserError(f"{config['data_file']} is not the data that {run.path} was trained on.")
    return episodes


def policy_of(run: RunFolder, device: str = "cpu") -> DosePolicy:
    """Load the policy of a finished run; see :func:`dosing.policy.load_policy`."""
    return load_policy(run, agents.build, device=device_of(device))


def limits_of(run: RunFolder) -> DoseLimits:
    """Hard dose limits recorded with a run."""
    limits = run.config()["limits"]
    return DoseLimits(tuple(limits["low"]), tuple(limits["high"]), limits["unit"])


def recommend_from(run: RunFolder, state: Sequence[Any]) -> Recommendation:
    """Recommend a dose from a run folder, through the guarded door."""
    config = run.config()
    policy = policy_of(run)
    return recommend(
        policy, limits_of(run), state, obs_names=config["obs_names"] or (), provenance=provenance(run)
    )


def provenance(run: RunFolder) -> dict[str, Any]:
    """What a recommendation rests on."""
    config = run.config()
    return {
        "run": str(run.path),
        "agent": config["agent"],
        "weights": sha256(run.path / WEIGHTS),
        "data": config["data"]["content_hash"],
        "env": config["env"],
        "versions": config["versions"],
    }


def evaluate_run(run: RunFolder, patients: int, *, position: int = 0) -> None:
    """Evaluate a finished run on new patients and keep the outcome in its folder; nothing is done twice.

    The record names the weights and the hash of the outcome, so that no other or half-written one passes.
    """
    factory = factory_of(run)
    policy = policy_of(run)
    wanted = {"patients": patients, "seeds": list(policy.seeds), "weights": sha256(run.path / WEIGHTS)}
    record, episodes = run.path / EVALUATION, run.path / EPISODES
    present = record.is_file() and episodes.is_file()
    if present and read_json(record) == wanted | {"episodes": sha256(episodes)}:
        return
    name = run.config()["agent"]
    with _bar(2 * factory.horizon, f"evaluate {name} x {len(policy.seeds)} seeds", "visit", position) as bar:
        outcomes = evaluate(policy, factory, patients, progress=bar)
    write_outcomes(episodes, outcomes)
    write_json(record, wanted | {"episodes": sha256(episodes)})


def references_for(study: Path, factory: Factory, seeds: Sequence[int], patients: int) -> References:
    """Reference rules of a scenario, kept in the study folder."""
    key = hashlib.sha256(json.dumps([factory.env_id, factory.options], sort_keys=True).encode()).hexdigest()[
        :8
    ]
    folder = study / "references" / f"{factory.env_id.split('/')[-1]}-{key}"
    return references(folder, factory, seeds, patients)


def evaluate_runs(runs: Sequence[RunFolder], patients: int) -> list[Row]:
    """Evaluate runs of one scenario and the reference rules on the same patients; returns the table.

    Raises:
        UserError: the runs are of different scenarios or seeds.
    """
    for run in runs:
        evaluate_run(run, patients)
    first = runs[0]
    study = first.path.resolve().parents[2]
    policies = {run.path: policy_of(run) for run in runs}
    seeds = policies[first.path].seeds
    factory = factory_of(first)
    if any(factory_of(run) != factory or policies[run.path].seeds != seeds for run in runs):
        raise UserError("runs in one table must share their scenario and seeds.")
    found = references_for(study, factory, seeds, patients)
    states = recorded_states(episodes_of(first))
    sparse = next((p for p in policies.values() if _has_interval(p, states)), None)
    rows = []
    for run in runs:
        config = run.config()
        entry = agents.find(config["agent"])
        family = config["agent_config"].get("policy_family", entry.family).replace("_", " ")
        outcomes = read_outcomes(run.path / EPISODES)
        rows.append(agent_row(entry.title, family, policies[run.path], outcomes, found, states, sparse))
    known = measured(factory.env_id, factory.options)
    ceilings = [ceiling_row(m.policy, m.knows, m.value, m.half_width, m.patients) for m in known]
    return [*rows, *reference_rows(found), *ceilings]


def recorded_states(episodes: Episodes) -> Observations:
    """At most :data:`STATES` recorded observations, evenly spaced over the data."""
    index = np.unique(np.linspace(0, len(episodes) - 1, min(len(episodes), STATES)).astype(int))
    states: Observations = episodes.obs[index]
    return states


def _has_interval(policy: DosePolicy, states: Observations) -> bool:
    """Whether the policy's dose set is a bounded interval: neither the whole line nor a single dose."""
    one = np.broadcast_to(states[:1], (len(policy.seeds), 1, states.shape[1]))
    found = policy.dose_set(one)
    return found.bounded and bool((found.half_width > 0.0).any())


def _bar(total: int, text: str, unit: str, position: int) -> tqdm[Any]:
    """Progress with rate and remaining time; silent where the output is not a terminal."""
    return tqdm(total=total, desc=text, unit=f" {unit}s", position=position, disable=None, file=sys.stderr)
