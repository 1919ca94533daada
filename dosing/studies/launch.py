"""Where and how jobs run: one interface, a pool of local processes behind it, and the device."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from tqdm import tqdm

from dosing.errors import UserError

J = TypeVar("J")
R = TypeVar("R")


class Launcher(Protocol):
    """Runs jobs somewhere. Jobs leave what they make in run folders, so that another launcher may go on."""

    def map(self, work: Callable[[J, int], R], jobs: Sequence[J]) -> Iterator[R]:
        """Yield the result of ``work(job, line of its progress bar)`` for every job, in the jobs' order.

        Args:
            work: a function of a module; jobs and results can be pickled.
            jobs: what to do, independent of each other.

        Raises:
            UserError: a job failed or its process was killed; the same call continues.
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

    def map(self, work: Callable[[J, int], R], jobs: Sequence[J]) -> Iterator[R]:
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
        with ProcessPoolExecutor(workers, context, _start_worker, (context.RLock(),)) as pool:
            try:
                futures = [pool.submit(work, job, number % workers) for number, job in enumerate(jobs)]
                for future in futures:
                    yield future.result()
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
