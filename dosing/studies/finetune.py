"""Trials: offline runs go on in live treatment, several methods side by side on the same evaluation patients.

``<study>/trials/<method>/<data>/<key>/`` is a run folder (``dosing.runs.folder``) whose ``config.json`` also
says from which offline run it started; besides, ``episodes.parquet`` has one row per treated patient,
``curve.parquet`` one per evaluation and seed (``dosing.finetuning.trial``), ``episodes.parquet`` the patients
of the last evaluation, and ``report.json`` says whether and why seeds stopped.
``<study>/trials/curves.parquet`` joins the curves of the last command, ``<study>/trials/table.json`` is its
table, and ``<study>/trials/starts.parquet`` says what the offline policies get on the same evaluation
patients.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tqdm import tqdm

import agents
from agents import finetuning
from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.data.metadata import DatasetMetadata
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.rollout import evaluate
from dosing.finetuning.method import Start, TrialSettings
from dosing.finetuning.patients import SPAN, PatientsUnderTreatment, Waves
from dosing.finetuning.trial import Trial, conduct
from dosing.policy import DosePolicy
from dosing.runs.config import EnvironmentReference, RunConfig, TrialReference
from dosing.runs.files import read_tensors, sha256, write_json
from dosing.runs.folder import CONFIG, WEIGHTS, RunFolder
from dosing.studies.data import episodes_of
from dosing.studies.finetune_table import TRIALS, Report, report_on, rows_of_start, write_starts
from dosing.studies.launch import device_of, none_lost
from dosing.studies.mujoco_patients import Tasks
from dosing.studies.naming import distinct, family_of, run_names
from dosing.studies.scenarios import factory_of, keep_scenario
from dosing.studies.settings import Resources
from dosing.studies.single_patients import SinglePatients
from dosing.training.offline import TrainingDivergedError
from dosing.training.thin_agent import Thinned
from simulator.envs.registered import scenario_id
from simulator.envs.tasks import TaskFactory
from simulator.scenarios import EvaluationFactory, evaluation_factory


@dataclass(frozen=True)
class TrialJob:
    """One method that goes on from one offline run."""

    method: str
    run: Path
    study: Path
    settings: TrialSettings
    env_id: str | None = None
    env_options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int | None = None
    evaluation_patients: int | None = None
    device: str = "auto"


def start_of(run: RunFolder, seeds: int | None = None, device: str = "cpu") -> Start:
    """What a trial starts from, every file checked against its hash.

    Args:
        run: a finished offline run.
        seeds: its first so many seeds; None for all of them.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: the run is unfinished, damaged or itself a trial, its data have gone, or it has fewer
            seeds.
    """
    config = run.verify().config
    if config.trial is not None:
        raise UserError(f"{run.path} is a trial; a trial starts from an offline run.")
    if config.regularisation.cost_budget is not None:
        raise UserError(f"{run.path} was trained within a cost budget, which a trial does not keep.")
    weights, _ = read_tensors(run.path / WEIGHTS)
    every = config.seeds
    if seeds is not None and not 1 <= seeds <= len(every):
        raise UserError(f"{run.path} has {len(every)} seeds; --seeds must be 1 to {len(every)}, got {seeds}.")
    chosen = every[:seeds]
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config.agent_config.items()}
    stacked = {name: x for name, x in weights.items() if x.dim() and x.shape[0] == len(every)}
    start = Start(
        name=config.agent,
        config=agents.find(config.agent).config_class()(**fields),
        problem=config.problem,
        seeds=chosen,
        regularisation=config.regularisation,
        weights=weights | {name: x[: len(chosen)] for name, x in stacked.items()},
        updates=config.updates,
        dataset=Dataset.from_episodes(episodes_of(run), config.transform, device=device_of(device)),
        build=agents.build,
        further={name: x[len(chosen) :] for name, x in stacked.items()} if len(chosen) < len(every) else {},
    )
    return start


def patients_of(
    factory: EvaluationFactory, meta: DatasetMetadata, seeds: Sequence[int], patients: int
) -> PatientsUnderTreatment:
    """New patients of a scenario, or episodes of a MuJoCo task, for every seed of a trial.

    Args:
        factory: the scenario or task.
        meta: of the data set, whose replication of the population they are of.
        seeds: the S seeds.
        patients: P per seed.

    Raises:
        UserError: the data set has patients of the numbers that are kept for trials.
    """
    if isinstance(factory, TaskFactory):
        return Tasks(factory.env_id, factory.options, seeds, patients)
    if meta.first_patient + (meta.patients or 0) > SPAN:
        raise UserError(f"the data set has patients beyond number {SPAN}, which are kept for trials.")

    if factory.terminates:
        return SinglePatients(factory, seeds, patients, meta.seed or 0)

    def make(count: int) -> VectorEnv[Any, Any, Any]:
        return factory.cohort(count, cohort="train")

    return Waves(make, seeds, patients, factory.limits, meta.seed or 0)


def _factory(job: TrialJob) -> EvaluationFactory:
    """Where the trial takes place: the environment of the data unless another is named."""
    if job.env_id is None:
        factory = factory_of(RunFolder(job.run))
        env_id, options = factory.env_id, factory.options | dict(job.env_options)
    else:
        env_id, options = scenario_id(job.env_id), dict(job.env_options)
    return evaluation_factory(env_id, options)


def conduct_trial(job: TrialJob, position: int = 0) -> RunFolder | TrainingDivergedError:
    """Run one trial, or continue it, or find it finished; returns its folder, or how it diverged.

    Raises:
        UserError: the method cannot start from this run, the environment is not one for its agent, or files
            are amiss.
    """
    start = start_of(RunFolder(job.run), job.seeds, job.device)
    factory = _factory(job)
    settings = job.settings
    learner = finetuning.find(job.method).method().learner(start, settings)
    patients = factory.patients if job.evaluation_patients is None else job.evaluation_patients
    run, config = _run_of(job, start, learner.agent, factory, patients)
    with run.lock():
        if run.done:
            run.verify()
            return run
        write_json(run.path / CONFIG, config.to_json())
        keep_scenario(run, factory.env_id)
        conducted = Trial(
            learner,
            patients_of(factory, start.dataset.metadata, learner.agent.seeds, settings.patients),
            start.transform,
            settings,
            lambda policy: evaluate(policy, factory, patients),
        )
        text = f"{job.method} x {len(learner.agent.seeds)} seeds"
        with tqdm(
            total=settings.visits,
            desc=text,
            unit=" visits",
            position=position,
            disable=None,
            file=sys.stderr,
        ) as bar:
            try:
                conduct(conducted, run, progress=bar)
            except TrainingDivergedError as error:  # one method's failure is a finding
                return error
    return run


def _run_of(
    job: TrialJob, start: Start, agent: Agent, factory: EvaluationFactory, patients: int
) -> tuple[RunFolder, RunConfig]:
    """Folder and configuration of a trial."""
    offline = RunFolder(job.run)
    before = offline.config()
    own = getattr(agent, "config", None)
    trial = TrialReference(
        method=job.method,
        start_seeds=start.seeds,
        settings=asdict(job.settings) | {"evaluation_patients": patients},
        offline_agent=start.name,
        offline_weights=sha256(offline.path / WEIGHTS),
    )
    config = replace(
        before,  # problem, transform, limits, data and names are those of the offline run
        agent=_name_of(agent),
        agent_config=json.loads(json.dumps(asdict(own))) if own is not None else {},
        seeds=tuple(agent.seeds),
        training={},
        env=EnvironmentReference(factory.env_id, factory.options),
        regularisation=agent.regularisation,
        trial=trial,
        versions=dict(before.versions) | {"torch": torch.__version__, "numpy": np.__version__},
        device=str(start.dataset.obs.device),
        threads=torch.get_num_threads(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    folder = job.study / TRIALS / job.method.partition(",")[0]
    run = RunFolder(folder / before.data.name / config.key)
    data = os.path.normpath(offline.path / before.data_file)
    config = replace(
        config,
        data_file=os.path.relpath(data, run.path.resolve()),
        trial=replace(trial, offline_run=os.path.relpath(offline.path.resolve(), run.path.resolve())),
    )
    return run, config


def start_outcomes(job: TrialJob, position: int = 0) -> dict[str, Outcomes]:
    """What the offline policy that a trial starts from gets on the trial's evaluation patients, by rule."""
    del position
    start, factory = start_of(RunFolder(job.run), job.seeds, job.device), _factory(job)
    patients = factory.patients if job.evaluation_patients is None else job.evaluation_patients
    return evaluate(DosePolicy(start.transferred(), start.transform), factory, patients)


