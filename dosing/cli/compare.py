"""Several runs at once: the demo, and comparisons of agents and policy families on the same data.

Runs go side by side in a pool of processes with one torch thread each; the seeds of a run go together inside
it. Every run is a folder named by what decides its result, so the same command continues where a killed one
stopped: finished runs are found, a run in flight goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from tqdm import tqdm

import agents
from dosing.agent import Problem
from dosing.cli import presets
from dosing.cli.studies import (
    TABLE,
    device_of,
    evaluable,
    evaluate_run,
    evaluate_runs,
    names_of,
    obtain_data,
    task_notes,
    train_run,
    write_curves,
)
from dosing.comparison import Difference, Row, difference, render
from dosing.data.external import External
from dosing.errors import UserError
from dosing.evaluation import Outcomes, read_outcomes
from dosing.regularisation import PLAIN, Regularisation
from dosing.runs import EPISODES, RunFolder, write_json
from dosing.training import TrainingDivergedError, TrainingSettings

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """One stack of seeds to train on one data file and, where patients are given, to evaluate on new ones."""

    agent: str
    config: Any
    data: Path
    study: Path
    seeds: tuple[int, ...]
    settings: TrainingSettings
    device: str
    evaluation_patients: int | None
    milestones: tuple[int, ...] = ()
    data_options: Mapping[str, Any] = field(default_factory=dict)
    regularisation: Regularisation = PLAIN


def run_jobs(jobs: Sequence[Job], workers: int | None = None) -> list[RunFolder | TrainingDivergedError]:
    """Train and evaluate every job; returns, in the order of the jobs, the run or how its training diverged.

    Args:
        jobs: what to do.
        workers: processes; None is one per core on the CPU and one on a GPU.

    Raises:
        UserError: a job failed, or a worker was killed; the same call continues.
    """
    return in_processes(_work, jobs, jobs[0].device, workers)


def in_processes(
    work: Callable[[J, int], R], jobs: Sequence[J], device: str, workers: int | None = None
) -> list[R]:
    """Results of ``work(job, line of its progress bar)`` for every job, side by side, in their order.

    Args:
        work: a function of a module, and its results can be pickled.
        jobs: what to do.
        device: where the jobs compute: ``auto``, ``cpu`` or ``cuda``.
        workers: processes; None is one per core on the CPU and one on a GPU.

    Raises:
        UserError: a job failed, or a worker was killed; the same call continues.
    """
    if workers is None:
        workers = (os.cpu_count() or 1) if device_of(device).type == "cpu" else 1
    workers = min(len(jobs), workers)
    if workers == 1:
        with _one_thread():
            return [work(job, 0) for job in jobs]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (context.RLock(),)) as pool:
        try:
            futures = [pool.submit(work, job, number % workers) for number, job in enumerate(jobs)]
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise UserError(
                "a worker was killed; the same command continues from its checkpoints."
            ) from error
        except BaseException:  # SIGTERM, Ctrl-C or one failed job: do not wait for the others' end
            for child in multiprocessing.active_children():
                child.terminate()
            raise


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker, so that the number of workers changes no bit of a result."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start_worker(lock: Any) -> None:
    """One torch thread per worker: seeds and runs go side by side, small products do not gain from two."""
    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A command that was killed cannot stop its workers; without this they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: Job, position: int) -> RunFolder | TrainingDivergedError:
    try:
        run = train_run(
            job.agent,
            job.config,
            job.data,
            job.study,
            job.seeds,
            job.settings,
            job.device,
            data_options=job.data_options,
            regularisation=job.regularisation,
            milestones=job.milestones,
            position=position,
        )
    except TrainingDivergedError as error:  # one method's failure is a finding, not the end of the study
        return error
    if job.evaluation_patients is not None:
        for update in (*job.milestones, None):
            evaluate_run(run, job.evaluation_patients, update=update, position=position)
    return run


def configurations(
    names: Sequence[str],
    families: Sequence[str],
    settings: Mapping[str, Sequence[Any]],
    preset: presets.Preset | None = None,
    regularisations: Sequence[Regularisation] = (PLAIN,),
    training: TrainingSettings | None = None,
    left_out: dict[str, str] | None = None,
) -> list[tuple[str, Any]]:
    """Agents and their configurations: every combination of the settings, for every policy family.

    Args:
        names: registry keys, or ``["all"]``.
        families: policy families, for agents that have the choice; empty keeps each agent's own.
        settings: ``agent.field`` or ``field`` (for every agent that has it) to the values it takes in turn.
        preset: applied before the settings.
        regularisations: what every agent has to be able to work with.
        training: likewise.
        left_out: if given, takes the agents of ``["all"]`` that cannot work with the regularisation or the
            training asked for, with the reason. A setting's value that is refused is never left out.

    Raises:
        UserError: unknown agent, family or field, a value that the agent refuses, or an agent named that
            cannot carry both laws of the preset's contrast.
    """
    preset = preset or presets.find(None)
    contrast = preset.contrast
    found: list[tuple[str, Any]] = []
    used: set[str] = set()
    for name in _chosen(names, contrast):
        config_class = agents.find(name).config_class()
        hints = get_type_hints(config_class)
        values = {key: [value] for key, value in preset.settings(name, config_class).items()}
        if families and "policy_family" in hints:
            values["policy_family"] = list(families)
        if contrast and (law := contrast.of(config_class)):
            values[law] = list(contrast.fields[law])
        for key, alternatives in sorted(settings.items(), key=lambda item: "." in item[0]):
            agent, _, setting = key.rpartition(".")
            if agent in ("", name) and setting in hints:
                values[setting] = [_typed(key, value, hints[setting]) for value in alternatives]
                used.add(key)
        for combination in itertools.product(*values.values()):
            config = config_class(**dict(zip(values, combination, strict=True)))
            if (name, config) not in found:
                found.append((name, config))
    unused = [key for key in settings if key not in used]
    if unused:
        raise UserError(f"none of the chosen agents has the setting {unused[0]!r}.")
    return _accepting(found, regularisations, training, left_out if list(names) == ["all"] else None)


def _accepting(
    configured: Sequence[tuple[str, Any]],
    regularisations: Sequence[Regularisation],
    training: TrainingSettings | None,
    left_out: dict[str, str] | None,
) -> list[tuple[str, Any]]:
    """Those that do not refuse; the others go to ``left_out`` with the reason.

    Raises:
        UserError: all refuse, one of them where there is no ``left_out``, or one refuses its own settings.
    """
    found = []
    for name, config in configured:
        _check(name, config, (PLAIN,), None)
        try:
            _check(name, config, regularisations, training)
        except UserError as error:
            if left_out is None:
                raise
            left_out[name] = str(error)
        else:
            found.append((name, config))
    if left_out and not found:
        raise UserError(next(iter(left_out.values())))
    return found


def _check(
    name: str, config: Any, regularisations: Sequence[Regularisation], training: TrainingSettings | None
) -> None:
    """Refuse what the agent would refuse once its run has begun."""
    for options in regularisations:
        built = agents.build(name, config, Problem(1, 1, 1), (0,), regularisation=options)
        if training is not None:
            training.check_length(built)


def _chosen(names: Sequence[str], contrast: presets.Contrast | None) -> list[str]:
    """The agents named, each once; of a contrast, those that can carry both its laws."""
    everyone = list(names) == ["all"]
    found = list(agents.AGENTS) if everyone else list(dict.fromkeys(names))
    if contrast is None:
        return found
    able = [name for name in found if contrast.of(agents.find(name).config_class())]
    if not everyone and (unable := [name for name in found if name not in able]):
        raise UserError(f"{unable[0]} has no choice between a {' and a '.join(contrast.words)} law.")
    return able


def _typed(key: str, value: Any, hint: Any) -> Any:
    """A setting's value in the type of its field, so that 2 and 2.0 are one setting.

    Raises:
        UserError: it is of another type.
    """
    if isinstance(value, list):
        value = tuple(value)
    kinds = get_args(hint) or (hint,)
    if float in kinds and type(value) is int:
        value = float(value)
    words = {float: "a number", int: "a whole number", bool: "true or false", type(None): "null"}
    if set(kinds) <= set(words) and type(value) not in kinds:
        raise UserError(f"{key} must be {' or '.join(words[kind] for kind in kinds)}, got {value!r}.")
    return value


def regularisations(
    options: Mapping[str, Sequence[Any]], preset: presets.Preset | None = None
) -> list[Regularisation]:
    """Every combination of options of ``dosing.regularisation``, on top of the preset's.

    Raises:
        UserError: an option is unknown, or a value of another type or out of range.
    """
    hints = get_type_hints(Regularisation)
    if unknown := [name for name in options if name not in hints]:
        raise UserError(f"there is no regularisation {unknown[0]!r}; there are: {', '.join(hints)}.")
    base = {name: [value] for name, value in (preset.regularisation if preset else {}).items()}
    given = {name: [_typed(name, v, hints[name]) for v in values] for name, values in options.items()}
    values = base | given
    found = [Regularisation(**dict(zip(values, c, strict=True))) for c in itertools.product(*values.values())]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        rows: one per run, then those of reference rules and ceilings.
        differences: one per pair of runs that a preset sets side by side.
        notes: what a reader of the table has to know, such as runs that diverged and are not in it.
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the table, the differences and the notes as text."""
        notes = [f"note: {note}" for note in self.notes]
        head = ["paired by patient, with 95 % intervals:"] if self.differences else []
        return "\n".join([render(self.rows), *head, *map(str, self.differences), *notes])


