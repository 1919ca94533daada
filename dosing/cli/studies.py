"""Studies: data, runs, references and tables of one folder, joined from agents, simulator and core.

A study folder holds ``data/`` (recorded visits), ``references/`` (rules that need no learning, per data
set), one run folder per trained stack, ``table.json`` (one row per run and rule) and ``curves.parquet`` (one
row per run, update and seed).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from dosing.comparison import Baseline, References, Row, agent_row, ceiling_row, reference_rows, references
from dosing.data.columns import parse_columns
from dosing.data.dataset import Dataset, Transform
from dosing.data.external import External
from dosing.data.formats import MINARI, is_own
from dosing.data.sources import read_source
from dosing.data.store import Episodes, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.evaluation import evaluate, read_outcomes, write_outcomes
from dosing.familiarity import keep_monitor, monitor_of
from dosing.policy import DosePolicy, Observations, load_policy
from dosing.recommendation import Door, Recommendation, Rules, recommend
from dosing.regularisation import PLAIN, Regularisation
from dosing.runs import (
    CARD,
    CONFIG,
    DONE,
    EPISODES,
    EVALUATION,
    FAMILIARITY,
    FAMILIARITY_VISITS,
    SCHEMA,
    WEIGHTS,
    RunFolder,
    read_json,
    run_key,
    sha256,
    write_json,
    write_table,
)
from dosing.safety import DoseLimits
from dosing.training import TrainingSettings, train
from simulator import ENV_IDS
from simulator.environment import EnvOptions
from simulator.envs.mujoco import REFERENCES, TaskFactory, task_ids
from simulator.generate import simulate
from simulator.measured import measured

TABLE, CURVES = "table.json", "curves.parquet"
STATES = 2000
"""Most recorded visits at which dose sets are measured."""


@dataclass(frozen=True)
class Factory:
    """Vector environments of evaluation patients of one scenario."""

    env_id: str
    options: dict[str, Any]
    limits: DoseLimits
    horizon: int
    patients: int = 1000
    searched: bool = True

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


def external_of(
    env_id: str | None,
    options: Mapping[str, Any],
    *,
    low: Sequence[float] = (),
    high: Sequence[float] = (),
    horizon: int | None = None,
    columns: Sequence[str] = (),
    split_at_jumps: bool = False,
) -> External | None:
    """What the user says about a file of another program; an environment says its limits and its length.

    Args:
        env_id: id of one of our scenarios or of a MuJoCo task.
        options: of that environment.
        low: lower limit of every action.
        high: upper limit of every action.
        horizon: visits after which the recording program cut an episode.
        columns: ``role=name`` pairs, see :func:`dosing.data.columns.parse_columns`.
        split_at_jumps: see ``External``.

    Returns:
        None where nothing was said.

    Raises:
        UserError: an unknown environment or option, or limits that are none.
    """
    limits = n_obs = None
    if low or high:
        limits = DoseLimits(tuple(low), tuple(high))
    if env_id is not None:
        factory = _factory({"env_id": env_id, "env_options": options})
        if factory is None:
            known = ", ".join((*ENV_IDS, *task_ids()))
            raise UserError(f"there is no environment {env_id!r} to evaluate in; there are: {known}.")
        limits, horizon = limits or factory.limits, horizon or factory.horizon
        n_obs = factory.n_obs if isinstance(factory, TaskFactory) else None
    options = dict(options) if env_id is not None else {}
    said = External(limits, env_id, options, n_obs, horizon, parse_columns(columns), split_at_jumps)
    return None if said == External() else said


def obtain_data(
    source: str,
    study: Path,
    *,
    patients: int,
    policy: str,
    seed: int,
    options: dict[str, Any],
    external: External | None = None,
) -> Path:
    """Return the file of recorded visits: our own file itself, another program's copied, or a simulation.

    A simulated file is named by everything that decides its content and is not made twice; a copy of another
    program's visits, with what the user says about them, by its content.

    Raises:
        UserError: neither a file, a Minari data set nor an environment id, the visits are not what they
            should be, or the folder cannot be written.
    """
    if source.startswith(MINARI) or Path(source).is_file():
        if external is None and not source.startswith(MINARI) and is_own(source):
            return Path(source)
        episodes = read_source(source, external)
        card = {name: episodes.metadata.get(name) for name in ("content_hash", "env_id", "env_options")}
        card |= {name: episodes.metadata[name] for name in ("action_low", "action_high")}
        name = (
            source.removeprefix(MINARI).replace("/", "-") if source.startswith(MINARI) else Path(source).stem
        )
        return _kept(study, name, ".hdf5", card, lambda: episodes)
    if source not in gymnasium.registry or not source.startswith("dosing/"):
        known = ", ".join(i for i in gymnasium.registry if i.startswith("dosing/"))
        raise UserError(
            f"--data {source!r} is neither a file nor an environment id nor {MINARI}ID; the ids are: {known}."
        )
    if external is not None:
        raise UserError(f"{source} is simulated here and says itself what it is; leave the description out.")
    recipe = {"env": source, "patients": patients, "policy": policy, "seed": seed, "options": options}
    return _kept(
        study,
        f"{source.split('/')[-1]}-{patients}",
        ".parquet",
        recipe,
        lambda: simulate(source, patients=patients, policy=policy, seed=seed, progress=True, **options),
    )


def _kept(
    study: Path, name: str, suffix: str, decides: Mapping[str, Any], make: Callable[[], Episodes]
) -> Path:
    """The file of the study that holds these visits, written if it is not there."""
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
    path = study / "data" / f"{name}-{key}{suffix}"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write the study folder {study}: {error.strerror or error}.") from error
        write_episodes(make(), path)
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
    factory = _factory(episodes.metadata)
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
    if regularisation != PLAIN:
        config["regularisation"] = regularisation.changed()
    run = RunFolder(study / agent / data.stem / run_key(config))
    config |= {
        "versions": _versions(episodes),
        "device": str(place),
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_file": os.path.relpath(data.resolve(), run.path.resolve()),
    }
    with run.lock():
        if run.done and not run.lacking(settings.before_end(milestones)):
            run.verify()
            return run
        write_json(run.path / CONFIG, config)
        keep_monitor(run.path, episodes)
        if meta.get("card"):
            write_json(run.path / CARD, meta["card"])
        with _bar(settings.steps, f"train {agent} x {len(seeds)} seeds", "update", position) as bar:
            try:
                train(stack, dataset, run, settings, milestones=milestones, progress=bar)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{place} has no memory for {len(seeds)} seeds and batches of {settings.batch_size}: "
                    "take fewer or smaller ones, or --device cpu."
                ) from error
    return run


def _factory(metadata: Mapping[str, Any]) -> Factory | TaskFactory | None:
    """The scenario or task that a data set came from, None where it cannot be played here."""
    env_id = metadata.get("env_id")
    options = {
        k: v for k, v in metadata.get("env_options", {}).items() if k not in ("cohort", "first_patient")
    }
    if env_id in task_ids():
        return TaskFactory(str(env_id), options)
    if not env_id or env_id not in gymnasium.registry or not str(env_id).startswith("dosing/"):
        return None
    return Factory.of(env_id, options)


def evaluable(data: Path) -> Factory | TaskFactory:
    """The scenario that recorded visits came from, before anything is trained on them.

    Raises:
        UserError: the file cannot be read, or comes from no simulator of ours.
    """
    factory = _factory(read_episodes(data).metadata)
    if factory is None:
        raise UserError(
            f"{data} comes from no simulator here: agents trained on it meet no new patients. If it was "
            "recorded in an environment that is known here, name it with --env."
        )
    return factory


def factory_of(run: RunFolder) -> Factory | TaskFactory:
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


def policy_of(run: RunFolder, device: str = "cpu", update: int | None = None) -> DosePolicy:
    """Load the policy of a finished run; see :func:`dosing.policy.load_policy`."""
    return load_policy(run, agents.build, device=device_of(device), update=update)


def limits_of(run: RunFolder) -> DoseLimits:
    """Hard dose limits recorded with a run."""
    limits = run.config()["limits"]
    return DoseLimits(tuple(limits["low"]), tuple(limits["high"]), limits["unit"])


def door_of(run: RunFolder, device: str = "cpu") -> Door:
    """The guarded door before the policy of a finished run, every file checked against its hash.

    A run from before there were monitors and cards has none; its answers say so.

    Raises:
        UserError: the run is unfinished or damaged, or its monitor is of other data.
    """
    config, policy = run.config(), policy_of(run, device)
    vouched = read_json(run.path / DONE)
    card = read_json(run.path / CARD) if CARD in vouched else None
    rules = Rules.of(limits_of(run), config.get("obs_names") or (), config.get("obs_units") or (), card)
    monitor, note = None, "This run has no monitor of unfamiliar states: it was trained before there was one."
    if FAMILIARITY in vouched:
        monitor, note = monitor_of(run.path)
    if monitor is not None and monitor.data != config["data"]["content_hash"]:
        raise UserError(f"{run.path / FAMILIARITY} is not of the data that the run was trained on.")
    return Door(policy, rules, monitor, note, provenance(run))


def recommend_from(
    run: RunFolder, state: Sequence[Any], current: Sequence[Any] | None = None
) -> Recommendation:
    """Recommend a dose from a run folder, through the guarded door."""
    return recommend(door_of(run), state, current)


def provenance(run: RunFolder) -> dict[str, Any]:
    """What a recommendation rests on; the hashes are those recorded when the run finished."""
    config, vouched = run.config(), read_json(run.path / DONE)
    return {
        "run": str(run.path),
        "agent": config["agent"],
        "weights": vouched.get(WEIGHTS),
        "data": config["data"]["content_hash"],
        "card": vouched.get(CARD),
        "monitor": vouched.get(FAMILIARITY_VISITS),
        "env": config["env"],
        "versions": config["versions"],
    }


def evaluate_run(
    run: RunFolder, patients: int | None, *, update: int | None = None, position: int = 0
) -> None:
    """Evaluate a finished run on new patients and keep the outcome in its folder; nothing is done twice.

    The record names the weights and the hash of the outcome, so that no other or half-written one passes.

    Args:
        run: the run.
        patients: per seed, the same at every update; None is the scenario's own number.
        update: one of its milestones; None is the end.
        position: line of the progress bar.
    """
    factory = factory_of(run)
    patients = factory.patients if patients is None else patients
    policy = policy_of(run, update=update)
    folder = run.at(update)
    wanted = {"patients": patients, "seeds": list(policy.seeds), "weights": sha256(folder / WEIGHTS)}
    record, episodes = folder / EVALUATION, folder / EPISODES
    present = record.is_file() and episodes.is_file()
    if present and read_json(record) == wanted | {"episodes": sha256(episodes)}:
        return
    name = run.config()["agent"]
    with _bar(2 * factory.horizon, f"evaluate {name} x {len(policy.seeds)} seeds", "visit", position) as bar:
        outcomes = evaluate(policy, factory, patients, progress=bar)
    write_outcomes(episodes, outcomes)
    write_json(record, wanted | {"episodes": sha256(episodes)})


def references_for(
    study: Path, factory: Factory | TaskFactory, episodes: Episodes, seeds: Sequence[int], patients: int
) -> References:
    """Reference rules of a scenario and of the visits recorded in it, kept in the study folder."""
    decides = [factory.env_id, factory.options, episodes.metadata["content_hash"]]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
    folder = study / "references" / f"{factory.env_id.split('/')[-1]}-{key}"
    return references(folder, factory, seeds, patients, Baseline.of(episodes))


def evaluate_runs(runs: Sequence[RunFolder], patients: int | None) -> tuple[list[Row], list[Row]]:
    """Evaluate runs of one data set and the reference rules on the same patients.

    Returns:
        One row per run, and the rows of reference rules and ceilings.

    Raises:
        UserError: the runs are of different data sets, scenarios or seeds.
    """
    for run in runs:
        evaluate_run(run, patients)
    first = runs[0]
    study = first.path.resolve().parents[2]
    policies = {run.path: policy_of(run) for run in runs}
    seeds = policies[first.path].seeds
    factory = factory_of(first)
    patients = factory.patients if patients is None else patients
    configs = [run.config() for run in runs]
    if any(factory_of(run) != factory or policies[run.path].seeds != seeds for run in runs):
        raise UserError("runs in one table must share their scenario and seeds.")
    if len({config["data"]["content_hash"] for config in configs}) > 1:
        raise UserError("runs in one table must share their data set, whose constant dose they stand beside.")
    episodes = episodes_of(first)
    found = references_for(study, factory, episodes, seeds, patients)
    states = recorded_states(episodes)
    sparse = next((p for p in policies.values() if _has_interval(p, states)), None)
    rows = [
        agent_row(
            name,
            family_of(config),
            policies[run.path],
            read_outcomes(run.path / EPISODES),
            found,
            states,
            sparse,
        )
        for run, config, name in zip(runs, configs, names_of(configs), strict=True)
    ]
    known = measured(factory.env_id, factory.options)
    ceilings = [ceiling_row(m.policy, m.knows, m.value, m.half_width, m.patients) for m in known]
    data = configs[0]["data"]["name"]
    rules = [*reference_rows(found), *ceilings]
    return [replace(row, data=data) for row in rows], [replace(row, data=data) for row in rules]


def task_notes(runs: Sequence[RunFolder], rows: Sequence[Row]) -> list[str]:
    """What is said beside the returns of MuJoCo tasks: normalised scores and lengths of episodes.

    Args:
        runs: of one data set.
        rows: theirs, in the same order.
    """
    factory = factory_of(runs[0])
    if not isinstance(factory, TaskFactory):
        return []
    visits = [read_outcomes(run.path / EPISODES)["recommended"].visits.mean() for run in runs]
    lengths = ", ".join(f"{row.name} {length:.0f}" for row, length in zip(rows, visits, strict=True))
    notes = [f"mean length of {factory.env_id} episodes, at most {factory.horizon} visits: {lengths}"]
    if reference := REFERENCES.get(factory.env_id):
        score = reference.score
        scores = [
            f"{row.name} {score(e.value):.1f} [{score(e.low):.1f}, {score(e.high):.1f}]"
            for row in rows
            for e in (row.recommended,)
        ]
        between = f"random {reference.random:g}, expert {reference.expert:g}, {reference.source}"
        notes.append(f"normalised scores of recommended doses ({between}): {', '.join(scores)}")
    return notes


def family_of(config: Mapping[str, Any]) -> str:
    """Law of a run's policy, in words."""
    own = config["agent_config"]
    if own.get("actor") == "gaussian":
        return "clipped Gaussian"
    family: str = own.get("policy_family", agents.find(config["agent"]).family)
    return family.replace("_", " ").replace("gaussian", "Gaussian")