def evaluate_start(job: TrialJob, position: int = 0) -> list[dict[str, float]]:
    """Its rows in the table of starts, one per seed."""
    return rows_of_start(start_outcomes(job, position))


def policy_of_trial(run: RunFolder, device: str = "cpu") -> DosePolicy:
    """The policy that a finished trial ended with; also where the agent is one that only its method makes.

    Raises:
        UserError: the trial is unfinished or damaged, or the offline run that it started from has gone.
    """
    trial = run.verify().config.trial
    if trial is None:
        raise UserError(f"{run.path} is no trial; see: python -m dosing finetune.")
    offline = RunFolder(Path(os.path.normpath(run.path / trial.offline_run)))
    start = start_of(offline, len(trial.start_seeds), device)
    names = TrialSettings.__dataclass_fields__
    settings = TrialSettings(**{name: value for name, value in trial.settings.items() if name in names})
    learner = finetuning.find(trial.method).method().learner(start, settings)
    learner.agent.load_state_dict(read_tensors(run.path / WEIGHTS)[0])
    return DosePolicy(learner.agent, start.transform)


def _name_of(agent: Agent) -> str:
    """Registry key of an agent, thin or not; empty for one that only a method makes."""
    kind = type(agent.inner if isinstance(agent, Thinned) else agent)
    return next((n for n, e in agents.AGENTS.items() if e.agent_class() is kind), "")