def compare(
    study: Path | str,
    names: Sequence[str],
    data: Sequence[str | Path],
    *,
    patients: int = 50,
    policy: str = "uniform",
    data_seed: int = 0,
    env_options: Mapping[str, Any] | None = None,
    families: Sequence[str] = (),
    settings: Mapping[str, Sequence[Any]] | None = None,
    preset: str | None = None,
    seeds: Sequence[int] = range(5),
    training: TrainingSettings | None = None,
    data_options: Mapping[str, Any] | None = None,
    regularise: Mapping[str, Sequence[Any]] | None = None,
    milestones: Sequence[int] = (),
    device: str = "auto",
    evaluation_patients: int | None = None,
    workers: int | None = None,
    external: External | None = None,
) -> Comparison:
    """Train and evaluate agents on the same visits; write ``table.json`` and ``curves.parquet``.

    Every run is evaluated on the same new patients, at its milestones and its end; the table shows the end.

    Args:
        study: study folder.
        names: registry keys, or ``["all"]``.
        data: files of recorded visits or ``minari:ID``, or environment ids that are simulated once and kept
            in the study.
        patients: simulated per environment id.
        policy: rule that doses them.
        data_seed: seed of the simulated patients.
        env_options: options of the environments.
        families: policy families to cross with every agent that has the choice.
        settings: changes to configurations, see :func:`configurations`.
        preset: named settings, see ``dosing.cli.presets``; whatever is given besides wins over them.
        seeds: trained together in every run.
        training: length and batch size; None takes the preset's.
        data_options: see ``Transform.fit``; they win over the preset's.
        regularise: options of ``dosing.regularisation`` to the values they take in turn; they win over the
            preset's.
        milestones: further updates at which every run is evaluated.
        device: ``auto``, ``cpu`` or ``cuda``.
        evaluation_patients: new patients per seed; None is each scenario's own number.
        workers: see :func:`run_jobs`.
        external: what files of other programs do not say themselves.

    Raises:
        UserError: bad input, a failed or a killed run.
    """
    study, chosen = Path(study), presets.find(preset)
    training = training or TrainingSettings(**chosen.training)
    training.check()
    keep = training.before_end(milestones)
    device_of(device)
    regularised = regularisations(regularise or {}, chosen)
    left_out: dict[str, str] = {}
    configured = configurations(names, families, settings or {}, chosen, regularised, training, left_out)
    files = [
        obtain_data(
            str(source),
            study,
            patients=patients,
            policy=policy,
            seed=data_seed,
            options=dict(env_options or {}),
            external=external,
        )
        for source in data
    ]
    own = {file: evaluable(file).patients for file in files}
    asked = own if evaluation_patients is None else dict.fromkeys(files, evaluation_patients)
    if twice := [file for file in files if [f.stem for f in files].count(file.stem) > 1]:
        raise UserError(f"two data sets are called {twice[0].stem}; their rows could not be told apart.")
    jobs = [
        Job(
            name,
            config,
            file,
            study,
            tuple(seeds),
            training,
            device,
            asked[file],
            keep,
            chosen.data_of(name) | dict(data_options or {}),
            regularisation,
        )
        for file in files
        for name, config in configured
        for regularisation in regularised
    ]
    results = run_jobs(jobs, workers)
    notes = [
        f"{agents.find(job.agent).title} on {job.data.stem} is not in the table: {result}"
        for job, result in zip(jobs, results, strict=True)
        if isinstance(result, TrainingDivergedError)
    ]
    notes += [f"{agents.find(name).title} is left out: {reason}" for name, reason in left_out.items()]
    unknown = [name for name in dict.fromkeys(name for name, _ in configured) if not chosen.knows(name)]
    if preset is not None and unknown:
        notes.append(f"preset {preset} has nothing for {', '.join(unknown)}: their own defaults were used.")
    runs = [result for result in results if isinstance(result, RunFolder)]
    if not runs:
        raise UserError(notes[0])
    rows: list[Row] = []
    rules: list[Row] = []
    for file in files:
        if here := [run for run in runs if run.path.parent.name == file.stem]:
            of_runs, of_rules = evaluate_runs(here, asked[file])
            rows, rules = rows + of_runs, rules + of_rules
            notes += task_notes(here, of_runs)
            if (baseline := of_runs[0].baseline) and baseline.missing:
                notes.append(f"no constant dose is estimated from {file.stem}: {baseline.missing}")
    pairs = _differences(jobs, results, chosen.contrast) if chosen.contrast else []
    found = Comparison((*rows, *rules), tuple(pairs), tuple(notes))
    table = {
        "rows": [row.to_json() for row in found.rows],
        "runs": [os.path.relpath(run.path, study) for run in runs],
        "differences": [dataclasses.asdict(pair) for pair in pairs],
        "notes": notes,
    }
    write_curves(study, runs, keep)
    write_json(study / TABLE, table)
    return found


