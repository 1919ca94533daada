"""Jobs of a study on a cluster, through submitit: Slurm, or single processes that outlive the command.

``<study>/jobs/<batch>/`` holds a submission's scripts, jobs and logs as submitit names them, and what each
job came to as ``<key>.json``; ``<study>/jobs/ledger.json`` says which job is which
(:mod:`dosing.studies.ledger`). A job is finished when its run folder is (``DONE`` and its hashes); one that
left the queue without is submitted again. So the command may be stopped and given again at any time, on
another machine too. Jobs carry paths from the study's folder, no absolute ones. Jobs travel to the worker as
pickles; no pickle is ever read back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import submitit
import torch
from submitit.core.utils import FailedJobError
from tqdm import tqdm

from dosing.errors import UserError
from dosing.runs.files import read_json, write_json
from dosing.runs.folder import RunBusyError, RunFolder
from dosing.studies.launch import TRIES, JobLostError
from dosing.studies.ledger import JOBS, Entry, Ledger, only_command
from dosing.training.offline import TrainingDivergedError
from dosing.typed_json import typed

J = TypeVar("J")
R = TypeVar("R")

KINDS = ("local", "slurm")
ARRAY = 1000
"""Jobs of one array: Slurm takes 1,001 unless its administrator allows more."""
MINUTES = 240
"""Time limit of a job unless ``timeout_min`` says another; a job that meets it is queued again."""
PAUSE = 1.0
"""Seconds between two looks at results."""
GRACE = 5.0
"""Seconds in which the result of a job that has left the queue may still appear on a shared file system."""
FORGOTTEN = 600.0
"""Seconds after which a job that the cluster does not know has left the queue."""
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """What a job came to; one of the four.

    Attributes:
        run: the finished run, as a path from the study.
        refused: what it says of bad input, the sentence of its ``UserError``.
        diverged: how training met NaN or infinity.
        value: anything else, as JSON has it.
    """

    run: str = ""
    refused: str = ""
    diverged: str = ""
    value: Any = None


@dataclass(frozen=True)
class Task:
    """A job as it travels: paths are relative to the study, which the worker knows from its own folder."""

    work: Callable[[Any, int], Any]
    job: Any

    @classmethod
    def of(cls, work: Callable[[Any, int], Any], job: Any, study: Path) -> Task:
        """From a job whose paths are those of this machine."""
        base = study.resolve()
        return cls(work, _with_paths(job, lambda path: _relative(path, base)))

    @property
    def key(self) -> str:
        """Name of the job: a hash of all that it is."""
        text = f"{self.work.__module__}.{self.work.__qualname__} {self.job!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __call__(self) -> None:
        """On the worker: one thread, as everywhere; wait where another job still writes the same run."""
        torch.set_num_threads(1)
        batch = Path(os.environ["SUBMITIT_FOLDER"])
        write_json(batch / f"{self.key}.json", dataclasses.asdict(self._done(batch.parents[1])))

    def _done(self, study: Path) -> Outcome:
        job = _with_paths(self.job, lambda path: study / path)
        while True:
            try:
                result = self.work(job, 0)
            except RunBusyError:
                time.sleep(PAUSE)
            except UserError as error:
                return Outcome(refused=str(error))
            else:
                break
        if isinstance(result, RunFolder):
            return Outcome(run=str(result.path.relative_to(study)))
        return (
            Outcome(diverged=str(result))
            if isinstance(result, TrainingDivergedError)
            else Outcome(value=result)
        )

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What is queued again before pre-emption or the time limit; the run's checkpoint is on disk."""
        return submitit.helpers.DelayedSubmission(self)


@functools.lru_cache  # thousands of jobs share a study and a file of visits
def _relative(path: Path, base: Path) -> Path:
    return Path(os.path.relpath(path.resolve(), base))


def _with_paths(job: Any, change: Callable[[Path], Path]) -> Any:
    """The job with the paths among its fields changed."""
    if not dataclasses.is_dataclass(job) or isinstance(job, type):
        return job
    names = [entry.name for entry in dataclasses.fields(job) if isinstance(getattr(job, entry.name), Path)]
    return dataclasses.replace(job, **{name: change(getattr(job, name)) for name in names})


