"""What the file formats of episodes share: a sink that takes rows and appears whole or not at all."""

import contextlib
import fcntl
import glob
import importlib
import json
import os
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from dosing.data.metadata import unchanged
from dosing.data.partial import partial_path
from dosing.errors import UserError

Arrays = dict[str, NDArray[Any]]

NOTHING: Any = None
"""Stands for a writer that is opened with the first rows."""

D4RL = {
    "obs": "observations",
    "act": "actions",
    "reward": "rewards",
    "next_obs": "next_observations",
    "terminated": "terminals",
    "truncated": "timeouts",
    "act_requested": "actions_requested",
    "cost": "costs",
    "behaviour_log_prob": "infos/action_log_probs",
    "episode": "infos/episode",
    "step": "infos/step",
    "limited_by": "infos/limited_by",
}
"""Name of each array in the D4RL layout."""


class Sink(ABC):
    """Takes rows and becomes a file or data set when finished."""

    @abstractmethod
    def append(self, arrays: Arrays) -> None:
        """Write the next rows."""

    @abstractmethod
    def finish(self, metadata: dict[str, Any]) -> None:
        """Store the metadata and make the result visible."""

    @abstractmethod
    def discard(self) -> None:
        """Remove what was written."""


class FileSink(Sink, ABC):
    """A sink that writes to a temporary name beside its target and moves it into place."""

    def __init__(self, path: Path) -> None:
        """Check the folder and choose the temporary name."""
        if not path.parent.is_dir():
            raise UserError(f"{path} cannot be written: the folder {path.parent} does not exist")
        self.path = path
        self.partial = partial_path(path)
        remove_abandoned(path)
        self._remove = weakref.finalize(self, _unlink, self.partial)  # an interruption may come at any moment
        try:
            self.handle = os.open(self.partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        with contextlib.suppress(OSError):  # a file system without locks: then nothing there is abandoned
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it has its name, or is removed

    def replace(self) -> None:
        """Flush the temporary file to the disk and give it its name, then flush the folder."""
        for target, flags in ((self.partial, os.O_RDWR), (self.path.parent, os.O_RDONLY)):
            handle = os.open(target, flags)
            os.fsync(handle)
            os.close(handle)
            if target is self.partial:
                os.replace(self.partial, self.path)
        self._remove.detach()
        self._release()

    def discard(self) -> None:
        """Remove the temporary file."""
        self._remove()
        self._release()

    def _release(self) -> None:
        """Let the temporary file go, once."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def remove_abandoned(path: Path) -> None:
    """Remove temporary files of ``path`` that a killed process left behind: those that nobody holds."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        try:
            with partial.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _unlink(partial)
        except OSError:  # somebody is writing it
            continue


def _unlink(partial: Path) -> None:
    for left in (partial, rows_of(partial)):
        left.unlink(missing_ok=True)


def rows_of(partial: Path) -> Path:
    """Where rows wait while the lines before them are not known."""
    return partial.with_name(partial.name + ".rows")


def need(module: str, purpose: str) -> ModuleType:
    """Import a package that only ``purpose`` needs; raises UserError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"{purpose} needs the package {module.split('.')[0]}, which is not installed"
        ) from None


def load_json(text: str | bytes, path: Path) -> dict[str, Any]:
    """Return the metadata of ``path`` from their JSON text, checked against their hash."""
    return unchanged(json.loads(text), str(path))
