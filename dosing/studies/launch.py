"""Where and how jobs run: the device, and a pool of local processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from dosing.errors import UserError

J = TypeVar("J")


R = TypeVar("R")


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
