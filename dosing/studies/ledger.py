"""Which job of a study is which of the cluster: one file, written whole, so that any command can go on."""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dosing.errors import UserError
from dosing.runs.files import read_json, write_json
from dosing.typed_json import typed

LEDGER = "ledger.json"
JOBS = "jobs"
"""Folder of a study that holds the ledger and the submissions."""


@dataclass
class Entry:
    """One job of a study."""

    batch: str = ""
    """Folder of the submission that it is in; empty while it waits for one."""
    place: int = 0
    """Its place in the submission."""
    id: str = ""
    """The cluster's number of it; empty as long as that is not known."""
    lost: int = 0
    """How often it left the queue without its result."""
    run: str = ""
    """Its finished run, as a path from the study; empty while there is none."""
    over: bool = False
    """Whether it came to an end without a run: with numbers, or because its training diverged."""


class Ledger:
    """The jobs of a study by their keys, in ``ledger.json`` of its folder ``jobs``.

    A batch is entered before it is submitted, without ids, and with them afterwards: what a command that was
    killed in between had submitted is found by the name of the batch.
    """

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            UserError: the file is damaged.
        """
        self.path = folder / LEDGER
        content = read_json(self.path) if self.path.is_file() else {}
        self.entries: dict[str, Entry] = {
            key: typed(Entry, entry, str(self.path)) for key, entry in content.items()
        }

    def write(self) -> None:
        """Write the file whole."""
        write_json(self.path, {key: asdict(entry) for key, entry in self.entries.items()})

    def begin(self, batch: str, keys: Sequence[str]) -> None:
        """Enter a batch that is about to be submitted."""
        for place, key in enumerate(keys):
            entry = self.entries.setdefault(key, Entry())
            entry.batch, entry.place, entry.id, entry.run, entry.over = batch, place, "", "", False
        self.write()

    def identify(self, keys: Sequence[str], ids: Sequence[str]) -> None:
        """Enter the cluster's numbers of a batch."""
        for key, number in zip(keys, ids, strict=True):
            self.entries[key].id = number
        self.write()

    def begun(self) -> dict[str, list[str]]:
        """Batches of which no number is known, with their jobs in the order of submission."""
        batches: dict[str, list[str]] = {}
        for key, entry in self.entries.items():
            if entry.batch and not entry.id:
                batches.setdefault(entry.batch, []).append(key)
        return {batch: sorted(keys, key=lambda k: self.entries[k].place) for batch, keys in batches.items()}


@contextlib.contextmanager
def only_command(folder: Path) -> Iterator[None]:
    """Hold the folder of a study's jobs; a second command waits, on any machine, until the first has ended.

    Raises:
        UserError: the folder cannot be written, or its file system has no working lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file: Any = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}.") from error
    with file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another command has the jobs of {folder.parent}; this one waits.", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"the file system of {folder} has no working lock ({error.strerror or error}), which keeps a "
                "job from being done twice: put the study on one that has."
            ) from error
        yield