def _differences(
    jobs: Sequence[Job], results: Sequence[RunFolder | TrainingDivergedError], contrast: presets.Contrast
) -> list[Difference]:
    """Every pair of finished runs that differ in the contrasted setting only: first law minus second."""
    done = {(j.agent, j.data, j.regularisation, j.config): r for j, r in zip(jobs, results, strict=True)}
    pairs: list[tuple[RunFolder, RunFolder]] = []
    for (*same, config), first in done.items():
        law = contrast.of(type(config))
        if law is None or getattr(config, law) != contrast.fields[law][0]:
            continue
        twin = dataclasses.replace(config, **{law: contrast.fields[law][1]})
        second = next((r for (*alike, c), r in done.items() if alike == same and c == twin), None)
        if isinstance(first, RunFolder) and isinstance(second, RunFolder):
            pairs.append((first, second))
    configs = [first.config() for first, _ in pairs]
    return [
        difference(name, contrast.words, config["data"]["name"], *map(_outcomes, pair))
        for name, config, pair in zip(names_of(configs), configs, pairs, strict=True)
    ]


def _outcomes(run: RunFolder) -> dict[str, Outcomes]:
    return read_outcomes(run.path / EPISODES)


def demo(
    study: Path,
    *,
    seeds: Sequence[int],
    steps: int,
    patients: int,
    variant: str,
    device: str,
    evaluation_patients: int = 1000,
) -> Comparison:
    """The main job: simulate a cohort dosed at random, train FtTPO and IQL on it, evaluate both."""
    return compare(
        study,
        ("fttpo", "iql"),
        ("dosing/Treatment-v0",),
        patients=patients,
        env_options={"variant": variant},
        seeds=seeds,
        training=TrainingSettings(steps=steps),
        device=device,
        evaluation_patients=evaluation_patients,
    )
