"""The measured processes as the benchmark sees them: started once, asked in turns, ended together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The repository; every process is started here, so that ``benchmarks`` can be imported."""


class AbsentError(RuntimeError):
    """A learner cannot be built here; the message says why."""


class Process:
    """One measured process; see ``benchmarks.speed.protocol`` for what it answers.

    Args:
        python: the interpreter to run it with.
        arguments: module and arguments, as after ``python -m``.

    Raises:
        AbsentError: there is no such interpreter, or the learner could not be built.
    """

    def __init__(self, python: Path, arguments: Sequence[str]) -> None:
        if not python.exists():
            raise AbsentError("its Python environment is not there")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  open as long as the process
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [str(python), "-m", *arguments],
            cwd=ROOT,
            env=os.environ | one_thread,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.about = self.receive()
        if "absent" in self.about:
            self.close()
            raise AbsentError(self.about["absent"])

    def send(self, do: str, **request: Any) -> None:
        """Ask for something without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the answer.

        Raises:
            AbsentError: the process ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["it said nothing"]
            self.close()
            raise AbsentError(f"its process ended: {said[-1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Ask and wait for the answer."""
        self.send(do, **request)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def ours(agent: str, *options: str) -> Process:
    """One of our agents; the options are those of ``benchmarks.speed.ours``."""
    return Process(Path(sys.executable), ["benchmarks.speed.ours", agent, *options])