@dataclass(frozen=True)
class Cluster:
    """A :class:`dosing.studies.launch.Launcher` over submitit.

    Raises:
        UserError: there is no Slurm here, or an option that it does not have.
    """

    study: Path
    kind: str = "slurm"
    """``slurm``, or ``local``: processes of this machine that go on when the command is stopped."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """submitit's: ``partition``, ``gpus_per_node``, ``timeout_min``, ``mem_gb``...; ``parallel``: most jobs
    at the same time (on Slurm of each 1,000)."""

    def __post_init__(self) -> None:
        """Check the options."""
        if self.kind not in KINDS:
            raise UserError(f"--cluster must be one of {', '.join(KINDS)}, got {self.kind}.")
        parallel = self.options.get("parallel", 1)
        if not isinstance(parallel, int) or parallel < 1:
            raise UserError(
                f"--cluster-option parallel must be a whole number of at least 1, got {parallel}."
            )
        for name in {"name", "nodes", "tasks_per_node", "array_parallelism"} & set(self.options):
            raise UserError(f"--cluster-option {name}: it is set for you; see parallel.")
        self.executor(self.study / JOBS, "check")

    @property
    def parallel(self) -> int:
        """Most jobs in the queue at the same time; on Slurm the queue takes all."""
        everything = sys.maxsize if self.kind == "slurm" else os.cpu_count() or 1
        return everything if self.kind == "slurm" else int(self.options.get("parallel", everything))

    def executor(self, folder: Path, name: str) -> submitit.AutoExecutor:
        """Of one batch.

        Raises:
            UserError: there is no such cluster or option.
        """
        known = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")
        options = {n if n in known else f"{self.kind}_{n}": v for n, v in self.options.items()}
        parallel = options.pop(f"{self.kind}_parallel", None)
        if parallel is not None and self.kind == "slurm":
            options["slurm_array_parallelism"] = parallel
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.kind)
            executor.update_parameters(**{"timeout_min": MINUTES, "name": name} | options)
        except RuntimeError as error:
            raise UserError("--cluster slurm: this machine has no Slurm commands (srun, sbatch).") from error
        except (NameError, ValueError, AssertionError) as error:
            raise UserError(f"--cluster-option: {str(error).splitlines()[0]}") from error
        return executor

    def map(self, work: Callable[[J, int], R], jobs: Sequence[J]) -> Iterator[R | JobLostError]:
        """See :meth:`dosing.studies.launch.Launcher.map`."""
        tasks = [Task.of(work, job, self.study) for job in jobs]
        with only_command(self.study / JOBS):
            queue = _Queue(self, {task.key: task for task in tasks})
            with _Progress(len(queue.tasks)) as progress:
                for task in tasks:
                    while task.key not in queue.settled:
                        changed = queue.collect() | queue.submit()
                        progress.show(queue.states())
                        if not changed:
                            time.sleep(PAUSE + len(queue.jobs) / 500)
                    yield queue.result(task.key)


class _Queue:
    """The jobs of one call: what is settled, what the cluster has, what waits for submission."""

    def __init__(self, cluster: Cluster, tasks: Mapping[str, Task]) -> None:
        """Find what an earlier command left."""
        self.cluster, self.tasks = cluster, tasks
        self.folder = cluster.study / JOBS
        self.ledger = Ledger(self.folder)
        self.settled: dict[str, Any] = {}
        self.jobs: dict[str, submitit.Job[Any]] = {}
        self.noticed: dict[str, float] = {}
        for batch, keys in self.ledger.begun().items():
            self._find(batch, keys)
        for key in tasks:
            entry = self.ledger.entries.get(key, Entry())
            if entry.run and RunFolder(cluster.study / entry.run).done:
                self.settled[key] = RunFolder(cluster.study / entry.run)
            elif entry.id:
                self.jobs[key] = self._job(entry)

    def _job(self, entry: Entry) -> submitit.Job[Any]:
        kind = submitit.SlurmJob if self.cluster.kind == "slurm" else submitit.LocalJob
        return kind(self.folder / entry.batch, entry.id)

    def _find(self, batch: str, keys: Sequence[str]) -> None:
        """Whether a command that was killed while it submitted this batch had submitted it."""
        number = _number_of(batch) if self.cluster.kind == "slurm" else None
        if number is None:  # on this machine: a process that may have begun holds its run's lock
            for key in keys:
                self.ledger.entries[key].batch = ""
        else:
            ids = [f"{number}_{k}" for k in range(len(keys))] if len(keys) > 1 else [number]
            self.ledger.identify(keys, ids)

    def submit(self) -> bool:
        """Submit what waits, as far as there is room; whether anything was."""
        waiting = [key for key in self.tasks if key not in self.jobs and key not in self.settled]
        keys = waiting[: min(ARRAY, max(0, self.cluster.parallel - len(self.jobs)))]
        if not keys:
            return False
        batch = f"dosing-{secrets.token_hex(6)}"
        executor = self.cluster.executor(self.folder / batch, batch)
        self.ledger.begin(batch, keys)
        try:
            with _one_thread():
                jobs = executor.submit_array([self.tasks[key] for key in keys])
        except (FailedJobError, OSError) as error:
            for key in keys:
                self.ledger.entries[key].batch = ""
            self.ledger.write()
            raise UserError(f"the cluster took no jobs: {str(error).strip() or error!r}") from error
        self.ledger.identify(keys, [job.job_id for job in jobs])
        self.jobs |= dict(zip(keys, jobs, strict=True))
        return True

    def collect(self) -> bool:
        """Settle what has its result, and take back what left the queue without; whether there was any."""
        before = len(self.jobs)
        for key, job in list(self.jobs.items()):
            gone = self._gone(job)
            if self._outcome(key).is_file() and (gone or self.cluster.kind == "slurm"):
                self._settle(key, job)
            elif gone and self._since(f"gone {job.paths.folder} {job.job_id}") > GRACE:
                self._lost(key, job, _last_line(job))
        if len(self.jobs) < before:
            self.ledger.write()
        return len(self.jobs) < before

    def _outcome(self, key: str) -> Path:
        return self.folder / self.ledger.entries[key].batch / f"{key}.json"

    def _settle(self, key: str, job: submitit.Job[Any]) -> None:
        file = self._outcome(key)
        outcome, entry = typed(Outcome, read_json(file), str(file)), self.ledger.entries[key]
        if outcome.run:
            run = RunFolder(self.cluster.study / outcome.run)
            if not run.done:
                return self._lost(key, job, f"it left no finished run in {run.path}")
            run.verify()
            entry.run, self.settled[key] = outcome.run, run
        elif outcome.refused:
            del self.ledger.entries[key]  # the next command asks again
            self.settled[key] = outcome
        else:
            entry.over, diverged = True, outcome.diverged
            self.settled[key] = TrainingDivergedError(diverged) if diverged else outcome.value
        del self.jobs[key]

    def _lost(self, key: str, job: submitit.Job[Any], reason: str) -> None:
        """Have it submitted again, or list it as failed."""
        entry = self.ledger.entries[key]
        entry.lost, entry.batch, entry.id = entry.lost + 1, "", ""
        del self.jobs[key]
        if entry.lost > TRIES:
            del self.ledger.entries[key]
            self.settled[key] = JobLostError(
                f"its job left the queue {TRIES + 1} times without a result (log {job.paths.stderr}: "
                f"{reason}); the same command tries again."
            )

    def result(self, key: str) -> Any:
        """What a job came to; raises UserError where it refused its input."""
        value = self.settled[key]
        if isinstance(value, Outcome):
            raise UserError(value.refused)
        return value

    def _gone(self, job: submitit.Job[Any]) -> bool:
        """Whether it left the queue."""
        if isinstance(job, submitit.SlurmJob):
            if job.watcher.get_state(job.job_id) == "UNKNOWN":
                return self._since(f"unknown {job.paths.folder} {job.job_id}") > FORGOTTEN
            return job.watcher.is_done(job.job_id, "cache")
        return bool(job.done()) and not _controls(job)

    def _since(self, what: str) -> float:
        """Seconds since the first call for this."""
        return time.monotonic() - self.noticed.setdefault(what, time.monotonic())

    def states(self) -> dict[str, int]:
        """Number of jobs that wait, run, are done and have failed."""
        failed = sum(isinstance(value, JobLostError | Outcome) for value in self.settled.values())
        slurm = self.cluster.kind == "slurm"
        told = [job.watcher.get_state(job.job_id, "cache") if slurm else "" for job in self.jobs.values()]
        running = told.count("RUNNING") if slurm else len(told)
        done = len(self.settled) - failed
        waiting = len(self.tasks) - len(self.settled) - running
        return {"waiting": waiting, "running": running, "done": done, "failed": failed}


class _Progress(contextlib.ExitStack):
    """A line per state, that of what is done with rate and remaining time; silent without a terminal."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total
        self.bars: dict[str, Any] = {}

    def show(self, counts: Mapping[str, int]) -> None:
        """Show how many jobs are in each state; the rate counts from the first call."""
        for line, (state, count) in enumerate(counts.items()):
            if state not in self.bars:
                plain = "{desc} {n_fmt}/{total_fmt} |{bar}|" if state != "done" else None
                bar = tqdm(
                    total=self.total, desc=f"{state:>7}", unit=" jobs", initial=count, position=line,
                    bar_format=plain, disable=None, file=sys.stderr,
                )  # fmt: skip
                self.bars[state] = self.enter_context(cast(Any, bar))
            self.bars[state].n = count
            self.bars[state].refresh()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Jobs inherit an environment in which libraries for matrices take one thread."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _number_of(batch: str) -> str | None:
    """Slurm's number of a batch by its name, in the queue or in the accounts; None where it has none."""
    for command in (
        ["squeue", "--noheader", "--format=%F", f"--name={batch}"],
        ["sacct", "--noheader", "-X", "-P", "-o", "JobID", "-S", "now-30days", f"--name={batch}"],
    ):
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        if told:
            return told[0].split("_")[0]
    return None


def _controls(job: submitit.Job[Any]) -> bool:
    """Whether the process that looks after a job on this machine lives, whoever started it."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{job.job_id}/cmdline").read_bytes().split(b"\0")
        return os.fsencode(job.paths.folder) in words
    return False


def _last_line(job: submitit.Job[Any]) -> str:
    """Last line of a job's log, or that there is none."""
    with contextlib.suppress(OSError):
        lines = job.paths.stderr.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "empty")
    return "none was written"