def names_of(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles of runs, each with the settings in which it differs from other runs of its agent.

    The law of the policy is not repeated: it has a column of its own.
    """
    return [
        ", ".join([agents.find(config["agent"]).title, *setting])
        for config, setting in zip(configs, settings_of(configs), strict=True)
    ]


def settings_of(configs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """For each run the settings, as ``name=value``, in which runs of its agent differ from each other."""
    full = [
        {**config["agent_config"], **asdict(Regularisation.of(config.get("regularisation")))}
        for config in configs
    ]
    found = []
    for config, own in zip(configs, full, strict=True):
        alike = [f for f, other in zip(full, configs, strict=True) if other["agent"] == config["agent"]]
        differ = [k for k in own if k != "policy_family" and any(f.get(k) != own[k] for f in alike)]
        found.append([f"{k}={json.dumps(own[k]).strip(chr(34)).replace(' ', '')}" for k in differ])
    return found


def write_curves(study: Path, runs: Sequence[RunFolder], milestones: Sequence[int]) -> None:
    """Write mean returns of every run, update and seed as one long table, ``curves.parquet``.

    Columns: agent (registry key), name, setting, policy, data, run, update, seed, and the mean return over
    the evaluation patients by ``recommended`` and by ``sampled`` doses.
    """
    configs = [run.config() for run in runs]
    rows: list[dict[str, Any]] = []
    for run, config, setting in zip(runs, configs, settings_of(configs), strict=True):
        steps = config["training"]["steps"]
        about = {
            "agent": config["agent"],
            "name": ", ".join([agents.find(config["agent"]).title, *setting]),
            "setting": ", ".join(setting),
            "policy": family_of(config),
            "data": config["data"]["name"],
            "run": os.path.relpath(run.path, study),
        }
        for update in [*milestones, steps]:
            outcomes = read_outcomes(run.at(None if update == steps else update) / EPISODES)
            means = {rule: outcomes[rule].returns.mean(1) for rule in ("recommended", "sampled")}
            for k, seed in enumerate(config["seeds"]):
                values = {rule: float(mean[k]) for rule, mean in means.items()}
                rows.append(about | {"update": update, "seed": seed} | values)
    write_table(study / CURVES, {name: [row[name] for row in rows] for name in rows[0]})


def recorded_states(episodes: Episodes) -> Observations:
    """At most :data:`STATES` recorded observations, evenly spaced over the data."""
    index = np.unique(np.linspace(0, len(episodes) - 1, min(len(episodes), STATES)).astype(int))
    states: Observations = episodes.obs[index]
    return states


def _has_interval(policy: DosePolicy, states: Observations) -> bool:
    """Whether the policy's dose set is an exact interval: neither all doses nor a finite set of them."""
    one = np.broadcast_to(states[:1], (len(policy.seeds), 1, states.shape[1]))
    return policy.dose_set(one).kind == "interval"


def _bar(total: int, text: str, unit: str, position: int) -> tqdm[Any]:
    """Progress with rate and remaining time; silent where the output is not a terminal."""
    return tqdm(total=total, desc=text, unit=f" {unit}s", position=position, disable=None, file=sys.stderr)
