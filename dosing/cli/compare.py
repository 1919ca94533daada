"""Several runs at once: the demo, and comparisons of agents and policy families on the same data.

Runs go side by side in a pool of processes with one torch thread each; the seeds of a run go together inside
it. Every run is a folder named by what decides its result, so the same command continues where a killed one
stopped: finished runs are found, a run in flight goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import agents
from dosing.cli.studies import TABLE, device_of, evaluate_run, evaluate_runs, obtain_data, train_run
from dosing.comparison import Row
from dosing.errors import UserError
from dosing.runs import RunFolder, write_json
from dosing.training import TrainingSettings


@dataclass(frozen=True)
class Job:
    """One stack of seeds to train on one data file and to evaluate."""

    agent: str
    config: Any
    data: Path
    study: Path
    seeds: tuple[int, ...]
    settings: TrainingSettings
    device: str
    evaluation_patients: int


def run_jobs(jobs: Sequence[Job], workers: int | None = None) -> list[RunFolder]:
    """Train and evaluate every job; returns the finished runs in the order of the jobs.

    Args:
        jobs: what to do.
        workers: processes; None is one per core on the CPU and one on a GPU.

    Raises:
        UserError: a job failed, or a worker was killed; the same call continues.
    """
    if workers is None:
        workers = (os.cpu_count() or 1) if device_of(jobs[0].device).type == "cpu" else 1
    workers = min(len(jobs), workers)
    if workers == 1:
        return [_work(job, 0) for job in jobs]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (context.RLock(),)) as pool:
        try:
            futures = [pool.submit(_work, job, number % workers) for number, job in enumerate(jobs)]
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise UserError(
                "a worker was killed; the same command continues from its checkpoints."
            ) from error
        except BaseException:  # SIGTERM, Ctrl-C or one failed job: do not wait for the others' end
            for child in multiprocessing.active_children():
                child.terminate()
            raise


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


def _work(job: Job, position: int) -> RunFolder:
    run = train_run(
        job.agent,
        job.config,
        job.data,
        job.study,
        job.seeds,
        job.settings,
        job.device,
        position=position,
    )
    evaluate_run(run, job.evaluation_patients, position=position)
    return run


def configurations(
    names: Sequence[str], families: Sequence[str], settings: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    """Agents and their configurations, one per policy family where the agent has a choice.

    Args:
        names: registry keys, or ``["all"]``.
        families: policy families; empty keeps each agent's own.
        settings: ``agent.field`` or ``field`` (for every agent that has it) to value.

    Raises:
        UserError: unknown agent, family or field, or a family that no chosen agent can carry.
    """
    names = list(agents.AGENTS) if list(names) == ["all"] else names
    found: list[tuple[str, Any]] = []
    used: set[str] = set()
    for name in names:
        config_class = agents.find(name).config_class()
        fields = {field.name for field in dataclasses.fields(config_class)}
        values: dict[str, Any] = {}
        for key, value in settings.items():
            agent, _, field = key.rpartition(".")
            if agent in ("", name) and field in fields:
                values[field] = tuple(value) if isinstance(value, list) else value
                used.add(key)
        if families and "policy_family" in fields:
            found += [(name, config_class(**values | {"policy_family": family})) for family in families]
        else:
            found.append((name, config_class(**values)))
    unused = [key for key in settings if key not in used]
    if unused:
        raise UserError(f"none of the chosen agents has the setting {unused[0]!r}.")
    return found


def compare(
    study: Path,
    names: Sequence[str],
    data: Path,
    *,
    families: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    seeds: Sequence[int],
    training: TrainingSettings,
    device: str = "auto",
    evaluation_patients: int = 1000,
    workers: int | None = None,
) -> list[Row]:
    """Train and evaluate agents on the same visits; writes ``table.json`` in the study and returns its rows.

    Args:
        study: study folder.
        names: registry keys, or ``["all"]``.
        data: file of recorded visits.
        families: policy families to cross with every agent that has the choice.
        settings: changes to configurations, see :func:`configurations`.
        seeds: trained together in every run.
        training: length and batch size.
        device: ``auto``, ``cpu`` or ``cuda``.
        evaluation_patients: new patients per seed.
        workers: see :func:`run_jobs`.

    Raises:
        UserError: bad input, a failed or a killed run.
    """
    training.check()
    jobs = [
        Job(name, config, data, study, tuple(seeds), training, device, evaluation_patients)
        for name, config in configurations(names, families, settings or {})
    ]
    runs = run_jobs(jobs, workers)
    rows = evaluate_runs(runs, evaluation_patients)
    table = {"rows": [row.to_json() for row in rows], "runs": [os.path.relpath(r.path, study) for r in runs]}
    write_json(study / TABLE, table)
    return rows


def demo(
    study: Path,
    *,
    seeds: Sequence[int],
    steps: int,
    patients: int,
    variant: str,
    device: str,
    evaluation_patients: int = 1000,
) -> list[Row]:
    """The main job: simulate a cohort dosed at random, train FtTPO and IQL on it, evaluate both."""
    training = TrainingSettings(steps=steps)
    training.check()
    device_of(device)
    data = obtain_data(
        "dosing/Treatment-v0",
        study,
        patients=patients,
        policy="uniform",
        seed=0,
        options={"variant": variant},
    )
    return compare(
        study,
        ("fttpo", "iql"),
        data,
        seeds=seeds,
        training=training,
        device=device,
        evaluation_patients=evaluation_patients,
    )
