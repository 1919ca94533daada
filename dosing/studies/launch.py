"""Where and how jobs run: one interface, a pool of local processes behind it, and the device."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from dosing.errors import UserError

J = TypeVar("J")
R = TypeVar("R")

TRIES = 3
"""How often a job whose process was killed is tried again before it counts as lost."""


class JobLostError(UserError):
    """Every process that was to do a job was killed; the other jobs went on."""


class Launcher(Protocol):
    """Runs jobs somewhere. Jobs leave what they make in run folders, so that another launcher may go on."""

    def map(self, work: Callable[[J, int], R], jobs: Sequence[J]) -> Iterator[R | JobLostError]:
        """Yield the result of ``work(job, line of its progress bar)`` for every job, in the jobs' order.

        In place of a job's result comes how it was lost, where its process was killed again and again.

        Args:
            work: a function of a module; jobs and results can be pickled.
            jobs: what to do, independent of each other.

        Raises:
            UserError: a job failed; the same call continues.
        """


@dataclass(frozen=True)
class LocalProcesses:
    """A :class:`Launcher` on this machine: jobs side by side in a pool of processes, one thread each.

    Raises:
        UserError: there is no such device, or less than one worker.
    """

    device: str = "auto"
    """Where the jobs compute: ``auto``, ``cpu`` or ``cuda``."""
    workers: int | None = None
    """Processes; None is one per core on the CPU and one on a GPU. One works in this process."""

    def __post_init__(self) -> None:
        """Check the device and the number."""
        device_of(self.device)
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers must be at least 1, got {self.workers}.")

    def map(self, work: Callable[[J, int], R], jobs: Sequence[J]) -> Iterator[R | JobLostError]:
        """See :meth:`Launcher.map`."""
        workers = self.workers
        if workers is None:
            workers = (os.cpu_count() or 1) if device_of(self.device).type == "cpu" else 1
        workers = min(len(jobs), workers)
        if workers <= 1:
            for job in jobs:
                with _one_thread():
                    result = work(job, 0)
                yield result
            return
        context = multiprocessing.get_context("spawn")
        pool = ProcessPool(
            workers, initializer=_start_worker, initargs=(context.RLock(), work), context=context
        )
        try:
            futures = [_submit(pool, work, job, number % workers) for number, job in enumerate(jobs)]
            for future in futures:
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "workers were killed before they took a job; the same command continues from its checkpoints."
            ) from error
        finally:  # SIGTERM, Ctrl-C or one failed job: do not wait for the others' end
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()


def none_lost(results: Iterable[R | JobLostError]) -> Iterator[R]:
    """The results of jobs of which none may be missing.

    Raises:
        JobLostError: one was lost.
    """
    for result in results:
        if isinstance(result, JobLostError):
            raise result
        yield result


def _submit(
    pool: ProcessPool, work: Callable[[J, int], R], job: J, position: int
) -> Future[R | JobLostError]:
    """Schedule a job, and again where its process was killed, at most :data:`TRIES` times."""
    settled: Future[R | JobLostError] = Future()
    killed = 0

    def schedule() -> None:
        pool.schedule(work, args=(job, position)).add_done_callback(settle)

    def settle(future: Future[R]) -> None:
        nonlocal killed
        if future.cancelled():
            settled.cancel()
        elif not isinstance(error := future.exception(), ProcessExpired):
            settled.set_exception(error) if error else settled.set_result(future.result())
        elif killed < TRIES:
            killed += 1
            schedule()
        else:
            times = f"each of the {TRIES + 1} times it was tried"
            settled.set_result(JobLostError(f"its process was killed {times}; the same command tries again."))

    schedule()
    return settled


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker, so that the number of workers changes no bit of a result."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start_worker(lock: Any, work: Callable[..., Any]) -> None:
    """One torch thread per worker: seeds and runs go side by side, small products do not gain from two.

    ``work`` comes along so that its module is imported by now: a worker says that it has a job only once the
    job is read, and before that its end would be nobody's.
    """
    del work
    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A command that was killed cannot stop its workers; without this they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def device_of(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no usable CUDA device; use --device cpu.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def progress_bar(total: int, text: str, unit: str, position: int) -> tqdm[Any]:
    """Progress with rate and remaining time; silent where the output is not a terminal."""
    return tqdm(total=total, desc=text, unit=f" {unit}s", position=position, disable=None, file=sys.stderr)
