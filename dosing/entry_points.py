"""What installed packages bring: their entry points in the groups ``dosing.agents`` and ``dosing.scenarios``.

An entry point that cannot be used is left out with one warning that names the package and the entry. To find
that out the module itself is not imported; of ``a.b`` the package ``a`` is.
"""

from __future__ import annotations

import ast
import importlib.util
import multiprocessing
import warnings
from collections.abc import Container, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

AGENTS, SCENARIOS = "dosing.agents", "dosing.scenarios"
"""Groups of entry points."""


def usable(group: str, taken: Container[str]) -> Iterator[EntryPoint]:
    """Entry points of a group whose name is free and whose module can be found.

    Args:
        group: of the entry points.
        taken: names that are in use; the caller adds what it takes.
    """
    for entry in entry_points(group=group):
        if entry.name in taken:
            leave_out(entry, "that name is taken")
        elif reason := _amiss(entry):
            leave_out(entry, reason)
        else:
            yield entry


def _amiss(entry: EntryPoint) -> str | None:
    """Why the module of an entry point cannot be found; None where it can."""
    try:
        spec = importlib.util.find_spec(entry.module)  # imports the packages above it
    except Exception as error:  # whatever a stranger's package raises
        return f"{type(error).__name__}: {error}"
    return None if spec is not None else f"there is no module {entry.module!r}"


def told(entry: EntryPoint) -> str:
    """Package and entry point, in words."""
    package = entry.dist.name if entry.dist else "an installed package"
    return f"the entry point '{entry.name} = {entry.value}' ({entry.group}) of {package}"


def leave_out(entry: EntryPoint, reason: str) -> None:
    """Warn that an entry point is left out, once and not again in every process."""
    if multiprocessing.parent_process() is None:
        warnings.warn(f"{told(entry)} is left out: {reason}.", stacklevel=3)


def syntax_of(module: str) -> ast.Module:
    """The text of a module as a tree; empty where it has no text. The module is not imported."""
    spec = importlib.util.find_spec(module)
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else "")