def _begun(settings: TrialSettings, method: str) -> TrialSettings:
    """The settings with the visits before a method's first update as in its released code, if known."""
    first = finetuning.find(method).first_visits
    return settings if first is None else replace(settings, start=first)


def finetune(
    methods: Sequence[str],
    runs: Sequence[Path],
    *,
    study: Path | None = None,
    settings: TrialSettings | None = None,
    published_start: bool = False,
    env: EnvironmentReference | Mapping[str, Any] | None = None,
    seeds: int | None = None,
    evaluation_patients: int | None = None,
    resources: Resources | None = None,
) -> Report:
    """Run trials side by side; write ``trials/table.json`` and ``trials/curves.parquet``.

    Every method starts from every run that it can start from. All trials are evaluated on the same patients.

    Args:
        methods: registry keys, or ``["all"]``.
        runs: finished offline runs of one data set.
        study: study folder; None is that of the first run.
        settings: see ``dosing.finetuning.method.TrialSettings``.
        published_start: each method's first update after as many visits as in its released code, in place of
            ``settings.start``, where that is known.
        env: environment of the trial, or options that the environment of the data gets besides.
        seeds: see :func:`start_of`.
        evaluation_patients: per seed; None is the scenario's own number.
        resources: where it is computed.

    Raises:
        UserError: bad input, a method that can start from none of the runs, or a failed trial.
    """
    settings = settings or TrialSettings()
    settings.check()
    chosen = list(finetuning.METHODS) if list(methods) == ["all"] else list(dict.fromkeys(methods))
    if not runs:
        raise UserError("a trial starts from a finished run: give --run.")
    resources = resources or Resources()
    study = runs[0].resolve().parents[2] if study is None else study
    device, launcher = resources.device, resources.launcher(study)
    starts = _starts(runs, seeds, "cpu")  # to look at; jobs choose their device where they run
    pairs, notes = _pairs(chosen, starts, named=list(methods) != ["all"])
    env_id, options = (env.id, env.options) if isinstance(env, EnvironmentReference) else (None, env or {})
    jobs = [
        TrialJob(
            name,
            path,
            study,
            _begun(settings, name) if published_start else settings,
            env_id,
            options,
            seeds,
            evaluation_patients,
            device,
        )
        for name, path in pairs
    ]
    results = list(launcher.map(conduct_trial, jobs))
    done = [(job, result) for job, result in zip(jobs, results, strict=True) if isinstance(result, RunFolder)]
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, UserError):
            notes.append(f"{job.method} from {starts[job.run].name}: {result}")
    if not done:
        raise UserError(notes[-1])
    configs = [RunFolder(path).config() for path in starts]
    named = dict(zip(starts, distinct(run_names(configs), list(map(family_of, configs))), strict=True))
    titles = [
        finetuning.find(job.method).title + (f" from {named[job.run]}" if len(starts) > 1 else "")
        for job, _ in done
    ]
    finished = [(job.method, run, title) for (job, run), title in zip(done, titles, strict=True)]
    first = list({job.run: job for job, _ in done}.values())
    rows = none_lost(launcher.map(evaluate_start, first))
    write_starts(study, {job.run: own for job, own in zip(first, rows, strict=True)})
    return report_on(study, finished, notes)


def _starts(runs: Sequence[Path], seeds: int | None, device: str) -> dict[Path, Start]:
    """The starts by their runs, which share seeds and data so that trials are paired."""
    starts = {path: start_of(RunFolder(path), seeds, device) for path in runs}
    first = starts[runs[0]]
    for path, start in starts.items():
        same = start.dataset.metadata.content_hash == first.dataset.metadata.content_hash
        if not same or start.seeds != first.seeds:
            raise UserError(f"{path} has other seeds or another data set than {runs[0]}: trials are paired.")
    return starts


def _pairs(
    names: Sequence[str], starts: Mapping[Path, Start], *, named: bool
) -> tuple[list[tuple[str, Path]], list[str]]:
    """Which method starts from which run; and why some methods start from none.

    Raises:
        UserError: a method that was named, or every method, can start from none of them.
    """
    pairs: list[tuple[str, Path]] = []
    notes: list[str] = []
    for name in names:
        method = finetuning.find(name).method()
        refusals = {path: method.refusal(start) for path, start in starts.items()}
        able = [path for path, why in refusals.items() if why is None]
        pairs += [(name, path) for path in able]
        if not able:
            notes += [f"{name} cannot start from {path}: {why}" for path, why in refusals.items()]
            if named:
                raise UserError(notes[-1])
    if not pairs:
        raise UserError("no method can start from these runs. " + " ".join(notes))
    return pairs, notes
