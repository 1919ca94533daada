"""Environments by what a person typed: an id, ``module:id``, or a Python file that registers a scenario.

Loading a file or a module runs it. What a person types is loaded; what a data file or a run folder names is
looked up only where it is loaded already or listed in :data:`TRUSTED`, the copy of a scenario's file in a run
folder too: a path and a hash in a folder prove nothing, since whoever made the folder wrote both. Processes
started from now on inherit that list.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium

from dosing.entry_points import told
from dosing.errors import UserError
from simulator.envs import PACKAGED, SCENARIOS, add_scenario, mazes

TRUSTED = "DOSING_ENVIRONMENTS"
"""Environment variable: modules and Python files, separated by commas, that may be loaded because a file
names their environment."""

SUFFIX = ".py"
"""End of the name of a scenario's file."""


@dataclass(frozen=True)
class ScenarioFile:
    """A Python file that registered a scenario, as it was when it was loaded."""

    path: Path
    content: bytes
    env_id: str

    @property
    def sha256(self) -> str:
        """Of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


_FILES: dict[Path, ScenarioFile] = {}


def scenario_id(text: str | Path) -> str:
    """The id of the environment that a person named, loaded here and in processes started from now on.

    Args:
        text: an id, ``package.module:Name-v0``, or a file ending in ``.py``, which is loaded and has to
            register one scenario.

    Raises:
        UserError: there is no such file, it fails, or it registers no scenario, several, or one whose id is
            taken.
    """
    text = str(text)
    if text.endswith(SUFFIX):
        path = Path(text).resolve()
        env_id = _load(path).env_id
        _trust(str(path))
        return env_id
    if module := text.rpartition(":")[0]:
        _trust(module)
    return text


def _trust(name: str) -> None:
    if "," in name:
        raise UserError(f"{name} has a comma in its name, which separates names in {TRUSTED}: rename it.")
    if name not in _trusted():
        os.environ[TRUSTED] = ",".join([*_trusted(), name])


def _trusted() -> list[str]:
    return [name for name in os.environ.get(TRUSTED, "").split(",") if name]


def load_trusted_files() -> None:
    """Load the files among :data:`TRUSTED` that are not loaded yet.

    Raises:
        UserError: one of them cannot be loaded.
    """
    for path in (Path(name) for name in _trusted() if name.endswith(SUFFIX)):
        if path.resolve() not in _FILES:
            _load(path.resolve())


def is_registered(env_id: str) -> bool:
    """Whether gymnasium knows the id, after what is trusted and what packages bring were looked through.

    Raises:
        UserError: a trusted file, or the package that brings the id, cannot be loaded.
    """
    module, _, name = env_id.rpartition(":")
    if name not in gymnasium.registry and not module:
        load_trusted_files()
        _import_packaged(name)
        mazes.register(name)
    try:
        if module and module not in sys.modules:
            if module not in _trusted():
                return False
            importlib.import_module(module)
        gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError):
        return False
    return True


def _import_packaged(env_id: str) -> None:
    """Import the module of an installed package that registers this id, if there is one."""
    if (entry := PACKAGED.get(env_id)) is None:
        return
    try:
        importlib.import_module(entry.module)
    except Exception as error:  # whatever a stranger's package raises
        raise UserError(f"{told(entry)} cannot be loaded: {type(error).__name__}: {error}.") from error
    if env_id not in gymnasium.registry:
        raise UserError(f"{told(entry)} registers no {env_id!r} with gymnasium.")


class _Loader(importlib.abc.SourceLoader):
    """Runs the very bytes that were hashed: no cached byte code, and the file is not read again."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = str(path), content

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        return self._content


def _load(path: Path) -> ScenarioFile:
    """Run a scenario's file, unless it ran with this content; returns what it registered."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the scenario file {path}: {error.strerror or error}.") from error
    before = _FILES.get(path)
    if before is not None and before.content == content:
        return before
    if (same := next((file for file in _FILES.values() if file.content == content), None)) is not None:
        return same  # a copy, as in a run folder
    with _registering(path, before) as new:
        _run(path, content)
        found = new()
        if len(found) != 1:
            what = f"several: {', '.join(found)}" if found else "none"
            raise UserError(
                f"{path} has to register one scenario with gymnasium.register, or define one, under an id "
                f"that is not taken; it registers {what}."
            )
    _FILES[path] = ScenarioFile(path, content, found[0])
    return _FILES[path]


def _run(path: Path, content: bytes) -> None:
    """Run a file under a module name of its own, and add the scenarios of our simulator that it defines."""
    name = f"dosing_scenario_{hashlib.sha256(content).hexdigest()[:16]}"
    loader = _Loader(path, content)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # for dataclasses
    try:
        loader.exec_module(module)
        for scenario in _scenarios_of(module):
            add_scenario(scenario.env_id, f"{name}:{scenario.__name__}")
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"the scenario file {path} fails: {type(error).__name__}: {error}.") from error


@contextmanager
def _registering(path: Path, before: ScenarioFile | None) -> Iterator[Any]:
    """Watch the registries while a file runs, and put them back if it fails.

    Args:
        path: the file.
        before: what the same file registered with another content, which makes place.
    """
    registries: tuple[dict[str, Any], ...] = (gymnasium.registry, SCENARIOS)
    kept = [dict(registry) for registry in registries]
    if before is not None:
        gymnasium.registry.pop(before.env_id, None)
        SCENARIOS.pop(before.env_id, None)
    start = dict(gymnasium.registry)

    def new() -> list[str]:
        return [env_id for env_id, spec in gymnasium.registry.items() if start.get(env_id) is not spec]

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Overriding environment")  # refused below
            yield new
        if taken := [env_id for env_id in new() if env_id in start]:
            raise UserError(f"{path} registers {taken[0]!r}, which is taken: give the scenario another id.")
    except BaseException:
        for registry, content in zip(registries, kept, strict=True):
            registry.clear()
            registry.update(content)
        raise


def _scenarios_of(module: Any) -> list[Any]:
    """Scenarios of our batched simulator that a file defines itself."""
    from simulator.engine.scenario import Scenario

    return [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Scenario) and not inspect.isabstract(kind)
        if kind.__module__ == module.__name__
    ]


def file_ids() -> list[str]:
    """Ids of the scenarios of files that are loaded."""
    return [file.env_id for file in _FILES.values()]


def file_of(env_id: str) -> ScenarioFile | None:
    """The file that registered an environment; None where it is none of a file."""
    return next((file for file in _FILES.values() if file.env_id == env_id), None)


def stamped(env_id: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """A card, for a scenario of a file with the file's path and hash; the version then names the content."""
    if (file := file_of(env_id)) is None:
        return dict(card)
    here = Path.cwd()
    shown = file.path.relative_to(here) if file.path.is_relative_to(here) else file.path
    return {
        **card,
        "id": env_id,
        "version": f"{card.get('version', 0)}+{file.sha256[:12]}",
        "file": {"path": str(shown), "sha256": file.sha256},
    }
