"""The index of a study: what its table rests on, so that a finished study opens again without being read.

``index.json`` holds a hash of what was asked, and of every run, data set and rule that the answer in
``table.json`` rests on one of the names, sizes and times of its files. Where all of them still hold, the same
command has the same answer. Where anything differs, or index or table are damaged, everything is read and
checked as if there were no index; it is derived, and may be removed at any time. The truth stays in the run
folders, ``DONE`` and its hashes: whoever loads a policy checks them, whatever the index says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import agents
import dosing
import simulator
from dosing.errors import UserError
from dosing.runs.files import json_of, read_bytes, read_json, write_json
from dosing.studies.compared import Comparison
from dosing.studies.data import obtain_data
from dosing.studies.naming import CURVES, TABLE
from dosing.studies.scenarios import evaluable
from dosing.studies.settings import DataSource

INDEX = "index.json"
CODE = tuple(Path(str(package.__file__)).parent for package in (dosing, agents, simulator))
"""What computes a table: an index of other code is not used."""


def stamp(path: Path | str) -> str:
    """A hash of names, sizes and times of a file, or of all files in a folder; contents are not read.

    The time at which the inode was last changed is among them, which no program can set back. Hidden files
    (locks, what is being written) and Python's caches do not count.
    """
    return hashlib.sha256("\n".join(_entries(os.fspath(path))).encode()).hexdigest()[:16]


def _entries(path: str) -> list[str]:
    lines: list[str] = []
    try:
        with os.scandir(path) as found:
            for entry in found:
                if entry.name.startswith((".", "__pycache__")):
                    continue
                if entry.is_dir():
                    lines += [f"{entry.name}/{line}" for line in _entries(entry.path)]
                else:
                    lines.append(_told(entry.name, entry.stat()))
    except FileNotFoundError:
        return ["missing"]
    except NotADirectoryError:
        return [_told("", os.stat(path))]
    return sorted(lines)


def _told(name: str, stat: os.stat_result) -> str:
    return f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def question(*parts: Any) -> str:
    """A hash of everything that a command asks for, and of the code that answers."""
    return hashlib.sha256(json.dumps([*parts, *map(stamp, CODE)], default=_fields).encode()).hexdigest()


def _fields(part: Any) -> Any:
    """What JSON does not know: fields of a dataclass, numbers of an array, else the object's words."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return part.tolist() if isinstance(part, np.ndarray) else repr(part)


def reopened(study: Path, asked: str, sources: Sequence[DataSource]) -> Comparison | None:
    """The answer that the study has to a question; None where all has to be read.

    Args:
        study: study folder.
        asked: of :func:`question`.
        sources: of recorded visits; what they name is looked up, and not simulated unless it has gone.

    Raises:
        UserError: the visits are not what they should be, or of another version of their scenario.
    """
    try:
        index = read_json(study / INDEX)
        content = read_bytes(study / TABLE)
        with _all_kept():
            table = json_of(content, study / TABLE)
    except UserError:
        return None
    if index.get("asked") != asked or index.get("table") != hashlib.sha256(content).hexdigest():
        return None
    files = [obtain_data(source, study) for source in sources]
    for file in files:
        evaluable(file)
    if index.get("files") != _rests_on(study, files, table["runs"]):
        return None
    with _all_kept():
        return Comparison.from_json(table)


@contextlib.contextmanager
def _all_kept() -> Iterator[None]:
    """Spare Python the search for garbage where a hundred thousand objects are made and none is garbage."""
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searched:
            gc.enable()


def write_index(study: Path, asked: str, files: Sequence[Path]) -> None:
    """Enter the table that was just written as the answer to a question.

    Args:
        study: study folder.
        asked: of :func:`question`.
        files: of recorded visits.
    """
    content = read_bytes(study / TABLE)
    runs = json_of(content, study / TABLE)["runs"]
    table, rests_on = hashlib.sha256(content).hexdigest(), _rests_on(study, files, runs)
    write_json(study / INDEX, {"asked": asked, "table": table, "files": rests_on})


def _rests_on(study: Path, files: Sequence[Path], runs: Sequence[str]) -> str:
    """A hash of the stamps of all that a table was made from, and of the curves beside it."""
    where = [*files, study / "references", study / CURVES]
    base = os.fspath(study)
    told = [*map(stamp, where), *(f"{run} {stamp(os.path.join(base, run))}" for run in runs)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
